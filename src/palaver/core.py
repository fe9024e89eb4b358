"""What every view of one opened stack shares."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from threading import get_ident
from typing import TYPE_CHECKING, Any

from palaver.clock import Clock, us_of
from palaver.cursor import Signer
from palaver.plan import Planner
from palaver.ports import BlobStore, RecordEngine, SearchIndex
from palaver.schema import Schema

if TYPE_CHECKING:
    from palaver.feed import Projection, Runner

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
    projections: list[Projection] = field(default_factory=list)
    runner: Runner | None = None
    closers: list[Any] = field(default_factory=list)
    last_us: int = 0
    next_sweep: float = 0.0
    loop: asyncio.AbstractEventLoop | None = None
    pid: int = 0
    thread: int = field(default_factory=get_ident)
    closed: bool = False

    def now_us(self) -> int:
        """Return the write instant: the clock's, a little later where one was given out already, so that no revision repeats.

        A clock that was put back is followed: reads follow it too, and both must agree on what has expired.
        """
        now = us_of(self.clock)
        if now <= self.last_us < now + JUMP_US:
            now = self.last_us + 1
        self.last_us = now
        return now
