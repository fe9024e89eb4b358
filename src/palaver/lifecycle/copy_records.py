"""The first pass of a copy: every table read in segments, several pages on their way at once, each segment resumable."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from palaver.lifecycle.copy_ends import SCAN, End, copied, in_order
from palaver.lifecycle.copy_progress import Progress, Segment
from palaver.values import KeyPart, Record

TABLES_AT_ONCE = 4
PAGES_AHEAD = 3
# A server reads its segments side by side; a file would read the whole table for each.
SEGMENTS = 4


class FirstPass:
    """Copies every record as it is stored; what was written meanwhile is left to the feed."""

    def __init__(self, source: End, target: End, progress: Progress, copied: Callable[[str, int], None]) -> None:
        self._source, self._target, self._progress, self._copied = source, target, progress, copied

    async def run(self) -> None:
        """Copy what is not copied yet; what a table refers to is there before it."""
        for level in in_order(self._source.tables):
            waiting = deque(level)

            async def worker(waiting: deque[str] = waiting) -> None:
                while waiting:
                    await self._table(waiting.popleft())

            await _together([worker() for _ in range(min(TABLES_AT_ONCE, len(level)))])

    async def _table(self, table: str) -> None:
        segments = self._progress.segments(table, 1 if self._source.embedded else SEGMENTS)
        await _together([self._segment(table, segments, number) for number in range(len(segments)) if not segments[number].done])

    async def _segment(self, table: str, segments: Sequence[Segment], number: int) -> None:
        """Read on while earlier pages are being written; the progress follows the last page of an unbroken row."""
        segment, part = segments[number], (number, len(segments))
        after = segment.after
        ahead: deque[tuple[asyncio.Task[None], int, tuple[KeyPart, ...] | None]] = deque()
        try:
            while True:
                page = await self._source.ask(partial(self._source.records.scan, table, after=after, limit=SCAN, segment=part))
                ahead.append((asyncio.create_task(self._store(table, copied(table, page.records))), len(page.records), page.last))
                while ahead and (len(ahead) >= PAGES_AHEAD or ahead[0][0].done() or page.last is None):
                    await self._advance(table, segment, *ahead.popleft())
                if page.last is None:
                    return
                after = page.last
        finally:
            for task, _, _ in ahead:
                task.cancel()
            await asyncio.gather(*(task for task, _, _ in ahead), return_exceptions=True)

    async def _advance(
        self, table: str, segment: Segment, storing: asyncio.Task[None], count: int, last: tuple[KeyPart, ...] | None
    ) -> None:
        await storing
        segment.after, segment.done = last, last is None
        segment.records += count
        self._copied(table, count)
        await self._progress.save_now_and_then()

    async def _store(self, table: str, records: Sequence[Record]) -> None:
        if not records:
            return
        engine: Any = self._target.records
        over = not self._progress.into_existing

        async def store() -> None:
            self._progress.check()
            await engine.restore(table, records, over=over)

        await self._target.ask(store)


async def _together(work: Sequence[Any]) -> None:
    """Run all; the first failure ends the others before it is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except BaseExceptionGroup as failed:
        raise _first(failed) from None


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = failed
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
