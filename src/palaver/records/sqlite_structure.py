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

from palaver.errors import NotProvisioned
from palaver.ops import (
    AddColumn,
    Belt,
    Column,
    CreateIndex,
    CreateTable,
    DropColumn,
    DropIndex,
    DropTable,
    IndexSpec,
    Physical,
    RenameColumn,
    RenameTable,
    SetExpiry,
    Step,
    Table,
    after_step,
)
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
_SAME_NAME = "SELECT 1 FROM sqlite_schema WHERE type IN ('table', 'view') AND name = ? COLLATE NOCASE"
_ABOUT = re.compile(r"/\* (\{.*?\}) \*/")
_COLUMN = re.compile(r'"((?:[^"]|"")+)" /\* (\w+)( shadow)? \*/')


def apply(connection: apsw.Connection, step: Step) -> Table | None:
    """Take one step in the open transaction; return the table as it is stored then, whatever is declared by now."""
    connection.execute(_SYSTEM_TEXT)
    name = step.old if isinstance(step, RenameTable) else step.table.name
    before = _found(connection, name)
    if before is None and not isinstance(step, CreateTable | RenameTable | DropTable):
        raise NotProvisioned(f"There is no table {name}.", table=name)
    if before is None and isinstance(step, CreateTable) and fetched(connection, _SAME_NAME, (name,)):
        raise NotProvisioned(
            f"The database has a table or view {name} that this library did not make.",
            hint="Rename it, or use a file of its own.",
            table=name,
        )
    for text in texts(before, step):
        connection.execute(text)
    return _found(connection, step.table.name)


def system_text() -> str:
    """Return what makes the tables every file of ours has."""
    return _SYSTEM_TEXT


def texts(before: Table | None, step: Step) -> list[str]:
    """Return the statements of one step: for the table it is about as it is, None where it is not there."""
    if isinstance(step, CreateTable):
        made = [sql.create_table(step.table, SQLITE), *_around(step.table)] if before is None else []
        name = sql.literal(step.table.name, SQLITE)
        return [*made, f"INSERT INTO palaver_names (name) VALUES ({name}) ON CONFLICT DO NOTHING"]
    if before is None:
        return []
    if isinstance(step, RenameTable):
        new, old = sql.literal(step.table.name, SQLITE), sql.literal(step.old, SQLITE)
        return [
            f"DELETE FROM palaver_names WHERE name = {new} AND name <> {old}",
            f"UPDATE palaver_names SET name = {new} WHERE name = {old}",
            *statements(before, step),
        ]
    return statements(before, step)


def statements(before: Table, step: Step) -> list[str]:
    """Return the statements of one step for a table as it is; nothing where the step was taken before."""
    after = after_step(before, step)
    if isinstance(step, DropTable):
        return [sql.drop_table(before, SQLITE)]
    if after == before:
        return []
    match step:
        case CreateIndex(_, index):
            return [sql.drop_index(before, index.name, SQLITE), sql.create_index(after, index, SQLITE)]
        case DropIndex(_, name):
            return [sql.drop_index(before, name, SQLITE)]
        case SetExpiry():
            return [sql.drop_expiry(before, SQLITE), *([sql.create_expiry(after, SQLITE)] if after.expires else [])]
        # The options of a table follow from its columns, and only a new table gets others.
        case AddColumn(_, column) if SQLITE.options(before) == SQLITE.options(after) and not column.required:
            return [sql.add_column(after, column, SQLITE)]
        case RenameColumn(_, old, new):
            return [sql.rename_column(before, old, new, SQLITE)]
        case DropColumn(_, name) if SQLITE.options(before) == SQLITE.options(after):
            return [sql.drop_column(before, name, SQLITE)]
    return rebuild(before, after)


def rebuild(before: Table, after: Table) -> list[str]:
    """Return what makes a table anew from its rows, with the declaration it is to have: SQLite alters little in place."""
    new = replace(after, name=f"{OURS}new:{after.name}")
    kept = [name for name in sql.stored_names(after) if name in sql.stored_names(before)]
    return [
        sql.create_table(new, SQLITE),
        f"INSERT INTO {sql.quoted(new.name)} ({sql.commas(kept)}) SELECT {sql.commas(kept)} FROM {sql.quoted(before.name)}",
        sql.drop_table(before, SQLITE),
        sql.rename_table(new, after.name, SQLITE),
        *_around(after),
    ]


def _around(table: Table) -> list[str]:
    """Return what makes the indexes of a table."""
    indexes = [sql.create_index(table, index, SQLITE) for index in table.indexes]
    return [*indexes, sql.create_expiry(table, SQLITE)] if table.expires else indexes


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


def _found(connection: apsw.Connection, name: str) -> Table | None:
    """Return one table as it is stored; None where there is none of ours."""
    rows = fetched(connection, "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (name,))
    about = _ABOUT.search(rows[0][0] or "") if rows else None
    return _table(connection, name, rows[0][0], json.loads(about[1])) if about else None


def _table(connection: apsw.Connection, name: str, text: str, about: dict[str, Any]) -> Table:
    kinds: dict[str, tuple[Any, bool, str]] = {}
    for each in _COLUMN.finditer(text):
        kinds[each[1].replace('""', '"')] = (each[2], bool(each[3]), text[each.end() :])
    columns: list[Column] = []
    key: dict[int, str] = {}
    info = fetched(connection, 'SELECT name, "notnull", pk FROM pragma_table_info(?)', (name,))
    for column, required, place in info:
        if column in kinds:
            kind, shadow, rest = kinds[column]
            columns.append(Column(column, kind, bool(required), shadow, sql.check_of(kind, rest)))
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
        _expires(connection, name),
        about["feed"],
        _belts(connection, name),
    )


def _expires(connection: apsw.Connection, table: str) -> str | None:
    """Return the column records expire by: the first of the index that finds the expired ones."""
    rows = fetched(connection, "SELECT name FROM pragma_index_info(?) WHERE seqno = 0", (f"{table}::expires",))
    return rows[0][0] if rows else None


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
