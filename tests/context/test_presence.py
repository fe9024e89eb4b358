"""Presence on both caches: who is active, spared touches, and what happens while the cache is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest

from palaver import ManualClock
from palaver.cache.memory import MemoryCache, MemoryPresence
from palaver.cache.none import NoCache
from palaver.cache.redis import RedisCache
from palaver.errors import ConfigError, StorageFull, Unavailable, Validation
from palaver.ports import Cache
from palaver.presence import Presence
from tests.engines.redis_servers import answers, own, until
from tests.engines.test_cache import url

SECRET = b"a secret of the application"


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[Cache]:
    cache: Cache = MemoryCache(clock=clock) if request.param == "memory" else RedisCache(url(), clock=clock)
    yield cache
    await cache.aclose()


def forward(clock: ManualClock, seconds: float) -> None:
    clock.advance(timedelta(seconds=seconds))


async def names(presence: Presence, channel: str) -> list[str]:
    return [present.member for present in await presence.active(channel)]


async def test_each_member_is_active_in_each_channel_by_itself(cache: Cache, clock: ManualClock) -> None:
    presence = Presence(cache, ttl_s=300, every_s=0, clock=clock)
    assert ([], {}) == (await presence.channels(), await presence.counts())
    start = clock.now()
    await presence.touch("ann", "discord", "web")
    forward(clock, 200)
    await presence.touch("ben", "discord")
    assert ["ben", "ann"] == await names(presence, "discord")
    assert ["discord", "web"] == await presence.channels()
    assert {"discord": 2, "web": 1} == await presence.counts()
    assert {"web": 1, "x": 0} == await presence.counts("web", "x")
    assert (True, False) == (await presence.is_active("ann", "web"), await presence.is_active("ben", "web"))
    forward(clock, 100)
    assert ["ben"] == await names(presence, "discord")
    assert (False, start) == (await presence.is_active("ann", "web"), await presence.last_seen("ann", "web"))
    assert {"discord": 1} == await presence.counts()
    await presence.leave("ben", "discord")
    assert (False, {"discord": 0}) == (await presence.is_active("ben", "discord"), await presence.counts())
    assert None is await presence.last_seen("cleo", "discord")


async def test_where_no_touch_is_spared_every_one_is_sent(cache: Cache, clock: ManualClock) -> None:
    presence = Presence(cache, ttl_s=300, every_s=0, clock=clock)
    for _ in range(3):
        await presence.touch("ann", "discord")
    assert (3, 0) == (presence.figures.sent, presence.figures.spared)


async def test_a_channel_is_listed_once_whoever_is_touched_in_it(clock: ManualClock) -> None:
    cache = MemoryCache(clock=clock)
    presence, touched, touch = Presence(cache, ttl_s=300, clock=clock), [], MemoryPresence.touch

    async def noted(port: MemoryPresence, member: str, channels: Any, *, ttl_s: float) -> None:
        touched.append(member)
        await touch(port, member, channels, ttl_s=ttl_s)

    with patch.object(MemoryPresence, "touch", noted):
        for member in ("ann", "ben", "cleo"):
            await presence.touch(member, "discord")
        forward(clock, 30)
        await presence.touch("ann", "discord")
    assert ["ann", "discord", "ben", "cleo", "ann", "discord"] == touched
    assert ["discord"] == await presence.channels()
    await cache.aclose()


async def test_a_member_that_was_touched_a_moment_ago_costs_no_command(cache: Cache, clock: ManualClock) -> None:
    presence = Presence(cache, ttl_s=300, clock=clock)
    await asyncio.gather(*(presence.touch("ann", "discord") for _ in range(50)))
    assert (1, 49) == (presence.figures.sent, presence.figures.spared)
    forward(clock, 29.9)
    await presence.touch("ann", "discord")
    assert 1 == presence.figures.sent
    await presence.touch("ann", "discord", "web")
    assert 2 == presence.figures.sent
    # It was touched at 29.9 s, so that it stays for 300 s from then, sent or not.
    forward(clock, 299.9)
    assert await presence.is_active("ann", "discord")
    forward(clock, 0.3)
    assert not await presence.is_active("ann", "discord")
    await presence.touch("ann", "discord")
    assert await presence.is_active("ann", "discord")


async def test_who_left_is_touched_again_at_once(cache: Cache, clock: ManualClock) -> None:
    presence = Presence(cache, clock=clock)
    await presence.touch("ann", "web")
    await presence.leave("ann", "web")
    await presence.touch("ann", "web")
    assert await presence.is_active("ann", "web")


async def test_members_may_be_kept_as_hashes(cache: Cache, clock: ManualClock) -> None:
    presence = Presence(cache, hashed_with=SECRET, clock=clock)
    await presence.touch("ann@example.org", "web")
    assert await presence.is_active("ann@example.org", "web")
    assert clock.now() == await presence.last_seen("ann@example.org", "web")
    (hashed,) = await names(presence, "web")
    assert (32, False) == (len(hashed), "ann" in hashed)
    assert [False] == await cache.presence.among("presence@web", ["ann@example.org"])
    other = Presence(cache, hashed_with=SECRET[::-1], clock=clock)
    assert not await other.is_active("ann@example.org", "web")
    await presence.leave("ann@example.org", "web")
    assert [] == await names(presence, "web")


async def test_declared_channels_are_all_there_are(cache: Cache, clock: ManualClock) -> None:
    presence = Presence(cache, channels=["web", "discord", "web"], clock=clock)
    await presence.touch("ann", "web")
    assert {"web": 1, "discord": 0} == await presence.counts()
    for call in (presence.touch("ann", "x"), presence.active("x"), presence.counts("x"), presence.is_active("ann", "x")):
        with pytest.raises(Validation, match="declared"):
            await call


async def test_kinds_of_presence_do_not_meet(cache: Cache, clock: ManualClock) -> None:
    one, other = Presence(cache, name="typing", clock=clock), Presence(cache, name="online", clock=clock)
    await one.touch("ann", "web")
    assert ([], []) == (await names(other, "web"), await other.channels())


async def test_what_makes_no_sense_is_refused(cache: Cache) -> None:
    for wrong in ({"ttl_s": 0}, {"every_s": -1}, {"ttl_s": 1, "every_s": 2}, {"hashed_with": b"short"}):
        with pytest.raises(ConfigError):
            Presence(cache, **wrong)
    presence = Presence(cache)
    for call in (presence.touch("", "web"), presence.touch("ann", ""), presence.touch("a" * 2_000, "web")):
        with pytest.raises(Validation):
            await call
    await presence.touch("ann", "web")
    assert 1 == presence.figures.sent


async def test_without_a_cache_touches_are_dropped_and_counted_and_reads_say_so() -> None:
    presence = Presence(NoCache())
    for _ in range(3):
        await presence.touch("ann", "web")
    assert (0, 0, 3) == (presence.figures.sent, presence.figures.spared, presence.figures.dropped)
    for call in (presence.active("web"), presence.counts(), presence.is_active("ann", "web"), presence.last_seen("ann", "web")):
        with pytest.raises(Unavailable):
            await call
    with pytest.raises(Unavailable):
        await presence.leave("ann", "web")


async def test_a_channel_whose_touch_was_dropped_is_listed_by_the_next_one() -> None:
    cache = MemoryCache()
    presence = Presence(cache)
    with patch.object(MemoryPresence, "touch", side_effect=StorageFull("full")):
        await presence.touch("ann", "web")
    assert 1 == presence.figures.dropped
    await presence.touch("ben", "web")
    assert {"web": 1} == await presence.counts()


async def test_a_server_that_lost_everything_learns_of_it_at_the_next_touch() -> None:
    with own() as server:
        cache = RedisCache(f"{server.url}?timeout=0.5")
        presence = Presence(cache)
        await presence.touch("ann", "web")
        server.kill_9()
        await presence.touch("ben", "web")
        assert 1 == presence.figures.dropped
        server.start()
        await until(lambda: answers(cache))
        assert [] == await names(presence, "web")
        await presence.touch("ann", "web")
        assert ["ann"] == await names(presence, "web")
        assert ["web"] == await presence.channels()
        await cache.aclose()


async def test_what_is_no_name_or_number_is_refused_in_words(cache: Cache, clock: ManualClock) -> None:
    presence = Presence(cache, clock=clock)
    wrong: Any = 5
    asked: Any
    for asked in (lambda: presence.touch(wrong, "d"), lambda: presence.leave(wrong, "d"), lambda: presence.is_active(wrong, "d")):
        with pytest.raises(Validation, match=r"name of a member is a text.*give str"):
            await asked()
    for asked in (lambda: presence.touch("a", wrong), lambda: presence.active(wrong), lambda: presence.counts("d", wrong)):
        with pytest.raises(Validation, match="name of a channel is a text"):
            await asked()
    for verb in (presence.touch, presence.leave):
        with pytest.raises(Validation, match=r"No channel was named.*, with one channel or several"):
            await verb("a")
    for limit in (0, -1, wrong / 2):
        with pytest.raises(Validation, match="Members are listed up to a whole number"):
            await presence.active("d", limit=limit)
    assert (0, 0, 0) == (presence.figures.sent, presence.figures.spared, presence.figures.dropped)
