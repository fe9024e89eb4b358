"""Stored records brought up to a declaration while others write: each by its revision, in chunks, from a stored position."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeAlias

from pydantic import TypeAdapter

from palaver.codec import EntityCodec
from palaver.declared import FieldSpec, shadow_values, shard_of
from palaver.errors import Conflict, Trimmed
from palaver.expr import Path
from palaver.following import HELD_BACK_S, held_back, settled
from palaver.known_keys import before_ops
from palaver.markers import Backfill
from palaver.ops import (
    REVISION,
    Address,
    Cause,
    Change_,
    Guard,
    Op,
    Origin,
    Refused,
    Remove,
    Set,
    Unchanged,
    Update,
    WriteSet,
    revision_of,
)
from palaver.ports import RecordEngine
from palaver.sealing import Sealer
from palaver.system import key_from_plain, plain_key
from palaver.values import KeyPart, Record, Value

CHUNK = 200
AT_ONCE = 40
CHANGES = 500
ATTEMPTS = 20
MIGRATE = Cause("migrate")

Visit: TypeAlias = "Callable[[Sequence[Address], list[Record | None]], Awaitable[None]]"
Keep: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
"""Stores how far an action is, so that another process can go on from there."""


def computed(codec: EntityCodec, record: Record) -> Record:
    """Return the shadow columns of a record as its declaration computes them."""
    declared = codec.declared
    if not (declared.shadows or declared.sharded):
        return {}
    out: Record = dict(shadow_values(declared, codec.decode_sealed({REVISION: 0, **record})))
    key: Any = tuple(record[name] for name in declared.table.key)
    for path in declared.sharded:
        out[path.shard_column] = shard_of(key, path.shards)
    return out


class Filler:
    """Gives records of one entity the columns they lack."""

    def __init__(self, codec: EntityCodec, columns: Sequence[str]) -> None:
        self._codec = codec
        declared = codec.declared
        self._defaults = [(spec, _adapter(spec)) for name in columns if (spec := declared.by_stored.get(name)) is not None]
        self._computed = [name for name in columns if name not in declared.by_stored]

    def changes(self, record: Record) -> list[Change_]:
        """Return what has to change in a record; nothing where it was done, or was written by the new declaration."""
        after: Record = dict(record)
        out: list[Change_] = []
        for spec, adapter in self._defaults:
            if record.get(spec.stored) is None and (value := _filling(spec, adapter)) is not None:
                if spec.secret:
                    value = self._codec.sealed(spec, value, record)
                after[spec.stored] = value
                out.append(Set(Path(spec.stored), value))
        shadows = computed(self._codec, after) if self._computed else {}
        for name in self._computed:
            wanted = shadows.get(name)
            if wanted is None and name in record:
                out.append(Remove(Path(name)))
            elif wanted is not None and record.get(name) != wanted:
                out.append(Set(Path(name), wanted))
        return out


def _adapter(spec: FieldSpec) -> TypeAdapter[Any]:
    annotation: Any = Annotated[(spec.annotation, *spec.markers)] if spec.markers else spec.annotation
    return TypeAdapter(annotation)


def _filling(spec: FieldSpec, adapter: TypeAdapter[Any]) -> Value:
    """Return the stored form of what a record without the field gets; None for nothing."""
    marker: Backfill | None = spec.marker(Backfill)
    given = marker.value if marker is not None else spec.default() if spec.default is not None else None
    if given is None:
        return None
    value = adapter.validate_python(given)
    kind = spec.kind.sealed or spec.kind
    stored: Value = value if kind.encode is None or value is None else kind.encode(value)
    # No engine stores an empty set; its absence says that it is empty.
    return None if stored == frozenset() else stored


class Sweep:
    """Visits every record of a table once, then those that were changed meanwhile, until nothing is left."""

    def __init__(self, records: RecordEngine, table: str, key: tuple[str, ...], tell: Callable[[str, int], None]) -> None:
        self._records, self._table, self._key, self._tell = records, table, key, tell

    async def run(
        self, words: str, state: dict[str, Any], keep: Keep, visit: Callable[[Sequence[Address], list[Record | None]], Any]
    ) -> None:
        """Visit from where `state` says; what `visit` does is done again for some records after a crash."""
        if "feed" not in state:
            state = {"after": None, "feed": await settled(self._records), "scanned": False}
            await keep(state)
        while not state["scanned"]:
            after: tuple[KeyPart, ...] | None = None if state["after"] is None else key_from_plain(state["after"])
            page = await self._records.scan(self._table, after=after, limit=CHUNK)
            addresses = [Address(self._table, tuple(record[name] for name in self._key)) for record in page.records]  # type: ignore[misc]
            await visit(addresses, list(page.records))
            self._tell(words, len(addresses))
            state = {**state, "after": None if page.last is None else plain_key(page.last), "scanned": page.last is None}
            await keep(state)
        await self._catch_up(words, state, keep, visit)

    async def _catch_up(self, words: str, state: dict[str, Any], keep: Keep, visit: Visit) -> None:
        loop, head = asyncio.get_running_loop(), (await self._records.changes(None, 0)).head
        until = loop.time() + HELD_BACK_S
        while True:
            try:
                page = await self._records.changes(state["feed"], CHANGES)
            except Trimmed:
                # The feed no longer reaches back to the beginning of the scan, so that is done again.
                await keep({})
                return await self.run(words, {}, keep, visit)
            addresses = list(dict.fromkeys(Address(each.table, each.key) for each in page.changes if each.table == self._table))
            for start in range(0, len(addresses), CHUNK):
                some = addresses[start : start + CHUNK]
                await visit(some, await self._records.get(some))
            state = {**state, "feed": page.last}
            await keep(state)
            if not page.changes and page.last >= head:
                return None
            # A transaction that still runs may have written what the scan was too early for.
            if not page.changes and loop.time() > until:
                raise held_back()


async def fill(
    records: RecordEngine,
    now_us: Callable[[], int],
    codec: EntityCodec,
    columns: Sequence[str],
    state: dict[str, Any],
    keep: Keep,
    tell: Callable[[str, int], None],
) -> None:
    """Fill the columns of every record of an entity; each update is guarded by the revision it was computed from."""
    filler = Filler(codec, columns)
    table = codec.declared.table

    async def visit(addresses: Sequence[Address], found: list[Record | None]) -> None:
        todo = dict(zip(addresses, found, strict=True))
        for _ in range(ATTEMPTS):
            ops = [
                Update(at, tuple(changes), (Guard(Unchanged(revision_of(record)), Origin(0, "fill")),))
                for at, record in todo.items()
                if record is not None and (changes := filler.changes(record))
            ]
            lost = [
                at
                for start in range(0, len(ops), AT_ONCE)
                for at in await write_unmoved(records, ops[start : start + AT_ONCE], now_us(), codec.sealer)
            ]
            if not lost:
                return
            todo = dict(zip(lost, await records.get(lost), strict=True))
        raise Conflict(f"Other writers kept changing records of {table.name} while they were filled.", hint="Apply the migration again.")

    await Sweep(records, table.name, table.key, tell).run(f"fill {table.name}", state, keep, visit)


async def write_unmoved(
    records: RecordEngine, ops: Sequence[Op], now_us: int, sealer: Sealer | None, cause: Cause = MIGRATE
) -> list[Address]:
    """Write the ops whose records are as they were seen; return the addresses of the others."""
    await before_ops(records, now_us, sealer, ops)
    lost: list[Address] = []
    while ops:
        result = await records.write(WriteSet(ops, now_us, cause))
        if not isinstance(result, Refused):
            return lost
        moved = {failure.op for failure in result.failures}
        lost += [op.at for number, op in enumerate(ops) if number in moved]
        ops = [op for number, op in enumerate(ops) if number not in moved]
    return lost
