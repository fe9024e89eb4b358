"""From a stored schema to a declared one: steps in order, what they demand of the data, and refusals; nothing is opened."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import Field

from palaver import Backfill, Entity, Expiry, Index, InstantMs, Key, RenamedFrom, Schema, Snowflake, Stored, Unique
from palaver.errors import ConfigError, NotProvisioned
from palaver.evolve import Claim, Fill, Migration, Take, migration, plain_plan, plan_of, plan_text
from palaver.evolve.forms import passes, verdict, widens
from palaver.ops import AddColumn, AlterColumn, Column, CreateIndex, DropColumn, DropIndex, DropTable, Physical, RenameColumn, RenameTable
from palaver.plan import Planner


def schema(fields: dict[str, Any], *, name: str = "Thing", table: str = "things", renamed_from: str | None = None, **more: Any) -> Schema:
    """Make a schema of one entity from annotations; a tuple is an annotation with its default."""
    members: dict[str, Any] = {"__module__": __name__, "__annotations__": {"id": str}, "key": Key("id"), **more}
    for field, said in fields.items():
        members["__annotations__"][field] = said[0] if isinstance(said, tuple) else said
        if isinstance(said, tuple):
            members[field] = said[1]
    return Schema("s", [type(name, (Entity,), members, table=table, renamed_from=renamed_from)])


def between(old: Schema, new: Schema, *allow: str, renames: bool = True) -> Migration:
    before = Planner(old)
    kept = {"name": "s", "version": 1, "fingerprint": old.fingerprint, "snapshot": json.loads(json.dumps(old.snapshot()))}
    return migration(Planner(new), Physical(tuple(before.tables.values())), kept, allow=allow, renames=renames)


def steps(found: Migration) -> list[Any]:
    return [action.step if isinstance(action, Take) else action for action in found.actions]


def table(of: Schema) -> Any:
    return of.entities["Thing"].table


def test_what_fits_needs_nothing() -> None:
    made = schema({"name": str}, by_name=Index("name"))
    assert () == between(made, made).actions
    assert () == between(made, made).drift


def test_columns_come_before_fills_and_fills_before_indexes() -> None:
    new = schema({"name": str, "size": (int, 7)}, by_size=Index("size", sort="name"))
    found = between(schema({"name": str}), new)
    assert [
        AddColumn(table(new), Column("size", "int")),
        Fill("things", ("size",)),
        CreateIndex(table(new), table(new).indexes[0]),
    ] == steps(found)
    assert found.automatic


def test_a_new_required_field_is_optional_until_it_is_filled() -> None:
    new = schema({"owner": Annotated[str, Backfill("nobody")]})
    required = Column("owner", "text", required=True)
    loose = replace(required, required=False)
    assert [AddColumn(table(new), loose), Fill("things", ("owner",)), AlterColumn(table(new), required)] == steps(between(schema({}), new))
    assert () == between(schema({}), new).demands
    assert ["empty"] == [demand.kind for demand in between(schema({}), schema({"owner": str})).demands]


def test_a_renamed_field_takes_its_indexes_along() -> None:
    old = schema({"name": str}, by_name=Index("name"))
    new = schema({"title": Annotated[str, RenamedFrom("name")]}, by_name=Index("title"))
    found = between(old, new)
    assert [
        DropIndex(table(new), "by_name"),
        RenameColumn(table(new), "name", "title"),
        CreateIndex(table(new), table(new).indexes[0]),
    ] == steps(found)
    assert not found.automatic
    # The marker may stay when it is done.
    assert () == between(new, new).actions


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (schema({"name": str}), schema({"name": str}, key=Key("id", sort="name")), "another key"),
        (schema({"name": str}), schema({"name": int}), "stored as text and declared as int"),
        (schema({"seen": InstantMs}), schema({"seen": Expiry}), "stored as instant_ms and declared as instant_s"),
        (schema({"n": Snowflake}), schema({"n": str}), "stored as digits and declared as text"),
        (schema({"n": float}), schema({"n": int}), "stored as float and declared as int"),
        (schema({"all": list[int]}), schema({"all": dict[str, int]}), "stored as a list and declared as a map"),
        (schema({"n": int}), schema({"title": Annotated[str, RenamedFrom("id")]}, key=Key("title")), "another key"),
    ],
)
def test_what_would_strand_stored_records_is_refused(old: Schema, new: Schema, words: str) -> None:
    with pytest.raises(NotProvisioned, match=words):
        between(old, new)


def test_every_reason_is_given_at_once() -> None:
    with pytest.raises(NotProvisioned) as error:
        between(schema({"a": str, "b": int}), schema({"a": int, "b": str}))
    assert "Thing.a is stored as text" in error.value.message
    assert "Thing.b is stored as int" in error.value.message


def test_a_field_nobody_declares_is_kept_unless_its_loss_is_allowed() -> None:
    old, new = schema({"name": str, "age": (int | None, None)}), schema({})
    found = between(old, new)
    assert ["Thing.name", "Thing.age"] == list(found.kept)
    # What is kept cannot be required of records that no longer have it.
    assert [AlterColumn(table(new), Column("name", "text"))] == steps(found)
    assert found.automatic
    lossy = between(old, new, "Thing.name")
    assert [DropColumn(table(new), "name")] == steps(lossy)
    assert ("Thing.age",) == lossy.kept
    assert not lossy.automatic
    with pytest.raises(NotProvisioned, match=r"Thing\.height"):
        between(old, new, "Thing.height")


def test_an_entity_nobody_declares_is_kept_unless_its_loss_is_allowed() -> None:
    old, other = schema({}), schema({}, name="Other", table="others")
    found = between(old, other)
    assert ("Thing",) == found.kept
    assert not any(isinstance(step, DropTable) for step in steps(found))
    assert DropTable(table(old)) in steps(between(old, other, "Thing"))


def test_a_renamed_table_is_taken_along_where_the_engine_can() -> None:
    old = schema({"email": str}, by_email=Unique("email"))
    new = schema({"email": str}, name="Person", table="people", renamed_from="things", by_email=Unique("email"))
    found = between(old, new)
    person = new.entities["Person"].table
    assert RenameTable(person, "things") == steps(found)[0]
    assert Claim("people", "Person", "by_email") in steps(found)
    assert () == found.kept
    with pytest.raises(NotProvisioned, match="keeps the names"):
        between(old, new, renames=False)


def test_a_wider_rule_is_applied_by_itself_and_a_narrower_one_is_looked_at_first() -> None:
    two, three = schema({"kind": Literal["a", "b"]}), schema({"kind": Literal["a", "b", "c"]})
    assert ([], True) == ([*between(two, three).demands], between(two, three).automatic)
    assert [AlterColumn(table(three), table(three).columns[1])] == steps(between(two, three))
    narrower = between(three, two)
    assert (["within"], False) == ([demand.kind for demand in narrower.demands], narrower.automatic)
    assert ["present"] == [demand.kind for demand in between(schema({"n": (int | None, None)}), schema({"n": int})).demands]
    assert not between(schema({"n": int}), schema({"n": (int | None, None)})).demands


def test_numbers_become_wider_numbers() -> None:
    for kind, demands in ((float, ["exact"]), (Decimal, [])):
        found = between(schema({"n": int}), schema({"n": kind}))
        assert demands == [demand.kind for demand in found.demands]
        assert not found.automatic


def test_a_unique_set_that_is_new_claims_what_is_stored() -> None:
    found = between(schema({"email": str}), schema({"email": str}, by_email=Unique("email")))
    assert [Claim("things", "Thing", "by_email")] == steps(found)
    assert ["distinct"] == [demand.kind for demand in found.demands]
    gone = between(schema({"email": str}, by_email=Unique("email")), schema({"email": str}))
    assert ["free the values of Thing.by_email"] == [action.words for action in gone.actions]


def test_a_shadow_that_is_computed_otherwise_is_computed_again() -> None:
    few, more = (schema({"kind": str}, all_of=Index("kind", shards=shards)) for shards in (2, 4))
    assert [Fill("things", ("_all_of_shard",))] == steps(between(few, more))
    none = schema({"kind": str})
    assert [DropIndex(table(none), "all_of"), DropColumn(table(none), "_all_of_shard")] == steps(between(few, none))


def test_what_somebody_else_changed_is_told() -> None:
    made = schema({"name": str}, by_name=Index("name"))
    planner = Planner(made)
    kept = {"fingerprint": made.fingerprint, "snapshot": made.snapshot()}
    spoiled = replace(table(made), columns=(*table(made).columns, Column("extra", "text")), indexes=())
    tables = tuple(spoiled if each.name == "things" else each for each in planner.tables.values())
    found = migration(planner, Physical(tables), kept)
    assert {"column extra of things was added by somebody else", "index by_name of things is not there"} == set(found.drift)
    assert CreateIndex(table(made), table(made).indexes[0]) in steps(found)
    assert "table things is not there" in migration(planner, Physical(()), kept).drift


def test_a_plan_is_a_file_that_gives_the_same_migration_back_and_shows_a_change() -> None:
    old = schema({"name": str, "n": int, "gone": str, "kind": Literal["a", "b"]}, by_name=Index("name"))
    new = schema(
        {"title": Annotated[str, RenamedFrom("name")], "n": float, "x": (float, 1.5), "kind": Literal["a"]},
        by_title=Index("title", "x"),
        one=Unique("title"),
    )
    found = between(old, new, "Thing.gone")
    text = plan_text(found)
    assert found == plan_of(json.loads(text))
    assert json.loads(text) == plain_plan(plan_of(json.loads(text)))
    with pytest.raises(ConfigError, match="was changed"):
        plan_of(json.loads(text.replace("title", "name")))
    with pytest.raises(ConfigError, match="not a migration plan"):
        plan_of(["something else"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("text", "text", "same"),
        ("uuid", "text", "safe"),
        ("text", "uuid", "check"),
        ("digits", "text", "refuse"),
        ("instant_ms", "int", "safe"),
        ("int", "instant_s", "check"),
        ("instant_ms", "instant_s", "refuse"),
        ("int", "number", "safe"),
        ("number", "int", "refuse"),
        ("any", "object", "refuse"),
        ("object", "any", "refuse"),
        ("object", "object", "same"),
        ({"list": "text"}, "any", "safe"),
        ("any", {"list": "text"}, "check"),
        ({"list": "uuid"}, {"list": "text"}, "safe"),
        ({"list": "int"}, {"set": "int"}, "refuse"),
        ({"model": {"a": {"form": "int", "required": True}}}, {"model": {}}, "safe"),
        ({"model": {}}, {"model": {"a": {"form": "int", "required": False}}}, "safe"),
        ({"model": {}}, {"model": {"a": {"form": "int", "required": True}}}, "refuse"),
        ({"model": {"a": {"form": "int", "required": False}}}, {"model": {"a": {"form": "int", "required": True}}}, "check"),
        ({"model": "Tree"}, {"model": "Tree"}, "same"),
        ({"model": "Tree"}, {"model": {}}, "refuse"),
    ],
)
def test_forms_are_judged(old: Any, new: Any, said: str) -> None:
    assert said == verdict(old, new)


@pytest.mark.parametrize(
    ("old", "new", "wide"),
    [
        ((), (), True),
        (("in", ("a",)), (), True),
        ((), ("in", ("a",)), False),
        (("in", ("a",)), ("in", ("b", "a")), True),
        (("in", ("a", "b")), ("in", ("a",)), False),
        (("range", 1, 5), ("range", 0, None), True),
        (("range", 1, None), ("range", 1, 5), False),
        (("range", None, 5), ("range", 0, 5), False),
        (("in", (1, 2)), ("range", 0, 5), True),
        (("range", 0, 5), ("in", (1, 2)), False),
    ],
)
def test_a_check_widens_another_or_not(old: tuple[object, ...], new: tuple[object, ...], wide: bool) -> None:
    assert wide == widens(old, new)
    if wide:
        assert all(passes(new, value) for value in (("a", "b") if "('a'" in str(old + new) else (0, 1, 3, 9)) if passes(old, value))
    assert passes(new, None)


def test_what_was_kept_as_it_is_stored_needs_nothing() -> None:
    assert () == between(schema({"name": str}), schema({"title": Annotated[str, Stored("name")]})).actions
    assert () == between(schema({"n": UUID}), schema({"n": str})).actions


def test_an_entity_whose_table_was_renamed_without_a_word_is_refused_and_names_both_ways() -> None:
    old, new = schema({"name": str}), schema({"name": str}, table="others")
    with pytest.raises(NotProvisioned, match="stored in table things and declared in table others") as refused:
        between(old, new)
    assert 'renamed_from="things"' in refused.value.hint
    assert ["table others", "table things goes, with its records"] == [action.words for action in between(old, new, "Thing").actions]


def test_a_plan_says_which_values_a_column_takes() -> None:
    old = schema({"x": Literal["a", "b"], "n": int})
    plan = between(old, schema({"x": Literal["a"], "n": Annotated[int, Field(ge=1)]}))
    assert {"column x of things becomes text, required, one of a", "column n of things becomes int, required, from 1"} == {
        action.words for action in plan.actions
    }
