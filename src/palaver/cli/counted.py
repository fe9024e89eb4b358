"""Statistics from the rows that projections keep per UTC day: they cost a read per row, and outlive what they count.

Where rows cannot answer (another group, another condition, nothing counted in the period), the caller scans.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from palaver.declared import Declared
    from palaver.insight.histogram import Histogram
    from palaver.store import Store

_EQUAL = re.compile(r"\s*(\w+)\s*==?(?!=)(.*)", re.DOTALL)


@dataclass
class Line:
    """What one group adds up to."""

    count: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latencies: list[float] = field(default_factory=list)
    counted: list[Histogram] = field(default_factory=list)
    positive: int = 0
    negative: int = 0
    cost: Decimal | None = None
    unpriced: int = 0

    def latency(self) -> Histogram:
        from palaver.insight.histogram import Histogram

        return Histogram.sum([*self.counted, Histogram.of(self.latencies)])


Lines = dict[tuple[str, ...], Line]


class Period(NamedTuple):
    """A stretch of time. One that is not over yet has what a clock ahead of ours has written as well."""

    start: datetime
    end: datetime
    over: bool = False

    def in_days(self) -> Period:
        """Return the period from the beginning of its first UTC day on."""
        return self._replace(start=self.start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0))

    def before(self) -> Period:
        """Return the period of the same length that ended where this one begins; of whole days where it begins with one."""
        first, last = self.days
        whole = self.start == self.in_days().start
        length = timedelta(days=(last - first).days + 1) if whole else self.end - self.start
        return Period(self.start - length, self.start, over=True)

    @property
    def days(self) -> tuple[date, date]:
        """The first and the last UTC day."""
        first, last = self.start.astimezone(UTC), self.end.astimezone(UTC) - timedelta(microseconds=1)
        return first.date(), max(first, last).date()


@dataclass(frozen=True)
class FromMetrics:
    """Which metrics are a report: categories of latencies and of successes, and what their names stand for.

    `name` and `succeeded` are the one metric the report is of in each; None: all of the category, whose names are the values of `named`.
    """

    latency: str
    success: str
    name: str | None = None
    succeeded: str | None = None
    named: str | None = None

    @property
    def dimensions(self) -> tuple[str, ...]:
        return ("day", "app_mode", *((self.named,) if self.named else ()))


async def counted(
    store: Store, report: FromMetrics | Literal["usage"], groups: list[str], period: Period, only: dict[str, str]
) -> Lines | None:
    """Return a report from counted rows, of the whole UTC days that a period touches; None where they cannot answer."""
    known = dimensions(report)
    if not {*groups, *only} <= set(known):
        return None
    if report == "usage":
        row = row_entity(store, "usage_id", "latency_buckets", "unpriced")
        return None if row is None else await _usage(store, row, groups, period, only)
    row = row_entity(store, "metric_id", "buckets", "counted_to")
    return None if row is None else await _from_metrics(store, row, report, groups, period, only)


def dimensions(report: FromMetrics | Literal["usage"]) -> tuple[str, ...]:
    """Return what the rows of a report are counted by."""
    from palaver.insight.usage import DIMENSIONS

    return tuple(DIMENSIONS) if report == "usage" else report.dimensions


def row_entity(store: Store, *fields: str) -> Declared | None:
    """Return the first entity that has these fields."""
    return next((each for each in store.schema.entities.values() if set(fields) <= each.fields.keys()), None)


async def behind(store: Store) -> int:
    """Return how many changes the slowest projection has not counted yet."""
    states = (await store.health())["projections"]
    return max((int(state["lag"]) for state in states.values()), default=0)


def equalities(where: list[str] | None) -> dict[str, str] | None:
    """Return conditions that rows may answer, as values by field; None where one asks for something else."""
    out: dict[str, str] = {}
    for text in where or ():
        found = _EQUAL.fullmatch(text)
        if found is None or found[1] in out:
            return None
        out[found[1]] = found[2]
    return out


async def _usage(store: Store, row: Declared, groups: list[str], period: Period, only: dict[str, str]) -> Lines | None:
    from palaver.insight.usage import Usage

    entity: Any = row.entity
    first, last = period.days
    found = await Usage(store, entity).report(first, last, by=groups, **only)
    lines: Lines = {}
    for each in found:
        used = each.used
        lines[each.group] = Line(
            used.calls,
            used.failures,
            used.prompt_tokens,
            used.completion_tokens,
            counted=[used.latency],
            cost=used.cost,
            unpriced=used.unpriced,
        )
    return lines or None


async def _from_metrics(
    store: Store, row: Declared, report: FromMetrics, groups: list[str], period: Period, only: dict[str, str]
) -> Lines | None:
    from palaver.insight.metrics import Metrics

    metrics, lines = Metrics(store, row.entity), Lines()
    for category, name in ((report.success, report.succeeded), (report.latency, report.name)):
        for point in await metrics.read(*period.days, category=category, name=name):
            values = {"day": point.period, "app_mode": point.mode, str(report.named): point.name}
            if any(values[dimension] != value for dimension, value in only.items()):
                continue
            line = lines.setdefault(tuple(values[group] for group in groups), Line())
            if category == report.success:
                line.count += point.values.count
                line.failures += point.values.count - int(point.values.total)
            else:
                line.counted.append(point.values)
    # Fewer successes than latencies: some of the rows are from before successes were counted.
    whole = all(line.count >= sum(each.count for each in line.counted) for line in lines.values())
    return lines if lines and whole else None
