"""A pair of versions of a schema: what was stored by the old one, and what the new one is to read and find afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from palaver import Entity, Index, Key, Schema, Secret, Tenant, Unique

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Rows = Sequence[Mapping[str, Any]]


def entity(name: str, fields: Mapping[str, Any], *, table: str = "things", renamed_from: str | None = None, **more: Any) -> type[Entity]:
    """Make an entity from annotations; a tuple is an annotation with its default."""
    members: dict[str, Any] = {"__module__": __name__, "__annotations__": {"id": str}, "key": Key("id"), **more}
    for field_, said in fields.items():
        members["__annotations__"][field_] = said[0] if isinstance(said, tuple) else said
        if isinstance(said, tuple):
            members[field_] = said[1]
    return type(name, (Entity,), members, table=table, renamed_from=renamed_from)


def thing(fields: Mapping[str, Any], **more: Any) -> Schema:
    return Schema("s", [entity("Thing", fields, **more)])


@dataclass(frozen=True)
class Case:
    """One change. `stored` are records of the old version; `read` what they are in the new (default: unchanged).

    `entity` names the class whose records these are; `kept` the stored fields left behind; `words` the refusal, if any.
    What nested fields gain `inside` is read as its default, and stored when the record is next written.
    """

    name: str
    old: Schema
    new: Schema
    stored: Rows = ()
    read: Rows | None = None
    entity: tuple[str, str] = ("Thing", "Thing")
    allow: Sequence[str] = ()
    kept: Sequence[str] = ()
    finds: Mapping[str, tuple[tuple[Any, ...], list[str]]] = field(default_factory=dict)
    words: str = ""
    renames: bool = False
    inside: bool = False

    @property
    def expected(self) -> Rows:
        return self.stored if self.read is None else self.read


Hidden = Annotated[str, Secret()]
N = [{"id": str(n), "n": n} for n in range(5)]
NAMED = [{"id": str(n), "name": f"name {n}"} for n in range(5)]
PERSON = {"id": "p", "name": "x"}


def with_(rows: Rows, **more: Any) -> Rows:
    return [{**row, **more} for row in rows]


def called(rows: Rows, old: str, new: str) -> Rows:
    return [{new if name == old else name: value for name, value in row.items()} for row in rows]


def team() -> type[Entity]:
    return entity("Team", {}, table="teams")


class TenantThing:
    """The versions of an entity that belongs to tenants."""

    old = thing({"tenant": Annotated[str, Tenant()], "name": str})
    new = thing({"tenant": Annotated[str, Tenant()], "name": str, "x": (int, 1)}, one=Unique("name"), by_x=Index("x", sort="name"))
