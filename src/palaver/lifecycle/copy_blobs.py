"""Objects of a copy: two listings in the same order are walked side by side, and only what is missing is moved."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

from palaver.blob_ports import BlobInfo, BlobStore
from palaver.errors import Corruption, NotFound
from palaver.lifecycle.copy_ends import End
from palaver.lifecycle.copy_progress import Progress
from palaver.lifecycle.copy_sums import Kind

AT_ONCE = 8
_HASH = re.compile(r"/([0-9a-f]{64})$")


class Pair(NamedTuple):
    """One key of either store: what the source has there, and what the target has."""

    source: BlobInfo | None
    target: BlobInfo | None


@dataclass
class Moved:
    """What a pass over the objects did."""

    objects: int = 0
    bytes: int = 0
    removed: int = 0


async def side_by_side(source: BlobStore, target: BlobStore) -> AsyncIterator[Pair]:
    """Yield every key of both stores once, in order; neither listing is held in memory."""
    ours, theirs = source.list(), target.list()
    mine, other = await anext(ours, None), await anext(theirs, None)
    while mine is not None or other is not None:
        if other is None or (mine is not None and _order(mine) < _order(other)):
            yield Pair(mine, None)
            mine = await anext(ours, None)
        elif mine is None or _order(other) < _order(mine):
            yield Pair(None, other)
            other = await anext(theirs, None)
        else:
            yield Pair(mine, other)
            mine, other = await anext(ours, None), await anext(theirs, None)


def _order(info: BlobInfo) -> bytes:
    return info.key.encode("utf-8", "surrogatepass")


class Objects:
    """Moves objects from one store to the other."""

    def __init__(self, source: End, target: End, progress: Progress, moved: Callable[[int], None]) -> None:
        self._source, self._target, self._progress, self._told = source, target, progress, moved
        self.moved = Moved()

    async def run(self) -> Moved:
        """Move what is missing or of another size; remove what the source no longer has, where the target is nothing but a copy."""
        self.moved = Moved()
        running: set[asyncio.Task[None]] = set()
        try:
            async for pair in side_by_side(self._source.core.blobs, self._target.core.blobs):
                work = self._due(pair)
                if work is None:
                    continue
                running.add(asyncio.create_task(work))
                if len(running) >= AT_ONCE:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        await task
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return self.moved

    async def bring(self, keys: Sequence[str]) -> None:
        """Move those of these objects that are not there yet."""

        async def one(key: str) -> None:
            if await self._target.ask(partial(self._target.core.blobs.head, key)) is None:
                await self._move(key)

        for start in range(0, len(keys), AT_ONCE):
            await asyncio.gather(*map(one, keys[start : start + AT_ONCE]))

    def _due(self, pair: Pair) -> Coroutine[Any, Any, None] | None:
        match pair:
            case Pair(BlobInfo() as mine, None):
                return self._move(mine.key)
            case Pair(BlobInfo() as mine, BlobInfo() as theirs) if mine.size != theirs.size:
                return self._move(mine.key)
            case Pair(None, BlobInfo() as theirs) if not self._progress.into_existing:
                return self._remove(theirs.key)
        return None

    async def _move(self, key: str) -> None:
        try:
            data = await self._source.ask(partial(self._source.core.blobs.get, key))
        except NotFound:
            return  # released since it was listed
        if (expected := _HASH.search(key)) and sha256(data).hexdigest() != expected[1]:
            raise Corruption("An object of the source does not have the hash its key ends in.", hint="Restore it from a backup.")

        async def put() -> None:
            self._progress.check()
            await self._target.core.blobs.put(key, data)

        await self._target.ask(put)
        self.moved.objects += 1
        self.moved.bytes += len(data)
        self._told(1)

    async def _remove(self, key: str) -> None:
        # Asked again, not trusted to the listing: both ends may keep their objects in one place, where one was just put.
        if await self._source.ask(partial(self._source.core.blobs.head, key)) is None:
            self._progress.check()
            await self._target.ask(partial(self._target.core.blobs.delete, [key]))
            self.moved.removed += 1


@dataclass
class ObjectsCompared:
    """How many objects of both sides are equal, and how many are not."""

    equal: int = 0
    missing: int = 0
    different: int = 0
    extra: int = 0

    @property
    def same(self) -> bool:
        return not (self.missing or self.different or self.extra)


async def compare(source: End, target: End, seen: Callable[[int], None], found: Callable[[str, Kind], None]) -> ObjectsCompared:
    """Read every object of the target: by its hash where the key has one, else beside the source's."""
    out = ObjectsCompared()
    async for mine, theirs in side_by_side(source.core.blobs, target.core.blobs):
        kind: Kind | None = None
        if theirs is None and mine is not None:
            kind = "missing"
        elif mine is None and theirs is not None:
            kind = "extra"
        elif mine is not None and not await _same(source, target, mine.key):
            kind = "different"
        seen(1)
        if kind is None:
            out.equal += 1
        else:
            setattr(out, kind, getattr(out, kind) + 1)
            found((mine or theirs).key, kind)  # type: ignore[union-attr]
    return out


async def _same(source: End, target: End, key: str) -> bool:
    try:
        data = await target.ask(partial(target.core.blobs.get, key))
    except (Corruption, NotFound):
        return False
    if expected := _HASH.search(key):
        return sha256(data).hexdigest() == expected[1]
    return data == await source.ask(partial(source.core.blobs.get, key))
