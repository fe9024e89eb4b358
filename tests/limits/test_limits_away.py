"""What limits do while Redis is dead, slow, full or wrong: what the rules declare, marked as such, and never a wrong count after."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from palaver.cache.memory import MemoryCache
from palaver.cache.none import NoCache
from palaver.caching import Limit, Take, Taken
from palaver.clock import ManualClock
from palaver.connections.redis import encode
from palaver.errors import ConfigError, OutcomeUnknown, RateLimited, StorageFull, Unavailable
from palaver.limits import AWAY_RETRY_S, Ask, Decision, Limits, Rule
from palaver.ports import Ready
from tests.engines.redis_servers import answers, opened, own, until
from tests.engines.test_cache import url

HOUR = 3_600
RULES: dict[str, list[Rule]] = {
    "open": [Rule(Limit("open", 3, per_s=HOUR), away="open")],
    "closed": [Rule(Limit("closed", 3, per_s=HOUR), away="closed")],
    "local": [Rule(Limit("local", 3, per_s=HOUR))],
    "both": [Rule(Limit("a", 3, per_s=HOUR), away="open"), Rule(Limit("b", 2, per_s=HOUR))],
    "strict": [Rule(Limit("c", 3, per_s=HOUR)), Rule(Limit("d", 2, per_s=HOUR), away="closed")],
}
ANSWERS = {
    "open": [True] * 5,
    "closed": [False] * 5,
    "local": [True] * 3 + [False] * 2,
    "both": [True] * 2 + [False] * 3,
    "strict": [False] * 5,
}


async def asked(limits: Limits, operation: str, times: int = 5) -> list[Decision]:
    return [await limits.check(operation, user="ann") for _ in range(times)]


@pytest.mark.parametrize("operation", list(RULES))
async def test_without_a_cache_each_rule_does_what_it_declares(operation: str) -> None:
    limits = Limits(NoCache(), RULES)
    decisions = await asked(limits, operation)
    assert ANSWERS[operation] == [decision.allowed for decision in decisions]
    assert all(decision.degraded for decision in decisions)
    assert (5, 5) == (limits.figures.asked, limits.figures.degraded)
    assert ANSWERS[operation] == [
        decision.allowed for decision in await Limits(NoCache(), RULES).check_each([Ask(operation, {"user": "ann"})] * 5)
    ]


async def test_who_is_refused_meanwhile_is_told_when_to_ask_again() -> None:
    limits = Limits(NoCache(), RULES)
    refused = await limits.check("strict", user="ann")
    assert ("d", AWAY_RETRY_S) == (refused.rule, refused.retry_after_s)
    with pytest.raises(RateLimited) as caught:
        await limits.enforce("strict", user="ann")
    assert "1" == caught.value.headers["Retry-After"]
    assert caught.value.context["degraded"]


async def test_a_closed_rule_keeps_the_others_from_counting() -> None:
    limits = Limits(NoCache(), {**RULES, "later": RULES["strict"][:1]})
    await asked(limits, "strict", 10)
    assert ANSWERS["local"] == [decision.allowed for decision in await asked(limits, "later")]


async def test_a_repeated_request_is_counted_once_in_the_process_too() -> None:
    limits = Limits(NoCache(), RULES)
    first = await limits.check("local", user="ann", token="1")
    assert [first] * 4 == [await limits.check("local", user="ann", token="1") for _ in range(4)]
    assert [True, True, False] == [decision.allowed for decision in await asked(limits, "local", 3)]


async def test_nobody_knows_what_is_left_meanwhile() -> None:
    limits = Limits(NoCache(), RULES)
    with pytest.raises(Unavailable):
        await limits.show("local", user="ann")
    with pytest.raises(Unavailable):
        await limits.reset("local", user="ann")


async def test_a_mistake_is_not_an_absence() -> None:
    cache = MemoryCache()
    await cache.aclose()
    for calling in (Limits(cache, RULES).check("open", user="ann"), Limits(cache, RULES).check_each([Ask("open", {"user": "ann"})])):
        with pytest.raises(ConfigError):
            await calling


# --- a real server -------------------------------------------------------------------------------------------------------


async def test_a_killed_server_degrades_and_what_was_counted_holds_when_it_is_back() -> None:
    with own(appendonly="yes", appendfsync="always") as server:
        async with opened(server.url) as cache:
            limits = Limits(cache, RULES)
            assert [True, True] == [decision.allowed for decision in await asked(limits, "local", 2)]
            server.kill_9()
            decisions = await asked(limits, "local")
            assert ANSWERS["local"] == [decision.allowed for decision in decisions]
            assert all(decision.degraded for decision in decisions)
            server.start()
            await until(lambda: answers(cache))
            after = await asked(limits, "local", 2)
            assert [(True, False), (False, False)] == [(decision.allowed, decision.degraded) for decision in after]


async def test_hundreds_of_callers_while_it_is_killed_are_never_allowed_more_than_declared() -> None:
    """Counted on Redis before, in this process meanwhile: each allows the amount at most, and every call is answered."""
    with own() as server:
        async with opened(server.url) as cache:
            limits = Limits(cache, {"m": [Rule(Limit("m", 40, per_s=HOUR))]})
            calls = [asyncio.ensure_future(limits.check("m", user="ann")) for _ in range(100)]
            await asyncio.sleep(0)
            server.kill_9()
            calls += [asyncio.ensure_future(limits.check("m", user="ann")) for _ in range(200)]
            decisions = await asyncio.gather(*calls)
            assert sum(decision.allowed for decision in decisions if not decision.degraded) <= 40
            assert 40 == sum(decision.allowed for decision in decisions if decision.degraded)


async def test_a_reset_forgets_what_was_counted_while_the_server_was_away_too() -> None:
    with own() as server:
        async with opened(server.url) as cache:
            limits = Limits(cache, RULES)
            server.kill_9()
            assert ANSWERS["local"] == [decision.allowed for decision in await asked(limits, "local")]
            server.start()
            await until(lambda: answers(cache))
            await limits.reset("local", user="ann")
            server.kill_9()
            again = await asked(limits, "local")
            assert ANSWERS["local"] == [decision.allowed for decision in again]
            assert all(decision.degraded for decision in again)


async def test_a_silent_server_costs_one_timeout_and_then_nothing() -> None:
    with own() as server:
        async with opened(f"{server.url}?timeout=0.2") as cache:
            limits = Limits(cache, RULES)
            await limits.check("local", user="ann")
            server.freeze()
            try:
                decisions = await asyncio.gather(*(limits.check("local", user="ann") for _ in range(50)))
                assert all(decision.degraded for decision in decisions)
                assert 3 == sum(decision.allowed for decision in decisions)
                began = asyncio.get_running_loop().time()
                assert not sum([decision.allowed for decision in await asked(limits, "local", 250)])
                # Known to be away: hardly any call waits for the time-out again.
                assert asyncio.get_running_loop().time() - began < 250 * 0.2 / 5
            finally:
                server.thaw()
            await until(lambda: answers(cache))
            assert not (await limits.check("open", user="ann")).degraded


async def test_a_full_server_is_an_absent_one_and_nothing_is_half_charged() -> None:
    with own(maxmemory="2mb", **{"maxmemory-policy": "noeviction"}) as server:
        async with opened(server.url) as cache:
            limits = Limits(cache, RULES)
            assert not (await limits.check("both", user="ann")).degraded
            values = cache.values("bulk")
            for size in (10_000, 1_000, 100, 1):
                with pytest.raises(StorageFull):
                    for number in range(100_000):
                        await values.set(f"{size} {number}", b"x" * size, ttl_s=HOUR)
            decisions = await asked(limits, "both")
            assert ANSWERS["both"] == [decision.allowed for decision in decisions]
            assert all(decision.degraded for decision in decisions)
            for number in range(300):
                await values.delete(f"10000 {number}")
            shown = await limits.show("both", user="ann")
            assert [2, 1] == [left.remaining for left in shown]


async def test_after_a_flush_counting_begins_anew_and_goes_on() -> None:
    with own() as server:
        async with opened(server.url) as cache:
            limits = Limits(cache, RULES)
            assert ANSWERS["local"] == [decision.allowed for decision in await asked(limits, "local")]
            await cache.client.read(encode("FLUSHALL"))
            await cache.client.read(encode("SCRIPT", "FLUSH"))
            decisions = await asked(limits, "local")
            assert ANSWERS["local"] == [decision.allowed for decision in decisions]
            assert not any(decision.degraded for decision in decisions)


async def test_another_programs_value_under_the_key_is_an_absence_not_an_answer() -> None:
    async with opened(url()) as cache:
        limits = Limits(cache, RULES)
        await limits.check("closed", user="ann")
        [key] = await cache.client.read(encode("KEYS", f"*{cache.options.prefix}:*"))
        await cache.client.read(encode("SET", key, "theirs"))
        decision = await limits.check("closed", user="ann")
        assert (False, True) == (decision.allowed, decision.degraded)


# --- lost replies --------------------------------------------------------------------------------------------------------


class LosesReplies:
    """A limiter that does what is asked, and of which some answers never arrive."""

    def __init__(self, lost: int) -> None:
        self.limiter = self
        self.under = MemoryCache(clock=ManualClock()).limiter
        self.lost = lost

    async def take(self, *takes: Take, group: str = "", token: str = "") -> Taken:
        taken = await self.under.take(*takes, group=group, token=token)
        if self.lost:
            self.lost -= 1
            raise OutcomeUnknown("The reply was lost.")
        return taken

    def ready(self, limits: Sequence[Limit], *, group: str = "") -> Ready:
        return lambda key: self.take(*[Take(limit, key) for limit in limits], group=group)

    async def take_each(self, calls: Any, *, group: str = "") -> list[Taken]:
        return [await self.take(*takes, group=group) for takes in calls]


async def test_a_lost_reply_with_a_token_is_counted_once() -> None:
    cache: Any = LosesReplies(1)
    limits = Limits(cache, RULES)
    decision = await limits.check("closed", user="ann", token="1")
    assert (True, 2, False) == (decision.allowed, decision.remaining, decision.degraded)


async def test_a_lost_reply_without_one_is_counted_twice_rather_than_never() -> None:
    cache: Any = LosesReplies(1)
    limits = Limits(cache, RULES)
    decision = await limits.check("closed", user="ann")
    assert (True, 1, False) == (decision.allowed, decision.remaining, decision.degraded)
    assert [True, False] == [decision.allowed for decision in await asked(limits, "closed", 2)]


async def test_when_every_reply_is_lost_the_rules_say_what_happens() -> None:
    cache: Any = LosesReplies(10)
    assert (False, True) == (await Limits(cache, RULES).check("closed", user="ann"))[::4][:2]


async def test_a_batch_whose_replies_were_lost_allows_no_more_than_declared() -> None:
    cache: Any = LosesReplies(1)
    decisions = await Limits(cache, RULES).check_each([Ask("closed", {"user": "ann"})] * 6)
    assert 2 == sum(decision.allowed for decision in decisions)
    assert not any(decision.degraded for decision in decisions)
