"""Identifiers that sort by time, from an injected clock and injected randomness."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from palaver import clock as clock_module
from palaver.clock import Clock, us_of

_LOW = 2**62 - 1
_VARIANT = 0x8000_0000_0000_0000


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
        # The tail's upper 12 bits are in the head's text, which serves until they change.
        self._head = ""
        self._high, self._low = 0, 0

    def new(self) -> str:
        ms = us_of(self._clock or clock_module.installed()) // 1000
        with self._lock:
            if ms > self._last_ms:
                self._start(ms, self._rng.getrandbits(73))
            else:
                self._low += self._rng.getrandbits(32) + 1
                if self._low > _LOW:
                    self._carry()
            head, text = self._head, f"{_VARIANT | self._low:x}"
        return f"{head}{text[:4]}-{text[4:]}"

    def _start(self, ms: int, tail: int) -> None:
        self._last_ms, self._high, self._low = ms, tail >> 62, tail & _LOW
        self._head = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{self._high:03x}-"

    def _carry(self) -> None:
        if self._high + 1 >> 12:
            self._start(self._last_ms + 1, self._rng.getrandbits(73))
        else:
            self._start(self._last_ms, (self._high + 1 << 62) + (self._low & _LOW))


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
