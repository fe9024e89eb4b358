"""What language models were used for and what that cost: per UTC day, mode, provider, model and purpose.

Money is Decimal from the price table to the report. A model nobody has a price for is counted as unpriced calls, never
as calls that cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field

from palaver.entity import Entity
from palaver.errors import Validation
from palaver.insight.histogram import Histogram, plus
from palaver.insight.tally import Fact, Tally, check_days, check_path, reach, utc_day
from palaver.keys import Index, Key
from palaver.store import Store
from palaver.values import Record

DIMENSIONS = ("day", "app_mode", "provider", "model", "purpose")


class UsageRow(Entity):
    """Base for the usage entity of a schema: `class Usage(UsageRow, table="usage"): ...` is all it takes."""

    day: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    usage_id: str
    app_mode: str
    provider: str
    model: str
    purpose: str
    calls: int = 0
    failures: int = 0
    unpriced: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cost: Decimal = Decimal(0)
    latency_count: int = 0
    latency_sum: Decimal = Decimal(0)
    latency_min: Decimal | None = None
    latency_max: Decimal | None = None
    latency_buckets: dict[str, int] = Field(default_factory=dict)
    counted_to: int = 0

    key = Key("day", "usage_id")
    by_day = Index(sort=("day", "usage_id"), shards=4)


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per token."""

    input: Decimal
    output: Decimal


class Prices:
    """What a call costs: your own prices first, then the table that comes with genai-prices. Never asks the network."""

    def __init__(self, own: Mapping[tuple[str, str], Price] | None = None, *, bundled: bool = True) -> None:
        """`own` is keyed by provider and model, in any case; `bundled=False` leaves everything else unpriced."""
        self._own = {(provider.casefold(), model.casefold()): price for (provider, model), price in (own or {}).items()}
        self._bundled = bundled

    def cost(self, provider: str, model: str, prompt_tokens: int, completion_tokens: int, at: datetime) -> Decimal | None:
        """Return the cost of one call in US dollars, None where nobody knows the price."""
        own = self._own.get((provider.casefold(), model.casefold()))
        if own is not None:
            return own.input * prompt_tokens + own.output * completion_tokens
        return _bundled_cost(provider, model, prompt_tokens, completion_tokens, at) if self._bundled else None


def _bundled_cost(provider: str, model: str, prompt_tokens: int, completion_tokens: int, at: datetime) -> Decimal | None:
    # Loading the table takes half a second, and most processes never price a call.
    from genai_prices import Usage, calc_price

    try:
        found = calc_price(
            Usage(input_tokens=prompt_tokens, output_tokens=completion_tokens),
            model,
            provider_id=provider.casefold(),
            genai_request_timestamp=at,
        )
    except (LookupError, ValueError):
        return None
    priced = found.model_price
    if (prompt_tokens and priced.input_mtok is None) or (completion_tokens and priced.output_mtok is None):
        return None  # it is sold by the image or by the minute: its tokens have no price, which is not a price of zero
    return found.total_price


@dataclass(frozen=True, slots=True)
class Used:
    """Calls and what they took; adds up."""

    calls: int = 0
    failures: int = 0
    unpriced: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cost: Decimal = Decimal(0)
    latency: Histogram = field(default_factory=Histogram)

    @staticmethod
    def sum(many: Sequence[Used]) -> Used:
        cost = Decimal(0)
        for each in many:
            cost = plus(cost, each.cost)
        return Used(
            sum(each.calls for each in many),
            sum(each.failures for each in many),
            sum(each.unpriced for each in many),
            sum(each.prompt_tokens for each in many),
            sum(each.completion_tokens for each in many),
            sum(each.total_tokens for each in many),
            cost,
            Histogram.sum(each.latency for each in many),
        )


@dataclass(frozen=True)
class CallFields:
    """Where an entity of model calls keeps what is counted: field paths; "=text" stands for a fixed value."""

    provider: str = "provider"
    model: str = "model"
    purpose: str = "purpose"
    app_mode: str = "app_mode"
    prompt_tokens: str = "prompt_tokens"
    completion_tokens: str = "completion_tokens"
    total_tokens: str = "total_tokens"
    latency: str = "latency"
    success: str = "success"
    at: str = "timestamp"


class UsageProjection(Tally[Used]):
    """Keeps the usage rows equal to the calls stored, each call once."""

    def __init__(
        self,
        store: Store,
        row: type[UsageRow],
        calls: type[Entity],
        *,
        prices: Prices | None = None,
        fields: CallFields | None = None,
        name: str = "usage",
    ) -> None:
        super().__init__(store, name, row, [calls])
        self._keyed_by("day", "usage_id")
        self._calls, self._prices, self._fields = calls, prices or Prices(), fields or CallFields()
        for path in vars(self._fields).values():
            if not path.startswith("="):
                check_path(calls, path)

    def groups(self) -> Mapping[str, Sequence[type[Entity]]]:
        return {"calls": [self._calls]}

    def facts(self, entity: Any, record: Record) -> Iterator[Fact[Used]]:
        names, at = self._fields, reach(entity, self._fields.at)
        day = utc_day(at)
        dimensions = [str(_value(entity, path) or "-") for path in (names.app_mode, names.provider, names.model, names.purpose)]
        prompt, completion = (int(_value(entity, path) or 0) for path in (names.prompt_tokens, names.completion_tokens))
        whole = int(_value(entity, names.total_tokens) or 0) or prompt + completion
        latency = _value(entity, names.latency)
        cost = self._prices.cost(dimensions[1], dimensions[2], prompt, completion, at)
        used = Used(
            1,
            0 if _value(entity, names.success) else 1,
            1 if cost is None else 0,
            prompt,
            completion,
            whole,
            cost or Decimal(0),
            Histogram() if latency is None else Histogram.of([latency]),
        )
        yield Fact((day.isoformat(), *dimensions), day, used, "calls")

    def fresh(self, row: tuple[Any, ...]) -> Entity:
        entity: Any = self._row.entity
        made: Entity = entity(**dict(zip(DIMENSIONS, row, strict=True)), usage_id=":".join(row[1:]))
        return made

    def added(self, row: Any, amounts: Sequence[Used]) -> dict[str, Any]:
        used = Used.sum([used_of(row), *amounts])
        latency = used.latency
        return {
            **{name: getattr(used, name) for name in _ADDED},
            "latency_count": latency.count,
            "latency_sum": latency.total,
            "latency_min": latency.least,
            "latency_max": latency.greatest,
            "latency_buckets": dict(latency.buckets),
        }

    def joined(self, amounts: Sequence[Used]) -> Used:
        return Used.sum(amounts)


_ADDED = ("calls", "failures", "unpriced", "prompt_tokens", "completion_tokens", "total_tokens", "cost")


def usage(
    row: type[UsageRow], calls: type[Entity], *, prices: Prices | None = None, fields: CallFields | None = None
) -> Callable[[Store], UsageProjection]:
    """Return what `open(projections=[…])` takes."""
    return lambda store: UsageProjection(store, row, calls, prices=prices, fields=fields)


def used_of(row: Any) -> Used:
    """Return what a row has counted."""
    latency = Histogram(row.latency_count, row.latency_sum, row.latency_min, row.latency_max, row.latency_buckets)
    return replace(Used(**{name: getattr(row, name) for name in _ADDED}), latency=latency)


def _value(entity: Any, path: str) -> Any:
    return path[1:] if path.startswith("=") else reach(entity, path)


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a report: the values it is grouped by, and what was used."""

    group: tuple[str, ...]
    used: Used


class Usage:
    """Reports of what was used, grouped by any of day, month, app_mode, provider, model and purpose."""

    def __init__(self, store: Store, row: type[UsageRow]) -> None:
        self._store, self._row = store, row
        store.schema.of(row)

    async def report(self, first: date, last: date, *, by: Sequence[str] = ("provider", "model"), **only: str) -> list[Line]:
        """Return the usage of a range of UTC days, both included, in order of the groups; `only` keeps equal dimensions."""
        known = (*DIMENSIONS, "month")
        if any(name not in known for name in (*by, *only)):
            raise Validation("Usage is grouped and narrowed by its dimensions only.", hint=f"They are: {', '.join(known)}.")
        check_days(first, last)
        found: dict[tuple[str, ...], list[Used]] = {}
        async for row in self._store.query(self._row.by_day().between(first.isoformat(), last.isoformat())):
            values = {name: str(getattr(row, name)) for name in DIMENSIONS} | {"month": row.day[:7]}
            if all(values[name] == value for name, value in only.items()):
                found.setdefault(tuple(values[name] for name in by), []).append(used_of(row))
        return [Line(group, Used.sum(found[group])) for group in sorted(found)]
