"""Identifiers that sort by time, from an injected clock and injected randomness."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from palaver import clock as clock_module
from palaver.clock import Clock, to_ms


class Ids:
    """A source of UUIDv7 texts that never goes back, within a millisecond or when the clock does.

    48 bits of milliseconds, then a 74-bit random tail that grows within one millisecond (RFC 9562 §6.2, method 2).
    """

    def __init__(self, clock: Clock | None = None, rng: random.Random | None = None) -> None:
        self._clock = clock
        # A generator of our own: the system's is a call that lets other threads in, and ids are not secrets.
        self._rng = rng or random.Random(os.urandom(32))
        if rng is None and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=lambda: self._rng.seed(os.urandom(32)))
        self._lock = threading.Lock()
        self._last_ms = -1
        self._tail = 0

    def new(self) -> str:
        clock = self._clock or clock_module.installed()
        ms = to_ms(clock.now())
        with self._lock:
            if ms > self._last_ms:
                self._last_ms = ms
                self._tail = self._rng.getrandbits(73)
            else:
                self._tail += self._rng.getrandbits(32) + 1
                if self._tail >> 74:
                    self._last_ms += 1
                    self._tail = self._rng.getrandbits(73)
            ms, tail = self._last_ms, self._tail
        value = (ms << 80) | (7 << 76) | ((tail >> 62) << 64) | (2 << 62) | (tail & ((1 << 62) - 1))
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


_current: ContextVar[Ids] = ContextVar("palaver_ids", default=Ids())  # noqa: B039 - one sequence per process is the point


def new_id() -> str:
    """Return a new identifier; later ones sort after earlier ones from the same process."""
    return _current.get().new()


@contextmanager
def use(ids: Ids) -> Iterator[Ids]:
    """Install a source of identifiers for the running context."""
    token = _current.set(ids)
    try:
        yield ids
    finally:
        _current.reset(token)
