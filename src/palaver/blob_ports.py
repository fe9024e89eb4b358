"""What a store of objects by key fulfils, and the optional powers of one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from palaver.schema import Schema


class BlobInfo(NamedTuple):
    """An object as listed. `modified_us`: when it was last put, by the store's own clock; its age protects uploads in flight."""

    key: str
    size: int
    modified_us: int


class BlobStore(Protocol):
    """Objects by key. Keys are content-addressed by the planner and never overwritten with other bytes."""

    async def put(self, key: str, data: bytes) -> None:
        """Store the object; durable, whole and visible when this returns. Storing the same key again is not an error."""
        ...

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes, or a range of them; raises NotFound."""
        ...

    async def put_stream(self, key: str, pieces: AsyncIterable[bytes], size: int) -> None:
        """Store an object of `size` bytes as its pieces come, without ever holding it whole; else as `put`.

        Nothing of it is visible before it is whole, and nothing stays where this fails or is cancelled. Raises Validation where the
        pieces are not of that size, or not of the hash the key ends in; what `pieces` raises goes through as it is.
        """
        ...

    def get_stream(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes, or a range of them, in pieces of some MB; raises NotFound before the first.

        Raises Corruption in place of the last piece of a whole object that does not have the hash its key ends in.
        """
        ...

    async def head(self, key: str) -> BlobInfo | None: ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; a missing one is not an error."""
        ...

    def list(self, prefix: str = "") -> AsyncIterator[BlobInfo]:
        """Yield every object whose key starts with the prefix, whole path segments or not, in byte order of the keys."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Presigned:
    """An address that works without credentials until it expires, and the headers whoever uses it has to send. It is a secret."""

    method: Literal["GET", "PUT"]
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@runtime_checkable
class Presigns(Protocol):
    async def presign(
        self,
        key: str,
        *,
        method: Literal["GET", "PUT"] = "GET",
        expires_s: int = 300,
        filename: str | None = None,
        content_type: str | None = None,
    ) -> Presigned:
        """Return an address that lets whoever has it read the object, as an attachment, or store it, for so many seconds.

        Asks the storage nothing: the object need not be there.
        """
        ...


@runtime_checkable
class CreatesObjects(Protocol):
    async def create(self, key: str, data: bytes) -> bool:
        """Store the object unless one of that key is there, and say whether it was stored: of several at once exactly one is."""
        ...


@runtime_checkable
class Provisions(Protocol):
    """A place for objects that has to be made before it is used, and set as a schema asks."""

    @property
    def called(self) -> str:
        """What people call it; a plan made for one place is for no other."""
        ...

    async def lacks(self, schema: Schema) -> dict[str, str]:
        """Return the parts that are missing or set otherwise, each with what it will be, in the order they are to be made.

        Raises Forbidden or ConfigError where that cannot be looked at.
        """
        ...

    async def prepare(self, schema: Schema, part: str) -> None:
        """Make or set one part; doing it again changes nothing."""
        ...
