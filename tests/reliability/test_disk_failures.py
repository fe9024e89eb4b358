"""A disk that fails or is full: errors with a name, nothing acknowledged lost, and on it goes when the disk is well again."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

import palaver
from palaver.errors import OutcomeUnknown, PalaverError, StorageFull, Unavailable
from palaver.store import Store
from tests.reliability.app import CANARY, SCHEMA, Note, Owner
from tests.reliability.examine import Figures, Run, examine, settled
from tests.reliability.results import publish
from tests.reliability.tracing import Ended, Victims, fail_at, untraceable

# What may be heard of a failing disk; anything else would be a slip of ours.
NAMED = {"outcome_unknown", "unavailable", "storage_full", "conflict", "throttled", "settle_timeout"}
# SQLite itself calls a disk that cannot read a page a damaged file.
READING = NAMED | {"corruption"}
FAULTS = (
    ("fdatasync", "EIO", "20..23"),
    ("fdatasync,fsync", "EIO", "24..90+7"),
    ("fsync", "EIO", "3..6"),
    ("pwrite64", "ENOSPC", "250..290"),
    ("pwrite64", "ENOSPC", "270..600+9"),
    ("pwrite64", "EIO", "250..290"),
    ("pwrite64", "EIO", "260..600+31"),
    ("pread64", "EIO", "30..40"),
    ("rename", "ENOSPC", "2..4"),
    ("openat", "EMFILE", "12..15"),
)


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    with Victims() as victims:
        yield victims


def check_words(ended: Ended, expected: set[str]) -> None:
    """The errors have names of the tree, and neither they nor the log tell stored values."""
    assert {error.get("error") or error.get("ended") for error in ended.errors} <= expected, ended.errors
    assert CANARY not in ended.log + "".join(error["text"] for error in ended.errors)
    assert "Traceback" not in ended.log, ended.log


def fail_and_examine(victims: Victims, run: Run, at: Path, fault: tuple[str, str, str]) -> tuple[Figures, Counter[str]]:
    at.mkdir()
    url = f"sqlite:///{at}/a.db"
    ended = victims.run(run, url, at, fail_at(*fault), mode="persist")
    assert ended.status == 0, f"seed {run.seed}, {fault}: {ended.log[-3000:]}"
    try:
        check_words(ended, READING if fault[0] == "pread64" else NAMED)
        figures = asyncio.run(examine(run, url, ended.acks))
    except BaseException as error:
        error.add_note(f"seed {run.seed}, {fault}")
        raise
    assert figures.harm == 0, f"seed {run.seed}, {fault}: {figures}"
    shutil.rmtree(at)
    return figures, Counter(error.get("error") or error["ended"] for error in ended.errors)


@pytest.mark.skipif(bool(untraceable()), reason=untraceable())
def test_calls_that_fail_lose_nothing_acknowledged(victims: Victims, tmp_path: Path) -> None:
    named: Counter[str] = Counter()
    for number, fault in enumerate(FAULTS):
        figures, errors = fail_and_examine(victims, Run(number + 1), tmp_path / str(number), fault)
        assert figures.acked > 0, fault
        named += errors
    assert named["outcome_unknown"] > 0
    assert named["storage_full"] > 0
    assert named["unavailable"] > 0


@pytest.mark.soak
@pytest.mark.skipif(bool(untraceable()), reason=untraceable())
def test_many_calls_that_fail_lose_nothing_acknowledged(victims: Victims, tmp_path: Path) -> None:
    total, named = Figures(), Counter[str]()
    for seed in range(400, 412):
        for number, fault in enumerate(FAULTS):
            figures, errors = fail_and_examine(victims, Run(seed), tmp_path / f"{seed}-{number}", fault)
            total += figures
            named += errors
    publish("disk_failures", {"runs": total.points, "acked": total.acked, "lost": total.lost, "errors": dict(named)})


# --- full disks -----------------------------------------------------------------------------------------------------


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size; the interpreter ignores the signal, so calls fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def fill(store: Store, start: int, most: int) -> tuple[list[str], list[PalaverError]]:
    """Write until it fails; return what was acknowledged and the errors."""
    kept: list[str] = []
    errors: list[PalaverError] = []
    for first in range(start, start + most, 10):
        notes = [Note(worker=0, owner="o", note_id=f"{n:05d}", text=f"{CANARY} {n} " * 100) for n in range(first, first + 10)]
        found = await asyncio.gather(*(store.create(note, token=note.note_id) for note in notes), return_exceptions=True)
        for note, result in zip(notes, found, strict=True):
            if isinstance(result, PalaverError):
                errors.append(result)
            else:
                assert not isinstance(result, BaseException), result
                kept.append(note.note_id)
        if errors:
            break
    return kept, errors


async def goes_on(store: Store, kept: list[str], errors: list[PalaverError], expected: tuple[type[PalaverError], ...]) -> None:
    """While the disk is full: what was acknowledged is read, and what fails has a name."""
    assert errors
    assert {type(error) for error in errors} <= set(expected)
    assert CANARY not in "".join(map(str, errors))
    there = [note.note_id async for note in store.query(Note.key(0, "o"))]
    assert set(kept) <= set(there), "an acknowledged write is gone"
    assert await store.count(Note.key(0, "o")) == len(there)


async def resumes(store: Store, kept: list[str]) -> None:
    """With room again, without a restart: the same requests with their tokens are written once."""
    more, errors = await fill(store, 0, len(kept) + 20)
    assert [] == errors
    there = [note.note_id async for note in store.query(Note.key(0, "o"))]
    assert sorted({*kept, *more}) == there
    await settled(store)


async def test_a_file_that_may_not_grow_is_read_on_and_written_again_when_it_may(tmp_path: Path) -> None:
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA, maintain=False) as store:
        await store.create(Owner(worker=0, name="o", handle="h"))
        with limited(600_000):
            kept, errors = await fill(store, 0, 2_000)
            # The kernel calls this too large a file, not a full disk, so SQLite knows it as a disk that refuses.
            await goes_on(store, kept, errors, (StorageFull, Unavailable, OutcomeUnknown))
        await resumes(store, kept)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that is soon full."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk needs root")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_is_read_on_and_written_again_when_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    async with palaver.open(f"sqlite:///{small_disk}/a.db", schema=SCHEMA, maintain=True) as store:
        await store.create(Owner(worker=0, name="o", handle="h"))
        ballast.write_bytes(bytes(700_000))
        kept, errors = await fill(store, 0, 3_000)
        await goes_on(store, kept, errors, (StorageFull,))
        ballast.unlink()
        more, errors = await fill(store, 0, 30)
        assert [] == errors
        assert set(more) <= {note.note_id async for note in store.query(Note.key(0, "o"))}


async def test_a_database_on_a_full_disk_is_closed_and_holds_everything_when_it_is_opened_again(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    url = f"sqlite:///{small_disk}/a.db"
    async with palaver.open(url, schema=SCHEMA, maintain=False) as store:
        await store.create(Owner(worker=0, name="o", handle="h"))
        kept, errors = await fill(store, 0, 100)
        assert [] == errors
        ballast.write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    ballast.unlink()
    async with palaver.open(url, schema=SCHEMA, maintain=False) as store:
        assert kept == [note.note_id async for note in store.query(Note.key(0, "o"))]


async def test_a_full_disk_for_objects_refuses_the_record_too(small_disk: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db?blobs=file:{small_disk}/blobs"
    async with palaver.open(url, schema=SCHEMA, maintain=False) as store:
        await store.create(Owner(worker=0, name="o", handle="h"))
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(1_400_000))
        large = Note(worker=0, owner="o", note_id="large", payload={"body": os.urandom(200_000).hex()})
        with pytest.raises(StorageFull):
            await store.create(large)
        assert await store.find(large.address) is None
        ballast.unlink()
        assert large.payload == (await store.create(large)).payload == (await store.get(large.address)).payload


# --- no memory ------------------------------------------------------------------------------------------------------


async def test_too_little_memory_is_an_error_with_a_name_and_then_over(tmp_path: Path) -> None:
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA, maintain=False) as store:
        await store.create(Owner(worker=0, name="o", handle="h"))
        before = apsw.hard_heap_limit(-1)
        found: list[Any] = []
        try:
            apsw.hard_heap_limit(apsw.memory_used() + 200_000)
            large = [Note(worker=0, owner="o", note_id=f"{n:05d}", text=CANARY * 10_000) for n in range(20)]
            found = await asyncio.gather(*(store.create(note, token=note.note_id) for note in large), return_exceptions=True)
        finally:
            apsw.hard_heap_limit(before)
        errors = [error for error in found if isinstance(error, BaseException)]
        assert errors
        assert {type(error) for error in errors} <= {Unavailable, OutcomeUnknown}
        assert CANARY not in "".join(map(str, errors))
        await asyncio.gather(*(store.create(note, token=note.note_id) for note in large))
        assert 20 == await store.count(Note.key(0, "o"))
        await settled(store)
