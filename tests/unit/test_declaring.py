"""Every mistake in a declaration that is found when the class is made."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from palaver import (
    Entity,
    Expires,
    Expiry,
    Index,
    InstantMs,
    InstantText,
    Key,
    Personal,
    Ref,
    Searchable,
    Secret,
    Stored,
    Subject,
    Tenant,
    Unique,
    days,
)
from palaver.errors import SchemaError
from palaver.fields import kind_of
from tests.unit.declarations import NOON, Place


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
