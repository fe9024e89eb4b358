"""Batches that take looking and wait at the same time: looked for in one statement, judged one by one, written in another.

Where that statement is refused, each batch is tried alone, so that nobody suffers for a neighbour. No two batches in the
same group, or in groups under way at the same time, touch a record that one of them writes: they would overtake each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import asyncpg

from palaver.connections.postgres import Pool
from palaver.errors import NumberRange, Throttled
from palaver.ops import Address, Check, Refused, WriteSet, Written
from palaver.records.postgres_decision import Decision, statement
from palaver.records.postgres_feed import Feed
from palaver.records.postgres_looking import Remembered, decoded, looked
from palaver.records.postgres_rows import Rows
from palaver.records.postgres_sending import Senders

# Measured: more groups at once only make each of them smaller, and a commit costs the same for any size.
GROUPS = 2
MOST_OPS = 256
MOST_WAITING = 10_000


class Waiting:
    """A batch of one caller, and what it reads and writes."""

    __slots__ = ("outcome", "reads", "writes", "wrote")

    def __init__(self, writes: WriteSet) -> None:
        self.writes = writes
        self.outcome: asyncio.Future[Written | Refused] = asyncio.get_running_loop().create_future()
        self.wrote = {op.at for op in writes.ops if type(op) is not Check}
        self.reads = {op.at for op in writes.ops if type(op) is Check}

    def meets(self, read: Collection[Address], written: Collection[Address]) -> bool:
        """Say whether a record that one of both writes is touched by the other."""
        return not (self.wrote.isdisjoint(written) and self.wrote.isdisjoint(read) and self.reads.isdisjoint(written))

    def end(self, outcome: Written | Refused | BaseException) -> None:
        if self.outcome.done():
            return
        if isinstance(outcome, BaseException):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class SharedDecisions:
    """Gathers batches while others are on their way, and decides and sends them together."""

    def __init__(
        self,
        pool: Pool,
        feed: Feed,
        rows: Mapping[str, Rows],
        remembered: Remembered,
        alone: Callable[[WriteSet], Awaitable[Written | Refused]],
    ) -> None:
        self._pool, self._feed, self._rows, self._remembered = pool, feed, rows, remembered
        self._alone = alone
        self._waiting: list[Waiting] = []
        self._reading: list[Address] = []
        self._writing: set[Address] = set()
        self._senders = Senders(GROUPS, self._send)
        self._loners: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        return bool(self._senders)

    async def write(self, writes: WriteSet) -> Written | Refused:
        """Write a batch with whoever else is waiting; raises Throttled where too many are."""
        if len(self._waiting) >= MOST_WAITING:
            raise Throttled(f"{MOST_WAITING:,} batches are waiting to be written already.")
        waiting = Waiting(writes)
        self._waiting.append(waiting)
        self._senders.start()
        return await waiting.outcome

    async def _send(self) -> None:
        while group := self._taken():
            written = set().union(*(waiting.wrote for waiting in group))
            read = [address for waiting in group for address in waiting.reads]
            self._writing |= written
            self._reading += read
            try:
                await self._sent(group)
            except BaseException as error:
                for waiting in group:
                    waiting.end(error)
                if not isinstance(error, Exception):
                    raise
            finally:
                self._writing -= written
                for address in read:
                    self._reading.remove(address)
            if self._waiting:
                # What met this group alone may keep another sender busy now.
                self._senders.start()

    def _taken(self) -> list[Waiting]:
        """Take what is waiting and meets nothing under way nor what waits before it, up to a size."""
        group: list[Waiting] = []
        left: list[Waiting] = []
        read, written, count = set(self._reading), set(self._writing), 0
        for number, waiting in enumerate(self._waiting):
            if count >= MOST_OPS:
                left += self._waiting[number:]
                break
            if waiting.outcome.done():
                continue
            if waiting.meets(read, written):
                left.append(waiting)
            else:
                group.append(waiting)
                count += len(waiting.writes.ops)
            read |= waiting.reads
            written |= waiting.wrote
        self._waiting = left
        return group

    async def _sent(self, group: list[Waiting]) -> None:
        decided = await self._decided(group)
        if not decided:
            return
        decisions = [decision for _, decision in decided]
        made = statement(decisions, patient=len(decisions) == 1)
        try:
            rows: list[Any] = await self._pool.fetch_raw(*made) if made is not None else []
        except (asyncpg.PostgresError, NumberRange):
            for waiting, decision in decided:
                self._remembered.forget(op.at for op in decision.writes.ops)
                self._by_itself(waiting)
            return
        for waiting, decision in decided:
            waiting.end(decision.written())
            for address, row in decision.rows():
                self._remembered.learn(address, row, rows[0][1])
        if made is not None:
            self._feed.written()

    async def _decided(self, group: list[Waiting]) -> list[tuple[Waiting, Decision]]:
        """Judge each batch, by what is remembered where that can do no harm; those refused, or to be tried alone, are dealt with."""
        decided: list[tuple[Waiting, Decision]] = []
        unknown: list[Waiting] = []
        for waiting in group:
            decision = self._recalled(waiting.writes)
            if decision is None:
                unknown.append(waiting)
            else:
                decided.append((waiting, decision))
        if not unknown:
            return decided
        at = [op.at for waiting in unknown for op in waiting.writes.ops]
        rows = self._rows
        found = await looked(rows, at, self._pool.read)
        for address, (row, version) in found.items():
            self._remembered.learn(address, row, version)
        for waiting in unknown:
            try:
                decision = Decision(rows, waiting.writes, decoded(rows, waiting.writes, found))
            except Exception as error:
                waiting.end(error)
                continue
            if decision.failures:
                waiting.end(Refused(decision.failures))
            elif decision.absent:
                self._by_itself(waiting)
            else:
                decided.append((waiting, decision))
        return decided

    def _recalled(self, writes: WriteSet) -> Decision | None:
        """Judge a batch by what is remembered; None where that would take being sure of it."""
        seen = self._remembered.recall(writes.ops)
        if seen is None:
            return None
        try:
            decision = Decision(self._rows, writes, seen)
        except Exception:
            # What cannot be made of what is remembered may well be made of what is there.
            return None
        return decision if not decision.failures and decision.is_sure() else None

    def _by_itself(self, waiting: Waiting) -> None:
        """Try a batch alone, while others go on."""
        task = asyncio.get_running_loop().create_task(self._settle(waiting))
        self._loners.add(task)
        task.add_done_callback(self._loners.discard)

    async def _settle(self, waiting: Waiting) -> None:
        if waiting.outcome.done():
            # The caller gave up, and nothing was written.
            return
        try:
            waiting.end(await self._alone(waiting.writes))
        except BaseException as error:
            waiting.end(error)
            if not isinstance(error, Exception):
                raise

    async def aclose(self) -> None:
        """Return when everything that waits has been sent."""
        await self._senders.ended()
        while self._loners:
            await asyncio.gather(*self._loners, return_exceptions=True)
