"""Old schema → new schema, as ordered steps that only add; anything that would strand stored data is refused."""

from __future__ import annotations

from collections.abc import Iterable

from palaver.errors import NotProvisioned
from palaver.ops import AddColumn, CreateIndex, CreateTable, DropIndex, Physical, Step, Table


def steps(physical: Physical, wanted: Iterable[Table]) -> list[Step]:
    """Return what makes a database fit: tables, then columns, then indexes dropped and made.

    Raises NotProvisioned where a stored column has another type, the key differs, or a column would have to be filled.
    """
    found = {table.name: table for table in physical.tables}
    out: list[Step] = []
    for table in wanted:
        stored = found.get(table.name)
        if stored is None:
            out.append(CreateTable(table))
        else:
            out.extend(_table_steps(stored, table))
    return out


def _table_steps(stored: Table, table: Table) -> Iterable[Step]:
    if stored.key != table.key:
        raise NotProvisioned(
            f"{table.entity} is stored with another key than it declares.",
            hint="A key cannot change in place: copy the records into a new entity.",
            entity=table.entity,
        )
    have = {column.name: column for column in stored.columns}
    for column in table.columns:
        old = have.get(column.name)
        if old is None:
            if column.required and not column.shadow:
                raise NotProvisioned(
                    f"{table.entity}.{column.name} is new and required, and stored records have no value for it.",
                    hint="Give it a default, or make it optional.",
                    entity=table.entity,
                    field=column.name,
                )
            yield AddColumn(table, column)
        elif _form(old.kind) != _form(column.kind):
            raise NotProvisioned(
                f"{table.entity}.{column.name} is stored as {old.kind} and declared as {column.kind}.",
                hint="Declare a new field, or migrate the data first.",
                entity=table.entity,
                field=column.name,
            )
    indexes = {index.name: index for index in stored.indexes}
    wanted = {index.name: index for index in table.indexes}
    for name, index in indexes.items():
        if name not in wanted or (wanted[name].partition, wanted[name].sort) != (index.partition, index.sort):
            yield DropIndex(table, name)
    for name, index in wanted.items():
        if name not in indexes or (indexes[name].partition, indexes[name].sort) != (index.partition, index.sort):
            yield CreateIndex(table, index)


def _form(kind: str) -> str:
    """Kinds an engine cannot tell apart by looking at a column are one form."""
    return {"number": "text", "json": "text", "bool": "int"}.get(kind, kind)
