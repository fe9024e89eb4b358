"""Loading many records: each alone and unguarded, the next chunk encoded while the writer stores the one before."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from palaver.draft import bind_tenant
from palaver.entity import Entity
from palaver.ops import Address, Cause, Put, WriteSet, Written, position
from palaver.system import blob_address

if TYPE_CHECKING:
    from palaver.store import Store

CHUNK = 125
"""Small, so that what is encoded is gone again before the garbage collector looks at it twice."""
UNDER_WAY = 8
"""Chunks handed to the writer at once; it commits several of them together."""


async def load(store: Store, entities: Iterable[Entity] | AsyncIterable[Entity], chunk: int) -> int:
    """Store records chunk by chunk and return how many; see `Store.bulk`."""
    total = 0
    writing: deque[asyncio.Task[int]] = deque()
    try:
        async for some in _chunks(entities, chunk):
            puts, now_us = await _encoded(store, some)
            writing.append(asyncio.create_task(_write(store, puts, now_us, len(some))))
            # A turn of the loop, so that the writer has this chunk before the next is encoded.
            await asyncio.sleep(0)
            while len(writing) >= UNDER_WAY:
                total += await writing.popleft()
        while writing:
            total += await writing.popleft()
        return total
    finally:
        await asyncio.gather(*writing, return_exceptions=True)


async def _encoded(store: Store, entities: Sequence[Entity]) -> tuple[list[Put], int]:
    """Return the puts of a chunk, after its objects are stored; what needs guards is written at once instead."""
    core, planner, tenant = store.core, store.core.planner, store._tenant
    now_us = core.now_us()
    puts: list[Put] = []
    uploads: list[tuple[str, bytes]] = []
    for entity in entities:
        codec = planner.codec(type(entity))
        declared = codec.declared
        if type(entity) not in planner.plain:
            if declared.uniques or declared.history is not None or planner.has_children(declared) or declared.name in planner.behind:
                await store.put(entity)
                continue
            if declared.tenant is not None:
                bind_tenant(declared, entity, tenant)
        encoded = codec.encode(entity, now_us, tenant)
        if encoded.uploads:
            if any(await core.records.get([blob_address(key) for key, _ in encoded.uploads])):
                # An object of it is about to be removed, which only a guarded write can prevent.
                await store.put(entity)
                continue
            uploads.extend(encoded.uploads)
        puts.append(Put(Address(declared.table.name, position(declared.table, None, encoded.record)), encoded.record))
    if uploads:
        await asyncio.gather(*(core.blobs.put(key, data) for key, data in uploads))
    return puts, now_us


async def _write(store: Store, puts: Sequence[Put], now_us: int, count: int) -> int:
    if puts:
        writes = WriteSet(puts, now_us, Cause(store._actor), atomic=False)
        written = await store.core.records.write(writes)
        if store.core.follower is not None and isinstance(written, Written):
            await store.core.follower.wrote(writes, written)
    return count


async def _chunks(entities: Iterable[Entity] | AsyncIterable[Entity], size: int) -> AsyncIterator[list[Entity]]:
    if isinstance(entities, AsyncIterable):
        waiting: list[Entity] = []
        async for entity in entities:
            waiting.append(entity)
            if len(waiting) >= size:
                yield waiting
                waiting = []
        if waiting:
            yield waiting
        return
    left = iter(entities)
    while some := list(islice(left, size)):
        yield some
