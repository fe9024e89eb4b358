"""What a migration did is led back with the program from before it, on every engine: names, structure, records; or it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pytest

from palaver import Backfill, Index, RenamedFrom, Schema, Unique
from palaver.errors import NotProvisioned
from tests.evolve.all_cases import CASES
from tests.evolve.beds import Bed
from tests.evolve.cases import NAMED, Case, thing

REFUSED: Mapping[str, str] = {
    "integers of a unique set become Decimals": "stored as number and declared as int",
    "integers become floats, and a unique set": "stored as float and declared as int",
    "a renamed field of another type": "stored as float and declared as int",
    "an integer that becomes a float": "stored as float and declared as int",
    "an indexed integer that becomes a Decimal": "stored as number and declared as int",
    "a field that goes": "5 stored records have no value for it",
    "much at once": "stored as float and declared as int",
}
"""What nobody can lead back, and why."""
FILLED = {"a field in an index that old records may lack becomes required", "a missing value that gets a default"}
"""Where nobody can tell what was filled from what was there."""


def version_2(schema: Schema) -> Schema:
    return Schema(schema.name, [declared.entity for declared in schema.entities.values()], version=2)


async def migrate(place: Bed, schema: Schema, *allow: str) -> None:
    migrator = await place.migrator(schema)
    await migrator.apply(await migrator.pending(allow))


async def undo(place: Bed, schema: Schema, *allow: str) -> list[str]:
    migrator = await place.migrator(schema)
    return [action.words for action in await migrator.apply(await migrator.undoing(allow))]


@pytest.mark.parametrize("case", [case for case in CASES if not case.words], ids=lambda case: case.name)
async def test_led_back_is_as_it_was(case: Case, place: Bed) -> None:
    store, newer = await place.store(case.old, changing=True), version_2(case.new)
    wanted: Any = case.old.entities[case.entity[0]].entity
    for row in case.stored:
        await store.create(wanted(**row))
    if case.renames and not store.core.records.limits.renames:
        pytest.skip("this engine renames no table")
    before = await place.contents(case.old)
    await migrate(place, newer, *case.allow)
    if case.name in REFUSED:
        await refused(place, case, newer, REFUSED[case.name])
        return
    allow = [f"Thing.{field}" for field in ("name", "keys") if case.name.endswith("made secret") or case.name.endswith("from some records")]
    allow = [name for name in allow if name.partition(".")[2] in case.old.entities["Thing"].fields]
    if allow:
        await refused(place, case, newer, "stored for everybody to read")
    migrator = await place.migrator(case.old)
    plan = await migrator.undoing(allow)
    await migrator.apply(plan)
    kept = [name.replace(f"{case.entity[0]}.", f"{wanted.__palaver_table__}.") for name in plan.kept if "." in name]
    structure, records = await place.contents(case.old, kept)
    assert before[0] == structure
    assert before[1] == records or case.name in FILLED
    store = await place.store(case.old)
    for row in case.expected if case.name in FILLED else case.stored:
        assert wanted(**row) == await store.get(wanted(**row).address)
        await store.put(wanted(**row))
    assert () == (await (await place.migrator(case.old)).pending()).actions


async def refused(place: Bed, case: Case, newer: Schema, words: str) -> None:
    migrated = await place.contents(newer)
    with pytest.raises(NotProvisioned, match=words):
        await undo(place, case.old)
    assert migrated == await place.contents(newer)


async def test_what_was_led_back_can_be_led_there_again(place: Bed) -> None:
    """There is no end to it, whatever either program stored meanwhile."""
    old = thing({"name": str, "n": (int, 1)}, by_name=Index("name", sort="n"), one=Unique("name"))
    fields: dict[str, Any] = {"title": Annotated[str, RenamedFrom("name")], "n": (int, 1), "more": Annotated[str, Backfill("none")]}
    new = version_2(thing(fields, by_name=Index("title", sort="n"), by_more=Index("more"), one=Unique("title")))
    first: Any = old.entities["Thing"].entity
    second: Any = new.entities["Thing"].entity
    store = await place.store(old, changing=True)
    await store.create(first(id="0", name="a"))
    for n in range(1, 4):
        await migrate(place, new)
        store = await place.store(new)
        await store.create(second(id=f"new {n}", title=f"new {n}", more="x"))
        found = [each.id async for each in store.query(second.by_more("none"))]
        assert ["0", *(f"old {before}" for before in range(1, n))] == sorted(found)
        words = await undo(place, old)
        assert any("title" in each and "becomes name" in each for each in words) or not store.core.records.limits.renames
        store = await place.store(old)
        await store.create(first(id=f"old {n}", name=f"old {n}"))
        assert f"new {n}" == (await store.get(first.one(f"new {n}"))).id
        assert [f"old {n}"] == [each.id async for each in store.query(first.by_name(f"old {n}"))]


async def test_only_the_program_from_before_leads_back(place: Bed) -> None:
    """Anything else would be a guess."""
    old, new = thing({"name": str}), version_2(thing({"title": Annotated[str, RenamedFrom("name")]}))
    other, store = thing({"name": str, "n": (int, 1)}), await place.store(old, changing=True)
    await store.create(old.entities["Thing"].entity(**NAMED[0]))
    with pytest.raises(NotProvisioned, match="nothing leads away"):
        await undo(place, old)
    await migrate(place, new)
    for schema, words in ((new, "nothing leads away"), (other, "No migration is recorded")):
        with pytest.raises(NotProvisioned, match=words):
            await undo(place, schema)
    with pytest.raises(NotProvisioned) as caught:
        await migrate(place, old)
    assert "palaver migrate undo" in caught.value.hint


async def test_what_no_longer_fits_is_counted_and_nothing_is_changed(place: Bed) -> None:
    old = thing({"name": str, "n": (int, 1)}, one=Unique("name"))
    new = version_2(thing({"name": str, "n": (int | None, None)}))
    made: Any = new.entities["Thing"].entity
    await place.store(old, changing=True)
    await migrate(place, new)
    store = await place.store(new)
    for n in range(3):
        await store.create(made(id=str(n), name="same"))
    before = await place.contents(new)
    with pytest.raises(NotProvisioned, match="2 stored records"):
        await undo(place, old)
    assert before == await place.contents(new)


async def test_one_that_was_cut_off_goes_on_and_nobody_opens_the_store_meanwhile(place: Bed) -> None:
    old = thing({"name": str, "n": (int, 1)}, by_n=Index("n"), one=Unique("name"))
    new = version_2(thing({"title": Annotated[str, RenamedFrom("name")], "n": (int, 1)}, one=Unique("title")))
    first: Any = old.entities["Thing"].entity
    store = await place.store(old, changing=True)
    for row in NAMED:
        await store.create(first(**row))
    before = await place.contents(old)
    await migrate(place, new)
    actions = {action.words for action in (await (await place.migrator(old)).undoing()).actions}
    for done in range(len(actions) + 3):
        cut = await place.migrator(old)
        told: set[str] = set()

        def tell(words: str, records: int, told: set[str] = told) -> None:
            told.add(words)
            if len(told & actions) == 2:
                raise KeyboardInterrupt

        cut.tell = tell
        try:
            await cut.apply(await (cut.pending() if done % 2 else cut.undoing()))
            break
        except KeyboardInterrupt:
            pass
        for schema in (old, new):
            with pytest.raises(NotProvisioned, match="begun and has not ended"):
                await place.store(schema, changing=True)
    assert len(actions) - 1 == done
    assert before == await place.contents(old)


async def test_undo_does_not_go_on_with_a_migration_that_leads_ahead(place: Bed) -> None:
    """Who asks to be led back, by mistake with the new program, is not led further away."""
    old, new = thing({"name": str, "n": (int, 1)}), version_2(thing({"title": Annotated[str, RenamedFrom("name")], "n": (int, 1)}))
    store = await place.store(old, changing=True)
    await store.create(old.entities["Thing"].entity(**NAMED[0]))
    cut = await place.migrator(new)

    def tell(words: str, records: int) -> None:
        raise KeyboardInterrupt

    cut.tell = tell
    with pytest.raises(KeyboardInterrupt):
        await cut.apply(await cut.pending())
    for schema in (old, new):
        with pytest.raises(NotProvisioned, match="begun and has not ended"):
            await undo(place, schema)
    await migrate(place, new)
    await undo(place, old)


async def test_who_is_migrations_behind_is_told_whose_turn_it_is(place: Bed) -> None:
    fields: dict[str, Any] = {"name": str}
    schemas: list[Schema] = []
    for version in range(1, 5):
        schemas.append(Schema("s", [thing(dict(fields)).entities["Thing"].entity], version=version))
        fields[f"n{version}"] = (int, 1)
    await place.store(schemas[0], changing=True)
    for schema in schemas[1:]:
        await migrate(place, schema)
    for turn in (2, 1):
        with pytest.raises(NotProvisioned) as caught:
            await undo(place, schemas[0])
        assert f"version {turn + 1} ({schemas[turn].fingerprint})" in caught.value.hint
        await undo(place, schemas[turn])
    await undo(place, schemas[0])
