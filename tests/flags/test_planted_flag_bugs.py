"""The tests of flags find every bug that was planted, by the fact named for it: bugs that flags written by hand really have."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest

import palaver
from palaver.batch import Batch
from palaver.errors import PalaverError
from palaver.flags import declaring, live, report, snapshot, splitting
from palaver.flags.current import Current
from palaver.flags.exposures import Exposures
from palaver.flags.snapshot import Snapshot
from palaver.store import Store
from palaver.testing.faulty import Faulty
from tests.flags import test_degraded, test_exposures, test_snapshot, test_splitting
from tests.flags.app import FLAGS, SCHEMA, Exposure, FeatureFlag
from tests.flags.test_degraded import Counting

Change = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Planted:
    """One bug: what is changed, and the fact expected to find it."""

    name: str
    caught_by: Callable[..., Any]
    changes: tuple[Change, ...]


PLACE, EVALUATE, MERGE = splitting.place, Snapshot.evaluate, Current.merge


def _only_one_hash(purpose: str, flag: str, salt: str, unit: str) -> int:
    return PLACE("", flag, salt, unit)


def _joined_carelessly(purpose: str, flag: str, salt: str, unit: str) -> int:
    return PLACE(purpose, "", "", flag + salt + unit)


def _modulo(purpose: str, flag: str, salt: str, unit: str) -> int:
    return PLACE(purpose, flag, salt, unit) % 100 * 100


async def _believes_the_cache(self: Current) -> None:
    held = await self._cached()
    if held is not None:
        self._checked(held, "cache")
    else:
        await self._read_records()


def _merges_unnoticed(self: Current, entry: snapshot.Stored) -> None:
    MERGE(self, entry)
    self._own -= 1


class _OneRecord:
    """Leaves the head as it was."""

    def put(self, entity: Any) -> Any:
        return _HeadForgotten(Batch().put(entity).ops)


class _HeadForgotten(Batch):
    def put(self, entity: Any, *, when: Any = None) -> Any:
        return self


async def _swallows(self: Exposures, exposure: Any) -> None:
    with contextlib.suppress(PalaverError):
        await self._store.create(exposure)


async def _overwrites(self: Exposures, exposure: Any) -> None:
    await self._store.put(exposure)


async def _closes_at_once(self: Exposures) -> None:
    if self._task is not None:
        self._task.cancel()


START = Current.start


async def _starts_empty(self: Current) -> None:
    self.snapshot = Snapshot(FLAGS, [], 0)
    await START(self)


def _somebody(self: Snapshot, flag: Any, context: Any) -> Any:
    return EVALUATE(self, flag, {**context, "user": context.get("user") or "nobody"})


BUGS = [
    Planted("another hash", test_splitting.test_places_never_change, ((splitting, "blake2b", hashlib.blake2s),)),
    Planted(
        "one hash for both",
        test_splitting.test_who_takes_part_and_which_variant_do_not_depend_on_each_other,
        ((splitting, "place", _only_one_hash),),
    ),
    Planted(
        "a separator forgotten",
        test_splitting.test_two_flags_and_two_salts_choose_different_users,
        ((splitting, "place", lambda *parts: PLACE("", "", "", parts[3])),),
    ),
    Planted(
        "parts run together",
        test_splitting.test_no_two_ways_to_write_one_text_share_a_place,
        ((test_splitting, "place", _joined_carelessly),),
    ),
    Planted(
        "steps of one percent",
        lambda: test_splitting.test_a_percentage_of_users_is_that_percentage(33.33),
        ((splitting, "place", _modulo),),
    ),
    Planted(
        "types unchecked",
        lambda: test_snapshot.test_a_value_of_another_type_is_the_default_and_not_the_next_wider_one(
            FLAGS["enable_mcp_security"], "false", "user"
        ),
        ((snapshot, "_fits", lambda *_: True),),
    ),
    Planted("the channel before the user", test_snapshot.test_the_most_particular_holds, ((FLAGS, "targets", ("channel", "user")),)),
    Planted("nobody is somebody", test_snapshot.test_who_is_nobody_is_in_no_rollout, ((Snapshot, "evaluate", _somebody),)),
    Planted(
        "one value for all",
        test_snapshot.test_nobody_changes_a_value_for_the_others,
        ((snapshot, "copied", lambda value: value), (declaring, "copied", lambda value: value)),
    ),
    Planted(
        "the cache believed",
        lambda store: test_degraded.test_a_cache_that_holds_something_else_is_not_believed(store, "older"),
        ((Current, "_first", _believes_the_cache),),
    ),
    Planted(
        "the head forgotten",
        lambda store: test_degraded.test_a_cache_that_holds_something_else_is_not_believed(store, "older"),
        ((live, "Batch", _OneRecord),),
    ),
    Planted(
        "a load that was overtaken",
        test_degraded.test_nothing_a_load_that_was_overtaken_read_is_served,
        ((Current, "merge", _merges_unnoticed),),
    ),
    Planted(
        "an empty snapshot for an unread one",
        test_degraded.test_with_both_away_the_defaults_hold_and_health_says_so,
        ((Current, "start", _starts_empty),),
    ),
    Planted("an exposure swallowed", test_exposures.test_an_answer_that_was_lost_does_not_store_twice, ((Exposures, "_write", _swallows),)),
    Planted("closed without writing", test_exposures.test_closing_stores_what_waits, ((Exposures, "aclose", _closes_at_once),)),
    Planted(
        "the last exposure kept", test_exposures.test_each_user_is_exposed_once_with_the_first_time, ((Exposures, "_write", _overwrites),)
    ),
    Planted(
        "the interval everybody learns", lambda: test_exposures.test_the_interval_is_wilsons(10, 10, 0.7225, 1.0), ((report, "_Z", 1.0),)
    ),
]


async def arguments(stack: contextlib.AsyncExitStack, fact: Callable[..., Any]) -> dict[str, Any]:
    """Return what a fact asks for, made as its fixtures make it."""
    asked = inspect.signature(fact).parameters
    if "store" not in asked and "away" not in asked:
        return {}
    clock = palaver.ManualClock()
    opened = await stack.enter_async_context(palaver.open("memory:", schema=SCHEMA, clock=clock))
    faulty: Faulty = Counting(opened.core.records, 1)
    opened.core.records = faulty
    store = Store(opened.core)
    found: dict[str, Any] = {"store": store, "away": (store, faulty), "clock": clock}
    if "flags" in asked:
        found["flags"] = await stack.enter_async_context(live.Flags.open(store, FLAGS, FeatureFlag, exposures=Exposure))
    return {name: value for name, value in found.items() if name in asked}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
async def test_a_planted_bug_is_found(bug: Planted) -> None:
    async def holds() -> None:
        async with contextlib.AsyncExitStack() as stack:
            made = await arguments(stack, bug.caught_by)
            found = bug.caught_by(**made)
            if inspect.isawaitable(found):
                await found

    await holds()
    with contextlib.ExitStack() as planted, pytest.raises((AssertionError, PalaverError)):
        for holder, name, wrong in bug.changes:
            planted.enter_context(patch.object(holder, name, wrong))
        await holds()
