"""What tests of the cache on Redis share: servers of their own, and waiting for what nobody tells us of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from palaver.cache.redis import RedisCache
from palaver.caching import Limit
from palaver.errors import (
    PalaverError,
)
from tests import servers

LIMIT = Limit("fault", 50, 3_600)


@contextmanager
def own(**settings: str) -> Iterator[servers.Redis]:
    server = servers.start_redis(**settings)
    try:
        yield server
    finally:
        server.close()


@asynccontextmanager
async def opened(address: str, **options: Any) -> AsyncIterator[RedisCache]:
    cache = RedisCache(address, **options)
    try:
        yield cache
    finally:
        await cache.aclose()


async def until(holds: Callable[[], Any], patience: float = 10.0) -> None:
    """Wait until something holds that nobody tells us of."""
    end = time.monotonic() + patience
    while not await holds():
        assert time.monotonic() < end, "it never came to hold"
        await asyncio.sleep(0.01)


async def answers(cache: RedisCache) -> bool:
    try:
        await cache.values("probe").get("k")
    except PalaverError:
        return False
    return True
