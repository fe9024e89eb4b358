"""The attribute `metadata`, and every other word that means something to a database, to Python or to pydantic, is stored under its name."""

from __future__ import annotations

import keyword
import types
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Annotated, Any

import pytest

import palaver
from palaver import Batch, Entity, F, Key, Schema
from palaver.errors import SchemaError
from palaver.expr import Condition
from palaver.markers import Stored

RESERVED_AT = Path(__file__).parents[2] / "engines" / "dynamodb_reserved.txt"
RESERVED = [word for line in RESERVED_AT.read_text().splitlines() if not line.startswith("#") for word in line.split()]
SQL = """
cross current_timestamp database distinct filter join natural offset partition primary references replace returning right row rows
similar table then trigger union unique using values view when where window with
"""
PYDANTIC = """model_fields model_config model_dump json copy dict construct validate parse_obj schema_json fields"""
# SQL tells no False from false.
WORDS = sorted({word.lower() for word in (*RESERVED, *SQL.split(), *keyword.kwlist, *keyword.softkwlist, *PYDANTIC.split())} - {"_"})
AT_ONCE = 60


def declared() -> type[Entity]:
    """An entity with a field for each word, stored under it."""
    annotations: dict[str, Any] = {"note_id": str}
    body: dict[str, Any] = {"key": Key("note_id"), "__module__": __name__}
    for number, word in enumerate(WORDS):
        annotations[f"field_{number}"] = Annotated[str | None, Stored(word)]
        body[f"field_{number}"] = None
    made: Any = types.new_class(
        "Note", (Entity,), {"table": "notes"}, lambda namespace: namespace.update(body, __annotations__=annotations)
    )
    return made  # type: ignore[no-any-return]


def test_the_list_is_whole() -> None:
    assert 573 == len(set(RESERVED)) == len(RESERVED)


async def test_every_word_is_a_stored_name(url: str) -> None:
    note: Any = declared()
    assert set(WORDS) < set(note.declared().by_stored)
    async with palaver.open(url, schema=Schema("names", [note]), maintain=False) as store:
        written = {f"field_{number}": word for number, word in enumerate(WORDS)}
        await store.create(note(note_id="n", **written))
        read = await store.get(note.at("n"))
        assert written == {name: getattr(read, name) for name in written}
        names = list(written)
        for start in range(0, len(names), AT_ONCE):
            some = names[start : start + AT_ONCE]
            conditions: list[Condition] = [F(name) == written[name] for name in some]
            await store.patch(note.at("n"), set=dict.fromkeys(some, "another"), when=reduce(and_, conditions))
        read = await store.get(note.at("n"))
        assert ["another"] * len(names) == [getattr(read, name) for name in names]


async def test_every_word_is_a_table(url: str) -> None:
    # DynamoDB takes no table name of two letters, so that no schema does.
    words = [word for word in RESERVED if len(word) > 2]
    entities: list[Any] = [_table(number, word) for number, word in enumerate(words)]
    with pytest.raises(SchemaError, match="Its table name is not 3 to 255"):
        Schema("tables", [_table(0, "as")])
    async with palaver.open(url, schema=Schema("tables", entities), maintain=False) as store:
        for start in range(0, len(entities), AT_ONCE):
            batch = Batch()
            for entity in entities[start : start + AT_ONCE]:
                batch = batch.create(entity(row_id="a", text=entity.declared().table.name))
            await store.write(batch)
        for entity in entities:
            await store.patch(entity.at("a"), add={"count": 1})
        found: list[Any] = [await store.get(entity.at("a")) for entity in entities]
        assert [(word, 1) for word in words] == [(each.text, each.count) for each in found]


def _table(number: int, word: str) -> type[Entity]:
    body = {"__annotations__": {"row_id": str, "text": str, "count": int}, "__module__": __name__, "key": Key("row_id"), "count": 0}
    made: Any = types.new_class(f"Table{number}", (Entity,), {"table": word}, lambda namespace: namespace.update(body))
    return made  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:Field name:UserWarning")
@pytest.mark.parametrize("word", ["json", "copy", "schema", "revision"])
def test_a_field_is_not_called_like_what_every_entity_has(word: str) -> None:
    body = {"__annotations__": {word: str}, "__module__": __name__, "key": Key(word)}
    with pytest.raises(SchemaError, match="every entity uses"):
        types.new_class("Note", (Entity,), {"table": "notes"}, lambda namespace: namespace.update(body))
