"""Both caches beside each other: after any sequence of calls every answer is the same."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from palaver.cache.memory import MemoryCache
from palaver.cache.redis import RedisCache
from palaver.caching import ABSENT, Item, Limit, Take
from palaver.clock import EPOCH, ManualClock
from palaver.testing.cache.limits import asked, forward
from tests.engines.test_cache import url

SEEDS = range(3)
STEPS = 1_200


@asynccontextmanager
async def both(clock: ManualClock) -> AsyncIterator[tuple[Any, Any]]:
    memory, redis = MemoryCache(clock=clock), RedisCache(url(), clock=clock)
    yield memory, redis
    await memory.aclose()
    await redis.aclose()


@pytest.fixture
def clock() -> ManualClock:
    # Slices of windows begin at multiples of their length, so both clocks have to begin at the same moment.
    clock = ManualClock(EPOCH)
    forward(clock, 5)
    return clock


@pytest.mark.parametrize("seed", SEEDS)
async def test_of_limits(clock: ManualClock, seed: int) -> None:
    chance = random.Random(seed)
    limits = [
        Limit("a", 7, 60), Limit("b", 100, 3_600, burst=9), Limit("c", 3, 1), Limit("d", 7, 61.7, "window"),
        Limit("e", 50, 3_600, "window"), Limit("f", 13, 0.5, "window"), Limit("g", 10_000, 86_400), Limit("h", 1, 7),
    ]  # fmt: skip
    async with both(clock) as (memory, redis):
        for step in range(STEPS):
            forward(clock, chance.choice([0, 0, 0, 0.001, 0.017, 0.4, 3, 17, 100, 4_000]))
            chosen = chance.sample(limits, chance.randint(1, 4))
            takes = [Take(limit, chance.choice("uvw"), chance.choice([1, 1, 1, 2, 5, 60])) for limit in chosen]
            group, call = chance.choice(["", "g"]), chance.choice(["take"] * 6 + ["ready"] * 4 + ["peek", "reset"])
            if call == "ready":
                if chance.random() < 0.5:
                    chosen = [limit for limit in chosen if limit.kind == "bucket"] or chosen
                expected, found = [await asked(cache.limiter.ready(chosen, group=group), takes[0].key) for cache in (memory, redis)]
            else:
                expected, found = [await getattr(cache.limiter, call)(*takes, group=group) for cache in (memory, redis)]
            assert expected == found, step


class PutBack(ManualClock):
    def put_back(self, seconds: float) -> None:
        self._now -= timedelta(seconds=seconds)

    def monotonic(self) -> float:
        """Memory counts by this, and Redis by the time of day of its server, which somebody may correct."""
        return (self._now - EPOCH).total_seconds()


@pytest.mark.parametrize("kind", ["bucket", "window"])
@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("cost", [1, 2])
@pytest.mark.parametrize("seconds", [2, 3_600])
async def test_of_limits_under_a_clock_that_was_put_back(kind: Any, others: int, cost: int, seconds: float) -> None:
    limits = [Limit("a", 3, 60, kind), Limit("b", 100, 60, "bucket")][: 1 + others]
    clock = PutBack(EPOCH)
    forward(clock, 90_000)
    async with both(clock) as engines:
        for cache in engines:
            for _ in range(3):
                assert (await cache.limiter.take(*[Take(limit, "u") for limit in limits])).allowed
        clock.put_back(seconds)
        said = [await cache.limiter.take(*[Take(limit, "u", cost) for limit in limits]) for cache in engines]
        assert said[0] == said[1]
        assert not said[0].allowed
        # Whoever waits as long as he was told passes, and nobody sooner.
        forward(clock, said[0].retry_after_s - 0.001)
        assert [False] * 2 == [(await cache.limiter.take(*[Take(limit, "u", cost) for limit in limits])).allowed for cache in engines]
        forward(clock, 0.001)
        assert [True] * 2 == [(await cache.limiter.take(*[Take(limit, "u", cost) for limit in limits])).allowed for cache in engines]


@pytest.mark.parametrize("seed", SEEDS)
async def test_of_values(clock: ManualClock, seed: int) -> None:
    chance = random.Random(seed)
    async with both(clock) as engines:
        for step in range(STEPS):
            kind, key = chance.choice(["session", "user"]), chance.choice("abc")
            call: tuple[str, tuple[Any, ...], dict[str, Any]]
            match chance.choice(["get", "get_many", "set", "set", "set", "delete"]):
                case "get":
                    call = "get", (key,), {"extend_s": chance.choice([None, 60.0])}
                case "get_many":
                    call = "get_many", (chance.choices("abcd", k=chance.randrange(4)),), {}
                case "set":
                    conditions = {"revision": chance.randrange(8), "expected": chance.choice([None, None, ABSENT, chance.randrange(8)])}
                    call = "set", (key, chance.randbytes(chance.randrange(4))), {"ttl_s": 60.0, **conditions}
                case _:
                    call = "delete", (key,), {"revision": chance.randrange(8)}
            name, arguments, options = call
            expected, found = [await getattr(cache.values(kind), name)(*arguments, **options) for cache in engines]
            assert expected == found, (step, call)


@pytest.mark.parametrize("seed", SEEDS)
async def test_of_windows(clock: ManualClock, seed: int) -> None:
    chance = random.Random(seed)
    tickets = [["", ""]]
    async with both(clock) as engines:
        for step in range(STEPS):
            key = chance.choice("ab")
            items = [Item(f"{chance.randrange(30):02d}", chance.randrange(9), chance.randbytes(3)) for _ in range(chance.randint(1, 5))]
            match chance.choice(["read", "read", "push", "push", "push", "begin", "replace", "replace", "delete"][: 8 + (step % 9 == 0)]):
                case "read":
                    bounds: dict[str, Any] = {"limit": chance.randint(1, 8), "budget": chance.choice([None, 5, 20])}
                    bounds["holding"] = chance.choice([None, None, items[0].id])
                    answers = [await cache.windows.read(key, **bounds) for cache in engines]
                case "push":
                    answers = [await cache.windows.push(key, items, ttl_s=60) for cache in engines]
                case "begin":
                    leaves = [await cache.windows.begin(key) for cache in engines]
                    tickets.append([leave.ticket for leave in leaves])
                    answers = [leave.first for leave in leaves]
                case "replace":
                    keep = chance.randint(1, len({item.id for item in items}) + 2)
                    complete = keep > len({item.id for item in items}) or chance.random() < 0.5
                    told = {"keep": keep, "complete": complete, "ttl_s": 60}
                    given = chance.choice(tickets[-3:])
                    answers = [
                        await cache.windows.replace(key, items, ticket=ticket, **told) for cache, ticket in zip(engines, given, strict=True)
                    ]
                case _:
                    answers = [await cache.windows.delete(key) for cache in engines]
            assert answers[0] == answers[1], step


@pytest.mark.parametrize("seed", SEEDS)
async def test_of_presence(clock: ManualClock, seed: int) -> None:
    chance = random.Random(seed)
    async with both(clock) as engines:
        for step in range(STEPS):
            forward(clock, chance.choice([0, 0, 0.001, 1, 500, 600, 4_000, 86_400 * 7]))
            member, channels = chance.choice("mnop"), chance.choices("cde", k=chance.randint(1, 3))
            match chance.choice(["touch", "touch", "leave", "present", "count", "among", "last_seen"]):
                case "touch":
                    # Keys of Redis expire by its own clock, which goes on while ours stands: none may end during the test.
                    ttl_s = chance.choice([600, 601, 1_100, 10_000])
                    answers = [await cache.presence.touch(member, channels, ttl_s=ttl_s) for cache in engines]
                case "leave":
                    answers = [await cache.presence.leave(member, channels) for cache in engines]
                case "present":
                    answers = [await cache.presence.present(channels[0], limit=3) for cache in engines]
                case "count":
                    answers = [await cache.presence.count(channels) for cache in engines]
                case "among":
                    answers = [await cache.presence.among(channels[0], "mnopq") for cache in engines]
                case _:
                    answers = [await cache.presence.last_seen(channels[0], "mnopq") for cache in engines]
            assert answers[0] == answers[1], step
