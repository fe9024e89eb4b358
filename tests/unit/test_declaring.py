"""What a declaration may say, what it becomes, and every mistake that is found when the class or the schema is made."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

import pytest
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from palaver import (
    Blob,
    Entity,
    Expires,
    Expiry,
    F,
    History,
    Index,
    InstantMs,
    InstantText,
    Key,
    Personal,
    Ref,
    Schema,
    Search,
    Searchable,
    Secret,
    Sentinel,
    Snowflake,
    Source,
    Stored,
    Subject,
    Tenant,
    Unique,
    days,
)
from palaver.errors import Expression, KeyType, SchemaError
from palaver.fields import kind_of
from palaver.plan import Planner

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Place(BaseModel):
    city: str
    zone: int = 0


def record_of(entity: Entity) -> dict[str, Any]:
    schema = Schema("s", [type(entity)])
    return dict(Planner(schema).codec(type(entity)).encode(entity, 1, None).record)


# --- mistakes -------------------------------------------------------------------------------------------------------


def no_key() -> None:
    class Wrong(Entity, table="wrong"):
        id: str


def key_of_another_name() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        main = Key("id")


def empty_key() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        key = Key()


def misspelt_key() -> None:
    class Wrong(Entity, table="wrong"):
        user_id: str
        key = Key("usr_id")


def misspelt_index() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        status: str
        key = Key("id")
        by_status = Index("statsu")


def misspelt_unique() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        email: str
        key = Key("id")
        by_email = Unique("emial")


def misspelt_path() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        place: Place
        key = Key("id")
        by_city = Index("place.citty")


def misspelt_reference() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        owner_id: str
        key = Key("id")
        owner = Ref("ownr_id", to="Wrong")


def index_without_partition() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        key = Key("id")
        everything = Index(sort="id")


def too_few_shards() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        key = Key("id")
        everything = Index(sort="id", shards=1)


def too_many_parts() -> None:
    class Wrong(Entity, table="wrong"):
        a: str
        b: str
        c: str
        d: str
        e: str
        key = Key("a", "b", "c", "d", "e")


def list_in_a_key() -> None:
    class Wrong(Entity, table="wrong"):
        id: list[str]
        key = Key("id")


def list_in_an_index() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        aliases: list[str]
        key = Key("id")
        by_alias = Index("aliases")


def open_content_in_an_index() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        data: dict[str, Any]
        key = Key("id")
        by_inside = Index("data.inside")


def optional_key() -> None:
    class Wrong(Entity, table="wrong"):
        id: str | None
        key = Key("id")


def dotted_key() -> None:
    class Wrong(Entity, table="wrong"):
        place: Place
        key = Key("place.city")


def secret_index() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        password: Annotated[str, Secret()]
        key = Key("id")
        by_password = Index("password")


def secret_search() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        password: Annotated[str, Secret(), Searchable()]
        key = Key("id")


def two_tenants() -> None:
    class Wrong(Entity, table="wrong"):
        a: Annotated[str, Tenant()]
        b: Annotated[str, Tenant()]
        key = Key("a")


def tenant_in_the_key() -> None:
    class Wrong(Entity, table="wrong"):
        a: Annotated[str, Tenant()]
        b: str
        key = Key("a", sort="b")


def one_stored_name_twice() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        other: Annotated[str, Stored("id")]
        key = Key("id")


def underscored_stored_name() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        other: Annotated[str, Stored("_revision")]
        key = Key("id")


def one_alias() -> None:
    class Wrong(Entity, table="wrong"):
        id: str = Field(alias="identifier")
        key = Key("id")


def field_and_index() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        status: str
        key = Key("id")
        by_status: Index = Index("status")


def expiry_after_nothing() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        expires: Annotated[Expiry | None, Expires(after=days(1), of="creatd")] = None
        created: InstantMs = NOON
        key = Key("id")


def expiry_after_a_text() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        expires: Annotated[Expiry | None, Expires(after=days(1), of="id")] = None
        key = Key("id")


def expiry_as_text() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        expires: Annotated[InstantText | None, Expires(after=days(1))] = None
        key = Key("id")


def set_of_floats() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        ratios: set[float]
        key = Key("id")


def ambiguous_union() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        when: str | datetime
        key = Key("id")


def subject_of_no_name() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        who: Annotated[float, Subject()]
        key = Key("id")


def dotted_stored_name() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        kind: Annotated[str, Stored("a.b")]
        key = Key("id")


def stored_name_with_a_position() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        kind: Annotated[str, Stored("a[0]")]
        key = Key("id")


def unseen_stored_name() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        kind: Annotated[str, Stored("a\u200bb")]
        key = Key("id")


def empty_stored_name() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        kind: Annotated[str, Stored("")]
        key = Key("id")


class Dotted(BaseModel):
    city: str = Field(alias="a.city")


class Guarded(BaseModel):
    token: Annotated[str | None, Secret()] = None


def dotted_nested_name() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        place: Dotted | None = None
        key = Key("id")


def secret_in_a_model() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        guarded: list[Guarded] = Field(default_factory=list)
        key = Key("id")


def secret_in_a_list() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        tokens: list[Annotated[str, Secret()]]
        key = Key("id")


def personal_in_a_map() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        names: dict[str, Annotated[str, Personal()]]
        key = Key("id")


def secret_in_a_union() -> None:
    class Wrong(Entity, table="wrong"):
        id: str
        token: int | Annotated[str, Secret()]
        key = Key("id")


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (no_key, "Wrong has no key"),
        (key_of_another_name, "must be called key"),
        (empty_key, "at least one partition"),
        (misspelt_key, "has no field usr_id.*Did you mean user_id"),
        (misspelt_index, "has no field statsu.*Did you mean status"),
        (misspelt_unique, "has no field emial.*Did you mean email"),
        (misspelt_path, "names place.citty"),
        (misspelt_reference, "has no field ownr_id.*Did you mean owner_id"),
        (index_without_partition, "has no partition.*shards"),
        (too_few_shards, "has 1 shards"),
        (too_many_parts, "more than four"),
        (list_in_a_key, "has no order"),
        (list_in_an_index, "one record per element"),
        (open_content_in_an_index, "has no order"),
        (optional_key, "may be missing"),
        (dotted_key, "may be missing"),
        (secret_index, "which is secret"),
        (secret_search, "both secret and searchable"),
        (two_tenants, "several Tenant fields: a, b"),
        (tenant_in_the_key, "comes first in every key by itself"),
        (one_stored_name_twice, "stored under one name"),
        (underscored_stored_name, "begins with an underscore"),
        (one_alias, "has an alias"),
        (field_and_index, "both a field and a declaration"),
        (expiry_after_nothing, "Did you mean created"),
        (expiry_after_a_text, "is no instant"),
        (expiry_as_text, "must be an Expiry"),
        (set_of_floats, "A set holds"),
        (ambiguous_union, "cannot be told apart"),
        (dotted_stored_name, r"Wrong\.kind is stored under a name with a dot"),
        (stored_name_with_a_position, "a dot, a bracket"),
        (unseen_stored_name, "a sign nobody sees"),
        (empty_stored_name, "under none"),
        (subject_of_no_name, "says whom it is about"),
        (dotted_nested_name, r"Dotted\.city is stored under a name with a dot"),
        (secret_in_a_model, r"Secret\(\) inside a nested value"),
        (secret_in_a_list, r"Secret\(\) inside a nested value"),
        (personal_in_a_map, r"Personal\(\) inside a nested value"),
        (secret_in_a_union, "on one type of a union"),
    ],
)
def test_a_mistake_is_found_when_the_class_is_made(declare: Callable[[], None], words: str) -> None:
    with pytest.raises(SchemaError, match=f"(?s){words}"):
        declare()


def test_a_model_that_was_refused_is_refused_again() -> None:
    """What was compiled of it before the mistake was found is not taken for the whole of it."""

    class Inner(BaseModel):
        name: str
        token: Annotated[str, Secret()] = ""
        zone: int = 0

    class Outer(BaseModel):
        inner: Inner | None = None

    for kind in (Outer, Inner, Outer, Inner):
        with pytest.raises(SchemaError, match="inside a nested value"):
            kind_of(kind)


@pytest.mark.filterwarnings("ignore:Field name")
def test_a_field_may_not_have_the_name_of_what_every_entity_has() -> None:
    for name in ("revision", "address", "at", "bind"):
        with pytest.raises(SchemaError, match="a name every entity uses"):
            type(
                "Wrong", (Entity,), {"__annotations__": {"id": "str", name: "str"}, "key": Key("id"), "__module__": __name__}, table="wrong"
            )


def test_an_entity_without_a_table_is_a_base_of_others() -> None:
    class Base(Entity):
        id: str
        made: InstantMs = NOON
        key = Key("id")
        by_made = Index("id", sort="made")

    class One(Base, table="ones"):
        name: str = ""

    class Two(Base, table="twos"):
        by_made = Index("made")

    with pytest.raises(SchemaError, match="Base has no table"):
        Base.declared()
    assert ("id",) == tuple(part.path for part in One.declared().access["by_made"].partition)
    assert ("made",) == tuple(part.path for part in Two.declared().access["by_made"].partition)


# --- mistakes between entities --------------------------------------------------------------------------------------


class Parent(Entity, table="parents"):
    a: str
    b: int
    key = Key("a", sort="b")


def test_a_reference_needs_a_parent_of_the_schema() -> None:
    class Child(Entity, table="children"):
        id: str
        a: str
        b: int
        key = Key("id")
        by_a = Index("a")
        parent = Ref("a", "b", to=Parent)

    with pytest.raises(SchemaError, match="refers to Parent, which is not in schema"):
        Schema("s", [Child])
    reference = Schema("s", [Child, Parent]).references[0]
    assert ("by_a", "Parent") == (reference.through, reference.parent.name)


def test_a_reference_names_the_whole_key_with_fields_stored_alike() -> None:
    class Short(Entity, table="short"):
        id: str
        a: str
        key = Key("a", sort="id")
        parent = Ref("a", to=Parent)

    class Other(Entity, table="other"):
        id: str
        a: str
        b: str
        key = Key("a", sort="id")
        parent = Ref("a", "b", to=Parent)

    class Numbered(Entity, table="numbered"):
        id: Decimal
        key = Key("id")

    class OfNumbered(Entity, table="of-numbered"):
        id: Decimal
        key = Key("id")
        numbered = Ref("id", to=Numbered)

    with pytest.raises(SchemaError, match="as many fields"):
        Schema("s", [Short, Parent])
    with pytest.raises(SchemaError, match=r"b is not stored as Parent\.b"):
        Schema("s", [Other, Parent])
    with pytest.raises(SchemaError, match="not stored as"):
        Schema("s", [Numbered, OfNumbered])


def test_children_must_be_found_from_their_parent() -> None:
    class Lost(Entity, table="lost"):
        id: str
        a: str
        b: int
        key = Key("id")
        parent = Ref("a", "b", to=Parent, on_delete="cascade")

    with pytest.raises(SchemaError, match="nothing finds the records"):
        Schema("s", [Lost, Parent])


def test_references_may_point_forward_and_to_themselves() -> None:
    class Node(Entity, table="nodes"):
        id: str
        up_id: str | None = None
        key = Key("id")
        by_up = Index("up_id")
        up = Ref("up_id", to="Node", on_delete="cascade")
        later = Ref("up_id", to=lambda: Node, on_delete="keep")

    assert ["Node", "Node"] == [reference.parent.name for reference in Schema("s", [Node]).references]


def test_forward_annotations_are_resolved_when_the_schema_is_made() -> None:
    class Ahead(Entity, table="ahead"):
        id: str
        late: Late | None = None
        key = Key("id")
        by_word = Index("late.word")

    class Late(BaseModel):
        word: str

    Ahead.model_rebuild(_types_namespace={"Late": Late})
    assert {"id": "1", "_late_word": "w"} == {
        name: value for name, value in record_of(Ahead(id="1", late=Late(word="w"))).items() if name != "late"
    }


def test_a_schema_lists_every_error_at_once() -> None:
    class Held(Entity, table="held"):
        a: str
        b: int
        c: str
        key = Key("a", "b", sort="c")
        parent = Ref("a", "b", to=Parent, on_delete="cascade")

    class Holder(Entity, table="holders"):
        a: str
        b: int
        c: str
        d: str
        key = Key("a", "b", "c", sort="d")
        held = Ref("a", "b", "c", to=Held)

    class Photo(Entity, table="photos"):
        id: str
        name: Annotated[str, Personal()]
        file: Annotated[bytes | None, Blob("photos/photo.png")] = None
        key = Key("id")

    with pytest.raises(SchemaError) as refused:
        Schema("s", [Held, Holder, Photo, Parent])
    codes = {found.code for found in refused.value.context["diagnostics"]}
    assert {"restrict_below_cascade", "blob_path_shared", "personal_without_subject"} == codes


def test_one_name_belongs_to_one_entity() -> None:
    first = type("Same", (Entity,), {"__annotations__": {"id": "str"}, "key": Key("id"), "__module__": __name__}, table="first")
    second = type("Same", (Entity,), {"__annotations__": {"id": "str"}, "key": Key("id"), "__module__": __name__}, table="second")
    with pytest.raises(SchemaError, match="Two entities are called Same"):
        Schema("s", [first, second])
    with pytest.raises(SchemaError, match="Did you mean"):
        Schema("s", [first]).entity("Sam")
    with pytest.raises(SchemaError, match="is not in schema"):
        Schema("s", [first]).of(second)


def test_searches_name_fields_that_are_there() -> None:
    class Page(Entity, table="pages"):
        id: str
        text: Annotated[str, Searchable()]
        token: Annotated[str, Secret()] = ""
        key = Key("id")

    for search, words in (
        (Search("s", Source(Page, text=("txt",))), "Did you mean text"),
        (Search("s", Source(Page, filters=("token",))), "is secret"),
        (Search("s", Source(Page), required=("owner",)), "requires owner"),
    ):
        with pytest.raises(SchemaError, match=words):
            Schema("s", [Page], searches=[search])


# --- what declarations become ---------------------------------------------------------------------------------------


class Every(Entity, table="every"):
    text: str
    number: int
    amount: Decimal
    ratio: float
    flag: bool
    raw: bytes
    day: date
    moment: InstantMs
    stamp: InstantText
    aware: AwareDatetime
    color: Color
    level: Level
    choice: Literal["x", "y"]
    uuid: UUID
    snowflake: Snowflake
    place: Place | None = None
    key = Key("text", "number", "amount", "flag", sort=("raw", "day", "moment", "color"))
    by_rest = Index("ratio", "stamp", "level", "choice", sort=("uuid", "snowflake", "aware", "place.zone"))


def every(**fields: Any) -> Every:
    values: dict[str, Any] = {
        "text": "t",
        "number": -5,
        "amount": Decimal("1.50"),
        "ratio": 0.25,
        "flag": True,
        "raw": b"\x00\xff",
        "day": date(2026, 1, 2),
        "moment": NOON,
        "stamp": NOON,
        "aware": NOON,
        "color": Color.RED,
        "level": Level.HIGH,
        "choice": "x",
        "uuid": UUID(int=1),
        "snowflake": "42",
        "place": Place(city="c", zone=3),
    }
    return Every(**{**values, **fields})


def test_every_ordered_type_can_be_a_key_part_up_to_four_and_four() -> None:
    entity = every()
    address = entity.address

    assert ("t", -5, "250015", 1) == address.key[:4]
    assert (b"\x00\xff", "2026-01-02", 1767268800000, "red") == address.key[4:]
    assert address == Every.at("t", -5, Decimal("1.5"), True, b"\x00\xff", date(2026, 1, 2), NOON, Color.RED)
    assert address == Every.at("t", -5, "1.50", True, b"\x00\xff", "2026-01-02", NOON, "red")


def test_index_parts_are_encoded_in_the_order_of_their_values() -> None:
    record = record_of(every())

    index = Every.declared().table.indexes[0]
    values = [record[name] for name in index.partition + index.sort]
    assert ["2026-01-01T12:00:00.000000Z", 2, "x"] == values[1:4]
    assert [str(UUID(int=1)), "42".zfill(20), "2026-01-01T12:00:00.000000Z", 3] == values[4:]
    assert "_place_zone" not in record_of(every(place=None))


@pytest.mark.parametrize(
    ("part", "values"),
    [
        (
            "amount",
            [Decimal("-1E125"), Decimal(-10), Decimal("-9.5"), Decimal("-1E-130"), Decimal(0), Decimal("1E-130"), Decimal(2), Decimal(10)],
        ),
        ("ratio", [-1e100, -2.5, -1e-100, 0.0, 1e-100, 0.1, 2.5, 10.0, 1e100]),
        ("flag", [False, True]),
        ("number", [-(2**63), -1, 0, 1, 2**63 - 1]),
        ("snowflake", ["0", "9", "10", "99", "1000000000000000000", "18446744073709551615"]),
        ("day", [date(1, 1, 1), date(999, 12, 31), date(2026, 1, 1)]),
        ("stamp", [datetime(1, 1, 1, tzinfo=UTC), datetime(999, 1, 1, tzinfo=UTC), NOON, NOON.replace(microsecond=1)]),
    ],
)
def test_encoded_parts_sort_as_their_values_do(part: str, values: list[Any]) -> None:
    declared = Every.declared()
    found = next(each for path in declared.access.values() for each in path.parts if each.path == part)
    encoded = [found.encode(value) for value in values]

    assert sorted(encoded, key=lambda each: each.encode() if isinstance(each, str) else each) == encoded
    assert len(set(encoded)) == len(encoded)


def test_values_of_another_type_are_refused_by_keys_and_indexes() -> None:
    for ask in (
        lambda: Every.at(5, -5, Decimal(1), True, b"", date(2026, 1, 1), NOON, "red"),
        lambda: Every.at("t", "x", Decimal(1), True, b"x", date(2026, 1, 1), NOON, "red"),
        lambda: Every.at("t", 1.5, Decimal(1), True, b"x", date(2026, 1, 1), NOON, "red"),
        lambda: Every.at("t", 1, Decimal(1), 5, b"x", date(2026, 1, 1), NOON, "red"),
        lambda: Every.at("t", 1, Decimal(1), True, "x\ud800", date(2026, 1, 1), NOON, "red"),
        lambda: Every.at("t", 1, Decimal(1), True, b"x", "no day", NOON, "red"),
        lambda: Every.at("t", 1, Decimal(1), True, b"x", date(2026, 1, 1), NOON.replace(tzinfo=None), "red"),
        lambda: Every.at("t", 1, Decimal(1), True, b"x", date(2026, 1, 1), NOON, "green"),
        lambda: Every.by_rest(1.0, NOON, 3, "x"),
        lambda: Every.by_rest(1.0, NOON, Level.LOW, "z"),
        lambda: Every.by_rest(1.0, NOON, Level.LOW, "x", "no uuid"),
    ):
        with pytest.raises(KeyType):
            ask()
    with pytest.raises(Expression, match="takes 4 partition values"):
        Every.by_rest(1.0)


class Camel(Entity, table="camel"):
    model_config: ClassVar[ConfigDict] = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    user_id: str
    last_login: InstantMs = NOON
    home_town: Annotated[str, Stored("hometown")] = "-"
    key = Key("user_id")
    by_login = Index("home_town", sort="last_login", name="LastLoginIndex")


def test_an_alias_generator_names_what_is_stored() -> None:
    table = Camel.declared().table

    assert {"userId": "u", "lastLogin": 1767268800000, "hometown": "x"} == record_of(Camel(user_id="u", home_town="x"))
    assert (("userId",), ("hometown",), ("lastLogin",)) == (table.partition, table.indexes[0].partition, table.indexes[0].sort)
    assert "LastLoginIndex" == table.indexes[0].name
    assert "F('lastLogin')" not in str(Camel.by_login("x").filter(F("last_login") > NOON))
    assert "lastLogin" == str(Camel.bind(F("last_login") > NOON).path)  # type: ignore[union-attr]


class Preference(Entity, table="preferences"):
    user_id: str
    server_id: Annotated[str, Sentinel("@global")] = "@global"
    key = Key("user_id", sort="server_id")
    by_server = Index("server_id")


def test_a_sentinel_is_stored_and_stays_out_of_the_indexes() -> None:
    column = Preference.declared().table.indexes[0].partition[0]

    assert column not in record_of(Preference(user_id="u"))
    assert "@global" == record_of(Preference(user_id="u"))["server_id"]
    assert "s" == record_of(Preference(user_id="u", server_id="s"))[column]


def test_shards_are_chosen_by_the_key_for_ever() -> None:
    class Spread(Entity, table="spread"):
        id: str
        key = Key("id")
        everything = Index(sort="id", shards=8)

    shards = [record_of(Spread(id=str(n)))["_everything_shard"] for n in range(64)]
    assert set(range(8)) == set(shards)
    assert shards == [record_of(Spread(id=str(n)))["_everything_shard"] for n in range(64)]
    assert [3, 1, 7] == [record_of(Spread(id=id))["_everything_shard"] for id in ("a", "b", "c")]


def test_constraints_become_checks_of_the_table() -> None:
    class Checked(Entity, table="checked"):
        id: str
        stars: Annotated[int, Field(ge=1, le=5)] = 1
        above: Annotated[int, Field(gt=0, lt=10)] = 1
        kind: Literal["a", "b"] = "a"
        color: Color = Color.RED
        key = Key("id")

    checks = {column.name: column.check for column in Checked.declared().table.columns}
    assert ("range", 1, 5) == checks["stars"]
    assert ("range", 1, 9) == checks["above"]
    assert ("in", ("a", "b")) == checks["kind"]
    assert ("in", ("red", "blue")) == checks["color"]


def test_a_snapshot_is_plain_and_its_fingerprint_follows_the_declaration() -> None:
    import json

    def made(size: int) -> Schema:
        fields: dict[str, Any] = {"__annotations__": {"id": "str"}, "key": Key("id"), "__module__": __name__, "history": History(days(1))}
        if size:
            fields["__annotations__"]["size"] = "int"
        return Schema("s", [type("Thing", (Entity,), fields, table="things")])

    assert json.loads(json.dumps(made(0).snapshot()))["entities"][0]["table"]["name"] == "things"
    assert made(0).fingerprint == made(0).fingerprint != made(1).fingerprint


def test_instances_are_frozen_equal_by_fields_and_hashed_by_key() -> None:
    first, second = Preference(user_id="u"), Preference(user_id="u")

    assert first == second
    assert 1 == len({first, second})
    assert 0 == first.revision
    assert first != Preference(user_id="v")
    with pytest.raises(ValueError, match="frozen"):
        first.user_id = "v"
    with pytest.raises(ValueError, match="Extra inputs"):
        Preference(user_id="u", other=1)  # type: ignore[call-arg]


def test_a_subject_is_found_by_the_declaration() -> None:
    class Mine(Entity, table="mine"):
        id: str
        who: Annotated[str, Subject()]
        text: Annotated[str, Personal()]
        key = Key("id")

    assert "who" == (Mine.declared().subject or Mine.declared().fields["id"]).name
    assert ["text"] == [spec.name for spec in Mine.declared().personal]


def test_an_index_may_look_into_a_list() -> None:
    class Listed(Entity, table="listed"):
        id: str
        places: list[Place] = Field(default_factory=list)
        key = Key("id")
        by_first = Index("places[0].city")

    column = Listed.declared().table.indexes[0].partition[0]
    assert "c" == record_of(Listed(id="1", places=[Place(city="c"), Place(city="d")]))[column]
    assert column not in record_of(Listed(id="1"))
