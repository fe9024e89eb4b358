"""A store with secret fields on each stack, and all the bytes it keeps anywhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import pytest

import palaver
from palaver import ManualClock, Store
from tests.sealing.app import START, VAULT
from tests.stacks import objects, stack, url

__all__ = ["clock", "objects", "opened", "stack", "store", "url"]

Opener: TypeAlias = Callable[..., Awaitable[Store]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
async def opened(url: str, clock: ManualClock) -> AsyncIterator[Opener]:
    """Open stores that are closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def make(schema: palaver.Schema = VAULT, **options: Any) -> Store:
            options = {"clock": clock, "maintain": False, "migrate": True, **options}
            return await stack.enter_async_context(palaver.open(options.pop("url", url), schema=schema, **options))

        yield make


@pytest.fixture
async def store(opened: Opener) -> Store:
    return await opened()
