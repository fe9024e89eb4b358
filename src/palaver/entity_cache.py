"""Records kept in the cache and read through it, never older than what this process wrote, and soon as new as what any process did."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Generic

from typing_extensions import TypeVar

from palaver.caching import Held
from palaver.claims import claim_of, claim_to
from palaver.clock import us_of
from palaver.coalescing import Coalescer
from palaver.core import Core
from palaver.entity import Entity
from palaver.errors import ConfigError, PalaverError, Validation
from palaver.in_step import Kept
from palaver.ops import Address, is_live, position, revision_of
from palaver.query import At, UniqueAt
from palaver.reading import filled
from palaver.store import Store
from palaver.stored_json import dumps, loads, packed
from palaver.system import key_from_plain, plain_key
from palaver.values import KeyPart, Record

E = TypeVar("E", bound=Entity)


@dataclass(frozen=True, slots=True)
class EntityCacheFigures:
    """What became of the look-ups: answered by the cache, or not; how many records were read; how often the cache was no help."""

    hits: int
    misses: int
    loads: int
    away: int


class EntityCache(Generic[E]):
    """Records of one entity, by key or by a `Unique` declaration, from the store's cache.

    A look-up never gives less than what this process wrote before it, and what other processes wrote within a second; on a
    shared cache it never gives less than what any process wrote before it, while that process reached the cache. Gone, expired
    and marked records are None. While the cache is away, or has not been told of everything yet, the records answer, with one
    load for all who ask for a record and at most `at_most` at once. All of one entity and time, of all tenants, share what is
    kept, so one may be made for a single look-up. Objects of large values are read at each look-up, and come back whole.
    """

    def __init__(self, store: Store, entity: type[E], ttl_s: float = 600.0, *, at_most: int = 32) -> None:
        """Keep records for at most `ttl_s` seconds. Nothing is read and nobody listens before the first look-up."""
        declared = store.schema.of(entity)
        if not declared.table.feed:
            raise ConfigError(f"{entity.__name__} has no feed, so nobody would hear that it changed.", entity=entity.__name__)
        if ttl_s <= 0:
            raise Validation("A record is kept for more than 0 seconds.")
        self._store, self._entity, self._declared = store, entity, declared
        name = f"entity cache of {declared.name} {ttl_s} {at_most}"
        core = store.core
        self._shelf: _Shelf = core.kept.get(name) or core.kept.setdefault(name, _Shelf(core, entity, ttl_s, at_most))

    @property
    def figures(self) -> EntityCacheFigures:
        """The figures of all caches that share what is kept, since the store was opened."""
        told = self._shelf.remember.figures
        asked = self._shelf.asked
        return EntityCacheFigures(told.hits, asked - told.hits, told.loads, told.away)

    async def ready(self) -> None:
        """Return when the cache is in use; before that the records answer. Waits for as long as the cache is away."""
        self._shelf.follow(self._store.following.add_for_all)
        await self._shelf.ready()

    async def get(self, target: At[E] | UniqueAt[E]) -> E | None:
        """Return the record, None where there is none. Raises what `find` raises, and nothing because of the cache."""
        self._shelf.follow(self._store.following.add_for_all)
        if isinstance(target, UniqueAt):
            return await self._by_unique(target)
        return await self._whole(await self._shelf.record(self._address(target)))

    async def get_many(self, targets: Sequence[At[E]]) -> list[E | None]:
        """Return records in the order asked, not of one instant: one trip for what is kept, and as few as may be for the rest."""
        self._shelf.follow(self._store.following.add_for_all)
        records = await self._shelf.records([self._address(target) for target in targets])
        if self._declared.blobs:
            return list(await asyncio.gather(*map(self._whole, records)))
        return [await self._whole(record) for record in records]

    def _address(self, target: At[E]) -> Address:
        if target.entity is not self._entity:
            raise Validation(f"This cache is of {self._entity.__name__}.", entity=self._entity.__name__)
        return self._store.core.planner.address(target, self._store.tenant)

    async def _whole(self, record: Record | None) -> E | None:
        """Return the instance of a live record with its large values."""
        if record is None:
            return None
        codec = self._store.core.planner.codec(self._entity)
        found: list[E] = [codec.decode(record)]
        if self._declared.blobs:
            found = await filled(self._store.core, self._store.tenant, codec, found)
        return found[0] if found else None

    async def _by_unique(self, target: UniqueAt[E]) -> E | None:
        """Follow a kept pointer if the record it leads to still has the values: then no other has them. Else ask the records."""
        core, tenant, declared = self._store.core, self._store.tenant, self._declared
        if target.entity is not self._entity:
            raise Validation(f"This cache is of {self._entity.__name__}.", entity=self._entity.__name__)
        unique = declared.uniques[target.name]
        claim = claim_to(declared, unique, target.values, tenant)
        key = await self._shelf.pointed(claim)
        if key is not None:
            record = await self._shelf.record(Address(declared.table.name, key))
            if record is not None and claim_of(declared, unique, record, tenant) == claim:
                return await self._whole(record)
        found = await self._store.find(target)
        if found is not None:
            await self._shelf.point(claim, core.planner.address(found.address, tenant).key)
        return found


class _Shelf(Kept):
    """What one store keeps of one entity, for all tenants together."""

    def __init__(self, core: Core, entity: type[Entity], ttl_s: float, at_most: int) -> None:
        super().__init__(core, core.cache, _kind(entity.__name__), entity, self._load, ttl_s=ttl_s, at_most=at_most)
        self.asked = 0
        self._ttl_s = ttl_s
        # At most `at_most` load at once, so one request holds all that is wanted at a moment.
        self._reading: Coalescer[Address, Record | None] = Coalescer(self._records_at, at_most)

    async def aclose(self) -> None:
        await super().aclose()
        await self._reading.aclose()

    def _named(self, key: Sequence[KeyPart]) -> str:
        return dumps(plain_key(key))

    # --- looking up -------------------------------------------------------------------------------------------------

    async def record(self, at: Address) -> Record | None:
        """Return a live record, None where there is none."""
        self.asked += 1
        key = self._key(self._named(at.key))
        return self._live(await self._sound(at, key, await self.remember.get(key)))

    async def records(self, at: Sequence[Address]) -> list[Record | None]:
        self.asked += len(at)
        keys = [self._key(self._named(each.key)) for each in at]
        found = await self.remember.get_many(keys)
        return [self._live(await self._sound(*each)) for each in zip(at, keys, found, strict=True)]

    def _live(self, record: Record | None) -> Record | None:
        """Leave out a record that is marked, or has expired since it was kept."""
        return record if is_live(self._table, record, us_of(self._core.clock)) else None

    async def _sound(self, at: Address, key: str, held: Held | None) -> Record | None:
        """Return the record a value holds; one that somebody else put there is read again."""
        record = self._unpacked(at, held)
        if record is not None or held is None:
            return record
        self.asked += 1
        return self._unpacked(at, await self.remember.get(key, at_least=held.revision + 1))

    def _unpacked(self, at: Address, held: Held | None) -> Record | None:
        if held is None:
            return None
        try:
            record: Record = loads(held.value.decode())
            whole = position(self._table, None, record) == at.key and revision_of(record) == held.revision
        except (ValueError, TypeError, KeyError):
            return None
        return record if whole else None

    # --- reading the records ----------------------------------------------------------------------------------------

    async def _load(self, key: str) -> Held | None:
        """Read a record as it is stored, hidden ones included: a mark that goes is a change like any other."""
        parts: Any = loads(key.partition(" ")[2])
        record = await self._reading.ask(Address(self._table.name, key_from_plain(parts)))
        return None if record is None else Held(packed(record), revision_of(record))

    async def _records_at(self, wanted: Sequence[Address]) -> Sequence[Record | None]:
        return await self._core.records.get(wanted)

    # --- look-ups by what is unique ---------------------------------------------------------------------------------

    async def pointed(self, claim: Address) -> tuple[KeyPart, ...] | None:
        """Return the key of the record that held a unique value when it was last looked for; it may not any more."""
        try:
            held = await self._in_step.get(self._key(self._named(("unique", *claim.key))))
            return None if held is None else key_from_plain(loads(held.value.decode()))
        except (PalaverError, ValueError, TypeError, KeyError):
            return None

    async def point(self, claim: Address, key: Sequence[KeyPart]) -> None:
        """Note which record holds a unique value. Needs no revision: whoever follows it looks whether it still does."""
        with contextlib.suppress(PalaverError):
            await self._in_step.set(self._key(self._named(("unique", *claim.key))), packed(plain_key(key)), ttl_s=self._ttl_s)


def _kind(name: str) -> str:
    """Return the kind of values a cache has for an entity: its bounds in memory are this entity's alone."""
    kind = f"entity.{name}"
    return kind if kind.isascii() and len(kind) <= 40 else f"entity.{blake2b(name.encode(), digest_size=8).hexdigest()}"
