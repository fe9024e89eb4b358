"""What crosses the cache ports: values, limits, presence, windows and messages, as plain data."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

from palaver.errors import Validation

ABSENT = -1
"""As `expected`: nothing may be there."""

HIGHEST_REVISION = 2**53 - 1
SLICES = 16
"""A sliding window counts in slices of a sixteenth, because exact times would cost memory per hit."""

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,40}")


def checked_name(name: str) -> str:
    """Return a name of ours for a kind, a limit or a topic's family; raises Validation unless it is short and plain."""
    if not _NAME.fullmatch(name):
        raise Validation("A name in the cache is 1 to 40 letters, digits, dots, dashes or underscores.")
    return name


# --- values -------------------------------------------------------------------------------------------------------------


class Held(NamedTuple):
    """A cached value and the revision it was stored with; 0 where its writer gave none."""

    value: bytes
    revision: int


# --- limits -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """A rule: `amount` per `per_s` seconds.

    A bucket holds up to `burst` (default: `amount`) and fills evenly, so the edge of a minute is nothing special. A window
    allows at most `amount` in any span of `per_s`; a hit may count up to a sixteenth of it longer.
    Hits count under `name`, kind and period: another amount keeps them, another period starts anew.
    """

    name: str
    amount: int
    per_s: float
    kind: Literal["bucket", "window"] = "bucket"
    burst: int | None = None
    # Everything below is in milliseconds and whole numbers, so that every engine computes the same.
    period: int = field(init=False, repr=False)
    room: int = field(init=False, repr=False)
    family: str = field(init=False, repr=False)
    packed: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        checked_name(self.name)
        if self.kind not in ("bucket", "window") or (self.burst is not None and self.kind == "window"):
            raise Validation("A limit is a bucket, which may have a burst, or a window, which has none.", limit=self.name)
        if min(self.amount, 1 if self.burst is None else self.burst) < 1 or not 0.001 <= self.per_s <= 400 * 86_400:
            raise Validation("A limit allows 1 or more in 1 ms to 400 days.", limit=self.name)
        whole = math.ceil(self.per_s * 1_000)
        period = whole if self.kind == "bucket" else max(1, -(-whole // SLICES))
        room = (self.burst or self.amount) * (period if self.kind == "bucket" else 1)
        if max(room, self.amount) > HIGHEST_REVISION // 4:
            raise Validation("A limit of this size in this time cannot be counted exactly.", limit=self.name)
        for name, value in {
            "period": period,
            "room": room,
            "family": f"{self.kind[0]}{whole}:{self.name}",
            "packed": struct.pack("<dddd", self.kind == "window", period, self.amount, room),
        }.items():
            object.__setattr__(self, name, value)


class Take(NamedTuple):
    """What is asked of one limit: `cost` for `key`, such as a user, an address or an endpoint."""

    limit: Limit
    key: str
    cost: int = 1


class Verdict(NamedTuple):
    """What one limit says. `remaining` is what is left after the call; `retry_after_s` is infinite for a cost it never allows."""

    allowed: bool
    remaining: int
    retry_after_s: float


class Taken(NamedTuple):
    """The answer for several limits at once: all were charged, or none was. Verdicts come in the order asked."""

    allowed: bool
    verdicts: tuple[Verdict, ...]

    @property
    def retry_after_s(self) -> float:
        """Seconds until the same call could pass; 0 when it did."""
        return max(verdict.retry_after_s for verdict in self.verdicts)


def granted(remaining: int) -> Taken:
    """Return the answer of one limit that allowed it; the same object each time, since most answers are one of a few."""
    return _GRANTED[remaining] if remaining < len(_GRANTED) else Taken(True, (Verdict(True, remaining, 0.0),))


def all_granted(remaining: Iterable[int]) -> Taken:
    """Return the answer of several limits that all allowed it."""
    return tuple.__new__(Taken, (True, tuple(map(_yes, remaining))))


class _Verdicts(dict[int, Verdict]):
    """Verdicts that allow: making one costs more than finding it."""

    def __missing__(self, remaining: int) -> Verdict:
        verdict = Verdict(True, remaining, 0.0)
        if len(self) < 20_000:
            self[remaining] = verdict
        return verdict


_yes = _Verdicts().__getitem__
_GRANTED = tuple(Taken(True, (_yes(remaining),)) for remaining in range(1_024))


# --- presence -----------------------------------------------------------------------------------------------------------


class Present(NamedTuple):
    member: str
    last_seen: datetime


# --- windows ------------------------------------------------------------------------------------------------------------


class Item(NamedTuple):
    """One entry of a window. Entries are ordered by the UTF-8 bytes of `id`, which is unique in its window."""

    id: str
    tokens: int
    data: bytes


class Rebuild(NamedTuple):
    """Leave to fill a window. `first`: nobody else was filling it when this was given."""

    ticket: str
    first: bool


# --- messages -----------------------------------------------------------------------------------------------------------


class Heard(NamedTuple):
    topic: str
    data: bytes


class Missed(NamedTuple):
    """Messages may have been lost before this point: drop what was cached on their strength.

    While `listening` is False nothing is heard at all, so nothing may be cached either.
    """

    listening: bool


@dataclass(frozen=True, slots=True)
class CacheHealth:
    """How a cache is: `breaker` is "closed" while it answers; `error` the code of why it does not.

    `made` counts the connections made so far: where it grew, the server may meanwhile have lost some of what it held.
    """

    breaker: Literal["closed", "half-open", "open"]
    error: str = ""
    connections: int = 0
    inflight: int = 0
    hits: int = 0
    misses: int = 0
    entries: int = 0
    bytes: int = 0
    evicted: int = 0
    made: int = 0
