"""Objects no record refers to: uploads whose write was refused, or whose release was lost in a crash."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Collection
from datetime import timedelta

from palaver.blob_ports import BlobInfo, BlobStore
from palaver.clock import EPOCH, now

_MICROSECOND = timedelta(microseconds=1)


async def orphans(
    blobs: BlobStore,
    referenced: AsyncIterable[str] | Collection[str],
    *,
    older_than: timedelta = timedelta(days=1),
    prefix: str = "",
) -> AsyncIterator[BlobInfo]:
    """Yield the objects below a prefix that are older than that and not referenced, in byte order of their keys.

    An object is uploaded before its reference commits, so `older_than` must be longer than any write takes.
    Deletes nothing: delete soon after, since a retried write may upload the same object again.
    """
    before = (now() - older_than - EPOCH) // _MICROSECOND
    keys = frozenset([key async for key in referenced]) if isinstance(referenced, AsyncIterable) else frozenset(referenced)
    async for info in blobs.list(prefix):
        if info.modified_us < before and info.key not in keys:
            yield info
