"""Files that are missing, read-only, damaged, cut short, newer or locked: an error with a name, and a way out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

import palaver
from palaver.errors import Conflict, Corruption, PalaverError, ReadOnly, Unavailable
from palaver.schema import Schema, Search, Source
from palaver.store import Store
from palaver.system import system
from tests.reliability.app import CANARY, SCHEMA, Account, Left, Note, Owner, Right
from tests.reliability.examine import check_file, settled

NEWER = Schema(
    "reliability",
    [Owner, Note, Left, Right, Account],
    searches=[Search("notes", Source(Note, text=("text",), filters=("worker",)))],
    version=2,
)


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/a.db"


async def made(folder: Path, schema: Schema = SCHEMA, notes: int = 200) -> Path:
    """Make a file with something in it."""
    async with palaver.open(url(folder), schema=schema, maintain=False) as store:
        await store.create(Owner(worker=0, name="o", handle="h"))
        await store.bulk(Note(worker=0, owner="o", note_id=f"n{number:04d}", text=f"{CANARY} {number} " * 20) for number in range(notes))
        await store.settle()
    return folder / "a.db"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


async def refused(folder: Path, expected: type[PalaverError], options: str = "", schema: Schema = SCHEMA) -> PalaverError:
    """Opening is refused by a named error that tells no values, and the file stays as it is."""
    before = contents(folder)
    with pytest.raises(expected) as caught:
        async with palaver.open(url(folder) + options, schema=schema, maintain=False):
            pass
    assert before == contents(folder)
    assert CANARY not in str(caught.value)
    return caught.value


async def works(folder: Path, notes: int = 200) -> None:
    async with palaver.open(url(folder), schema=SCHEMA, maintain=False) as store:
        assert notes == await store.count(Note.by_worker(0))
        await store.create(Left(worker=9, number=9))
        await settled(store)
    check_file(folder / "a.db")


async def test_a_missing_file_is_unavailable_and_made_where_that_is_allowed(tmp_path: Path) -> None:
    await refused(tmp_path, Unavailable, "?create=false")
    assert [] == os.listdir(tmp_path)
    await made(tmp_path)
    await works(tmp_path)


async def test_a_file_lost_while_open_is_made_again_from_a_backup(tmp_path: Path) -> None:
    file = await made(tmp_path)
    shutil.copy(file, tmp_path / "backup")
    file.unlink()
    await refused(tmp_path, Unavailable, "?create=false")
    shutil.copy(tmp_path / "backup", file)
    await works(tmp_path)


async def test_a_file_opened_for_reading_is_read_and_not_written(tmp_path: Path) -> None:
    await made(tmp_path)
    async with palaver.open(url(tmp_path), schema=SCHEMA, maintain=False) as writing:
        reading = await palaver.open(url(tmp_path) + "?read_only=true", schema=SCHEMA)
        assert 200 == await reading.count(Note.by_worker(0))
        assert 20 == len(await reading.search("notes", CANARY))
        with pytest.raises(ReadOnly):
            await reading.create(Left(worker=1, number=1))
        await reading.aclose()
        await writing.create(Left(worker=1, number=1))
    await works(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
async def test_a_file_without_permission_is_read_only_until_it_has_it(tmp_path: Path) -> None:
    file = await made(tmp_path)
    file.chmod(0o444)
    await refused(tmp_path, ReadOnly)
    file.chmod(0o600)
    await works(tmp_path)


def page_of(file: Path, table: str) -> int:
    """Return the number of the last leaf of a table, 1 for the first page of the file."""
    connection = apsw.Connection(str(file))
    try:
        found = connection.execute("SELECT max(pageno) FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (table,)).fetchall()
        return int(str(found[0][0]))
    finally:
        connection.close()


def damage(file: Path, page: int) -> None:
    with file.open("r+b") as opened:
        opened.seek((page - 1) * 4096)
        opened.write(b"\xa5" * 4096)


async def read_all(store: Store) -> int:
    return len([note async for note in store.query(Note.key(0, "o"))])


async def test_a_damaged_page_is_corruption_and_what_is_whole_is_read_on(tmp_path: Path) -> None:
    file = await made(tmp_path)
    shutil.copy(file, tmp_path / "backup")
    damage(file, page_of(file, "notes"))
    async with palaver.open(url(tmp_path), schema=SCHEMA, maintain=False) as store:
        with pytest.raises(Corruption) as caught:
            await read_all(store)
        assert CANARY not in str(caught.value)
        assert "h" == (await store.get(Owner.at(0, "o"))).handle
        assert 20 == len([note async for note in store.query(Note.key(0, "o").limit(20))])
    for name in os.listdir(tmp_path):
        if name.startswith("a.db-"):
            (tmp_path / name).unlink()
    shutil.copy(tmp_path / "backup", file)
    await works(tmp_path)


async def test_a_damaged_search_index_is_corruption_of_searches_until_it_is_rebuilt(tmp_path: Path) -> None:
    file = await made(tmp_path)
    connection = apsw.Connection(str(file))
    (name,) = connection.execute("SELECT name FROM sqlite_schema WHERE sql LIKE '%USING fts5%'").fetchall()[0]
    connection.execute(f'DELETE FROM "{name}_data" WHERE id > 10').fetchall()
    connection.close()
    async with palaver.open(url(tmp_path), schema=SCHEMA, maintain=False) as store:
        assert 200 == await read_all(store)
        with pytest.raises(Corruption):
            await store.search("notes", CANARY)
        await store.rebuild("search")
        assert 20 == len(await store.search("notes", CANARY))
    await works(tmp_path)


@pytest.mark.parametrize("left", [0, 100, 4096, 0.5, 0.9])
async def test_a_file_cut_short_is_corruption_and_never_silently_less(tmp_path: Path, left: float) -> None:
    """`left` is a share of the file, or a number of bytes."""
    file = await made(tmp_path)
    backup = file.read_bytes()
    os.truncate(file, int(len(backup) * left if left < 1 else left))
    if not left:
        # An empty file is what a new database begins as: only a backup or a count can tell.
        async with palaver.open(url(tmp_path), schema=SCHEMA, maintain=False) as store:
            assert 0 == await read_all(store)
        return
    with pytest.raises(Corruption):
        async with palaver.open(url(tmp_path), schema=SCHEMA, maintain=False) as store:
            assert 200 == await read_all(store)
            assert 200 == await store.count(Note.by_worker(0))
            raise AssertionError("a file cut short reads as if it were whole")
    for name in ("a.db-wal", "a.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    file.write_bytes(backup)
    await works(tmp_path)


async def test_a_file_of_a_newer_program_is_read_by_an_older_one_and_left_as_it_is(tmp_path: Path) -> None:
    await made(tmp_path, NEWER)
    async with palaver.open(url(tmp_path), schema=SCHEMA, maintain=False) as older:
        assert 200 == await read_all(older)
    async with palaver.open(url(tmp_path), schema=NEWER, maintain=False) as store:
        assert 2 == (await store.core.records.get((system("schema", "current"),)))[0]["body"]["version"]  # type: ignore[index, call-overload]
        assert 200 == await read_all(store)


async def test_text_and_a_foreign_database_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    file.write_text(f"{CANARY} is not a database, and longer than a header. " * 50)
    text = file.read_bytes()
    await refused(tmp_path, Corruption)
    assert text == file.read_bytes()
    file.unlink()
    connection = apsw.Connection(str(file))
    connection.execute("PRAGMA application_id = 1234; CREATE TABLE theirs (a)").fetchall()
    connection.close()
    theirs = file.read_bytes()
    await refused(tmp_path, Corruption)
    assert theirs == file.read_bytes()


LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA locking_mode=EXCLUSIVE")
connection.execute("BEGIN IMMEDIATE")
connection.execute("CREATE TABLE IF NOT EXISTS locking (a)")
connection.execute("COMMIT")
print("locked", flush=True)
sys.stdin.readline()
"""


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Let another process keep the whole file to itself, as no reader may even look."""
    process = subprocess.Popen([sys.executable, "-c", LOCKER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "locked" in process.stdout.readline()
    try:
        yield
    finally:
        process.communicate("\n", timeout=20)


async def test_a_file_another_process_keeps_locked_is_a_conflict_and_then_over(tmp_path: Path) -> None:
    file = await made(tmp_path)
    connection = apsw.Connection(str(file))
    connection.execute("PRAGMA journal_mode=DELETE").fetchall()
    connection.close()
    with locked(file), pytest.raises((Conflict, Unavailable)) as caught:
        async with palaver.open(url(tmp_path) + "?timeout=0.2", schema=SCHEMA, maintain=False):
            pass
    assert CANARY not in str(caught.value)
    await works(tmp_path)


async def test_a_missing_object_is_corruption_and_a_restored_one_is_read(tmp_path: Path) -> None:
    async with palaver.open(url(tmp_path), schema=SCHEMA, maintain=False) as store:
        await store.create(Owner(worker=0, name="o", handle="h"))
        note = await store.create(Note(worker=0, owner="o", note_id="n", payload={"body": CANARY * 20}))
        (kept,) = [path for path in (tmp_path / "a.db.blobs").rglob("*") if path.is_file()]
        data = kept.read_bytes()
        kept.unlink()
        with pytest.raises(Corruption) as caught:
            await store.get(note.address)
        assert CANARY not in str(caught.value)
        kept.write_bytes(data[:-1])
        with pytest.raises(Corruption):
            await store.get(note.address)
        kept.write_bytes(data)
        assert note == await store.get(note.address)
        kept.unlink()
        assert note == await store.put(note)
        assert note == await store.get(note.address)
