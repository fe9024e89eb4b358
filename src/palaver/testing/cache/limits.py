"""What every limiter must do."""

from __future__ import annotations

import asyncio
import math
import random
from datetime import timedelta

import pytest

from palaver.caching import SLICES, Limit, Take, Taken
from palaver.clock import ManualClock
from palaver.errors import KeyTooLong, Validation
from palaver.ports import Cache, Ready
from palaver.testing.cache.base import HOSTILE, CacheBase

BUCKET = Limit("bucket", 10, 60)
WINDOW = Limit("window", 10, 60, "window")
HOUR = Limit("hour", 15, 3_600)
KINDS = [BUCKET, WINDOW]


def forward(clock: ManualClock, seconds: float) -> None:
    clock.advance(timedelta(seconds=seconds))


async def asked(ready: Ready, key: str) -> Taken:
    said = ready(key)
    return said if isinstance(said, Taken) else await said


class LimiterTests(CacheBase):
    # --- exactly as many as allowed ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("limit", KINDS, ids=lambda limit: limit.kind)
    async def test_of_many_at_once_exactly_as_many_pass_as_are_allowed(self, cache: Cache, limit: Limit) -> None:
        answers = await asyncio.gather(*(cache.limiter.take(Take(limit, "u")) for _ in range(200)))
        assert 10 == sum(answer.allowed for answer in answers)
        assert sorted([*range(10), *[0] * 190]) == sorted(answer.verdicts[0].remaining for answer in answers)

    async def test_of_many_at_once_with_several_rules_the_tightest_decides(self, cache: Cache) -> None:
        takes = (Take(BUCKET, "u"), Take(HOUR, "u"), Take(WINDOW, "ip"))
        answers = await asyncio.gather(*(cache.limiter.take(*takes) for _ in range(100)))
        assert 10 == sum(answer.allowed for answer in answers)
        left = await cache.limiter.peek(*takes)
        assert [0, 5, 0] == [verdict.remaining for verdict in left.verdicts]

    async def test_a_bucket_fills_evenly(self, cache: Cache, clock: ManualClock) -> None:
        take = Take(BUCKET, "u")
        for _ in range(10):
            assert (await cache.limiter.take(take)).allowed
        forward(clock, 5.999)
        assert not (await cache.limiter.take(take)).allowed
        forward(clock, 0.001)
        assert (await cache.limiter.take(take)).allowed
        assert not (await cache.limiter.take(take)).allowed
        forward(clock, 3_600)
        assert 10 == (await cache.limiter.peek(take)).verdicts[0].remaining

    async def test_a_burst_is_what_a_bucket_holds(self, cache: Cache, clock: ManualClock) -> None:
        take = Take(Limit("burst", 60, 60, burst=3), "u")
        passed = [(await cache.limiter.take(take)).allowed for _ in range(5)]
        assert [True] * 3 + [False] * 2 == passed
        forward(clock, 1)
        assert (await cache.limiter.take(take)).allowed
        assert not (await cache.limiter.take(take)).allowed

    async def test_no_span_of_a_window_holds_more_than_is_allowed(self, cache: Cache, clock: ManualClock) -> None:
        """However the hits fall, the edge of a minute included."""
        chance, take, passed = random.Random(5), Take(WINDOW, "u"), list[float]()
        for _ in range(400):
            forward(clock, chance.choice([0, 0, 0.001, 0.5, 3, 3.75, 7, 59, 60]))
            if (await cache.limiter.take(take)).allowed:
                passed.append(clock.monotonic())
        assert 100 < len(passed)
        for number, start in enumerate(passed):
            assert 10 >= sum(at < start + 60 for at in passed[number:])

    async def test_no_span_of_a_bucket_holds_more_than_its_room_and_what_flowed(self, cache: Cache, clock: ManualClock) -> None:
        chance, take, passed = random.Random(6), Take(BUCKET, "u"), list[float]()
        for _ in range(400):
            forward(clock, chance.choice([0, 0, 0.001, 0.5, 3, 7, 59, 60]))
            if (await cache.limiter.take(take)).allowed:
                passed.append(clock.monotonic())
        assert 100 < len(passed)
        for number, start in enumerate(passed):
            for later in range(number, len(passed)):
                assert later - number + 1 <= 10 + (passed[later] - start) / 6 + 1e-6

    async def test_a_window_is_free_again_a_sixteenth_after_its_time_at_the_latest(self, cache: Cache, clock: ManualClock) -> None:
        take = Take(WINDOW, "u")
        forward(clock, 1.234)
        for _ in range(10):
            await cache.limiter.take(take)
        forward(clock, 59.9)
        assert not (await cache.limiter.take(take)).allowed
        forward(clock, 0.1 + 60 / SLICES)
        assert 10 == (await cache.limiter.peek(take)).verdicts[0].remaining

    # --- several rules at once --------------------------------------------------------------------------------------

    async def test_when_one_rule_says_no_none_is_charged(self, cache: Cache) -> None:
        user, everybody = Take(BUCKET, "u"), Take(Limit("all", 3, 60, "window"), "everybody")
        for _ in range(3):
            assert (await cache.limiter.take(user, everybody)).allowed
        refused = await cache.limiter.take(user, everybody)
        assert not refused.allowed
        assert [True, False] == [verdict.allowed for verdict in refused.verdicts]
        assert [7, 0] == [verdict.remaining for verdict in refused.verdicts]
        assert 7 == (await cache.limiter.peek(user)).verdicts[0].remaining
        assert 0 < refused.retry_after_s == refused.verdicts[1].retry_after_s

    async def test_verdicts_come_in_the_order_asked(self, cache: Cache) -> None:
        answer = await cache.limiter.take(Take(HOUR, "u", 2), Take(WINDOW, "u", 3), Take(BUCKET, "u"))
        assert [13, 7, 9] == [verdict.remaining for verdict in answer.verdicts]

    async def test_rules_of_one_key_and_of_many_count_the_same(self, cache: Cache) -> None:
        await cache.limiter.take(Take(BUCKET, "u"))
        await cache.limiter.take(Take(BUCKET, "u"), Take(HOUR, "u"))
        await cache.limiter.take(Take(BUCKET, "u"), Take(HOUR, "v"))
        await cache.limiter.take_each([[Take(BUCKET, "u")], [Take(HOUR, "u")]])
        left = await cache.limiter.peek(Take(BUCKET, "u"), Take(HOUR, "u"), Take(HOUR, "v"))
        assert [6, 13, 14] == [verdict.remaining for verdict in left.verdicts]

    @pytest.mark.parametrize("limits", [[BUCKET], [WINDOW], [BUCKET, HOUR], [HOUR, WINDOW]], ids=len)
    @pytest.mark.parametrize("group", ["", "g"])
    async def test_what_was_made_ready_counts_where_take_does(self, cache: Cache, limits: list[Limit], group: str) -> None:
        ready, takes = cache.limiter.ready(limits, group=group), [Take(limit, "ü" * 300) for limit in limits]
        assert await asked(ready, "other") == await cache.limiter.take(*takes, group=group)
        answers = await asyncio.gather(*(asked(ready, "ü" * 300) for _ in range(20)))
        assert 9 == sum(answer.allowed for answer in answers)
        left, again = await asked(ready, "ü" * 300), await cache.limiter.take(*takes, group=group)
        assert [limit.amount - 10 for limit in limits] == [verdict.remaining for verdict in left.verdicts]
        assert [verdict[:2] for verdict in left.verdicts] == [verdict[:2] for verdict in again.verdicts]
        assert not left.allowed
        assert (await cache.limiter.take(*takes, group="another")).allowed

    async def test_what_is_made_ready_is_as_strict_as_take(self, cache: Cache) -> None:
        with pytest.raises(Validation):
            cache.limiter.ready([BUCKET, BUCKET])
        with pytest.raises(Validation):
            cache.limiter.ready([])
        with pytest.raises(KeyTooLong):
            await asked(cache.limiter.ready([BUCKET]), "k" * 1_025)

    async def test_calls_of_a_batch_are_each_by_themselves(self, cache: Cache) -> None:
        calls = [[Take(BUCKET, "u", 6)], [Take(BUCKET, "u", 6), Take(HOUR, "u")], [Take(HOUR, "u")], [Take(BUCKET, "u", 4)]]
        answers = await cache.limiter.take_each(calls)
        assert [True, False, True, True] == [answer.allowed for answer in answers]
        assert [] == await cache.limiter.take_each([])

    # --- costs and waiting ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("limit", KINDS, ids=lambda limit: limit.kind)
    async def test_a_call_may_cost_more_than_one(self, cache: Cache, limit: Limit) -> None:
        assert 3 == (await cache.limiter.take(Take(limit, "u", 7))).verdicts[0].remaining
        assert not (await cache.limiter.take(Take(limit, "u", 4))).allowed
        assert 0 == (await cache.limiter.take(Take(limit, "u", 3))).verdicts[0].remaining

    @pytest.mark.parametrize("limit", KINDS, ids=lambda limit: limit.kind)
    async def test_a_cost_over_the_limit_never_passes_and_says_so(self, cache: Cache, limit: Limit) -> None:
        for _ in range(2):
            answer = await cache.limiter.take(Take(limit, "u", 11))
            assert (False, math.inf) == (answer.allowed, answer.retry_after_s)
            await cache.limiter.take(Take(limit, "u"))

    @pytest.mark.parametrize("limit", KINDS, ids=lambda limit: limit.kind)
    @pytest.mark.parametrize("cost", [1, 4, 10])
    async def test_after_the_time_it_says_a_call_passes_and_not_before(
        self, cache: Cache, clock: ManualClock, limit: Limit, cost: int
    ) -> None:
        for seconds in (1.0, 3.3, 5.0, 0.7, 8.0):
            forward(clock, seconds)
            await cache.limiter.take(Take(limit, "u", 2))
        wait = (await cache.limiter.take(Take(limit, "u", cost))).retry_after_s
        assert 0 <= wait < 70
        if wait:
            forward(clock, wait - 0.001)
            assert not (await cache.limiter.peek(Take(limit, "u", cost))).allowed
            forward(clock, 0.001)
            assert (await cache.limiter.take(Take(limit, "u", cost))).allowed

    @pytest.mark.parametrize("limit", KINDS, ids=lambda limit: limit.kind)
    async def test_looking_charges_nothing(self, cache: Cache, limit: Limit) -> None:
        take = Take(limit, "u", 4)
        for _ in range(5):
            assert (True, 10) == (await cache.limiter.peek(take)).verdicts[0][:2]
        await cache.limiter.take(take)
        for _ in range(5):
            assert (True, 6) == (await cache.limiter.peek(take)).verdicts[0][:2]

    async def test_a_reset_forgets_these_limits_and_no_others(self, cache: Cache) -> None:
        takes = (Take(BUCKET, "u"), Take(WINDOW, "u"), Take(BUCKET, "v"))
        await cache.limiter.take(*takes)
        await cache.limiter.reset(takes[0], Take(HOUR, "never used"))
        assert [10, 9, 9] == [verdict.remaining for verdict in (await cache.limiter.peek(*takes)).verdicts]

    # --- whose limit it is ------------------------------------------------------------------------------------------

    async def test_hostile_keys_and_groups_are_apart(self, cache: Cache) -> None:
        takes = [(Take(BUCKET, key), group) for key in HOSTILE for group in ("", key[:200], "}" + key[:100])]
        for take, group in set(takes):
            assert 9 == (await cache.limiter.take(take, group=group)).verdicts[0].remaining
            assert 8 == (await cache.limiter.take(take, Take(HOUR, "x"), group=group)).verdicts[0].remaining
            await cache.limiter.reset(Take(HOUR, "x"), group=group)

    async def test_names_kinds_and_periods_are_apart_and_amounts_are_not(self, cache: Cache) -> None:
        await cache.limiter.take(Take(BUCKET, "u", 4))
        others = [Limit("other", 10, 60), Limit("bucket", 10, 61), Limit("bucket", 10, 60, "window")]
        assert [10, 10, 10] == [(await cache.limiter.peek(Take(limit, "u"))).verdicts[0].remaining for limit in others]
        assert 16 == (await cache.limiter.peek(Take(Limit("bucket", 20, 60), "u"))).verdicts[0].remaining
        assert (False, 0) == (await cache.limiter.peek(Take(Limit("bucket", 3, 60), "u"))).verdicts[0][:2]

    # --- repeated calls ---------------------------------------------------------------------------------------------

    async def test_a_repeated_call_with_its_token_is_counted_once(self, cache: Cache) -> None:
        takes = (Take(BUCKET, "u"), Take(HOUR, "v"))
        answers = await asyncio.gather(*(cache.limiter.take(*takes, token="request 1") for _ in range(20)))
        assert 1 == len(set(answers))
        assert answers[0].allowed
        assert [9, 14] == [verdict.remaining for verdict in (await cache.limiter.peek(*takes)).verdicts]
        assert 8 == (await cache.limiter.take(*takes, token="request 2")).verdicts[0].remaining

    async def test_a_refusal_is_not_repeated_because_who_waited_as_told_passes(self, cache: Cache) -> None:
        take = Take(BUCKET, "u", 10)
        await cache.limiter.take(take)
        assert not (await cache.limiter.take(take, token="t")).allowed
        await cache.limiter.reset(take)
        passed = await cache.limiter.take(take, token="t")
        assert passed.allowed
        assert passed == await cache.limiter.take(take, token="t")

    # --- what is refused --------------------------------------------------------------------------------------------

    async def test_calls_that_make_no_sense_are_refused(self, cache: Cache) -> None:
        limiter = cache.limiter
        for takes in ((), (Take(BUCKET, "u", 0),), (Take(BUCKET, "u", -1),), (Take(BUCKET, "u"), Take(BUCKET, "u", 2))):
            for call in (limiter.take, limiter.peek):
                with pytest.raises(Validation):
                    await call(*takes)
        with pytest.raises(Validation):
            await limiter.take(Take(BUCKET, "\udcff"))
        with pytest.raises(Validation):
            await limiter.take(Take(BUCKET, "x" * 1_025))

    def test_limits_that_cannot_be_counted_are_refused(self) -> None:
        for amount, per_s, burst in ((0, 60, None), (1, 0, None), (1, -1, None), (1, 60, 0), (10**13, 86_400, None), (1, 10**9, None)):
            with pytest.raises(Validation):
                Limit("x", amount, per_s, burst=burst)
        with pytest.raises(Validation):
            Limit("x", 5, 60, "window", burst=3)
        with pytest.raises(Validation):
            Limit("a:b", 5, 60)
