"""What every view of one opened stack shares."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cached_property
from threading import get_ident
from typing import TYPE_CHECKING, Any

from palaver.blob_ports import BlobStore
from palaver.clock import Clock, us_of
from palaver.cursor import Signer
from palaver.plan import Planner
from palaver.ports import Cache, RecordEngine, SearchIndex
from palaver.schema import Schema

if TYPE_CHECKING:
    from palaver.feed import Projection, Runner
    from palaver.following import Follower
    from palaver.migrating.noticing import SchemaWatch

JUMP_US = 1_000_000


@dataclass
class Core:
    """The engines a URL named, and what runs on them."""

    schema: Schema
    planner: Planner
    records: RecordEngine
    blobs: BlobStore
    search: SearchIndex
    clock: Clock
    signer: Signer
    #: What the URL's option `cache` says.
    cache_at: str = field(default="memory", repr=False)
    projections: list[Projection] = field(default_factory=list)
    runner: Runner | None = None
    #: There while somebody listens to changes, or did.
    follower: Follower | None = None
    #: There in what an application opened: others may migrate its database.
    watch: SchemaWatch | None = None
    closers: list[Any] = field(default_factory=list)
    #: What is kept of records in this process's part of the cache, by what it is.
    kept: dict[str, Any] = field(default_factory=dict)
    last_us: int = 0
    next_sweep: float = 0.0
    loop: asyncio.AbstractEventLoop | None = None
    pid: int = 0
    thread: int = field(default_factory=get_ident)
    closed: bool = False

    @cached_property
    def cache(self) -> Cache:
        """The cache, made when it is first asked for: what does not use one does not pay for it."""
        from palaver.cache.opening import open_cache

        return open_cache(self.cache_at, self.clock)

    async def aclose(self) -> None:
        """Close the engines, the cache if there is one, and then what they share."""
        if self.watch is not None:
            await self.watch.stop()
        first = [each.aclose for each in (*self.kept.values(), *([self.cache] if "cache" in self.__dict__ else []))]
        for close in (*first, self.records.aclose, self.search.aclose, self.blobs.aclose, *self.closers):
            await close()

    def now_us(self) -> int:
        """Return the write instant: the clock's, a little later where one was given out already, so that no revision repeats.

        A clock that was put back is followed: reads follow it too, and both must agree on what has expired.
        """
        now = us_of(self.clock)
        if now <= self.last_us < now + JUMP_US:
            now = self.last_us + 1
        self.last_us = now
        return now
