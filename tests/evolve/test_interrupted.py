"""A migration that is cut off anywhere goes on where it was, and ends equal; one at a time; while others write."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from palaver import ManualClock
from palaver.clock import us_of
from palaver.errors import Conflict, Duplicate, Fenced, NotProvisioned, OutcomeUnknown
from palaver.migrating import Migrator
from palaver.migrating.run import CURRENT
from palaver.ops import Put, Step, Update, WriteSet
from palaver.plan import Planner
from palaver.ports import RecordEngine
from tests.engines.redis_servers import until
from tests.evolve.all_cases import CASES
from tests.evolve.beds import Bed, bed, planner_of
from tests.evolve.cases import NOW, Case, entity, thing
from tests.evolve.test_migrated import filled, kept_columns, reads

BY_NAME = {case.name: case for case in CASES}
MUCH = BY_NAME["much at once"]
ROOT = Path(__file__).parent.parent.parent


class Gone(BaseException):
    """The process is no more."""


class Dying:
    """An engine whose process ends at a call: nothing is done any more, not even what cleans up."""

    def __init__(self, records: RecordEngine, at: int) -> None:
        self._records, self._left = records, at
        self.limits = records.limits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    def _call(self) -> None:
        self._left -= 1
        if self._left <= 0:
            raise Gone

    async def write(self, writes: WriteSet) -> Any:
        self._call()
        return await self._records.write(writes)

    async def apply(self, step: Step) -> None:
        self._call()
        await self._records.apply(step)


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Bed]:
    async with bed("memory", tmp_path, ManualClock(NOW)) as made:
        yield made


async def die(place: Bed, case: Case, at: int) -> bool:
    """Migrate until the process ends at a call; say whether it did."""
    planner = planner_of(case.new)
    records: Any = Dying(await place.open(tuple(planner.tables.values())), at)
    migrator = Migrator(planner, records, place.clock)
    try:
        await migrator.apply(await migrator.pending(case.allow))
    except Gone:
        return True
    return False


IN_IMAGES = [case for case in CASES if "in images of history" in case.name and not case.words]


@pytest.mark.parametrize("case", [MUCH, *IN_IMAGES], ids=lambda case: case.name)
async def test_a_migration_that_ends_at_any_call_goes_on_and_ends_equal(case: Case, tmp_path: Path) -> None:
    old, new = case.entity
    async with bed("memory", tmp_path, ManualClock(NOW)) as fresh:
        await filled(fresh, case.new, new, case.expected)
        wanted = await fresh.contents(case.new)
    ends, at = 0, 1
    while True:
        async with bed("memory", tmp_path, ManualClock(NOW)) as place:
            await filled(place, case.old, old, case.stored)
            died = await die(place, case, at)
            ends += died
            # Whoever held the lease is gone; after a while another may take it.
            place.clock.advance(timedelta(seconds=11))
            if died:
                await finish(place, case)
            assert wanted == await place.contents(case.new, kept_columns(case))
        if not died:
            break
        at += 1
    assert ends > (40 if case is MUCH else 8)


@pytest.mark.parametrize("at", [3, 9, 14, 22, 33])
async def test_a_migration_goes_on_on_every_engine(place: Bed, tmp_path: Path, at: int) -> None:
    await filled(place, MUCH.old, "Thing", MUCH.stored)
    assert await die(place, MUCH, at)
    place.clock.advance(timedelta(seconds=11))
    await finish(place, MUCH)
    await reads(await place.store(MUCH.new), MUCH, "Thing")


async def finish(place: Bed, case: Case) -> None:
    migrator = await place.migrator(case.new)
    await migrator.apply(await migrator.pending(case.allow))
    assert () == (await migrator.pending()).actions
    assert await migrator.under_way() is None


def run(file: Path, at: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.evolve.crash", str(file), MUCH.name, str(at)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


async def test_a_process_killed_at_any_step_leaves_what_another_goes_on_with(tmp_path: Path) -> None:
    from palaver.connections.sqlite import Database
    from palaver.records.sqlite import SqliteRecords

    source = tmp_path / "source.db"

    async def over(file: Path, planner: Planner) -> Bed:
        records = SqliteRecords(await Database.open(file), tuple(planner.tables.values()))

        async def make(tables: Any) -> RecordEngine:
            return SqliteRecords(await Database.open(file), tables)

        await records.aclose()
        return Bed(make, ManualClock(NOW))

    old = await over(source, Planner(MUCH.old))
    await filled(old, MUCH.old, "Thing", MUCH.stored)
    await old.close()
    async with bed("sqlite", tmp_path, ManualClock(NOW)) as fresh:
        await filled(fresh, MUCH.new, "Thing", MUCH.expected)
        wanted = await fresh.contents(MUCH.new)
    whole = tmp_path / "whole.db"
    shutil.copy(source, whole)
    calls = int(run(whole, 0).stdout)
    # Every step of the engine once, before it or after it, by turns; the memory engine takes every single call.
    for at in range(2, calls + 1, 7):
        file = tmp_path / f"{at}.db"
        shutil.copy(source, file)
        killed = run(file, at if at % 2 else -at)
        assert -9 == killed.returncode, killed.stderr
        # On this machine the holder of the lease is seen to be gone, so nobody waits.
        assert 0 == run(file, 0).returncode
        place = await over(file, Planner(MUCH.new))
        assert wanted == await place.contents(MUCH.new, kept_columns(MUCH)), at
        await place.close()


async def test_two_processes_do_not_migrate_at_once(memory: Bed) -> None:
    await filled(memory, MUCH.old, "Thing", MUCH.stored)
    assert await die(memory, MUCH, 12)
    other = await memory.migrator(MUCH.new)
    with pytest.raises(Conflict, match="Another process"):
        await other.apply(await other.pending())
    with pytest.raises(NotProvisioned, match="has not ended"):
        await memory.store(MUCH.new, changing=True)


class Overtaken:
    """An engine beside which another process takes the migration over: at the first record that is filled."""

    def __init__(self, records: RecordEngine) -> None:
        self._records = records
        self.limits = records.limits
        self.migrator: Migrator | None = None
        self.filled = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    async def write(self, writes: WriteSet) -> Any:
        if isinstance(writes.ops[0], Update):
            self.filled += 1
            if self.filled == 1:
                await self._take_over()
        return await self._records.write(writes)

    async def _take_over(self) -> None:
        (current,) = await self._records.get((CURRENT,))
        assert current is not None
        body: Any = {**cast("dict[str, Any]", current["body"]), "holder": "elsewhere/1/x"}
        mine: Any = {"scope": current["scope"], "name": current["name"], "body": body}
        await self._records.write(WriteSet([Put(CURRENT, mine)], us_of(ManualClock(NOW + timedelta(days=1)))))
        # The lease is not renewed any more, and whoever had it hears of that.
        await until(self._is_heard)

    async def _is_heard(self) -> bool:
        return self.migrator is not None and self.migrator._lost


async def test_who_lost_the_lease_of_a_migration_writes_nothing_more(memory: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(memory, MUCH.old, "Thing", MUCH.stored)
    monkeypatch.setattr("palaver.migrating.filling.AT_ONCE", 1)
    monkeypatch.setattr("palaver.migrating.run.LEASE_MS", 30)
    planner = planner_of(MUCH.new)
    records = Overtaken(await memory.open(tuple(planner.tables.values())))
    records.migrator = Migrator(planner, cast("Any", records), memory.clock)
    with pytest.raises(Fenced):
        await records.migrator.apply(await records.migrator.pending(MUCH.allow))
    assert 1 == records.filled
    (current,) = await records.get((CURRENT,))
    assert "elsewhere/1/x" == current["body"]["holder"]


async def test_a_plan_for_a_database_that_changed_since_is_refused(place: Bed) -> None:
    case = BY_NAME["a renamed field"]
    await filled(place, case.old, "Thing", case.stored)
    migrator = await place.migrator(case.new)
    plan = await migrator.pending()
    other = await place.migrator(BY_NAME["a new index"].new)
    await other.apply(await other.pending())
    again = await place.migrator(case.new)
    with pytest.raises(NotProvisioned, match="no longer what the plan"):
        await again.apply(plan)


async def test_a_plan_for_another_version_of_the_program_is_refused(memory: Bed) -> None:
    case = BY_NAME["a renamed field"]
    await filled(memory, case.old, "Thing", case.stored)
    plan = await (await memory.migrator(case.new)).pending()
    with pytest.raises(NotProvisioned, match="another version"):
        await (await memory.migrator(BY_NAME["a new index"].new)).apply(plan)


class Busy:
    """An engine beside which the application of the version before goes on: it writes after each page of a scan."""

    def __init__(self, records: RecordEngine, write: Any) -> None:
        self._records, self._write = records, write
        self.limits = records.limits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    async def scan(self, table: str, **options: Any) -> Any:
        page = await self._records.scan(table, **options)
        await self._write()
        return page


async def test_what_is_written_while_records_are_filled_is_filled_too(place: Bed) -> None:
    case = BY_NAME["a field with a default, indexed"]
    store = await place.store(case.old, changing=True)
    old: Any = case.old.entities["Thing"].entity
    await store.bulk([old(id=f"{n:03d}", n=n) for n in range(450)])
    planner, before = Planner(case.new), Planner(case.old)
    records = await place.open(tuple(planner.tables.values()))
    written: set[str] = set()

    async def write() -> None:
        # The first was visited already or is in the page being filled, one is new before the scan, one behind it.
        round_ = len(written)
        for id in ("000", f"00{round_}a", f"z{round_}"):
            op = Put(before.address(old.at(id), None), {"id": id, "n": 7})
            await records.write(WriteSet((op,), int(NOW.timestamp() * 1e6) + 1_000 + len(written)))
            written.add(id)

    busy: Any = Busy(records, write)
    migrator = Migrator(planner, busy, place.clock)
    await migrator.apply(await migrator.pending())
    assert len(written) >= 5
    store = await place.store(case.new)
    new: Any = case.new.entities["Thing"].entity
    found = {each.id: each.n async for each in store.query(new.by_x("?"))}
    assert {f"{n:03d}" for n in range(450)} | written == set(found)
    assert {7} == {found[id] for id in written}


async def test_a_value_taken_twice_meanwhile_ends_the_migration_and_is_told(memory: Bed) -> None:
    case = BY_NAME["a new unique set"]
    await filled(memory, case.old, "Thing", case.stored)
    planner = Planner(case.new)
    records = await memory.open(tuple(planner.tables.values()))

    class Meanwhile(Migrator):
        async def unmet(self, plan: Any) -> list[str]:
            found = await super().unmet(plan)
            store = await memory.store(case.old)
            await store.create(case.old.entities["Thing"].entity(id="x", name="name 1"))  # type: ignore[call-arg]
            return found

    migrator = Meanwhile(planner, records, memory.clock)
    plan = await migrator.pending()
    with pytest.raises(Duplicate, match="two stored records"):
        await migrator.apply(plan)
    await records.write(WriteSet((_delete(case, "x"),), int(NOW.timestamp() * 1e6) + 5))
    await finish(memory, case)


def _delete(case: Case, id: str) -> Any:
    from palaver.ops import Delete

    old: Any = case.old.entities["Thing"].entity
    return Delete(Planner(case.old).address(old.at(id), None))


async def test_an_older_program_reads_and_patches_and_puts_nothing(place: Bed) -> None:
    from palaver import Schema, Unique

    old = Schema("s", [entity("Thing", {"n": int}), entity("Other", {"n": int}, table="others")])
    new = Schema(
        "s",
        [entity("Thing", {"n": int, "x": (str, "?")}), entity("Other", {"n": int}, table="others", one=Unique("n"))],
        version=2,
    )
    thing_, other = (old.entities[name].entity for name in ("Thing", "Other"))
    store = await place.store(old, changing=True)
    await store.create(thing_(id="a", n=1))  # type: ignore[call-arg]
    await store.create(other(id="a", n=1))  # type: ignore[call-arg]
    newer = await place.store(new, changing=True)
    await newer.put(new.entities["Thing"].entity(id="b", n=2, x="kept"))  # type: ignore[call-arg]

    older = await place.store(old, changing=True)
    assert 2 == (await older.get(thing_.at("b"))).n  # type: ignore[attr-defined]
    await older.patch(thing_.at("b"), set={"n": 3})
    await older.delete(thing_.at("a"))
    for refused in (older.put(thing_(id="b", n=9)), older.create(thing_(id="c", n=9)), older.bulk([thing_(id="c", n=9)])):  # type: ignore[call-arg]
        with pytest.raises(NotProvisioned, match="newer program"):
            await refused
    assert 1 == (await older.get(other.at("a"))).n  # type: ignore[attr-defined]
    with pytest.raises(NotProvisioned, match="newer program"):
        await older.patch(other.at("a"), set={"n": 2})

    newest = await place.store(new, changing=True)
    found: Any = await newest.get(new.entities["Thing"].entity.at("b"))
    assert (3, "kept") == (found.n, found.x)


async def test_an_older_program_that_lacks_what_it_needs_is_refused(place: Bed) -> None:
    old, new = thing({"name": str}), BY_NAME["a renamed field"].new
    newer = type(new)("s", [new.entities["Thing"].entity], version=2)
    await filled(place, old, "Thing", [{"id": "1", "name": "x"}])
    migrator = await place.migrator(newer)
    await migrator.apply(await migrator.pending())
    with pytest.raises(NotProvisioned, match="version 2"):
        await place.store(old, changing=True)


async def test_a_table_with_jobs_waiting_keeps_its_name_until_they_are_done(memory: Bed) -> None:
    from palaver.system import system

    case = BY_NAME["a table of another name"]
    await filled(memory, case.old, "Thing", case.stored)
    job: Any = {"scope": "cascade", "name": "x", "body": {"table": "things", "key": ["1"]}, "due": 0}
    records = memory.engine
    assert records is not None
    await records.write(WriteSet((Put(system("cascade", "x"), job),), 1))
    migrator = await memory.migrator(case.new)
    with pytest.raises(NotProvisioned, match="palaver sweep"):
        await migrator.apply(await migrator.pending())


class Slow:
    """An engine whose steps take as long as some renewals of the lease, and that fails at every other of the writes that renew it."""

    def __init__(self, records: RecordEngine) -> None:
        self._records = records
        self.limits = records.limits
        self.renewals, self.busy = 0, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    async def apply(self, step: Step) -> None:
        self.busy, enough = True, self.renewals + 4
        await until(lambda: asyncio.sleep(0, self.renewals >= enough), 30)
        self.busy = False
        await self._records.apply(step)

    async def write(self, writes: WriteSet) -> Any:
        done = await self._records.write(writes)
        if self.busy and len(writes.ops) == 1 and isinstance(writes.ops[0], Put) and writes.ops[0].at == CURRENT:
            self.renewals += 1
            if self.renewals % 2:
                raise OutcomeUnknown("The answer was lost.")
        return done


async def test_a_lease_is_renewed_all_the_while_and_whatever_becomes_of_that(place: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palaver.migrating.run.LEASE_MS", 3)
    case = BY_NAME["a field with a default, indexed"]
    await filled(place, case.old, "Thing", case.stored)
    planner = planner_of(case.new)
    records: Any = Slow(await place.open(tuple(planner.tables.values())))
    migrator = Migrator(planner, records, place.clock)
    await migrator.apply(await migrator.pending())
    assert 3 < records.renewals
    assert await migrator.under_way() is None
    await reads(await place.store(case.new), case, "Thing")
