"""A small schema with facts of every kind, opened on each stack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

import palaver
from palaver.clock import ManualClock
from palaver.store import Store
from tests.insight.app import SCHEMA
from tests.stacks import objects, stack, url

__all__ = ["clock", "objects", "opened", "stack", "url"]

Opened = Callable[..., Any]


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
