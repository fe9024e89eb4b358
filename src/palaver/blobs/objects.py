"""Blobs by key, over a place that stores bytes by path: memory, a folder, or object storage."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from palaver.blob_ports import BlobInfo
from palaver.blobs.folder import INCOMING, Folder, Held
from palaver.blobs.local import InThreads, Memory
from palaver.blobs.paths import folder_of, key_bytes, key_of, path_of, prefix_of
from palaver.blobs.pieces import SourceFailed, cut, intact
from palaver.errors import ConfigError, Corruption, NotFound, PalaverError, ReadOnly, StorageFull, Unavailable, Validation

T = TypeVar("T")
Doing = Literal["read", "write"]

HASH = re.compile(r"/([0-9a-f]{64})\Z")
_THREADS = 8
_HASHED_INLINE = 256 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


class Place(Protocol):
    """Where bytes are stored by path. Of what is missing a read says FileNotFoundError, and a listing nothing."""

    levels: int
    """How many levels of folders are listed one at a time: each is a request, and what is below the last is sorted in memory."""

    @property
    def failures(self) -> tuple[type[Exception], ...]: ...

    async def put(self, path: str, data: bytes) -> None: ...

    async def whole(self, path: str) -> bytes: ...

    async def part(self, path: str, start: int, length: int | None) -> bytes: ...

    async def put_parts(self, path: str, parts: AsyncIterator[bytes], size: int) -> None:
        """Store what comes in parts of 8 MiB, all together `size` bytes; nothing of it where this fails or is cancelled."""
        ...

    def parts(self, path: str, start: int, length: int | None) -> AsyncGenerator[bytes, None]:
        """Yield what `part` returns, in parts of 8 MiB at most."""
        ...

    async def head(self, path: str) -> Held: ...

    async def delete(self, paths: list[str]) -> None: ...

    async def level(self, folder: str) -> tuple[list[str], list[Held]]:
        """Return the folders and the objects right in a folder."""
        ...

    async def below(self, folder: str) -> list[Held]:
        """Return all objects in a folder and in those below."""
        ...


class ObjectBlobs:
    """Objects by key, written whole, durable when `put` returns.

    A key that ends in `/<SHA-256>` is checked against its bytes, on the way in (Validation) and out (Corruption).
    """

    _pool: ThreadPoolExecutor | None = None
    _closed = False

    def __init__(self, url: str | Path, options: Mapping[str, Any] | None = None) -> None:
        """Open a folder (a `Path` or `file:<path>`, made if missing), `memory:`, or an object storage that obstore knows.

        `options` are obstore's own for that storage. Raises ConfigError for a URL it does not know. S3 has a class of its own.
        """
        kind = "file" if isinstance(url, Path) else urlsplit(url).scheme
        if options and kind in ("memory", "file"):
            raise ConfigError(f"A {kind}: blob store takes no options.", hint=f"Remove {', '.join(sorted(options))}.")
        self._place: Place
        if url == "memory:":
            self._place = Memory()
        elif kind == "file":
            root = url.absolute() if isinstance(url, Path) else _folder_path(url)
            self._place = InThreads(_opened(root), self._in_thread)
        else:
            from palaver.blobs.remote import remote

            self._place = remote(str(url), options or {})

    async def put(self, key: str, data: bytes) -> None:
        path = path_of(key)
        await self._check(key, data)
        async with self._errors("write"):
            # Replacing rather than put-if-absent: the bytes are the same, and the new age keeps the orphan check away.
            await self._place.put(path, data)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes or those of a range that exist; an empty range or one behind the end is empty.

        Raises Corruption when a whole object does not have the hash its key ends in; a range is not checked.
        """
        path = path_of(key)
        _check_range(start, length)
        whole = start == 0 and length is None
        async with self._errors("read"):
            data = await (self._whole(path) if whole else self._place.part(path, start, length))
        if not whole:
            return data
        expected = HASH.search(key)
        if expected and await self._hash(data) != expected[1]:
            raise Corruption("A stored blob does not have the hash its key ends in.", hint="Restore it from a backup.")
        return data

    async def put_stream(self, key: str, pieces: AsyncIterable[bytes], size: int) -> None:
        """Store an object of `size` bytes as its pieces come, a few parts of 8 MiB in memory at a time; otherwise as `put`.

        Nothing is visible before it is whole, and nothing stays of one that failed or was cancelled. Raises Validation where the pieces
        are not of that size or hash; what `pieces` raises goes through as it is.
        """
        path, expected = path_of(key), HASH.search(key)
        try:
            async with self._errors("write"), aclosing(cut(pieces, size, expected[1] if expected else None)) as parts:
                await self._place.put_parts(path, parts, size)
        except SourceFailed as failed:
            raise failed.error from None

    async def get_stream(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes or those of a range that exist, in pieces of 8 MiB at most, a few in memory at a time; raise what `get` does.

        The hash of a whole object is known at its end: Corruption comes in place of the last piece.
        """
        path = path_of(key)
        _check_range(start, length)
        expected = HASH.search(key) if start == 0 and length is None else None
        stored = self._place.parts(path, start, length)
        async with self._errors("read"), aclosing(intact(stored, expected[1] if expected else None)) as pieces:
            async for piece in pieces:
                yield piece

    async def head(self, key: str) -> BlobInfo | None:
        path = path_of(key)
        try:
            async with self._errors("read"):
                found = await self._place.head(path)
        except NotFound:
            return None
        return BlobInfo(key, found.size, found.modified_us)

    async def delete(self, keys: Sequence[str]) -> None:
        paths = list(dict.fromkeys(map(path_of, keys)))
        if not paths:
            return
        async with self._errors("write"):
            await self._place.delete(paths)

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
        return await self._place.whole(path)

    async def _walk(self, folder: str, level: int, prefix: bytes) -> AsyncIterator[BlobInfo]:
        if level >= self._place.levels:
            found = _known(await self._place.below(folder), prefix)
            for info in sorted(found, key=lambda info: key_bytes(info.key)):
                yield info
            return
        folders, objects = await self._place.level(folder)
        entries: list[tuple[bytes, str | BlobInfo]] = [(prefix_of(path), path) for path in folders if path != INCOMING]
        entries += [(key_bytes(info.key), info) for info in _known(objects, prefix)]
        for starts, entry in sorted(entries, key=lambda pair: pair[0]):
            if isinstance(entry, BlobInfo):
                yield entry
            elif starts.startswith(prefix) or prefix.startswith(starts):
                async for info in self._walk(entry, level + 1, prefix):
                    yield info

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
        try:
            yield
        except self._place.failures as error:
            # Without the cause: its text holds the path, and the path names people.
            raise mapped(error, doing) from None


def mapped(error: Exception, doing: Doing) -> PalaverError:
    """Return the error of the tree for one of the file system or of obstore, met while doing a "read" or a "write"."""
    if doing == "read" and isinstance(error, FileNotFoundError):
        return NotFound("There is no such blob.")
    number = error.errno if isinstance(error, OSError) and error.errno else _errno_in(str(error))
    reason = os.strerror(number) if number else type(error).__name__
    if number in _FULL:
        return StorageFull("The blob store has no space left.", reason=reason)
    denied = number in _DENIED or type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError")
    if denied and doing == "write":
        return ReadOnly("The blob store cannot be written.", hint="Give the process write permission.", reason=reason)
    return Unavailable(f"The blob store could not {doing}: {reason}.", reason=reason)


def _check_range(start: int, length: int | None) -> None:
    if start < 0 or (length is not None and length < 0):
        raise Validation("A range of a blob starts at 0 or later and has a length of 0 or more.")


def _errno_in(text: str) -> int | None:
    found = re.search(r"\(os error (\d+)\)", text)
    return int(found[1]) if found else None


def _known(objects: Sequence[Held], prefix: bytes) -> list[BlobInfo]:
    """Return the objects of ours: what other programs left in a folder has no key."""
    found = []
    for path, size, modified_us in objects:
        key = None if path.startswith(f"{INCOMING}/") else key_of(path)
        if key is not None and key_bytes(key).startswith(prefix):
            found.append(BlobInfo(key, size, modified_us))
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
