"""A Simple AI Agent on each stack, under a clock that moves when told to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

import palaver
from palaver.blueprints.simple_agent import SCHEMA, Retention, Settings, SimpleAgent, schema
from tests.stacks import objects, stack, url

__all__ = ["agent", "clock", "objects", "opened", "stack", "url"]

Opened = Callable[..., AbstractAsyncContextManager[SimpleAgent]]


@pytest.fixture
def clock() -> palaver.ManualClock:
    return palaver.ManualClock()


@pytest.fixture
def opened(url: str, clock: palaver.ManualClock) -> Opened:
    """Open the agent with its own retention or settings: `async with opened(settings=…) as agent`."""

    @asynccontextmanager
    async def make(
        *,
        retention: Retention | None = None,
        settings: Settings | None = None,
        clock: palaver.Clock = clock,
        projections: Any = (),
        maintain: bool = False,
    ) -> AsyncIterator[SimpleAgent]:
        declared = schema(retention) if retention else SCHEMA
        async with palaver.open(url, schema=declared, clock=clock, projections=projections, maintain=maintain) as store:
            yield SimpleAgent(store, settings=settings)

    return make


@pytest.fixture
async def agent(opened: Opened) -> AsyncIterator[SimpleAgent]:
    async with opened() as agent:
        yield agent
