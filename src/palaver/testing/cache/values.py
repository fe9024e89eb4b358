"""What every cache of values must do."""

from __future__ import annotations

import asyncio
import random

import pytest

from palaver.caching import ABSENT, HIGHEST_REVISION
from palaver.clock import ManualClock
from palaver.errors import KeyTooLong, Validation
from palaver.ports import Cache, KeyValue
from palaver.testing.cache.base import HOSTILE, HOSTILE_DATA, SHORT, CacheBase

TTL = 60.0


async def value_of(values: KeyValue, key: str) -> bytes | None:
    held = await values.get(key)
    return None if held is None else held.value


class KeyValueTests(CacheBase):
    # --- what is set is read ----------------------------------------------------------------------------------------

    async def test_what_was_set_is_read_with_its_revision(self, cache: Cache) -> None:
        values = cache.values("session")
        assert await values.get("k") is None
        assert await values.set("k", b"one", ttl_s=TTL)
        assert (b"one", 0) == await values.get("k")
        assert await values.set("k", b"two", ttl_s=TTL, revision=HIGHEST_REVISION)
        assert (b"two", HIGHEST_REVISION) == await values.get("k")

    async def test_hostile_keys_are_keys_like_any_other(self, cache: Cache) -> None:
        values = cache.values("session")
        for number, key in enumerate(HOSTILE):
            assert await values.set(key, b"%d" % number, ttl_s=TTL)
        assert [b"%d" % number for number in range(len(HOSTILE))] == [await value_of(values, key) for key in HOSTILE]
        await values.delete(HOSTILE[0])
        assert [None, b"1"] == [await value_of(values, key) for key in HOSTILE[:2]]

    @pytest.mark.parametrize("data", HOSTILE_DATA, ids=lambda data: repr(data[:12]))
    async def test_hostile_values_come_back_as_they_were(self, cache: Cache, data: bytes) -> None:
        values = cache.values("session")
        for revision in (0, 7):
            assert await values.set("k", data, ttl_s=TTL, revision=revision)
            assert (data, revision) == await values.get("k")

    async def test_kinds_share_no_keys(self, cache: Cache) -> None:
        await cache.values("a").set("k", b"a", ttl_s=TTL)
        await cache.values("b").set("k", b"b", ttl_s=TTL)
        await cache.values("a").set("b:k", b"c", ttl_s=TTL)
        await cache.values("b").delete("k")
        assert [b"a", None, b"c", None] == [
            await value_of(cache.values(kind), key) for kind, key in (("a", "k"), ("b", "k"), ("a", "b:k"), ("a", "b"))
        ]

    async def test_many_are_read_in_the_order_asked(self, cache: Cache) -> None:
        values = cache.values("session")
        await values.set("a", b"a", ttl_s=TTL)
        await values.set("b", b"b", ttl_s=TTL, revision=3)
        await values.delete("c", revision=3)
        found = await values.get_many(["b", "x", "a", "c", "b"])
        assert [(b"b", 3), None, (b"a", 0), None, (b"b", 3)] == found
        assert [] == await values.get_many([])

    async def test_what_was_deleted_is_gone_and_may_be_set_again(self, cache: Cache) -> None:
        values = cache.values("session")
        await values.delete("k")
        await values.set("k", b"x", ttl_s=TTL, revision=5)
        await values.delete("k")
        assert await values.get("k") is None
        assert await values.set("k", b"y", ttl_s=TTL, revision=1)
        assert b"y" == await value_of(values, "k")

    # --- expiry -----------------------------------------------------------------------------------------------------

    async def test_a_value_is_a_miss_after_its_time(self, cache: Cache, clock: ManualClock) -> None:
        values = cache.values("session")
        await values.set("short", b"x", ttl_s=SHORT)
        await values.set("long", b"x", ttl_s=TTL)
        await values.set("revised", b"x", ttl_s=SHORT, revision=1)
        await self.pass_time(clock, SHORT * 1.5)
        assert [None, (b"x", 0), None] == await values.get_many(["short", "long", "revised"])
        assert await values.get("short") is None

    async def test_setting_again_gives_a_new_time(self, cache: Cache, clock: ManualClock) -> None:
        values = cache.values("session")
        await values.set("k", b"x", ttl_s=SHORT)
        await values.set("k", b"y", ttl_s=TTL)
        await values.set("other", b"x", ttl_s=TTL)
        await values.set("other", b"y", ttl_s=SHORT, revision=2)
        await self.pass_time(clock, SHORT * 1.5)
        assert b"y" == await value_of(values, "k")
        assert await values.get("other") is None

    async def test_reading_may_extend_the_time_of_what_is_there(self, cache: Cache, clock: ManualClock) -> None:
        values = cache.values("session")
        assert await values.get("k", extend_s=TTL) is None
        await values.set("k", b"x", ttl_s=SHORT, revision=3)
        assert (b"x", 3) == await values.get("k", extend_s=TTL)
        await self.pass_time(clock, SHORT * 1.5)
        assert (b"x", 3) == await values.get("k", extend_s=SHORT)
        await self.pass_time(clock, SHORT * 1.5)
        assert await values.get("k") is None

    # --- revisions and fences ---------------------------------------------------------------------------------------

    async def test_an_older_value_never_replaces_a_newer_one(self, cache: Cache) -> None:
        values = cache.values("user")
        assert await values.set("k", b"6", ttl_s=TTL, revision=6)
        assert not await values.set("k", b"5", ttl_s=TTL, revision=5)
        assert (b"6", 6) == await values.get("k")
        assert await values.set("k", b"6 again", ttl_s=TTL, revision=6)
        assert await values.set("k", b"7", ttl_s=TTL, revision=7)
        assert (b"7", 7) == await values.get("k")

    async def test_of_many_writers_in_any_order_the_newest_stays(self, cache: Cache) -> None:
        values = cache.values("user")
        revisions = list(range(1, 101))
        random.Random(3).shuffle(revisions)
        await asyncio.gather(*(values.set("k", b"%d" % revision, ttl_s=TTL, revision=revision) for revision in revisions))
        assert (b"100", 100) == await values.get("k")

    async def test_a_delete_leaves_a_fence_that_only_newer_values_pass(self, cache: Cache) -> None:
        values = cache.values("user")
        await values.set("k", b"5", ttl_s=TTL, revision=5)
        await values.delete("k", revision=6)
        assert await values.get("k") is None
        assert not await values.set("k", b"5", ttl_s=TTL, revision=5)
        assert await values.get("k") is None
        assert await values.set("k", b"6", ttl_s=TTL, revision=6)
        assert (b"6", 6) == await values.get("k")

    async def test_a_delete_fences_a_key_that_was_never_there(self, cache: Cache) -> None:
        values = cache.values("user")
        await values.delete("k", revision=6)
        assert not await values.set("k", b"5", ttl_s=TTL, revision=5)

    async def test_a_late_delete_leaves_newer_values_and_fences(self, cache: Cache) -> None:
        values = cache.values("user")
        await values.set("k", b"7", ttl_s=TTL, revision=7)
        for revision in (6, 7):
            await values.delete("k", revision=revision)
        assert (b"7", 7) == await values.get("k")
        await values.delete("k", revision=9)
        await values.delete("k", revision=8)
        assert not await values.set("k", b"8", ttl_s=TTL, revision=8)

    async def test_a_fence_goes_after_its_time(self, cache: Cache, clock: ManualClock) -> None:
        values = cache.values("user")
        await values.delete("k", revision=6, fence_s=SHORT)
        await self.pass_time(clock, SHORT * 1.5)
        assert await values.set("k", b"5", ttl_s=TTL, revision=5)

    async def test_a_stale_set_after_a_delete_is_never_read(self, cache: Cache) -> None:
        """Readers read the truth, pause, and set what they read; writers change it and delete. No read is older than a finished delete."""
        values, chance = cache.values("user"), random.Random(11)
        truth = deleted = 1
        stale: list[tuple[int, int]] = []

        async def reader() -> None:
            for _ in range(60):
                floor = deleted
                held = await values.get("k")
                if held is None:
                    found = truth
                    for _ in range(chance.randrange(6)):
                        await asyncio.sleep(0)
                    await values.set("k", b"%d" % found, ttl_s=TTL, revision=found)
                elif held.revision < floor:
                    stale.append((held.revision, floor))

        async def writer() -> None:
            nonlocal truth, deleted
            for _ in range(40):
                truth += 1
                mine = truth
                await asyncio.sleep(0)
                await values.delete("k", revision=mine)
                deleted = max(deleted, mine)

        await asyncio.gather(*(reader() for _ in range(12)), *(writer() for _ in range(4)))
        assert [] == stale

    # --- expectations -----------------------------------------------------------------------------------------------

    async def test_only_one_of_many_creates(self, cache: Cache) -> None:
        values = cache.values("lock")
        won = await asyncio.gather(*(values.set("k", b"%d" % number, ttl_s=TTL, expected=ABSENT) for number in range(32)))
        assert 1 == sum(won)
        assert b"%d" % won.index(True) == await value_of(values, "k")
        await values.delete("k")
        assert await values.set("k", b"again", ttl_s=TTL, expected=ABSENT)

    async def test_a_fence_is_no_value_to_whoever_expects_none(self, cache: Cache) -> None:
        values = cache.values("lock")
        await values.delete("k", revision=5)
        assert not await values.set("k", b"x", ttl_s=TTL, expected=5)
        assert await values.set("k", b"x", ttl_s=TTL, revision=5, expected=ABSENT)

    async def test_counting_with_expectations_loses_nothing(self, cache: Cache) -> None:
        values = cache.values("counter")
        await values.set("k", b"0", ttl_s=TTL, revision=1)

        async def add() -> None:
            for _ in range(5):
                while True:
                    held = await values.get("k")
                    assert held is not None
                    more = b"%d" % (int(held.value) + 1)
                    if await values.set("k", more, ttl_s=TTL, revision=held.revision + 1, expected=held.revision):
                        break

        await asyncio.gather(*(add() for _ in range(12)))
        assert (b"60", 61) == await values.get("k")

    # --- what is refused --------------------------------------------------------------------------------------------

    async def test_what_no_engine_accepts_is_refused_everywhere(self, cache: Cache) -> None:
        values = cache.values("session")
        for key in ("x" * 1_025, "é" * 513, "😀" * 257):
            with pytest.raises(KeyTooLong):
                await values.set(key, b"", ttl_s=1)
        with pytest.raises(Validation):
            await values.get("\ud800")
        for ttl in (0, -1, float("nan"), float("inf")):
            with pytest.raises(Validation):
                await values.set("k", b"", ttl_s=ttl)
            with pytest.raises(Validation):
                await values.get("k", extend_s=ttl)
        for revision in (-1, HIGHEST_REVISION + 1):
            with pytest.raises(Validation):
                await values.set("k", b"", ttl_s=1, revision=revision)
            with pytest.raises(Validation):
                await values.delete("k", revision=revision)
        for kind in ("", "a b", "a:b", "x" * 41, "é"):
            with pytest.raises(Validation):
                cache.values(kind)
        assert await values.get("k") is None
