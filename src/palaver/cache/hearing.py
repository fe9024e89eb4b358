"""What one listener of a bus has not taken yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from palaver.caching import Heard, Missed

FURTHEST_BEHIND = 1_000


class Ear:
    """A queue with a bound, in one event loop: over it, all that waits is given up for one `Missed`."""

    def __init__(self, bound: int = FURTHEST_BEHIND) -> None:
        self.loop = asyncio.get_running_loop()
        self._bound = bound
        self._waiting: deque[Heard | Missed] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._closed = False

    def hear(self, message: Heard | Missed) -> None:
        """Queue a message; only from this ear's own event loop."""
        if self._closed:
            return
        if len(self._waiting) >= self._bound:
            self._waiting.clear()
            self._waiting.append(Missed(listening=True))
        self._waiting.append(message)
        self._stir()

    def close(self) -> None:
        self._closed = True
        self._stir()

    def _stir(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def __aiter__(self) -> AsyncIterator[Heard | Missed]:
        return self

    async def __anext__(self) -> Heard | Missed:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._wake = self.loop.create_future()
            await self._wake
        return self._waiting.popleft()


class Subscribes(Protocol):
    async def join(self, ear: Ear, topics: tuple[str, ...]) -> None: ...

    async def part(self, ear: Ear, topics: tuple[str, ...]) -> None: ...


class Listener:
    """`ports.Listening` of a bus that lets ears join and part."""

    def __init__(self, bus: Subscribes, topics: tuple[str, ...], make: Callable[[], Ear] = Ear) -> None:
        self._bus, self._topics, self._make = bus, topics, make
        self._ear: Ear | None = None

    async def __aenter__(self) -> AsyncIterator[Heard | Missed]:
        self._ear = self._make()
        await self._bus.join(self._ear, self._topics)
        return self._ear

    async def __aexit__(self, *exc: object) -> None:
        if self._ear is not None:
            self._ear.close()
            await self._bus.part(self._ear, self._topics)
