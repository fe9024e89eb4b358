"""Metrics: counted once, whatever is delivered twice or rebuilt; read as days, months and modes."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from palaver.clock import ManualClock
from palaver.entity import Entity
from palaver.errors import Conflict, Expression, SchemaError, Validation
from palaver.insight.histogram import Histogram, bucket
from palaver.insight.metrics import Measure, MetricRow, Metrics, MetricsProjection, Period, metrics
from palaver.keys import Key
from palaver.ops import Refused
from palaver.schema import Schema
from palaver.store import Store
from palaver.system import system
from tests.insight.app import MEASURES, Call, Message, Metric, Times, call, message
from tests.insight.conftest import Opened

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
TODAY = NOON.date()
FIRST, LAST = date(2026, 1, 1), date(2026, 12, 31)


async def numbers(store: Store, **wanted: Any) -> dict[tuple[str, str, str, str], Histogram]:
    points = await Metrics(store, Metric).read(FIRST, LAST, **wanted)
    return {(point.period, point.mode, point.category, point.name): point.values for point in points}


async def write_some(store: Store, n: int = 40) -> list[float]:
    draw = random.Random(3)
    latencies = [round(draw.lognormvariate(5, 1), 3) for _ in range(n)]
    for number, latency in enumerate(latencies):
        at = NOON - timedelta(days=number % 3)
        await store.create(call(number, at, latency=latency, success=number % 5 > 0))
        await store.create(message(number, at, intent="fixtures" if number % 2 else None))
    return latencies


async def test_each_created_record_counts_once_on_its_utc_day(opened: Opened) -> None:
    store = await opened(metrics(Metric, MEASURES))
    latencies = await write_some(store)
    await store.settle(5)
    found = await numbers(store)
    assert Histogram.of(latencies[0::3]) == found["2026-03-10", "production", "latency", "llm"]
    assert Histogram.of(latencies[1::3]) == found["2026-03-09", "production", "latency", "llm"]
    assert 40 == sum(values.count for key, values in found.items() if key[3] == "messages")
    assert 8 == sum(values.count for key, values in found.items() if key[3] == "failed")
    assert 20 == sum(values.count for key, values in found.items() if key[3] == "fixtures")


async def test_an_instant_near_midnight_counts_on_its_utc_day(opened: Opened) -> None:
    store = await opened(metrics(Metric, MEASURES))
    late = datetime.fromisoformat("2026-03-10T01:30:00+05:00")
    await store.create(message(1, late))
    await store.settle(5)
    assert [("2026-03-09", "production", "volume", "messages")] == list(await numbers(store))


async def test_changes_delivered_twice_change_no_number(opened: Opened) -> None:
    store = await opened(metrics(Metric, MEASURES))
    await write_some(store)
    await store.settle(5)
    before = await numbers(store)
    projection = store.runner().projections["metrics"]
    changes = (await store.core.records.changes(None, 10_000)).changes
    await projection.apply(changes)
    await projection.apply(changes[10:])
    assert before == await numbers(store)


async def test_chunks_cut_anywhere_give_the_same_numbers(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(metrics(Metric, MEASURES))
    monkeypatch.setattr("palaver.insight.tally.COMMIT", 3)
    monkeypatch.setattr("palaver.feed.CHUNK", 7)
    latencies = await write_some(store)
    await store.settle(20)
    found = await numbers(store, by="all")
    assert Histogram.of(latencies) == found["all", "production", "latency", "llm"]


async def test_a_crash_between_counting_and_the_position_counts_nothing_twice(opened: Opened) -> None:
    store = await opened(metrics(Metric, MEASURES))
    await write_some(store)
    changes = (await store.core.records.changes(None, 10_000)).changes
    await store.runner().projections["metrics"].apply(changes)
    before = await numbers(store)
    await store.settle(5)
    assert before == await numbers(store)


async def test_patching_and_putting_a_counted_record_changes_no_number(opened: Opened) -> None:
    store = await opened(metrics(Metric, MEASURES))
    one = await store.create(call(1, NOON, latency=5.0))
    await store.settle(5)
    before = await numbers(store)
    await store.patch(one, set={"latency": 500.0})
    await store.put(one.model_copy(update={"latency": 7.0}))
    await store.settle(5)
    assert before == await numbers(store)


async def test_a_value_that_arrives_by_update_counts_once_on_its_records_day(opened: Opened, clock: ManualClock) -> None:
    store = await opened(metrics(Metric, MEASURES))
    one = await store.create(message(1, NOON))
    await store.settle(5)
    assert ("2026-03-10", "production", "answer", "total") not in await numbers(store)
    clock.advance(timedelta(days=1))
    await store.patch(one, set={"times": Times(total=120.0)})
    await store.settle(5)
    await store.patch(one, set={"intent": "table"})
    await store.patch(one, set={"times.total": 900.0})
    await store.settle(5)
    assert Histogram.of([120.0]) == (await numbers(store))["2026-03-10", "production", "answer", "total"]


async def test_a_late_value_is_not_counted_again_after_a_rebuild(opened: Opened) -> None:
    store = await opened(metrics(Metric, MEASURES))
    for number in range(6):
        await store.create(message(number, NOON, times=Times(total=float(number + 1))))
    await store.settle(5)
    before = await numbers(store)
    await store.rebuild("metrics")
    assert before == await numbers(store)
    for number in range(6):
        await store.patch(Message.at(f"c{number % 3}", str(number)), set={"intent": "x"})
    await store.settle(5)
    assert before == await numbers(store)


async def test_a_rebuild_repairs_the_days_that_are_fully_there_and_leaves_older_ones(opened: Opened, clock: ManualClock) -> None:
    store = await opened(metrics(Metric, MEASURES))
    await write_some(store)
    old = call(900, NOON - timedelta(days=6, hours=11), latency=77.0)
    await store.create(old)
    await store.settle(5)
    clock.advance(timedelta(days=2))
    await store.sweep()
    await store.settle(5)
    before = await numbers(store)
    for key in (("2026-03-10", "production:latency:llm"), ("2026-03-09", "production:latency:llm")):
        await store.patch(Metric.at(*key), set={"count": 999_999, "buckets": {}})
    await store.rebuild("metrics")
    assert before == await numbers(store)
    assert Decimal(77) == before["2026-03-04", "production", "latency", "llm"].total


async def test_rebuilding_twice_gives_the_same_numbers(opened: Opened) -> None:
    store = await opened(metrics(Metric, MEASURES))
    await write_some(store)
    await store.rebuild("metrics")
    first = await numbers(store)
    await store.rebuild("metrics")
    await store.settle(5)
    assert first == await numbers(store)


async def test_writers_beside_a_rebuild_are_counted_once(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palaver.insight.tally.SCAN", 5)
    store = await opened(metrics(Metric, MEASURES))
    for number in range(50):
        await store.create(call(number, NOON, latency=1.0))
    await store.settle(10)

    async def write() -> None:
        for number in range(50, 120):
            await store.create(call(number, NOON, latency=1.0))
            await store.create(message(number, NOON, times=Times(total=1.0)))
            await asyncio.sleep(0)

    await asyncio.gather(store.rebuild("metrics"), write())
    await store.settle(20)
    found = await numbers(store)
    assert 120 == found["2026-03-10", "production", "latency", "llm"].count
    assert 70 == found["2026-03-10", "production", "volume", "messages"].count
    assert 70 == found["2026-03-10", "production", "answer", "total"].count


async def test_a_rebuild_that_was_cut_off_is_done_again_before_counting_goes_on(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(metrics(Metric, MEASURES))
    await write_some(store)
    await store.settle(5)
    expected = await numbers(store)
    projection: Any = store.runner().projections["metrics"]

    async def cut_off(*_: Any) -> None:
        raise Conflict("cut off")

    with monkeypatch.context() as patched:
        patched.setattr(projection, "_replace", cut_off)
        with pytest.raises(Conflict):
            await store.rebuild("metrics")
    await store.patch(Metric.at("2026-03-10", "production:latency:llm"), set={"count": 1})
    await store.create(call(500, NOON, latency=9.0))
    await store.settle(10)
    found = await numbers(store)
    key = ("2026-03-10", "production", "latency", "llm")
    assert expected[key].count + 1 == found[key].count
    assert (await store.core.records.get([system("counting", "metrics")])) == [None]


async def test_a_reader_whose_changes_are_gone_rebuilds_instead_of_losing_them(opened: Opened) -> None:
    store = await opened(metrics(Metric, MEASURES))
    await store.create(call(1, NOON, latency=1.0))
    await store.settle(5)
    for number in range(2, 30):
        await store.create(call(number, NOON, latency=1.0))
    records: Any = store.core.records
    await records.trim((await records.changes(None, 0)).head)
    await store.settle(5)
    assert 29 == (await numbers(store))["2026-03-10", "production", "latency", "llm"].count


async def test_two_modes_are_two_rows(opened: Opened) -> None:
    store = await opened(metrics(Metric, MEASURES))
    await store.create(call(1, NOON, latency=10.0, app_mode="production"))
    await store.create(call(2, NOON, latency=90.0, app_mode="development"))
    await store.settle(5)
    modes = await Metrics(store, Metric).compare(FIRST, LAST, "latency", "llm")
    assert {"production": Histogram.of([10.0]), "development": Histogram.of([90.0])} == modes
    production = await numbers(store, mode="production")
    assert {"production"} == {mode for _, mode, _, _ in production}


async def test_months_are_their_days_recomputed(opened: Opened) -> None:
    store = await opened(metrics(Metric, MEASURES))
    latencies = await write_some(store)
    await store.create(call(777, datetime(2026, 2, 27, tzinfo=UTC), latency=3.0))
    await store.settle(5)
    found = await numbers(store, by="month", category="latency")
    assert Histogram.of(latencies) == found["2026-03", "production", "latency", "llm"]
    assert {"2026-02", "2026-03"} == {period for period, *_ in found}


async def test_a_closed_month_answers_when_its_days_are_gone(opened: Opened) -> None:
    store = await opened(metrics(Metric, MEASURES))
    await write_some(store)
    await store.settle(5)
    reader = Metrics(store, Metric)
    before = await numbers(store, by="month")
    assert 4 == await reader.close_month(TODAY)
    assert 0 == await reader.close_month(TODAY)
    today = [point.values for point in await reader.read(TODAY, TODAY)]
    assert today == [point.values for point in await reader.read(TODAY, TODAY, by="month")], "a part of a month is the sum of its days"
    for point in await reader.read(FIRST, LAST):
        await store.delete(Metric.at(point.period, f"{point.mode}:{point.category}:{point.name}"))
    assert before == await numbers(store, by="month")
    assert 0 == await reader.close_month(TODAY)
    assert {} == await numbers(store)


@pytest.mark.parametrize(
    "wanted",
    [{"category": "intent"}, {"name": "llm"}, {"mode": "development"}, {"category": "latency", "mode": "production"}, {"name": "none"}],
)
async def test_a_read_is_narrowed_also_where_a_month_is_closed(opened: Opened, wanted: dict[str, str]) -> None:
    store = await opened(metrics(Metric, MEASURES))
    await write_some(store)
    await store.create(call(1_000, NOON, app_mode="development", latency=1.0))
    await store.settle(5)
    reader = Metrics(store, Metric)
    await reader.close_month(TODAY)

    async def is_narrowed(by: Period) -> bool:
        whole = await numbers(store, by=by)
        asked = (wanted.get("mode"), wanted.get("category"), wanted.get("name"))
        part = {key: values for key, values in whole.items() if all(want in (None, got) for want, got in zip(asked, key[1:], strict=True))}
        return bool(whole) and await numbers(store, by=by, **wanted) == part

    assert await is_narrowed("day")
    assert await is_narrowed("month")
    for point in await reader.read(FIRST, LAST):
        await store.delete(Metric.at(point.period, f"{point.mode}:{point.category}:{point.name}"))
    assert await is_narrowed("month")


async def test_counting_beside_another_counting_process_is_refused(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(metrics(Metric, MEASURES))
    await store.create(call(1, NOON, latency=1.0))
    projection = store.runner().projections["metrics"]
    changes = (await store.core.records.changes(None, 100)).changes

    async def refused(*_: Any) -> Refused:
        return Refused(())

    with monkeypatch.context() as patched:
        patched.setattr(store.core.records, "write", refused)
        with pytest.raises(Conflict):
            await projection.apply(changes)


async def test_a_measure_of_an_unknown_field_is_refused(opened: Opened) -> None:
    with pytest.raises(Expression):
        await opened(metrics(Metric, [Measure("latency", "x", Call, "latencies")]))


async def test_a_row_entity_without_the_fields_is_refused(opened: Opened) -> None:
    class Bare(Entity, table="bare-rows"):
        id: str
        counted_to: int = 0
        key = Key("id")

    with pytest.raises(SchemaError):
        await opened(lambda store: MetricsProjection(store, Bare, MEASURES), schema=Schema("bare", [Bare, Call, Message]))


async def test_a_row_whose_key_leaves_out_what_it_is_counted_by_is_refused(opened: Opened) -> None:
    class ByDay(MetricRow, table="by-day"):
        key = Key("metric_date")

    with pytest.raises(SchemaError, match="metric_id"):
        await opened(lambda store: MetricsProjection(store, ByDay, MEASURES), schema=Schema("by-day", [ByDay, Call, Message]))


async def test_buckets_add_atomically_from_many_writers(opened: Opened) -> None:
    store = await opened()
    row = await store.create(Metric(metric_date="2026-03-10", metric_id="p:c:n", metric_category="c", metric_name="n", app_mode="p"))
    values = [float(number % 17 + 1) for number in range(120)]
    await asyncio.gather(*[store.patch(row, add={"count": 1, f"buckets.{bucket(value)}": 1}) for value in values])
    found = await store.get(row.address)
    assert (120, Histogram.of(values).buckets) == (found.count, found.buckets)


@pytest.mark.parametrize("given", ["2026-01-01", NOON, 20_260_101, None])
async def test_a_day_of_another_type_is_refused_in_words(opened: Opened, given: Any) -> None:
    rows = Metrics(await opened(), Metric)
    for first, last, name in ((given, LAST, "first"), (FIRST, given, "last")):
        for category in (None, "latency"):
            with pytest.raises(Validation, match=f"{name} is a day, not {type(given).__name__}. Give a date"):
                await rows.read(first, last, category=category)
