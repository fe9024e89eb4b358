"""A small schema with facts of every kind, opened on the engines that need no service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.clock import ManualClock
from palaver.store import Store
from tests.insight.app import SCHEMA

Opened = Callable[..., Any]


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/insight.db"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 3, 10, 12, tzinfo=UTC))


@pytest.fixture
async def opened(url: str, clock: ManualClock) -> AsyncIterator[Opened]:
    """Open the schema with projections; the test runs them by `settle`."""
    async with AsyncExitStack() as stack:

        async def make(*projections: Any, schema: Any = SCHEMA) -> Store:
            opening = palaver.open(url, schema=schema, clock=clock, projections=projections, maintain=False)
            return await stack.enter_async_context(opening)

        yield make
