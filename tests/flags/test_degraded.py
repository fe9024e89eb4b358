"""With the records away, the cache away, or both: the last snapshot, then the declared defaults; never an invention, and back by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import palaver
from palaver.cache.hearing import FURTHEST_BEHIND
from palaver.cache.memory import MemoryCache, MemoryValues
from palaver.cache.none import NoCache
from palaver.cache.redis import RedisCache
from palaver.caching import Heard
from palaver.connections.redis import encode
from palaver.errors import Unavailable
from palaver.flags import Flags, current
from palaver.flags.snapshot import Snapshot
from palaver.records.memory import MemoryRecords
from palaver.store import Store
from palaver.testing.faulty import Faults, Faulty
from tests.engines.redis_servers import own, until
from tests.flags.app import FLAGS, GREETING, MCP, MODEL, SCHEMA, SLASH, FeatureFlag
from tests.stacks import fresh

AWAY, BACK = Faults(unavailable=1.0), Faults()


class Counting(Faulty):
    """Records that can go away, and count what is read of them."""

    gets = queries = 0
    gate: asyncio.Event | None = None

    async def get(self, *args: Any, **options: Any) -> Any:
        self.gets += 1
        return await super().get(*args, **options)

    async def query(self, *args: Any, **options: Any) -> Any:
        found = await super().query(*args, **options)
        self.queries += 1
        if self.gate is not None:
            await self.gate.wait()
        return found


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with palaver.open("memory:", schema=SCHEMA) as opened:
        opened.core.records = Counting(opened.core.records, 1)
        yield Store(opened.core)


def records(store: Store) -> Counting:
    found = store.core.records
    assert isinstance(found, Counting)
    return found


def opened(store: Store, cache: Any = None) -> Any:
    return Flags.open(store, FLAGS, FeatureFlag, cache=cache or NoCache(), poll_s=0.05)


async def status(flags: Flags, expected: str) -> None:
    await until(lambda: asyncio.sleep(0, flags.health().status == expected), 10)


async def test_with_both_away_the_defaults_hold_and_health_says_so(store: Store) -> None:
    async with opened(store) as before:
        await before.set(MCP, False)
    records(store).faults = AWAY
    async with opened(store) as flags:
        health = flags.health()
        assert ("degraded", "defaults", "unavailable", None) == (health.status, health.source, health.error, health.checked_ago_s)
        found = flags.evaluate(MCP, user="ann")
        assert (True, "unread") == (found.value, found.reason)
        assert {"variant_a"} == {flags.variant(MODEL, user=f"u{number}") for number in range(50)}
        with pytest.raises(Unavailable):
            await flags.set(SLASH, True)
        assert not flags.value(SLASH)
        assert [] == [state for state in flags.all() if state.settings]
        records(store).faults = BACK
        await status(flags, "ok")
        assert (False, "records") == (flags.value(MCP), flags.health().source)


async def test_the_last_snapshot_holds_while_the_records_are_away(store: Store) -> None:
    async with opened(store) as flags, opened(store) as other:
        await flags.set(SLASH, True, user="ann")
        records(store).faults = AWAY
        await status(flags, "degraded")
        told: list[bool] = []
        flags.watch(lambda _, ok: told.append(ok))
        assert flags.value(SLASH, user="ann")
        assert "records" == flags.health().source
        records(store).faults = BACK
        await status(flags, "ok")
        assert [True] == told
        await other.set(SLASH, False, user="ann")
        await until(lambda: asyncio.sleep(0, not flags.value(SLASH, user="ann")), 5)


async def test_a_process_starts_from_the_cache_while_the_records_are_away(store: Store) -> None:
    cache = MemoryCache()
    async with opened(store, cache) as flags:
        await flags.set(MCP, False)
    records(store).faults = AWAY
    async with opened(store, cache) as late:
        assert ("degraded", "cache") == (late.health().status, late.health().source)
        assert not late.value(MCP)
    records(store).faults = BACK
    await cache.aclose()


async def test_a_hundred_processes_that_start_read_one_record_or_two_each(store: Store) -> None:
    cache = MemoryCache()
    async with opened(store, cache) as flags:
        for number in range(300):
            await flags.set(SLASH, True, user=f"u{number}")
    records(store).queries = records(store).gets = 0
    starting = [current.Current(store, FLAGS, FeatureFlag, cache=cache, poll_s=60) for _ in range(100)]
    for each in starting:
        await each.start()
    assert 0 == records(store).queries
    await asyncio.sleep(0.5)
    assert 0 == records(store).queries, "and none of them reads everything a moment later"
    assert 100 <= records(store).gets <= 200, "one record each, or two"
    assert all(each.snapshot is not None and len(each.snapshot.entries) == 300 for each in starting)
    await asyncio.gather(*(each.aclose() for each in starting))
    await cache.aclose()


@pytest.mark.parametrize("spoilt", ["older", "foreign", "newer"])
async def test_a_cache_that_holds_something_else_is_not_believed(store: Store, spoilt: str) -> None:
    """An old snapshot, left by a Redis that was away while a flag was set, is not what a new process begins with."""
    cache = MemoryCache()
    values = cache.values(current.KIND)
    async with opened(store, cache) as flags:
        await flags.set(MCP, False)
    old = await values.get(FLAGS.name)
    assert old is not None
    async with opened(store) as elsewhere:
        await elsewhere.set(MCP, True)
    data = {"older": old.value, "foreign": b"not ours", "newer": old.value.replace(b"%d" % old.revision, b"%d" % (2**52))}[spoilt]
    await values.delete(FLAGS.name)
    await values.set(FLAGS.name, data, ttl_s=60, revision=2**52 if spoilt == "newer" else old.revision)
    async with opened(store, cache) as fresh:
        assert fresh.value(MCP) is True
        assert ("ok", "records") == (fresh.health().status, fresh.health().source)
    await cache.aclose()


async def test_a_security_flag_never_fails_open_whatever_happens_to_redis(tmp_path: Path) -> None:
    """Evicted, flushed, filled, killed, gone for good: the check stays on for those it was set for, at once and in new processes."""
    with own(maxmemory="3mb", **{"maxmemory-policy": "allkeys-random"}) as redis:
        url = f"{fresh('sqlite', tmp_path)}&cache={quote(redis.url, safe='')}"
        off = ("greeting", "Hi")

        async def holds(flags: Flags) -> None:
            for _ in range(20):
                assert (True, "Hi") == (flags.value(MCP, user="ann", channel="discord"), flags.value(GREETING))
                await asyncio.sleep(0.01)

        async def holds_everywhere(flags: Flags) -> None:
            await holds(flags)
            async with palaver.open(url, schema=SCHEMA, maintain=False) as other, Flags.open(other, FLAGS, FeatureFlag) as late:
                await holds(late)

        async with palaver.open(url, schema=SCHEMA) as store, Flags.open(store, FLAGS, FeatureFlag) as flags:
            await flags.set(MCP, False)
            await flags.set(MCP, True, channel="discord", reason="after the incident")
            await flags.set(*off)
            await holds_everywhere(flags)
            cache = store.cache
            assert isinstance(cache, RedisCache)
            await cache.client.write(encode("FLUSHALL"))
            await holds_everywhere(flags)
            for number in range(400):
                await cache.values("flood").set(f"{number}", b"x" * 10_000, ttl_s=600)
            await holds_everywhere(flags)
            redis.kill_9()
            await holds_everywhere(flags)
            redis.start()
            await holds_everywhere(flags)


async def test_values_of_another_type_in_the_records_are_the_default_and_told(store: Store) -> None:
    async with opened(store) as flags:
        await flags.set(MCP, True)
        await store.put(FeatureFlag(namespace="flags", flag=MCP.name, scope="user", target="ann", value="off", user="ann"))
        await until(lambda: asyncio.sleep(0, bool(flags.health().problems)), 5)
        found = flags.evaluate(MCP, user="ann")
        assert (True, "mismatch") == (found.value, found.reason)
        (problem,) = flags.health().problems
        assert (MCP.name, "user", "mismatch") == (problem.flag, problem.scope, problem.what)
        (wrong,) = [one for state in flags.all() for one in state.settings if not one.fits]
        assert "ann" == wrong.target


async def test_nothing_a_load_that_was_overtaken_read_is_served(store: Store) -> None:
    """A load reads, a flag is set here, then the load ends: what it read does not hide what was set."""
    async with opened(store) as flags:
        gate = records(store).gate = asyncio.Event()
        records(store).faults = Faults(yields=3)
        before = records(store).queries
        await store.put(FeatureFlag(namespace="flags", flag=GREETING.name, scope="everybody", target="*", value="Hi"))
        await until(lambda: asyncio.sleep(0, records(store).queries > before), 5)
        await flags.set(SLASH, True)
        gate.set()
        records(store).gate = None
        seen = set()
        while flags.value(GREETING) != "Hi":
            seen.add(flags.value(SLASH))
            await asyncio.sleep(0)
        for _ in range(50):
            seen.add(flags.value(SLASH))
            await asyncio.sleep(0)
        assert {True} == seen


async def test_a_cache_that_is_silent_does_not_hold_us_up(tmp_path: Path) -> None:
    with own() as redis:
        # A command that were waited for would take longer than the test may.
        url = f"{fresh('sqlite', tmp_path)}&cache={quote(f'{redis.url}?timeout=60', safe='')}"
        async with palaver.open(url, schema=SCHEMA) as store, Flags.open(store, FLAGS, FeatureFlag) as flags:
            redis.freeze()
            try:
                async with asyncio.timeout(30), Flags.open(store, FLAGS, FeatureFlag, cache=store.cache) as other:
                    await flags.set(SLASH, True)
                    await until(lambda: asyncio.sleep(0, other.value(SLASH)), 20)
            finally:
                redis.thaw()


async def test_what_was_set_just_before_closing_is_still_told(store: Store) -> None:
    """A command that sets a flag and ends leaves a cache that is current."""
    cache = MemoryCache()
    async with opened(store, cache) as flags, cache.bus.listen(f"{current.KIND}:{FLAGS.name}") as heard:
        async with opened(store, cache) as command:
            await command.set(SLASH, True)
        held = await cache.values(current.KIND).get(FLAGS.name)
        assert held is not None
        message = await anext(heard)
        assert isinstance(message, Heard)
        assert held.revision == int(message.data)
        await until(lambda: asyncio.sleep(0, flags.value(SLASH)), 5)
    await cache.aclose()


async def test_nonsense_on_the_bus_harms_nothing(store: Store) -> None:
    cache = MemoryCache()
    async with opened(store, cache) as flags:
        await until(lambda: asyncio.sleep(0, flags.health().hearing), 5)
        for nonsense in (b"", b"x", b"-1", b"9" * 5_000, b"9" * 19, b"\xff"):
            await cache.bus.publish(f"{current.KIND}:{FLAGS.name}", nonsense)
        await asyncio.sleep(0.1)
        assert ("ok", True) == (flags.health().status, flags.health().hearing)
    await cache.aclose()


async def quiet(following: current.Current) -> None:
    """Wait until what a beginning or a change set off is over."""

    async def rests() -> bool:
        looked = following.seen().checked_at
        await asyncio.sleep(0.2)
        return following.seen().checked_at == looked

    await until(rests, 30)


@pytest.fixture
async def heard(store: Store) -> AsyncIterator[tuple[MemoryCache, current.Current]]:
    """A cache and who follows it, long before the next look by itself."""
    cache = MemoryCache()
    following = current.Current(store, FLAGS, FeatureFlag, cache=cache, poll_s=600)
    await following.start()
    await until(lambda: asyncio.sleep(0, following.seen().hearing), 5)
    await quiet(following)
    yield cache, following
    await following.aclose()
    await cache.aclose()


async def test_after_messages_were_lost_the_records_are_looked_at(heard: tuple[MemoryCache, current.Current]) -> None:
    """What was lost may have been the news, and the next look by itself may be far away."""
    cache, following = heard
    looked = following.seen().checked_at
    for _ in range(FURTHEST_BEHIND + 1):
        await cache.bus.publish(f"{current.KIND}:{FLAGS.name}", b"0")
    await until(lambda: asyncio.sleep(0, following.seen().checked_at != looked), 10)


async def test_a_cache_that_is_behind_what_was_told_is_passed_over(store: Store, heard: tuple[MemoryCache, current.Current]) -> None:
    cache, following = heard
    assert following.snapshot is not None
    read = records(store).queries
    await cache.bus.publish(f"{current.KIND}:{FLAGS.name}", b"%d" % (following.snapshot.version + 1))
    await until(lambda: asyncio.sleep(0, records(store).queries > read), 10)


async def test_health_says_while_nothing_is_heard(tmp_path: Path) -> None:
    with own() as redis:
        url = f"{fresh('sqlite', tmp_path)}&cache={quote(redis.url, safe='')}"
        async with palaver.open(url, schema=SCHEMA, maintain=False) as store, Flags.open(store, FLAGS, FeatureFlag) as flags:
            await until(lambda: asyncio.sleep(0, flags.health().hearing), 20)
            redis.kill_9()
            await until(lambda: asyncio.sleep(0, not flags.health().hearing), 20)
            redis.start()
            await until(lambda: asyncio.sleep(0, flags.health().hearing), 20)


async def test_what_another_process_read_before_does_not_hide_what_is_set_here(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot is taken from the cache because of a message, a flag is set here, and only then does the cache answer."""
    monkeypatch.setattr(current, "CACHE_S", 60.0)
    cache, get = MemoryCache(), MemoryValues.get
    asked, answers = asyncio.Event(), asyncio.Event()

    async def late(values: MemoryValues, key: str, **options: Any) -> Any:
        held = await get(values, key, **options)
        asked.set()
        await answers.wait()
        return held

    async with Flags.open(store, FLAGS, FeatureFlag, cache=cache, poll_s=600) as flags:
        await until(lambda: asyncio.sleep(0, flags.health().hearing), 5)
        await quiet(flags._current)
        snapshot = flags._current.snapshot
        assert snapshot is not None
        newer = snapshot.version + 1
        await cache.values(current.KIND).set(FLAGS.name, Snapshot(FLAGS, [], newer).packed(), ttl_s=60, revision=newer)
        monkeypatch.setattr(MemoryValues, "get", late)
        await cache.bus.publish(f"{current.KIND}:{FLAGS.name}", b"%d" % newer)
        await asyncio.wait_for(asked.wait(), 10)
        looked, served = flags._current.seen().checked_at, []
        flags.watch(lambda *_: served.append(flags.value(SLASH)))
        await flags.set(SLASH, True)
        answers.set()
        await until(lambda: asyncio.sleep(0, flags._current.seen().checked_at != looked), 10)
        assert {True} == {*served, flags.value(SLASH)}
    await cache.aclose()


async def test_what_no_feed_tells_is_seen_when_everything_is_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQL by hand, or a restored table: there is no change of it, and the head is as it was."""
    monkeypatch.setattr(current, "WHOLE_S", 0.2)
    async with opened(store) as flags:
        await flags.set(GREETING, "Hi", reason="before")
        await asyncio.sleep(0.1)
        engine = records(store).engine
        assert isinstance(engine, MemoryRecords)
        at = store.core.planner.address(FeatureFlag.at("flags", GREETING.name, "everybody", "*"), None)
        (record,) = await engine.get((at,))
        assert record is not None
        await engine.restore(at.table, [{**record, "value": "Howdy"}], over=True)
        await until(lambda: asyncio.sleep(0, flags.value(GREETING) == "Howdy"), 5)
