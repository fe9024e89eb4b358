"""Stored values sealed, opened, or sealed for their new place: page by page, each record by its revision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from palaver.errors import Conflict, Unsealable
from palaver.evolve.actions import Seal
from palaver.expr import Path
from palaver.migrating.filling import AT_ONCE, ATTEMPTS, CHUNK, Keep, write_unmoved
from palaver.ops import Address, Guard, Op, Origin, RecordPage, Set, Table, Unchanged, Update, position, revision_of
from palaver.plan import Planner
from palaver.ports import RecordEngine, ScansAs
from palaver.sealing import key_id, place
from palaver.system import HISTORY, key_from_plain, plain_key
from palaver.values import KeyPart, Record


class Conversion:
    """One column of one table, whose values a schema wants sealed otherwise than they are. Doing it again changes nothing."""

    def __init__(
        self, records: RecordEngine, now_us: Callable[[], int], planner: Planner, action: Seal, tell: Callable[[str, int], None]
    ) -> None:
        self._records, self._now_us, self._action, self._tell = records, now_us, action, tell
        self._table = planner.schema.tables[action.table].table
        self._codec = planner.codec(planner.schema.tables[action.table].entity)
        self._spec = self._codec.declared.by_stored[action.column]
        self._what = f"{self._codec.name}.{self._spec.name}"
        self._scanned = f"{action.table}{HISTORY}" if action.images else action.table

    async def run(self, state: dict[str, Any], keep: Keep) -> None:
        """Convert from where `state` says. What is written meanwhile is written by the new declaration, and needs nothing."""
        stored = next(table for table in (await self._records.describe()).tables if table.name == self._scanned)
        while not state.get("done"):
            after = key_from_plain(state["after"]) if "after" in state else None
            page = await self._convert(stored, after)
            self._tell(self._action.words, len(page.records))
            state = {"done": True} if page.last is None else {"after": plain_key(page.last)}
            await keep(state)

    async def _convert(self, stored: Table, after: tuple[KeyPart, ...] | None) -> RecordPage:
        for _ in range(ATTEMPTS):
            page = await self._page(stored, after)
            ops = [op for record in page.records for op in self._ops(record)]
            lost = [
                at
                for start in range(0, len(ops), AT_ONCE)
                for at in await write_unmoved(self._records, ops[start : start + AT_ONCE], self._now_us(), self._codec.sealer)
            ]
            if not lost:
                return page
        raise Conflict(f"Other writers kept changing records of {stored.name}.", hint="Apply the migration again.")

    async def _page(self, stored: Table, after: tuple[KeyPart, ...] | None) -> RecordPage:
        # The column that was put aside is in no declaration.
        if isinstance(self._records, ScansAs):
            return await self._records.scan_as(stored, after=after, limit=CHUNK)
        return await self._records.scan(stored.name, after=after, limit=CHUNK)

    def _ops(self, record: Record) -> list[Op]:
        value: Any
        if self._action.images:
            image: Any = record.get("image")
            value = None if image is None else self._image(image)
            at: tuple[KeyPart, ...] = (str(record["record_key"]), int(record["revision"]))  # type: ignore[arg-type]
            change = Set(Path("image"), {**(image or {}), self._action.column: value})
        else:
            at = position(self._table, None, record)
            value = self._converted(record, at)
            change = Set(Path(self._action.column), value)
        if value is None:
            return []
        return [Update(Address(self._scanned, at), (change,), (Guard(Unchanged(revision_of(record)), Origin(0, "fill")),))]

    def _image(self, image: Record) -> Any:
        """Return what an image is to hold. Its value has no other name meanwhile, so whether it is done shows in the value alone."""
        stored = image.get(self._action.column)
        if stored is None:
            return None
        key = position(self._table, None, image)
        opens = self._opens(stored, place(self._action.was_table, key, self._action.was_column))
        return None if opens == (self._action.how == "seal") and self._action.how != "move" else self._converted(image, key, stored=stored)

    def _opens(self, value: Any, at: bytes) -> bool:
        """Say whether a value is sealed for a place. Raises Unsealable for one that is sealed and cannot be opened."""
        if not isinstance(value, bytes):
            return False
        sealer = self._codec.keys(self._spec)
        try:
            sealer.open(value, at, self._what)
        except Unsealable:
            if key_id(value) in sealer.ids and self._action.how == "open":
                raise
            return False
        return True

    def _converted(self, record: Record, key: tuple[KeyPart, ...], *, stored: Any = None) -> Any:
        """Return what the column is to hold; None where it does. `stored` is what an image holds."""
        action, source = self._action, record.get(self._action.source)
        if source is None or (stored is None and action.how != "move" and record.get(action.column) is not None):
            return None
        if action.how == "seal":
            return self._codec.sealed(self._spec, source, record)
        was = place(action.was_table, key, action.was_column)
        sealer = self._codec.keys(self._spec)
        if action.how == "open":
            return sealer.open(source, was, self._what)
        now = place(self._table.name, key, action.column)
        try:
            sealer.open(source, now, self._what)
        except Unsealable:
            return sealer.resealed(source, was, self._what, now)
        return None
