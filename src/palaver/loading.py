"""Loading many records: each alone and unguarded, the next chunk encoded while the engine stores those before."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Iterable, Sequence
from typing import TYPE_CHECKING

from palaver.codec import Encoded, EntityCodec
from palaver.draft import behind_error
from palaver.entity import Entity
from palaver.following import Wrote
from palaver.known_keys import before_records
from palaver.large_object import LargeObject, bytes_of
from palaver.ops import Address, Cause
from palaver.streaming import upload
from palaver.system import blob_address
from palaver.tenants import bind_tenant
from palaver.values import KeyPart, Record

if TYPE_CHECKING:
    from palaver.plan import Planner
    from palaver.store import Store

CHUNK = 256
"""Small: what is encoded at once holds up the event loop, and is to be gone before the garbage collector looks at it twice."""
CHUNK_BYTES = 512 * 1024
UNDER_WAY = 32
"""Chunks handed to the engine at once: those in its commits, and as many made ready meanwhile, or its next commits are small."""


async def load(store: Store, entities: Iterable[Entity] | AsyncIterable[Entity]) -> int:
    """Store records chunk by chunk and return how many; see `Store.bulk`."""
    loading = _Loading(store)
    try:
        try:
            if isinstance(entities, AsyncIterable):
                async for entity in entities:
                    if loading.take(entity):
                        await loading.hand_over()
            else:
                for entity in entities:
                    if loading.take(entity):
                        await loading.hand_over()
        except Exception:
            # What was taken before is stored all the same.
            await loading.end()
            raise
        await loading.end()
        return loading.stored
    finally:
        await asyncio.gather(*loading.writing, return_exceptions=True)


class _Kind:
    """The entities of one class in a load, and those of the chunk that is being taken."""

    __slots__ = (
        "codec",
        "encode",
        "entity",
        "expires",
        "guarded",
        "name",
        "records",
        "staged",
        "table",
        "tenanted",
        "under_way",
        "waiting",
        "with_objects",
    )

    def __init__(self, codec: EntityCodec, planner: Planner) -> None:
        declared = codec.declared
        self.entity: type[Entity] = declared.entity
        self.codec, self.encode, self.table = codec, codec.encode, declared.table
        self.name, self.expires = declared.name, codec.rule is not None
        self.tenanted = declared.tenant is not None
        depends = declared.uniques or declared.history is not None or planner.has_children(declared)
        # A large object belongs to one record, which only a look at that one can tell.
        self.staged = bool(codec.large)
        #: Whether they need guards, and so are put one by one.
        self.guarded = bool(depends) or self.staged
        #: The keys of what the engine has been given and not stored yet.
        self.under_way: set[tuple[KeyPart, ...]] = set()
        self.begin()

    def begin(self) -> None:
        self.records: list[Record] = []
        self.waiting: list[Entity] = []
        self.with_objects: list[tuple[Entity, Encoded]] = []


class _Loading:
    """One load under way: the chunk being taken, and those the engine has."""

    def __init__(self, store: Store) -> None:
        self.stored = 0
        self.writing: deque[asyncio.Task[int]] = deque()
        self._store = store
        self._core, self._planner, self._tenant = store.core, store.core.planner, store.tenant
        # Who seals may have to note a key first, and be overtaken.
        self._in_order = self._core.records.limits.loads_in_order and self._planner.sealer is None
        self._kinds: dict[type[Entity], _Kind] = {}
        self._kind: _Kind | None = None
        self._begin()

    def _begin(self) -> None:
        self._left, self._room = CHUNK, CHUNK_BYTES

    def take(self, entity: Entity) -> bool:
        """Encode an entity; say whether the chunk is to be handed over."""
        kind = self._kind
        if kind is None or type(entity) is not kind.entity:
            kind = self._kind = self._kinds.get(type(entity)) or self._known(type(entity))
        self._left -= 1
        if kind.guarded:
            kind.waiting.append(entity)
            # What is staged lasts until its source goes on.
            return self._left <= 0 or kind.staged
        if kind.tenanted:
            bind_tenant(kind.codec.declared, entity, self._tenant)
        # A slow source takes long over a chunk, and what expires lives from when it came; the rest needs no clock.
        encoded = kind.encode(entity, self._core.now_us() if kind.expires else 0, self._tenant)
        record, size, uploads = encoded
        self._room -= size
        if uploads or kind.with_objects:
            # What comes after one of these waits with it: it may be the same record once more.
            self._room -= sum(bytes_of(data) for _, data in uploads)
            kind.with_objects.append((entity, encoded))
        else:
            kind.records.append(record)
        return self._left <= 0 or self._room <= 0

    def _known(self, entity: type[Entity]) -> _Kind:
        found = self._kinds[entity] = _Kind(self._planner.codec(entity), self._planner)
        return found

    async def hand_over(self) -> None:
        """Give the chunk to the engine and begin the next; wait while the engine has enough."""
        if (watch := self._core.watch) is not None and watch.is_late:
            await watch.catch_up()
        now_us = self._core.now_us()
        chunk = [(kind, kind.records, kind.waiting, kind.with_objects) for kind in self._kinds.values()]
        self._begin()
        for kind, records, _, with_objects in chunk:
            kind.begin()
            if records or with_objects:
                self._refuse(kind)
            await self._start(kind, records, now_us)
        for kind, _, waiting, with_objects in chunk:
            for entity in waiting:
                await self._put(entity)
            if with_objects:
                await self._start(kind, await self._uploaded(with_objects), now_us)
        # A turn of the loop, so that the engine has this chunk before the next is encoded.
        await asyncio.sleep(0)
        while len(self.writing) >= UNDER_WAY:
            self.stored += await self.writing.popleft()

    def _refuse(self, kind: _Kind) -> None:
        """Raise NotProvisioned where a migration was noticed, maybe since the load began: the chunk is in the form of before."""
        self._planner.refuse()
        if (allowed := self._planner.behind.get(kind.name)) is not None:
            raise behind_error(kind.name, allowed)

    async def _start(self, kind: _Kind, records: Sequence[Record], now_us: int) -> None:
        if not records:
            return
        keys: set[tuple[KeyPart, ...]] = set()
        if not self._in_order:
            keys.update(map(kind.codec.key_of, records))
            if not kind.under_way.isdisjoint(keys):
                # Of two of one key the later is to stay.
                await self._stored()
            kind.under_way |= keys
        self.writing.append(asyncio.create_task(self._write(kind, records, keys, now_us)))

    async def _stored(self) -> None:
        while self.writing:
            self.stored += await self.writing.popleft()

    async def _put(self, entity: Entity) -> None:
        await self._store.put(entity)
        self.stored += 1

    async def end(self) -> None:
        """Hand over what is left, and wait for everything."""
        await self.hand_over()
        await self._stored()

    async def _uploaded(self, with_objects: Sequence[tuple[Entity, Encoded]]) -> list[Record]:
        """Store objects and return the records they belong to; what needs guards is put at once instead."""
        records: list[Record] = []
        uploads: list[tuple[str, bytes | LargeObject]] = []
        for entity, encoded in with_objects:
            if encoded.uploads and any(await self._core.records.get([blob_address(key) for key, _ in encoded.uploads])):
                # An object of it is about to be removed, which only a guarded write can prevent.
                await self._put(entity)
            else:
                uploads += encoded.uploads
                records.append(encoded.record)
        await asyncio.gather(*(upload(self._core.blobs, key, data) for key, data in uploads))
        return records

    async def _write(self, kind: _Kind, records: Sequence[Record], keys: set[tuple[KeyPart, ...]], now_us: int) -> int:
        table = kind.table
        try:
            await before_records(self._core.records, now_us, self._planner.sealer, records)
            revisions = await self._core.records.load(table.name, records, now_us, Cause(self._store.actor))
        finally:
            kind.under_way -= keys
        if self._core.follower is not None:
            addresses = [Address(table.name, kind.codec.key_of(record)) for record in records]
            await self._core.follower.touched(list(map(Wrote, addresses, revisions)))
        return len(records)
