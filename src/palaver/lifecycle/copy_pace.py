"""How fast a copy goes: as many requests at once as the target takes, fewer when it says that it is too much."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from palaver.errors import PalaverError, Throttled

T = TypeVar("T")
MOST = 8
GROW_AFTER = 32
PATIENCE_S = 60.0
LONGEST_PAUSE_S = 5.0
FIRST_PAUSE_S = 0.05


class Pace:
    """Repeats what can succeed later, and narrows while the other side throttles.

    Everything repeated through it is harmless to repeat. What fails for `patience_s` from the first failure on is raised.
    """

    def __init__(self, *, most: int = MOST, patience_s: float = PATIENCE_S) -> None:
        self._most, self._patience_s = most, patience_s
        self._allowed, self._busy, self._smooth = most, 0, 0
        self._free = asyncio.Condition()
        self.throttled = 0
        self.gave_up = False

    @property
    def allowed(self) -> int:
        return self._allowed

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Run a call when its turn comes, again after a random pause where it was too early."""
        async with self._free:
            await self._free.wait_for(lambda: self._busy < self._allowed)
            self._busy += 1
        try:
            return await self.patiently(call)
        finally:
            async with self._free:
                self._busy -= 1
                self._free.notify_all()

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Run a call at once, whatever else is on its way: for what must not wait behind the data."""
        loop = asyncio.get_running_loop()
        failing_since: float | None = None
        pause = FIRST_PAUSE_S
        while True:
            try:
                done = await call()
            except PalaverError as error:
                if not error.retryable and error.code != "outcome_unknown":
                    raise
                failing_since = failing_since or loop.time()
                if loop.time() - failing_since > self._patience_s:
                    self.gave_up = True
                    raise
                if isinstance(error, Throttled):
                    self.throttled += 1
                    self._allowed, self._smooth = max(1, self._allowed // 2), 0
                await asyncio.sleep(random.uniform(0, pause))
                pause = min(pause * 2, LONGEST_PAUSE_S)
            else:
                self._widen()
                return done

    def _widen(self) -> None:
        self._smooth += 1
        if self._smooth >= GROW_AFTER and self._allowed < self._most:
            self._allowed, self._smooth = self._allowed + 1, 0
