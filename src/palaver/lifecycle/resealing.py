"""Rotating keys: every secret under the key that seals now, in batches, each record by its revision, resumable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from palaver.clock import us_of
from palaver.declared import Declared
from palaver.errors import ConfigError, Conflict, Unsealable
from palaver.expr import Path
from palaver.known_keys import KNOWN, ids_of, write_known
from palaver.migrating.filling import AT_ONCE, ATTEMPTS, Sweep, write_unmoved
from palaver.ops import Address, Cause, Guard, Op, Origin, Put, Set, Table, Unchanged, Update, WriteSet, revision_of
from palaver.sealing import Sealer, key_id, place_of
from palaver.store import Store
from palaver.system import history_table, system
from palaver.values import KeyPart, Record

ROTATION = system("key", "rotation")
PAGE = 500
ROTATE = Cause("rotate")


@dataclass(frozen=True)
class Rotated:
    """What one rotation did: secrets sealed anew, those that no key here opens, and the keys something is still sealed with."""

    resealed: int = 0
    unsealable: int = 0
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Place:
    """A table whose records hold secrets of an entity, in themselves or in the image they keep."""

    declared: Declared
    table: Table
    images: bool

    def held(self, record: Record) -> Mapping[str, Any]:
        """Return what holds the secrets: the record, or the image in it."""
        image: Any = record.get("image") if self.images else record
        return image or {}

    def sealed(self, record: Record) -> Iterator[tuple[str, str, Any]]:
        """Yield the name, the column and the sealed form of each secret that has a value."""
        held = self.held(record)
        for spec in self.declared.secrets:
            if held.get(spec.stored) is not None:
                yield f"{self.declared.name}.{spec.name}", spec.stored, held[spec.stored]


async def sealed_with(store: Store) -> dict[str, Counter[str]]:
    """Return how many values of each secret field are sealed with which key, images of history included; reads every record.

    Whatever is stored where a sealed value should be counts under "none".
    """
    found: dict[str, Counter[str]] = {}
    for place in _places(store):
        after: tuple[KeyPart, ...] | None = None
        while True:
            page = await store.core.records.scan(place.table.name, after=after, limit=PAGE)
            for record in page.records:
                for name, _, sealed in place.sealed(record):
                    found.setdefault(name, Counter())[key_id(sealed) or "none"] += 1
            after = page.last
            if after is None:
                break
    return found


async def rotate(store: Store, tell: Callable[[str, int], None] = lambda words, records: None) -> Rotated:
    """Seal every secret of all tenants with the first key, and forget the keys nothing is sealed with any more.

    Every process must have the new key first: add it behind the old one everywhere, then put it in front, then rotate, then
    take the old one away. A rotation that was cut off goes on where it was. What cannot be opened stays as it is and is counted.
    Raises Conflict where others kept changing a record, ConfigError where the schema has no secret fields.
    """
    sealer = store.core.planner.sealer
    if sealer is None:
        raise ConfigError(f"Schema {store.schema.name} has no secret fields, or there is no key.", hint="Mark a field Secret().")
    rotation = _Rotation(store, sealer, tell)
    return await rotation.run()


@dataclass
class _Rotation:
    store: Store
    sealer: Sealer
    tell: Callable[[str, int], None]
    resealed: int = 0
    unsealable: int = 0
    done: list[str] = field(default_factory=list)

    async def run(self) -> Rotated:
        records = self.store.core.records
        stored: Any = ((await records.get((ROTATION,)))[0] or {}).get("body") or {}
        under_way = stored if stored.get("to") == self.sealer.first else {}
        self.done = list(under_way.get("done", ()))
        for place in _places(self.store):
            if place.table.name not in self.done:
                await self._table(place, under_way["state"] if under_way.get("table") == place.table.name else {})
                self.done.append(place.table.name)
        left = await self._forget()
        await records.write(WriteSet((Put(ROTATION, _rotation({})),), us_of(self.store.clock)))
        return Rotated(self.resealed, self.unsealable, tuple(left))

    async def _table(self, place: _Place, state: dict[str, Any]) -> None:
        async def keep(now: dict[str, Any]) -> None:
            body = {"to": self.sealer.first, "done": self.done, "table": place.table.name, "state": now}
            await self.store.core.records.write(WriteSet((Put(ROTATION, _rotation(body)),), us_of(self.store.clock)))

        async def visit(addresses: Sequence[Address], found: list[Record | None]) -> None:
            await self._visit(place, dict(zip(addresses, found, strict=True)))

        sweep = Sweep(self.store.core.records, place.table.name, place.table.key, self.tell)
        await sweep.run(f"seal {place.declared.name}", state, keep, visit)

    async def _visit(self, place: _Place, todo: dict[Address, Record | None]) -> None:
        records = self.store.core.records
        for _ in range(ATTEMPTS):
            ops = [op for at, record in todo.items() if record is not None for op in self._op(place, at, record)]
            lost: list[Address] = []
            for start in range(0, len(ops), AT_ONCE):
                some = ops[start : start + AT_ONCE]
                moved = await write_unmoved(records, some, self.store.core.now_us(), self.sealer, ROTATE)
                self.resealed += len(some) - len(moved)
                lost += moved
            if not lost:
                return
            todo = dict(zip(lost, await records.get(lost), strict=True))
        raise Conflict(f"Other writers kept changing records of {place.table.name}.", hint="Rotate again.")

    def _op(self, place: _Place, at: Address, record: Record) -> list[Op]:
        changed: dict[str, bytes] = {}
        for name, column, sealed in place.sealed(record):
            if key_id(sealed) == self.sealer.first:
                continue
            try:
                changed[column] = self.sealer.resealed(sealed, place_of(place.declared.table, place.held(record), column), name)
            except Unsealable:
                self.unsealable += 1
        if not changed:
            return []
        values = {"image": {**place.held(record), **changed}} if place.images else changed
        changes = tuple(Set(Path(name), value) for name, value in values.items())
        return [Update(at, changes, (Guard(Unchanged(revision_of(record)), Origin(0, "rotate")),))]

    async def _forget(self) -> list[str]:
        """Keep the ids of the keys that something is still sealed with, and of the one that seals, which others may be writing with."""
        records = self.store.core.records
        for _ in range(ATTEMPTS):
            old = (await records.get((KNOWN,)))[0]
            used = {each for counts in (await sealed_with(self.store)).values() for each in counts} - {"none"}
            first = self.sealer.first
            left = [*([first] if first in used or first in ids_of(old) else []), *sorted(used - {first})]
            if await write_known(records, us_of(self.store.clock), left, old):
                return left
        raise Conflict("Other processes kept changing which keys are known.", hint="Rotate again.")


def _places(store: Store) -> Iterator[_Place]:
    for declared in store.schema.entities.values():
        if declared.secrets:
            yield _Place(declared, declared.table, False)
            if declared.history is not None:
                yield _Place(declared, history_table(declared), True)


def _rotation(body: dict[str, Any]) -> Record:
    return {"scope": ROTATION.key[0], "name": ROTATION.key[1], "body": body}
