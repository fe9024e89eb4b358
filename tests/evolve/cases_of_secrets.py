"""Pairs of versions between which a field becomes a secret, is one no longer, or is one under another name."""

from __future__ import annotations

from typing import Annotated

from palaver import Backfill, History, Index, RenamedFrom, Schema, Secret, days
from tests.evolve.cases import NAMED, Case, Hidden, N, called, entity, thing, with_

SECRETS = [
    Case("a field made secret", thing({"name": str}), thing({"name": Hidden}), NAMED),
    Case(
        "a nested field made secret, absent from some records",
        thing({"n": (int, 0), "keys": (dict[str, str] | None, None)}),
        thing({"n": (int, 0), "keys": (Annotated[dict[str, str] | None, Secret()], None)}),
        [*with_(N, keys={"a": "b"}), {"id": "x", "n": 1, "keys": None}],
    ),
    Case(
        "an indexed field with a default made secret",
        thing({"n": int, "name": (str, "?")}, by_name=Index("name", sort="n")),
        thing({"n": int, "name": (Hidden, "?")}),
        with_(N, name="x"),
    ),
    Case("a secret no longer", thing({"name": Hidden}), thing({"name": str}), NAMED, allow=("Thing.name",)),
    Case("a secret no longer, and nobody said so", thing({"name": Hidden}), thing({"name": str}), NAMED, words="stored for everybody"),
    Case(
        "a secret no longer, and another type",
        thing({"name": Hidden}),
        thing({"name": int}),
        NAMED,
        allow=("Thing.name",),
        words="declared otherwise",
    ),
    Case(
        "a secret of another type", thing({"name": Hidden}), thing({"name": Annotated[int, Secret()]}), NAMED, words="is stored as a sealed"
    ),
    Case(
        "a field in images of history made secret",
        thing({"name": str}, h=History(days(3))),
        thing({"name": Hidden}, h=History(days(3))),
        NAMED,
    ),
    Case(
        "a nested field in images of history made secret",
        thing({"n": (int, 0), "keys": (dict[str, str] | None, None)}, h=History(days(3))),
        thing({"n": (int, 0), "keys": (Annotated[dict[str, str] | None, Secret()], None)}, h=History(days(3))),
        [*with_(N, keys={"a": "b"}), {"id": "x", "n": 1, "keys": None}],
    ),
    Case(
        "a secret in images of history no longer",
        thing({"name": Hidden}, h=History(days(3))),
        thing({"name": str}, h=History(days(3))),
        NAMED,
        allow=("Thing.name",),
    ),
    Case(
        "a secret in images of history in a table of another name",
        thing({"name": Hidden}, h=History(days(3))),
        Schema("s", [entity("Person", {"name": Hidden}, table="people", renamed_from="things", h=History(days(3)))]),
        NAMED,
        entity=("Thing", "Person"),
        renames=True,
    ),
    Case(
        "a renamed secret",
        thing({"name": Hidden}),
        thing({"title": Annotated[str, Secret(), RenamedFrom("name")]}),
        NAMED,
        called(NAMED, "name", "title"),
    ),
    Case(
        "a renamed table with a secret",
        thing({"name": Hidden}),
        thing({"name": Hidden}, table="stuff", renamed_from="things"),
        NAMED,
        renames=True,
    ),
    Case(
        "a secret that is new, with a value for old records",
        thing({"n": int}),
        thing({"n": int, "code": (Hidden, "none"), "pin": Annotated[int, Secret(), Backfill(7)]}),
        N,
        with_(N, code="none", pin=7),
    ),
]
