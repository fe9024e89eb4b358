"""The attribute `metadata`, and every other word that means something to a database, to Python or to pydantic, is stored under its name."""

from __future__ import annotations

import keyword
import types
from typing import Annotated, Any

import pytest

import palaver
from palaver import Entity, F, Key, Schema
from palaver.errors import SchemaError
from palaver.expr import Condition
from palaver.markers import Stored

DATABASES = """
all and as asc between by case check column count create cross current_timestamp database date default delete desc distinct domain
drop exists filter from grant group having hash in index insert into is join key language left length level like limit max
metadata min name names natural not null offset on or order outer partition permissions plan primary range read references rename
replace role row rows schema select session set size status table text then time timestamp to token trigger ttl type union unique
update url usage user using value values view when where with
"""
PYDANTIC = """model_fields model_config model_dump json copy dict construct validate parse_obj schema_json fields"""
WORDS = sorted({*DATABASES.split(), *keyword.kwlist, *keyword.softkwlist, *PYDANTIC.split()} - {"_"})


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


async def test_every_word_is_a_stored_name(url: str) -> None:
    note: Any = declared()
    assert len(WORDS) > 130
    assert set(WORDS) < set(note.declared().by_stored)
    async with palaver.open(url, schema=Schema("names", [note]), maintain=False) as store:
        written = {f"field_{number}": word for number, word in enumerate(WORDS)}
        await store.create(note(note_id="n", **written))
        read = await store.get(note.at("n"))
        assert written == {name: getattr(read, name) for name in written}
        only: Condition = F("field_0") == WORDS[0]
        for number in range(1, 60):
            only &= F(f"field_{number}") == WORDS[number]
        changed = await store.patch(note.at("n"), set=dict.fromkeys(list(written)[:90], "another"), when=only)
        assert ["another"] * 90 == [getattr(changed, name) for name in list(written)[:90]]


@pytest.mark.filterwarnings("ignore:Field name:UserWarning")
@pytest.mark.parametrize("word", ["json", "copy", "schema", "revision"])
def test_a_field_is_not_called_like_what_every_entity_has(word: str) -> None:
    body = {"__annotations__": {word: str}, "__module__": __name__, "key": Key(word)}
    with pytest.raises(SchemaError, match="every entity uses"):
        types.new_class("Note", (Entity,), {"table": "notes"}, lambda namespace: namespace.update(body))
