"""Entities that belong together: what a schema resolves, and every mistake that is found when it is made."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import pytest
from pydantic import BaseModel

from palaver import (
    Blob,
    Entity,
    Index,
    Key,
    Personal,
    Ref,
    Schema,
    Search,
    Searchable,
    Secret,
    Source,
)
from palaver.errors import SchemaError
from tests.unit.declarations import record_of


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
