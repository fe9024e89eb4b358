"""A Baller on each stack, under a clock that moves when told to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

import palaver
from palaver.blueprints.baller import SCHEMA, Baller, Retention, Settings, schema
from tests.stacks import objects, stack, url

__all__ = ["baller", "clock", "objects", "opened", "stack", "url"]

Opened = Callable[..., AbstractAsyncContextManager[Baller]]


@pytest.fixture
def clock() -> palaver.ManualClock:
    return palaver.ManualClock()


@pytest.fixture
def opened(url: str, clock: palaver.ManualClock) -> Opened:
    """Open Baller with its own retention or settings: `async with opened(retention=…) as baller`."""

    @asynccontextmanager
    async def make(
        *,
        retention: Retention | None = None,
        settings: Settings | None = None,
        clock: palaver.Clock = clock,
        projections: Any = (),
        maintain: bool = False,
    ) -> AsyncIterator[Baller]:
        declared = schema(retention) if retention else SCHEMA
        async with palaver.open(url, schema=declared, clock=clock, projections=projections, maintain=maintain) as store:
            yield Baller(store, retention=retention, settings=settings)

    return make


@pytest.fixture
async def baller(opened: Opened) -> AsyncIterator[Baller]:
    async with opened() as baller:
        yield baller
