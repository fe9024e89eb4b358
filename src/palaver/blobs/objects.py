"""Blobs on `obstore`: memory, a folder, and object storage by URL. What a folder needs beyond that is in `folder.py`."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from palaver.blobs.folder import INCOMING, Folder
from palaver.blobs.paths import folder_of, key_bytes, key_of, path_of, prefix_of
from palaver.clock import EPOCH
from palaver.errors import ConfigError, Corruption, NotFound, PalaverError, ReadOnly, StorageFull, Unavailable, Validation
from palaver.ports import BlobInfo

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

T = TypeVar("T")
Doing = Literal["read", "write"]

HASH = re.compile(r"/([0-9a-f]{64})\Z")
_THREADS = 8
_HASHED_INLINE = 256 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


class ObjectBlobs:
    """Objects by key, written whole, durable when `put` returns.

    A key that ends in `/<SHA-256>` is checked against its bytes, on the way in (Validation) and out (Corruption).
    """

    _pool: ThreadPoolExecutor | None = None
    _folder: Folder | None = None
    _other: ObjectStore
    _closed = False
    # A request a folder is cheap beside the memory that sorting a whole bucket takes; a request to a cloud is not.
    _levels = 1

    def __init__(self, url: str | Path, options: Mapping[str, Any] | None = None) -> None:
        """Open a folder (a `Path` or `file:<path>`, made if missing), `memory:`, or an object storage that obstore knows.

        `options` are obstore's own for that storage. Raises ConfigError for a URL it does not know. S3 has a class of its own.
        """
        kind = "file" if isinstance(url, Path) else urlsplit(url).scheme
        if options and kind in ("memory", "file"):
            raise ConfigError(f"A {kind}: blob store takes no options.", hint=f"Remove {', '.join(sorted(options))}.")
        if url == "memory:":
            from obstore.store import MemoryStore

            self._other = MemoryStore()
        elif kind == "file":
            self._folder = _opened(url.absolute() if isinstance(url, Path) else _folder_path(url))
            self._levels = 2
        else:
            self._other = _remote(str(url), options or {})

    @property
    def _store(self) -> ObjectStore:
        return self._other if self._folder is None else self._folder.store

    async def put(self, key: str, data: bytes) -> None:
        path = path_of(key)
        await self._check(key, data)
        async with self._errors("write"):
            if self._folder is not None:
                await self._in_thread(partial(self._folder.put, path, data))
            else:
                import obstore

                # Replacing rather than put-if-absent: the bytes are the same, and the new age keeps the orphan check away.
                await obstore.put_async(self._store, path, data)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes or those of a range that exist; an empty range or one behind the end is empty.

        Raises Corruption when a whole object does not have the hash its key ends in; a range is not checked.
        """
        path = path_of(key)
        if start < 0 or (length is not None and length < 0):
            raise Validation("A range of a blob starts at 0 or later and has a length of 0 or more.")
        whole = start == 0 and length is None
        async with self._errors("read"):
            if self._folder is not None:
                data = await self._in_thread(partial(self._folder.get, path, start, length))
            else:
                data = await (self._whole(path) if whole else self._range(path, start, length))
        if not whole:
            return data
        expected = HASH.search(key)
        if expected and await self._hash(data) != expected[1]:
            raise Corruption("A stored blob does not have the hash its key ends in.", hint="Restore it from a backup.")
        return data

    async def head(self, key: str) -> BlobInfo | None:
        import obstore

        path = path_of(key)
        try:
            async with self._errors("read"):
                found = await obstore.head_async(self._store, path)
        except NotFound:
            return None
        return _info(key, found)

    async def delete(self, keys: Sequence[str]) -> None:
        paths = list(dict.fromkeys(map(path_of, keys)))
        if not paths:
            return
        async with self._errors("write"):
            if self._folder is not None:
                await self._in_thread(partial(self._folder.delete, paths))
            else:
                import obstore

                await obstore.delete_async(self._store, paths)

    async def list(self, prefix: str = "") -> AsyncIterator[BlobInfo]:
        """Yield objects in byte order of their keys; one folder of the first two levels (object storage: one) is held at a time.

        An object put or deleted meanwhile may or may not be among them.
        """
        whole = prefix.split("/")[:-1]
        async with self._errors("read"):
            async for info in self._walk(folder_of(whole).removesuffix("/"), len(whole), key_bytes(prefix)):
                yield info

    async def aclose(self) -> None:
        """Wait for writes under way; nothing works afterwards."""
        self._closed = True
        if self._pool is not None:
            await asyncio.to_thread(self._pool.shutdown)

    async def _whole(self, path: str) -> bytes:
        import obstore

        return bytes(await (await obstore.get_async(self._store, path)).bytes_async())

    async def _range(self, path: str, start: int, length: int | None) -> bytes:
        import obstore

        size = (await obstore.head_async(self._store, path))["size"]
        end = size if length is None else min(size, start + length)
        if end <= start:
            return b""  # every storage refuses such a range in its own way
        return bytes(await obstore.get_range_async(self._store, path, start=start, end=end))

    async def _walk(self, folder: str, level: int, prefix: bytes) -> AsyncIterator[BlobInfo]:
        import obstore

        if level >= self._levels:
            for info in await self._below(folder, prefix):
                yield info
            return
        listed = await obstore.list_with_delimiter_async(self._store, folder or None)
        entries: list[tuple[bytes, str | BlobInfo]] = [(prefix_of(path), path) for path in listed["common_prefixes"] if path != INCOMING]
        entries += [(key_bytes(info.key), info) for info in _known(listed["objects"], prefix)]
        for starts, entry in sorted(entries, key=lambda pair: pair[0]):
            if isinstance(entry, BlobInfo):
                yield entry
            elif starts.startswith(prefix) or prefix.startswith(starts):
                async for info in self._walk(entry, level + 1, prefix):
                    yield info

    async def _below(self, folder: str, prefix: bytes) -> Sequence[BlobInfo]:
        import obstore

        found: list[BlobInfo] = []
        async for chunk in obstore.list(self._store, folder or None, chunk_size=1_000):
            found += _known(chunk, prefix)
        return sorted(found, key=lambda info: key_bytes(info.key))

    async def _check(self, key: str, data: bytes) -> None:
        expected = HASH.search(key)
        if expected and await self._hash(data) != expected[1]:
            raise Validation("The bytes of a blob do not have the hash its key ends in.", hint="Hash the bytes as they are stored.")

    async def _hash(self, data: bytes) -> str:
        if len(data) <= _HASHED_INLINE:
            return hashlib.sha256(data).hexdigest()
        return await self._in_thread(lambda: hashlib.sha256(data).hexdigest())

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="palaver-blobs")
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    @asynccontextmanager
    async def _errors(self, doing: Doing) -> AsyncIterator[None]:
        if self._closed:
            raise ConfigError("The blob store is closed.")
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError) as error:
            # Without the cause: its text holds the path, and the path names people.
            raise mapped(error, doing) from None


def mapped(error: Exception, doing: Doing) -> PalaverError:
    """Return the error of the tree for one of obstore or of the file system, met while doing a "read" or a "write"."""
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    if doing == "read" and isinstance(error, FileNotFoundError):
        return NotFound("There is no such blob.")
    number = error.errno if isinstance(error, OSError) and error.errno else _errno_in(str(error))
    reason = os.strerror(number) if number else type(error).__name__
    if number in _FULL:
        return StorageFull("The blob store has no space left.", reason=reason)
    denied = number in _DENIED or isinstance(error, PermissionDeniedError | UnauthenticatedError)
    if denied and doing == "write":
        return ReadOnly("The blob store cannot be written.", hint="Give the process write permission.", reason=reason)
    return Unavailable(f"The blob store could not {doing}: {reason}.", reason=reason)


def _errno_in(text: str) -> int | None:
    found = re.search(r"\(os error (\d+)\)", text)
    return int(found[1]) if found else None


def _info(key: str, meta: ObjectMeta) -> BlobInfo:
    return BlobInfo(key, meta["size"], _micros(meta["last_modified"]))


def _micros(instant: datetime) -> int:
    since = instant - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _known(objects: Sequence[ObjectMeta], prefix: bytes) -> list[BlobInfo]:
    """Return the objects of ours: what other programs left in a folder has no key."""
    found = []
    for meta in objects:
        key = None if meta["path"].startswith(f"{INCOMING}/") else key_of(meta["path"])
        if key is not None and key_bytes(key).startswith(prefix):
            found.append(_info(key, meta))
    return found


def _folder_path(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
        raise ConfigError("A blob folder is named by file:<path> or file:///<path>.")
    return Path(unquote(parts.path)).absolute()


def _opened(root: Path) -> Folder:
    try:
        return Folder(root)
    except OSError as error:
        raise mapped(error, "write") from None


def _remote(url: str, options: Mapping[str, Any]) -> ObjectStore:
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    # Without the cause: a URL may carry a password.
    unknown = ConfigError("There is no blob store for this URL.", hint="Use memory:, file:<folder> or a URL obstore knows.")
    if urlsplit(url).scheme in ("memory", "s3", "s3a"):
        raise unknown
    try:
        return from_url(url, **options)
    except (BaseError, ValueError, TypeError):
        raise unknown from None
