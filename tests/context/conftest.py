"""A store on each stack, with its cache in the process or on Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

import palaver
from palaver import ManualClock, Store
from tests import servers
from tests.context.app import CHAT, START
from tests.stacks import objects, stack, url
from tests.store.conftest import Opener

__all__ = ["cache", "clock", "objects", "opened", "stack", "store", "url"]

_made = iter(range(10**9))


@pytest.fixture(params=["memory", "redis"])
def cache(request: pytest.FixtureRequest) -> str:
    """What the store's URL says of its cache; on Redis with names of its own for each test."""
    return "memory" if request.param == "memory" else f"{servers.redis().url}?prefix=context{next(_made)}"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
async def opened(url: str, cache: str, clock: ManualClock) -> AsyncIterator[Opener]:
    """Open stores that are closed when the test ends; those of one test share database and cache."""
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:

        async def make(schema: palaver.Schema = CHAT, **options: Any) -> Store:
            at = options.pop("cache", cache)
            options = {"clock": clock, "maintain": False, "migrate": True, **options}
            address = f"{url}{'&' if '?' in url else '?'}cache={quote(at, safe='')}"
            return await stack.enter_async_context(palaver.open(address, schema=schema, **options))

        yield make


@pytest.fixture
async def store(opened: Opener) -> Store:
    return await opened()
