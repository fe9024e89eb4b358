"""Facts about short jobs, alone or few: they may run in the event loop's thread, and mean there what they mean in the writer's."""

from __future__ import annotations

import asyncio
import resource
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from palaver.connections import sqlite_writer
from palaver.connections.sqlite import Database, SqliteOptions
from palaver.connections.sqlite_writer import Batch
from palaver.errors import AlreadyExists, Conflict, OutcomeUnknown, StorageFull

INSERT = "INSERT INTO t VALUES (?)"


@pytest.fixture
async def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    # However loaded the machine is.
    monkeypatch.setattr(sqlite_writer, "QUICK_S", 60.0)
    database = await Database.open(tmp_path / "a.db", options=SqliteOptions(busy_timeout_s=0.3))
    await database.write(lambda connection: connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY) STRICT"))
    yield database
    await database.aclose()


class Insert:
    """Inserts a number, and notes in which thread."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.threads: list[threading.Thread] = []

    def __call__(self, connection: apsw.Connection) -> int:
        self.threads.append(threading.current_thread())
        connection.execute(INSERT, (self.number,))
        return self.number

    @property
    def here(self) -> list[bool]:
        return [thread is threading.current_thread() for thread in self.threads]


async def numbers(database: Database) -> list[Any]:
    return await database.read(lambda connection: [number for (number,) in connection.execute("SELECT a FROM t ORDER BY a").fetchall()])


async def test_a_short_job_that_is_alone_runs_in_this_thread(database: Database) -> None:
    assert [] == await numbers(database)
    assert 1 == await database.write(Insert(1), savepoint=False, short=True)
    assert [1] == await numbers(database)


async def test_other_jobs_run_in_the_thread_of_the_writer(database: Database) -> None:
    job = Insert(1)
    await database.write(job, savepoint=False)
    assert [False] == job.here


async def test_jobs_of_one_turn_of_the_loop_share_a_commit(database: Database) -> None:
    commits: list[int] = []

    def note() -> bool:
        commits.append(1)
        return False

    await database.write_plain(lambda connection: connection.set_commit_hook(note))
    jobs = [Insert(n) for n in range(8)]
    assert list(range(8)) == await asyncio.gather(*(database.write(job, savepoint=False, short=True) for job in jobs))
    assert all(here for job in jobs for here in job.here)
    assert [1] == commits


async def test_of_jobs_of_one_turn_those_that_fail_or_are_given_up_leave_the_others_alone(database: Database) -> None:
    await database.write(Insert(3), savepoint=False)
    jobs = [Insert(n) for n in range(6)]
    writing = [asyncio.create_task(database.write(job, savepoint=False, short=True)) for job in jobs]
    asyncio.get_running_loop().call_soon(writing[4].cancel)
    answers = await asyncio.gather(*writing, return_exceptions=True)
    assert [0, 1, 2] == answers[:3]
    assert AlreadyExists is type(answers[3])
    assert [asyncio.CancelledError, 5] == [type(answers[4]), answers[5]]
    assert [0, 1, 2, 3, 5] == await numbers(database)


async def test_of_jobs_of_one_turn_one_that_loses_the_transaction_is_told_alone(database: Database) -> None:
    def fail(connection: apsw.Connection) -> None:
        connection.execute(INSERT, (9,))
        raise apsw.FullError("planted")

    jobs: list[Any] = [Insert(0), fail, Insert(1)]
    answers = await asyncio.gather(*(database.write(job, savepoint=False, short=True) for job in jobs), return_exceptions=True)
    assert [0, StorageFull, 1] == [answers[0], type(answers[1]), answers[2]]
    assert [0, 1] == await numbers(database)


async def test_many_or_large_jobs_of_one_turn_run_in_the_thread_of_the_writer(database: Database) -> None:
    many = [Insert(n) for n in range(100)]
    await asyncio.gather(*(database.write(job, savepoint=False, short=True) for job in many))
    large = [Insert(n) for n in range(100, 104)]
    await asyncio.gather(*(database.write(job, savepoint=False, short=True, cost=50_000) for job in large))
    assert not any(here for job in many + large for here in job.here)


async def test_a_job_that_fails_is_answered_and_leaves_nothing(database: Database) -> None:
    await database.write(Insert(1), savepoint=False, short=True)
    with pytest.raises(AlreadyExists):
        await database.write(Insert(1), savepoint=False, short=True)
    assert 2 == await database.write(Insert(2), savepoint=False, short=True)
    assert [1, 2] == await numbers(database)


async def test_a_full_disk_is_told_to_its_caller(database: Database) -> None:
    def fail(connection: apsw.Connection) -> None:
        connection.execute(INSERT, (1,))
        raise apsw.FullError("planted")

    with pytest.raises(StorageFull):
        await database.write(fail, savepoint=False, short=True)
    assert 2 == await database.write(Insert(2), savepoint=False, short=True)
    assert [2] == await numbers(database)


async def test_a_commit_that_fails_is_an_unknown_outcome(database: Database) -> None:
    await database.write(lambda connection: connection.execute("CREATE TABLE long (text TEXT)"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = database.path.with_name("a.db-wal").stat().st_size
    job = Insert(1)

    def long(connection: apsw.Connection) -> None:
        job(connection)
        connection.execute("INSERT INTO long VALUES (?)", ("x" * 60_000,))

    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8192, hard))
    try:
        with pytest.raises(OutcomeUnknown):
            await database.write(long, savepoint=False, short=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [True] == job.here
    assert 2 == await database.write(Insert(2), savepoint=False, short=True)


async def test_the_loop_does_not_wait_for_a_lock_of_another_connection(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "a.db", options=SqliteOptions(busy_timeout_s=30))
    await database.write(lambda connection: connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY) STRICT"))
    other = apsw.Connection(str(database.path))
    other.execute("BEGIN IMMEDIATE")
    job = Insert(1)
    began = time.perf_counter()
    writing = asyncio.create_task(database.write(job, savepoint=False, short=True))
    await asyncio.sleep(0.01)
    assert time.perf_counter() - began < 20, "the loop waited for the lock"
    assert not writing.done()
    other.execute("ROLLBACK")
    other.close()
    assert 1 == await writing
    assert [False] == job.here
    await database.aclose()


async def test_a_lock_that_stays_is_a_conflict(database: Database) -> None:
    other = apsw.Connection(str(database.path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Conflict):
        await database.write(Insert(1), savepoint=False, short=True)
    other.execute("ROLLBACK")
    other.close()
    assert [] == await numbers(database)


async def test_after_a_slow_commit_the_next_is_not_made_here(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "QUICK_S", 0.005)

    def slow(connection: apsw.Connection) -> None:
        time.sleep(0.01)

    await database.write(slow, savepoint=False, short=True)
    job = Insert(1)
    await database.write(job, savepoint=False, short=True)
    assert [False] == job.here


async def test_a_caller_cancelled_before_the_end_of_the_turn_has_written_nothing(database: Database) -> None:
    writing = asyncio.create_task(database.write(Insert(1), savepoint=False, short=True))
    asyncio.get_running_loop().call_soon(writing.cancel)
    await asyncio.gather(writing, return_exceptions=True)
    assert writing.cancelled()
    assert 2 == await database.write(Insert(2), savepoint=False, short=True)
    assert [2] == await numbers(database)


async def test_closing_in_the_same_turn_finishes_the_job(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "b.db")
    await database.write(lambda connection: connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY) STRICT"))
    writing = asyncio.create_task(database.write(Insert(1), savepoint=False, short=True))
    await asyncio.sleep(0)
    await database.aclose()
    assert 1 == await writing
    again = await Database.open(tmp_path / "b.db")
    assert [1] == await numbers(again)
    await again.aclose()


async def test_ctrl_c_inside_a_job_leaves_no_transaction_open(database: Database) -> None:
    def interrupted(connection: apsw.Connection) -> None:
        connection.execute(INSERT, (1,))
        raise KeyboardInterrupt

    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    database._put += 1
    database._asked = [Batch(interrupted, future, 0, False, None, short=True)]
    with pytest.raises(KeyboardInterrupt):
        database._hand_over()
    with pytest.raises(OutcomeUnknown):
        await asyncio.wait_for(future, 5)
    assert 2 == await database.write(Insert(2), savepoint=False, short=True)
    assert [2] == await numbers(database)
