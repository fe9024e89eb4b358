"""Objects of a copy: two listings in the same order are walked side by side, and only what is missing is moved.

What is larger than a part goes through in pieces, one object at a time: a stream has several parts on their way by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

from palaver.blob_ports import BlobInfo, BlobStore
from palaver.blobs.objects import HASH
from palaver.blobs.pieces import PART, hashed
from palaver.errors import Corruption, NotFound
from palaver.lifecycle.copy_ends import End
from palaver.lifecycle.copy_progress import Progress
from palaver.lifecycle.copy_sums import Kind

AT_ONCE = 8
_DAMAGED = "An object of the source does not have the hash its key ends in."
_RESTORE = "Restore it from a backup."


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
        self._one_large = asyncio.Lock()

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
            if await self._target.ask(partial(self._target.core.blobs.head, key)) is not None:
                return
            found = await self._source.ask(partial(self._source.core.blobs.head, key))
            if found is not None:
                await self._move(found)

        for start in range(0, len(keys), AT_ONCE):
            await asyncio.gather(*map(one, keys[start : start + AT_ONCE]))

    def _due(self, pair: Pair) -> Coroutine[Any, Any, None] | None:
        match pair:
            case Pair(BlobInfo() as mine, None):
                return self._move(mine)
            case Pair(BlobInfo() as mine, BlobInfo() as theirs) if mine.size != theirs.size:
                return self._move(mine)
            case Pair(None, BlobInfo() as theirs) if not self._progress.into_existing:
                return self._remove(theirs.key)
        return None

    async def _move(self, found: BlobInfo) -> None:
        try:
            if found.size > PART:
                async with self._one_large:
                    await self._target.ask(partial(self._stream, found))
            else:
                await self._put(found.key, await self._source.ask(partial(self._source.core.blobs.get, found.key)))
        except NotFound:
            return  # released since it was listed
        self.moved.objects += 1
        self.moved.bytes += found.size
        self._told(1)

    async def _put(self, key: str, data: bytes) -> None:
        if (expected := HASH.search(key)) and sha256(data).hexdigest() != expected[1]:
            raise Corruption(_DAMAGED, hint=_RESTORE)

        async def put() -> None:
            self._progress.check()
            await self._target.core.blobs.put(key, data)

        await self._target.ask(put)

    async def _stream(self, found: BlobInfo) -> None:
        async with aclosing(self._pieces(found.key)) as pieces:
            await self._target.core.blobs.put_stream(found.key, pieces, found.size)

    async def _pieces(self, key: str) -> AsyncGenerator[bytes, None]:
        self._progress.check()
        try:
            async with aclosing(self._source.core.blobs.get_stream(key)) as pieces:
                async for piece in pieces:
                    yield piece
                    self._progress.check()
        except Corruption:
            raise Corruption(_DAMAGED, hint=_RESTORE) from None

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
        elif mine is not None and theirs is not None and not await _same(source, mine, target, theirs):
            kind = "different"
        seen(1)
        if kind is None:
            out.equal += 1
        else:
            setattr(out, kind, getattr(out, kind) + 1)
            found((mine or theirs).key, kind)  # type: ignore[union-attr]
    return out


async def _same(source: End, mine: BlobInfo, target: End, theirs: BlobInfo) -> bool:
    try:
        found = await _digest(target, theirs)
    except (Corruption, NotFound):
        return False
    expected = HASH.search(mine.key)
    return found == (expected[1] if expected else await _digest(source, mine))


async def _digest(end: End, found: BlobInfo) -> str:
    """Return the hash of an object's bytes; what is large is not held whole."""

    async def read() -> str:
        if found.size <= PART:
            return sha256(await end.core.blobs.get(found.key)).hexdigest()
        digest = sha256()
        async for piece in end.core.blobs.get_stream(found.key):
            await hashed(digest, piece)
        return digest.hexdigest()

    return await end.ask(read)
