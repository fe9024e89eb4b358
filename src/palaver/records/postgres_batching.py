"""Commits that callers share: new records that wait at the same time are stored by one statement, each batch whole or not at all.

Where a group is refused, each of its batches is tried alone, so that nobody suffers for a neighbour.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg

from palaver.connections.postgres import Pool
from palaver.errors import Throttled
from palaver.ops import Refused, WriteSet, Written
from palaver.records.postgres_feed import Feed, more
from palaver.records.postgres_lists import parameter
from palaver.records.postgres_looking import Remembered
from palaver.records.postgres_rows import Row, Rows
from palaver.records.postgres_sending import Senders
from palaver.records.postgres_statements import creates

# Measured: more groups at once only make each of them smaller, and a commit costs the same for any size.
GROUPS = 2
MOST_RECORDS = 256
# Measured with 32 callers: 14,000 pairs a second in halves, 9,800 without. What few callers prepare takes less time than a commit.
HALVED_FROM = 8
MOST_WAITING = 10_000


class Creation:
    """New records of one caller, ready to be inserted."""

    __slots__ = ("made", "outcome", "writes")

    def __init__(self, rows: Mapping[str, Rows], writes: WriteSet) -> None:
        self.writes = writes
        self.outcome: asyncio.Future[Written | Refused] | None = None
        now_us, cause = writes.now_us, writes.cause
        self.made: list[tuple[Rows, Row, str | None]] = []
        for op in writes.ops:
            found = rows[op.at.table]
            self.made.append((found, found.encode(op.record, now_us), more(cause, op.released)))  # type: ignore[union-attr]

    def written(self) -> Written:
        count = len(self.made)
        return Written([self.writes.now_us] * count, [None] * count)


class SharedCommits:
    """Gathers creations while others are on their way, and sends them together."""

    def __init__(self, pool: Pool, feed: Feed, alone: Callable[[Creation], Awaitable[Written | Refused]], remembered: Remembered) -> None:
        self._pool = pool
        self._feed = feed
        self._alone = alone
        self._remembered = remembered
        self._waiting: deque[Creation] = deque()
        self._senders = Senders(GROUPS, self._send)

    async def write(self, creation: Creation) -> Written | Refused:
        """Store a creation with whoever else is waiting; raises Throttled where too many are."""
        if len(self._waiting) >= MOST_WAITING:
            raise Throttled(f"{MOST_WAITING:,} batches are waiting to be written already.")
        creation.outcome = asyncio.get_running_loop().create_future()
        self._waiting.append(creation)
        self._senders.start()
        return await creation.outcome

    async def _send(self) -> None:
        while self._waiting:
            group = self._taken()
            if not group:
                continue
            try:
                await self.store(group)
                await self._answer(group)
            except asyncpg.PostgresError:
                await asyncio.gather(*(self._settle(creation) for creation in group))
            except BaseException as error:
                for creation in group:
                    _fail(creation, error)
                if not isinstance(error, Exception):
                    raise

    async def _answer(self, group: Sequence[Creation]) -> None:
        """Tell the callers of a group that it is stored, in two halves unless another group is on its way.

        Callers that hear at once also write again at once, and then nothing is done here while the server works, nor there
        while they prepare: of two halves one prepares what it writes next while the other's is stored.
        """
        half = len(group) // 2 if len(group) >= HALVED_FROM and self._senders.alone else 0
        for creation in group[:half]:
            _succeed(creation)
        if half:
            await asyncio.sleep(0)
        for creation in group[half:]:
            _succeed(creation)

    def _taken(self) -> list[Creation]:
        """Take what is waiting, up to a size; a caller that gave up before has written nothing."""
        group: list[Creation] = []
        records = 0
        while self._waiting and records < MOST_RECORDS:
            creation = self._waiting.popleft()
            if creation.outcome is not None and not creation.outcome.done():
                group.append(creation)
                records += len(creation.made)
        return group

    async def _settle(self, creation: Creation) -> None:
        try:
            done = await self._alone(creation)
        except BaseException as error:
            _fail(creation, error)
            if not isinstance(error, Exception):
                raise
        else:
            if creation.outcome is not None and not creation.outcome.done():
                creation.outcome.set_result(done)

    async def store(self, group: Sequence[Creation]) -> None:
        """Insert all of them in one statement, or nothing; the server's refusal comes as it is."""
        by_table: dict[Rows, tuple[list[Row], list[str | None]]] = {}
        for creation in group:
            for rows, row, kept in creation.made:
                found = by_table.get(rows)
                if found is None:
                    found = by_table[rows] = ([], [])
                found[0].append(row)
                found[1].append(kept)
        about = any(kept is not None for _, mores in by_table.values() for kept in mores)
        marked = any(row[-1] is not None for made, _ in by_table.values() for row in made)
        arguments: list[Any] = []
        for rows, (made, mores) in by_table.items():
            columns = list(zip(rows.stored, zip(*made, strict=True), strict=True))
            # A new record has no mark.
            given = columns if marked else columns[:-1]
            arguments += [parameter(rows.kinds[name], column) for name, column in given]
            if about:
                arguments.append(parameter("json", mores))
        text = creates(tuple(by_table), about=about, marked=marked)
        ((version,),) = await self._pool.fetch_raw(text, *arguments)
        for creation in group:
            for op, (_, row, _) in zip(creation.writes.ops, creation.made, strict=True):
                self._remembered.learn(op.at, row, version)
        self._feed.written()

    async def aclose(self) -> None:
        """Return when everything that waits has been sent."""
        await self._senders.ended()


def _succeed(creation: Creation) -> None:
    if creation.outcome is not None and not creation.outcome.done():
        creation.outcome.set_result(creation.written())


def _fail(creation: Creation, error: BaseException) -> None:
    if creation.outcome is not None and not creation.outcome.done():
        creation.outcome.set_exception(error)
