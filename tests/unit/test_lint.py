"""The portable linter on declarations that are nearly right."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest

from palaver import Entity, Index, Key, Schema, Search, Searchable, Source
from palaver.errors import SchemaError

Kind = Literal["team", "player"]


class Thing(Entity, table="things"):
    thing_id: str
    kind: Kind
    mode: Kind
    name: str

    key = Key("thing_id")
    by_kind = Index("kind", sort="name")
    by_both = Index("kind", "mode", sort="name")
    by_name = Index("kind", "name")
    by_spread = Index("kind", sort="name", shards=8)


def test_a_partition_of_few_values_is_hot_and_one_with_many_in_any_part_is_not() -> None:
    assert [("hot_partition", "Thing.by_kind"), ("hot_partition", "Thing.by_both")] == [
        (found.code, found.where) for found in Schema("things", [Thing]).diagnostics
    ]


def test_a_column_every_table_of_postgresql_has_is_refused() -> None:
    class Row(Entity, table="rows"):
        row_id: str
        xmin: int = 0
        key = Key("row_id")

    with pytest.raises(SchemaError, match="system_column"):
        Schema("rows", [Row])


def test_names_that_differ_only_in_case_are_refused() -> None:
    class Row(Entity, table="rows"):
        row_id: str
        count: int = 0
        Count: int = 0
        key = Key("row_id")

    with pytest.raises(SchemaError, match="same_but_for_case"):
        Schema("rows", [Row])

    class Asked(Entity, table="asked"):
        row_id: str
        kind: str
        key = Key("row_id")
        by_kind = Index("kind", sort="row_id")
        by_Kind = Index("kind")

    with pytest.raises(SchemaError, match="by_kind and by_Kind differ only in case"):
        Schema("asked", [Asked])


def test_tables_that_differ_only_in_case_are_refused() -> None:
    """On SQLite they would be one table, and one entity's records the other's."""

    class One(Entity, table="notes"):
        note_id: str
        key = Key("note_id")

    class Other(Entity, table="Notes"):
        note_id: str
        key = Key("note_id")

    with pytest.raises(SchemaError, match="notes and Notes differ only in case"):
        Schema("notes", [One, Other])


def test_a_text_that_is_to_be_found_and_is_in_no_search_is_told() -> None:
    class Note(Entity, table="notes"):
        note_id: str
        title: Annotated[str, Searchable()]
        text: Annotated[str, Searchable()]
        key = Key("note_id")

    def found(*sources: Source) -> list[tuple[str, str, str]]:
        searches = [Search("notes", *sources)] if sources else []
        return [(each.code, each.level, each.where) for each in Schema("notes", [Note], searches=searches).diagnostics]

    title, text = (("searchable_unsearched", "warning", f"Note.{name}") for name in ("title", "text"))
    assert [title, text] == found()
    assert [text] == found(Source(Note, text=("title",)))
    assert [] == found(Source(Note))
