"""The log of a SQLite file: copied beside the writer, which waits for it neither with others' writes nor for ever."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from palaver.connections import sqlite
from palaver.connections.sqlite import Database
from palaver.connections.sqlite_opening import open_copier
from palaver.connections.sqlite_options import SqliteOptions
from palaver.connections.sqlite_writer import _LONGEST
from tests.engines.sqlite_jobs import insert, made, rows

PAGES = 20
TEXT = "x" * 3_000  # most of a page


class Slow:
    """A connection whose copies of the log wait until they are let."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self.let, self.began = threading.Event(), threading.Event()

    def wal_checkpoint(self, **options: Any) -> Any:
        self.began.set()
        self.let.wait(60)
        return self.connection.wal_checkpoint(**options)

    def close(self) -> None:
        self.connection.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[Slow]:
    made: list[Slow] = []

    def opened(path: Path, options: SqliteOptions) -> Slow:
        made.append(Slow(open_copier(path, options)))
        return made[-1]

    monkeypatch.setattr(sqlite, "open_copier", opened)
    return made


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await made(tmp_path / "a.db", checkpoint_pages=PAGES)
    yield database
    await database.aclose()


def log_bytes(database: Database) -> int:
    return database.path.with_name(database.path.name + "-wal").stat().st_size


async def many(database: Database, first: int, count: int) -> None:
    for number in range(first, first + count):
        await database.write(insert(number, TEXT))


async def test_who_writes_and_reads_does_not_wait_while_the_log_is_copied(slow: list[Slow], database: Database) -> None:
    await many(database, 0, PAGES // 2)
    await asyncio.to_thread(lambda: slow[0].began.wait())
    await many(database, PAGES // 2, PAGES // 4)
    assert list(range(PAGES // 2 + PAGES // 4)) == await database.read(rows)
    assert not slow[0].let.is_set()
    slow[0].let.set()


async def test_a_log_that_was_copied_begins_anew_under_writes_that_never_pause(database: Database) -> None:
    """However long it is written: what came during a copy is copied by the writer, so that nothing is left to copy."""
    longest = 0
    for start in range(0, 40 * PAGES, PAGES):
        await many(database, start, PAGES)
        longest = max(longest, log_bytes(database))
    assert longest < (_LONGEST + 3) * PAGES * 4_200
    assert 40 * PAGES * len(TEXT) > 2 * longest
    assert list(range(40 * PAGES)) == await database.read(rows)


async def test_a_log_that_grows_much_faster_than_it_is_copied_is_waited_for(slow: list[Slow], database: Database) -> None:
    writing = asyncio.create_task(many(database, 0, 40 * PAGES))
    before = -1
    while (written := len(await database.read(rows))) > before:
        before = written
        await asyncio.sleep(0.2)
    assert not writing.done()
    assert log_bytes(database) < (_LONGEST + 3) * PAGES * 4_200
    slow[0].let.set()
    await writing
    assert list(range(40 * PAGES)) == await database.read(rows)


async def test_a_database_is_closed_only_when_the_copy_has_ended(slow: list[Slow], tmp_path: Path) -> None:
    database = await made(tmp_path / "b.db", checkpoint_pages=PAGES)
    await many(database, 0, PAGES // 2)
    await asyncio.to_thread(lambda: slow[0].began.wait())
    closing = asyncio.create_task(database.aclose())
    await asyncio.sleep(0.05)
    assert not closing.done()
    slow[0].let.set()
    await closing
    assert not database.path.with_name("b.db-wal").exists()


async def test_where_no_thread_and_no_connection_can_be_had_the_writer_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(path: Path, options: SqliteOptions) -> apsw.Connection:
        raise apsw.CantOpenError("too many open files")

    monkeypatch.setattr(sqlite, "open_copier", refused)
    database = await made(tmp_path / "c.db", checkpoint_pages=PAGES)
    await many(database, 0, 10 * PAGES)
    assert log_bytes(database) < 5 * PAGES * 4_200
    await database.aclose()
    assert "the log could not be copied: CantOpenError" in caplog.messages


def _write_and_measure(path: str, first: int, together: Any, longest: Any) -> None:
    async def run() -> None:
        database = await made(Path(path), checkpoint_pages=PAGES, synchronous="normal", busy_timeout_s=60)
        together.wait(60)

        async def write(first: int) -> None:
            for start in range(first, first + 40 * PAGES, PAGES):
                await many(database, start, PAGES)
                longest.value = max(longest.value, log_bytes(database))

        await asyncio.gather(*(write(first + 10_000 * number) for number in range(8)))
        together.wait(60)
        await database.aclose()

    asyncio.run(run())


async def test_a_log_that_two_processes_write_at_once_begins_anew(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    together, longest, path = context.Barrier(2), context.Value("q", 0), tmp_path / "d.db"
    await (await made(path)).aclose()
    writers = [context.Process(target=_write_and_measure, args=(str(path), first, together, longest)) for first in (0, 100_000)]
    for writer in writers:
        writer.start()
    for writer in writers:
        await asyncio.to_thread(writer.join, 120)
    assert [0, 0] == [writer.exitcode for writer in writers]
    # What was written takes a page for each record at the least.
    assert longest.value < 2 * 8 * 40 * PAGES * 4_096 // 4
