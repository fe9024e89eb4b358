"""Read-through on both engines: one load for many, nothing stale after a change, and the truth when the cache is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from palaver.cache.memory import MemoryCache
from palaver.cache.redis import RedisCache
from palaver.caching import Held
from palaver.clock import ManualClock
from palaver.errors import Conflict, Unavailable
from palaver.ports import Cache, KeyValue
from palaver.remember import Remember
from tests.engines.redis_servers import answers, opened, own, until
from tests.engines.test_cache import url


class Truth:
    """Records with revisions, slow enough to be read at once."""

    def __init__(self) -> None:
        self.records: dict[str, Held] = {}
        self.reads = self.at_once = self.most = 0
        self.pauses = 1
        self.gate: asyncio.Event | None = None

    async def load(self, key: str) -> Held | None:
        self.reads += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            found = self.records.get(key)
            for _ in range(self.pauses):
                await asyncio.sleep(0)
            if self.gate is not None:
                await self.gate.wait()
            return found
        finally:
            self.at_once -= 1


@pytest.fixture
def truth() -> Truth:
    return Truth()


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    cache: Cache = MemoryCache() if request.param == "memory" else RedisCache(url())
    yield cache
    await cache.aclose()


@pytest.fixture
def values(cache: Cache) -> KeyValue:
    return cache.values("user")


async def test_many_who_ask_at_once_cause_one_load(truth: Truth, values: KeyValue) -> None:
    truth.records["ann"], truth.pauses = Held(b"Ann", 7), 50
    users = Remember(values, truth.load, ttl_s=60)
    assert [Held(b"Ann", 7)] * 200 == await asyncio.gather(*(users.get("ann") for _ in range(200)))
    assert 1 == truth.reads
    assert Held(b"Ann", 7) == await users.get("ann")
    assert (1, 1) == (truth.reads, users.figures.hits)


async def test_what_is_not_there_is_remembered_until_it_is(truth: Truth, values: KeyValue) -> None:
    users = Remember(values, truth.load, ttl_s=60)
    assert [None] * 20 == [await users.get("ann") for _ in range(20)]
    assert 1 == truth.reads
    truth.records["ann"] = Held(b"", 9)
    await users.changed("ann", 9)
    assert [Held(b"", 9)] * 3 == [await users.get("ann") for _ in range(3)]
    assert 2 == truth.reads


async def test_an_absence_that_was_read_before_a_creation_is_not_kept(truth: Truth, values: KeyValue) -> None:
    truth.gate = asyncio.Event()
    users = Remember(values, truth.load, ttl_s=60)
    early = asyncio.create_task(users.get("ann"))
    await until(lambda: asyncio.sleep(0, truth.reads == 1))
    truth.records["ann"] = Held(b"Ann", 9)
    await users.changed("ann", 9)
    truth.gate.set()
    assert Held(b"Ann", 9) == await early
    assert 1 == users.figures.refused
    assert Held(b"Ann", 9) == await users.get("ann")


async def test_who_knows_a_revision_never_gets_an_older_one(truth: Truth, values: KeyValue) -> None:
    truth.records["ann"] = Held(b"old", 7)
    users = Remember(values, truth.load, ttl_s=60)
    await users.get("ann")
    truth.records["ann"] = Held(b"new", 8)
    assert Held(b"new", 8) == await users.get("ann", at_least=8)
    assert Held(b"new", 8) == await users.get("ann")
    truth.gate = asyncio.Event()
    truth.records["ben"] = Held(b"old", 1)
    early = asyncio.create_task(users.get("ben"))
    await until(lambda: asyncio.sleep(0, truth.at_once == 1))
    truth.records["ben"] = Held(b"new", 2)
    late = asyncio.create_task(users.get("ben", at_least=2))
    await until(lambda: asyncio.sleep(0, "ben" in users._flights))
    truth.gate.set()
    assert Held(b"new", 2) == await late
    assert Held(b"old", 1) == await early
    assert Held(b"new", 2) == await users.get("ben")


async def test_an_error_of_the_truth_reaches_everybody_and_is_not_kept(truth: Truth, values: KeyValue) -> None:
    fails = True

    async def load(key: str) -> Held | None:
        await asyncio.sleep(0)
        if fails:
            raise Conflict("The database was busy.")
        return await truth.load(key)

    users = Remember(values, load, ttl_s=60)
    found = await asyncio.gather(*(users.get("ann") for _ in range(5)), return_exceptions=True)
    assert {Conflict} == set(map(type, found))
    fails = False
    truth.records["ann"] = Held(b"Ann", 1)
    assert Held(b"Ann", 1) == await users.get("ann")


async def test_who_gives_up_does_not_take_the_load_from_the_others(truth: Truth, values: KeyValue) -> None:
    truth.records["ann"], truth.gate = Held(b"Ann", 1), asyncio.Event()
    users = Remember(values, truth.load, ttl_s=60)
    tasks = [asyncio.create_task(users.get("ann")) for _ in range(5)]
    await until(lambda: asyncio.sleep(0, truth.at_once == 1))
    tasks[0].cancel()
    truth.gate.set()
    assert [Held(b"Ann", 1)] * 4 == await asyncio.gather(*tasks[1:])
    assert 1 == truth.reads


async def test_no_more_loads_run_at_once_than_allowed(truth: Truth, values: KeyValue) -> None:
    truth.pauses = 10
    users = Remember(values, truth.load, ttl_s=60, at_most=4)
    await asyncio.gather(*(users.get(f"u{number}") for number in range(100)))
    assert 4 == truth.most


async def test_what_took_too_long_to_load_is_not_kept(truth: Truth) -> None:
    clock = ManualClock()
    truth.records["ann"] = Held(b"Ann", 1)

    async def slowly(key: str) -> Held | None:
        found = await truth.load(key)
        clock.advance(timedelta(seconds=31))
        return found

    users = Remember(MemoryCache(clock=clock).values("user"), slowly, ttl_s=600, clock=clock)
    assert [Held(b"Ann", 1)] * 2 == [await users.get("ann") for _ in range(2)]
    assert 2 == truth.reads


async def test_a_read_is_never_older_than_a_change_that_was_told(cache: Cache, truth: Truth) -> None:
    """Several processes, each with its own loads, over one cache: a history of reads beside that of changes."""
    chance, told = random.Random(8), {"a": 0, "b": 0}
    processes = [Remember(cache.values("user"), truth.load, ttl_s=60) for _ in range(3)]
    stale: list[tuple[str, int, int]] = []
    for key in told:
        truth.records[key] = Held(b"0", 1)

    async def reader(users: Remember) -> None:
        for _ in range(60):
            key = chance.choice("ab")
            floor = told[key]
            truth.pauses = chance.randrange(6)
            found = await users.get(key)
            if found is None or found.revision < floor:
                stale.append((key, found.revision if found else 0, floor))

    async def writer(users: Remember) -> None:
        for _ in range(40):
            key = chance.choice("ab")
            revision = truth.records[key].revision + 1
            truth.records[key] = Held(b"%d" % revision, revision)
            await asyncio.sleep(0)
            await users.changed(key, revision)
            told[key] = max(told[key], revision)
            await asyncio.sleep(0)

    await asyncio.gather(*(reader(users) for users in processes * 3), *(writer(users) for users in processes))
    assert [] == stale
    assert sum(users.figures.hits for users in processes) > 50


async def test_with_the_cache_away_the_truth_answers_and_is_not_overrun(truth: Truth) -> None:
    truth.pauses = 20
    for number in range(50):
        truth.records[f"u{number}"] = Held(b"%d" % number, 1)
    with own() as server:
        async with opened(server.url + "?timeout=0.3&connect=0.3") as cache:
            users = Remember(cache.values("user"), truth.load, ttl_s=60, at_most=5)
            assert Held(b"0", 1) == await users.get("u0")
            server.kill_9()
            found = await asyncio.gather(*(users.get(f"u{number % 50}") for number in range(1_000)))
            assert [Held(b"%d" % (number % 50), 1) for number in range(1_000)] == found
            assert 5 == truth.most
            assert truth.reads <= 52
            assert users.figures.away >= 1_000
            with pytest.raises(Unavailable):
                await users.changed("u0", 2)
            server.start()
            await until(lambda: answers(cache))
            before = truth.reads
            for _ in range(10):
                assert Held(b"1", 1) == await users.get("u1")
            assert before + 1 == truth.reads


async def test_what_another_program_stored_is_a_miss(truth: Truth, values: KeyValue) -> None:
    truth.records["ann"] = Held(b"Ann", 5)
    for garbage in (b"", b"x", b"--", b"\0"):
        await values.set("ann", garbage, ttl_s=60, revision=4)
        assert Held(b"Ann", 5) == await Remember(values, truth.load, ttl_s=60).get("ann")
        await values.delete("ann")
