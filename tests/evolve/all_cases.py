"""Every pair of versions that is migrated on every engine."""

from __future__ import annotations

from decimal import Decimal
from enum import Enum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from palaver import (
    Backfill,
    Expires,
    Expiry,
    F,
    History,
    Index,
    InstantMs,
    Key,
    Ref,
    RenamedFrom,
    Schema,
    Sentinel,
    Snowflake,
    Stored,
    Unique,
    days,
)
from tests.evolve.cases import NAMED, NOW, Case, N, called, entity, team, thing, with_
from tests.evolve.cases_of_secrets import SECRETS


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Place(BaseModel):
    town: str


class RicherPlace(BaseModel):
    town: str
    country: str = "?"
    zip: str | None = None


CASES = [
    Case("nothing", thing({"n": int}), thing({"n": int}), N),
    Case("an optional field", thing({"n": int}), thing({"n": int, "x": (str | None, None)}), N, with_(N, x=None)),
    Case(
        "a field with a default, indexed",
        thing({"n": int}),
        thing({"n": int, "x": (str, "?")}, by_x=Index("x", sort="n")),
        N,
        with_(N, x="?"),
        finds={"by_x": (("?",), ["0", "1", "2", "3", "4"])},
    ),
    Case(
        "a list with a default",
        thing({"n": int}),
        thing({"n": int, "x": (list[str], Field(default_factory=lambda: ["a"]))}),
        N,
        with_(N, x=["a"]),
    ),
    Case(
        "a set with an empty default", thing({"n": int}), thing({"n": int, "x": (frozenset[str], frozenset())}), N, with_(N, x=frozenset())
    ),
    Case(
        "a required field with a value for old records",
        thing({"n": int}),
        thing({"n": int, "x": Annotated[str, Backfill("old")]}),
        N,
        with_(N, x="old"),
    ),
    Case(
        "a field in an index that old records may lack becomes required",
        thing({"n": int, "on": (bool | None, None)}, by_on=Index("on", sort="n")),
        thing({"n": int, "on": Annotated[bool, Backfill(True)]}, by_on=Index("on", sort="n")),
        N,
        with_(N, on=True),
        finds={"by_on": ((True,), ["0", "1", "2", "3", "4"])},
    ),
    Case("a required field where nothing is stored", thing({"n": int}), thing({"n": int, "x": str})),
    Case("a required field without a value", thing({"n": int}), thing({"n": int, "x": str}), N, words="new and required"),
    Case("an enum with a default", thing({"n": int}), thing({"n": int, "x": (Mood, Mood.GOOD)}, by_x=Index("x")), N, with_(N, x=Mood.GOOD)),
    Case(
        "a renamed field",
        thing({"name": str}),
        thing({"title": Annotated[str, RenamedFrom("name")]}),
        NAMED,
        called(NAMED, "name", "title"),
    ),
    Case(
        "a renamed field in an index and a unique set",
        thing({"name": str, "n": (int, 1)}, by_name=Index("name", sort="n"), one=Unique("name")),
        thing({"title": Annotated[str, RenamedFrom("name")], "n": (int, 1)}, by_name=Index("title", sort="n"), one=Unique("title")),
        NAMED,
        called(NAMED, "name", "title"),
        finds={"by_name": (("name 3",), ["3"]), "one": (("name 2",), ["2"])},
    ),
    Case(
        "a renamed field in the sort of an index",
        thing({"name": str, "n": (int, 1)}, by_n=Index("n", sort="name")),
        thing({"title": Annotated[str, RenamedFrom("name")], "n": (int, 1)}, by_n=Index("n", sort="title")),
        NAMED,
        called(NAMED, "name", "title"),
        finds={"by_n": ((1,), ["0", "1", "2", "3", "4"])},
    ),
    Case(
        "integers of a unique set become Decimals",
        thing({"n": int}, one=Unique("n")),
        thing({"n": Decimal}, one=Unique("n")),
        N,
        [{**row, "n": Decimal(str(row["n"]))} for row in N],
        finds={"one": ((Decimal(3),), ["3"])},
    ),
    Case(
        "integers become floats, and a unique set",
        thing({"n": int}),
        thing({"n": float}, one=Unique("n")),
        N,
        [{**row, "n": float(str(row["n"]))} for row in N],
        finds={"one": ((3.0,), ["3"])},
    ),
    *SECRETS,
    Case(
        "a field renamed in Python only",
        thing({"name": str}),
        thing({"title": Annotated[str, Stored("name")]}),
        NAMED,
        called(NAMED, "name", "title"),
    ),
    Case(
        "a key renamed in Python only",
        thing({"n": int}, key=Key("n")),
        thing({"number": Annotated[int, Stored("n")]}, key=Key("number")),
        N,
        called(N, "n", "number"),
    ),
    Case(
        "a renamed field of another type",
        thing({"n": int}),
        thing({"x": Annotated[float, RenamedFrom("n")]}),
        N,
        [{"id": str(n), "x": float(n)} for n in range(5)],
    ),
    Case("an integer that becomes a float", thing({"n": int}), thing({"n": float}), N, [{"id": str(n), "n": float(n)} for n in range(5)]),
    Case(
        "an indexed integer that becomes a Decimal",
        thing({"n": int, "all": (str, "a")}, by_all=Index("all", sort="n")),
        thing({"n": Decimal, "all": (str, "a")}, by_all=Index("all", sort="n")),
        N,
        [{"id": str(n), "n": Decimal(n)} for n in range(5)],
        finds={"by_all": (("a",), ["0", "1", "2", "3", "4"])},
    ),
    Case("an integer too wide for a float", thing({"n": int}), thing({"n": float}), [{"id": "a", "n": 2**53 + 1}], words="lose digits"),
    Case("a text that becomes a number", thing({"name": str}), thing({"name": int}), NAMED, words="stored as"),
    Case("an optional field that becomes required", thing({"n": (int | None, None)}), thing({"n": int}), N),
    Case(
        "a missing value that becomes required",
        thing({"n": (int | None, None)}),
        thing({"n": int}),
        [*N, {"id": "x"}],
        words="1 stored record lack",
    ),
    Case(
        "a missing value that gets a default",
        thing({"n": (int | None, None)}),
        thing({"n": (int, 7)}),
        [*N, {"id": "x"}],
        [*N, {"id": "x", "n": 7}],
    ),
    Case(
        "a required field that becomes optional",
        thing({"n": int}, by_n=Index("n")),
        thing({"n": (int | None, None)}, by_n=Index("n")),
        N,
        finds={"by_n": ((3,), ["3"])},
    ),
    Case("one more choice", thing({"x": Literal["a", "b"]}), thing({"x": Literal["a", "b", "c"]}), [{"id": "1", "x": "a"}]),
    Case("one choice less", thing({"x": Literal["a", "b"]}), thing({"x": Literal["a"]}), [{"id": "1", "x": "a"}]),
    Case(
        "one choice less that is stored",
        thing({"x": Literal["a", "b"]}),
        thing({"x": Literal["a"]}),
        [{"id": "1", "x": "b"}],
        words="no longer allowed in 1",
    ),
    Case("a range", thing({"n": int}), thing({"n": Annotated[int, Field(ge=0, le=9)]}), N),
    Case("a range that does not hold", thing({"n": int}), thing({"n": Annotated[int, Field(ge=2)]}), N, words="no longer allowed in 2"),
    Case("a new index", thing({"name": str}), thing({"name": str}, by_name=Index("name")), NAMED, finds={"by_name": (("name 1",), ["1"])}),
    Case(
        "an index of other parts",
        thing({"name": str, "n": (int, 1)}, by_it=Index("name")),
        thing({"name": str, "n": (int, 1)}, by_it=Index("n", sort="name")),
        NAMED,
        finds={"by_it": ((1,), ["0", "1", "2", "3", "4"])},
    ),
    Case("an index that goes", thing({"name": str}, by_name=Index("name")), thing({"name": str}), NAMED),
    Case(
        "an index into a nested field",
        thing({"place": Place}),
        thing({"place": Place}, by_town=Index("place.town")),
        [{"id": "1", "place": Place(town="Ulm")}, {"id": "2", "place": Place(town="Bonn")}],
        finds={"by_town": (("Ulm",), ["1"])},
    ),
    Case(
        "an index by a boolean and one by a number",
        thing({"on": bool, "x": float}),
        thing({"on": bool, "x": float}, by_on=Index("on", sort="x"), by_x=Index("x")),
        [{"id": str(n), "on": n % 2 == 0, "x": n / 4} for n in range(5)],
        finds={"by_on": ((True,), ["0", "2", "4"]), "by_x": ((0.5,), ["2"])},
    ),
    Case(
        "an index without partition, spread",
        thing({"n": int}),
        thing({"n": int}, everything=Index(sort="n", shards=4)),
        N,
        finds={"everything": ((), ["0", "1", "2", "3", "4"])},
    ),
    Case(
        "an index spread otherwise",
        thing({"n": int}, everything=Index(sort="n", shards=4)),
        thing({"n": int}, everything=Index(sort="n", shards=7)),
        N,
        finds={"everything": ((), ["0", "1", "2", "3", "4"])},
    ),
    Case(
        "an index no longer spread", thing({"n": int, "x": (str, "a")}, by_it=Index("x", shards=4)), thing({"n": int, "x": (str, "a")}), N
    ),
    Case(
        "a value that stands for none",
        thing({"x": str}, by_x=Index("x")),
        thing({"x": Annotated[str, Sentinel("-")]}, by_x=Index("x")),
        [{"id": "1", "x": "-"}, {"id": "2", "x": "y"}],
        finds={"by_x": (("y",), ["2"])},
    ),
    Case("a new unique set", thing({"name": str}), thing({"name": str}, one=Unique("name")), NAMED, finds={"one": (("name 4",), ["4"])}),
    Case(
        "a new unique set with a condition",
        thing({"name": str, "on": bool}),
        thing({"name": str, "on": bool}, one=Unique("name", when=F("on") == True)),  # noqa: E712
        [{"id": str(n), "name": "same", "on": n == 2} for n in range(4)],
        finds={"one": (("same",), ["2"])},
    ),
    Case(
        "a new unique set that does not hold",
        thing({"name": str}),
        thing({"name": str}, one=Unique("name")),
        [{"id": "1", "name": "a"}, {"id": "2", "name": "a"}],
        words="holds a value that another",
    ),
    Case(
        "a unique set of more fields",
        thing({"name": str, "n": int}, one=Unique("name")),
        thing({"name": str, "n": int}, one=Unique("name", "n")),
        [{"id": str(n), "name": f"{n}", "n": n} for n in range(5)],
        finds={"one": (("3", 3), ["3"])},
    ),
    Case("a unique set that goes", thing({"name": str}, one=Unique("name")), thing({"name": str}), NAMED),
    Case(
        "a unique set of another name",
        thing({"name": str}, one=Unique("name")),
        thing({"name": str}, only=Unique("name")),
        NAMED,
        finds={"only": (("name 0",), ["0"])},
    ),
    Case(
        "an expiry",
        thing({"n": int}),
        thing({"n": int, "ends": (Annotated[Expiry | None, Expires()], None)}),
        N,
        with_(N, ends=None),
    ),
    Case(
        "an expiry that goes",
        thing({"n": int, "ends": (Annotated[Expiry | None, Expires()], None)}),
        thing({"n": int, "ends": (Expiry | None, None)}),
        N,
        with_(N, ends=None),
    ),
    Case("images of history", thing({"n": int}), thing({"n": int}, history=History(days(1)))),
    Case("a field that is kept", thing({"n": int, "name": str}), thing({"n": int}), with_(N, name="x"), N, kept=["Thing.name"]),
    Case(
        "a field that goes",
        thing({"n": int, "name": str}, by_name=Index("name")),
        thing({"n": int}),
        with_(N, name="x"),
        N,
        allow=["Thing.name"],
    ),
    Case("a new entity", thing({"n": int}), Schema("s", [entity("Thing", {"n": int}), team()]), N),
    Case("an entity that goes", Schema("s", [entity("Thing", {"n": int}), team()]), thing({"n": int}), N, allow=["Team"]),
    Case("an entity that is kept", Schema("s", [entity("Thing", {"n": int}), team()]), thing({"n": int}), N, kept=["Team"]),
    Case(
        "a table of another name",
        thing({"name": str}, one=Unique("name"), by_name=Index("name")),
        Schema("s", [entity("Person", {"name": str}, table="people", renamed_from="things", one=Unique("name"), by_name=Index("name"))]),
        NAMED,
        entity=("Thing", "Person"),
        finds={"one": (("name 1",), ["1"]), "by_name": (("name 2",), ["2"])},
        renames=True,
    ),
    Case(
        "a class of another name",
        thing({"name": str}, one=Unique("name")),
        Schema("s", [entity("Person", {"name": str}, one=Unique("name"))]),
        NAMED,
        entity=("Thing", "Person"),
        finds={"one": (("name 1",), ["1"])},
    ),
    Case("another key", thing({"name": str}), thing({"name": str}, key=Key("id", sort="name")), NAMED, words="another key"),
    Case(
        "an identifier that becomes text",
        thing({"x": UUID}),
        thing({"x": str}),
        [{"id": "1", "x": UUID(int=7)}],
        [{"id": "1", "x": str(UUID(int=7))}],
    ),
    Case(
        "a text that becomes an identifier",
        thing({"x": str}),
        thing({"x": UUID}),
        [{"id": "1", "x": str(UUID(int=7))}],
        [{"id": "1", "x": UUID(int=7)}],
    ),
    Case("a text that is no identifier", thing({"x": str}), thing({"x": UUID}), [{"id": "1", "x": "ABC"}], words="cannot be read"),
    Case("another unit of time", thing({"seen": InstantMs}), thing({"seen": Expiry}), [{"id": "1", "seen": NOW}], words="instant_ms"),
    Case("digits that become text", thing({"x": Snowflake}), thing({"x": str}), [{"id": "1", "x": "12"}], words="digits"),
    Case(
        "a nested field with more in it",
        thing({"place": Place}),
        thing({"place": RicherPlace}),
        [{"id": "1", "place": Place(town="Ulm")}],
        [{"id": "1", "place": RicherPlace(town="Ulm")}],
        inside=True,
    ),
    Case(
        "a reference",
        Schema("s", [entity("Thing", {"team": (str | None, None)}), team()]),
        Schema("s", [entity("Thing", {"team": (str | None, None)}, owner=Ref("team", to="Team", on_delete="keep")), team()]),
        [{"id": "1"}],
        [{"id": "1", "team": None}],
    ),
    Case(
        "a reference to nothing",
        Schema("s", [entity("Thing", {"team": (str | None, None)}), team()]),
        Schema("s", [entity("Thing", {"team": (str | None, None)}, owner=Ref("team", to="Team", on_delete="keep")), team()]),
        [{"id": "1", "team": "t"}, {"id": "2"}],
        words="1 stored record refers",
    ),
    Case(
        "much at once",
        thing(
            {"name": str, "n": int, "gone": str, "left": (str, "l"), "x": Literal["a", "b"]},
            by_name=Index("name"),
            by_x=Index("x", sort="n"),
            old=Unique("gone"),
        ),
        thing(
            {
                "title": Annotated[str, RenamedFrom("name")],
                "n": float,
                "x": Literal["a", "b", "c"],
                "fresh": (str, "f"),
                "owner": Annotated[str, Backfill("nobody")],
                "place": (Place, Place(town="-")),
            },
            by_name=Index("title", sort="n"),
            by_x=Index("x", sort="n", shards=2),
            by_town=Index("place.town"),
            one=Unique("title"),
        ),
        [{"id": str(n), "name": f"name {n}", "n": n, "gone": f"g{n}", "x": "ab"[n % 2]} for n in range(7)],
        [
            {"id": str(n), "title": f"name {n}", "n": float(n), "x": "ab"[n % 2], "fresh": "f", "owner": "nobody", "place": Place(town="-")}
            for n in range(7)
        ],
        allow=["Thing.gone"],
        kept=["Thing.left"],
        finds={
            "by_name": (("name 3",), ["3"]),
            "by_x": (("a",), ["0", "2", "4", "6"]),
            "by_town": (("-",), [str(n) for n in range(7)]),
            "one": (("name 5",), ["5"]),
        },
    ),
]
