"""Identifiers of the platform's form for messages it did not number: replies, imports, tests."""

from __future__ import annotations

import random
import secrets
import threading

from palaver.clock import Clock, to_ms

PLATFORM_EPOCH_MS = 1_420_070_400_000
"""The first second of 2015, from which the platform counts."""


class Snowflakes:
    """A source of snowflakes: 42 bits of milliseconds, then 22 bits that grow within one millisecond.

    They sort among the platform's own by time. Two processes may meet on one number within a millisecond, once in
    millions; storing with create() shows it, and the next number is free.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last = 0
        # Asking the system for each number costs more than everything else here, and nothing depends on guessing them.
        self._bits = random.Random(secrets.randbits(64)).getrandbits

    def new(self, *, above: str | None = None) -> str:
        """Return a number above every one made from the clock before, and above a given one: an answer follows its question.

        A given number from a clock far ahead moves only what is asked for above it.
        """
        ms = max(0, to_ms(self._clock.now()) - PLATFORM_EPOCH_MS)
        with self._lock:
            # The low 21 bits start at random, so that processes do not count alike; the rest leaves room to grow.
            fresh = (ms << 22) + self._bits(21)
            step = 1 + self._bits(4)
            self._last = max(fresh, self._last + step)
            return str(max(self._last, int(above) + step if above else 0))
