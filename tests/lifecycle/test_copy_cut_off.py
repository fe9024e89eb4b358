"""A copy that is cut off, throttled or without room says so, and goes on where it was."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.errors import ReadOnly, StorageFull, Unavailable
from palaver.lifecycle import copy_pace
from palaver.lifecycle.copy import Copy
from palaver.lifecycle.copy_ends import INTO, End
from palaver.ops import Put, WriteSet
from palaver.testing.faulty import Faults, Faulty
from tests.lifecycle.app import SCHEMA
from tests.lifecycle.copying import Two, credentials, files, sqlite, stack, two

__all__ = ["credentials", "files", "stack", "two"]


async def test_a_network_that_fails_anywhere_only_makes_it_slower(two: Two) -> None:
    source, target = two.source.core.records, two.target.core.records
    two.source.core.records = Faulty(source, 3, Faults(unavailable=0.1, throttled=0.1))
    two.target.core.records = Faulty(target, 4, Faults(unavailable=0.1, throttled=0.1, outcome_unknown=0.1))
    report = await two.copy()
    assert report.finished
    assert report.throttled
    two.source.core.records, two.target.core.records = source, target
    await two.same()


async def _forget_the_dead(two: Two) -> None:
    """Do what time does: the lease of a copier that is gone runs out."""
    record = (await two.target.records.get((INTO,)))[0]
    if record is not None:
        body: Any = {**record["body"], "holder": None}  # type: ignore[dict-item]
        await two.target.records.write(WriteSet((Put(INTO, {"scope": "copy", "name": "into", "body": body}),), 1))


async def test_a_target_that_throttles_is_asked_less_at_once() -> None:
    pace = copy_pace.Pace()
    calls = 0

    async def call() -> int:
        nonlocal calls
        calls += 1
        if calls <= 3:
            raise palaver.errors.Throttled
        return calls

    assert 4 == await pace.run(call)
    assert (1, 3) == (pace.allowed, pace.throttled)
    for _ in range(copy_pace.GROW_AFTER * 3):
        await pace.run(call)
    assert 4 == pace.allowed


async def test_no_more_calls_run_at_once_than_are_allowed() -> None:
    pace, running, most = copy_pace.Pace(most=3), 0, 0

    async def call() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    await asyncio.gather(*(pace.run(call) for _ in range(20)))
    assert 3 == most


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pages, each noted: more points at which something can go wrong."""
    monkeypatch.setattr("palaver.lifecycle.copy_records.SCAN", 5)
    monkeypatch.setattr("palaver.lifecycle.copy_progress.SAVE_EVERY_S", 0.0)


@pytest.mark.usefixtures("small_steps")
async def test_a_page_that_could_not_be_stored_is_not_taken_for_stored(files: Two) -> None:
    engine: Any = files.target.core.records
    left = 0

    async def restore(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if not left:
            raise StorageFull("The disk is full.")
        return await engine.restore(*arguments, **options)

    full: Any = Faulty(engine, 1)
    full.restore = restore
    files.target.core.records = full
    failed = 0
    for page in (3, 9, 5, 4, 6, 8, 2):
        left = page
        try:
            await files.copy()
        except StorageFull:
            failed += 1
    assert failed > 3
    files.target.core.records = engine
    assert (await files.copy()).finished
    await files.same()


@pytest.mark.usefixtures("small_steps")
async def test_a_side_that_stays_away_ends_the_copy_and_it_goes_on_later(files: Two) -> None:
    engine = files.target.core.records

    class Cut(Faulty):
        left = 40

        async def _around(self, work: Any, *, writes: bool = False) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Unavailable("The network is cut.")
            return await work()

    files.target.core.records = Cut(engine, 1)
    files.target.pace = copy_pace.Pace(patience_s=0.2)
    with pytest.raises(Unavailable):
        await files.copy()
    files.target.core.records = engine
    await _forget_the_dead(files)
    report = await files.copy()
    assert report.resumed
    await files.same()


async def test_a_target_without_room_says_so_and_the_copy_goes_on_when_there_is_some(files: Two) -> None:
    database: Any = files.target.records.database  # type: ignore[attr-defined]
    pages = await database.write(lambda connection: connection.execute("PRAGMA page_count").fetchall()[0][0])
    await database.write(lambda connection: connection.execute(f"PRAGMA max_page_count={pages + 8}").fetchall())
    with pytest.raises(StorageFull):
        await files.copy()
    await database.write(lambda connection: connection.execute("PRAGMA max_page_count=1000000").fetchall())
    assert (await files.copy()).finished
    await files.same()


async def test_a_target_that_cannot_be_written_says_so(files: Two, tmp_path: Path, stack: AsyncExitStack) -> None:
    target = await stack.enter_async_context(End.open(sqlite(tmp_path, "b"), SCHEMA, read_only=True))
    with pytest.raises(ReadOnly):
        await Copy(files.source, target).run()
