"""Parts of an index that an engine joins in each record: no program leaves one behind that is wrong, or trips over one."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from palaver import Batch, F, Index, Schema
from palaver.errors import NotProvisioned
from tests.evolve.beds import Bed
from tests.evolve.cases import entity

FIELDS: dict[str, Any] = {"a": str, "b": str, "n": int}


def schema(version: int, **more: Any) -> Schema:
    return Schema("s", [entity("Thing", FIELDS, **more)], version=version)


PLAIN, JOINED, PLAIN_AGAIN = schema(1), schema(2, by_both=Index("a", "b", sort=("n", "b"))), schema(3)


async def test_records_that_an_index_left_are_written_as_any(place: Bed) -> None:
    thing: Any = JOINED.entities["Thing"].entity
    store = await place.store(JOINED, changing=True)
    for n in range(3):
        await store.create(thing(id=str(n), a="x", b="y", n=n))
    store = await place.store(PLAIN_AGAIN, changing=True)
    thing = PLAIN_AGAIN.entities["Thing"].entity
    patched = Batch().patch(thing.at("0"), add={"n": 5}, when=F("n") < 5).patch(thing.at("1"), set={"a": F("b")})
    first, second = await store.write(patched, returning=True)
    assert (5, "y") == (first.n, second.a)  # type: ignore[union-attr]
    await store.patch(thing.at("2"), set={"a": F("b")}, when=F("n") == 2)
    records = (await store.core.records.scan("things", after=None, limit=10)).records
    assert all({"id", "a", "b", "n", "_revision"} == record.keys() for record in records)


async def test_an_older_program_leaves_no_index_wrong_that_it_does_not_know(place: Bed) -> None:
    older: Any = PLAIN.entities["Thing"].entity
    newer: Any = JOINED.entities["Thing"].entity
    store = await place.store(PLAIN, changing=True)
    await store.create(older(id="0", a="x", b="y", n=0))
    await place.store(JOINED, changing=True)
    store = await place.store(PLAIN)
    with suppress(NotProvisioned):
        await store.patch(older.at("0"), set={"a": "moved"})
        await store.patch(older.at("0"), set={"b": F("a")}, when=F("n") == 0)
    store = await place.store(JOINED)
    found = await store.get(newer.at("0"))
    assert ["0"] == [each.id async for each in store.query(newer.by_both(found.a, found.b))]
