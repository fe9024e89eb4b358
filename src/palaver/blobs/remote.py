"""Object storage by URL: S3 and what else `obstore` knows, which `palaver[s3]` brings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from palaver.blobs.folder import Held
from palaver.blobs.pieces import PART, some_ahead
from palaver.clock import EPOCH
from palaver.errors import ConfigError

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore


def needs_obstore() -> None:
    """Raise ConfigError where the package is not installed that talks to object storage."""
    if find_spec("obstore") is None:
        raise ConfigError("Object storage needs the package obstore.", hint='Install it: pip install "palaver[s3]".')


def remote(url: str, options: Mapping[str, Any]) -> Remote:
    """Open the storage a URL names. Raises ConfigError."""
    # Without the cause: a URL may carry a password.
    unknown = ConfigError("There is no blob store for this URL.", hint="Use memory:, file:<folder>, s3://… or a URL obstore knows.")
    if urlsplit(url).scheme in ("", "memory", "s3", "s3a"):
        raise unknown
    needs_obstore()
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    try:
        store = from_url(url, **options)
    except (BaseError, ValueError, TypeError):
        raise unknown from None
    return Remote(lambda: store)


class Remote:
    """A storage of obstore's; `store` is asked at each call, because a bucket is opened at the first."""

    levels = 1

    def __init__(self, store: Callable[[], ObjectStore]) -> None:
        self._store = store

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        from obstore.exceptions import BaseError

        return (BaseError, OSError)

    async def put(self, path: str, data: bytes) -> None:
        import obstore

        await obstore.put_async(self._store(), path, data)

    async def whole(self, path: str) -> bytes:
        import obstore

        return bytes(await (await obstore.get_async(self._store(), path)).bytes_async())

    async def part(self, path: str, start: int, length: int | None) -> bytes:
        import obstore

        size = (await self.head(path)).size
        end = size if length is None else min(size, start + length)
        if end <= start:
            return b""  # every storage refuses such a range in its own way
        return bytes(await obstore.get_range_async(self._store(), path, start=start, end=end))

    async def put_parts(self, path: str, parts: AsyncIterator[bytes], size: int) -> None:
        import obstore

        # Dropped without `close` it makes no object. Given an iterator instead, obstore 0.12 aborts the process when cancelled.
        writer = obstore.open_writer_async(self._store(), path, buffer_size=PART)
        async for part in parts:
            await writer.write(part)
        await writer.close()

    async def parts(self, path: str, start: int, length: int | None) -> AsyncGenerator[bytes, None]:
        import obstore

        size = (await self.head(path)).size
        end = size if length is None else min(size, start + length)

        async def part(at: int) -> bytes:
            return bytes(await obstore.get_range_async(self._store(), path, start=at, end=min(end, at + PART)))

        async with aclosing(some_ahead([partial(part, at) for at in range(start, end, PART)])) as fetched:
            async for piece in fetched:
                yield piece

    async def head(self, path: str) -> Held:
        import obstore

        return _held(await obstore.head_async(self._store(), path))

    async def delete(self, paths: list[str]) -> None:
        import obstore

        await obstore.delete_async(self._store(), paths)

    async def level(self, folder: str) -> tuple[list[str], list[Held]]:
        import obstore

        listed = await obstore.list_with_delimiter_async(self._store(), folder or None)
        return list(listed["common_prefixes"]), [_held(meta) for meta in listed["objects"]]

    async def below(self, folder: str) -> list[Held]:
        import obstore

        found: list[Held] = []
        async for chunk in obstore.list(self._store(), folder or None, chunk_size=1_000):
            found += map(_held, chunk)
        return found


def _held(meta: ObjectMeta) -> Held:
    return Held(meta["path"], meta["size"], _micros(meta["last_modified"]))


def _micros(instant: datetime) -> int:
    since = instant - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
