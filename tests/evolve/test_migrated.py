"""A migrated database equals a fresh one, on every engine: in structure, in every stored byte, and to whoever reads it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from palaver import Index, ManualClock, Schema, Store
from palaver.errors import NotProvisioned
from palaver.evolve import plan_of, plan_text
from palaver.query import Query
from tests.evolve.all_cases import CASES
from tests.evolve.beds import Bed, bed
from tests.evolve.cases import NOW, Case, TenantThing, thing


@pytest.fixture
async def migrated(engine: str, tmp_path: Path) -> AsyncIterator[Bed]:
    async with bed(engine, tmp_path, ManualClock(NOW)) as made:
        yield made


@pytest.fixture
async def fresh(engine: str, tmp_path: Path) -> AsyncIterator[Bed]:
    async with bed(engine, tmp_path, ManualClock(NOW)) as made:
        yield made


async def filled(place: Bed, schema: Schema, entity: str, rows: Any) -> Store:
    store = await place.store(schema, changing=True)
    for row in rows:
        await store.create(schema.entities[entity].entity(**row))
    return store


def kept_columns(case: Case) -> list[str]:
    return [name.replace("Thing.", "things.") for name in case.kept if "." in name]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_migrated_equals_fresh(case: Case, migrated: Bed, fresh: Bed, engine: str) -> None:
    old, new = case.entity
    await filled(migrated, case.old, old, case.stored)
    migrator = await migrated.migrator(case.new)
    cannot = case.renames and not migrator._records.limits.renames
    if case.words or cannot:
        await refused(case, migrated, "keeps the names" if cannot else case.words)
        return
    plan = plan_of(json.loads(plan_text(await migrator.pending(case.allow))))
    assert list(case.kept) == [name for name in plan.kept if not name.endswith("_shard")]
    await migrator.apply(plan)
    assert () == (await migrator.pending()).actions

    await filled(fresh, case.new, new, case.expected)
    made, found = await fresh.contents(case.new), await migrated.contents(case.new, kept_columns(case))
    assert made[0] == found[0]
    if not case.inside:
        assert made[1] == found[1]

    store = await migrated.store(case.new)
    await reads(store, case, new)


async def reads(store: Store, case: Case, name: str) -> None:
    entity: Any = store.schema.entities[name].entity
    for row in case.expected:
        wanted = entity(**row)
        assert wanted == await store.get(wanted.address)
    for path, (values, ids) in case.finds.items():
        found = getattr(entity, path)(*values)
        if isinstance(found, Query):
            assert sorted(ids) == sorted([each.id async for each in store.query(found)])
        else:
            assert ids == [(await store.get(found)).id]


async def refused(case: Case, migrated: Bed, words: str) -> None:
    """What cannot be done is refused before anything is changed."""
    before = await migrated.contents(case.old)
    migrator = await migrated.migrator(case.new)
    with pytest.raises(NotProvisioned, match=words):
        await migrator.apply(await migrator.pending(case.allow))
    assert before == await migrated.contents(case.old)
    store = await migrated.store(case.old)
    for row in case.stored:
        wanted = case.old.entities["Thing"].entity(**row)
        assert wanted == await store.get(wanted.address)


async def test_records_of_every_tenant_are_filled_and_claimed(migrated: Bed, fresh: Bed) -> None:
    for place, schema, x in ((migrated, TenantThing.old, {}), (fresh, TenantThing.new, {"x": 1})):
        store = await place.store(schema, changing=True)
        for tenant in ("a", "b/c"):
            for n in range(3):
                entity: Any = schema.entities["Thing"].entity
                await store.for_tenant(tenant).create(entity(tenant=tenant, id=str(n), name=f"{n}", **x))
    migrator = await migrated.migrator(TenantThing.new)
    await migrator.apply(await migrator.pending())
    assert await fresh.contents(TenantThing.new) == await migrated.contents(TenantThing.new)
    made: Any = TenantThing.new.entities["Thing"].entity
    bound = (await migrated.store(TenantThing.new)).for_tenant("b/c")
    assert "2" == (await bound.get(made.one("2"))).id
    assert 3 == await bound.count(made.by_x(1))


async def test_an_additive_change_is_made_at_opening_and_any_other_names_the_command(migrated: Bed) -> None:
    by_name = {case.name: case for case in CASES}
    added, renamed = by_name["a field with a default, indexed"], by_name["a renamed field"]
    await filled(migrated, added.old, "Thing", added.stored)
    with pytest.raises(NotProvisioned, match="palaver migrate apply"):
        await migrated.store(added.new, changing=False)
    await reads(await migrated.store(added.new, changing=True), added, "Thing")
    with pytest.raises(NotProvisioned, match="palaver migrate plan"):
        await migrated.store(renamed.new.__class__("s", [_renamed()]), changing=True)


def _renamed() -> Any:
    from typing import Annotated

    from palaver import RenamedFrom
    from tests.evolve.cases import entity

    return entity("Thing", {"n": int, "y": Annotated[str, RenamedFrom("x")]}, by_x=Index("y", sort="n"))


async def test_a_field_that_was_not_declared_for_a_while_is_filled_where_it_is_again(migrated: Bed) -> None:
    """What was stored meanwhile lacks it, and an index by it would miss those records."""
    fields = {"n": int, "x": (str, "?")}
    with_it, without = thing(fields, by_x=Index("x")), thing({"n": int})
    versions = [Schema("s", [each.entities["Thing"].entity], version=n) for n, each in enumerate((with_it, without, with_it), 1)]
    for number, schema in enumerate(versions[:2]):
        store = await migrated.store(schema, changing=True)
        entity: Any = schema.entities["Thing"].entity
        await store.create(entity(id=str(number), n=number))
    store = await migrated.store(versions[2], changing=True)
    made: Any = versions[2].entities["Thing"].entity
    assert ["0", "1"] == sorted([each.id async for each in store.query(made.by_x("?"))])
