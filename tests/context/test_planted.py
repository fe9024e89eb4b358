"""The tests of the context window find every bug that was planted, by the one named for it: bugs that windows written by hand have."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import palaver
from palaver import ManualClock
from palaver.caching import Item
from palaver.context import window as window_module
from palaver.context.items import Items
from palaver.context.rebuilding import Flight, Rebuilding
from palaver.context.trust import Trust
from palaver.context.window import ContextWindow
from palaver.errors import PalaverError
from tests.context import test_faults, test_window, test_window_many
from tests.context.app import CHAT, START
from tests.context.queries import Queries


@dataclass(frozen=True, slots=True)
class Planted:
    """One bug: what is put in place of what, and the test that is expected to find it."""

    name: str
    caught_by: Callable[..., Awaitable[None]]
    where: Any
    what: str
    instead: Any


async def joins_what_has_looked_already(self: Rebuilding[Any], key: str, flight: Flight[Any], look: Any) -> Any:
    async with self._turns:
        return await look(flight)


async def any_number_at_once(self: Rebuilding[Any], key: str, flight: Flight[Any], look: Any) -> Any:
    self._waiting.pop(key, None)
    return await look(flight)


async def each_for_himself(self: Rebuilding[Any], key: str, holding: str | None, look: Any) -> Any:
    return await look(Flight()), False


async def only_forgets_its_debt(self: ContextWindow[Any], key: str, debt: int) -> None:
    self._trust.told(key, debt)


def takes_all(self: ContextWindow[Any], items: Sequence[Item], most: int, budget: int | None, whole: bool) -> Any:
    return (self._items.records(items) or [])[-most:]


def takes_any_shape(self: Items[Any], items: Sequence[Item]) -> Any:
    return _records(self, [item._replace(data=self._shape + item.data[len(self._shape) :]) for item in items])


_records = Items.records


def in_decimal(part: Any) -> str:
    return str(part)


PLANTED = [
    Planted(
        "joining a rebuild that has looked",
        test_window_many.test_who_asks_while_the_records_are_read_gets_what_was_stored_before_he_asked,
        Rebuilding,
        "_fly",
        joins_what_has_looked_already,
    ),
    Planted("a stampede", test_window_many.test_many_who_ask_at_once_cause_one_query, Rebuilding, "joined", each_for_himself),
    Planted(
        "no bound on rebuilds", test_window_many.test_no_more_rebuilds_run_at_once_than_allowed, Rebuilding, "_fly", any_number_at_once
    ),
    Planted(
        "a failed push forgotten",
        test_faults.test_what_the_cache_could_not_be_told_is_told_when_it_is_back,
        Trust,
        "owe",
        lambda self, key: None,
    ),
    Planted(
        "a failed push never made good",
        test_faults.test_what_the_cache_could_not_be_told_is_told_when_it_is_back,
        ContextWindow,
        "_settle",
        only_forgets_its_debt,
    ),
    Planted(
        "a window of a dead process believed",
        test_faults.test_a_window_that_a_crashed_process_left_behind_is_not_believed,
        Trust,
        "believes",
        lambda self, key: True,
    ),
    Planted(
        "a server that forgot believed",
        test_faults.test_a_server_that_forgot_between_two_calls_is_not_believed,
        Trust,
        "connected",
        lambda self, made: True,
    ),
    Planted(
        "creations not heard of",
        test_window.test_a_message_that_somebody_stored_and_never_appended_is_there,
        Trust,
        "stored",
        lambda self, key, id: None,
    ),
    Planted(
        "a late push brings it back",
        test_window.test_what_is_deleted_or_changed_is_so_at_once,
        Trust,
        "is_past",
        lambda self, key, id, revision: False,
    ),
    Planted("expired messages", test_window.test_what_has_expired_is_not_in_a_prompt, window_module, "is_live", lambda *_: True),
    Planted("no budget", test_window.test_a_budget_takes_whole_messages_from_the_newest_on, ContextWindow, "_cut", takes_all),
    Planted("another shape read", test_window.test_what_another_program_put_there_is_a_miss, Items, "records", takes_any_shape),
    Planted(
        "the filter ignored", test_window.test_a_filter_leaves_out_what_it_says_and_fills_up_from_before, Items, "matches", lambda *_: True
    ),
    Planted(
        "numbers in the order of their digits",
        test_window.test_a_conversation_may_be_named_and_ordered_by_several_parts,
        Items.id.__globals__,
        "_ordered",
        in_decimal,
    ),
]


async def run(test: Callable[..., Awaitable[None]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test in memory, with the fixtures it asks for."""
    clock = ManualClock(START)
    async with palaver.open("memory:", schema=CHAT, clock=clock, maintain=False, migrate=True) as store:
        given: dict[str, Any] = {"store": store, "clock": clock, "cache": "memory", "tmp_path": folder}
        if "queries" in inspect.signature(test).parameters:
            given["queries"] = Queries(store, monkeypatch)
        await test(**{name: given[name] for name in inspect.signature(test).parameters})


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.name)
async def test_a_planted_bug_is_found(bug: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sound").mkdir()
    (tmp_path / "planted").mkdir()
    await run(bug.caught_by, tmp_path / "sound", monkeypatch)
    change = {bug.what: bug.instead}
    planting = patch.dict(bug.where, change) if isinstance(bug.where, dict) else patch.multiple(bug.where, **change)
    with planting, pytest.raises((AssertionError, PalaverError, AttributeError)):
        await run(bug.caught_by, tmp_path / "planted", monkeypatch)
