"""`--timeout`: a command ends in time, and says what it was doing."""

from __future__ import annotations

import os
import threading
from collections.abc import Coroutine
from math import isfinite
from typing import Any

from palaver.cli.exits import Exit
from palaver.cli.output import Output
from palaver.cli.problems import Stop, problem_of

GRACE_S = 2.0
"""How long a command has to end in order, before the process ends as if it were killed: nothing acknowledged is lost by that."""


class Deadline:
    """Ends a command after so many seconds: cancelled at first, and where that is not heard, with the process."""

    def __init__(self, seconds: float | None, out: Output, *, as_json: bool) -> None:
        if seconds is not None and not (isfinite(seconds) and 0 < seconds <= threading.TIMEOUT_MAX / 2):
            raise Stop(Exit.USAGE, "usage", "--timeout takes seconds, more than none.", hint="Write --timeout 30.")
        self._seconds, self._out, self._as_json = seconds, out, as_json
        self._last: threading.Timer | None = None

    def __enter__(self) -> Deadline:
        if self._seconds is not None:
            self._last = threading.Timer(self._seconds + GRACE_S, self._end)
            self._last.daemon = True
            self._last.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._last is not None:
            self._last.cancel()

    def run(self, command: Coroutine[Any, Any, Any]) -> Any:
        """Run a command within the time there is."""
        import asyncio

        return asyncio.run(self._keep(command))

    async def _keep(self, command: Coroutine[Any, Any, Any]) -> Any:
        import asyncio

        try:
            async with asyncio.timeout(self._seconds) as limit:
                return await command
        except Exception as error:
            if not limit.expired():
                raise
            # Whatever a cancelled command says of it, the time was the cause.
            raise self._too_slow() from error

    def _too_slow(self) -> Stop:
        detail = f"The command took longer than {self._seconds:g} s; it was {self._out.doing}."
        return Stop(Exit.UNAVAILABLE, "timeout", detail, hint="Give it more with --timeout, or ask for less.")

    def _end(self) -> None:
        """End the process: code that blocks, and a thread that waits for a name server, hear of no cancellation."""
        problem_of(self._too_slow()).tell(as_json=self._as_json)
        os._exit(Exit.UNAVAILABLE)
