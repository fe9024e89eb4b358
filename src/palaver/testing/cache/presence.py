"""What every engine of presence must do."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from palaver.clock import ManualClock
from palaver.errors import Validation
from palaver.ports import Cache
from palaver.testing.cache.base import HOSTILE, CacheBase


class PresenceTests(CacheBase):
    async def present(self, cache: Cache, channel: str) -> list[str]:
        return [present.member for present in await cache.presence.present(channel)]

    async def test_who_touched_a_channel_is_present_in_it(self, cache: Cache, clock: ManualClock) -> None:
        assert [] == await cache.presence.present("discord")
        await cache.presence.touch("ann", ["discord", "slack"], ttl_s=300)
        await cache.presence.touch("ben", ["discord"], ttl_s=200)
        assert [("ann", clock.now()), ("ben", clock.now())] == await cache.presence.present("discord")
        assert ["ann"] == await self.present(cache, "slack")
        assert [2, 0, 1] == await cache.presence.count(["discord", "web", "slack"])
        assert [] == await cache.presence.count([])

    async def test_each_member_goes_by_itself(self, cache: Cache, clock: ManualClock) -> None:
        await cache.presence.touch("ann", ["c"], ttl_s=300)
        clock.advance(timedelta(seconds=200))
        await cache.presence.touch("ben", ["c"], ttl_s=300)
        clock.advance(timedelta(seconds=99.999))
        assert ["ben", "ann"] == await self.present(cache, "c")
        clock.advance(timedelta(seconds=0.001))
        assert ["ben"] == await self.present(cache, "c")
        assert [1] == await cache.presence.count(["c"])
        clock.advance(timedelta(seconds=200))
        assert [0] == await cache.presence.count(["c"])

    async def test_touching_again_is_staying_and_counted_once(self, cache: Cache, clock: ManualClock) -> None:
        await cache.presence.touch("ann", ["c"], ttl_s=300)
        clock.advance(timedelta(seconds=200))
        await cache.presence.touch("ann", ["c", "c"], ttl_s=300)
        clock.advance(timedelta(seconds=200))
        assert ["ann"] == await self.present(cache, "c")
        assert [1] == await cache.presence.count(["c"])

    async def test_who_leaves_is_gone_from_these_channels_only(self, cache: Cache) -> None:
        await cache.presence.touch("ann", ["a", "b"], ttl_s=300)
        await cache.presence.leave("ann", ["a", "never there"])
        await cache.presence.leave("ben", ["b"])
        assert [0, 1] == await cache.presence.count(["a", "b"])

    async def test_of_some_members_those_are_told_apart_who_are_present(self, cache: Cache, clock: ManualClock) -> None:
        await cache.presence.touch("ann", ["c"], ttl_s=300)
        await cache.presence.touch("ben", ["c"], ttl_s=100)
        await cache.presence.touch("cleo", ["c", "d"], ttl_s=300)
        await cache.presence.leave("cleo", ["c"])
        clock.advance(timedelta(seconds=99.999))
        assert [True, False, True, False] == await cache.presence.among("c", ["ben", "cleo", "ann", "nobody"])
        clock.advance(timedelta(seconds=0.001))
        assert [False, True] == await cache.presence.among("c", ["ben", "ann"])
        assert [[False], []] == [await cache.presence.among("never touched", ["ann"]), await cache.presence.among("c", [])]

    async def test_when_somebody_was_seen_is_known_after_they_went(self, cache: Cache, clock: ManualClock) -> None:
        async def seen(*members: str) -> list[datetime | None]:
            return await cache.presence.last_seen("c", members)

        start = clock.now()
        await cache.presence.touch("ann", ["c"], ttl_s=300)
        clock.advance(timedelta(seconds=10))
        await cache.presence.touch("ben", ["c"], ttl_s=300)
        await cache.presence.leave("ben", ["c"])
        clock.advance(timedelta(days=2))
        assert [start, None, start + timedelta(seconds=10)] == await seen("ann", "nobody", "ben")
        assert [] == await seen()
        clock.advance(timedelta(days=29))
        await cache.presence.touch("cleo", ["c"], ttl_s=300)
        assert [None, None, clock.now()] == await seen("ann", "ben", "cleo")

    async def test_those_who_stay_longest_come_first_as_many_as_asked_for(self, cache: Cache) -> None:
        for number in range(20):
            await cache.presence.touch(f"m{number}", ["c"], ttl_s=100 + number)
        found = await cache.presence.present("c", limit=3)
        assert ["m19", "m18", "m17"] == [present.member for present in found]

    async def test_many_at_once_are_all_counted(self, cache: Cache) -> None:
        channels = [f"c{number}" for number in range(20)]
        await asyncio.gather(*(cache.presence.touch(f"m{number}", channels, ttl_s=300) for number in range(50)))
        assert [50] * 20 == await cache.presence.count(channels)

    async def test_hostile_names_are_names_like_any_other(self, cache: Cache) -> None:
        for number, name in enumerate(HOSTILE):
            await cache.presence.touch(name, ["everywhere"], ttl_s=100 + number)
            await cache.presence.touch("ann", [name], ttl_s=100)
        assert HOSTILE == (await self.present(cache, "everywhere"))[::-1]
        assert [1] * len(HOSTILE) == await cache.presence.count(HOSTILE)

    async def test_times_that_make_no_sense_are_refused(self, cache: Cache) -> None:
        for ttl in (0, -1, float("nan")):
            with pytest.raises(Validation):
                await cache.presence.touch("ann", ["c"], ttl_s=ttl)
        with pytest.raises(Validation):
            await cache.presence.present("c", limit=0)
