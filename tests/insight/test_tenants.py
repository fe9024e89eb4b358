"""Counting for tenants: each has its own rows, and reads nobody else's."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from pydantic import Field

from palaver.clock import now
from palaver.entity import Entity
from palaver.insight.metrics import Measure, MetricRow, Metrics, metrics
from palaver.insight.usage import CallFields, Price, Prices, Usage, UsageRow, usage
from palaver.keys import Key
from palaver.markers import InstantMs, Tenant
from palaver.schema import Schema
from tests.insight.conftest import Opened

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


class Call(Entity, table="tenant-calls"):
    org: Annotated[str, Tenant()]
    call_id: str
    latency: float
    timestamp: InstantMs = Field(default_factory=now)
    key = Key("call_id")


class Metric(MetricRow, table="tenant-metrics"):
    org: Annotated[str, Tenant()] = ""


class Spent(UsageRow, table="tenant-usage"):
    org: Annotated[str, Tenant()] = ""


SCHEMA = Schema("tenants", [Call, Metric, Spent])
PRICES = Prices({("p", "m"): Price(Decimal(1), Decimal(1))}, bundled=False)
FIXED = CallFields("=p", "=m", "=answer", "=live", "=1", "=1", "=2", "latency", "=yes", "timestamp")


async def test_each_tenant_has_rows_of_its_own(opened: Opened) -> None:
    measure = Measure("latency", "call", Call, "latency", mode="=live")
    store = await opened(metrics(Metric, [measure]), usage(Spent, Call, prices=PRICES, fields=FIXED), schema=SCHEMA)
    for org, n in (("a", 3), ("b", 5)):
        for number in range(n):
            await store.for_tenant(org).create(Call(org=org, call_id=f"{number}", latency=float(n), timestamp=NOON))
    await store.settle(5)
    await store.rebuild("metrics")
    for org, n in (("a", 3), ("b", 5)):
        mine = store.for_tenant(org)
        (point,) = await Metrics(mine, Metric).read(NOON.date(), NOON.date())
        assert (n, Decimal(n * n)) == (point.values.count, point.values.total)
        assert 1 == await Metrics(mine, Metric).close_month(NOON.date())
        (line,) = await Usage(mine, Spent).report(NOON.date(), NOON.date())
        assert (n, Decimal(2 * n)) == (line.used.calls, line.used.cost)
