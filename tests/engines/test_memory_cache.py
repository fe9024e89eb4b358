"""What only the cache in memory does: bounds, and callers in several threads and event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from palaver.cache.bounded import Bounds
from palaver.cache.memory import MemoryCache
from palaver.caching import Heard, Item, Limit, Take
from palaver.clock import ManualClock


def in_threads(count: int, work: Callable[[int], Awaitable[Any]]) -> list[Any]:
    """Run work in so many threads at once, each with an event loop of its own."""
    barrier, results = threading.Barrier(count), list[Any]()

    def run(number: int) -> None:
        async def at_once() -> Any:
            barrier.wait()
            return await work(number)

        results.append(asyncio.run(at_once()))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == len(results)
    return results


# --- bounds -------------------------------------------------------------------------------------------------------------


async def test_a_flood_of_one_kind_does_not_push_out_another() -> None:
    cache = MemoryCache(bounds={"bulk": Bounds(entries=1_000, bytes=500_000)})
    sessions, bulk = cache.values("session"), cache.values("bulk")
    for number in range(200):
        await sessions.set(f"s{number}", b"session", ttl_s=600)
    limit = Limit("x", 10, 3_600)
    await cache.limiter.take(Take(limit, "u", 7))
    for number in range(5_000):
        await bulk.set(f"b{number}", b"x" * 1_000, ttl_s=600)
    assert all(held is not None for held in await sessions.get_many([f"s{number}" for number in range(200)]))
    assert 3 == (await cache.limiter.peek(Take(limit, "u"))).verdicts[0].remaining
    assert bulk.shelf.bytes <= 500_000
    assert 300 < len(bulk.shelf) <= 1_000
    assert 4_000 < cache.health().evicted


@pytest.mark.parametrize("bounds", [Bounds(entries=100), Bounds(bytes=30_000)])
async def test_what_was_used_least_lately_goes_first(bounds: Bounds) -> None:
    cache = MemoryCache(bounds={"v": bounds})
    values = cache.values("v")
    await values.set("kept", b"x", ttl_s=600)
    for number in range(1_000):
        await values.set(f"k{number}", b"x" * 100, ttl_s=600)
        assert (b"x", 0) == await values.get("kept")
    assert len(values.shelf) <= 100
    assert values.shelf.bytes <= bounds.bytes
    assert await values.get("k999") is not None
    assert await values.get("k0") is None


async def test_what_has_expired_goes_before_what_has_not() -> None:
    clock = ManualClock()
    cache = MemoryCache(clock=clock, bounds={"v": Bounds(entries=100)})
    values = cache.values("v")
    for number in range(50):
        await values.set(f"long{number}", b"x", ttl_s=600)
    for number in range(50):
        await values.set(f"short{number}", b"x", ttl_s=1)
    clock.advance(timedelta(seconds=2))
    for number in range(50):
        await values.set(f"new{number}", b"x", ttl_s=600)
    assert all(held is not None for held in await values.get_many([f"long{number}" for number in range(50)]))
    assert 0 == cache.health().evicted


async def test_a_value_over_all_bounds_is_refused_and_leaves_nothing_old() -> None:
    cache = MemoryCache(bounds={"v": Bounds(bytes=1_000)})
    values = cache.values("v")
    assert await values.set("k", b"old", ttl_s=60, revision=1)
    assert not await values.set("k", b"x" * 2_000, ttl_s=60, revision=2)
    assert await values.get("k") is None
    assert (0, 0) == (len(values.shelf), values.shelf.bytes)


async def test_limits_nearest_to_rest_are_forgotten_first() -> None:
    clock = ManualClock()
    cache = MemoryCache(clock=clock, states=1_000)
    slow, fast = Limit("slow", 2, 3_600), Limit("fast", 100, 1, "window")
    for number in range(100):
        await cache.limiter.take(Take(slow, f"u{number}", 2))
    for number in range(5_000):
        await cache.limiter.take(Take(fast, f"ip{number}"))
    assert not any([(await cache.limiter.take(Take(slow, f"u{number}"))).allowed for number in range(100)])
    assert sum(map(len, cache.limiter._states.values())) <= 1_000


async def test_what_rests_is_forgotten_before_anything_that_counts() -> None:
    clock = ManualClock()
    cache = MemoryCache(clock=clock, states=1_000)
    limit = Limit("x", 1, 10)
    for _ in range(20):
        for number in range(500):
            assert (await cache.limiter.take(Take(limit, f"u{number}"))).allowed
        assert not any([(await cache.limiter.take(Take(limit, f"u{number}"))).allowed for number in range(500)])
        clock.advance(timedelta(seconds=10))


async def test_windows_and_members_stay_within_their_bounds() -> None:
    cache = MemoryCache(bounds={"windows": Bounds(bytes=100_000)}, states=1_000)
    for number in range(500):
        leave = await cache.windows.begin(f"w{number}")
        filled = [Item(f"{place:03d}", 1, b"x" * 100) for place in range(5)]
        await cache.windows.replace(f"w{number}", filled, ticket=leave.ticket, keep=5, complete=True, ttl_s=60)
        await cache.presence.touch(f"m{number}", ["a", "b", "c"], ttl_s=60 + number)
    assert cache.windows.shelf.bytes <= 100_000
    found = [await cache.windows.read(f"w{number}", limit=5) for number in range(500)]
    assert {None, 5} == {None if window is None else len(window) for window in found}
    assert found[-1] is not None
    assert 900 <= sum(await cache.presence.count(["a", "b", "c"])) <= 1_000
    assert "m499" == (await cache.presence.present("a"))[0].member


# --- threads and event loops --------------------------------------------------------------------------------------------


def test_a_limit_holds_for_all_threads_together() -> None:
    cache, limit, window = MemoryCache(), Limit("x", 1_000, 3_600), Limit("y", 1_500, 3_600, "window")

    async def work(number: int) -> int:
        passed = 0
        for turn in range(400):
            if turn % 3:
                passed += (await cache.limiter.take(Take(limit, "all"))).allowed
            else:
                passed += (await cache.limiter.take(Take(limit, "all"), Take(window, f"{number}"))).allowed
        return passed

    assert 1_000 == sum(in_threads(8, work))


def test_values_of_all_threads_together_lose_nothing() -> None:
    cache = MemoryCache()
    values = cache.values("counter")
    asyncio.run(values.set("k", b"0", ttl_s=600, revision=1))

    async def work(number: int) -> None:
        for _ in range(200):
            while True:
                held = await values.get("k")
                assert held is not None
                more = b"%d" % (int(held.value) + 1)
                if await values.set("k", more, ttl_s=600, revision=held.revision + 1, expected=held.revision):
                    break

    in_threads(6, work)
    assert (b"1200", 1_201) == asyncio.run(values.get("k"))


def test_windows_of_all_threads_together_are_whole() -> None:
    cache = MemoryCache()

    async def work(number: int) -> None:
        for turn in range(200):
            leave = await cache.windows.begin("w")
            filled = [Item(f"{place:06d}", 1, b"x") for place in range(turn, turn + 5)]
            await cache.windows.replace("w", filled, ticket=leave.ticket, keep=5, complete=False, ttl_s=60)
            await cache.windows.push("w", [Item(f"{turn + 5:06d}", 1, b"x")], ttl_s=60)
            found = await cache.windows.read("w", limit=5)
            assert found is not None
            assert 5 == len(found)

    in_threads(6, work)


def test_a_message_is_heard_in_every_event_loop() -> None:
    cache, listening = MemoryCache(), threading.Barrier(5)

    async def work(number: int) -> list[int]:
        if number == 0:
            await asyncio.to_thread(listening.wait)
            for turn in range(100):
                await cache.bus.publish("t", b"%d" % turn)
            return list(range(100))
        async with cache.bus.listen("t") as heard:
            await asyncio.to_thread(listening.wait)
            messages = [await asyncio.wait_for(anext(heard), 10) for _ in range(100)]
        return [int(message.data) for message in messages if isinstance(message, Heard)]

    assert [list(range(100))] * 5 == in_threads(5, work)


def test_who_listened_in_an_event_loop_that_ended_is_forgotten() -> None:
    cache = MemoryCache()

    async def abandon() -> None:
        await cache.bus.listen("t").__aenter__()

    asyncio.run(abandon())

    async def publish() -> None:
        async with cache.bus.listen("t") as heard:
            await cache.bus.publish("t", b"x")
            assert Heard("t", b"x") == await anext(heard)

    asyncio.run(publish())
    asyncio.run(cache.aclose())


def test_plain_calls_and_awaited_ones_count_together() -> None:
    cache, limit = MemoryCache(), Limit("x", 5, 3_600)
    assert [4, 3] == [cache.limiter.take_now(Take(limit, "u")).verdicts[0].remaining for _ in range(2)]
    assert 2 == asyncio.run(cache.limiter.take(Take(limit, "u"))).verdicts[0].remaining


def test_the_systems_time_counts_without_a_clock() -> None:
    cache, limit = MemoryCache(), Limit("x", 1, 0.2)

    async def work() -> None:
        taken = await cache.limiter.take(Take(limit, "u"))
        while taken.allowed:
            taken = await cache.limiter.take(Take(limit, "u"))
        assert 0 < taken.retry_after_s <= 0.2
        await asyncio.sleep(taken.retry_after_s + 0.002)
        assert (await cache.limiter.take(Take(limit, "u"))).allowed

    asyncio.run(work())
