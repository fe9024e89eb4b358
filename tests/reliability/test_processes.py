"""Several processes on one file, and a process that forks, cancels, loses its loop or is in too much of a hurry."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.errors import ConfigError, Throttled
from palaver.ops import Change
from palaver.records.sqlite import SqliteRecords
from palaver.store import Store
from tests.reliability.app import SCHEMA, Account, Left, Note, Owner
from tests.reliability.examine import Later, Run, check_file, settled
from tests.reliability.results import publish
from tests.reliability.tracing import Ended, Victims
from tests.reliability.workload import everything


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Victims, Victims]]:
    with Victims() as one, Victims() as other:
        yield one, other


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA, maintain=False) as store:
        yield store


async def prepared(url: str) -> None:
    async with palaver.open(url, schema=SCHEMA, maintain=False) as store:
        await store.create(Account(worker=99, name="shared"))


def raced(pair: tuple[Victims, Victims], folder: Path, count: int, kill_after: int | None = None, **order: Any) -> list[Ended]:
    """Let two processes race on one file; kill the first once it has said so many bytes, where asked to."""
    url = f"sqlite:///{folder}/a.db"
    asyncio.run(prepared(url))
    pids = []
    for me, victims in enumerate(pair):
        (folder / str(me)).mkdir()
        pids.append(victims.start(Run(0, count=count), url, folder / str(me), mode="race", me=me, both=str(folder / "both"), **order))
    for me in range(2):
        wait_until_said(folder / str(me) / "said", 1)
    (folder / "both").touch()
    if kill_after is not None:
        wait_until_said(folder / "0" / "said", kill_after)
        os.kill(pids[0], signal.SIGKILL)
    return [victims.join() for victims in pair]


def wait_until_said(said: Path, size: int) -> None:
    until = time.monotonic() + 30
    while not said.exists() or said.stat().st_size < size:
        assert time.monotonic() < until, "the process does not get on"
        time.sleep(0.001)


def overlaps(ended: list[Ended]) -> int:
    """Return how many times two processes applied changes at the same moment."""
    spans = [(*span, me) for me, one in enumerate(ended) for span in one.told("applied")]
    return sum(
        1
        for number, (start, end, me) in enumerate(spans)
        for other_start, other_end, other in spans[:number]
        if me != other and start < other_end and other_start < end
    )


async def feed(store: Store) -> list[Change]:
    changes: list[Change] = []
    after = None
    while page := (await store.core.records.changes(after, 500)).changes:
        changes += page
        after = page[-1].position
    return changes


def check_feed(changes: list[Change], owners: list[Owner], added: int) -> None:
    """Positions rise and are never used twice; of each record every write is there once, its revisions rising."""
    positions = [change.position for change in changes]
    assert sorted(set(positions)) == positions
    revisions: dict[Any, list[int]] = {}
    for change in changes:
        revisions.setdefault((change.table, change.key), []).append(change.revision)
    assert all(sorted(set(found)) == found for found in revisions.values())
    assert {(owner.worker, owner.name) for owner in owners} == {key for table, key in revisions if table == "owners"}
    assert added + 1 == len(revisions["accounts", (99, "shared")])


async def check_race(folder: Path, ended: list[Ended], count: int) -> int:
    """Compare the file with what two processes heard; return how many writes they heard of."""
    async with palaver.open(f"sqlite:///{folder}/a.db", schema=SCHEMA, maintain=False, clock=Later()) as store:
        owners = await everything(store, Owner)
        won = [(me, number) for me, one in enumerate(ended) for number in one.told("won")]
        assert len(won) == len({number for _, number in won}), "two processes won one unique name"
        assert set(won) <= {(owner.worker, int(owner.name)) for owner in owners}
        assert len(owners) == len({owner.handle for owner in owners}) == count
        counter = (await store.get(Account.at(99, "shared"))).amount
        heard = sum(len(one.told("added")) for one in ended)
        killed = sum(one.status != 0 for one in ended)
        assert heard <= counter <= heard + 8 * killed, "writes were lost or doubled"
        check_feed(await feed(store), owners, counter)
        await settled(store)
    check_file(folder / "a.db")
    return heard + len(won)


def test_two_processes_race_without_losing_or_doubling(pair: tuple[Victims, Victims], tmp_path: Path) -> None:
    ended = raced(pair, tmp_path, 200)
    assert [0, 0] == [one.status for one in ended], ended[0].log + ended[1].log
    assert [] == ended[0].errors + ended[1].errors
    assert 200 == sum(len(one.told("won")) for one in ended) == sum(len(one.told("beaten")) for one in ended)
    asyncio.run(check_race(tmp_path, ended, 200))


def test_one_process_at_a_time_runs_a_projection(pair: tuple[Victims, Victims], tmp_path: Path) -> None:
    ended = raced(pair, tmp_path, 40)
    assert any(one.told("applied") for one in ended)
    assert 0 == overlaps(ended)


def test_another_process_takes_a_projection_over_when_one_is_killed(pair: tuple[Victims, Victims], tmp_path: Path) -> None:
    """The one that is left goes on after the lease, and comes to its end with nothing missing."""
    ended = raced(pair, tmp_path, 400, kill_after=1_000, lease_ms=400)
    assert [-9, 0] == [one.status for one in ended], ended[1].log
    assert [] == ended[1].errors
    assert ended[1].told("applied")
    asyncio.run(check_race(tmp_path, ended, 400))


@pytest.mark.soak
def test_processes_race_many_times(pair: tuple[Victims, Victims], tmp_path: Path) -> None:
    heard = together = 0
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        ended = raced(pair, folder, 400, kill_after=1 + number * 250 if number % 2 else None, lease_ms=400)
        heard += asyncio.run(check_race(folder, ended, 400))
        together += overlaps(ended) if not number % 2 else 0
    assert 0 == together
    publish("processes", {"races": 20, "writes": heard, "lost": 0, "doubled": 0, "projections_at_once": together})


# --- one process ----------------------------------------------------------------------------------------------------


async def test_a_forked_child_is_refused_and_the_parent_goes_on(store: Store) -> None:
    child = os.fork()
    if not child:
        status = 1
        try:
            # The loop is the parent's, and so is this task: it may be looked at, not run.
            store.find(Left.at(1, 1)).send(None)
        except ConfigError:
            status = 7
        finally:
            os._exit(status)
    assert 7 == os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1])
    await store.create(Left(worker=1, number=1))
    assert await store.find(Left.at(1, 1)) is not None


async def test_another_loop_is_refused_by_every_verb(store: Store) -> None:
    async def verbs() -> list[type[BaseException]]:
        left = Left(worker=1, number=1)
        calls: list[Any] = [
            store.create(left),
            store.find(left.address),
            store.count(Left.key(1)),
            store.sweep(),
            store.settle(),
            store.health(),
        ]
        return [type(found) for found in await asyncio.gather(*calls, return_exceptions=True)]

    assert [ConfigError] * 6 == await asyncio.to_thread(asyncio.run, verbs())


async def test_a_cancelled_write_is_wholly_there_or_not_at_all(store: Store) -> None:
    """Cancelled at any moment: the batch was taken or it was not, and the store goes on."""

    async def write(number: int) -> None:
        await store.write(palaver.Batch().create(Left(worker=1, number=number)).create(Left(worker=2, number=number)))

    for number in range(40):
        task = asyncio.ensure_future(write(number))
        for _ in range(number % 8):
            await asyncio.sleep(0)
        if number % 3:
            await asyncio.sleep(number % 5 / 5_000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await store.create(Left(worker=3, number=1))
    lefts = await everything(store, Left)
    assert {left.number for left in lefts if left.worker == 1} == {left.number for left in lefts if left.worker == 2}
    changes = await feed(store)
    assert {(left.worker, left.number) for left in lefts} == {change.key for change in changes}


def test_a_loop_that_ends_in_the_middle_loses_nothing_acknowledged(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    acknowledged: list[int] = []

    async def careless() -> None:
        enough = asyncio.Event()
        store = await palaver.open(url, schema=SCHEMA, maintain=True)

        async def write(start: int) -> None:
            for number in count(start, 300):
                await store.create(Left(worker=1, number=number))
                acknowledged.append(number)
                if len(acknowledged) >= 20:
                    enough.set()

        tasks = [asyncio.ensure_future(write(start)) for start in range(300)]
        await enough.wait()
        # Neither the tasks are awaited nor the store closed: the loop cancels and closes.
        assert not all(task.done() for task in tasks)

    asyncio.run(careless())

    async def look() -> None:
        async with palaver.open(url, schema=SCHEMA, maintain=False, clock=Later()) as store:
            assert set(acknowledged) <= {left.number for left in await everything(store, Left)}

    asyncio.run(look())
    assert len(acknowledged) >= 20


async def test_a_full_queue_is_throttled_and_what_was_refused_is_not_written(store: Store) -> None:
    records = store.core.records
    assert isinstance(records, SqliteRecords)
    records.database.options = replace(records.database.options, queue_batches=4, wait_s=0.0)
    found = await asyncio.gather(*(store.create(Left(worker=1, number=number)) for number in range(200)), return_exceptions=True)
    refused = [number for number, result in enumerate(found) if isinstance(result, Throttled)]
    written = [number for number, result in enumerate(found) if isinstance(result, Left)]
    assert refused
    assert written
    assert 200 == len(refused) + len(written)
    assert written == sorted(left.number for left in await everything(store, Left))
    records.database.options = replace(records.database.options, queue_batches=10_000, wait_s=10.0)
    for number in refused:
        await store.create(Left(worker=1, number=number))
    assert 200 == await store.count(Left.key(1))


async def test_notes_of_a_parent_that_is_being_deleted_are_never_left_over(tmp_path: Path) -> None:
    """Two stores at once: one deletes parents while the other adds children to them."""
    url = f"sqlite:///{tmp_path}/a.db"
    async with palaver.open(url, schema=SCHEMA) as one, palaver.open(url, schema=SCHEMA) as other:
        for number in range(20):
            await one.create(Owner(worker=0, name=f"o{number}", handle=f"h{number}"))

        async def add(number: int, child: int) -> None:
            await other.create(Note(worker=0, owner=f"o{number}", note_id=f"n{child}"))

        calls: list[Any] = [add(number, child) for number in range(20) for child in range(5)]
        calls += [one.delete(Owner.at(0, f"o{number}")) for number in range(0, 20, 2)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        await one.sweep()
        await other.sweep()
        owners = {owner.name for owner in await everything(one, Owner)}
        assert {f"o{number}" for number in range(1, 20, 2)} == owners
        notes = await everything(one, Note)
        assert {note.owner for note in notes} <= owners, "a child outlived its parent"
        added = [(number, child) for number in range(1, 20, 2) for child in range(5)]
        assert {(f"o{number}", f"n{child}") for number, child in added} <= {(note.owner, note.note_id) for note in notes}
        assert all(result is None or isinstance(result, palaver.PalaverError) for result in found), found
