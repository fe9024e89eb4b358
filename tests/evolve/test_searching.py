"""What is found after the table it lies in was renamed, and bugs planted in a migration that the facts beside it see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest

import palaver
from palaver import Schema, Search, Searchable, Source
from palaver.clock import SystemClock
from palaver.connections.sqlite import Database
from palaver.migrating import Migrator, filling
from palaver.plan import Planner
from palaver.records.sqlite import SqliteRecords
from tests.evolve import test_interrupted as interrupted
from tests.evolve.beds import bed
from tests.evolve.cases import NOW, entity
from tests.evolve.test_migrated import filled, reads

TEXT = {"text": Annotated[str, Searchable()]}


def searched(name: str, table: str, renamed_from: str | None = None) -> Schema:
    made = entity(name, TEXT, table=table, renamed_from=renamed_from)
    return Schema("s", [made], searches=[Search("texts", Source(made))])


async def test_a_record_is_found_in_the_table_of_its_new_name(tmp_path: Path) -> None:
    old, new = searched("Note", "notes"), searched("Page", "pages", "notes")
    url = f"sqlite:///{tmp_path}/notes.db?sync=normal"
    note: Any = old.entities["Note"].entity
    async with palaver.open(url, schema=old, maintain=False) as store:
        await store.create(note(id="1", text="a walk in the woods"))
        await store.settle()
        assert ["1"] == [hit.entity.id for hit in (await store.search("texts", "woods")).hits]  # type: ignore[attr-defined]
    planner = Planner(new)
    records = SqliteRecords(await Database.open(tmp_path / "notes.db"), tuple(planner.tables.values()))
    migrator = Migrator(planner, records, SystemClock())
    plan = await migrator.pending()
    assert "rebuild the projection search" in [action.words for action in plan.actions]
    await migrator.apply(plan)
    await records.aclose()
    for _ in range(2):
        async with palaver.open(url, schema=new, maintain=False) as store:
            results = await store.search("texts", "woods")
            assert (["1"], 1) == ([hit.entity.id for hit in results.hits], results.total)  # type: ignore[attr-defined]


async def _once(self: Any, words: str, state: Any, keep: Any, visit: Any) -> None:
    """A sweep that never looks at what changed meanwhile."""


async def test_a_planted_sweep_that_forgets_what_changed_meanwhile_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palaver import ManualClock

    monkeypatch.setattr(filling.Sweep, "_catch_up", _once)
    async with bed("memory", tmp_path, ManualClock(NOW)) as place:
        with pytest.raises(AssertionError):
            await interrupted.test_what_is_written_while_records_are_filled_is_filled_too(place)


async def test_a_planted_migration_that_forgets_its_position_is_seen_to_end_equal_all_the_same(tmp_path: Path) -> None:
    """A position only saves work: whatever it says, doing an action again changes nothing."""
    from palaver import ManualClock

    async with bed("memory", tmp_path, ManualClock(NOW)) as place:
        await filled(place, interrupted.MUCH.old, "Thing", interrupted.MUCH.stored)
        assert await interrupted.die(place, interrupted.MUCH, 20)
        migrator = await place.migrator(interrupted.MUCH.new)
        run = await migrator._stored_run()
        assert run is not None
        run.done, run.state = 0, {}
        await migrator._save(run, until_ms=0)
        await interrupted.finish(place, interrupted.MUCH)
        await reads(await place.store(interrupted.MUCH.new), interrupted.MUCH, "Thing")
