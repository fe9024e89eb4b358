"""Limits on both caches: declared once, asked in one step, and never more allowed than declared."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from palaver.cache.memory import MemoryCache
from palaver.cache.redis import RedisCache
from palaver.caching import Limit
from palaver.clock import ManualClock
from palaver.connections.redis import encode
from palaver.errors import RateLimited, SchemaError, Unavailable, Validation
from palaver.limits import Ask, Limits, Rule
from palaver.ports import Cache
from tests.engines.redis_servers import opened
from tests.engines.test_cache import url

MINUTE = Rule(Limit("user.minute", 5, per_s=60), by="user")
DAY = Rule(Limit("account.day", 12, per_s=86_400, kind="window"), by="account", away="closed")
RULES: dict[str, list[Rule]] = {
    "message": [MINUTE, DAY],
    "webhook": [Rule(Limit("ip.minute", 3, per_s=60), by="ip")],
    "call": [Rule(Limit("user.endpoint", 2, per_s=60), by=("user", "endpoint")), MINUTE],
    "model": [Rule(Limit("model.hour", 4, per_s=3_600, kind="window"), by=("user", "operation"))],
    "search": [Rule(Limit("model.hour", 4, per_s=3_600, kind="window"), by=("user", "operation"))],
    "all": [Rule(Limit("everybody", 4, per_s=60), by=())],
    "free": [],
}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[Cache]:
    cache: Cache = MemoryCache(clock=clock) if request.param == "memory" else RedisCache(url(), clock=clock)
    yield cache
    await cache.aclose()


@pytest.fixture
def limits(cache: Cache) -> Limits:
    return Limits(cache, RULES)


async def passed(limits: Limits, times: int, operation: str, **asked: Any) -> int:
    return sum([bool(await limits.check(operation, **asked)) for _ in range(times)])


async def test_the_rule_that_is_reached_refuses_and_says_until_when(limits: Limits, clock: ManualClock) -> None:
    for left in (4, 3, 2, 1, 0):
        decision = await limits.check("message", user="ann", account="acme")
        assert (True, left, 0.0, "", False) == decision[:5]
    refused = await limits.check("message", user="ann", account="acme")
    assert not refused
    assert (False, 0, 12.0, "user.minute", False) == refused[:5]
    assert [False, True] == [verdict.allowed for verdict in refused.verdicts]
    assert 7 == refused.verdicts[1].remaining
    clock.advance(timedelta(seconds=12))
    assert await limits.check("message", user="ann", account="acme")


async def test_when_one_rule_says_no_none_is_charged(limits: Limits) -> None:
    users = [f"user {number}" for number in range(5)]
    allowed = [await passed(limits, 4, "message", user=user, account="acme") for user in users]
    assert [4, 4, 4, 0, 0] == allowed
    refused = await limits.check("message", user="user 4", account="acme")
    assert "account.day" == refused.rule
    assert 5 == (await limits.show("message", user="user 4", account="acme"))[0].remaining


async def test_of_two_rules_that_say_no_the_one_to_wait_for_longest_is_named(cache: Cache) -> None:
    short, long = Rule(Limit("short", 1, per_s=60), by="user"), Rule(Limit("long", 1, per_s=3_600, kind="window"), by="user")
    limits = Limits(cache, {"asked": [short, long]})
    assert await limits.check("asked", user="ann")
    decision = await limits.check("asked", user="ann")
    assert (False, "long") == (decision.allowed, decision.rule)
    assert decision.retry_after_s > 60


async def test_each_subject_and_each_combination_counts_by_itself(limits: Limits) -> None:
    assert 2 == await passed(limits, 3, "call", user="ann", endpoint="/a")
    assert 2 == await passed(limits, 3, "call", user="ann", endpoint="/b")
    assert 2 == await passed(limits, 3, "call", user="ben", endpoint="/a")
    assert 1 == await passed(limits, 3, "call", user="ann", endpoint="/c")  # five of the user's by now
    assert 4 == await passed(limits, 6, "model", user="ann")
    assert 4 == await passed(limits, 6, "search", user="ann")
    assert 4 == await passed(limits, 6, "all")
    assert 0 == await passed(limits, 1, "all", user="anybody")


async def test_subjects_that_read_alike_together_are_not_the_same(limits: Limits) -> None:
    assert 2 == await passed(limits, 3, "call", user="a", endpoint="b\0c")
    assert 2 == await passed(limits, 3, "call", user="a\0b", endpoint="c")
    assert 2 == await passed(limits, 3, "call", user="x", endpoint="yendpointz")
    assert 2 == await passed(limits, 3, "call", user="xendpointy", endpoint="z")
    assert 2 == await passed(limits, 3, "call", user="b\0endpoint\0001\0c", endpoint="c" * 5_000)


async def test_rules_that_all_count_by_the_same_subjects_together_say_the_same_on_every_way(cache: Cache) -> None:
    both = ("user", "ip")
    limits = Limits(cache, {"in": [Rule(Limit("in.minute", 3, per_s=60), by=both), Rule(Limit("in.day", 5, per_s=86_400), by=both)]})
    a: dict[str, Any] = {"user": "x", "ip": "2001:db8:1:2::1"}
    b: dict[str, Any] = {"user": "x", "ip": "2001:db8:9:2::1"}
    assert (True, 2) == (await limits.check("in", **a))[:2]
    # Asked with a cost the calls take the general way; both count in one place.
    assert (True, 0) == (await limits.check("in", cost=2, **a))[:2]
    assert (False, "in.minute") == ((refused := await limits.check("in", **a)).allowed, refused.rule)
    assert not await limits.check("in", user="x", ip="2001:db8:1:2:3::3")
    assert 3 == await passed(limits, 4, "in", **b)
    assert 3 == await passed(limits, 4, "in", user="2001:db8:9:2::1", ip="x")
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"user": "x"}, "by ip, which is missing"),
        ({"user": "x", "ip": ""}, "a text that is not empty"),
    ]
    for wrong, match in mistakes:
        for _ in range(2):
            with pytest.raises(Validation, match=match):
                await limits.check("in", **wrong)


async def test_operations_that_name_the_same_rule_share_it(limits: Limits) -> None:
    assert 5 == await passed(limits, 6, "message", user="ann", account="acme")
    assert "user.minute" == (await limits.check("call", user="ann", endpoint="/a")).rule


async def test_a_household_of_ipv6_counts_as_one(limits: Limits) -> None:
    assert 3 == await passed(limits, 2, "webhook", ip="2001:db8:1:2::1") + await passed(limits, 2, "webhook", ip="2001:db8:1:2:9::9")
    assert 1 == await passed(limits, 1, "webhook", ip="2001:db8:1:3::1")


async def test_a_cost_is_charged_to_each_rule_or_to_those_named(limits: Limits, cache: Cache) -> None:
    assert 3 == (await limits.check("message", cost=2, user="ann", account="acme")).remaining
    decision = await limits.check("message", cost={"account.day": 9, "user.minute": 0}, user="ann", account="acme")
    assert ("account.day",) == tuple(limit.name for limit in decision.limits)
    assert 1 == decision.remaining
    never = await limits.check("message", cost=6, user="ben", account="other")
    assert (False, "user.minute", math.inf) == (never.allowed, never.rule, never.retry_after_s)
    assert "Retry-After" not in never.headers()
    with pytest.raises(Validation, match=r"account\.day"):
        await limits.check("message", cost={"account.dya": 1}, user="ann", account="acme")
    with pytest.raises(Validation):
        await limits.check("message", cost=-1, user="ann", account="acme")


async def test_enforcing_raises_what_http_needs(limits: Limits) -> None:
    for _ in range(3):
        assert await limits.enforce("webhook", ip="203.0.113.9")
    with pytest.raises(RateLimited, match=r"ip\.minute") as caught:
        await limits.enforce("webhook", ip="203.0.113.9")
    assert (429, True, 20.0) == (caught.value.status, caught.value.retryable, caught.value.retry_after_s)
    assert {
        "RateLimit-Policy": '"ip.minute";q=3;w=60',
        "RateLimit": '"ip.minute";r=0;t=20',
        "Retry-After": "20",
    } == caught.value.headers
    assert "203.0.113.9" not in str(caught.value) + repr(caught.value.context)


async def test_headers_name_every_rule(limits: Limits) -> None:
    decision = await limits.check("message", user="ann", account="acme")
    assert {
        "RateLimit-Policy": '"user.minute";q=5;w=60, "account.day";q=12;w=86400',
        "RateLimit": '"user.minute";r=4, "account.day";r=11',
    } == decision.headers()
    assert {} == (await limits.check("free")).headers()


async def test_headers_name_what_a_bucket_holds_where_that_is_not_its_amount(cache: Cache) -> None:
    limits = Limits(cache, {"m": [Rule(Limit("hour", 60, per_s=3_600, burst=5))]})
    fields = (await limits.check("m", user="ann")).headers()
    assert {"RateLimit-Policy": '"hour";q=5;w=3600', "RateLimit": '"hour";r=4'} == fields


async def test_a_repeated_request_is_counted_once_and_answered_as_before(limits: Limits, clock: ManualClock) -> None:
    first = await limits.check("webhook", ip="203.0.113.9", token="delivery 1")
    for _ in range(5):
        assert first == await limits.check("webhook", ip="203.0.113.9", token="delivery 1")
    assert 2 == await passed(limits, 4, "webhook", ip="203.0.113.9")
    refused = await limits.check("webhook", ip="203.0.113.9", token="delivery 2")
    assert not refused
    assert first == await limits.check("webhook", ip="203.0.113.9", token="delivery 1")


async def test_a_refused_request_passes_once_it_waited_as_long_as_it_was_told(limits: Limits, clock: ManualClock) -> None:
    assert 3 == await passed(limits, 3, "webhook", ip="203.0.113.9")
    refused = await limits.check("webhook", ip="203.0.113.9", token="delivery 4")
    assert (False, 20.0) == (refused.allowed, refused.retry_after_s)
    clock.advance(timedelta(seconds=20, milliseconds=-1))
    again = await limits.check("webhook", ip="203.0.113.9", token="delivery 4")
    assert (False, 0.001) == (again.allowed, again.retry_after_s)
    clock.advance(timedelta(milliseconds=1))
    accepted = await limits.check("webhook", ip="203.0.113.9", token="delivery 4")
    assert accepted
    assert accepted == await limits.check("webhook", ip="203.0.113.9", token="delivery 4")
    assert 0 == (await limits.show("webhook", ip="203.0.113.9"))[0].remaining


async def test_repeats_at_the_same_moment_are_counted_once(limits: Limits) -> None:
    asked = [limits.check("webhook", ip="203.0.113.9", token=f"delivery {number % 2}") for number in range(64)]
    assert all(await asyncio.gather(*asked))
    assert 1 == (await limits.show("webhook", ip="203.0.113.9"))[0].remaining


async def test_a_token_gives_nobody_another_answer(limits: Limits) -> None:
    """Of another user, operation, cost or amount a token is another token."""
    assert 5 == await passed(limits, 5, "message", user="ann", account="a")
    assert not await limits.check("message", user="ann", account="a", token="known")
    assert await limits.check("message", user="ben", account="b", token="known")
    assert not await limits.check("message", user="ann", account="b", token="known")
    assert await limits.check("webhook", ip="1.2.3.4", token="known")
    assert await limits.check("message", user="ben", account="b", cost=4, token="known")
    assert not await limits.check("message", user="ben", account="b", cost=3, token="known")


async def test_what_is_left_is_shown_and_can_be_given_back(limits: Limits) -> None:
    await passed(limits, 2, "message", user="ann", account="acme")
    await passed(limits, 4, "model", user="ann")
    shown = {(left.operation, left.name): left for left in await limits.show(user="ann")}
    assert {("message", "user.minute"): 3, ("model", "model.hour"): 0, ("search", "model.hour"): 4, ("all", "everybody"): 4} == {
        name: left.remaining for name, left in shown.items()
    }
    assert shown["model", "model.hour"].retry_after_s > 3_500
    assert (5, 60, ("user",)) == (
        shown["message", "user.minute"].amount,
        shown["message", "user.minute"].per_s,
        shown["message", "user.minute"].by,
    )
    assert 10 == (await limits.peek("message", user="ann", account="acme"))[1].remaining
    await limits.reset(user="ann")
    assert {5, 4} == {left.remaining for left in await limits.show(user="ann")}
    assert 10 == (await limits.show("message", user="ann", account="acme"))[1].remaining
    assert ["everybody"] == [left.name for left in await limits.show()]
    assert [] == await limits.show("free")
    await limits.reset("free")


async def test_what_nobody_declared_and_what_is_missing_is_named(limits: Limits) -> None:
    with pytest.raises(Validation, match="Did you mean message"):
        await limits.check("mesage", user="ann", account="a")
    with pytest.raises(Validation, match=r"count by user, which is missing.*Give it: user="):
        await limits.check("model")
    with pytest.raises(Validation, match=r"account, which is missing"):
        await limits.check("message", user="ann")
    with pytest.raises(Validation, match=r"No limit counts by acount. Did you mean account"):
        await limits.check("message", user="ann", acount="a")
    for wrong in ("", 7, None):
        subject: Any = wrong
        with pytest.raises(Validation, match="by ip"):
            await limits.check("webhook", ip=subject)
    with pytest.raises(Validation):
        await limits.show("nothing")


@pytest.mark.parametrize(
    "rules",
    [
        {"a": [MINUTE, MINUTE]},
        {"a": [MINUTE], "b": [Rule(MINUTE.limit, by="ip")]},
        {"a": [MINUTE], "b": [Rule(Limit("user.minute", 6, per_s=60))]},
        {"a": [MINUTE], "b": [Rule(Limit("user.minute", 5, per_s=61))]},
    ],
)
def test_rules_that_contradict_each_other_are_refused(rules: Mapping[str, list[Rule]]) -> None:
    with pytest.raises(SchemaError):
        Limits(MemoryCache(), rules)


def test_a_rule_that_makes_no_sense_is_refused() -> None:
    away: Any = "maybe"
    with pytest.raises(SchemaError):
        Rule(MINUTE.limit, away=away)
    wrong: Any
    for wrong in (("user", "user"), "no name", 5, ("user", 5), None, [["user"]]):
        with pytest.raises(SchemaError, match=r"counts by names, each once.*Write by="):
            Rule(MINUTE.limit, by=wrong)
    for wrong in ("user.minute", 5, None):
        with pytest.raises(SchemaError, match=r"A Rule has a Limit.*Write Rule"):
            Rule(wrong)


@pytest.mark.parametrize("rules", ["x", 5, None, {"m": "x"}, {"m": 5}, {"m": MINUTE}, {"m": [MINUTE.limit]}, {5: [MINUTE]}, [MINUTE]])
def test_what_are_no_rules_is_refused_in_words(rules: Any) -> None:
    with pytest.raises(SchemaError, match=r"(rules by the names of operations|a list of Rule objects).*Write Limits\(cache"):
        Limits(MemoryCache(), rules)


async def test_an_operation_without_rules_is_declared_and_never_refused(cache: Cache) -> None:
    limits = Limits(cache, {"m": []})
    assert {(True, ())} == {(decision.allowed, decision.limits) for decision in [await limits.check("m", user="a") for _ in range(9)]}
    with pytest.raises(Validation, match="No limits are declared"):
        await limits.check("n", user="a")


@pytest.mark.parametrize("amounts", [None, lambda subjects: {}])
async def test_a_misspelt_subject_beside_the_right_ones_is_refused(cache: Cache, amounts: Any) -> None:
    limits = Limits(cache, {"m": [MINUTE], "n": [MINUTE, DAY]}, amounts=amounts)
    for operation in ("m", "n"):
        with pytest.raises(Validation, match=r"No limit counts by usr. Did you mean user\?"):
            await limits.check(operation, user="a", usr="b", account="c")
        with pytest.raises(Validation, match=r"Did you mean account\?"):
            await limits.check_each([Ask(operation, {"user": "a", "account": "c", "acount": "d"})])
        # What no rule counts by may be what `amounts` goes by.
        assert await limits.check(operation, user="a", account="c", channel="discord", user_id="7")
    assert 3 == (await limits.show("n", user="a", account="c"))[0].remaining


async def test_texts_given_as_ip_that_are_none_are_counted(cache: Cache) -> None:
    limits = Limits(cache, RULES)
    for ip in ("203.0.113.9", "2001:db8::1", "acme/203.0.113.9", "not an ip", "not an ip", "unknown", "acme/unknown"):
        assert await limits.check("webhook", ip=ip)
    assert 3 == limits.figures.unparsed


async def test_an_address_behind_a_name_counts_apart_and_as_its_household(cache: Cache) -> None:
    limits = Limits(cache, RULES)
    for ip in ("acme/2001:db8:1:2::1", "acme/2001:0db8:1:2:ffff::9", "acme/2001:db8:1:2::7"):
        assert await limits.check("webhook", ip=ip)
    assert not await limits.check("webhook", ip="acme/2001:db8:1:2::2")
    assert await limits.check("webhook", ip="acme/2001:db8:1:3::2")
    for ip in ("2001:db8:1:2::1", "globex/2001:db8:1:2::1"):
        assert 2 == (await limits.check("webhook", ip=ip)).remaining


# --- amounts of one's own ------------------------------------------------------------------------------------------------


async def test_a_plan_allows_more_and_what_was_used_stays_used(cache: Cache) -> None:
    plans = {"pro": {"user.minute": 20}}
    of = {"ann": "free"}
    limits = Limits(cache, RULES, amounts=lambda subjects: plans.get(of.get(subjects.get("user", ""), ""), {}))
    assert 5 == await passed(limits, 9, "message", user="ann", account="a")
    of["ann"] = "pro"
    # The debt that is left is paid off four times as fast, and fifteen more fit.
    assert 7 == await passed(limits, 25, "message", user="ann", account="a")
    assert "account.day" == (await limits.check("message", user="ann", account="a")).rule
    assert 20 == (await limits.show("message", user="ann", account="b"))[0].amount


async def test_where_an_amount_cannot_be_had_the_declared_one_holds(cache: Cache) -> None:
    async def amounts(subjects: Mapping[str, str]) -> Mapping[str, int]:
        raise Unavailable("The records are away.")

    limits = Limits(cache, RULES, amounts=amounts)
    decisions = [await limits.check("message", user="ann", account="a") for _ in range(6)]
    assert [True] * 5 + [False] == [decision.allowed for decision in decisions]
    assert {True} == {decision.degraded for decision in decisions}


# --- many at once --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("callers", [32, 1_000])
async def test_of_many_at_once_exactly_those_allowed_pass(cache: Cache, callers: int) -> None:
    amount = callers // 2
    rules = [Rule(Limit("burst", amount, per_s=3_600)), Rule(Limit("shared", amount + 7, per_s=3_600, kind="window"), by="account")]
    limits = Limits(cache, {"message": rules})
    decisions = await asyncio.gather(*(limits.check("message", user="ann", account="a") for _ in range(callers)))
    assert amount == sum(decision.allowed for decision in decisions)
    others = await asyncio.gather(*(limits.check("message", user=f"{n}", account="a") for n in range(callers)))
    assert 7 == sum(decision.allowed for decision in others)


async def test_several_processes_share_one_limit() -> None:
    address = url()
    async with opened(address) as one, opened(address) as other:
        rules = {"message": [Rule(Limit("shared", 100, per_s=3_600))]}
        both = [Limits(one, rules, secret=b"k"), Limits(other, rules, secret=b"k")]
        decisions = await asyncio.gather(*(limits.check("message", user="ann") for limits in both * 150))
        assert 100 == sum(decision.allowed for decision in decisions)


async def test_no_edge_of_a_minute_lets_more_through(cache: Cache, clock: ManualClock) -> None:
    """A fixed window lets twice the limit through at its edge; in any span of a minute the sliding one never does."""
    limits = Limits(cache, {"m": [Rule(Limit("window", 60, per_s=60, kind="window"))], "b": [Rule(Limit("bucket", 60, per_s=60))]})
    clock.advance(timedelta(seconds=59))
    before = {name: await passed(limits, 100, name, user="ann") for name in "mb"}
    clock.advance(timedelta(seconds=2))
    after = {name: await passed(limits, 100, name, user="ann") for name in "mb"}
    assert {"m": 60, "b": 60} == before
    assert {"m": 0, "b": 2} == after


async def test_a_batch_is_asked_in_one_trip_and_each_counts_alone(limits: Limits) -> None:
    asks = [Ask("message", {"user": f"user {number % 3}", "account": "acme"}) for number in range(30)]
    decisions = await limits.check_each(asks)
    assert 12 == sum(decision.allowed for decision in decisions)
    assert [True] * 12 == [decision.allowed for decision in decisions[:12]]
    assert [] == await limits.check_each([])
    twice = [Ask("webhook", {"ip": "1.2.3.4"}, token="delivery 1"), Ask("free", {})] * 10
    assert all(await limits.check_each(twice))
    assert 2 == (await limits.show("webhook", ip="1.2.3.4"))[0].remaining


async def test_a_check_and_a_batch_are_one_trip_each() -> None:
    async with opened(url()) as cache:
        limits = Limits(cache, RULES)
        await limits.check("message", user="ann", account="a")
        sent: list[bytes] = []
        [wire] = cache.client._wires  # type: ignore[union-attr]
        send = wire.send

        def counting(command: bytes) -> Any:
            sent.append(command)
            return send(command)

        wire.send = counting  # type: ignore[method-assign]
        await limits.check("message", user="ann", account="a")
        assert 1 == len(sent)
        await limits.check("message", user="ann", account="a", token="once")
        assert 2 == len(sent)
        await limits.show(user="ann")
        assert 3 == len(sent)


async def test_a_clock_that_is_wrong_changes_nothing_on_redis() -> None:
    """The server's time decides: a process whose clock is a day ahead, or behind, is allowed no more."""
    address = url()
    for skew in (timedelta(days=1), timedelta(days=-1), timedelta(0)):
        async with opened(address) as cache:
            clock = ManualClock()
            clock.advance(skew)
            limits = Limits(cache, {"message": [Rule(Limit("hour", 6, per_s=3_600))]}, clock=clock)
            assert 2 == await passed(limits, 2, "message", user="ann")
    async with opened(address) as cache:
        assert 0 == await passed(Limits(cache, {"message": [Rule(Limit("hour", 6, per_s=3_600))]}), 1, "message", user="ann")


# --- what is kept --------------------------------------------------------------------------------------------------------


async def test_no_subject_and_no_token_is_readable_in_the_cache() -> None:
    names = ("ann@example.org", "acme inc", "203.0.113.9", "message 4711")
    keys: list[bytes] = []
    for secret, prefix in itertools.product((b"", b"secret"), ("one",)):
        async with opened(url(), near=None) as cache:
            limits = Limits(cache, RULES, secret=secret)
            await limits.check("message", user=names[0], account=names[1], token=names[3])
            await limits.check("webhook", ip=names[2])
            found = await cache.client.read(encode("KEYS", f"*{cache.options.prefix}:*"))
            assert 4 == len(found), prefix
            dump = b"".join(found) + b"".join([await cache.client.read(encode("DUMP", key)) for key in found])
            assert not [name for name in names if name.encode() in dump]
            assert min([int(await cache.client.read(encode("PTTL", key))) for key in found]) > 0
            keys += [key.rpartition(b":")[2] for key in found]
    assert 8 == len(set(keys))  # another secret, other keys


async def test_figures_count_what_was_asked(limits: Limits) -> None:
    await passed(limits, 5, "webhook", ip="1.2.3.4")
    assert (5, 2, 0) == (limits.figures.asked, limits.figures.refused, limits.figures.degraded)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"cost": cost} for cost in (0.5, float("nan"), "1", -1)),
        *({"cost": {"user.minute": cost}} for cost in (2.5, None, "1", -1)),
        {"token": 5},
        {"token": None},
    ],
)
async def test_a_cost_or_token_of_another_type_is_refused(limits: Limits, wrong: dict[str, Any]) -> None:
    with pytest.raises(Validation, match="whole number"):
        await limits.check("message", user="ann", account="acme", **wrong)
    with pytest.raises(Validation, match="whole number"):
        await limits.check_each([Ask("message", {"user": "ann", "account": "acme"}, wrong.get("cost", 1), wrong.get("token", ""))])
    assert [5, 12] == [left.remaining for left in await limits.show("message", user="ann", account="acme")]
