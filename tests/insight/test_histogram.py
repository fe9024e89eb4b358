"""Percentiles: the error they promise, and that they add up."""

from __future__ import annotations

import math
import random
from decimal import Decimal

import pytest
from hypothesis import example, given, strategies as st

from palaver.errors import NumberRange, Validation
from palaver.insight.histogram import MOST, Histogram, bucket, compact, merge, middle, order, quantile, quantiles
from palaver.values import record_size

POSITIVE = st.floats(min_value=1e-130, max_value=1.7e308, allow_nan=False, allow_infinity=False)
ANY = st.one_of(st.integers(-(10**15), 10**15), st.floats(-1e100, 1e100, allow_nan=False), st.decimals(-(10**20), 10**20, places=6))


def exact(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[max(1, math.ceil(Decimal(repr(q)) * len(ordered))) - 1]


def near(expected: float, found: float | None) -> bool:
    return found is not None and abs(found - expected) <= 0.01 * abs(expected) + 1e-130


@given(POSITIVE)
def test_a_bucket_stands_for_every_positive_value_within_one_percent(value: float) -> None:
    assert near(value, middle(bucket(value)))


@given(st.lists(POSITIVE, min_size=1, max_size=200))
def test_percentiles_of_positive_values_are_within_one_percent(values: list[float]) -> None:
    counts = merge(*({bucket(value): 1} for value in values))
    for q in (0.5, 0.9, 0.99, 0, 1):
        assert near(exact(values, q), quantile(counts, q))


@given(st.lists(st.floats(-1e9, 1e9, allow_nan=False), min_size=1, max_size=100))
def test_zero_and_negative_values_take_part(values: list[float]) -> None:
    histogram = Histogram.of(values)
    for q in (0.01, 0.5, 0.99):
        assert near(exact(values, q), histogram.quantile(q))


@given(st.lists(ANY, max_size=60), st.lists(ANY, max_size=60), st.lists(ANY, max_size=60))
@example([], [1], [1e100, -1e100])
def test_merged_equals_recomputed_in_any_grouping(a: list[int | float], b: list[int | float], c: list[int | float]) -> None:
    whole = Histogram.of([*a, *b, *c])
    one, two, three = Histogram.of(a), Histogram.of(b), Histogram.of(c)
    # A sum has 38 digits, none below 1e-130: what is far below its greatest summand may be lost, and by another grouping may not.
    lost = Decimal("1e-30") * sum((abs(Decimal(value)) for value in [*a, *b, *c]), Decimal("1e-90"))
    for merged in ((one + two) + three, one + (two + three), Histogram.sum([three, one, two])):
        assert whole.buckets == merged.buckets
        assert (whole.count, whole.least, whole.greatest) == (merged.count, merged.least, merged.greatest)
        assert abs(whole.total - merged.total) <= lost


def test_a_month_is_the_sum_of_its_days_and_not_the_mean_of_their_percentiles() -> None:
    draw = random.Random(7)
    days = [[draw.lognormvariate(5 + day % 3, 0.4 + day % 5 / 3) for _ in range(50 + 40 * (day % 7))] for day in range(30)]
    month = Histogram.sum(Histogram.of(day) for day in days)
    values = [value for day in days for value in day]
    assert near(exact(values, 0.99), month.p99)
    assert near(exact(values, 0.5), month.p50)
    mean_of_daily = sum(exact(day, 0.99) for day in days) / len(days)
    assert not near(mean_of_daily, month.p99)


def test_a_million_samples_take_less_than_fifty_kilobytes() -> None:
    draw = random.Random(11)
    counts: dict[str, int] = {}
    for _ in range(1_000_000):
        name = bucket(draw.lognormvariate(6, 2.5))
        counts[name] = counts.get(name, 0) + 1
    size = record_size({"metric_date": "2026-01-01", "metric_id": "latency:processing_time", "buckets": dict(counts)}, "Metric")
    assert 50_000 > size
    assert 1_000_000 == sum(counts.values())


def test_the_range_of_all_floats_still_fits_a_record() -> None:
    draw = random.Random(13)
    histogram = Histogram.of(10 ** draw.uniform(-120, 120) for _ in range(20_000))
    assert MOST >= len(histogram.buckets)
    assert 100_000 > record_size({"buckets": dict(histogram.buckets)}, "Metric")


def test_joined_buckets_leave_the_large_values_exact() -> None:
    values = [1.1**n for n in range(300)]
    full = merge(*({bucket(value): 1} for value in values))
    small = compact(full, 100)
    assert 100 == len(small)
    assert sum(full.values()) == sum(small.values())
    assert quantile(full, 0.9) == quantile(small, 0.9)


def test_buckets_sort_as_values_do() -> None:
    values = [-1e9, -5.0, -0.001, 0.0, 1e-9, 0.5, 1.0, 3.0, 1e12]
    assert values == sorted(values, key=lambda value: order(bucket(value)))


def test_integers_floats_and_decimals_of_one_value_share_a_bucket() -> None:
    assert bucket(1000) == bucket(1000.0) == bucket(Decimal("1E3"))
    assert "z" == bucket(0) == bucket(-0.0) == bucket(Decimal("0.00"))


def test_the_average_and_the_extremes_are_exact() -> None:
    histogram = Histogram.of([0.1, 0.2, Decimal("0.3")])
    assert Decimal("0.6") == histogram.total
    assert Decimal("0.2") == histogram.average
    assert (Decimal("0.1"), Decimal("0.3")) == (histogram.least, histogram.greatest)


def test_nothing_counted_has_no_percentiles() -> None:
    assert [None, None] == quantiles({}, [0.5, 0.9])
    assert Histogram().average is None


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**400])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(NumberRange):
        bucket(value)


def test_an_unknown_bucket_name_is_refused() -> None:
    with pytest.raises(Validation):
        middle("x1")
    with pytest.raises(Validation):
        quantile({"p1": 1}, 1.5)
