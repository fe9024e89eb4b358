"""How names and types are written for PostgreSQL: in one schema, at most 63 bytes, text in byte order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

from palaver.ops import KINDS, Table
from palaver.records.sql import Dialect, quoted

LONGEST = 63
_HASH = 12
# What a parameter is cast to: the server must not guess a type from where the parameter stands.
CASTS: Mapping[str, str] = {
    "text": "text",
    "int": "bigint",
    "float": "double precision",
    "bool": "boolean",
    "number": "numeric",
    "bytes": "bytea",
    "json": "jsonb",
}
_TYPES: Mapping[KINDS, str] = {
    "text": 'text COLLATE "C"',
    "int": "bigint",
    "float": "double precision",
    "bool": "boolean",
    "number": "numeric",
    "bytes": "bytea",
    "json": "jsonb",
}


def short(name: str) -> str:
    """Return a name as the server keeps it: one that is too long ends in a hash of the whole, so that no two collide."""
    data = name.encode()
    if len(data) <= LONGEST:
        return name
    kept = data[: LONGEST - _HASH - 1].decode(errors="ignore")
    return f"{kept}~{sha256(data).hexdigest()[:_HASH]}"


def identifier(name: str) -> str:
    return quoted(short(name))


class Names:
    """Names in one schema: always written with it, since a search path would be state of a session."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self.prefix = identifier(schema) + "."
        self.changes = self.prefix + "palaver_changes"
        self.names = self.prefix + "palaver_names"
        self.meta = self.prefix + "palaver_meta"
        self.positions = self.prefix + "palaver_positions"
        # Taken when the row it is about is locked already, so changes of one record stand in the order of its revisions.
        self.position = "nextval('" + self.positions.replace("'", "''") + "')"
        self.dialect = Dialect(
            types=_TYPES,
            parameter=lambda number: f"${number}",
            quoted=identifier,
            table=self.within,
            index=self.within,
            new_index=identifier,
            true="TRUE",
            false="FALSE",
        )

    def within(self, name: str) -> str:
        return self.prefix + identifier(name)


def tenant_columns(tables: Iterable[Table]) -> dict[str, str]:
    """Return which column says whose a row is, by table, both as the server names them."""
    return {short(table.name): short(table.tenant) for table in tables if table.tenant is not None}


def kinds(table: Table) -> dict[str, KINDS]:
    return {column.name: column.kind for column in table.columns}
