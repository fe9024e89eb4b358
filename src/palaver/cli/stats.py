"""`palaver stats`: usage, latency, feedback and metrics of a period.

Usage, calls and answers come from rows counted per day, feedback from an index over time; what those cannot answer is
summed up by scanning the records.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from cyclopts import Parameter

from palaver.cli.context import Here
from palaver.cli.counted import FromMetrics, Line, Lines, behind, counted, equalities
from palaver.cli.exits import Exit
from palaver.cli.problems import Stop

if TYPE_CHECKING:
    from palaver.cli.progress import Progress
    from palaver.declared import Declared
    from palaver.entity import Entity
    from palaver.expr import Condition
    from palaver.insight.histogram import Histogram
    from palaver.keys import AccessPath
    from palaver.store import Store

Kind = Literal["usage", "cost", "calls", "answers", "feedback", "metrics", "database", "cache"]


@dataclass(frozen=True)
class Source:
    """Which records a report is made of: those of the first entity that has these fields. `counted`: which rows hold it per day."""

    fields: tuple[str, ...]
    by: tuple[str, ...]
    at: str = "timestamp"
    latency: str | None = "latency"
    only: tuple[tuple[str, tuple[str, ...]], ...] = ()
    counted: FromMetrics | Literal["usage"] | None = None


_CALLS_OF_MODELS = Source(("provider", "model", "purpose", "prompt_tokens", "completion_tokens"), ("provider", "model"), counted="usage")
SOURCES: dict[str, tuple[Source, ...]] = {
    "usage": (_CALLS_OF_MODELS,),
    "cost": (_CALLS_OF_MODELS,),
    "calls": (
        Source(
            ("endpoint_template", "status_code", "latency"),
            ("endpoint_template",),
            counted=FromMetrics("endpoint", "endpoint_success", named="endpoint_template"),
        ),
    ),
    "answers": (
        Source(
            ("message_type", "intent", "processing_metadata"),
            ("app_mode",),
            latency="processing_metadata.processing_time",
            only=(("message_type", ("user",)),),
            counted=FromMetrics("latency", "success", "response", "answer"),
        ),
        # Records of turns beside the messages. What has not ended yet is no answer.
        Source(
            ("status", "last_step", "stopped_at", "latency"),
            ("channel_type",),
            only=(("status", ("answered", "unanswered", "failed")),),
            counted=FromMetrics("latency", "success", "reply", "reply"),
        ),
    ),
    "feedback": (
        Source(("rating", "rating_timestamp"), ("app_mode",), at="rating_timestamp", latency=None),
        Source(("rating", "channel_type", "timestamp"), ("channel_type",), latency=None),
    ),
}
"""Blueprints name things differently: the first source that the schema has an entity for is taken."""


async def stats(
    kind: Kind,
    /,
    *,
    by: Annotated[list[str] | None, Parameter(negative=())] = None,
    since: Annotated[str, Parameter(show_default=True)] = "7d",
    where: Annotated[list[str] | None, Parameter(negative=())] = None,
    here: Here,
) -> int:
    """Sum up a period: usage and cost of models, calls of services, answers, feedback, or the daily metrics; or show a server's figures.

    Usage, calls and answers are read from what is counted per UTC day, from the beginning of the first day on; these
    counts stay when the records they are of expire. Grouped or narrowed by what is not counted, or where nothing was
    counted, the records of the period are scanned instead.

    Parameters
    ----------
    kind
        usage (tokens, cost), cost (dearest first), calls (services), answers (whole turns), feedback, metrics (kept per day);
        database and cache are what the servers count of themselves, now.
    by
        Group by these fields, by day, channel or user: --by provider --by purpose.
    since
        7d, 12h, 2026-11-01.
    where
        Only records like this: app_mode=beta.
    """
    from palaver.cli.typed import moment

    if kind in ("database", "cache"):
        from palaver.cli.figures import figures

        return await figures(here, kind)
    async with here.open() as store:
        start = moment(since, store.clock.now())
        if kind == "metrics":
            rows, columns = await _metrics(store, start)
        else:
            declared, source = _source_of(store, kind)
            named = by or list(source.by)
            groups = _groups(declared, [_field(declared, name) for name in named])
            lines = await _from_rows(store, declared, source, groups, start, where)
            if lines is not None:
                start = start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
                if missing := await behind(store):
                    here.out.say(f"{missing:,} changes are not counted yet; `palaver work --once` counts them")
            else:
                with here.out.progress("records") as progress:
                    lines = await _lines(store, declared, source, groups, start, where, progress)
            rows = [dict(zip(named, group, strict=True)) | _figures(kind, line) for group, line in sorted(lines.items())]
            if kind == "cost":
                rows.sort(key=lambda row: row["cost_usd"] or 0, reverse=True)
            columns = [*named, *_figures(kind, Line())]
    if here.out.json:
        here.out.emit("stats", {"stats": kind, "since": start.astimezone(UTC).isoformat(timespec="seconds"), "data": rows})
        return Exit.OK
    texts = {name for name in columns if any(isinstance(row[name], str) for row in rows)}
    shown = [[_shown(name, row[name]) for name in columns] for row in rows]
    titles = {name: _TITLES.get(name) or name.replace("_", " ") for name in columns}
    numbers = [title for name, title in titles.items() if name not in texts]
    here.out.table(list(titles.values()), shown, right=numbers, one_line=True)
    here.out.say(f"since {start:%Y-%m-%d %H:%M} UTC")
    return Exit.OK


_TITLES = {"prompt_tokens": "tokens in", "completion_tokens": "tokens out", "endpoint_template": "endpoint", "share_positive": "liked"}


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, float) and name.startswith(("cost", "share")):
        return f"{value:.4f}" if name.startswith("cost") else f"{value:.0%}"
    return value


def _source_of(store: Store, kind: str) -> tuple[Declared, Source]:
    for source in SOURCES[kind]:
        for declared in store.schema.entities.values():
            if all(name in declared.fields for name in source.fields):
                return declared, source
    raise Stop(
        Exit.USAGE,
        "stats",
        f"Schema {store.schema.name} has no entity to take {kind} from.",
        hint=f"It would have {', or '.join(', '.join(source.fields) for source in SOURCES[kind])}.",
    )


async def _from_rows(
    store: Store, declared: Declared, source: Source, groups: list[str], start: datetime, where: list[str] | None
) -> Lines | None:
    """Return a report from what is counted per day; None where that cannot answer."""
    only = equalities(where)
    if source.counted is None or only is None:
        return None
    narrowed = {_dimension(declared, name): value for name, value in only.items()}
    return await counted(store, source.counted, [_dimension(declared, name) for name in groups], start, narrowed)


_NAMES = {"channel": ("channel_type", "app_mode"), "user": ("user_id",)}


def _field(declared: Declared, name: str) -> str:
    """Return the field a short name stands for."""
    return next((field for field in _NAMES.get(name, ()) if field in declared.fields and name not in declared.fields), name)


def _dimension(declared: Declared, field: str) -> str:
    """Return the dimension a field is counted under: a channel stands where there is no mode of the application."""
    return "app_mode" if field == "channel_type" and "app_mode" not in declared.fields else field


def _groups(declared: Declared, by: list[str]) -> list[str]:
    from palaver.expr import F

    for name in by:
        if name != "day":
            declared.entity.locate(F(name))
    return by


async def _lines(
    store: Store, declared: Declared, source: Source, groups: list[str], start: datetime, where: list[str] | None, progress: Progress
) -> Lines:
    from palaver.cli.typed import conditions
    from palaver.expr import F
    from palaver.insight.tally import reach

    lines: Lines = {}
    wanted = F(source.at) >= start
    for name, values in source.only:
        wanted = wanted & F(name).is_in(values)  # type: ignore[assignment]
    asked = conditions(declared.entity, where, store.clock.now())
    price = _Prices()
    async for entity in _records(store, declared, source.at, start, wanted if asked is None else wanted & asked):
        progress.advance()
        at = reach(entity, source.at)
        group = tuple(f"{at:%Y-%m-%d}" if name == "day" else str(_text(reach(entity, name))) for name in groups)
        _add(lines.setdefault(group, Line()), entity, source, at, price)
    return lines


def _records(store: Store, declared: Declared, at: str, start: datetime, condition: Condition) -> AsyncIterator[Entity]:
    """Return the records of a period: by an index over the time whose partitions are known, else by scanning."""
    from palaver.cli.reading import scan

    for path in declared.access.values():
        if len(path.partition) == 1 and path.sort and path.sort[0].path == at and not declared.blobs:
            values = _literals(declared, path.partition[0].path)
            if values:
                return _indexed(store, declared, path, values, start, condition)
    return scan(store, declared, condition, objects=False)


async def _indexed(
    store: Store, declared: Declared, path: AccessPath, values: Sequence[Any], start: datetime, condition: Condition
) -> AsyncIterator[Entity]:
    from palaver.keys import build_query

    for value in values:
        async for entity in store.query(build_query(declared.entity, path, (value,)).since(start).filter(condition)):
            yield entity


def _literals(declared: Declared, field: str) -> tuple[Any, ...]:
    """Return every value a field can have, nothing where they are not known."""
    from palaver.fields import unwrap

    spec = declared.fields.get(field)
    bare = unwrap(spec.annotation)[0] if spec is not None and not spec.optional else None
    return get_args(bare) if get_origin(bare) is Literal else ()


def _text(value: Any) -> Any:
    return "-" if value is None else getattr(value, "value", value)


def _add(line: Line, entity: Any, source: Source, at: datetime, price: _Prices) -> None:
    from palaver.insight.tally import reach

    line.count += 1
    if source.latency is not None and (latency := reach(entity, source.latency)) is not None:
        line.latencies.append(float(latency))
    status = getattr(getattr(entity, "processing_metadata", entity), "status", None)
    line.failures += getattr(entity, "success", None) is False or status in ("failed", "unanswered")
    rating = getattr(entity, "rating", None)
    line.positive += rating == "positive"
    line.negative += rating == "negative"
    if hasattr(entity, "prompt_tokens"):
        line.prompt_tokens += entity.prompt_tokens
        line.completion_tokens += entity.completion_tokens
        cost = price.of(entity, at)
        line.unpriced += cost is None
        line.cost = (line.cost or Decimal(0)) + (cost or Decimal(0))


class _Prices:
    """Prices of calls, looked up only where there are calls."""

    def __init__(self) -> None:
        self._prices: Any = None

    def of(self, entity: Any, at: datetime) -> Any:
        if self._prices is None:
            from palaver.insight.usage import Prices

            self._prices = Prices()
        return self._prices.cost(entity.provider, entity.model, entity.prompt_tokens, entity.completion_tokens, at)


def _figures(kind: str, line: Line) -> dict[str, Any]:
    if kind == "feedback":
        share = round(line.positive / line.count, 3) if line.count else None
        return {"ratings": line.count, "positive": line.positive, "negative": line.negative, "share_positive": share}
    if kind == "cost":
        cost = None if line.cost is None else round(float(line.cost), 6)
        tokens = {"prompt_tokens": line.prompt_tokens, "completion_tokens": line.completion_tokens}
        return {"cost_usd": cost, "calls": line.count, **tokens, "unpriced": line.unpriced}
    found: dict[str, Any] = {"count": line.count, "failures": line.failures}
    if kind == "usage":
        cost = None if line.cost is None else round(float(line.cost), 6)
        tokens = {"prompt_tokens": line.prompt_tokens, "completion_tokens": line.completion_tokens}
        found |= {**tokens, "cost_usd": cost, "unpriced": line.unpriced}
    return found | percentiles(line.latency())


def percentiles(values: Histogram) -> dict[str, Any]:
    return {
        name: None if found is None else round(found, 1) for name, found in (("p50", values.p50), ("p90", values.p90), ("p99", values.p99))
    }


async def _metrics(store: Store, start: datetime) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the metrics kept per day, which outlive the records they were counted from."""
    from palaver.insight.metrics import Metrics

    row = next(
        (declared for declared in store.schema.entities.values() if {"metric_date", "metric_id", "buckets"} <= declared.fields.keys()), None
    )
    if row is None:
        raise Stop(Exit.USAGE, "stats", f"Schema {store.schema.name} keeps no metrics.", hint="Add an entity based on MetricRow.")
    points = await Metrics(store, row.entity).read(start.date(), store.clock.now().date())
    return [_point(point) for point in points], list(_COLUMNS)


_COLUMNS = ("day", "app_mode", "category", "name", "count", "average", "p50", "p90", "p99")


def _point(point: Any) -> dict[str, Any]:
    average = point.values.average
    named: Iterable[tuple[str, Any]] = (("day", point.period), ("app_mode", point.mode), ("category", point.category), ("name", point.name))
    figures = {"count": point.values.count, "average": None if average is None else round(float(average), 1)}
    return {**dict(named), **figures, **percentiles(point.values)}
