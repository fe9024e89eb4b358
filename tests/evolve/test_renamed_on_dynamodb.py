"""A table that is renamed where the engine renames none: the refusal names two ways, and both work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest

import palaver
from palaver import History, Index, RenamedFrom, Schema, Unique, days
from palaver.errors import NotProvisioned
from palaver.lifecycle.copy import Copy
from palaver.lifecycle.copy_ends import End
from palaver.lifecycle.copy_verify import verify
from tests.evolve.cases import entity
from tests.evolve.test_noticed import migrate
from tests.stacks import fresh

MORE: dict[str, Any] = {"by_name": Index("name", sort="n"), "one": Unique("name"), "h": History(days(3))}
OLD = Schema("s", [entity("Thing", {"name": str, "n": int}, **MORE)], version=1)
NEW = Schema("s", [entity("Person", {"name": str, "n": int}, table="people", renamed_from="things", **MORE)], version=2)
KEPT = Schema("s", [entity("Person", {"name": str, "n": int}, table="things", **MORE)], version=2)


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    made: dict[str, str] = {}
    fresh("dynamodb", Path(), made)
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
async def stored(tmp_path: Path, environ: dict[str, str]) -> str:
    url = fresh("dynamodb", tmp_path)
    thing: Any = OLD.entities["Thing"].entity
    async with palaver.open(url, schema=OLD, migrate=True, maintain=False) as store:
        for n in range(5):
            await store.create(thing(id=str(n), name=f"name {n}", n=n))
    return url


async def holds_all(url: str, schema: Schema) -> None:
    person: Any = schema.entities["Person"].entity
    async with palaver.open(url, schema=schema, maintain=False) as store:
        assert [0, 1, 2, 3, 4] == [(await store.get(person.at(str(n)))).n for n in range(5)]
        assert ["3"] == [each.id async for each in store.query(person.by_name("name 3"))]
        assert "4" == (await store.get(person.one("name 4"))).id
        history = next(name for name in store.core.planner.tables if name.endswith("-history"))
        assert 5 == len((await store.core.records.scan(history, after=None, limit=10)).records)


async def test_it_is_refused_before_anything_is_changed_and_the_name_may_be_kept(stored: str) -> None:
    with pytest.raises(NotProvisioned, match="keeps the names of its tables") as refused:
        await migrate(stored, NEW)
    assert 'Keep table="things"' in refused.value.hint
    await migrate(stored, KEPT)
    await holds_all(stored, KEPT)


async def test_the_way_round_over_a_file_renames_it(stored: str, tmp_path: Path) -> None:
    way, there = f"sqlite:///{tmp_path}/way.db", fresh("dynamodb", tmp_path)
    async with End.open(stored, OLD, read_only=True) as source, End.open(way, OLD) as target:
        assert (await Copy(source, target).run()).finished
        assert (await verify(source, target)).same
    await migrate(way, NEW)
    async with End.open(way, NEW, read_only=True) as source, End.open(there, NEW) as target:
        assert (await Copy(source, target).run()).finished
        assert (await verify(source, target)).same
    await holds_all(there, NEW)


async def test_a_part_of_a_joined_key_is_renamed_in_place(stored: str) -> None:
    parts: dict[str, Any] = {"by_name": Index("title", sort="n"), "one": Unique("title")}
    old = Schema("t", [entity("Thing", {"name": str, "n": int}, by_name=Index("name", sort="n"), one=Unique("name"))])
    new = Schema("t", [entity("Thing", {"title": Annotated[str, RenamedFrom("name")], "n": int}, **parts)], version=2)
    url = stored.replace("/test", "/joined", 1)
    thing: Any = old.entities["Thing"].entity
    async with palaver.open(url, schema=old, migrate=True, maintain=False) as store:
        for n in range(3):
            await store.create(thing(id=str(n), name="same" if n < 1 else f"name {n}", n=n))
    await migrate(url, new)
    renamed: Any = new.entities["Thing"].entity
    async with palaver.open(url, schema=new, maintain=False) as store:
        assert [("0", "same")] == [(each.id, each.title) async for each in store.query(renamed.by_name("same"))]
        assert "2" == (await store.get(renamed.one("name 2"))).id
