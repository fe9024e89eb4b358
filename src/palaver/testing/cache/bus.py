"""What every bus must do, and what becomes of a cache that was closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from palaver.caching import Heard, Limit, Missed, Take
from palaver.errors import ConfigError
from palaver.ports import Cache
from palaver.testing.cache.base import HOSTILE, HOSTILE_DATA, CacheBase


async def next_of(heard: AsyncIterator[Heard | Missed]) -> Heard | Missed:
    return await asyncio.wait_for(anext(heard), 5)


class BusTests(CacheBase):
    async def test_what_is_published_is_heard_in_order_by_everybody_who_listens(self, cache: Cache) -> None:
        await cache.bus.publish("t", b"before")
        async with cache.bus.listen("t") as one, cache.bus.listen("t", "u") as two:
            for number in range(50):
                await cache.bus.publish("t", b"%d" % number)
            for heard in (one, two):
                assert [Heard("t", b"%d" % number) for number in range(50)] == [await next_of(heard) for _ in range(50)]

    async def test_only_topics_asked_for_are_heard(self, cache: Cache) -> None:
        async with cache.bus.listen("t") as heard:
            for topic in ("u", "tt", "T", "t*", ""):
                await cache.bus.publish(topic, b"other")
            await cache.bus.publish("t", b"own")
            assert Heard("t", b"own") == await next_of(heard)

    async def test_who_stopped_listening_hears_nothing_and_the_others_go_on(self, cache: Cache) -> None:
        async with cache.bus.listen("t") as staying:
            async with cache.bus.listen("t") as leaving:
                pass
            await cache.bus.publish("t", b"x")
            assert Heard("t", b"x") == await next_of(staying)
            with pytest.raises(StopAsyncIteration):
                await next_of(leaving)
        async with cache.bus.listen("t") as again:
            await cache.bus.publish("t", b"y")
            assert Heard("t", b"y") == await next_of(again)

    async def test_who_falls_too_far_behind_is_told(self, cache: Cache) -> None:
        async with cache.bus.listen("t") as heard, cache.bus.listen("end") as end:
            for number in range(2_500):
                await cache.bus.publish("t", b"%d" % number)
            await cache.bus.publish("end", b"")
            await next_of(end)
            found = [await next_of(heard)]
            while found[-1] != Heard("t", b"2499"):
                found.append(await next_of(heard))
        assert Missed(listening=True) == found[0]
        taken = [int(message.data) for message in found if isinstance(message, Heard)]
        assert taken == list(range(taken[0], 2_500))

    async def test_hostile_topics_and_data(self, cache: Cache) -> None:
        async with cache.bus.listen(*HOSTILE) as heard:
            for topic in HOSTILE:
                await cache.bus.publish(topic, topic.encode())
            assert [Heard(topic, topic.encode()) for topic in HOSTILE] == [await next_of(heard) for _ in HOSTILE]
            for data in HOSTILE_DATA:
                await cache.bus.publish("a", data)
            assert [Heard("a", data) for data in HOSTILE_DATA] == [await next_of(heard) for _ in HOSTILE_DATA]

    async def test_a_closed_cache_refuses_and_ends_its_listeners(self, cache: Cache) -> None:
        values = cache.values("session")
        await values.set("k", b"x", ttl_s=60)
        async with cache.bus.listen("t") as heard:
            await cache.aclose()
            with pytest.raises(StopAsyncIteration):
                await next_of(heard)
        limit = Limit("x", 1, 1)
        for call in (
            lambda: values.get("k"),
            lambda: cache.limiter.take(Take(limit, "u")),
            lambda: cache.presence.count(["c"]),
            lambda: cache.windows.read("w", limit=1),
            lambda: cache.bus.publish("t", b""),
        ):
            with pytest.raises(ConfigError):
                await call()
        await cache.aclose()
