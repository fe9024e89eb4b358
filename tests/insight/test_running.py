"""A transaction that still runs while a projection is built anew: what it commits is counted."""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path

import pytest

import palaver
from palaver.clock import ManualClock
from palaver.insight.metrics import Metrics, metrics
from tests.insight.app import MEASURES, SCHEMA, Metric, call
from tests.stacks import fresh
from tests.under_way import under_way


async def test_what_was_drawn_before_a_rebuild_and_committed_after_its_reading_is_counted(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long a reader of the feed waits by itself.
    monkeypatch.setattr("palaver.records.postgres_feed._FENCE_WAIT_S", 0.02)
    url = fresh("postgresql", tmp_path, {}, named_plainly=True)
    async with palaver.open(url, schema=SCHEMA, clock=clock, projections=[metrics(Metric, MEASURES)], maintain=False) as store:
        first = await store.create(call(0, clock.now(), latency=1.0))
        await store.settle(20)
        async with under_way(url.partition("?")[0], "calls", "call_id", first.call_id):
            # It has the position after, and is there already.
            await store.create(call(1, clock.now(), latency=1.0))
            rebuilding = asyncio.create_task(store.core.runner.projections["metrics"].rebuild())  # type: ignore[union-attr]
            await asyncio.sleep(1.0)
        await rebuilding
        await store.settle(20)
        points = await Metrics(store, Metric).read(date(2026, 3, 10), date(2026, 3, 10))
        assert [3] == [
            point.values.count for point in points if (point.period, point.category, point.name) == ("2026-03-10", "latency", "llm")
        ]
