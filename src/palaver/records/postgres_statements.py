"""What is written to PostgreSQL in one statement, its change rows included: one commit, one round trip.

Three forms. `creates`: new records of any number of callers, as lists. `chain`: the ops of one batch whose guards SQL
can judge. `applied`: what was decided in Python, written only where every row is still the version that was looked at.
The texts depend on shapes alone and are kept by the server as prepared statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from palaver.ops import MARK, REVISION
from palaver.records import sql
from palaver.records.postgres_feed import CREATED, DELETED, EXPIRED, UPDATED
from palaver.records.postgres_lists import source
from palaver.records.postgres_rows import Rows
from palaver.values import MAX_RECORD

# What every row carries that this transaction writes.
VERSION = "pg_current_xact_id()::xid"

# --- new records ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1_000)
def creates(tables: tuple[Rows, ...], *, over: bool = False, about: bool = True, marked: bool = True) -> str:
    """Parameters: for each table a list for each stored column, and, with `about`, one for what its changes keep beside the key.

    Not `marked`: none of the records is marked, and the last column has no list.
    `over`: records that are there are replaced; then the statement gives each key's place among the tables, its key as the
    feed keeps it, its revision, and whether it is new. Without it a record that is there fails the statement.
    """
    parts: list[str] = []
    feed: list[str] = []
    number = 1
    for n, rows in enumerate(tables):
        given = rows.stored if marked else rows.stored[:-1]
        lists = source((rows.kinds[name], number + n) for n, name in enumerate(given))
        insert = f"INSERT INTO {rows.at} AS t ({rows.names.dialect.commas(given)}) SELECT * FROM {lists} AS s"
        if about and not rows.table.feed:
            # Every parameter has to be used, and this one is there for the feed alone.
            insert += f" WHERE ${number + len(given)}::json IS NOT NULL"
        gives = f"RETURNING {rows.key_texts('t.')} AS key, t.{rows.names.dialect.quoted(REVISION)} AS revision"
        gives += ", (t.xmax = 0) AS fresh" if over else ""
        parts.append(f"w{n} AS ({insert} {_replacing(rows) if over else ''} {gives})")
        if rows.table.feed:
            kind = f"CASE WHEN w.fresh THEN {CREATED} ELSE {UPDATED} END" if over else str(CREATED)
            more = "s.more" if about else "NULL::jsonb"
            joined = f" JOIN {_abouts(rows, number, len(given))}" if about else ""
            feed.append(f"SELECT {rows.id} AS entity, {kind} AS kind, w.revision, w.key, {more} AS more FROM w{n} w{joined}")
        number += len(given) + about
    if feed:
        position = tables[0].names.position
        parts.append(f"f AS ({_into(tables[0])} SELECT {position}, c.* FROM ({' UNION ALL '.join(feed)}) c)")
    found = " UNION ALL ".join(f"SELECT {n}, key, revision, fresh FROM w{n}" for n in range(len(tables)))
    return f"WITH {', '.join(parts)} {found if over else f'SELECT {VERSION}'}"


def _abouts(rows: Rows, number: int, width: int) -> str:
    """Return the source that gives what changes keep beside the key, joined to what was written; it stands `width` lists further."""
    key, stored = rows.table.key, rows.stored
    lists = source([*((rows.kinds[name], number + stored.index(name)) for name in key), ("json", number + width)])
    of = ", ".join(rows.key_text(name, f"s.{rows.names.dialect.quoted(name)}") for name in key)
    return f"{lists} AS s({rows.names.dialect.commas(key)}, more) ON w.key = ARRAY[{of}]"


def _into(rows: Rows) -> str:
    return f"INSERT INTO {rows.names.changes} (position, entity, kind, revision, key, more)"


def _replacing(rows: Rows) -> str:
    quote = rows.names.dialect.quoted
    revision = quote(REVISION)
    sets = [f"{quote(name)} = excluded.{quote(name)}" for name in rows.stored if name not in rows.table.key and name != REVISION]
    sets.append(f"{revision} = greatest(excluded.{revision}, t.{revision} + 1)")
    return f"ON CONFLICT ({rows.names.dialect.commas(rows.table.key)}) DO UPDATE SET {', '.join(sets)}"


# --- guards that SQL can judge --------------------------------------------------------------------------------------


class Link(NamedTuple):
    """One op of a chain: what it does, to which columns, and what must hold there.

    `action`: create, put, replace, update, delete, expire or check. `changes`: for an update, ("set" or "add", column) each.
    `sure`: nothing found means the guards do not hold. Its arguments: key, values in order, size, revision, `more`.
    """

    rows: Rows
    action: str
    changes: tuple[tuple[str, str], ...] = ()
    alive: bool = False
    unchanged: bool = False
    sure: bool = True

    @property
    def gives_record(self) -> bool:
        return self.action == "update"


class _Arguments:
    def __init__(self, first: int) -> None:
        self.next = first

    def take(self, cast: str) -> str:
        self.next += 1
        return f"${self.next - 1}::{cast}"


@lru_cache(maxsize=4_000)
def chain(links: tuple[Link, ...]) -> str:
    """Parameters: the instant, and the arguments of each link.

    One row comes back: true, the version of what was written, and for each link whether it found its record, the revision,
    and the record where it gives one. A single link that finds nothing gives no row; of several, one that must and does not
    divides by zero.
    """
    arguments = _Arguments(2)
    parts: list[str] = []
    feed: list[str] = []
    for n, link in enumerate(links):
        text, kind = _link(link, arguments)
        parts.append(f"w{n} AS ({text})")
        if link.rows.table.feed and link.action != "check":
            feed.append(f"SELECT {link.rows.id} AS entity, {kind} AS kind, revision, key, {arguments.take('jsonb')} AS more FROM w{n}")
    if feed:
        source = f"SELECT {links[0].rows.names.position}, entity, kind, revision, key, more FROM ({' UNION ALL '.join(feed)}) c"
        parts.append(f"f AS ({_into(links[0].rows)} {source})")
    parts.append("instant AS (SELECT $1::bigint)")
    head = f"WITH {', '.join(parts)}"
    columns = ", ".join(
        f"w{n}.revision" + (f", {_columns(link.rows, f'w{n}.')}" if link.gives_record else "") for n, link in enumerate(links)
    )
    if len(links) == 1:
        return f"{head} SELECT true, {VERSION}, {columns} FROM w0"
    holds = " AND ".join(f"(SELECT count(*) FROM w{n}) = 1" for n, link in enumerate(links) if link.sure) or "true"
    joins = " ".join(f"LEFT JOIN w{n} ON true" for n in range(len(links)))
    return f"{head} SELECT g.ok, {VERSION}, {columns} FROM (SELECT 1 / (CASE WHEN {holds} THEN 1 ELSE 0 END) = 1 AS ok) g {joins}"


def _columns(rows: Rows, prefix: str) -> str:
    return ", ".join(prefix + rows.names.dialect.quoted(name) for name in rows.stored)


def _link(link: Link, arguments: _Arguments) -> tuple[str, str]:
    """Return the statement of one link and the kind of its change."""
    rows, action = link.rows, link.action
    quote = rows.names.dialect.quoted
    gives = f"t.{quote(REVISION)} AS revision, {rows.key_texts('t.')} AS key"
    if action in ("create", "put"):
        values = ", ".join(arguments.take(rows.cast(name)) for name in rows.stored)
        text = f"INSERT INTO {rows.at} AS t ({rows.columns}) VALUES ({values})"
        if action == "create":
            return f"{text} RETURNING {gives}", str(CREATED)
        return f"{text} {_replacing(rows)} RETURNING {gives}, (t.xmax = 0) AS fresh", f"CASE WHEN fresh THEN {CREATED} ELSE {UPDATED} END"
    where = [f"t.{quote(name)} = {arguments.take(rows.cast(name))}" for name in rows.table.key]
    later = f"greatest($1::bigint, t.{quote(REVISION)} + 1)"
    if action == "check":
        return f"SELECT 0 AS revision FROM {rows.at} t WHERE {_where(link, where, arguments)} FOR SHARE", ""
    if action in ("delete", "expire"):
        kind = DELETED if action == "delete" else EXPIRED
        gone = f"{later} AS revision, {rows.key_texts('t.')} AS key"
        return f"DELETE FROM {rows.at} t WHERE {_where(link, where, arguments)} RETURNING {gone}", str(kind)
    sets = [_changed(rows, how, name, arguments) for how, name in link.changes]
    sets.append(f"{quote(REVISION)} = {later}")
    if action == "update":
        gives += f", {_columns(rows, 't.')}"
        where.append(f"{_size(rows)} + {arguments.take('bigint')} <= {MAX_RECORD}")
    text = f"UPDATE {rows.at} t SET {', '.join(sets)} WHERE {_where(link, where, arguments)} RETURNING {gives}"
    return text, str(UPDATED)


def _changed(rows: Rows, how: str, name: str, arguments: _Arguments) -> str:
    column = rows.names.dialect.quoted(name)
    value = arguments.take(rows.cast(name))
    return f"{column} = coalesce(t.{column}, 0) + {value}" if how == "add" else f"{column} = {value}"


def _where(link: Link, where: list[str], arguments: _Arguments) -> str:
    quote = link.rows.names.dialect.quoted
    if link.unchanged:
        where.append(f"t.{quote(REVISION)} = {arguments.take('bigint')}")
    if link.alive:
        where.append(f"t.{quote(MARK)} IS NULL")
        if link.rows.table.expires is not None:
            expires = f"t.{quote(link.rows.table.expires)}"
            where.append(f"({expires} IS NULL OR {expires} > $1::bigint / 1000000)")
    return " AND ".join(where)


def _size(rows: Rows) -> str:
    """Return an expression that is never below the metered size of a stored record."""
    quote = rows.names.dialect.quoted
    fixed = 100
    parts: list[str] = []
    for column in rows.table.columns:
        fixed += len(column.name.encode()) + 24
        name = f"t.{quote(column.name)}"
        if column.kind in ("text", "bytes"):
            parts.append(f"coalesce(octet_length({name}), 0)")
        elif column.kind == "json":
            # A value of JSONB takes more bytes than it is metered at, unless it is compressed.
            wide = f"CASE WHEN pg_column_compression({name}) IS NULL THEN pg_column_size({name}) ELSE 2 * octet_length({name}::text) END"
            parts.append(f"coalesce({wide}, 0)")
    return " + ".join([str(fixed), *parts])


# --- what was decided in Python -------------------------------------------------------------------------------------


class Part(NamedTuple):
    """Rows of one table to be inserted, replaced, deleted or checked; `many`: more than one of them."""

    rows: Rows
    action: str
    many: bool = False


SAME_ROW = "t.xmin = s._version AND t.{} = s._before"
# Holds for this transaction alone, and is set before any row is stored.
_HURRY = "hurry AS MATERIALIZED (SELECT set_config('lock_timeout', '100ms', true) AS set)"
_HURRIED = " WHERE (SELECT set FROM hurry) IS NOT NULL"


@lru_cache(maxsize=2_000)
def applied(parts: tuple[Part, ...], *, feed: bool, patient: bool = True) -> str:
    """Parameters: how many rows there are, the arrays of each part, those of the feed. Gives the version of the rows written.

    An insert takes the stored columns; the others take the key columns, the version and the revision of each row, a replacement
    the stored columns and those of the row before. The feed takes entity, kind, revision, key and what is kept beside it.
    Divides by zero where a row is another version, so that nothing is written. Not `patient`: also where somebody else holds
    one, for what shares the statement must not suffer for a neighbour.
    """
    texts: list[str] = []
    if not patient and any(part.action == "insert" for part in parts):
        texts.append(_HURRY)
    number = 2
    for n, (rows, action, many) in enumerate(parts):
        if action == "insert":
            inserted = f"INSERT INTO {rows.at} ({rows.columns}) SELECT * FROM {rows.arrays(rows.stored, number)}"
            texts.append(f"w{n} AS ({inserted}{'' if patient else _HURRIED} RETURNING 1)")
            number += len(rows.stored)
            continue
        texts += _written_over(n, Part(rows, action, many), number, patient)
        number += len(rows.stored if action == "replace" else rows.table.key) + 2
    seen = " + ".join(f"(SELECT count(*) FROM w{n})" for n in range(len(parts)))
    holds = f"1 / (CASE WHEN {seen} = $1::bigint THEN 1 ELSE 0 END)"
    if feed:
        casts = ("integer", "smallint", "bigint", "text", "jsonb")
        arrays = ", ".join(f"${number + n}::{cast}[]" for n, cast in enumerate(casts))
        source = f"unnest({arrays}) AS s(entity, kind, revision, key, more) WHERE {holds} = 1"
        # Positions are taken when every row is known to be the one that was looked at, and locked.
        position = parts[0].rows.names.position
        texts.append(f"f AS ({_into(parts[0].rows)} SELECT {position}, entity, kind, revision, key::text[], more FROM {source})")
    return f"WITH {', '.join(texts)} SELECT {holds}, {VERSION}"


def _written_over(n: int, part: Part, number: int, patient: bool) -> list[str]:
    """Return what replaces, deletes or checks rows; several of them are locked first, in the order of their keys."""
    rows, action, many = part
    quote, commas, key = rows.names.dialect.quoted, rows.names.dialect.commas, rows.table.key
    names = rows.stored if action == "replace" else key
    arrays = f"{rows.arrays(names, number)[7:-1]}, ${number + len(names)}::xid[], ${number + len(names) + 1}::bigint[]"
    source = f"unnest({arrays}) AS s({commas(names)}, _version, _before)"
    # A server that lost its last commits gives their transaction numbers again, so a version alone may be that of another row.
    on = " AND ".join(f"t.{quote(name)} = s.{quote(name)}" for name in key) + f" AND {SAME_ROW.format(quote(REVISION))}"
    order = f" ORDER BY {', '.join(f't.{quote(name)}' for name in key)}" if many else ""
    skip = "" if patient else " SKIP LOCKED"
    if action == "check":
        return [f"w{n} AS (SELECT 1 FROM {rows.at} t JOIN {source} ON {on}{order} FOR SHARE OF t{skip})"]
    texts: list[str] = []
    if many or not patient:
        strength = "UPDATE" if action == "delete" else "NO KEY UPDATE"
        texts.append(f"l{n} AS MATERIALIZED (SELECT 1 FROM {rows.at} t JOIN {source} ON {on}{order} FOR {strength} OF t{skip})")
        # Not one of them is written, or waited for, unless all are locked.
        on += f" AND (SELECT count(*) FROM l{n}) = cardinality(${number + len(names)}::xid[])"
    if action == "delete":
        return [*texts, f"w{n} AS (DELETE FROM {rows.at} t USING {source} WHERE {on} RETURNING 1)"]
    sets = ", ".join(f"{quote(name)} = s.{quote(name)}" for name in sql.stored_names(rows.table) if name not in key)
    return [*texts, f"w{n} AS (UPDATE {rows.at} t SET {sets} FROM {source} WHERE {on} RETURNING 1)"]


def array_literal(parts: Sequence[str]) -> str:
    """Return texts as the server writes an array of them."""
    return "{" + ",".join('"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"' for part in parts) + "}"
