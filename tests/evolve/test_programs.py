"""A program migrates its database as the command line does: it looks, accepts what is lost, applies, and asks where things stand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import JsonValue

import palaver
from palaver import Blob, RenamedFrom, Schema, Unique
from palaver.clock import from_ms
from palaver.errors import ConfigError, NotProvisioned, Unavailable, Validation
from palaver.evolve import plan_of, plan_text
from tests.evolve.cases import NOW, entity
from tests.stacks import fresh

FIRST = Schema("s", [entity("Thing", {"name": str, "mood": (str, "?")})], version=1)
SECOND = Schema("s", [entity("Thing", {"title": Annotated[str, RenamedFrom("name")]}, one=Unique("title"))], version=2)
THIRD = Schema("s", [entity("Thing", {"title": str, "n": (int, 0)}, one=Unique("title"))], version=3)
ENGINES = ("sqlite", "postgresql", "dynamodb")
CLOCK = palaver.ManualClock(NOW)


def words(found: Any) -> list[str]:
    return [action.words for action in found.actions]


async def fill(url: str, schema: Schema, *names: str) -> None:
    thing: Any = schema.entities["Thing"].entity
    async with palaver.open(url, schema=schema, migrate=True, maintain=False, clock=CLOCK) as store:
        for number, name in enumerate(names):
            await store.create(thing(id=f"{number}", name=name))


@pytest.fixture(params=ENGINES)
async def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with two records of the first version."""
    environ: dict[str, str] = {}
    made = fresh(request.param, tmp_path, environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    await fill(made, FIRST, "a", "b")
    return made


async def test_a_program_looks_accepts_the_losses_applies_and_asks_where_things_stand(url: str) -> None:
    plan = await palaver.migration(url, schema=SECOND)
    assert "column name of things becomes title" in words(plan)
    assert (("Thing.mood",), (), False, None) == (plan.kept, plan.unmet, plan.automatic, plan.under_way)
    before = await palaver.migration_status(url, schema=SECOND)
    assert (False, words(plan), None) == (before.fits, words(before), before.refused)
    assert (1, FIRST.fingerprint) == (before.stored_version, before.stored_fingerprint)

    told: list[tuple[str, int]] = []
    done = await palaver.migrate(
        url, schema=SECOND, allow_data_loss=plan.kept, progress=lambda *step: told.append(step), clock=palaver.ManualClock(NOW)
    )

    assert {*words(plan), "column mood of things goes, with its values"} == {*words(done)}
    assert [(step, 0) for step in words(done)] == [each for each in told if each[1] == 0]
    assert 2 <= sum(records for _, records in told)
    after = await palaver.migration_status(url, schema=SECOND)
    assert (True, (), SECOND.fingerprint, "") == (after.fits, after.actions, after.stored_fingerprint, after.turn)
    (applied,) = after.applied
    assert (2, NOW) == (applied.version, from_ms(applied.at_ms))
    assert () == (await palaver.migrate(url, schema=SECOND)).actions
    async with palaver.open(url, schema=SECOND, maintain=False, clock=CLOCK) as store:
        thing: Any = SECOND.entities["Thing"].entity
        assert "1" == (await store.get(thing.one("b"))).id


async def test_a_reviewed_plan_is_applied_exactly_or_refused(url: str) -> None:
    reviewed = plan_text(await palaver.migration(url, schema=SECOND))
    with pytest.raises(ConfigError, match="says itself what is lost"):
        await palaver.migrate(url, schema=SECOND, plan=plan_of(json.loads(reviewed)), allow_data_loss=["Thing.mood"])
    done = await palaver.migrate(url, schema=SECOND, plan=plan_of(json.loads(reviewed)))
    assert [each["words"] for each in json.loads(reviewed)["actions"]] == words(done)
    with pytest.raises(NotProvisioned, match="no longer what the plan was made against"):
        await palaver.migrate(url, schema=SECOND, plan=plan_of(json.loads(reviewed)))


async def test_the_program_of_before_is_told_whose_turn_it_is_and_leads_back(url: str) -> None:
    await palaver.migrate(url, schema=SECOND)
    behind = await palaver.migration_status(url, schema=FIRST)
    assert behind.refused is not None
    assert "version 2 of schema s" in behind.refused.message
    assert (False, (), 2, SECOND.fingerprint) == (behind.fits, behind.actions, behind.stored_version, behind.stored_fingerprint)
    assert f"version 2 ({SECOND.fingerprint})" in behind.turn
    assert "palaver migrate undo" in behind.turn

    await palaver.migrate(url, schema=THIRD)
    further = await palaver.migration_status(url, schema=FIRST)
    assert f"version 2 ({SECOND.fingerprint}) first" in further.turn
    with pytest.raises(NotProvisioned, match=r"No migration is recorded"):
        await palaver.migrate(url, schema=FIRST, undo=True)

    await palaver.migrate(url, schema=SECOND, undo=True)
    back = await palaver.migration(url, schema=FIRST, undo=True)
    assert words(back) == words(await palaver.migrate(url, schema=FIRST, undo=True))
    assert (await palaver.migration_status(url, schema=FIRST)).fits


async def test_records_that_do_not_fit_are_counted_in_the_plan_and_refuse_it(url: str) -> None:
    thing: Any = FIRST.entities["Thing"].entity
    async with palaver.open(url, schema=FIRST, maintain=False, clock=CLOCK) as store:
        await store.create(thing(id="x", name="a"))
    plan = await palaver.migration(url, schema=SECOND)
    (unmet,) = plan.unmet
    assert "1 stored record holds a value that another one holds" in unmet
    with pytest.raises(NotProvisioned, match="1 stored record holds"):
        await palaver.migrate(url, schema=SECOND)
    assert words(plan) == words(await palaver.migration(url, schema=SECOND))


async def test_one_that_was_cut_off_goes_on_and_says_so(url: str) -> None:
    class Stop(Exception):
        """What a program's own progress raises."""

    def stop(step: str, records: int) -> None:
        if step.startswith("reserve"):
            raise Stop

    with pytest.raises(Stop):
        await palaver.migrate(url, schema=SECOND, progress=stop)
    status = await palaver.migration_status(url, schema=SECOND)
    assert status.plan is not None
    done = status.plan.under_way
    assert done
    assert words(status.plan)[done:] == words(status)
    assert "`palaver migrate apply` goes on with it" in status.turn
    other = await palaver.migration_status(url, schema=FIRST)
    assert other.refused is not None
    assert f"version 2 ({SECOND.fingerprint})" in other.turn
    with pytest.raises(NotProvisioned, match="has not ended"):
        await palaver.migration(url, schema=FIRST)
    assert done == (await palaver.migrate(url, schema=SECOND)).under_way
    assert (await palaver.migration_status(url, schema=SECOND)).fits


@pytest.mark.parametrize("ask", [palaver.migration, palaver.migrate, palaver.migration_status])
def test_no_database_is_made_and_what_is_not_there_is_said(tmp_path: Path, ask: Callable[..., Any]) -> None:
    with pytest.raises(Unavailable, match="does not exist"):
        asyncio.run(ask(f"{tmp_path}/no.db", schema=FIRST))
    with pytest.raises(ConfigError, match="in memory"):
        asyncio.run(ask("memory:", schema=FIRST))
    assert [] == list(tmp_path.iterdir())


async def test_what_is_no_schema_or_no_plan_is_named_by_its_type() -> None:
    wrong: Any = palaver
    with pytest.raises(Validation, match=r"a schema, not module\. Give the Schema"):
        await palaver.migration("no.db", schema=wrong)
    wrong = "plan.json"
    with pytest.raises(Validation, match=r"a plan, not str\. .*plan_of"):
        await palaver.migrate("no.db", schema=FIRST, plan=wrong)


async def test_a_url_without_what_the_schema_needs_is_refused_before_anything_is_changed(
    tmp_path: Path,
) -> None:
    url = fresh("postgresql", tmp_path, {}).partition("&blobs=")[0]
    schema = Schema("s", [entity("Thing", {"body": Annotated[JsonValue, Blob("things/{id}")]})])
    with pytest.raises(ConfigError, match="needs the option blobs"):
        await palaver.migrate(url, schema=schema)
    status = await palaver.migration_status(url, schema=schema)
    assert ((), None) == (status.applied, status.stored_version)
    assert "table things" in words(status)


@pytest.mark.parametrize("ask", [palaver.migration, palaver.migrate])
async def test_losses_that_are_no_list_are_refused(ask: Callable[..., Any]) -> None:
    with pytest.raises(Validation, match="list of what may be lost"):
        await ask("no.db", schema=FIRST, allow_data_loss="Thing.name")


def test_the_url_is_that_of_the_environment_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAVER_URL", f"sqlite:///{tmp_path}/x.db")
    asyncio.run(fill(f"sqlite:///{tmp_path}/x.db", FIRST, "a"))
    assert "column name of things becomes title" in words(asyncio.run(palaver.migrate(schema=SECOND)))
