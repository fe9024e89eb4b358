"""Keeping an absent record absent until a transaction ends: nothing else can be locked where there is no row.

A row is stored under the key and removed again in the same transaction, so nobody ever sees it; whoever creates a record
there meanwhile waits for the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from palaver.connections.postgres import Connection
from palaver.ops import REVISION, Address, Column
from palaver.records import sql
from palaver.records.postgres_rows import Rows

_EMPTY: dict[str, Any] = {"text": "", "int": 0, "float": 0.0, "bool": False, "number": Decimal(0), "bytes": b"", "json": "null"}


async def hold_absent(connection: Connection, places: Sequence[tuple[Rows, Address]]) -> bool:
    """Hold every place until the transaction ends; False where one is taken already."""
    for rows, at in places:
        dialect = rows.names.dialect
        columns = [column for column in rows.table.columns if sql.is_always_there(rows.table, column)]
        given = dict(zip(rows.table.key, at.key, strict=True))
        values = [given.get(column.name, _harmless(column)) for column in columns]
        names = [*(column.name for column in columns), REVISION]
        marks = ", ".join(f"${n + 1}" for n in range(len(names)))
        text = f"INSERT INTO {rows.at} ({dialect.commas(names)}) VALUES ({marks}) ON CONFLICT DO NOTHING RETURNING 1"
        if not await connection.fetch(text, *values, 0):
            return False
        # Others still wait for the transaction that stored it, and it cannot be in the way of this one's own record.
        await connection.execute(sql.delete(rows.table, dialect), *at.key)
    return True


def _harmless(column: Column) -> Any:
    """Return a value the column's check accepts."""
    match column.check:
        case ("in", values):
            return next(iter(values))  # type: ignore[call-overload]
        case ("range", low, high):
            return low if low is not None else high
    return _EMPTY[column.kind]
