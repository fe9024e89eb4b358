"""The `limits` library over our cache: its strategies, its schemes, threads, event loops and a server that is away."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from limits.aio import strategies as aio
from limits.errors import StorageError
from limits.storage import storage_from_string
from limits.strategies import STRATEGIES, FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter

from limits import RateLimitItemPerMinute, RateLimitItemPerSecond, parse
from palaver.cache.memory import MemoryCache
from palaver.cache.redis import RedisCache
from palaver.clock import ManualClock
from palaver.connections.redis import encode
from palaver.errors import ConfigError, Unavailable
from palaver.integrations.limits_storage import AsyncPalaverStorage, PalaverStorage
from tests.engines.redis_servers import opened, own
from tests.engines.test_cache import url

FOUR = RateLimitItemPerMinute(4)
PLAIN: dict[str, Any] = dict(STRATEGIES)
AIO: dict[str, Any] = {
    "fixed-window": aio.FixedWindowRateLimiter,
    "moving-window": aio.MovingWindowRateLimiter,
    "sliding-window-counter": aio.SlidingWindowCounterRateLimiter,
}


@pytest.fixture
def clock() -> ManualClock:
    # The library itself looks at the real clock.
    return ManualClock(datetime.now(UTC))


@pytest.fixture(params=["memory", "redis"])
def storage(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[PalaverStorage]:
    address = "palaver+memory://" if request.param == "memory" else f"palaver+{url()}"
    storage: Any = storage_from_string(address, clock=clock)  # type: ignore[arg-type]
    yield storage
    storage.close()


@pytest.fixture(params=["memory", "redis"])
async def awaited(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[AsyncPalaverStorage]:
    address = "async+palaver+memory://" if request.param == "memory" else f"async+palaver+{url()}"
    storage: Any = storage_from_string(address, clock=clock)  # type: ignore[arg-type]
    yield storage
    await storage.aclose()


@pytest.mark.parametrize("strategy", list(PLAIN))
def test_every_strategy_allows_what_is_declared(storage: PalaverStorage, strategy: str) -> None:
    limiter = PLAIN[strategy](storage)
    assert 4 == limiter.get_window_stats(FOUR, "ann").remaining
    assert limiter.test(FOUR, "ann", cost=4)
    assert not limiter.test(FOUR, "ann", cost=5)
    assert [True, True, True, True, False, False] == [limiter.hit(FOUR, "ann") for _ in range(6)]
    assert not limiter.test(FOUR, "ann")
    assert limiter.test(FOUR, "ben")
    stats = limiter.get_window_stats(FOUR, "ann")
    assert 0 == stats.remaining
    assert 50 < stats.reset_time - time.time() <= 65
    limiter.clear(FOUR, "ann")
    assert limiter.hit(FOUR, "ann", cost=3)
    assert 1 == limiter.get_window_stats(FOUR, "ann").remaining
    assert not limiter.hit(FOUR, "ann", cost=2)
    assert limiter.hit(FOUR, "ben", cost=4)


@pytest.mark.parametrize("strategy", list(PLAIN))
async def test_every_strategy_allows_what_is_declared_when_awaited(awaited: AsyncPalaverStorage, strategy: str) -> None:
    limiter = AIO[strategy](awaited)
    assert 4 == (await limiter.get_window_stats(FOUR, "ann")).remaining
    assert [True, True, True, True, False, False] == [await limiter.hit(FOUR, "ann") for _ in range(6)]
    assert not await limiter.test(FOUR, "ann")
    assert await limiter.test(FOUR, "ben")
    stats = await limiter.get_window_stats(FOUR, "ann")
    assert 0 == stats.remaining
    assert 50 < stats.reset_time - time.time() <= 65
    await limiter.clear(FOUR, "ann")
    assert await limiter.hit(FOUR, "ann", cost=3)
    assert not await limiter.hit(FOUR, "ann", cost=2)


@pytest.mark.parametrize("strategy", list(PLAIN))
def test_time_gives_back_what_was_used(storage: PalaverStorage, clock: ManualClock, strategy: str) -> None:
    limiter = PLAIN[strategy](storage)
    assert [True] * 4 + [False] == [limiter.hit(FOUR, "ann") for _ in range(5)]
    clock.advance(timedelta(seconds=50))
    assert not limiter.hit(FOUR, "ann")
    clock.advance(timedelta(seconds=15))
    assert [True] * 4 + [False] == [limiter.hit(FOUR, "ann") for _ in range(5)]


def test_the_edge_of_a_window_lets_no_more_through_than_the_window(storage: PalaverStorage, clock: ManualClock) -> None:
    for limiter in (MovingWindowRateLimiter(storage), SlidingWindowCounterRateLimiter(storage)):
        limiter.hit(FOUR, "ann", cost=1)
        clock.advance(timedelta(seconds=59))
        assert limiter.hit(FOUR, "ann", cost=3)
        clock.advance(timedelta(seconds=6))
        assert [True, False] == [limiter.hit(FOUR, "ann") for _ in range(2)]


def test_a_fixed_window_ends_when_it_said_however_often_it_is_hit(storage: PalaverStorage, clock: ManualClock) -> None:
    limiter = FixedWindowRateLimiter(storage)
    ends = limiter.get_window_stats(FOUR, "ann").reset_time + 60
    for _ in range(30):
        limiter.hit(FOUR, "ann")
        assert abs(limiter.get_window_stats(FOUR, "ann").reset_time - ends) < 0.01
        clock.advance(timedelta(seconds=1))
    clock.advance(timedelta(seconds=30))
    assert limiter.hit(FOUR, "ann")


def test_what_the_library_may_ask_besides_is_answered(storage: PalaverStorage) -> None:
    assert storage.check()
    assert 0 == storage.get("any")
    assert abs(storage.get_expiry("any") - time.time()) < 30
    assert 7 == storage.incr("any", 60, 7)
    assert 9 == storage.incr("any", 60, 2)
    storage.clear("any")
    assert 0 == storage.get("any")
    assert not storage.acquire_entry("any", 4, 60, 5)
    assert storage.acquire_entry("any" * 1_000, 4, 60, 4)
    assert (0, 0.0, 0, 0.0) == storage.get_sliding_window("any", 60)
    with pytest.raises(NotImplementedError):
        storage.reset()


@pytest.mark.parametrize("strategy", list(PLAIN))
def test_of_many_threads_exactly_those_allowed_pass(storage: PalaverStorage, strategy: str) -> None:
    limiter, item = PLAIN[strategy](storage), RateLimitItemPerMinute(60)
    with ThreadPoolExecutor(16) as pool:
        assert 60 == sum(pool.map(lambda _: limiter.hit(item, "ann"), range(200)))


@pytest.mark.parametrize("strategy", list(PLAIN))
async def test_of_many_tasks_and_processes_exactly_those_allowed_pass(strategy: str) -> None:
    address, item = f"async+palaver+{url()}", RateLimitItemPerMinute(60)
    one, other = AsyncPalaverStorage(address), AsyncPalaverStorage(address)
    limiters = [AIO[strategy](one), AIO[strategy](other)]
    hits = await asyncio.gather(*(limiter.hit(item, "ann") for limiter in limiters * 100))
    assert 60 == sum(hits)
    await one.aclose()
    await other.aclose()


def test_limits_that_are_read_from_text_work(storage: PalaverStorage) -> None:
    limiter = MovingWindowRateLimiter(storage)
    assert [True, True, False] == [limiter.hit(parse("2 per 5 minute"), "ann", "endpoint") for _ in range(3)]
    limiter.clear(parse("2 per 5 minute"), "ann", "endpoint")
    assert limiter.hit(parse("2 per 5 minute"), "ann", "endpoint")
    assert limiter.hit(RateLimitItemPerSecond(1), "ann", "endpoint")


async def test_a_cache_that_is_there_can_be_shared_and_stays_open() -> None:
    cache = MemoryCache()
    storage = AsyncPalaverStorage("async+palaver://", cache=cache)
    assert await aio.MovingWindowRateLimiter(storage).hit(FOUR, "ann")
    await storage.aclose()
    await cache.values("any").get("still open")
    plain = PalaverStorage("palaver://", cache=cache)
    assert 3 == MovingWindowRateLimiter(plain).get_window_stats(FOUR, "ann").remaining
    plain.close()
    await cache.aclose()
    over_redis: Any = RedisCache(url())
    with pytest.raises(ConfigError):
        PalaverStorage("palaver://", cache=over_redis)
    await over_redis.aclose()


def test_a_server_that_is_away_is_the_librarys_own_error_where_asked_for() -> None:
    with own() as server:
        plain = PalaverStorage(f"palaver+{server.url}")
        wrapped = PalaverStorage(f"palaver+{server.url}", wrap_exceptions=True)
        assert MovingWindowRateLimiter(plain).hit(FOUR, "ann")
        assert MovingWindowRateLimiter(wrapped).hit(FOUR, "ann")
        server.kill_9()
        for limiter in (MovingWindowRateLimiter, FixedWindowRateLimiter):
            with pytest.raises(Unavailable):
                limiter(plain).test(FOUR, "ann")
            with pytest.raises(StorageError):
                limiter(wrapped).test(FOUR, "ann")
        assert not plain.check()
        plain.close()
        wrapped.close()


async def test_no_key_is_readable_in_the_cache() -> None:
    async with opened(url()) as cache:
        storage = AsyncPalaverStorage(cache=cache)
        for strategy in AIO.values():
            await strategy(storage).hit(FOUR, "203.0.113.9")
        found = await cache.client.read(encode("KEYS", f"*{cache.options.prefix}:*"))
        assert 2 == len(found)
        assert b"203" not in b"".join(found)
        assert min([int(await cache.client.read(encode("PTTL", key))) for key in found]) > 0


def _hits(limiter: MovingWindowRateLimiter, told: Any) -> None:
    told.send(sum(limiter.hit(FOUR, "ann") for _ in range(4)))


def test_a_forked_process_has_connections_of_its_own() -> None:
    storage = PalaverStorage(f"palaver+{url()}")
    limiter = MovingWindowRateLimiter(storage)
    assert limiter.hit(FOUR, "ann")
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_hits, args=(limiter, there))
    child.start()
    child.join(30)
    assert here.poll(0)
    assert 3 == here.recv()
    assert not limiter.hit(FOUR, "ann")
    storage.close()
    here.close()
    there.close()
