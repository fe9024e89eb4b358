"""`palaver stats`: usage, latency, feedback and metrics of a period.

Usage, calls and answers come from rows counted per day, feedback from an index over time; what those cannot answer is
summed up by scanning the records.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from palaver.cli.context import Context, Here
from palaver.cli.counted import FromMetrics, Line, Lines, Period, behind, counted, equalities
from palaver.cli.exits import Exit
from palaver.cli.output import emits
from palaver.cli.problems import Stop
from palaver.cli.scanned import Source, scanned

if TYPE_CHECKING:
    from palaver.cli.output import Output
    from palaver.declared import Declared
    from palaver.insight.histogram import Histogram
    from palaver.store import Store

Kind = Literal["usage", "cost", "calls", "answers", "feedback", "metrics", "database", "cache"]


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
            timed=("status", "answered"),
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


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which period, and what of it: the options of the command."""

    by: list[str] | None = None
    """Group by these fields, by day, channel or user: --by provider --by purpose."""
    since: Annotated[str, Parameter(show_default=True)] = "7d"
    """7d, 12h, 2026-11-01."""
    where: list[str] | None = None
    """Only records like this: app_mode=beta."""
    compare: Literal["prev"] | None = None
    """Show beside it the period of the same length that went before."""

    def must_fit(self, kind: Kind) -> None:
        """Refuse a comparison of what has nothing before it."""
        if self.compare and (kind in ("metrics", "database", "cache") or "day" in (self.by or ())):
            hint = "It compares usage, cost, calls, answers and feedback, grouped by anything but days."
            raise Stop(Exit.USAGE, "usage", "Days, and what servers count, have no period before to compare with.", hint=hint)


WEEK = Asked()


@dataclass(frozen=True)
class Report:
    """What a command prints: rows, with `previous` in each where a period before it was asked for."""

    period: Period
    names: list[str]
    figures: list[str]
    rows: list[dict[str, Any]]
    before: Period | None = None


@emits("stats", "figures")
async def stats(kind: Kind, /, *, asked: Asked = WEEK, here: Here) -> int:
    """Sum up a period: usage and cost of models, calls of services, answers, feedback, or the daily metrics; or show a server's figures.

    Usage, calls and answers are read from what is counted per UTC day, from the beginning of the first day on; these
    counts stay when the records they are of expire. Grouped or narrowed by what is not counted, or where nothing was
    counted, the records of the period are scanned instead.

    Parameters
    ----------
    kind
        usage (tokens, cost), cost (dearest first), calls (services), answers (whole turns), feedback, metrics (kept per day);
        database and cache are what the servers count of themselves, now.
    """
    asked.must_fit(kind)
    if kind in ("database", "cache"):
        from palaver.cli.figures import figures

        return await figures(here, kind)
    async with here.open() as store:
        period = _period(asked, store.clock.now())
        report = await (_metrics(store, period) if kind == "metrics" else _report(here, store, kind, period, asked))
    if here.out.json:
        _emit(here.out, kind, report)
    else:
        _print(here.out, report)
    return Exit.OK


def _period(asked: Asked, now: datetime) -> Period:
    from palaver.cli.typed import moment

    period = Period(moment(asked.since, now), now)
    if period.start > now:
        raise Stop(Exit.USAGE, "moment", "The period begins in the future.", hint="Write 7d, 12h or a day that was.")
    if asked.compare:
        try:
            period.in_days().before()
        except OverflowError:
            raise Stop(Exit.USAGE, "moment", "There is no time before this period.", hint="Write 7d, 12h or a later day.") from None
    return period


async def _report(here: Context, store: Store, kind: str, period: Period, asked: Asked) -> Report:
    declared, source = _source_of(store, kind)
    named = asked.by or list(source.by)
    groups = _groups(declared, [_field(declared, name) for name in named])
    (now, lines), *before = await _summed(here, store, declared, source, groups, period, asked)
    rows = []
    for group in sorted({*lines, *(group for _, earlier in before for group in earlier)}):
        row = dict(zip(named, group, strict=True)) | _figures(kind, lines.get(group, Line()))
        for _, earlier in before:
            row["previous"] = _figures(kind, earlier[group]) if group in earlier else None
        rows.append(row)
    if kind == "cost":
        rows.sort(key=lambda row: row["cost_usd"] or 0, reverse=True)
    return Report(now, named, list(_figures(kind, Line())), rows, before[0][0] if before else None)


async def _summed(
    here: Context, store: Store, declared: Declared, source: Source, groups: list[str], period: Period, asked: Asked
) -> list[tuple[Period, Lines]]:
    """Return what a period adds up to, and the one before where it is asked for: as it is counted per day, else by scanning."""
    days = period.in_days()
    periods = [days, days.before()] if asked.compare else [days]
    found = [await _from_rows(store, declared, source, groups, each, asked.where) for each in periods]
    if all(lines is None for lines in found):
        periods = [period, period.before()] if asked.compare else [period]
    elif missing := await behind(store):
        here.out.say(f"{missing:,} changes are not counted yet; `palaver work --once` counts them")
    out = []
    with here.out.progress("records") as progress:
        for each, lines in zip(periods, found, strict=True):
            if lines is None:
                lines = await scanned(store, declared, source, groups, each, asked.where, progress)
            out.append((each, lines))
    return out


def _emit(out: Output, kind: str, report: Report) -> None:
    body: dict[str, Any] = {"stats": kind, "since": _iso(report.period.start), "data": report.rows}
    if report.before is not None:
        body["previous"] = {"since": _iso(report.before.start), "until": _iso(report.before.end)}
    out.emit("stats", body)


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")


def _print(out: Output, report: Report) -> None:
    """Print a line for each group, and below it what it was in the period before."""
    named, figures = report.names, report.figures
    period = ["period"] if report.before is not None else []
    rows = []
    for row in report.rows:
        rows.append([*(row[name] for name in named), *(["now"] if period else []), *(_shown(name, row[name]) for name in figures)])
        if period:
            earlier = row["previous"] or {}
            rows.append([*("" for _ in named), "before", *(_shown(name, earlier.get(name)) for name in figures)])
    titles = [_TITLES.get(name) or name.replace("_", " ") for name in figures]
    out.table([*(_TITLES.get(name) or name.replace("_", " ") for name in named), *period, *titles], rows, right=titles, one_line=True)
    out.say(f"since {report.period.start:%Y-%m-%d %H:%M} UTC")
    if report.before is not None:
        out.say(f"before: {report.before.start:%Y-%m-%d %H:%M} to {report.before.end:%Y-%m-%d %H:%M} UTC")


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
    store: Store, declared: Declared, source: Source, groups: list[str], period: Period, where: list[str] | None
) -> Lines | None:
    """Return a report from what is counted per day; None where that cannot answer."""
    only = equalities(where)
    if source.counted is None or only is None:
        return None
    narrowed = {_dimension(declared, name): value for name, value in only.items()}
    return await counted(store, source.counted, [_dimension(declared, name) for name in groups], period, narrowed)


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


async def _metrics(store: Store, period: Period) -> Report:
    """Read the metrics kept per day, which outlive the records they were counted from."""
    from palaver.insight.metrics import Metrics

    row = next(
        (declared for declared in store.schema.entities.values() if {"metric_date", "metric_id", "buckets"} <= declared.fields.keys()), None
    )
    if row is None:
        raise Stop(Exit.USAGE, "stats", f"Schema {store.schema.name} keeps no metrics.", hint="Add an entity based on MetricRow.")
    points = await Metrics(store, row.entity).read(*period.days)
    return Report(
        period, ["day", "app_mode", "category", "name"], ["count", "average", "p50", "p90", "p99"], [_point(each) for each in points]
    )


def _point(point: Any) -> dict[str, Any]:
    average = point.values.average
    named = {"day": point.period, "app_mode": point.mode, "category": point.category, "name": point.name}
    figures = {"count": point.values.count, "average": None if average is None else round(float(average), 1)}
    return {**named, **figures, **percentiles(point.values)}
