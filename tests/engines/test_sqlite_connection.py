"""Facts about one SQLite file under many callers: what is committed together, what fails alone, who waits, how it ends."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from palaver.connections.sqlite import Database, Rollback
from palaver.errors import (
    AlreadyExists,
    ConfigError,
    OutcomeUnknown,
    ReferenceBroken,
    StorageFull,
    Throttled,
    Unavailable,
)
from tests.engines.sqlite_jobs import INSERT, insert, made, rows


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    # However loaded the machine is, what waits is one group.
    database = await made(tmp_path / "a.db", group_ms=60_000)
    yield database
    await database.aclose()


class Gate:
    """Holds the writer inside a job, so that what is written meanwhile becomes one group."""

    def __init__(self, database: Database) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()
        self.task = asyncio.ensure_future(database.write(self._job))

    def _job(self, connection: apsw.Connection) -> None:
        self.entered.set()
        self.leave.wait(10)

    async def __aenter__(self) -> Gate:
        await asyncio.to_thread(self.entered.wait, 10)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.leave.set()
        await asyncio.gather(self.task, return_exceptions=True)


async def together(database: Database, *jobs: Callable[[apsw.Connection], Any], savepoint: bool = True) -> list[Any]:
    """Run jobs in one group and return each result or error."""
    async with Gate(database):
        tasks = [asyncio.ensure_future(database.write(job, savepoint=savepoint)) for job in jobs]
        # One turn in which they ask, and its end, when they are handed over.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return await asyncio.gather(*tasks, return_exceptions=True)


# --- groups ---------------------------------------------------------------------------------------------------------


async def test_a_group_has_one_commit(database: Database) -> None:
    commits: list[int] = []

    def note() -> bool:
        commits.append(1)
        return False

    await database.write_plain(lambda connection: connection.set_commit_hook(note))
    assert [1, 2, 3] == await together(database, insert(1), insert(2), insert(3))
    assert 1 == len(commits)


async def test_a_failing_job_is_undone_alone(database: Database) -> None:
    def half(connection: apsw.Connection) -> None:
        connection.execute(INSERT, (2, "x"))
        connection.execute(INSERT, (1, "again"))

    found = await together(database, insert(1), half, insert(3))
    assert isinstance(found[1], AlreadyExists)
    assert [1, 3] == await database.read(rows)


async def test_a_job_can_undo_itself_and_still_answer(database: Database) -> None:
    def refuse(connection: apsw.Connection) -> None:
        connection.execute(INSERT, (2, "x"))
        raise Rollback("no")

    assert [1, "no", 3] == await together(database, insert(1), refuse, insert(3))
    assert [1, 3] == await database.read(rows)


async def test_any_other_exception_reaches_its_caller(database: Database) -> None:
    def broken(connection: apsw.Connection) -> None:
        connection.execute(INSERT, (2, "x"))
        raise KeyError("mine")

    found = await together(database, insert(1), broken)
    assert isinstance(found[1], KeyError)
    assert [1] == await database.read(rows)


async def test_deferred_rows_of_an_undone_job_are_forgotten(database: Database) -> None:
    def flush(connection: apsw.Connection, found: list[Any]) -> None:
        connection.executemany(INSERT, found)

    later = database.deferred(flush)

    def note(number: int, *, fails: bool) -> Callable[[apsw.Connection], None]:
        def job(connection: apsw.Connection) -> None:
            later.rows.append((number, "later"))
            if fails:
                raise Rollback(None)

        return job

    await together(database, note(1, fails=False), note(2, fails=True), note(3, fails=False))
    assert [1, 3] == await database.read(rows)


async def test_when_the_file_is_full_each_batch_of_the_group_is_tried_alone(database: Database) -> None:
    def limit(connection: apsw.Connection) -> None:
        pages: Any = connection.execute("PRAGMA page_count").fetchall()[0][0]
        connection.execute(f"PRAGMA max_page_count={pages + 3}").fetchall()

    await database.write_plain(limit)
    found = await together(database, insert(1), insert(2, "y" * 100_000), insert(3))
    assert [1, 3] == [found[0], found[2]]
    assert isinstance(found[1], StorageFull)
    assert [1, 3] == await database.read(rows)


@pytest.mark.parametrize("error", [apsw.IOError, apsw.NoMemError])
async def test_when_the_disk_fails_inside_a_job_its_neighbours_are_written(database: Database, error: type[apsw.Error]) -> None:
    def failing(connection: apsw.Connection) -> None:
        connection.execute(INSERT, (2, "x"))
        raise error("injected")

    found = await together(database, insert(1), failing, insert(3), savepoint=False)
    assert [1, 3] == [found[0], found[2]]
    assert isinstance(found[1], Unavailable)
    assert [1, 3] == await database.read(rows)


async def test_when_the_disk_fails_inside_the_commit_nobody_can_say(database: Database) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = database.path.with_name("a.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8192, hard))
    try:
        found = await together(database, insert(1, "x" * 60_000), insert(2, "x" * 60_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [OutcomeUnknown, OutcomeUnknown] == [type(error) for error in found]
    assert 3 == await database.write(insert(3))


async def test_a_writer_that_fails_outside_a_job_answers_everybody_and_writes_on(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """What ends other threads ends no job of another caller later: no transaction stays open, and nobody waits for ever."""

    def ends(connection: apsw.Connection) -> None:
        connection.execute(INSERT, (1, "x"))
        raise SystemExit

    loop = asyncio.get_running_loop()
    late = database.write(insert(2), deadline=loop.time() - 1)
    async with asyncio.timeout(20):
        found = await asyncio.gather(late, database.write(ends), database.write(insert(3)), return_exceptions=True)
        assert isinstance(found[0], Throttled)
        assert isinstance(found[1], OutcomeUnknown)
        assert 4 == await database.write(insert(4))
    assert [4] == [number for number in await database.read(rows) if number != 3]
    assert "failed outside a job" in caplog.text


async def test_a_commit_that_provably_failed_is_tried_alone_for_each(database: Database) -> None:
    await database.write(lambda connection: connection.execute("CREATE TABLE c (a INTEGER REFERENCES t (a) DEFERRABLE INITIALLY DEFERRED)"))

    def orphan(connection: apsw.Connection) -> None:
        connection.execute("INSERT INTO c VALUES (99)")

    found = await together(database, insert(1), orphan, insert(3))
    assert [1, 3] == [found[0], found[2]]
    assert isinstance(found[1], ReferenceBroken)


# --- callers that leave ---------------------------------------------------------------------------------------------


async def test_a_caller_cancelled_before_its_batch_is_taken_has_written_nothing(database: Database) -> None:
    async with Gate(database):
        task = asyncio.ensure_future(database.write(insert(1)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(task, return_exceptions=True)
    await database.write(insert(2))
    assert [2] == await database.read(rows)


async def test_a_caller_cancelled_later_leaves_the_writer_unharmed(database: Database) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(connection: apsw.Connection) -> None:
        connection.execute(INSERT, (1, "x"))
        entered.set()
        leave.wait(10)

    task = asyncio.ensure_future(database.write(slow))
    await asyncio.to_thread(entered.wait, 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    leave.set()
    await database.write(insert(2))
    assert [1, 2] == await database.read(rows)


def test_a_closed_loop_does_not_stop_the_writer(tmp_path: Path) -> None:
    leave, done = threading.Event(), threading.Event()

    def slow(connection: apsw.Connection) -> None:
        leave.wait(10)
        connection.execute(INSERT, (1, "x"))

    def last(connection: apsw.Connection) -> None:
        connection.execute(INSERT, (2, "x"))
        done.set()

    async def start() -> Database:
        database = await made(tmp_path / "a.db", group_batches=1)
        for job in (slow, last):
            writer = database._writer
            assert writer is not None
            task = asyncio.ensure_future(database.write(job))
            await asyncio.sleep(0)
            task.add_done_callback(lambda _: None)
            database.__dict__.setdefault("kept", []).append(task)
        return database

    loop = asyncio.new_event_loop()
    database = loop.run_until_complete(start())
    loop.close()
    leave.set()
    assert done.wait(10)
    writer = database._writer
    assert writer is not None
    writer.close()
    writer.thread.join(10)
    assert [1, 2] == rows(writer.connection)
    for task in database.__dict__["kept"]:
        task._log_destroy_pending = False
        task.get_coro().close()


async def test_a_full_queue_lets_callers_wait_until_their_deadline(tmp_path: Path) -> None:
    database = await made(tmp_path / "a.db", queue_batches=2)
    loop = asyncio.get_running_loop()
    async with Gate(database):
        tasks = [asyncio.ensure_future(database.write(insert(number))) for number in range(2)]
        await asyncio.sleep(0)
        late = asyncio.ensure_future(database.write(insert(8), deadline=loop.time() + 5))
        with pytest.raises(Throttled):
            await database.write(insert(9), deadline=loop.time() + 0.05)
    await asyncio.gather(*tasks, late)
    assert [0, 1, 8] == await database.read(rows)
    await database.aclose()


async def test_many_more_callers_than_the_queue_holds_are_all_served(tmp_path: Path) -> None:
    database = await made(tmp_path / "a.db", queue_batches=5, queue_bytes=1_000)
    await asyncio.gather(*(database.write(insert(number), cost=300) for number in range(300)))
    assert list(range(300)) == await database.read(rows)
    await database.aclose()


async def test_a_batch_whose_deadline_passed_in_the_queue_is_not_written(database: Database) -> None:
    async with Gate(database):
        task = asyncio.ensure_future(database.write(insert(1), deadline=asyncio.get_running_loop().time() + 0.01))
        await asyncio.sleep(0.05)
    with pytest.raises(Throttled):
        await task
    assert [] == await database.read(rows)


# --- reading and ending ---------------------------------------------------------------------------------------------


async def test_a_long_read_moves_to_the_pool(database: Database) -> None:
    threads: list[str] = []

    def long(connection: apsw.Connection) -> Any:
        threads.append(threading.current_thread().name)
        text = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500000) SELECT count(*) FROM n"
        return connection.execute(text).fetchall()[0][0]

    assert 500_000 == await database.read(long)
    assert 2 == len(threads)
    assert threads[0] == threading.main_thread().name
    assert threads[1].startswith("palaver-sqlite-reader")


async def test_a_read_that_is_late_at_any_of_its_statements_is_answered(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite asks after every thousand steps of a statement, whatever many runs they took; what ends a late read counts as well."""
    monkeypatch.setattr("palaver.connections.sqlite._INLINE_S", -1.0)

    def instant(connection: apsw.Connection) -> list[Any]:
        connection.execute("BEGIN")
        try:
            return rows(connection)
        finally:
            connection.execute("ROLLBACK")

    def left_open(connection: apsw.Connection) -> list[Any]:
        connection.execute("BEGIN")
        found = rows(connection)
        connection.execute("ROLLBACK")
        return found

    await database.write(insert(1))
    for _ in range(1_500):
        assert [1] == await database.read(instant)
        assert [1] == await database.read(left_open)


async def test_a_read_sees_every_write_acknowledged_before(database: Database) -> None:
    for number in range(50):
        await database.write(insert(number))
        assert number == (await database.read(rows))[-1]
        assert number == (await database.read_pooled(rows))[-1]


async def test_closing_finishes_what_is_queued_and_leaves_one_file(tmp_path: Path) -> None:
    database = await made(tmp_path / "a.db")
    tasks = [asyncio.ensure_future(database.write(insert(number))) for number in range(500)]
    await asyncio.sleep(0)
    await asyncio.gather(database.aclose(), database.aclose())
    assert list(range(500)) == await asyncio.gather(*tasks)
    await database.aclose()
    with pytest.raises(ConfigError):
        await database.write(insert(1000))
    assert ["a.db"] == os.listdir(tmp_path)


async def test_deleted_text_leaves_the_file(tmp_path: Path) -> None:
    database = await made(tmp_path / "a.db")
    secret = "the-text-that-must-go"
    await asyncio.gather(*(database.write(insert(number, f"{secret} {number} " * 20)) for number in range(200)))
    await database.checkpoint()
    assert secret.encode() in (tmp_path / "a.db").read_bytes()
    await database.write(lambda connection: connection.execute("DELETE FROM t"))
    await database.checkpoint()
    for name in os.listdir(tmp_path):
        assert secret.encode() not in (tmp_path / name).read_bytes()
    await database.aclose()


def test_a_process_that_ends_without_closing_has_written_what_was_acknowledged(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from palaver.connections.sqlite import Database
async def run():
    database = await Database.open(sys.argv[1])
    await database.write(lambda c: c.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)"))
    await database.write(lambda c: c.execute("INSERT INTO t VALUES (1, 'x')"))
asyncio.run(run())
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.db")], check=True, timeout=30)
    assert [1] == rows(apsw.Connection(str(tmp_path / "a.db")))


async def test_closing_again_after_a_close_that_was_cancelled_waits_for_the_end(tmp_path: Path) -> None:
    database, free = await made(tmp_path / "a.db"), threading.Event()
    writing = asyncio.create_task(database.write(lambda connection: free.wait(60)))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(database.aclose())
    await asyncio.sleep(0.01)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    again = asyncio.create_task(database.aclose())
    await asyncio.sleep(0.05)
    assert not again.done()
    free.set()
    await again
    assert await writing
    assert ["a.db"] == os.listdir(tmp_path)
