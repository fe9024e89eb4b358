"""The cache suite finds every bug that was planted, by the fact named for it: bugs that caches written by hand really have."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest

from palaver.cache import (
    hearing,
    limiting,
    memory,
    memory_limits,
    reading,
    redis,
    redis_limits,
    redis_presence,
    redis_scripts,
    redis_windows,
)
from palaver.cache.memory import MemoryCache, MemoryPresence, MemoryValues, MemoryWindows
from palaver.cache.memory_limits import MemoryLimiter
from palaver.cache.redis import RedisCache
from palaver.caching import Heard, Item, Limit, Missed, Take, Taken
from palaver.clock import ManualClock
from palaver.connections.redis import Script
from palaver.errors import PalaverError
from palaver.ports import Cache
from palaver.testing.cache import CacheTests
from tests.engines.test_cache import url

Change = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Planted:
    """One bug: what is changed, in which engine, and the fact expected to find it."""

    name: str
    caught_by: str
    changes: tuple[Change, ...]
    engine: str = "memory"


class Facts(CacheTests):
    """The suite without pytest's fixtures."""

    def __init__(self, engine: str) -> None:
        self.engine = engine

    @asynccontextmanager
    async def made(self, clock: ManualClock) -> AsyncIterator[Cache]:
        cache: Cache = MemoryCache(clock=clock) if self.engine == "memory" else RedisCache(url(), clock=clock)
        try:
            yield cache
        finally:
            await cache.aclose()

    async def pass_time(self, clock: ManualClock, seconds: float) -> None:
        clock.advance(timedelta(seconds=seconds))
        if self.engine == "redis":
            await asyncio.sleep(seconds)


def cases(fact: Any) -> list[dict[str, Any]]:
    """Return the arguments of every case of a fact but the fixtures."""
    found: list[dict[str, Any]] = [{}]
    for mark in getattr(fact, "pytestmark", ()):
        if mark.name == "parametrize":
            name, values = mark.args[:2]
            found = [{**case, name: value} for case in found for value in values]
    return found


async def failures(name: str, engine: str) -> list[str]:
    """Return the cases of one fact that an engine does not fulfil."""
    suite = Facts(engine)
    fact = getattr(suite, name)
    failed = []
    for case in cases(fact):
        clock = ManualClock()
        async with suite.made(clock) as cache:
            fixtures = {"cache": cache, "clock": clock}
            given = {key: value for key, value in fixtures.items() if key in inspect.signature(fact).parameters}
            try:
                await asyncio.wait_for(fact(**given, **case), 20)
            # Anything else would be a slip of the planted code itself, not a fact that does not hold.
            except (AssertionError, PalaverError, TimeoutError, pytest.fail.Exception) as error:
                failed.append(f"{case}: {type(error).__name__}")
    return failed


def without(script: Script, part: str, instead: str = "") -> Script:
    """Return a script with a part of its text missing or replaced."""
    text = script.text.decode()
    assert part in text
    return Script(script.name, text.replace(part, instead))


# --- limits -------------------------------------------------------------------------------------------------------------


async def looks_then_charges(self: MemoryLimiter, *takes: Take, group: str = "", token: str = "") -> Taken:
    """Check and count in two steps, as INCR after GET."""
    seen = self._call(takes, group, "", charges=False)
    await asyncio.sleep(0)
    if seen.allowed:
        for take in takes:
            states = self._of(take.limit)
            states[take.key] = limiting.charge(take.limit, states.get(take.key), self._ms(), take.cost)
    return seen


async def one_rule_after_another(self: MemoryLimiter, *takes: Take, group: str = "", token: str = "") -> Taken:
    answers = [self._call((take,), group, token and f"{token}{number}", charges=True) for number, take in enumerate(takes)]
    return Taken(all(answer.allowed for answer in answers), tuple(verdict for answer in answers for verdict in answer.verdicts))


def a_fixed_window(limit: Limit, state: Any, now: int, cost: int) -> tuple[int, int]:
    span = limit.period * 16
    if now // span != state[-2] // 16:
        del state[1:]
        state[0] = 0
    over = state[0] + cost - limit.room
    return (limit.room - state[0], 0) if over <= 0 else (0, span - now % span)


def a_weighted_window(limit: Limit, state: Any, now: int, cost: int) -> tuple[int, int]:
    """The usual estimate: what the minute before holds counts for as much of it as the span still covers."""
    span = limit.period * 16
    minute = now // span
    hits = {minute: 0, minute - 1: 0}
    for place in range(1, len(state), 2):
        hits[state[place] // 16] = hits.get(state[place] // 16, 0) + state[place + 1]
    used = hits[minute] + hits[minute - 1] * (span - now % span) // span
    return (limit.room - used, 0) if used + cost <= limit.room else (0, limit.period)


async def forgets_tokens(self: MemoryLimiter, *takes: Take, group: str = "", token: str = "") -> Taken:
    return self.take_now(*takes, group=group)


# --- values -------------------------------------------------------------------------------------------------------------


async def deletes_without_a_fence(self: MemoryValues, key: str, *, revision: int = 0, fence_s: float = 60.0) -> None:
    self.shelf.pop(key)


_set = MemoryValues.set
_get = MemoryValues.get


async def sets_whatever_is_there(self: MemoryValues, key: str, value: bytes, *, ttl_s: float, **conditions: Any) -> bool:
    await _set(self, key, value, ttl_s=ttl_s)
    self.shelf.put(key, (value, conditions.get("revision", 0)), len(value), self._ms() + int(ttl_s * 1_000), self._ms())
    return True


async def compares_then_sets(self: MemoryValues, key: str, value: bytes, *, ttl_s: float, **conditions: Any) -> bool:
    expected = conditions.pop("expected", None)
    held = await _get(self, key)
    await asyncio.sleep(0)
    if expected is not None and (held.revision if held else -1) != expected:
        return False
    return await _set(self, key, value, ttl_s=ttl_s, **conditions)


async def sets_and_forgets_the_time(self: MemoryValues, key: str, value: bytes, *, ttl_s: float, **conditions: Any) -> bool:
    """SET, and an EXPIRE that a crash came before."""
    return await _set(self, key, value, ttl_s=10**6, **conditions)


# --- windows ------------------------------------------------------------------------------------------------------------

_push = MemoryWindows.push
_begin = MemoryWindows.begin
_replace = MemoryWindows.replace


async def pushes_to_nothing(self: MemoryWindows, key: str, items: Sequence[Item], *, ttl_s: float) -> bool:
    """LPUSH in place of LPUSHX."""
    if not await _push(self, key, items, ttl_s=ttl_s):
        leave = await _begin(self, key)
        await _replace(self, key, items, ticket=leave.ticket, keep=20, complete=True, ttl_s=ttl_s)
    return True


async def loses_pushes_while_filled(self: MemoryWindows, key: str, items: Sequence[Item], *, ttl_s: float) -> bool:
    found = self.shelf.get(key, self._ms())
    return found is not None and found.whole and await _push(self, key, items, ttl_s=ttl_s)


async def fills_with_any_ticket(self: MemoryWindows, key: str, items: Sequence[Item], **rest: Any) -> bool:
    leave = await _begin(self, key)
    return await _replace(self, key, items, **{**rest, "ticket": leave.ticket})


def adds_the_last(self: Any, items: Sequence[Item]) -> None:
    """A push that was repeated late puts back what it was first sent with."""
    _add(self, items)
    for item in items:
        self.items[item.id] = item


_add = memory._Sequence.add


def trims_and_stays_complete(self: Any) -> None:
    complete = self.complete
    _trim(self)
    self.complete = complete


_trim = memory._Sequence.trim


def reads_what_there_is(items: Sequence[Item], limit: int, budget: int | None, complete: bool) -> tuple[Item, ...] | None:
    return _newest(items, limit, budget, True)


_newest = reading.newest


# --- presence and messages ----------------------------------------------------------------------------------------------

_touch = MemoryPresence.touch


async def one_expiry_for_all(self: MemoryPresence, member: str, channels: Sequence[str], *, ttl_s: float) -> None:
    """SADD and one EXPIRE: everybody stays while anybody comes."""
    await _touch(self, member, channels, ttl_s=ttl_s)
    for channel in channels:
        members = self._channels[channel]
        for other, (_, seen) in members.items():
            members[other] = (members[member][0], seen)


def drops_silently(self: hearing.Ear, message: Heard | Missed) -> None:
    if len(self._waiting) < 1_000:
        self._waiting.append(message)
        self._stir()


MANY = "test_of_many_at_once_exactly_as_many_pass_as_are_allowed"
PLANTED = [
    Planted("limits in two steps", MANY, ((MemoryLimiter, "take", looks_then_charges),)),
    Planted("rules one by one", "test_when_one_rule_says_no_none_is_charged", ((MemoryLimiter, "take", one_rule_after_another),)),
    Planted("a fixed window", "test_no_span_of_a_window_holds_more_than_is_allowed", ((limiting, "_look_at_window", a_fixed_window),)),
    Planted(
        "a weighted window", "test_no_span_of_a_window_holds_more_than_is_allowed", ((limiting, "_look_at_window", a_weighted_window),)
    ),
    Planted("tokens forgotten", "test_a_repeated_call_with_its_token_is_counted_once", ((MemoryLimiter, "take", forgets_tokens),)),
    Planted("looking charges", "test_looking_charges_nothing", ((MemoryLimiter, "peek", MemoryLimiter.take),)),
    Planted(
        "states thrown away too soon",
        "test_a_window_is_free_again_a_sixteenth_after_its_time_at_the_latest",
        ((limiting, "SLICES", 32), (memory_limits, "TOKEN_MS", 1)),
    ),
    Planted(
        "stale set after delete", "test_a_stale_set_after_a_delete_is_never_read", ((MemoryValues, "delete", deletes_without_a_fence),)
    ),
    Planted("older over newer", "test_of_many_writers_in_any_order_the_newest_stays", ((MemoryValues, "set", sets_whatever_is_there),)),
    Planted("compare, then set", "test_counting_with_expectations_loses_nothing", ((MemoryValues, "set", compares_then_sets),)),
    Planted("an immortal session", "test_a_value_is_a_miss_after_its_time", ((MemoryValues, "set", sets_and_forgets_the_time),)),
    Planted(
        "a part after expiry",
        "test_a_window_that_expired_is_a_miss_and_a_push_does_not_make_a_part_of_it",
        ((MemoryWindows, "push", pushes_to_nothing),),
    ),
    Planted(
        "a part in a race", "test_whatever_happens_at_once_a_window_is_never_a_part", ((MemoryWindows, "push", loses_pushes_while_filled),)
    ),
    Planted("pushes lost", "test_what_is_pushed_during_a_rebuild_is_not_lost", ((MemoryWindows, "push", loses_pushes_while_filled),)),
    Planted("any ticket", "test_a_delete_makes_the_leave_stale", ((MemoryWindows, "replace", fills_with_any_ticket),)),
    Planted("pushed twice", "test_a_push_repeated_is_there_once_and_as_it_was_first", ((memory._Sequence, "add", adds_the_last),)),
    Planted(
        "trimmed and complete", "test_a_window_keeps_no_more_than_it_was_told", ((memory._Sequence, "trim", trims_and_stays_complete),)
    ),
    Planted("too few", "test_a_window_that_does_not_reach_far_enough_is_a_miss", ((memory, "newest", reads_what_there_is),)),
    Planted("one expiry for all", "test_each_member_goes_by_itself", ((MemoryPresence, "touch", one_expiry_for_all),)),
    Planted("messages dropped silently", "test_who_falls_too_far_behind_is_told", ((hearing.Ear, "hear", drops_silently),)),
    Planted(
        "a limit never written",
        MANY,
        ((redis_limits, "TAKE_BUCKET", without(redis_scripts.TAKE_BUCKET, "call('HSET', key, field, pack('<dd', after, since))")),),
        "redis",
    ),
    Planted(
        "several refused and charged",
        "test_what_was_made_ready_counts_where_take_does",
        (
            (
                redis_limits,
                "TAKE_BUCKETS",
                without(redis_scripts.TAKE_BUCKETS, "if waits then", "if waits then call('HSET', key, _G.unpack(kept))"),
            ),
        ),
        "redis",
    ),
    Planted(
        "refused and charged",
        "test_when_one_rule_says_no_none_is_charged",
        (
            (
                redis_limits,
                "TAKE",
                without(
                    redis_scripts.TAKE,
                    "if retry ~= 0 then allowed = 0 end",
                    "if retry == 0 then call('HSET', KEYS[i], ARGV[i + 2], kept[2 * i]) else allowed = 0 end",
                ),
            ),
        ),
        "redis",
    ),
    Planted(
        "groups that end a tag early",
        "test_hostile_keys_and_groups_are_apart",
        ((redis_limits, "_tagged", lambda group: group[:1]),),
        "redis",
    ),
    Planted(
        "any revision",
        "test_an_older_value_never_replaces_a_newer_one",
        ((redis, "SET", without(redis_scripts.SET, "if revision > 0 and held > revision then return 0 end")),),
        "redis",
    ),
    Planted(
        "no fence",
        "test_a_stale_set_after_a_delete_is_never_read",
        ((redis, "FENCE", Script("fence", "redis.call('DEL', KEYS[1]) return 1")),),
        "redis",
    ),
    Planted(
        "fences go backwards",
        "test_a_late_delete_leaves_newer_values_and_fences",
        ((redis, "FENCE", without(redis_scripts.FENCE, "tonumber(held) < tonumber(ARGV[3])", "true")),),
        "redis",
    ),
    Planted(
        "push makes a window",
        "test_a_window_that_expired_is_a_miss_and_a_push_does_not_make_a_part_of_it",
        ((redis_windows, "PUSH", without(redis_scripts.PUSH, "if not head then return 0 end", "if not head then say('1:9:1:') end")),),
        "redis",
    ),
    Planted(
        "stale tickets",
        "test_a_delete_makes_the_leave_stale",
        ((redis_windows, "REPLACE", without(redis_scripts.REPLACE, "ticket ~= ARGV[1]", "false")),),
        "redis",
    ),
    Planted(
        "found by prefix",
        "test_hostile_keys_ids_and_data",
        ((redis_windows, "PUSH", without(redis_scripts.PUSH, "'(' .. id .. '\\1'", "'(' .. id .. '\\255'")),),
        "redis",
    ),
    Planted(
        "ghosts stay",
        "test_each_member_goes_by_itself",
        ((redis_presence, "PRESENT", without(redis_scripts.PRESENT, "'(' .. string.format('%.0f', now)", "'-inf'")),),
        "redis",
    ),
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: f"{planted.engine}: {planted.name}")
async def test_a_planted_bug_is_found(planted: Planted) -> None:
    assert [] == await failures(planted.caught_by, planted.engine), "the fact fails without the bug"
    with contextlib.ExitStack() as stack:
        for holder, name, replacement in planted.changes:
            stack.enter_context(patch.object(holder, name, replacement))
        assert await failures(planted.caught_by, planted.engine), f"{planted.caught_by} does not notice"


def test_every_bug_has_its_own_name_and_a_fact_of_the_suite() -> None:
    names = [planted.name for planted in PLANTED]
    assert len(names) == len(set(names))
    facts: list[Callable[..., Any]] = [getattr(CacheTests, planted.caught_by) for planted in PLANTED]
    assert all(map(callable, facts))
