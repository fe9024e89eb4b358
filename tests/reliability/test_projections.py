"""Whatever happens between a change and what is built from it, in the end that is what the records say."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.clock import ManualClock
from palaver.errors import Unavailable
from palaver.feed import Projection
from palaver.insight.metrics import Metrics, metrics
from palaver.ops import Change, ChangePage, Op
from palaver.records.sqlite import SqliteRecords
from palaver.store import Store
from tests.insight.app import MEASURES, SCHEMA as INSIGHT, Metric, call, message
from tests.reliability.app import CANARY, SCHEMA, Note, Owner
from tests.reliability.examine import Later, Run, indexed, objects_agree, recomputed
from tests.reliability.results import publish
from tests.reliability.workload import perform, steps


def note(number: int, **fields: Any) -> Note:
    return Note(worker=0, owner="o", note_id=f"n{number}", text=f"{CANARY} word{number}", **fields)


async def agrees(store: Store) -> None:
    """The index holds what the records say, and the same when it is built anew."""
    assert await recomputed(store) == await indexed(store)
    await store.rebuild("search")
    assert await recomputed(store) == await indexed(store)


async def test_the_newest_document_may_change_together_with_a_new_one(tmp_path: Path) -> None:
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA, maintain=False) as store:
        await store.create(Owner(worker=0, name="o", handle="h"))
        first = await store.create(note(1))
        await store.settle()
        await store.create(note(2))
        await store.patch(first, add={"n": 1})
        await store.settle(2)
        await agrees(store)


class Unreliable:
    """A projection whose changes come late, twice, in another order, one by one, and whose work is cut off.

    The order of the changes of one record is kept: that is what the feed promises.
    """

    def __init__(self, inner: Projection, chance: random.Random) -> None:
        self.inner, self.chance = inner, chance
        self.name = inner.name
        self.faults = 0

    async def apply(self, changes: Sequence[Change]) -> Sequence[Op]:
        fault = self.chance.randrange(6)
        self.faults += fault > 0
        match fault:
            case 1:
                raise Unavailable("before the work")
            case 2:
                await self.inner.apply(changes)
                raise Unavailable("after the work, before the position")
            case 3:
                await self.inner.apply(self._shuffled(changes))
            case 4:
                # What another process with an old lease would still do meanwhile.
                some = list(changes[: len(changes) // 2])
                await asyncio.gather(self.inner.apply(changes), self.inner.apply(some))
            case 5:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.inner.apply(changes), self.chance.random() * 0.003)
        return await self.inner.apply(changes)

    def _shuffled(self, changes: Sequence[Change]) -> list[Change]:
        keyed = [(self.chance.random(), change) for change in changes]
        first: dict[Any, float] = {}
        for place, change in keyed:
            first.setdefault((change.table, change.key), place)
        return [change for _, change in sorted(keyed, key=lambda pair: (first[pair[1].table, pair[1].key], pair[1].position))]

    async def rebuild(self) -> None:
        await self.inner.rebuild()


async def converge(folder: Path, seed: int, count: int = 25) -> int:
    """Write under faults, then without; return how many faults there were."""
    run = Run(seed, count=count)
    chance = random.Random(seed)
    async with palaver.open(f"sqlite:///{folder}/{seed}.db", schema=SCHEMA, maintain=False) as store:
        runner = store.runner()
        wrapped = {name: Unreliable(projection, chance) for name, projection in runner.projections.items()}
        runner.projections.update(wrapped)
        for number in range(run.count):
            for worker in range(run.workers):
                await perform(store, worker, number, steps(seed, worker, run.count)[number])
            await runner.step()
        await store.sweep()
        for _ in range(200):
            if await runner.step() == 0 and not runner._errors:
                break
        await store.settle(10)
        for name, projection in wrapped.items():
            runner.projections[name] = projection.inner
        await agrees(store)
        await objects_agree(store, 0)
        return sum(projection.faults for projection in wrapped.values())


async def test_projections_converge_after_faults(tmp_path: Path) -> None:
    for seed in (1, 2):
        try:
            assert await converge(tmp_path, seed) > 10
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.soak
async def test_projections_converge_after_many_faults(tmp_path: Path) -> None:
    faults, runs = 0, range(300, 330)
    for seed in runs:
        try:
            faults += await converge(tmp_path, seed, 40)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    publish("projections", {"runs": len(runs), "faults": faults, "differences": 0})


async def test_a_page_of_changes_that_was_dropped_is_made_up_for_by_rebuilding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can notice a feed that loses a page: but building anew needs no feed at all."""
    changes = SqliteRecords.changes

    async def drops(self: SqliteRecords, after: int | None, limit: int) -> ChangePage:
        page = await changes(self, after, limit)
        return page._replace(changes=page.changes[::2])

    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA, maintain=False) as store:
        await store.create(Owner(worker=0, name="o", handle="h"))
        for number in range(20):
            await store.create(note(number))
        with monkeypatch.context() as planted:
            planted.setattr(SqliteRecords, "changes", drops)
            await store.settle()
            assert await recomputed(store) != await indexed(store)
        await store.rebuild("search")
        await agrees(store)


async def test_a_feed_trimmed_to_nothing_leads_to_rebuilding(tmp_path: Path) -> None:
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA, maintain=False) as store:
        await store.create(Owner(worker=0, name="o", handle="h"))
        await store.create(note(1))
        await store.settle()
        for number in range(2, 9):
            await store.create(note(number))
        await store.delete(Note.at(0, "o", "n1"))
        records = store.core.records
        assert isinstance(records, SqliteRecords)
        await records.trim((await records.changes(None, 0)).head + 1)
        assert [] == (await records.changes(None, 10)).changes
        await store.settle()
        await agrees(store)


async def test_building_anew_may_take_longer_than_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process runs meanwhile and would take the lease as soon as it is over."""
    monkeypatch.setattr("palaver.feed.LEASE_MS", 1_000)
    url = f"sqlite:///{tmp_path}/a.db"
    async with palaver.open(url, schema=SCHEMA, maintain=False) as one, palaver.open(url, schema=SCHEMA, maintain=False) as other:
        await one.create(Owner(worker=0, name="o", handle="h"))
        for number in range(5):
            await one.create(note(number))
        projection = one.runner().projections["search"]
        rebuild = projection.rebuild

        async def slow() -> None:
            await rebuild()
            for _ in range(30):
                await asyncio.sleep(0.08)
                await other.runner().step()
                assert "search" not in other.runner()._leases, "the lease was lost in the middle"

        monkeypatch.setattr(projection, "rebuild", slow)
        await one.rebuild("search")
        await agrees(other)


async def test_a_projection_killed_between_its_work_and_its_position_goes_on(tmp_path: Path) -> None:
    """The next process waits for the lease to end, then does the work again, and it comes to the same."""
    url = f"sqlite:///{tmp_path}/a.db"
    async with palaver.open(url, schema=SCHEMA, maintain=False) as store:
        await store.create(Owner(worker=0, name="o", handle="h"))
        await store.create(note(1, payload={"body": "x" * 500}))
        await store.delete(Note.at(0, "o", "n1"))
        await store.create(note(2))
        runner = store.runner()
        for name, projection in runner.projections.items():
            lease = await runner._hold(name)
            assert lease is not None
            await projection.apply((await store.core.records.changes(lease.position, 100)).changes)
        # As after kill -9: nobody gives the leases back.
        runner._leases.clear()
    async with palaver.open(url, schema=SCHEMA, maintain=False, clock=Later()) as store:
        await store.settle()
        await agrees(store)
        await objects_agree(store, 0)


async def test_metrics_count_each_fact_once_after_faults(tmp_path: Path) -> None:
    noon = datetime(2026, 3, 10, 12, tzinfo=UTC)
    for seed in (1, 2, 3):
        chance = random.Random(seed)
        opening = palaver.open(
            f"sqlite:///{tmp_path}/{seed}.db",
            schema=INSIGHT,
            clock=ManualClock(noon),
            projections=[metrics(Metric, MEASURES)],
            maintain=False,
        )
        async with opening as store:
            runner = store.runner()
            wrapped = Unreliable(runner.projections["metrics"], chance)
            runner.projections["metrics"] = wrapped
            for number in range(60):
                await store.create(call(number, noon, latency=chance.random() * 100))
                await store.create(message(number, noon, intent="fixtures" if number % 2 else None))
                if number % 3 == 0:
                    await runner.step()
            for _ in range(200):
                if await runner.step() == 0 and not runner._errors:
                    break
            await store.settle()
            assert wrapped.faults > 3, f"seed {seed}"
            counted = await Metrics(store, Metric).read(noon.date(), noon.date())
            by_name = {point.name: point.values.count for point in counted}
            assert {"llm": 60, "messages": 60, "fixtures": 30} == {name: by_name[name] for name in ("llm", "messages", "fixtures")}, (
                f"seed {seed}"
            )
            runner.projections["metrics"] = wrapped.inner
            await store.rebuild("metrics")
            assert counted == await Metrics(store, Metric).read(noon.date(), noon.date()), f"seed {seed}"
