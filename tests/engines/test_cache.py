"""The cache suite in memory and on Redis, and what is particular to each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import count

import pytest

from palaver.cache.bounded import Bounds
from palaver.cache.memory import MemoryCache
from palaver.cache.redis import RedisCache
from palaver.cache.scoped import ScopedCache
from palaver.clock import ManualClock
from palaver.ports import Cache
from palaver.testing.cache import CacheTests
from tests import servers

_PREFIXES = count()


def url(**options: object) -> str:
    """The address of the run's Redis, with a prefix nobody else has."""
    told = "&".join(f"{name}={value}" for name, value in options.items())
    return f"{servers.redis().url}?prefix=test{next(_PREFIXES)}{'&' if told else ''}{told}"


class TestMemoryCache(CacheTests):
    @pytest.fixture
    async def cache(self, clock: ManualClock) -> AsyncIterator[Cache]:
        cache = MemoryCache(clock=clock)
        yield cache
        await cache.aclose()


class TestTenantsPartOfAMemoryCache(CacheTests):
    """The whole suite holds for a part, whatever is in the parts beside it."""

    @pytest.fixture
    async def cache(self, clock: ManualClock) -> AsyncIterator[Cache]:
        cache = MemoryCache(clock=clock)
        part = ScopedCache(cache, "acme")
        part.aclose = cache.aclose  # type: ignore[method-assign]  # the suite closes what it was given
        yield part
        await cache.aclose()


class TestRedisCache(CacheTests):
    options: dict[str, object] = {}  # noqa: RUF012 - a class of tests says how its server is reached

    @pytest.fixture
    async def cache(self, clock: ManualClock) -> AsyncIterator[Cache]:
        cache = RedisCache(url(**self.options), clock=clock)
        yield cache
        await cache.aclose()

    async def pass_time(self, clock: ManualClock, seconds: float) -> None:
        clock.advance(timedelta(seconds=seconds))
        await asyncio.sleep(seconds)


class TestRedisCacheOverSeveralConnections(TestRedisCache):
    options = {"pool": 4}  # noqa: RUF012


class TestRedisCacheWithNearValues(TestRedisCache):
    """Every kind of values is kept near, so the whole suite holds for near values too."""

    @pytest.fixture
    async def cache(self, clock: ManualClock) -> AsyncIterator[Cache]:
        kinds = ("session", "user", "lock", "counter", "a", "b")
        cache = RedisCache(url(), clock=clock, near=dict.fromkeys(kinds, Bounds()))
        yield cache
        await cache.aclose()
