"""The structure of a SQLite file: made from declarations step by step, and read back from the file itself.

What SQL types cannot say (that a TEXT holds JSON, which part of the key partitions) stands in comments of the stored
statements, so that the file describes itself and no second catalogue can disagree with it.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import apsw

from palaver.ops import AddColumn, Belt, Column, CreateIndex, CreateTable, DropIndex, IndexSpec, Physical, Step, Table
from palaver.records import sql
from palaver.records.sqlite_rows import SQLITE, fetched

OURS = "palaver_"
_SYSTEM_TEXT = """
CREATE TABLE IF NOT EXISTS palaver_changes (
  position INTEGER PRIMARY KEY /* never used again: the last row is emptied when it is trimmed, not deleted */,
  entity INTEGER NOT NULL /* palaver_names.id */,
  kind INTEGER NOT NULL /* 0 created, 1 updated, 2 deleted, 3 expired, -1 trimmed */,
  revision INTEGER NOT NULL,
  key1 ANY, key2 ANY, key3 ANY,
  more TEXT /* further key parts, actor, token, released blobs */
) STRICT;
CREATE TABLE IF NOT EXISTS palaver_names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS palaver_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""
_ABOUT = re.compile(r"/\* (\{.*?\}) \*/")
_COLUMN = re.compile(r'"((?:[^"]|"")+)" /\* (\w+)( shadow)? \*/')


def apply(connection: apsw.Connection, step: Step) -> None:
    """Take one step in the open transaction."""
    connection.execute(_SYSTEM_TEXT)
    match step:
        case CreateTable(table):
            connection.execute(sql.create_table(table, SQLITE))
            connection.execute("INSERT INTO palaver_names (name) VALUES (?) ON CONFLICT DO NOTHING", (table.name,))
            for index in table.indexes:
                connection.execute(sql.create_index(table, index, SQLITE))
            if table.expires is not None:
                connection.execute(sql.create_expiry(table))
        case AddColumn(table, column):
            if column.name not in _column_names(connection, table.name):
                connection.execute(sql.add_column(table, column, SQLITE))
        case CreateIndex(table, index):
            connection.execute(sql.create_index(table, index, SQLITE))
        case DropIndex(table, name):
            connection.execute(sql.drop_index(table, name))


def after(table: Table, step: Step) -> Table:
    """Return the declaration as it is after a step."""
    match step:
        case CreateTable():
            return table
        case AddColumn(_, column):
            known = any(column.name == each.name for each in table.columns)
            return table if known else replace(table, columns=(*table.columns, column))
        case CreateIndex(_, index):
            known = any(index.name == each.name for each in table.indexes)
            return table if known else replace(table, indexes=(*table.indexes, index))
        case DropIndex(_, name):
            return replace(table, indexes=tuple(index for index in table.indexes if index.name != name))


def stamp(connection: apsw.Connection, version: int, fingerprint: str) -> None:
    connection.execute(_SYSTEM_TEXT)
    connection.execute(f"PRAGMA user_version={version:d}")
    connection.execute(
        "INSERT INTO palaver_meta VALUES ('fingerprint', ?) ON CONFLICT DO UPDATE SET value = excluded.value", (fingerprint,)
    )


def describe(connection: apsw.Connection) -> Physical:
    """Return the tables this library made, the names of all others, and the stamp."""
    tables: list[Table] = []
    unknown: list[str] = []
    every = "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    for name, text in fetched(connection, every):
        about = _ABOUT.search(text or "")
        if about is not None:
            tables.append(_table(connection, name, text, json.loads(about[1])))
        elif not name.startswith(OURS):
            unknown.append(name)
    version = fetched(connection, "PRAGMA user_version")[0][0]
    fingerprint = ""
    if _column_names(connection, "palaver_meta"):
        stamped = fetched(connection, "SELECT value FROM palaver_meta WHERE name = 'fingerprint'")
        fingerprint = stamped[0][0] if stamped else ""
    return Physical(tuple(sorted(tables, key=lambda table: table.name)), tuple(sorted(unknown)), int(version), fingerprint)


def _table(connection: apsw.Connection, name: str, text: str, about: dict[str, Any]) -> Table:
    kinds: dict[str, tuple[Any, bool]] = {column.replace('""', '"'): (kind, bool(shadow)) for column, kind, shadow in _COLUMN.findall(text)}
    columns: list[Column] = []
    key: dict[int, str] = {}
    info = fetched(connection, 'SELECT name, "notnull", pk FROM pragma_table_info(?)', (name,))
    for column, required, place in info:
        if column in kinds:
            kind, shadow = kinds[column]
            columns.append(Column(column, kind, bool(required), shadow))
        if place:
            key[place] = column
    names = tuple(key[place] for place in sorted(key))
    parts = about["partition"]
    return Table(
        name,
        about["entity"],
        tuple(columns),
        names[:parts],
        names[parts:],
        _indexes(connection, name),
        about["expires"],
        about["feed"],
        _belts(connection, name),
    )


def _indexes(connection: apsw.Connection, table: str) -> tuple[IndexSpec, ...]:
    found: list[IndexSpec] = []
    rows = fetched(connection, "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? ORDER BY rowid", (table,))
    for name, text in rows:
        about = _ABOUT.search(text or "")
        if about is not None:
            parts = json.loads(about[1])
            unique = text.startswith("CREATE UNIQUE")
            found.append(IndexSpec(name.removeprefix(f"{table}:"), tuple(parts["partition"]), tuple(parts["sort"]), unique))
    return tuple(found)


def _belts(connection: apsw.Connection, table: str) -> tuple[Belt, ...]:
    found: dict[int, tuple[str, list[str], list[str]]] = {}
    rows = fetched(connection, 'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?) ORDER BY id, seq', (table,))
    for number, parent, column, target in rows:
        belt = found.setdefault(number, (parent, [], []))
        belt[1].append(column)
        belt[2].append(target)
    # SQLite lists the last declared first.
    return tuple(Belt(tuple(columns), parent, tuple(targets)) for _, (parent, columns, targets) in sorted(found.items(), reverse=True))


def _column_names(connection: apsw.Connection, table: str) -> set[str]:
    rows = fetched(connection, "SELECT name FROM pragma_table_info(?)", (table,))
    return {name for (name,) in rows}
