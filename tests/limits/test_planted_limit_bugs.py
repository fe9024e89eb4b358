"""The tests of limits find bugs that limits written by hand really have, each by the fact named for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from unittest.mock import patch

import pytest

from palaver import limits as module
from palaver.cache.memory import MemoryCache
from palaver.caching import Taken
from palaver.clock import ManualClock
from palaver.errors import PalaverError
from palaver.limits import Decision, Limits
from tests.limits import test_limits as facts, test_limits_away as away
from tests.unit import test_client_address as addresses

Fact = Callable[[], Awaitable[None]]


def on_memory(fact: Callable[[Limits], Awaitable[None]]) -> Fact:
    async def run() -> None:
        await fact(Limits(MemoryCache(clock=ManualClock()), facts.RULES))

    return run


def _plain_token(self: Limits, operation: str, takes: Any, token: str) -> str:
    return token


def _joined(self: Limits, named: Sequence[Any]) -> str:
    return "\0".join(str(part) for part in named)[-200:]


async def _allows(self: Limits, error: PalaverError, asked: Any) -> Decision:
    return Decision(True, 0, 0.0, "", False, asked.limits, ())


def _always(taken: Callable[..., Decision]) -> Callable[..., Decision]:
    def decide(limits: Any, said: Taken, degraded: bool) -> Decision:
        return taken(limits, said, False)

    return decide


def _left_most(peer: str, forwarded_for: Any = None, *, trusted: Any = ()) -> str:
    return forwarded_for.split(",")[0].strip() if forwarded_for else peer


async def _forged() -> None:
    addresses.test_what_a_client_writes_into_the_header_changes_nothing("1.1.1.1, 203.0.113.9", "203.0.113.9")


async def _without_cache() -> None:
    await away.test_without_a_cache_each_rule_does_what_it_declares("closed")


BUGS: dict[str, tuple[Any, str, Any, Fact]] = {
    "a token is good for everything": (Limits, "_bound", _plain_token, on_memory(facts.test_a_token_gives_nobody_another_answer)),
    "subjects are strung together": (Limits, "_made", _joined, on_memory(facts.test_subjects_that_read_alike_together_are_not_the_same)),
    "a lost reply allows": (Limits, "_after", _allows, away.test_a_lost_reply_without_one_is_counted_twice_rather_than_never),
    "an absence allows": (Limits, "_after", _allows, _without_cache),
    "an absence is not marked": (module, "_decision", _always(module._decision), _without_cache),
    "each address of a household counts": (module, "address_group", str, on_memory(facts.test_a_household_of_ipv6_counts_as_one)),
    "the left-most hop is believed": (addresses, "client_address", _left_most, _forged),
}


@pytest.mark.parametrize("bug", list(BUGS))
async def test_a_planted_bug_is_found(bug: str) -> None:
    where, name, wrong, fact = BUGS[bug]
    await fact()
    with patch.object(where, name, wrong), pytest.raises(AssertionError):
        await fact()
