"""Percentiles that merge: counters in buckets whose bounds grow by 2 %, so that any quantile is within 1 % of the truth.

Counts of equal buckets add, in any order and any grouping: days make a month, and processes make a day. Pure values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal

from palaver.errors import NumberRange, Validation

Number = int | float | Decimal

GROWTH = 1.02
MOST = 4_096
"""As many buckets cover a range of 10^35; what is below them joins the least."""

LEAST = 1e-130
"""No store keeps a number nearer to zero; here it is zero."""

_LOG = math.log(GROWTH)
_MIDDLE = 2 / (1 + GROWTH)
_KEPT = Context(prec=38, traps=[])
_SMALLEST, _LARGEST = Decimal("1E-130"), Decimal("9.99E+125")
# A bucket's number lies between those of the least and the greatest float.
_PREFIXES = {"p": (1, 1), "q": (1, -1), "n": (-1, 1), "m": (-1, -1)}


def bucket(value: Number) -> str:
    """Return the name of a value's bucket: letters and digits, so that it can be a step of a path.

    Raises NumberRange for a value that is not finite.
    """
    number = _float(value)
    if abs(number) < LEAST:
        return "z"
    index = math.ceil(math.log(abs(number)) / _LOG)
    letter = ("p" if index >= 0 else "q") if number > 0 else ("n" if index >= 0 else "m")
    return f"{letter}{abs(index)}"


def middle(name: str) -> float:
    """Return the value that stands for a bucket: within 1 % of everything in it."""
    sign, index = _parts(name)
    if not sign:
        return 0.0
    try:
        return sign * math.exp(index * _LOG) * _MIDDLE
    except OverflowError:
        return sign * 1.7976931348623157e308


def order(name: str) -> int:
    """Return a number by which buckets sort as their values do."""
    sign, index = _parts(name)
    # Beyond any index, so that all negative values come before zero and all positive ones after it.
    return sign * (index + 1_000_000)


def merge(*many: Mapping[str, int]) -> dict[str, int]:
    """Return the sum of counters."""
    out: dict[str, int] = {}
    for counts in many:
        for name, count in counts.items():
            out[name] = out.get(name, 0) + count
    return out


def compact(counts: Mapping[str, int], most: int = MOST) -> dict[str, int]:
    """Return counters with at most `most` buckets: those nearest to zero are joined, large values stay exact to 1 %."""
    if len(counts) <= most:
        return dict(counts)
    # Names sort by distance from zero; the nearest of all is the one whose neighbours matter least.
    names = sorted(counts, key=lambda name: abs(order(name)))
    near, kept = names[: len(names) - most + 1], names[len(names) - most + 1 :]
    out = {name: counts[name] for name in kept}
    out[near[-1]] = sum(counts[name] for name in near)
    return out


def quantile(counts: Mapping[str, int], q: float) -> float | None:
    """Return the value of the record at rank ceil(q·n), within 1 %; None where nothing was counted."""
    return quantiles(counts, [q])[0]


def quantiles(counts: Mapping[str, int], qs: Sequence[float]) -> list[float | None]:
    """Return several quantiles by one pass over the buckets."""
    if any(not 0 <= q <= 1 for q in qs):
        raise Validation("A quantile is asked for by a number from 0 to 1.")
    names = sorted((name for name, count in counts.items() if count), key=order)
    total = sum(counts[name] for name in names)
    if not total:
        return [None for _ in qs]
    ranks = sorted(range(len(qs)), key=lambda at: qs[at])
    out: list[float | None] = [None] * len(qs)
    seen, at = 0, 0
    for name in names:
        seen += counts[name]
        while at < len(ranks) and seen >= max(1, math.ceil(_exact(qs[ranks[at]]) * total)):
            out[ranks[at]] = middle(name)
            at += 1
    return out


@dataclass(frozen=True, slots=True)
class Histogram:
    """What is known of many numbers: how many, their exact sum, least and greatest, and the buckets they fell in."""

    count: int = 0
    total: Decimal = Decimal(0)
    least: Decimal | None = None
    greatest: Decimal | None = None
    buckets: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def of(values: Iterable[Number]) -> Histogram:
        """Return the histogram of numbers. Raises NumberRange for one that is not finite."""
        out = _Sum()
        for value in values:
            out.add(value)
        return out.histogram()

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram.sum([self, other])

    @staticmethod
    def sum(many: Iterable[Histogram]) -> Histogram:
        """Return the histogram of all their numbers together."""
        out = _Sum()
        for each in many:
            out.join(each)
        return out.histogram()

    @property
    def average(self) -> Decimal | None:
        return self.total / self.count if self.count else None

    def quantile(self, q: float) -> float | None:
        """Return a quantile within 1 %, never outside what was seen; None where nothing was."""
        found = quantile(self.buckets, q)
        if found is None or self.least is None or self.greatest is None:
            return found
        return min(max(found, float(self.least)), float(self.greatest))

    @property
    def p50(self) -> float | None:
        return self.quantile(0.5)

    @property
    def p90(self) -> float | None:
        return self.quantile(0.9)

    @property
    def p99(self) -> float | None:
        return self.quantile(0.99)


class _Sum:
    """A histogram being added up."""

    def __init__(self) -> None:
        self.count, self.total = 0, Decimal(0)
        self.least: Decimal | None = None
        self.greatest: Decimal | None = None
        self.buckets: dict[str, int] = {}

    def add(self, value: Number) -> None:
        name, exact = bucket(value), _decimal(value)
        self.buckets[name] = self.buckets.get(name, 0) + 1
        self._note(1, exact, exact, exact)

    def join(self, other: Histogram) -> None:
        for name, count in other.buckets.items():
            self.buckets[name] = self.buckets.get(name, 0) + count
        self._note(other.count, other.total, other.least, other.greatest)

    def _note(self, count: int, total: Decimal, least: Decimal | None, greatest: Decimal | None) -> None:
        self.count += count
        self.total = plus(self.total, total)
        if least is not None and (self.least is None or least < self.least):
            self.least = least
        if greatest is not None and (self.greatest is None or greatest > self.greatest):
            self.greatest = greatest

    def histogram(self) -> Histogram:
        return Histogram(self.count, self.total, self.least, self.greatest, compact(self.buckets))


def plus(a: Decimal, b: Decimal) -> Decimal:
    """Return the sum as a store can keep it: 38 digits, zero or the most where it is beyond what a store keeps."""
    found = _KEPT.add(a, b)
    if abs(found) < _SMALLEST:
        return Decimal(0)
    return found if abs(found) <= _LARGEST else _LARGEST.copy_sign(found)


def _parts(name: str) -> tuple[int, int]:
    if name == "z":
        return 0, 0
    known = _PREFIXES.get(name[:1])
    if known is None or not name[1:].isdecimal():
        raise Validation("A histogram has a bucket of an unknown name.", hint="Use the names `bucket` gives.")
    return known[0], known[1] * int(name[1:])


def _float(value: Number) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise NumberRange("A histogram takes finite numbers only.")
    return number


def _decimal(value: Number) -> Decimal:
    """Return a number as a store keeps it: a float as it is written, at most 38 digits."""
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    return plus(exact, Decimal(0))


def _exact(q: float) -> Decimal:
    # 0.9 · 10 is 9, and the float just above it must not become rank 10.
    return Decimal(repr(q))
