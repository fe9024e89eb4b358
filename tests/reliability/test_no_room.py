"""A disk that is full at each separate write of each operation: an error with a name, nothing half done, and done when there is room."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest

import palaver
from palaver import ManualClock
from palaver.batch import Batch
from palaver.errors import OutcomeUnknown, PalaverError, StorageFull, Unavailable
from palaver.lifecycle.archive import Archive
from palaver.lifecycle.copy import Copy
from palaver.lifecycle.copy_ends import End
from palaver.migrating import Migrator
from palaver.store import Store
from palaver.system import SYSTEM
from tests.evolve.beds import bed, planner_of
from tests.evolve.test_interrupted import MUCH, finish
from tests.evolve.test_migrated import filled, kept_columns
from tests.lifecycle.app import SCHEMA, Counter
from tests.lifecycle.copying import BASE, fill, message_of, opened
from tests.reliability.room import Room, room
from tests.stacks import SEAL_KEYS

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAY = date(2026, 3, 10)
Keys = dict[str, set[Any]]
Act = Callable[[Store], Awaitable[object]]


@pytest.fixture(autouse=True)
def seal_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAVER_SEAL_KEYS", SEAL_KEYS)


@pytest.fixture
def disk() -> Iterator[Room]:
    with room() as disk:
        yield disk


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/a.db?sync=normal&blobs=file:{folder}/blobs"


@asynccontextmanager
async def used(folder: Path) -> AsyncIterator[Store]:
    async with palaver.open(url(folder), schema=SCHEMA, clock=ManualClock(NOW), maintain=False) as store:
        yield store


async def keys(store: Store) -> Keys:
    """Return the keys of everything that is stored."""
    found: Keys = {"objects": {info.key async for info in store.core.blobs.list()}}
    for name, table in store.core.planner.tables.items():
        after = None
        while name != SYSTEM.name:
            page = await store.core.records.scan(name, after=after, limit=500)
            found.setdefault(name, set()).update(tuple(record[part] for part in table.key) for record in page.records)
            after = page.last
            if after is None:
                break
    return found


async def checked(folder: Path) -> Keys:
    """Open a store again and return its keys; the file is whole."""
    async with used(folder) as store:
        found = await keys(store)
    connection = apsw.Connection(str(folder / "a.db"))
    assert [("ok",)] == connection.execute("PRAGMA integrity_check").fetchall()
    connection.close()
    return found


async def create(store: Store) -> None:
    await store.create(Counter(name="new", n=1), token="t")


async def batch(store: Store) -> None:
    made = Batch()
    for number in range(3):
        made = made.create(message_of("u1-0", BASE + 9_000 + number, {"text": "x" * 500, "n": number}))
    await store.write(made, token="b")


async def bulk(store: Store) -> None:
    await store.bulk(Counter(name=f"b{number:04d}", n=number) for number in range(300))


async def sweep(store: Store) -> None:
    clock = store.core.clock
    assert isinstance(clock, ManualClock)
    clock.advance(NOW + timedelta(days=60) - clock.now())
    await store.sweep()


async def archive(store: Store) -> None:
    clock = store.core.clock
    assert isinstance(clock, ManualClock)

    async def tick() -> None:
        # A lease that could not be given up ends by itself.
        while True:
            await asyncio.sleep(0.005)
            clock.advance(timedelta(seconds=10))

    ticking = asyncio.create_task(tick())
    try:
        await Archive(store).run(DAY)
    finally:
        ticking.cancel()


def points(total: int, most: int) -> list[int]:
    """Return at which writes the disk is full: the first, the last, and some between."""
    return sorted({1 + (total - 1) * number // max(1, most - 1) for number in range(most)})


@pytest.fixture
async def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    async with used(folder) as store:
        await fill(store, 4)
        await store.settle(5)
    return folder


async def told(doing: Awaitable[object]) -> PalaverError | None:
    """Return the error a full disk was told with; any other is raised."""
    try:
        await doing
    except (StorageFull, OutcomeUnknown, Unavailable) as error:
        return error
    return None


def records(found: Keys) -> Keys:
    """Return keys without those of objects: what a refused write uploaded goes a while later."""
    return {name: found[name] for name in found if name != "objects"}


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "once"])
@pytest.mark.parametrize(
    ("act", "whole"),
    [(create, True), (batch, True), (bulk, False), (sweep, False), (archive, False)],
    ids=lambda each: getattr(each, "__name__", ""),
)
async def test_a_disk_full_at_any_write_of_it_leaves_nothing_half_done(
    base: Path, tmp_path: Path, disk: Room, act: Act, whole: bool, stays: bool
) -> None:
    async def done(name: str, at: int) -> Keys:
        folder = tmp_path / name
        shutil.copytree(base, folder)
        async with used(folder) as store:
            before = await keys(store)
            disk.fill(at, stays=stays)
            error = await told(act(store))
            meanwhile = await keys(store)
            if whole and not isinstance(error, OutcomeUnknown):
                assert (error is not None) is (records(before) == records(meanwhile)), "acknowledged and not there, or the other way"
            failures.append(disk.failed)
            disk.make()
            written.append(disk.writes)
            await act(store)
            await store.settle(5)
            now = await keys(store)
        assert now == await checked(folder)
        return now

    written: list[int] = []
    failures: list[int] = []
    wanted = await done("wanted", 0)
    for at in points(written[0], 6):
        found = await done(f"at{at}", at)
        assert records(wanted) == records(found)
    # The last ones may not be reached: how many writes become one commit is a matter of time.
    assert all(failures[1:4])


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "once"])
async def test_a_copy_into_a_full_disk_goes_on_when_there_is_room(base: Path, tmp_path: Path, disk: Room, stays: bool) -> None:
    async def copied(at: int) -> tuple[Keys, int]:
        folder = tmp_path / f"at{at}"
        folder.mkdir()
        clock = ManualClock(NOW)
        async with opened(url(base), clock=clock) as source, End.open(url(folder), SCHEMA, clock=clock) as target:
            disk.fill(at, stays=stays)
            await told(Copy(source, target, provision=True).run())
            disk.make()
            count = disk.writes
            clock.advance(timedelta(minutes=3))
            await Copy(source, target, provision=True).run()
        return await checked(folder), count

    wanted = await checked(base)
    _, total = await copied(0)
    for at in points(total, 6):
        assert wanted == (await copied(at))[0]


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "once"])
async def test_a_migration_on_a_full_disk_goes_on_when_there_is_room_and_ends_equal(tmp_path: Path, disk: Room, stays: bool) -> None:
    async def migrated(at: int) -> tuple[Any, int]:
        folder = tmp_path / f"at{at}"
        folder.mkdir()
        async with bed("sqlite", folder, ManualClock(NOW)) as place:
            await filled(place, MUCH.old, "Thing", MUCH.stored)
            planner = planner_of(MUCH.new)
            migrator = Migrator(planner, await place.open(tuple(planner.tables.values())), place.clock)
            disk.fill(at, stays=stays)
            error = await told(migrator.apply(await migrator.pending(MUCH.allow)))
            disk.make()
            count = disk.writes
            place.clock.advance(timedelta(seconds=11))
            if error is not None:
                await finish(place, MUCH)
            return await place.contents(MUCH.new, kept_columns(MUCH)), count

    wanted, total = await migrated(0)
    for at in points(total, 8):
        assert wanted == (await migrated(at))[0]


async def test_a_log_that_finds_no_room_in_the_file_keeps_everything(base: Path, disk: Room) -> None:
    """While the log is copied, and while the store is closed: who opens it next goes on from the log."""
    async with used(base) as store:
        await bulk(store)
        wanted = await keys(store)
        disk.fill(1, stays=True)
    assert disk.failed
    disk.make()
    assert wanted == await checked(base)
