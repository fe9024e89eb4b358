"""Values too large for memory: staged on disk, stored and read in pieces."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import IO, Any, TypeAlias, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

from palaver.errors import StorageFull, Unavailable, Validation

T = TypeVar("T")
Source: TypeAlias = Path | IO[bytes] | Iterable[bytes] | AsyncIterable[bytes]

_PIECE = 1024 * 1024


class LargeObject:
    """A value that is never whole in memory, of a field marked `Blob(...)`.

    `LargeObject.staged(source)` makes one to be stored; one that was read gives its pieces by `store.stream`. It belongs to its
    record: for another one its bytes are staged anew.
    """

    __slots__ = ("_staged", "key", "sha256", "size")

    def __init__(self, sha256: str, size: int, key: str | None, staged: _Staged | None = None) -> None:
        self.sha256, self.size = sha256, size
        #: Where it is stored; None while it is staged.
        self.key = key
        self._staged = staged

    @staticmethod
    def staged(source: Source, *, folder: Path | None = None) -> Staging:
        """Return a block that holds the bytes of a source ready to be stored: `async with LargeObject.staged(…) as value`.

        A file named by a `Path` is read where it is, twice, and must not change; what else gives bytes is copied to an unnamed file in
        `folder` (default: where temporary files go), which needs the room and is gone with the block. A plain `with` does as well,
        unless the source is asynchronous.
        """
        return Staging(source, folder)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield what was staged. Raises Validation where that has ended, or there was nothing: what is stored is for `store.stream`."""
        staged, at = self._staged, 0
        while at < self.size or staged is None:
            piece = b"" if staged is None else await _in_thread(staged.read, at)
            if not piece:
                raise Validation("What was staged is not there any more.", hint="Store it inside its `with` block.")
            at += len(piece)
            yield piece

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LargeObject) and (self.sha256, self.size) == (other.sha256, other.size)

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        return f"LargeObject({self.size:,} bytes)"

    def plain(self) -> dict[str, Any]:
        """Return what may be shown of it."""
        return {"size": self.size, "sha256": self.sha256}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        # Nothing but an instance: a key that comes from outside would reach the objects of others.
        shown = core_schema.typed_dict_schema(
            {
                "size": core_schema.typed_dict_field(core_schema.int_schema()),
                "sha256": core_schema.typed_dict_field(core_schema.str_schema()),
            }
        )
        plain = core_schema.plain_serializer_function_ser_schema(cls.plain, return_schema=shown)
        return core_schema.json_or_python_schema(shown, core_schema.is_instance_schema(cls), serialization=plain)


def bytes_of(data: bytes | LargeObject) -> int:
    """Return how many bytes a value stored by itself has."""
    return data.size if isinstance(data, LargeObject) else len(data)


class _Staged:
    """A file that several may read at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._turn = file, Lock()

    def read(self, at: int) -> bytes:
        with self._turn:
            if self._file.closed:
                return b""
            self._file.seek(at)
            return self._file.read(_PIECE)

    def append(self, data: bytes) -> None:
        try:
            # In turn with `close`: while a file that was closed is written, another may have been given its number.
            with self._turn:
                left = memoryview(data)
                while left:
                    left = left[self._file.write(left) :]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull("There is no room to stage a large object.", hint="Name a larger `folder`, or set TMPDIR.") from None
            raise Unavailable("A large object could not be staged.", reason=type(error).__name__) from None

    def close(self) -> None:
        with self._turn:
            self._file.close()


class Staging:
    """The block in which a staged object can be stored."""

    def __init__(self, source: Source, folder: Path | None) -> None:
        self._source, self._folder = source, folder
        self._staged: _Staged | None = None
        self._digest, self._size = sha256(), 0
        self._ended = False

    def __enter__(self) -> LargeObject:
        if isinstance(self._source, AsyncIterable):
            raise Validation("This source is asynchronous.", hint="Write `async with`.")
        try:
            if isinstance(self._source, Path):
                self._hold(open(self._source, "rb", buffering=0))
                assert self._staged is not None
                for piece in _read_from(self._staged):
                    self._count(piece)
            else:
                self._begin()
                for piece in _given(self._source):
                    self._take(piece)
        except BaseException:
            self.__exit__()
            raise
        return LargeObject(self._digest.hexdigest(), self._size, None, self._staged)

    def __exit__(self, *exc: object) -> None:
        self._ended = True
        if self._staged is not None:
            self._staged.close()

    async def __aenter__(self) -> LargeObject:
        gathered = bytearray()
        try:
            if not isinstance(self._source, AsyncIterable):
                return await _in_thread(self.__enter__)
            await _in_thread(self._begin)
            async for piece in self._source:
                gathered += piece
                if len(gathered) >= _PIECE:
                    await _in_thread(self._take, bytes(gathered))
                    gathered.clear()
            await _in_thread(self._take, bytes(gathered))
        except BaseException:
            self.__exit__()
            raise
        return LargeObject(self._digest.hexdigest(), self._size, None, self._staged)

    async def __aexit__(self, *exc: object) -> None:
        await _in_thread(self.__exit__)

    def _begin(self) -> None:
        import tempfile

        self._hold(tempfile.TemporaryFile(dir=self._folder, buffering=0))  # noqa: SIM115 - the block closes it

    def _hold(self, file: IO[bytes]) -> None:
        self._staged = _Staged(file)
        if self._ended:
            # Cancelled while a thread was opening it.
            file.close()

    def _take(self, piece: bytes) -> None:
        assert self._staged is not None
        self._staged.append(piece)
        self._count(piece)

    def _count(self, piece: bytes) -> None:
        self._digest.update(piece)
        self._size += len(piece)


def _read_from(staged: _Staged) -> Iterator[bytes]:
    at = 0
    while piece := staged.read(at):
        at += len(piece)
        yield piece


def _given(source: IO[bytes] | Iterable[bytes]) -> Iterator[bytes]:
    read = getattr(source, "read", None)
    if read is None:
        yield from source
        return
    while piece := read(_PIECE):
        yield piece


async def _in_thread(call: Callable[..., T], *given: Any) -> T:
    # Every declaration imports this file, and few programs that only declare need an event loop.
    from asyncio import to_thread

    return await to_thread(call, *given)
