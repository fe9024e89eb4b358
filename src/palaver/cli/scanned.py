"""Statistics from the records themselves, where what is counted per day cannot answer: a period is read whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from palaver.cli.counted import FromMetrics, Line, Lines, Period

if TYPE_CHECKING:
    from palaver.cli.progress import Progress
    from palaver.declared import Declared
    from palaver.entity import Entity
    from palaver.expr import Condition
    from palaver.keys import AccessPath
    from palaver.store import Store


@dataclass(frozen=True)
class Source:
    """Which records a report is made of: those of the first entity that has these fields.

    `timed`: a field and the value it has in the records whose latency counts. `counted`: which rows hold the report per day.
    """

    fields: tuple[str, ...]
    by: tuple[str, ...]
    at: str = "timestamp"
    latency: str | None = "latency"
    timed: tuple[str, str] | None = None
    only: tuple[tuple[str, tuple[str, ...]], ...] = ()
    counted: FromMetrics | Literal["usage"] | None = None


async def scanned(
    store: Store, declared: Declared, source: Source, groups: list[str], period: Period, where: list[str] | None, progress: Progress
) -> Lines:
    """Return a report summed up from the records of a period."""
    from palaver.cli.typed import conditions
    from palaver.expr import F
    from palaver.insight.tally import reach

    lines: Lines = {}
    wanted: Condition = F(source.at) >= period.start
    if period.over:
        wanted = wanted & (F(source.at) < period.end)
    for name, values in source.only:
        wanted = wanted & F(name).is_in(values)
    asked = conditions(declared.entity, where, store.clock.now())
    price = _Prices()
    async for entity in _records(store, declared, source.at, period, wanted if asked is None else wanted & asked):
        progress.advance()
        at = reach(entity, source.at)
        group = tuple(f"{at:%Y-%m-%d}" if name == "day" else str(_text(reach(entity, name))) for name in groups)
        _add(lines.setdefault(group, Line()), entity, source, at, price)
    return lines


def _records(store: Store, declared: Declared, at: str, period: Period, condition: Condition) -> AsyncIterator[Entity]:
    """Return the records of a period: by an index over the time whose partitions are known, else by scanning."""
    from palaver.cli.reading import scan

    for path in declared.access.values():
        if len(path.partition) == 1 and path.sort and path.sort[0].path == at and not declared.blobs:
            values = _literals(declared, path.partition[0].path)
            if values:
                return _indexed(store, declared, path, values, period, condition)
    return scan(store, declared, condition, objects=False)


async def _indexed(
    store: Store, declared: Declared, path: AccessPath, values: Sequence[Any], period: Period, condition: Condition
) -> AsyncIterator[Entity]:
    from palaver.keys import build_query

    for value in values:
        query = build_query(declared.entity, path, (value,)).since(period.start).filter(condition)
        async for entity in store.query(query.before(period.end) if period.over else query):
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
    timed = source.timed is None or getattr(entity, source.timed[0]) == source.timed[1]
    if timed and source.latency is not None and (latency := reach(entity, source.latency)) is not None:
        line.latencies.append(float(latency))
    line.failures += failed(entity)
    rating = getattr(entity, "rating", None)
    line.positive += rating == "positive"
    line.negative += rating == "negative"
    if hasattr(entity, "prompt_tokens"):
        line.prompt_tokens += entity.prompt_tokens
        line.completion_tokens += entity.completion_tokens
        cost = price.of(entity, at)
        line.unpriced += cost is None
        line.cost = (line.cost or Decimal(0)) + (cost or Decimal(0))


def failed(entity: Entity) -> bool:
    """Say whether a record is of a call or an answer that failed; an answer nobody got is one."""
    status = getattr(getattr(entity, "processing_metadata", entity), "status", None)
    return getattr(entity, "success", None) is False or status in ("failed", "unanswered")


class _Prices:
    """Prices of calls, looked up only where there are calls."""

    def __init__(self) -> None:
        self._prices: Any = None

    def of(self, entity: Any, at: datetime) -> Any:
        if self._prices is None:
            from palaver.insight.usage import Prices

            self._prices = Prices()
        return self._prices.cost(entity.provider, entity.model, entity.prompt_tokens, entity.completion_tokens, at)
