"""How a command that goes on until it is told to ends in order: Ctrl-C and SIGTERM are an event while it waits for one."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
BOTH = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping(signals: tuple[signal.Signals, ...] = BOTH) -> Iterator[asyncio.Event]:
    """Give an event that these signals set, in place of what they would do."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def unless(stop: asyncio.Event, doing: Coroutine[Any, Any, T]) -> T | None:
    """Return what is being done gives; None where the event is set first, and it is cancelled."""
    task, stopped = asyncio.ensure_future(doing), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, stopped):
            each.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)
