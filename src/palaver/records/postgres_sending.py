"""Tasks that send what callers gather meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Senders:
    """At most so many tasks that run `send`, which returns when nothing waits that it could take."""

    def __init__(self, most: int, send: Callable[[], Awaitable[None]]) -> None:
        self._most = most
        self._send = send
        self._tasks: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._tasks)

    @property
    def alone(self) -> bool:
        """Whether no more than one is running."""
        return len(self._tasks) < 2

    def start(self) -> None:
        """See to it that what waits is sent: by a new task, unless as many as may run already."""
        if len(self._tasks) < self._most:
            self._tasks.add(asyncio.get_running_loop().create_task(self._run()))

    async def _run(self) -> None:
        try:
            await self._send()
        finally:
            # At once, not when the loop comes to it: who gathers in between must not count on a task that has ended.
            self._tasks.discard(asyncio.current_task())

    async def ended(self) -> None:
        """Return when none is running."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
