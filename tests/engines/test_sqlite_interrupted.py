"""Ctrl-C and cancellation at every point of a short write in the event loop's thread: nobody waits for ever, nothing is half-written."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from palaver.connections import sqlite_writer
from palaver.connections.sqlite import Database
from palaver.connections.sqlite_writer import Batch
from palaver.errors import OutcomeUnknown
from palaver.ops import WriteSet, Written
from palaver.records.sqlite import SqliteRecords
from palaver.testing.records.base import NOTES, NOW, put_note
from tests.engines.test_sqlite_records import opened

OURS = ("sqlite.py", "sqlite_writer.py", "sqlite_writes.py", "sqlite_opening.py")


@pytest.fixture
async def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteRecords]:
    monkeypatch.setattr(sqlite_writer, "QUICK_S", 60.0)
    engine = await opened(tmp_path / "a.db", (NOTES,))
    yield engine
    await engine.aclose()


class Interrupt:
    """Raises KeyboardInterrupt at the n-th moment at which the interpreter would: where a function begins or a call in C returns."""

    def __init__(self, at: int, lock: Any) -> None:
        self.left, self.lock = at, lock
        self.where: CodeType | None = None
        self.began = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event not in ("call", "c_return") or not frame.f_code.co_filename.endswith(OURS) or frame.f_code is Database._hand_over.__code__:
            return
        # The moment after the lock was taken and before its `try` cannot be closed in Python.
        if event == "c_return" and argument.__name__ == "acquire":
            return
        self.left -= 1
        if self.left < 0 and self.where is None:
            self.where, self.began = frame.f_code, self.lock.locked()
            raise KeyboardInterrupt

    def during(self, act: Callable[[], Any]) -> Any:
        sys.setprofile(self)
        try:
            return act()
        finally:
            sys.setprofile(None)


def batches(engine: SqliteRecords, number: int, size: int) -> list[Batch]:
    """Return creations of one kind, as several callers ask for them in one turn of the loop."""
    made = []
    for place in range(size):
        job = engine._writes._creation(WriteSet([put_note(f"o{number}", str(place))], NOW))
        assert job is not None
        future = asyncio.get_running_loop().create_future()
        made.append(Batch(job, future, job.cost, False, None, False, engine._writes._together, True))
    return made


async def owned(engine: SqliteRecords, owner: str) -> int:
    """Return how many notes one owner has, and make sure that each has its change in the feed, once."""
    (found,) = await engine.database.fetch('SELECT count(*) FROM "suite-notes" WHERE owner = ?', (owner,))
    (told,) = await engine.database.fetch("SELECT count(*) FROM palaver_changes WHERE key1 = ?", (owner,))
    assert found == told
    return int(found[0])


@pytest.mark.parametrize("size", [1, 3])
async def test_ctrl_c_at_any_moment_of_a_commit_is_raised_and_leaves_all_or_nothing(engine: SqliteRecords, size: int) -> None:
    database, writer = engine.database, engine.database._writer
    assert writer is not None
    for number in count():
        interrupt, asked, owner = Interrupt(number, writer._writing), batches(engine, number, size), f"o{number}"
        database._asked, database._put = list(asked), database._put + size
        database._put_bytes += sum(batch.cost for batch in asked)
        try:
            interrupt.during(database._hand_over)
        except KeyboardInterrupt:
            assert interrupt.where is not None
        else:
            assert interrupt.where is None, f"swallowed in {interrupt.where}"
        done = await asyncio.wait_for(asyncio.gather(*(batch.future for batch in asked), return_exceptions=True), 5)
        written = sum(isinstance(answer, Written) for answer in done)
        assert size - written == sum(isinstance(answer, OutcomeUnknown) for answer in done)
        assert await owned(engine, owner) in ((0, size) if not written else (size,))
        assert not writer._writing.locked()
        assert writer.connection.get_autocommit()
        if interrupt.where is None:
            assert number > 20
            return
        if interrupt.began:
            assert (database._put, database._put_bytes) == (writer.taken, writer.taken_bytes)
        writer.taken, writer.taken_bytes = database._put, database._put_bytes
        assert isinstance(await engine.write(WriteSet([put_note(f"after{number}", "x")], NOW)), Written)
        assert 1 == await owned(engine, f"after{number}")
