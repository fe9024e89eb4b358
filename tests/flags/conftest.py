"""The flags of the tests, opened on each stack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

import palaver
from palaver.clock import ManualClock
from palaver.flags import Flags
from palaver.schema import Schema
from palaver.store import Store
from tests.flags.app import FLAGS, SCHEMA, Exposure, FeatureFlag
from tests.stacks import objects, stack, url

__all__ = ["clock", "objects", "opened", "stack", "url"]

Opened = Callable[..., Any]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 3, 10, 12, tzinfo=UTC))


@pytest.fixture
async def opened(url: str, clock: ManualClock) -> AsyncIterator[Opened]:
    """Open a store; it closes after the flags a test opened."""
    async with AsyncExitStack() as stack:

        async def make(schema: Schema = SCHEMA) -> Store:
            return await stack.enter_async_context(palaver.open(url, schema=schema, clock=clock, maintain=False))

        yield make


@pytest.fixture
async def store(opened: Opened) -> Store:
    made: Store = await opened()
    return made


@pytest.fixture
async def flags(store: Store) -> AsyncIterator[Flags]:
    async with Flags.open(store, FLAGS, FeatureFlag, exposures=Exposure) as flags:
        yield flags
