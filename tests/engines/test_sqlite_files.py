"""Facts about one SQLite file and whoever else opens, locks, moves or damages it: other loops, processes, programs."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from palaver.connections.sqlite import Database, SqliteOptions
from palaver.errors import (
    ConfigError,
    Conflict,
    Corruption,
    NotProvisioned,
    ReadOnly,
    Unavailable,
)
from tests.engines.sqlite_jobs import INSERT, insert, made, rows


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await made(tmp_path / "a.db")
    yield database
    await database.aclose()


# --- other loops and processes --------------------------------------------------------------------------------------


async def test_another_loop_and_a_forked_child_are_refused(database: Database) -> None:
    def elsewhere() -> type[BaseException] | None:
        try:
            asyncio.run(database.read(rows))
        except ConfigError as error:
            return type(error)
        return None

    assert ConfigError is await asyncio.to_thread(elsewhere)
    assert 7 == _in_a_child(database._check)


def _in_a_child(check: Callable[[], None]) -> int:
    child = os.fork()
    if not child:
        try:
            check()
        except ConfigError:
            os._exit(7)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _write_many(path: str, start: int) -> None:
    async def run() -> None:
        database = await made(Path(path))
        await asyncio.gather(*(database.write(insert(number)) for number in range(start, start + 200)))
        for number in range(start + 200, start + 260):
            await database.write(insert(number))
        await database.aclose()

    asyncio.run(run())


async def test_two_processes_write_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(tmp_path / "a.db"), start)) for start in (0, 1000)]
    for writer in writers:
        writer.start()
    for writer in writers:
        await asyncio.to_thread(writer.join, 60)
    assert [0, 0] == [writer.exitcode for writer in writers]
    database = await made(tmp_path / "a.db")
    assert [*range(260), *range(1000, 1260)] == await database.read(rows)
    await database.aclose()


LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE" if sys.argv[2] == "all" else "BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("CREATE TABLE other (a)")
connection.execute("COMMIT")
connection.close()
"""


def lock(path: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", LOCKER, str(path), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "locked" in process.stdout.readline()
    return process


def unlock(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=20)


async def test_a_lock_of_another_process_is_a_conflict_and_then_over(tmp_path: Path) -> None:
    database = await made(tmp_path / "a.db", busy_timeout_s=0.1)
    other = lock(database.path, "write")
    found = await asyncio.gather(*(database.write(insert(number)) for number in range(3)), return_exceptions=True)
    assert [Conflict, Conflict, Conflict] == [type(error) for error in found]
    unlock(other)
    assert 1 == await database.write(insert(1))
    await database.aclose()


async def test_a_commit_of_another_process_is_noticed(database: Database) -> None:
    while await database.wait_for_commit(0.05):
        pass
    other = lock(database.path, "write")
    waiting = asyncio.ensure_future(database.wait_for_commit(20))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    unlock(other)
    assert await waiting
    assert not await database.wait_for_commit(0.05)


async def test_a_commit_of_ours_is_noticed(database: Database) -> None:
    while await database.wait_for_commit(0.05):
        pass
    waiting = asyncio.ensure_future(database.wait_for_commit(20))
    await asyncio.sleep(0)
    await database.write(insert(1))
    assert await waiting


async def test_opening_a_locked_file_is_a_conflict(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    apsw.Connection(str(path)).execute("CREATE TABLE x (a)").fetchall()
    other = lock(path, "all")
    with pytest.raises(Conflict):
        await Database.open(path, options=SqliteOptions(busy_timeout_s=0.1))
    unlock(other)


async def test_files_that_cannot_be_opened_are_named_errors(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await Database.open(tmp_path / "none.db", options=SqliteOptions(create=False))
    with pytest.raises(Unavailable):
        await Database.open(tmp_path / "no" / "folder.db")
    with pytest.raises(ConfigError):
        await Database.open(tmp_path)
    with pytest.raises(ConfigError):
        await Database.open(":memory:")
    text = tmp_path / "text.db"
    text.write_text("this is not a database, and it is longer than the header of one. " * 40)
    with pytest.raises(Corruption):
        await Database.open(text)


async def test_a_damaged_page_is_corruption(tmp_path: Path) -> None:
    database = await made(tmp_path / "a.db")
    await database.write(lambda connection: connection.executemany(INSERT, ((n, "x" * 200) for n in range(500))))
    await database.aclose()
    with (tmp_path / "a.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 8192)
    database = await Database.open(tmp_path / "a.db")
    with pytest.raises(Corruption):
        await database.read(rows)
    await database.aclose()


async def test_a_file_of_another_or_a_newer_program_is_refused(tmp_path: Path) -> None:
    for number, application, expected in ((1, 1234, Corruption), (2, 0x50414CFF, NotProvisioned)):
        path = tmp_path / f"{number}.db"
        connection = apsw.Connection(str(path))
        connection.execute(f"CREATE TABLE x (a); PRAGMA application_id={application}").fetchall()
        connection.close()
        with pytest.raises(expected):
            await Database.open(path)
    database = await made(tmp_path / "3.db")
    await database.write(lambda connection: connection.execute("PRAGMA user_version=5"))
    await database.aclose()
    with pytest.raises(NotProvisioned):
        await Database.open(tmp_path / "3.db", options=SqliteOptions(newest=4))


async def test_a_database_opened_for_reading_refuses_writes(tmp_path: Path) -> None:
    writing = await made(tmp_path / "a.db")
    await writing.write(insert(1))
    reading = await Database.open(tmp_path / "a.db", options=SqliteOptions(read_only=True))
    assert [1] == await reading.read(rows)
    with pytest.raises(ReadOnly):
        await reading.write(insert(2))
    await reading.aclose()
    await writing.aclose()


@contextmanager
def powerless() -> Iterator[None]:
    """Be nobody for a while, because nothing is read-only for root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def visible() -> Iterator[Path]:
    """Give a folder that nobody can look into, in a place where everybody can."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        Path(folder).chmod(0o755)


async def test_a_file_without_write_permission_is_read_only(visible: Path) -> None:
    database = await made(visible / "a.db")
    await database.write(insert(1))
    await database.aclose()
    (visible / "a.db").chmod(0o444)
    os.chmod(visible, 0o555)
    with powerless():
        with pytest.raises(ReadOnly):
            await Database.open(visible / "a.db")
        reading = await Database.open(visible / "a.db", options=SqliteOptions(read_only=True))
        assert [1] == await reading.read(rows)
        with pytest.raises(ReadOnly):
            await reading.write(insert(2))
        await reading.aclose()


async def test_a_path_means_the_same_after_the_working_directory_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = await made(Path("relative.db"))
    await database.write(insert(1))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [1] == await database.read_pooled(rows)
    await database.aclose()
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "/".join(["y" * 200] * 30)], ids=["long name", "NUL", "long path"])
async def test_a_path_that_can_be_none_is_unavailable(tmp_path: Path, name: str) -> None:
    with pytest.raises(Unavailable):
        await Database.open(tmp_path / name)


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("short", [False, True])
async def test_nothing_is_acknowledged_into_a_file_that_is_no_longer_there(tmp_path: Path, replaced: bool, short: bool) -> None:
    """SQLite writes on into a file that nobody will ever open again."""
    database = await made(tmp_path / "a.db")
    await database.write(insert(1))
    if replaced:
        await (await made(tmp_path / "b.db")).aclose()
        (tmp_path / "b.db").replace(tmp_path / "a.db")
    else:
        (tmp_path / "a.db").rename(tmp_path / "c.db")
    with pytest.raises(Unavailable, match="moved, replaced or deleted"):
        await database.write(insert(2), short=short)
    with pytest.raises(Unavailable, match="moved, replaced or deleted"):
        await database.read_pooled(rows)
    if not replaced:
        (tmp_path / "c.db").rename(tmp_path / "a.db")
        await database.write(insert(3), short=short)
        assert [1, 3] == await database.read(rows)
    await database.aclose()


async def test_a_file_that_has_two_names_is_written_by_neither(tmp_path: Path) -> None:
    """Each name has a log of its own: two that write damage the file."""
    database = await made(tmp_path / "a.db")
    await database.write(insert(1))
    (tmp_path / "b.db").hardlink_to(tmp_path / "a.db")
    with pytest.raises(ConfigError, match="hard link"):
        await Database.open(tmp_path / "b.db")
    # A name that comes while the file is open, as of a backup, harms nobody as long as it is not opened.
    await database.write(insert(2))
    await database.aclose()
    reading = await Database.open(tmp_path / "b.db", options=SqliteOptions(read_only=True))
    assert [1, 2] == await reading.read(rows)
    await reading.aclose()
    (tmp_path / "b.db").unlink()
    again = await made(tmp_path / "a.db")
    assert [1, 2] == await again.read(rows)
    await again.aclose()
