"""What every engine of windows must do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from palaver.caching import Item
from palaver.clock import ManualClock
from palaver.errors import EmptyKey, Validation
from palaver.ports import Cache
from palaver.testing.cache.base import HOSTILE, HOSTILE_DATA, SHORT, CacheBase

TTL = 60.0
KEPT = 6


def item(number: int, tokens: int = 1) -> Item:
    return Item(f"{number:06d}", tokens, b"message %d" % number)


def items(*numbers: int) -> list[Item]:
    return [item(number) for number in numbers]


async def fill(cache: Cache, key: str, filled: Sequence[Item], *, keep: int = 5, complete: bool = True, ttl_s: float = TTL) -> None:
    leave = await cache.windows.begin(key)
    assert await cache.windows.replace(key, filled, ticket=leave.ticket, keep=keep, complete=complete, ttl_s=ttl_s)


async def numbers(cache: Cache, key: str, limit: int, budget: int | None = None, holding: str | None = None) -> list[int] | None:
    found = await cache.windows.read(key, limit=limit, budget=budget, holding=holding)
    return None if found is None else [int(one.id) for one in found]


class WindowTests(CacheBase):
    # --- reading ----------------------------------------------------------------------------------------------------

    async def test_what_is_not_there_is_a_miss_and_a_push_does_not_make_it(self, cache: Cache) -> None:
        assert await cache.windows.read("w", limit=1) is None
        assert not await cache.windows.push("w", items(1), ttl_s=TTL)
        assert await cache.windows.read("w", limit=1) is None

    async def test_the_newest_are_read_in_order(self, cache: Cache) -> None:
        await fill(cache, "w", items(3, 1, 2))
        assert tuple(items(1, 2, 3)) == await cache.windows.read("w", limit=5)
        assert [2, 3] == await numbers(cache, "w", 2)
        assert await cache.windows.push("w", items(4), ttl_s=TTL)
        assert [1, 2, 3, 4] == await numbers(cache, "w", 5)

    async def test_an_empty_window_that_is_complete_is_no_miss(self, cache: Cache) -> None:
        await fill(cache, "w", [])
        assert [] == await numbers(cache, "w", 5)
        await cache.windows.push("w", items(1), ttl_s=TTL)
        assert [1] == await numbers(cache, "w", 5)

    async def test_a_budget_of_tokens_bounds_what_is_read(self, cache: Cache) -> None:
        await fill(cache, "w", [item(1, 50), item(2, 30), item(3, 0), item(4, 20)])
        for budget, expected in (
            (0, []),
            (19, []),
            (20, [3, 4]),
            (49, [3, 4]),
            (50, [2, 3, 4]),
            (100, [1, 2, 3, 4]),
            (10**9, [1, 2, 3, 4]),
        ):
            assert expected == await numbers(cache, "w", 5, budget), budget
        assert [4] == await numbers(cache, "w", 1, 100)

    async def test_a_window_that_does_not_reach_far_enough_is_a_miss(self, cache: Cache) -> None:
        await fill(cache, "w", [item(number, 10) for number in range(4, 9)], complete=False)
        assert [4, 5, 6, 7, 8] == await numbers(cache, "w", 5)
        assert await numbers(cache, "w", 6) is None
        assert [7, 8] == await numbers(cache, "w", 6, 25)
        assert await numbers(cache, "w", 6, 50) is None

    async def test_who_names_an_item_never_reads_a_window_from_before(self, cache: Cache) -> None:
        await fill(cache, "w", items(1, 2))
        assert [1, 2] == await numbers(cache, "w", 5, holding=item(2).id)
        assert await numbers(cache, "w", 5, holding=item(3).id) is None
        await cache.windows.push("w", items(3), ttl_s=TTL)
        assert [1, 2, 3] == await numbers(cache, "w", 5, holding=item(3).id)

    # --- pushing ----------------------------------------------------------------------------------------------------

    async def test_a_push_repeated_is_there_once_and_as_it_was_first(self, cache: Cache) -> None:
        await fill(cache, "w", items(1))
        for _ in range(3):
            await cache.windows.push("w", [item(2), item(2)], ttl_s=TTL)
        await cache.windows.push("w", [Item(item(1).id, 9, b"changed")], ttl_s=TTL)
        assert tuple(items(1, 2)) == await cache.windows.read("w", limit=5)

    async def test_pushes_out_of_order_are_read_in_order(self, cache: Cache) -> None:
        await fill(cache, "w", items(1))
        await asyncio.gather(*(cache.windows.push("w", items(number), ttl_s=TTL) for number in (4, 2, 5, 3)))
        assert [1, 2, 3, 4, 5] == await numbers(cache, "w", 5)

    async def test_a_window_keeps_no_more_than_it_was_told(self, cache: Cache) -> None:
        await fill(cache, "w", items(1, 2, 3), keep=3)
        assert [1, 2, 3] == await numbers(cache, "w", 9)
        await cache.windows.push("w", items(4, 5), ttl_s=TTL)
        assert [3, 4, 5] == await numbers(cache, "w", 3)
        assert await numbers(cache, "w", 4) is None
        await cache.windows.push("w", items(0), ttl_s=TTL)
        assert [3, 4, 5] == await numbers(cache, "w", 3)

    async def test_a_fill_with_more_than_is_kept_is_trimmed_and_not_complete(self, cache: Cache) -> None:
        await fill(cache, "w", items(*range(9)), keep=4)
        assert [5, 6, 7, 8] == await numbers(cache, "w", 4)
        assert await numbers(cache, "w", 5) is None

    # --- filling ----------------------------------------------------------------------------------------------------

    async def test_what_is_pushed_during_a_rebuild_is_not_lost(self, cache: Cache) -> None:
        leave = await cache.windows.begin("w")
        assert leave.first
        assert await cache.windows.push("w", items(3), ttl_s=TTL)
        assert await numbers(cache, "w", 1) is None
        assert await cache.windows.replace("w", items(1, 2), ticket=leave.ticket, keep=5, complete=True, ttl_s=TTL)
        assert [1, 2, 3] == await numbers(cache, "w", 5)

    async def test_of_an_item_both_pushed_and_read_the_truth_is_kept(self, cache: Cache) -> None:
        leave = await cache.windows.begin("w")
        await cache.windows.push("w", [Item(item(1).id, 7, b"as pushed")], ttl_s=TTL)
        await cache.windows.replace("w", items(1), ticket=leave.ticket, keep=5, complete=True, ttl_s=TTL)
        assert tuple(items(1)) == await cache.windows.read("w", limit=5)

    async def test_who_comes_second_shares_the_leave_and_one_fills(self, cache: Cache) -> None:
        leaves = await asyncio.gather(*(cache.windows.begin("w") for _ in range(8)))
        assert 1 == len({leave.ticket for leave in leaves})
        assert 1 == sum(leave.first for leave in leaves)
        filled = [await cache.windows.replace("w", items(1), ticket=leave.ticket, keep=5, complete=True, ttl_s=TTL) for leave in leaves]
        assert [True] + [False] * 7 == filled
        again = await cache.windows.begin("w")
        assert again.first
        assert again.ticket != leaves[0].ticket

    async def test_a_window_serves_while_it_is_filled_anew(self, cache: Cache) -> None:
        await fill(cache, "w", items(1, 2, 3), keep=3)
        leave = await cache.windows.begin("w")
        assert [2, 3] == await numbers(cache, "w", 2)
        await cache.windows.push("w", items(4), ttl_s=TTL)
        assert [2, 3, 4] == await numbers(cache, "w", 3)
        assert await cache.windows.replace("w", items(*range(4)), ticket=leave.ticket, keep=10, complete=True, ttl_s=TTL)
        assert [0, 1, 2, 3, 4] == await numbers(cache, "w", 10)

    async def test_a_delete_makes_the_leave_stale(self, cache: Cache) -> None:
        leave = await cache.windows.begin("w")
        await cache.windows.delete("w")
        assert not await cache.windows.replace("w", items(1), ticket=leave.ticket, keep=5, complete=True, ttl_s=TTL)
        assert await numbers(cache, "w", 1) is None
        await fill(cache, "w", items(1))
        leave = await cache.windows.begin("w")
        await cache.windows.delete("w")
        other = await cache.windows.begin("w")
        assert not await cache.windows.replace("w", items(1), ticket=leave.ticket, keep=5, complete=True, ttl_s=TTL)
        assert await cache.windows.replace("w", items(2), ticket=other.ticket, keep=5, complete=True, ttl_s=TTL)
        assert [2] == await numbers(cache, "w", 5)

    async def test_no_leave_is_no_leave(self, cache: Cache) -> None:
        await fill(cache, "w", items(1))
        for ticket in ("", "0", "deadbeef"):
            assert not await cache.windows.replace("w", items(2), ticket=ticket, keep=5, complete=True, ttl_s=TTL)
        assert [1] == await numbers(cache, "w", 5)

    # --- expiry -----------------------------------------------------------------------------------------------------

    async def test_a_window_that_expired_is_a_miss_and_a_push_does_not_make_a_part_of_it(self, cache: Cache, clock: ManualClock) -> None:
        await fill(cache, "w", items(1, 2), ttl_s=SHORT)
        await self.pass_time(clock, SHORT * 1.5)
        assert not await cache.windows.push("w", items(3), ttl_s=TTL)
        assert await numbers(cache, "w", 1) is None

    async def test_a_push_lets_a_window_live_on(self, cache: Cache, clock: ManualClock) -> None:
        await fill(cache, "w", items(1), ttl_s=SHORT)
        await cache.windows.push("w", items(2), ttl_s=TTL)
        await self.pass_time(clock, SHORT * 1.5)
        assert [1, 2] == await numbers(cache, "w", 5)

    async def test_a_leave_is_stale_after_its_time(self, cache: Cache, clock: ManualClock) -> None:
        leave = await cache.windows.begin("w", ttl_s=SHORT)
        await cache.windows.push("w", items(2), ttl_s=TTL)
        await self.pass_time(clock, SHORT * 1.5)
        assert not await cache.windows.replace("w", items(1), ticket=leave.ticket, keep=5, complete=True, ttl_s=TTL)
        assert await numbers(cache, "w", 1) is None

    # --- races ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("seed", range(4))
    async def test_whatever_happens_at_once_a_window_is_never_a_part(self, cache: Cache, seed: int) -> None:
        """Writers store an item and push it, readers fill what they miss, somebody deletes: each window read is the newest of the truth.

        It holds everything whose push had ended when the reading began, without a gap, and nothing that is not stored.
        """
        crowd = _Crowd(cache, random.Random(seed))
        await asyncio.gather(crowd.write(), crowd.write(), *(crowd.read() for _ in range(6)), crowd.delete())
        assert 20 < len(crowd.reads)
        for found, before, after in crowd.reads:
            assert found == list(range(found[0], found[-1] + 1)) if found else before < 0
            assert not found or before <= found[-1] < after
            assert len(found) == KEPT or not found or found[0] == 0

    # --- names, and what is refused ---------------------------------------------------------------------------------

    async def test_hostile_keys_ids_and_data(self, cache: Cache) -> None:
        for number, key in enumerate(HOSTILE):
            await fill(cache, key, items(number))
        assert [[number] for number in range(len(HOSTILE))] == [await numbers(cache, key, 5) for key in HOSTILE]
        ids = sorted({text[:200] for text in HOSTILE if text and "\0" not in text}, key=str.encode)
        stored = [Item(id, number, HOSTILE_DATA[number % len(HOSTILE_DATA)][:500]) for number, id in enumerate(ids)]
        await fill(cache, "w", stored[::-1][::2], keep=99)
        await cache.windows.push("w", stored[::-1][1::2], ttl_s=TTL)
        assert tuple(stored) == await cache.windows.read("w", limit=99)

    async def test_what_no_window_holds_is_refused(self, cache: Cache) -> None:
        windows = cache.windows
        with pytest.raises(EmptyKey):
            await windows.push("w", [Item("", 1, b"")], ttl_s=TTL)
        for wrong in (Item("a\0b", 1, b""), Item("a", -1, b""), Item("\ud800", 1, b"")):
            with pytest.raises(Validation):
                await windows.push("w", [wrong], ttl_s=TTL)
        leave = await windows.begin("w")
        for given, keep in ((items(1, 2), 3), (items(1, 1, 2), 3), (items(1), 0)):
            with pytest.raises(Validation):
                await windows.replace("w", given, ticket=leave.ticket, keep=keep, complete=False, ttl_s=TTL)
        for limit, budget in ((0, None), (1, -1)):
            with pytest.raises(Validation):
                await windows.read("w", limit=limit, budget=budget)


class _Crowd:
    """Those who are at one window at once, and what they know of the truth."""

    def __init__(self, cache: Cache, chance: random.Random) -> None:
        self._cache, self._chance = cache, chance
        self._writing = asyncio.Lock()
        self._truth: list[int] = []
        self._pushed = -1
        #: What was read, the last that had been pushed before, and how many were stored after.
        self.reads: list[tuple[list[int], int, int]] = []

    async def _pause(self) -> None:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)

    async def write(self) -> None:
        for _ in range(40):
            async with self._writing:
                number = len(self._truth)
                self._truth.append(number)
                await self._pause()
                await self._cache.windows.push("w", items(number), ttl_s=TTL)
                self._pushed = number
            await self._pause()

    async def read(self) -> None:
        for _ in range(40):
            before = self._pushed
            found = await numbers(self._cache, "w", KEPT)
            if found is None:
                await self._fill()
            else:
                self.reads.append((found, before, len(self._truth)))

    async def _fill(self) -> None:
        leave = await self._cache.windows.begin("w")
        await self._pause()
        stored, complete = self._truth[-KEPT:], len(self._truth) <= KEPT
        for _ in range(3):
            await self._pause()
        await self._cache.windows.replace("w", items(*stored), ticket=leave.ticket, keep=KEPT, complete=complete, ttl_s=TTL)

    async def delete(self) -> None:
        for _ in range(20):
            for _ in range(5):
                await self._pause()
            await self._cache.windows.delete("w")
