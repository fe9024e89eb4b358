"""Time, injected.

A store, a queue or a test takes a `Clock`; `now()` reads the one installed for the running context, so that a
default such as `Field(default_factory=now)` replays as well.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

from palaver.errors import Validation

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EXACT_MS = 2**32 * 1000


class Clock(Protocol):
    def now(self) -> datetime:
        """Return the wall clock, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back, for durations."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands still until told to move."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, by: timedelta) -> None:
        self._now += by
        self._monotonic += max(0.0, by.total_seconds())


_current: ContextVar[Clock] = ContextVar("palaver_clock", default=SystemClock())  # noqa: B039 - it has no state


def now() -> datetime:
    """Return the time of the clock installed here."""
    return _current.get().now()


def installed() -> Clock:
    """Return the clock installed here."""
    return _current.get()


@contextmanager
def use(clock: Clock) -> Iterator[Clock]:
    """Install a clock for the running context."""
    token = _current.set(clock)
    try:
        yield clock
    finally:
        _current.reset(token)


def to_us(at: datetime) -> int:
    """Return microseconds since 1970; exact."""
    return (at - EPOCH) // _MICROSECOND


def us_of(clock: Clock) -> int:
    """Return the clock's microseconds since 1970; the system's clock is asked without making a datetime."""
    return time.time_ns() // 1000 if type(clock) is SystemClock else to_us(clock.now())


def to_ms(at: datetime) -> int:
    """Return milliseconds since 1970, rounded down."""
    return to_us(at) // 1000


def from_ms(ms: int) -> datetime:
    # Until 2106 a float holds the milliseconds exactly enough, in a third of the time.
    return datetime.fromtimestamp(ms / 1000, UTC) if 0 <= ms < _EXACT_MS else EPOCH + timedelta(milliseconds=ms)


def from_us(us: int) -> datetime:
    return EPOCH + timedelta(microseconds=us)


def days(n: float) -> timedelta:
    return timedelta(days=n)


def hours(n: float) -> timedelta:
    return timedelta(hours=n)


def check_day(given: date, name: str = "day") -> None:
    """Raise Validation for what is no day: a moment belongs to different days in different places."""
    # The type is what a caller was asked for, and not always what is given.
    what: object = given
    if not isinstance(what, date) or isinstance(what, datetime):
        raise Validation(
            f"{name} is a day, not {type(what).__name__}.",
            hint='Give a date such as date(2026, 1, 31), date.fromisoformat("2026-01-31") or moment.date().',
        )
