"""Objects on their way between a record's fields and the blob store."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from palaver.blob_ports import BlobStore
from palaver.blobpath import NOBODY, segment
from palaver.errors import NotFound, Validation
from palaver.large_object import LargeObject


async def upload(blobs: BlobStore, key: str, data: bytes | LargeObject) -> None:
    if isinstance(data, LargeObject):
        await blobs.put_stream(key, data.pieces(), data.size)
    else:
        await blobs.put(key, data)


async def streamed(blobs: BlobStore, value: LargeObject, tenant: str | None, start: int, length: int | None) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a stored value. Raises Validation for one that is not stored, or belongs to another tenant."""
    if value.key is None:
        raise Validation("This large object is only staged.", hint="Store its record, and take the one that gives back.")
    if not value.key.startswith(f"{segment(tenant) if tenant else NOBODY}/"):
        raise Validation("This large object belongs to another tenant.", hint="Use the store its record was read with.")
    try:
        async with aclosing(blobs.get_stream(value.key, start=start, length=length)) as pieces:
            async for piece in pieces:
                yield piece
    except NotFound:
        raise NotFound("This large object is not there any more.", hint="Its record was changed or deleted: read it again.") from None
