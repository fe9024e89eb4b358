"""A Baller on each engine that needs no service, under a clock that moves when told to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.blueprints.baller import SCHEMA, Baller, Retention, Settings, schema

Opened = Callable[..., AbstractAsyncContextManager[Baller]]


@pytest.fixture
def clock() -> palaver.ManualClock:
    return palaver.ManualClock()


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/baller.db?sync=normal"


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
