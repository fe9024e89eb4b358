"""The tests of sessions find bugs that sessions written by hand really have, each by the fact named for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from palaver.clock import ManualClock
from palaver.identity.session_records import RecordedSessions
from palaver.identity.session_values import Session
from tests.identity import test_recorded_sessions as recorded, test_sessions_away as away
from tests.identity.accounts import process


async def _one_epoch(self: RecordedSessions) -> bool:
    self._epoch, self._made = "always the same", self._cache.made
    return True


async def _forgets_nothing(self: RecordedSessions, id: str, revision: int) -> None:
    return None


def _joins_what_is_being_read(self: RecordedSessions, id: str, session: Session | None) -> Any:
    return self._loading.get(id) or _begin(self, id, session)


async def _touches_nothing(self: RecordedSessions, session: Session) -> Session:
    return session


async def _owes_nothing(self: RecordedSessions, id: str, revision: int) -> None:
    await self._told(self._values.delete(id))


_begin = RecordedSessions._begin


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
        await store.cache.values("session").delete(started.session.id)
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


BUGS: dict[str, tuple[str, Any, Callable[[Path], Awaitable[None]]]] = {
    "every copy is believed": (
        "_begin_epoch",
        _one_epoch,
        away.test_a_lost_connection_alone_makes_a_process_doubt_what_it_finds,
    ),
    "an ending is not told to the cache": ("_forget", _forgets_nothing, _ended),
    "who asks joins a load under way": ("_begin", _joins_what_is_being_read, _joined),
    "a session in use is not touched": ("_touched", _touches_nothing, _idle),
    "an ending leaves no fence": ("_forget", _owes_nothing, _raced),
}


@pytest.mark.parametrize("bug", list(BUGS))
async def test_a_planted_bug_is_found(bug: str, tmp_path: Path) -> None:
    name, wrong, fact = BUGS[bug]
    for folder in ("right", "wrong"):
        (tmp_path / folder).mkdir()
    await fact(tmp_path / "right")
    with patch.object(RecordedSessions, name, wrong), pytest.raises(AssertionError):
        await fact(tmp_path / "wrong")
