"""One table of a PostgreSQL database, compiled: the texts of its reads, and functions between records and rows.

The functions are generated once per table, so that no declaration is looked at for a record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from palaver.ops import MARK, REVISION, Read, Table
from palaver.records import sql
from palaver.records.postgres_names import CASTS, Names, kinds
from palaver.records.sql_rows import ENCODE, LONG, compiled, encode_text, exact, real, whole
from palaver.stored_json import dumps, loads, with_exact_floats
from palaver.values import KeyPart, Record, Value, canonical

Row: TypeAlias = "tuple[Any, ...]"
PAGE_BYTES = 1024 * 1024
# JSONB keeps numbers as decimals: 1e16 would come back as an integer, and zero loses its sign.
_CHANGED_BY_JSONB = re.compile(r"(?:^|[\[:,])-?(?:\d+(?:\.\d+)?e\+\d|0\.0(?=[,\]}]|$))")


def nested(value: Value) -> str | None:
    if value is None:
        return None
    text = dumps(value)
    # Looking for these first spares most values the slow search.
    if ("e+" in text or "0.0" in text) and _CHANGED_BY_JSONB.search(text) is not None:
        return with_exact_floats(value)
    return text


_DECODE = {"number": "canonical({})", "json": "loads({})"}
_SCOPE = {
    "whole": whole,
    "real": real,
    "exact": exact,
    "nested": nested,
    "canonical": canonical,
    "loads": loads,
    "READ_BYTES": 2 * PAGE_BYTES,
}


class Rows:
    """A compiled table.

    `encode(record, revision)` gives the stored columns; `page(rows)` gives the records, about how many characters they hold,
    and whether it stopped early because that was far over a page; `length(row)` is how many characters and bytes a row holds.
    """

    def __init__(self, table: Table, names: Names) -> None:
        self.table = table
        self.names = names
        self.name = table.name
        self.at = names.within(table.name)
        self.id = 0
        self.kinds: dict[str, Any] = {**kinds(table), REVISION: "int", MARK: "int"}
        self.stored = sql.stored_names(table)
        self.columns = names.dialect.commas(self.stored)
        self.indexes = frozenset(index.name for index in table.indexes)
        self.select = sql.select(table, names.dialect, (*self.stored, "xmin"))
        self.encode: Callable[[Record, int], Row] = compiled(encode_text(table), _SCOPE)
        self.page: Callable[[Iterable[Row]], tuple[list[Record], int, bool]] = compiled(_page_text(table), _SCOPE)
        self.length: Callable[[Row], int] = compiled(_length_text(table), _SCOPE)
        self._encoders = {column.name: _SCOPE[ENCODE[column.kind]] for column in table.columns if column.kind in ENCODE}
        self._pages: dict[Any, sql.PageText] = {}
        self._several: dict[str, str] = {}

    def decode(self, row: Row) -> Record:
        return self.page((row,))[0][0]

    def encoded(self, name: str, value: Value) -> Any:
        encode: Any = self._encoders.get(name)
        return value if encode is None else encode(value)

    def cast(self, name: str) -> str:
        return CASTS[self.kinds[name]]

    def arrays(self, names: Sequence[str], first: int) -> str:
        """Return `unnest` over one array parameter for each name."""
        return f"unnest({', '.join(f'${first + n}::{self.cast(name)}[]' for n, name in enumerate(names))})"

    def key_texts(self, prefix: str) -> str:
        """Return the key as an array of texts, as the feed keeps it."""
        return f"ARRAY[{', '.join(self.key_text(name, prefix + self.names.dialect.quoted(name)) for name in self.table.key)}]"

    def key_text(self, name: str, value: str) -> str:
        match self.kinds[name]:
            case "bytes":
                return f"encode({value}, 'hex')"
            case "text":
                return value
        return f"{value}::text"

    # --- reads ------------------------------------------------------------------------------------------------------

    def page_of(self, read: Read, limit: int) -> tuple[str, list[Any]]:
        """Return the statement and the parameters of one page."""
        comparisons, values = sql.bounded(read.bounds) if read.bounds else ((), [])
        after = read.after is not None
        shape = (read.index, len(read.fixed), comparisons, read.descending, after)
        found = self._pages.get(shape)
        if found is None:
            found = self._pages[shape] = sql.page(self.table, sql.Shape(*shape), self.names.dialect)
        parameters: list[Any] = [*read.partition, *read.fixed, *values]
        if read.after is not None:
            parameters += [read.after[at] for at in found.after]
        parameters.append(limit)
        return found.text, parameters

    def count_of(self, read: Read, now_us: int) -> tuple[str, list[Any]]:
        comparisons, values = sql.bounded(read.bounds)
        text = sql.count(self.table, sql.Shape(read.index, len(read.fixed), comparisons, False, False), self.names.dialect)
        return text, [*read.partition, *read.fixed, *values, *((now_us // 1_000_000,) if self.table.expires else ())]

    def expired(self) -> str:
        """Parameters: the second, and how many."""
        commas = self.names.dialect.commas
        expires = self.names.dialect.quoted(self.table.expires or "")
        return f"SELECT {commas(self.table.key)} FROM {self.at} WHERE {expires} <= $1 ORDER BY {expires}, {commas(self.table.key)} LIMIT $2"

    def scan(self, after: Sequence[KeyPart] | None, segment: tuple[int, int], limit: int) -> tuple[str, list[Any]]:
        commas, key = self.names.dialect.commas, self.table.key
        where = ["true"]
        parameters: list[Any] = []
        if after is not None:
            marks = ", ".join(f"${n + 1}" for n in range(len(key)))
            where.append(f"({commas(key)}) > ({marks})" if len(key) > 1 else f"{commas(key)} > {marks}")
            parameters += after
        if segment[1] > 1:
            of = len(parameters) + 1
            where.append(f"abs(hashtextextended({self.key_texts('')}::text, 0) % ${of}) = ${of + 1}")
            parameters += [segment[1], segment[0]]
        parameters.append(limit)
        text = f"SELECT {self.columns} FROM {self.at} WHERE {' AND '.join(where)} ORDER BY {commas(key)} LIMIT ${len(parameters)}"
        return text, parameters

    def several(self, lock: str = "") -> str:
        """Return the statement that finds records by keys: their columns, and the version of each row; locked in order of the key.

        Parameters: an array for each key column.
        """
        found = self._several.get(lock)
        if found is None:
            found = self._several[lock] = self._several_text(lock)
        return found

    def _several_text(self, lock: str) -> str:
        commas, key = self.names.dialect.commas, self.table.key
        quote = self.names.dialect.quoted
        on = " AND ".join(f"t.{quote(name)} = s.{quote(name)}" for name in key)
        columns = ", ".join(f"t.{quote(name)}" for name in self.stored)
        text = f"SELECT {columns}, t.xmin FROM {self.arrays(key, 1)} AS s({commas(key)}) JOIN {self.at} AS t ON {on}"
        return text + (f" ORDER BY {', '.join(f't.{quote(name)}' for name in key)} {lock} OF t" if lock else "")


def _length_text(table: Table) -> str:
    lengths = [
        f"len(row[{n}]){'' if column.name in table.key else f' if row[{n}] is not None else 0'}"
        for n, column in enumerate(table.columns)
        if column.kind in LONG
    ]
    return f"def made(row):\n return {' + '.join(f'({length})' for length in lengths) or '0'}\n"


def _page_text(table: Table) -> str:
    """Return the loop from rows to records, written for speed: columns that are there are set at once, the others one by one.

    It counts characters, which are cheap; whoever calls it measures exactly where these come near the limit.
    """
    columns = [(column, f"v{n}", _DECODE.get(column.kind, "{}").format(f"v{n}")) for n, column in enumerate(table.columns)]
    there = [each for each in columns if each[0].name in table.key]
    longs = [value for column, value, _ in there if column.kind in LONG]
    fixed = str(sum(len(column.name) + 9 for column, _, _ in columns))
    lines = [
        "def made(rows):",
        " records = []",
        " add = records.append",
        " size = 0",
        f" for {', '.join(value for _, value, _ in columns)}, revision, mark in rows:",
        f"  record = {{{', '.join(f'{column.name!r}: {value}' for column, value, _ in there)}, {REVISION!r}: revision}}",
        f"  size += {' + '.join([fixed, *(f'len({value})' for value in longs)])}",
    ]
    for column, value, text in columns:
        if column.name not in table.key:
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
