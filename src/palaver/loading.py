"""Loading many records: each alone and unguarded, the next chunk encoded while the engine stores those before."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from palaver.codec import Encoded, EntityCodec
from palaver.draft import bind_tenant
from palaver.entity import Entity
from palaver.following import Wrote
from palaver.large_object import LargeObject, bytes_of
from palaver.ops import Address, Cause, position
from palaver.streaming import upload
from palaver.system import blob_address
from palaver.values import Record

if TYPE_CHECKING:
    from palaver.store import Store

CHUNK = 256
"""Small: what is encoded at once holds up the event loop, and is to be gone before the garbage collector looks at it twice."""
CHUNK_BYTES = 512 * 1024
UNDER_WAY = 16
"""Chunks handed to the engine at once; it commits several of them together."""


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


_WithObjects: TypeAlias = "tuple[Entity, EntityCodec, Encoded]"


class _Loading:
    """One load under way: the chunk being taken, and those the engine has."""

    def __init__(self, store: Store) -> None:
        self.stored = 0
        self.writing: deque[asyncio.Task[int]] = deque()
        self._store = store
        self._core, self._planner, self._tenant = store.core, store.core.planner, store._tenant
        self._begin()

    def _begin(self) -> None:
        self._now_us = self._core.now_us()
        self._left, self._bytes = CHUNK, CHUNK_BYTES
        self._records: dict[EntityCodec, list[Record]] = {}
        self._guarded: list[Entity] = []
        self._with_objects: list[_WithObjects] = []

    def take(self, entity: Entity) -> bool:
        """Encode an entity; say whether the chunk is full."""
        codec = self._planner.codec(type(entity))
        self._left -= 1
        if type(entity) not in self._planner.plain:
            if self._is_guarded(codec):
                self._guarded.append(entity)
                return self._left <= 0
            if codec.declared.tenant is not None:
                bind_tenant(codec.declared, entity, self._tenant)
        encoded = codec.encode(entity, self._now_us, self._tenant)
        self._bytes -= encoded.size
        if encoded.uploads:
            self._bytes -= sum(bytes_of(data) for _, data in encoded.uploads)
            self._with_objects.append((entity, codec, encoded))
        elif codec in self._records:
            self._records[codec].append(encoded.record)
        else:
            self._records[codec] = [encoded.record]
        return self._left <= 0 or self._bytes <= 0

    def _is_guarded(self, codec: EntityCodec) -> bool:
        declared, planner = codec.declared, self._planner
        depends = declared.uniques or declared.history is not None or planner.has_children(declared)
        return bool(depends or codec.large) or declared.name in planner.behind

    async def hand_over(self) -> None:
        """Give the chunk to the engine and begin the next; wait while the engine has enough."""
        records, now_us, guarded, with_objects = self._records, self._now_us, self._guarded, self._with_objects
        self._begin()
        for codec, some in records.items():
            self.writing.append(asyncio.create_task(self._write(codec, some, now_us)))
        for entity in guarded:
            await self._store.put(entity)
            self.stored += 1
        if with_objects:
            await self._upload(with_objects, now_us)
        # A turn of the loop, so that the engine has this chunk before the next is encoded.
        await asyncio.sleep(0)
        while len(self.writing) >= UNDER_WAY:
            self.stored += await self.writing.popleft()

    async def end(self) -> None:
        """Hand over what is left, and wait for everything."""
        await self.hand_over()
        while self.writing:
            self.stored += await self.writing.popleft()

    async def _upload(self, with_objects: Sequence[_WithObjects], now_us: int) -> None:
        """Store objects and give the engine the records they belong to."""
        records: dict[EntityCodec, list[Record]] = {}
        uploads: list[tuple[str, bytes | LargeObject]] = []
        for entity, codec, encoded in with_objects:
            if any(await self._core.records.get([blob_address(key) for key, _ in encoded.uploads])):
                # An object of it is about to be removed, which only a guarded write can prevent.
                await self._store.put(entity)
                self.stored += 1
            else:
                uploads += encoded.uploads
                records.setdefault(codec, []).append(encoded.record)
        await asyncio.gather(*(upload(self._core.blobs, key, data) for key, data in uploads))
        for codec, some in records.items():
            self.writing.append(asyncio.create_task(self._write(codec, some, now_us)))

    async def _write(self, codec: EntityCodec, records: Sequence[Record], now_us: int) -> int:
        table = codec.declared.table
        revisions = await self._core.records.load(table.name, records, now_us, Cause(self._store._actor))
        if self._core.follower is not None:
            keys = [position(table, None, record) for record in records]
            await self._core.follower.touched(
                [Wrote(Address(table.name, key), revision) for key, revision in zip(keys, revisions, strict=True)]
            )
        return len(records)
