"""What declarations become: columns, key parts, checks, snapshots, instances."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

import pytest
from pydantic import AwareDatetime, ConfigDict, Field
from pydantic.alias_generators import to_camel

from palaver import (
    Entity,
    F,
    History,
    Index,
    InstantMs,
    InstantText,
    Key,
    Personal,
    Schema,
    Sentinel,
    Snowflake,
    Stored,
    Subject,
    days,
)
from palaver.errors import Expression, KeyType
from tests.unit.declarations import NOON, Place, record_of


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


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
