"""The tests of sessions find bugs that sessions written by hand really have, each by the fact named for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from palaver.clock import ManualClock
from palaver.identity.session_records import RecordedSessions, SessionRecord
from palaver.in_step import InStep
from palaver.remember import Remember
from tests.identity import test_recorded_sessions as recorded, test_sessions_away as away
from tests.identity.accounts import cached, process


def _believes_all(self: InStep, *_: Any) -> None:
    return None


async def _forgets_nothing(self: RecordedSessions, changed: Any) -> None:
    return None


async def _joins_what_is_being_read(self: Remember, key: str, at_least: int) -> Any:
    return await asyncio.shield(self._looking.get(key) or self._begin(key))


async def _touches_nothing(self: RecordedSessions, record: SessionRecord, now: datetime) -> SessionRecord:
    return record


async def _fences_nothing(self: InStep, key: str, *, revision: int = 0, fence_s: float = 60.0) -> None:
    await self._values.delete(self._name(key))


async def _ended(folder: Path) -> None:
    async with process("memory:") as both:
        await recorded.test_an_ended_session_is_gone_everywhere_when_it_returns(both)


async def _joined(folder: Path) -> None:
    await recorded.test_who_asks_after_an_ending_never_joins_a_load_from_before_it("memory:", ManualClock())


async def _idle(folder: Path) -> None:
    await recorded.test_the_records_end_idle_sessions_as_well_and_never_later("memory:", ManualClock())


async def _raced(folder: Path) -> None:
    """A load that read the record before the ending puts it into the cache after it."""
    async with process("memory:") as (store, sessions):
        started = await sessions.start("ann")
        await store.cache.values("session").delete(cached(sessions, started.session.id))
        read, go_on, find = asyncio.Event(), asyncio.Event(), store.find

        async def paused(target: Any, **options: Any) -> Any:
            found = await find(target, **options)
            read.set()
            await go_on.wait()
            return found

        store.find = paused  # type: ignore[method-assign]
        before = asyncio.ensure_future(sessions.read(started.token))
        await read.wait()
        store.find = find  # type: ignore[method-assign]
        await sessions.end(started.token)
        go_on.set()
        await before
        assert await sessions.read(started.token) is None


BUGS: dict[str, tuple[type, str, Any, Callable[[Path], Awaitable[None]]]] = {
    "every copy is believed": (InStep, "_check", _believes_all, away.test_an_older_memory_is_not_believed_though_no_connection_ended),
    "an ending is not told to the cache": (RecordedSessions, "_forget", _forgets_nothing, _ended),
    "who asks joins a load under way": (Remember, "_loaded", _joins_what_is_being_read, _joined),
    "a session in use is not touched": (RecordedSessions, "_touched", _touches_nothing, _idle),
    "an ending leaves no fence": (InStep, "delete", _fences_nothing, _raced),
}


@pytest.mark.parametrize("bug", list(BUGS))
async def test_a_planted_bug_is_found(bug: str, tmp_path: Path) -> None:
    owner, name, wrong, fact = BUGS[bug]
    for folder in ("right", "wrong"):
        (tmp_path / folder).mkdir()
    await fact(tmp_path / "right")
    with patch.object(owner, name, wrong), pytest.raises(AssertionError):
        await fact(tmp_path / "wrong")
