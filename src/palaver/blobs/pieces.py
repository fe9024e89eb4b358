"""Objects in pieces: what comes in, cut into parts and checked; what goes out, checked before its end is given."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any

from palaver.errors import Corruption, Validation

PART = 8 * 1024 * 1024
"""What is larger goes and comes in parts of this size, some of them at once."""

_AHEAD = 4
_HASHED_INLINE = 256 * 1024


class SourceFailed(Exception):
    """Whoever gives the pieces failed: with an error of its own, and none of the storage."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


async def hashed(digest: Any, data: bytes | bytearray) -> None:
    """Add bytes to a hash, in a thread where the loop would be held up."""
    if len(data) <= _HASHED_INLINE:
        digest.update(data)
    else:
        await asyncio.to_thread(digest.update, data)


async def cut(pieces: AsyncIterable[bytes], size: int, expected: str | None) -> AsyncGenerator[bytes, None]:
    """Yield what comes as parts of 8 MiB, the last one shorter; nothing for no bytes.

    Raises Validation before the last part where the bytes are not `size`, or do not have the hash expected; SourceFailed for an
    error of whoever gives them.
    """
    digest, gathered, seen = hashlib.sha256(), bytearray(), 0
    async with aclosing(_given(pieces)) as given:
        async for piece in given:
            seen += len(piece)
            if seen > size:
                break
            left = memoryview(piece)
            while left:
                if len(gathered) == PART:
                    await hashed(digest, gathered)
                    yield bytes(gathered)
                    gathered = bytearray()
                taken = left[: PART - len(gathered)]
                gathered += taken
                left = left[len(taken) :]
    if seen != size:
        raise Validation("The pieces of a blob are not of the size that was told.", hint="Tell its size in bytes.")
    await hashed(digest, gathered)
    if expected is not None and digest.hexdigest() != expected:
        raise Validation("The bytes of a blob do not have the hash its key ends in.", hint="Hash the bytes as they are stored.")
    if gathered:
        yield bytes(gathered)


async def _given(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    source = aiter(pieces)
    while True:
        try:
            piece = await anext(source)
        except StopAsyncIteration:
            return
        except Exception as error:
            raise SourceFailed(error) from error
        yield piece


async def intact(pieces: AsyncGenerator[bytes, None], expected: str | None) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of a whole object; raise Corruption in place of the last one where they do not have the hash expected."""
    digest, last = hashlib.sha256(), b""
    async with aclosing(pieces):
        async for piece in pieces:
            if last:
                yield last
            if expected is not None:
                await hashed(digest, piece)
            last = piece
    if expected is not None and digest.hexdigest() != expected:
        raise Corruption("A stored blob does not have the hash its key ends in.", hint="Restore it from a backup.")
    if last:
        yield last


async def some_ahead(fetches: Sequence[Callable[[], Coroutine[Any, Any, bytes]]]) -> AsyncGenerator[bytes, None]:
    """Yield what each of the fetches gives, in their order; the next few are under way meanwhile."""
    waiting = iter(fetches)
    running = [asyncio.create_task(fetch()) for fetch in islice(waiting, _AHEAD)]
    try:
        while running:
            piece = await running[0]
            del running[0]
            running += [asyncio.create_task(fetch()) for fetch in islice(waiting, 1)]
            yield piece
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
