"""Taking in what another database has: records with the revisions they carry, and the changes of its feed at their positions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import apsw

from palaver.ops import REVISION, Change, position
from palaver.records import sql
from palaver.records.sqlite_rows import SQLITE, Rows, fetched
from palaver.records.sqlite_writes import KEY_COLUMNS, KINDS, more
from palaver.values import KeyPart, Record

TRIMMED = -1
_RUN = 250
# The interpreter goes back to a thread that asks at once, so without a pause the event loop waits 5 ms for a turn.
_PAUSE_S = 0.00005
_HEAD = "SELECT coalesce(max(position), 0) FROM palaver_changes"
_NAMES = "SELECT name, id FROM palaver_names"
_APPEND = "INSERT INTO palaver_changes (position, entity, kind, revision, key1, key2, key3, more) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
# A row without a change: no position at or below it is given out again.
_MARK = f"INSERT INTO palaver_changes (position, entity, kind, revision) VALUES (?, 0, {TRIMMED}, 0)"


def restore(
    connection: apsw.Connection, rows: Rows, records: Sequence[Record], gone: Sequence[tuple[KeyPart, ...]], over: bool
) -> list[tuple[KeyPart, ...]]:
    """Store and remove in the open transaction; return the keys whose stored records are newer."""
    text = upsert(rows, over)
    stayed: list[tuple[KeyPart, ...]] = []
    cursor = connection.cursor()
    for number, record in enumerate(records):
        cursor.execute(text, rows.encode(record, record[REVISION]))  # type: ignore[arg-type]
        if not over and not connection.changes():
            stayed.append(position(rows.table, None, record))
        if number % _RUN == _RUN - 1:
            time.sleep(_PAUSE_S)
    for key in gone:
        cursor.execute(rows.delete, key)
    return stayed


def upsert(rows: Rows, over: bool) -> str:
    names = [sql.quoted(name) for name in sql.stored_names(rows.table) if name not in rows.table.key]
    sets = ", ".join(f"{name} = excluded.{name}" for name in names)
    newer = "" if over else f" WHERE excluded.{sql.quoted(REVISION)} >= {sql.quoted(rows.name)}.{sql.quoted(REVISION)}"
    return f"{sql.insert(rows.table, SQLITE)} ON CONFLICT ({sql.commas(rows.table.key)}) DO UPDATE SET {sets}{newer}"


def continue_feed(connection: apsw.Connection, changes: Sequence[Change], last: int, gap: bool) -> None:
    """Append in the open transaction."""
    head: int = fetched(connection, _HEAD)[0][0]
    if gap and last >= head:
        connection.execute("DELETE FROM palaver_changes")
        connection.execute(_MARK, (last,))
        return
    names: Mapping[str, int] = dict(fetched(connection, _NAMES))
    new = [change for change in changes if change.position > head and change.table in names]
    connection.executemany(_APPEND, [_row(change, names[change.table]) for change in new])
    if last > max([head, *(change.position for change in new[-1:])]):
        connection.execute(_MARK, (last,))


def _row(change: Change, entity: int) -> tuple[Any, ...]:
    key = change.key
    padded = (key + (None,) * KEY_COLUMNS)[:KEY_COLUMNS]
    plain = len(key) <= KEY_COLUMNS and not change.released and change.cause == (None, None)
    rest = None if plain else more(key, change.cause, change.released)
    return (change.position, entity, KINDS.index(change.kind), change.revision, *padded, rest)
