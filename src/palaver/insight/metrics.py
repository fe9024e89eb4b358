"""Metrics per UTC day, mode, category and name: declared measures, counted from the feed, read as days or months.

A row holds what adds up (count, sum, least, greatest, buckets); averages and percentiles are derived on reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field

from palaver.declared import Declared
from palaver.entity import Entity
from palaver.errors import Expression, SchemaError
from palaver.expr import Condition, evaluate
from palaver.insight.histogram import Histogram, Number, plus
from palaver.insight.tally import Fact, Tally, check_days, check_path, days_between, owned, reach, utc_day
from palaver.keys import AccessPath, Index, Key, build_query
from palaver.query import Query
from palaver.store import Store
from palaver.values import Record

MONTH = 7
FIELDS = ("metric_date", "metric_id", "metric_category", "metric_name", "app_mode", "count", "sum", "min", "max", "buckets", "counted_to")


class MetricRow(Entity):
    """Base for the metrics entity of a schema: `class Metric(MetricRow, table="metrics"): ...` is all it takes."""

    metric_date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$")]
    metric_id: str
    metric_category: str
    metric_name: str
    app_mode: str
    count: int = 0
    sum: Decimal = Decimal(0)
    min: Decimal | None = None
    max: Decimal | None = None
    buckets: dict[str, int] = Field(default_factory=dict)
    counted_to: int = 0

    key = Key("metric_date", "metric_id")
    by_date = Index("metric_date", sort="metric_id", shards=8)
    by_category = Index("metric_category", sort="metric_date", shards=8)
    by_app_mode = Index("app_mode", sort="metric_date", shards=8)


@dataclass(frozen=True)
class Measure:
    """One number taken from each record of an entity, at the instant in its field `at`.

    `value` is a field path or a function; where it gives None the record is not counted. `name` may be a function too,
    for metrics by intent or endpoint. `mode` is a field path, or "=text" for a fixed mode. `late` is for values that an
    update adds to a record: the record is counted once, when the value is first seen. What changes afterwards stays
    counted as it was: measure what is not changed, and read the records themselves for what is.
    """

    category: str
    name: str | Callable[[Any], str | None]
    source: type[Entity]
    value: str | Callable[[Any], Number | bool | None] = lambda _: 1
    at: str = "timestamp"
    mode: str = "app_mode"
    when: Condition | Callable[[Any], bool] | None = None
    late: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """One metric of one day or month in one mode."""

    period: str
    mode: str
    category: str
    name: str
    values: Histogram


class MetricsProjection(Tally[Histogram]):
    """Keeps the metrics rows equal to the facts, each fact once; `open(projections=[metrics(Metric, MEASURES)])`."""

    def __init__(self, store: Store, row: type[Entity], measures: Sequence[Measure], name: str = "metrics") -> None:
        super().__init__(store, name, row, [measure.source for measure in measures])
        missing = [field for field in FIELDS if field not in self._row.fields]
        if missing:
            raise SchemaError(f"{self._row.name} cannot hold metrics: it has no {', '.join(missing)}.", hint="Derive it from MetricRow.")
        self._keyed_by("metric_date", "metric_id")
        self._measures: dict[type[Entity], list[tuple[Measure, Callable[[Any, Record], bool]]]] = {}
        for measure in measures:
            _check(measure)
            self._measures.setdefault(measure.source, []).append((measure, _test(measure)))
        self._late = {measure.source.declared().table.name for measure in measures if measure.late}

    def late(self, table: str) -> bool:
        return table in self._late

    def groups(self) -> Mapping[str, Sequence[type[Entity]]]:
        out: dict[str, list[type[Entity]]] = {}
        for found in self._measures.values():
            for measure, _ in found:
                out.setdefault(measure.category, []).append(measure.source)
        return out

    def facts(self, entity: Any, record: Record) -> Iterator[Fact[Histogram]]:
        for measure, wanted in self._measures[type(entity)]:
            at = reach(entity, measure.at)
            name = measure.name(entity) if callable(measure.name) else measure.name
            value = measure.value(entity) if callable(measure.value) else reach(entity, measure.value)
            mode = measure.mode[1:] if measure.mode.startswith("=") else reach(entity, measure.mode)
            if value is None or name is None or mode is None or not isinstance(at, datetime) or not wanted(entity, record):
                continue
            day = utc_day(at)
            once = f"{measure.category}:{name}" if measure.late else None
            row = (day.isoformat(), str(mode), measure.category, name)
            yield Fact(row, day, Histogram.of([int(value) if isinstance(value, bool) else value]), measure.category, once)

    def fresh(self, row: tuple[Any, ...]) -> Entity:
        return fresh_row(self._row.entity, *row)

    def added(self, row: Any, amounts: Sequence[Histogram]) -> dict[str, Any]:
        return fields_of(histogram_of(row) + Histogram.sum(amounts))

    def joined(self, amounts: Sequence[Histogram]) -> Histogram:
        return Histogram.sum(amounts)


def metrics(row: type[Entity], measures: Sequence[Measure], name: str = "metrics") -> Callable[[Store], MetricsProjection]:
    """Return what `open(projections=[…])` takes."""
    return lambda store: MetricsProjection(store, row, measures, name)


def fresh_row(entity: type[Any], day: str, mode: str, category: str, name: str) -> Entity:
    """Return the empty row of a metric; all its dimensions are in its key."""
    made: Entity = entity(metric_date=day, metric_id=f"{mode}:{category}:{name}", metric_category=category, metric_name=name, app_mode=mode)
    return made


def histogram_of(row: Any) -> Histogram:
    """Return what a row knows of its values."""
    return Histogram(row.count, row.sum, row.min, row.max, row.buckets)


def fields_of(histogram: Histogram) -> dict[str, Any]:
    return {
        "count": histogram.count,
        "sum": plus(histogram.total, Decimal(0)),
        "min": histogram.least,
        "max": histogram.greatest,
        "buckets": dict(histogram.buckets),
    }


def _check(measure: Measure) -> None:
    for path in (measure.at, measure.value, None if measure.mode.startswith("=") else measure.mode):
        if isinstance(path, str):
            check_path(measure.source, path)


def _test(measure: Measure) -> Callable[[Any, Record], bool]:
    when = measure.when
    if when is None:
        return lambda entity, record: True
    if callable(when):
        asked: Callable[[Any], bool] = when
        return lambda entity, record: asked(entity)
    bound = measure.source.bind(when)
    return lambda entity, record: evaluate(bound, record)


# --- reading --------------------------------------------------------------------------------------------------------

Period = Literal["day", "month", "all"]


class Metrics:
    """Reads metrics: by range of days, category, name and mode; per day, per month, or all together."""

    def __init__(self, store: Store, row: type[Entity]) -> None:
        self._store = store
        self._row = store.schema.of(row)

    async def read(
        self, first: date, last: date, *, category: str | None = None, name: str | None = None, mode: str | None = None, by: Period = "day"
    ) -> list[Point]:
        """Return the metrics of a range of UTC days, both included, in order of period, mode, category and name.

        By month: the months these days are in, each the sum of its days in the range; a month whose days are gone is
        answered by its own row.
        """
        found: dict[tuple[str, str, str, str], list[Histogram]] = {}
        async for row in self._rows(first, last, category, mode):
            if name is None or row.metric_name == name:
                period = row.metric_date if by == "day" else row.metric_date[:MONTH] if by == "month" else "all"
                found.setdefault((period, row.app_mode, row.metric_category, row.metric_name), []).append(histogram_of(row))
        if by == "month":
            async for row in self._months(first, last):
                at = (row.metric_date, row.app_mode, row.metric_category, row.metric_name)
                asked = ((mode, at[1]), (category, at[2]), (name, at[3]))
                if at not in found and all(want in (None, got) for want, got in asked):
                    found[at] = [histogram_of(row)]
        return [Point(*at, Histogram.sum(found[at])) for at in sorted(found)]

    async def compare(self, first: date, last: date, category: str, name: str) -> dict[str, Histogram]:
        """Return one metric of a range of days per mode."""
        return {point.mode: point.values for point in await self.read(first, last, category=category, name=name, by="all")}

    async def close_month(self, month: date) -> int:
        """Write the rows of a month from its days; return how many. Run again, it changes nothing.

        A month's row is kept for ever and never shrinks: days that are gone by now stay counted in it.
        """
        first = month.replace(day=1)
        last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
        points = await self.read(first, last, by="month")
        written = 0
        for point in points:
            fresh = fresh_row(self._row.entity, point.period, point.mode, point.category, point.name)
            row = owned(self._row, fresh, self._store.tenant)
            old: Any = await self._store.find(row.address)
            if old is not None and old.count >= point.values.count:
                continue
            await self._store.put(row.model_copy(update=fields_of(point.values)))
            written += 1
        return written

    async def _rows(self, first: date, last: date, category: str | None, mode: str | None) -> Any:
        """Yield the rows of days, by the access path that fits best."""
        check_days(first, last)
        low, high = first.isoformat(), last.isoformat()
        for part, value in (("metric_category", category), ("app_mode", mode)):
            path = self._path(part, "metric_date")
            if value is not None and path is not None:
                async for row in self._store.query(self._query(path, value).between(low, high)):
                    if len(row.metric_date) > MONTH and mode in (None, row.app_mode) and category in (None, row.metric_category):
                        yield row
                return
        for day in days_between(first, last):
            async for row in self._of(day.isoformat()):
                if mode in (None, row.app_mode) and category in (None, row.metric_category):
                    yield row

    async def _months(self, first: date, last: date) -> Any:
        for month in sorted({day.isoformat()[:MONTH] for day in days_between(first, last)}):
            async for row in self._of(month):
                yield row

    def _of(self, period: str) -> Any:
        path = self._path("metric_date")
        if path is None:
            raise Expression(f"Nothing finds the {self._row.name} rows of a day.", hint='Declare Index("metric_date", sort="metric_id").')
        return self._store.query(self._query(path, period))

    def _query(self, path: AccessPath, value: str) -> Query[Any]:
        return build_query(self._row.entity, path, (value,))

    def _path(self, partition: str, sort: str | None = None) -> AccessPath | None:
        return find_path(self._row, partition, sort)


def find_path(declared: Declared, partition: str, sort: str | None = None) -> AccessPath | None:
    """Return the key or index with this partition field and this first sort field."""
    for path in declared.access.values():
        if [part.path for part in path.partition] == [partition] and (sort is None or (path.sort and path.sort[0].path == sort)):
            return path
    return None


def total(points: Iterable[Point]) -> Histogram:
    """Return several metrics as one."""
    return Histogram.sum(point.values for point in points)
