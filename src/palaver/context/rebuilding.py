"""Rebuilds: one at a time for each conversation, a few at once in all, and none that answers with what was before the question."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Flight(Generic[T]):
    """A rebuild that has not looked yet: whoever joins it now gets what is true after he joined.

    `holding` are the items its readers know of, `again` says that another rebuild of the conversation ended before it began.
    """

    def __init__(self) -> None:
        self.holding: set[str] = set()
        self.again = False
        self.task: asyncio.Task[T]


class Rebuilding(Generic[T]):
    """`look` is what a rebuild does when its turn has come."""

    def __init__(self, at_most: int) -> None:
        self._turns = asyncio.Semaphore(at_most)
        self._waiting: dict[str, Flight[T]] = {}
        self._under_way: dict[str, asyncio.Task[T]] = {}

    async def joined(self, key: str, holding: str | None, look: Callable[[Flight[T]], Awaitable[T]]) -> tuple[T, bool]:
        """Return what a rebuild of this conversation finds that begins after this call, and whether another read began it."""
        flight, others = self._waiting.get(key), True
        if flight is None:
            flight, others = Flight(), False
            self._waiting[key] = flight
            flight.task = asyncio.get_running_loop().create_task(self._fly(key, flight, look), name="palaver-context")
            flight.task.add_done_callback(lambda ended: self._ended(key, ended))
        if holding is not None:
            flight.holding.add(holding)
        return await asyncio.shield(flight.task), others

    async def _fly(self, key: str, flight: Flight[T], look: Callable[[Flight[T]], Awaitable[T]]) -> T:
        while earlier := self._under_way.get(key):
            flight.again = True
            await asyncio.wait([earlier])
        async with self._turns:
            # What is looked at from here on may be older than a question that is asked later.
            del self._waiting[key]
            self._under_way[key] = flight.task
            return await look(flight)

    def _ended(self, key: str, task: asyncio.Task[T]) -> None:
        if self._under_way.get(key) is task:
            del self._under_way[key]
        if (flight := self._waiting.get(key)) is not None and flight.task is task:
            del self._waiting[key]
        if not task.cancelled():
            # Its readers may all have gone; who is still there gets the error from the task itself.
            task.exception()
