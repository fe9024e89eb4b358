"""One table of a SQLite file, compiled: its statements, and functions between records and rows.

The functions are generated once per table, so that no declaration is looked at for a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import apsw

from palaver.ops import MARK, REVISION, Read, Table
from palaver.records import sql
from palaver.records.sql_rows import ENCODE, LONG, compiled, encode_text, exact, real, whole
from palaver.stored_json import dumps, loads
from palaver.values import KeyPart, Record, Value, number_text

Row: TypeAlias = "tuple[Any, ...]"
PAGE_BYTES = 1024 * 1024
_LONGEST_KEPT = 15_000
_NARROW = ("int", "float", "bool", "number")


def _options(table: Table) -> str:
    # Measured: rows of some hundred bytes cost twice as much in a tree ordered by key, since every insert moves a page.
    narrow = all(column.kind in _NARROW for column in table.columns if column.name not in table.key)
    return " STRICT, WITHOUT ROWID" if narrow else " STRICT"


SQLITE = sql.Dialect(
    types={"text": "TEXT", "int": "INTEGER", "float": "REAL", "bool": "INTEGER", "number": "TEXT", "bytes": "BLOB", "json": "TEXT"},
    parameter=lambda number: "?",
    options=_options,
    bool_check=True,
    names_index=True,
    blunt="+",
)


def fetched(connection: apsw.Connection, text: str, parameters: Sequence[Any] = ()) -> list[Any]:
    return connection.execute(text, parameters).fetchall()


def exact_text(value: Any) -> str | None:
    number = exact(value)
    return None if number is None else number_text(number)


def nested(value: Value) -> str | None:
    return None if value is None else dumps(value)


_DECODE = {"bool": "{} == 1", "number": "Decimal({})", "json": "loads({})"}
_SCOPE = {
    "whole": whole,
    "real": real,
    "exact": exact_text,
    "nested": nested,
    "Decimal": Decimal,
    "loads": loads,
    "READ_BYTES": 2 * PAGE_BYTES,
}


class Rows:
    """A compiled table: statements and generated functions.

    `encode(record, revision)` gives the stored columns; `page(rows)` gives the records, about how many characters they hold,
    and whether it stopped early because that was far over a page.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.name = table.name
        self.id = 0
        self.indexes = frozenset(index.name for index in table.indexes)
        self.insert = sql.insert(table, SQLITE)
        self.select = sql.select(table, SQLITE)
        self.select_revision = sql.select(table, SQLITE, (REVISION,))
        self.replace = sql.update(table, SQLITE, sql.stored_names(table))
        self.delete = sql.delete(table, SQLITE)
        # The feed of a load is written from the rows just inserted, which have the highest numbers; "" where that cannot be.
        self.publish = _publish_text(table)
        self.encode: Callable[[Record, int], Row] = compiled(encode_text(table), _SCOPE)
        self.page: Callable[[Iterable[Row]], tuple[list[Record], int, bool]] = compiled(_page_text(table), _SCOPE)
        self.weigh: Callable[[Row], int] = compiled(_weigh_text(table), _SCOPE)
        #: The key of an encoded row.
        self.key_of: Callable[[Row], tuple[KeyPart, ...]] = compiled(_key_text(table), _SCOPE)
        #: How many rows one statement inserts at the most: the driver keeps no longer texts prepared.
        self.most = 1 << min(8, (_LONGEST_KEPT // (3 * len(table.columns) + 10)).bit_length() - 1)
        self._encoders = {column.name: _SCOPE[ENCODE[column.kind]] for column in table.columns if column.kind in ENCODE}
        self._inserts: dict[int, str] = {}
        self._pages: dict[Any, sql.PageText] = {}
        self._updates: dict[tuple[str, ...], str] = {}

    def decode(self, row: Row) -> Record:
        return self.page((row,))[0][0]

    def inserts(self, count: int) -> str:
        """Return the statement that inserts several rows."""
        found = self._inserts.get(count)
        if found is None:
            start, _, values = self.insert.partition(" VALUES ")
            found = self._inserts[count] = f"{start} VALUES {', '.join([values] * count)}"
        return found

    def update(self, names: tuple[str, ...]) -> str:
        found = self._updates.get(names)
        if found is None:
            found = self._updates[names] = sql.update(self.table, SQLITE, names)
        return found

    def encoded(self, name: str, value: Value) -> Any:
        encode: Any = self._encoders.get(name)
        return value if encode is None else encode(value)

    def page_of(self, read: Read) -> tuple[str, list[Any]]:
        """Return the statement and the parameters of one page."""
        comparisons, values = sql.bounded(read.bounds) if read.bounds else ((), [])
        after = read.after is not None
        shape = (read.index, len(read.fixed), comparisons, read.descending, after)
        found = self._pages.get(shape)
        if found is None:
            found = self._pages[shape] = sql.page(self.table, sql.Shape(*shape), SQLITE)
        parameters: list[Any] = [*read.partition, *read.fixed, *values]
        if read.after is not None:
            parameters += [read.after[at] for at in found.after]
        parameters.append(read.limit)
        return found.text, parameters

    def count_of(self, read: Read, now_us: int) -> tuple[str, list[Any]]:
        comparisons, values = sql.bounded(read.bounds)
        text = sql.count(self.table, sql.Shape(read.index, len(read.fixed), comparisons, False, False), SQLITE)
        return text, [*read.partition, *read.fixed, *values, *((now_us // 1_000_000,) if self.table.expires else ())]

    def expired(self) -> str:
        """Parameters: the second, and how many."""
        expires = sql.quoted(self.table.expires or "")
        return (
            f"SELECT {sql.commas(self.table.key)} FROM {sql.quoted(self.name)} INDEXED BY {sql.quoted(sql.expiry_name(self.table))}"
            f" WHERE {expires} <= ? ORDER BY {expires}, {sql.commas(self.table.key)} LIMIT ?"
        )

    def scan(self, after: Sequence[KeyPart] | None, segment: tuple[int, int], limit: int) -> tuple[str, list[Any]]:
        key = self.table.key
        where = ["1"]
        parameters: list[Any] = []
        if after is not None:
            where.append(f"({sql.commas(key)}) > ({', '.join('?' * len(key))})" if len(key) > 1 else f"{sql.quoted(key[0])} > ?")
            parameters += after
        if segment[1] > 1:
            where.append(f"({' + '.join(map(self._scattered, key))}) % ? = ?")
            parameters += [segment[1], segment[0]]
        names = sql.commas(sql.stored_names(self.table))
        text = f"SELECT {names} FROM {sql.quoted(self.name)} WHERE {' AND '.join(where)} ORDER BY {sql.commas(key)} LIMIT ?"
        return text, [*parameters, limit]

    def _scattered(self, name: str) -> str:
        """Return an expression that spreads keys over small numbers, always the same for one key."""
        kind = next(column.kind for column in self.table.columns if column.name == name)
        column = sql.quoted(name)
        if kind == "int":
            return f"abs({column} % 65521)"
        text = f"hex({column})" if kind == "bytes" else column
        return f"(unicode(substr({text}, -1)) * 31 + unicode(substr({text}, -2)) * 7 + unicode(substr({text}, -3)) + length({text}))"


def _page_text(table: Table) -> str:
    """Return the loop from rows to records, written for speed: columns that are there are set at once, the others one by one.

    It counts characters, which are cheap; whoever calls it measures exactly where these come near the limit.
    """
    columns = [(column, f"v{n}", _DECODE.get(column.kind, "{}").format(f"v{n}")) for n, column in enumerate(table.columns)]
    there = [each for each in columns if sql.is_always_there(table, each[0])]
    longs = [value for column, value, _ in there if column.kind in LONG]
    parts = [
        f"{column.name!r}: {value if column.name in table.key else f'None if {value} is None else {text}'}" for column, value, text in there
    ]
    lines = [
        "def made(rows):",
        " records = []",
        " add = records.append",
        " size = 0",
        f" for {', '.join(value for _, value, _ in columns)}, revision, mark in rows:",
        f"  record = {{{', '.join(parts)}, {REVISION!r}: revision}}",
    ]
    for column, value, _ in there:
        if column.name not in table.key:
            lines += [f"  if {value} is None:", f"   del record[{column.name!r}]"]
            lines += [f"   {value} = ''"] if value in longs else []
    lines.append(
        f"  size += {' + '.join([str(sum(len(column.name) + 9 for column, _, _ in columns)), *(f'len({value})' for value in longs)])}"
    )
    for column, value, text in columns:
        if not sql.is_always_there(table, column):
            lines += [f"  if {value} is not None:", f"   record[{column.name!r}] = {text}"]
            lines += [f"   size += len({value})"] if column.kind in LONG else []
    lines += [
        "  if mark is not None:",
        f"   record[{MARK!r}] = mark",
        "  if size > READ_BYTES and records:",
        "   return records, size, True",
        "  add(record)",
        " return records, size, False",
    ]
    return "\n".join(lines)


def _publish_text(table: Table) -> str:
    # A single integer key is the row's number itself, so new rows need not have the highest.
    is_number = len(table.key) == 1 and any(column.name == table.key[0] and column.kind == "int" for column in table.columns)
    if not table.feed or is_number or len(table.key) > 3 or "WITHOUT ROWID" in _options(table):
        return ""
    keys = ", ".join(f"key{number}" for number in range(1, len(table.key) + 1))
    columns = ", ".join(map(sql.quoted, table.key))
    return (
        f"INSERT INTO palaver_changes (entity, kind, more, revision, {keys}) SELECT ?, 0, ?, {sql.quoted(REVISION)}, {columns}"
        f" FROM {sql.quoted(table.name)} WHERE rowid > ? ORDER BY rowid"
    )


def _key_text(table: Table) -> str:
    places = {column.name: number for number, column in enumerate(table.columns)}
    return f"def made(row):\n return ({''.join(f'row[{places[name]}], ' for name in table.key)})"


def _weigh_text(table: Table) -> str:
    parts = [f"(0 if row[{n}] is None else len(row[{n}]))" for n, column in enumerate(table.columns) if column.kind in LONG]
    return f"def made(row):\n return {' + '.join(['200', *parts])}\n"
