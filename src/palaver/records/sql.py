"""What the engines that speak SQL share: names, structure and statements as text, made from declarations alone.

Values never enter a text: every value is a parameter, in the order the function says. No driver is imported here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from palaver.ops import KINDS, MARK, REVISION, Bound, Column, IndexSpec, Table
from palaver.values import KeyPart, canonical, number_text


def quoted(name: str) -> str:
    """Return any name as an identifier."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where the dialects differ: types by kind, how the n-th parameter (from 1) and names are written, table options.

    `table` and `index` write names that may belong to a schema; `new_index` the name of an index being made.
    """

    types: Mapping[KINDS, str]
    parameter: Callable[[int], str]
    order: str = ""
    options: Callable[[Table], str] = lambda table: ""
    bool_check: bool = False
    names_index: bool = False
    quoted: Callable[[str], str] = quoted
    table: Callable[[str], str] = quoted
    index: Callable[[str], str] = quoted
    new_index: Callable[[str], str] = quoted
    true: str = "1"
    false: str = "0"
    # A plus before a column keeps SQLite from entering an index by it; elsewhere it is an error.
    blunt: str = ""

    def commas(self, names: Sequence[str]) -> str:
        return ", ".join(map(self.quoted, names))


def literal(value: object, dialect: Dialect) -> str:
    """Return a constant of a declaration, never a stored value."""
    if isinstance(value, bool):
        return dialect.true if value else dialect.false
    if isinstance(value, Decimal):
        return "'" + number_text(canonical(value)) + "'"
    if isinstance(value, int | float):
        return repr(value)
    return "'" + str(value).replace("'", "''") + "'"


def commas(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names))


def index_name(table: Table, index: str) -> str:
    """Return the name of an index in the database, where all tables share one set of names."""
    return f"{table.name}:{index}"


def expiry_name(table: Table) -> str:
    return f"{table.name}::expires"


# --- structure ------------------------------------------------------------------------------------------------------


def create_table(table: Table, dialect: Dialect) -> str:
    """Return the statement that makes a table; comments in it keep what types cannot say, so that it can be read back."""
    about = json.dumps({"entity": table.entity, "partition": len(table.partition), "expires": table.expires, "feed": table.feed})
    lines = [f"/* {about} */"]
    lines += [column_definition(column, dialect, required=is_always_there(table, column)) for column in table.columns]
    lines += [f"{dialect.quoted(REVISION)} {dialect.types['int']} NOT NULL", f"{dialect.quoted(MARK)} {dialect.types['int']}"]
    lines += [f"PRIMARY KEY ({dialect.commas(table.key)})"]
    lines += [
        f"FOREIGN KEY ({dialect.commas(belt.columns)}) REFERENCES {dialect.table(belt.table)} ({dialect.commas(belt.target)})"
        " ON DELETE NO ACTION DEFERRABLE INITIALLY DEFERRED"
        for belt in table.belts
    ]
    body = lines[0] + "\n  " + ",\n  ".join(lines[1:])
    return f"CREATE TABLE IF NOT EXISTS {dialect.table(table.name)} ({body}\n){dialect.options(table)}"


def column_definition(column: Column, dialect: Dialect, *, required: bool) -> str:
    about = column.kind + (" shadow" if column.shadow else "")
    text = f"{dialect.quoted(column.name)} /* {about} */ {dialect.types[column.kind]}"
    if required:
        text += " NOT NULL"
    check = _check(column, dialect)
    return text + (f" CHECK ({check})" if check else "")


def _check(column: Column, dialect: Dialect) -> str:
    name = dialect.quoted(column.name)
    match column.check:
        case ("in", values):
            return f"{name} IN ({', '.join(literal(value, dialect) for value in values)})"  # type: ignore[attr-defined]
        case ("range", low, high) if column.kind in ("int", "float"):
            parts = [f"{name} >= {literal(low, dialect)}"] if low is not None else []
            parts += [f"{name} <= {literal(high, dialect)}"] if high is not None else []
            return " AND ".join(parts)
    return f"{name} IN (0, 1)" if column.kind == "bool" and dialect.bool_check else ""


_IDENTIFIER = r'"(?:[^"]|"")+"'
_CONSTANT = r"(?:'(?:[^']|'')*'|-?[0-9][0-9.e+-]*)"
_CHECKED = re.compile(
    rf" [A-Z ]+? CHECK \({_IDENTIFIER} (?:IN \((?P<values>{_CONSTANT}(?:, {_CONSTANT})*)\)"
    rf"|(?P<op>[<>]=) (?P<first>{_CONSTANT})(?: AND {_IDENTIFIER} <= (?P<second>{_CONSTANT}))?)\)"
)


def check_of(kind: KINDS, definition: str) -> tuple[object, ...]:
    """Return the check in a stored column definition, from where its comment ends: what `column_definition` wrote."""
    found = _CHECKED.match(definition)
    if found is None or kind == "bool":
        return ()
    if found["values"] is not None:
        return ("in", tuple(map(_constant, re.findall(_CONSTANT, found["values"]))))
    if found["op"] == "<=":
        return ("range", None, _constant(found["first"]))
    return ("range", _constant(found["first"]), None if found["second"] is None else _constant(found["second"]))


def _constant(text: str) -> object:
    if text.startswith("'"):
        return text[1:-1].replace("''", "'")
    return int(text) if text.lstrip("-").isdigit() else float(text)


def add_column(table: Table, column: Column, dialect: Dialect) -> str:
    # Rows that are there already have no value, so the column cannot require one.
    return f"ALTER TABLE {dialect.table(table.name)} ADD COLUMN {column_definition(column, dialect, required=False)}"


def create_index(table: Table, index: IndexSpec, dialect: Dialect) -> str:
    """Return the statement that makes an index: its parts, then the key, so that ties have an order; sparse where it can be."""
    names = index.partition + index.sort
    if not index.unique:
        names = distinct((*names, *table.key))
    columns = ", ".join(dialect.quoted(name) + dialect.order for name in names)
    sparse = " AND ".join(f"{dialect.quoted(name)} IS NOT NULL" for name in optional(table, index.partition + index.sort))
    about = json.dumps({"partition": index.partition, "sort": index.sort})
    return (
        f"CREATE {'UNIQUE ' if index.unique else ''}INDEX IF NOT EXISTS {dialect.new_index(index_name(table, index.name))}"
        f" ON {dialect.table(table.name)} /* {about} */ ({columns})" + (f" WHERE {sparse}" if sparse else "")
    )


def create_expiry(table: Table, dialect: Dialect) -> str:
    expires = dialect.quoted(table.expires or "")
    return (
        f"CREATE INDEX IF NOT EXISTS {dialect.new_index(expiry_name(table))} ON {dialect.table(table.name)}"
        f" ({expires}, {dialect.commas(table.key)}) WHERE {expires} IS NOT NULL"
    )


def drop_index(table: Table, index: str, dialect: Dialect) -> str:
    return f"DROP INDEX IF EXISTS {dialect.index(index_name(table, index))}"


def drop_expiry(table: Table, dialect: Dialect) -> str:
    return f"DROP INDEX IF EXISTS {dialect.index(expiry_name(table))}"


def rename_column(table: Table, old: str, new: str, dialect: Dialect) -> str:
    return f"ALTER TABLE {dialect.table(table.name)} RENAME COLUMN {dialect.quoted(old)} TO {dialect.quoted(new)}"


def drop_column(table: Table, name: str, dialect: Dialect) -> str:
    return f"ALTER TABLE {dialect.table(table.name)} DROP COLUMN {dialect.quoted(name)}"


def rename_table(table: Table, new: str, dialect: Dialect) -> str:
    return f"ALTER TABLE {dialect.table(table.name)} RENAME TO {dialect.new_index(new)}"


def drop_table(table: Table, dialect: Dialect) -> str:
    return f"DROP TABLE IF EXISTS {dialect.table(table.name)}"


def optional(table: Table, names: Sequence[str]) -> list[str]:
    """Return the columns among these that a record may lack."""
    required = {column.name for column in table.columns if is_always_there(table, column)}
    return [name for name in distinct(names) if name not in required]


def is_always_there(table: Table, column: Column) -> bool:
    """Say whether every record has the column; a shadow may have been added to records stored before it was declared."""
    return column.name in table.key or (column.required and not column.shadow)


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


# --- one record -----------------------------------------------------------------------------------------------------


def stored_names(table: Table) -> tuple[str, ...]:
    """Return the columns of a stored record, in the order every statement here uses."""
    return (*(column.name for column in table.columns), REVISION, MARK)


def at_key(table: Table, dialect: Dialect, start: int = 1) -> str:
    return " AND ".join(f"{dialect.quoted(name)} = {dialect.parameter(start + n)}" for n, name in enumerate(table.key))


def insert(table: Table, dialect: Dialect) -> str:
    """Parameters: the stored columns."""
    names = stored_names(table)
    marks = ", ".join(dialect.parameter(n + 1) for n in range(len(names)))
    return f"INSERT INTO {dialect.table(table.name)} ({dialect.commas(names)}) VALUES ({marks})"


def select(table: Table, dialect: Dialect, names: Sequence[str] | None = None) -> str:
    """Parameters: the key."""
    return f"SELECT {dialect.commas(names or stored_names(table))} FROM {dialect.table(table.name)} WHERE {at_key(table, dialect)}"


def update(table: Table, dialect: Dialect, names: Sequence[str]) -> str:
    """Parameters: the columns named, then the key."""
    sets = ", ".join(f"{dialect.quoted(name)} = {dialect.parameter(n + 1)}" for n, name in enumerate(names))
    return f"UPDATE {dialect.table(table.name)} SET {sets} WHERE {at_key(table, dialect, len(names) + 1)}"


def delete(table: Table, dialect: Dialect) -> str:
    """Parameters: the key."""
    return f"DELETE FROM {dialect.table(table.name)} WHERE {at_key(table, dialect)}"


# --- pages ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """What a read looks like without its values: reads of one shape share one statement."""

    index: str | None
    fixed: int
    bounds: tuple[str, ...]
    descending: bool
    after: bool


@dataclass(frozen=True, slots=True)
class PageText:
    """A statement and which parts of the position `after` it takes; parameters: parts, fixed, bounds, after, limit."""

    text: str
    after: tuple[int, ...]


def bounded(bounds: Sequence[Bound]) -> tuple[tuple[str, ...], list[KeyPart]]:
    """Return bounds as plain comparisons and their values; a prefix becomes the range of what starts with it."""
    comparisons: list[str] = []
    values: list[KeyPart] = []
    for op, value in bounds:
        if op == "prefix":
            comparisons.append(">=")
            values.append(value)
            end = after_prefix(value)
            if end is not None:
                comparisons.append("<")
                values.append(end)
        else:
            comparisons.append(op)
            values.append(value)
    return tuple(comparisons), values


def after_prefix(prefix: Any) -> KeyPart | None:
    """Return the least value above everything with a prefix, None where there is no such value."""
    if isinstance(prefix, bytes):
        kept = prefix.rstrip(b"\xff")
        return kept[:-1] + bytes([kept[-1] + 1]) if kept else None
    text: str = prefix.rstrip("\U0010ffff")
    if not text:
        return None
    # Half surrogates cannot be stored, and U+E000 is what follows U+D7FF in the order of UTF-8.
    following = 0xE000 if text[-1] == "\ud7ff" else ord(text[-1]) + 1
    return text[:-1] + chr(following)


def page(table: Table, shape: Shape, dialect: Dialect) -> PageText:
    """Return the statement for one page of a read: a range of one index, in its order."""
    where, number, ordered, positions = _where(table, shape, dialect)
    if shape.after and not ordered:
        # The whole key is given, so there is nothing after its one record.
        where.append("1 = 0")
    elif shape.after:
        sign = "<" if shape.descending else ">"
        marks = [dialect.parameter(number + n) for n in range(len(ordered))]
        number += len(marks)
        where.append(
            f"({dialect.commas(ordered)}) {sign} ({', '.join(marks)})"
            if len(ordered) > 1
            else f"{dialect.quoted(ordered[0])} {sign} {marks[0]}"
        )
    direction = " DESC" if shape.descending else ""
    order = ", ".join(dialect.quoted(name) + direction for name in ordered)
    return PageText(
        f"SELECT {dialect.commas(stored_names(table))} FROM {_source(table, shape, dialect)} WHERE {' AND '.join(where)}"
        + (f" ORDER BY {order}" if order else "")
        + f" LIMIT {dialect.parameter(number)}",
        tuple(positions),
    )


def count(table: Table, shape: Shape, dialect: Dialect) -> str:
    """Parameters: parts, fixed, bounds, and the instant in seconds where the table has an expiry."""
    where, number, _, _ = _where(table, shape, dialect)
    where.append(f"{dialect.quoted(MARK)} IS NULL")
    if table.expires is not None:
        expires = dialect.quoted(table.expires)
        where.append(f"({expires} IS NULL OR {expires} > {dialect.parameter(number)})")
    return f"SELECT count(*) FROM {_source(table, shape, dialect)} WHERE {' AND '.join(where)}"


def _source(table: Table, shape: Shape, dialect: Dialect) -> str:
    if shape.index is None or not dialect.names_index:
        return dialect.table(table.name)
    return f"{dialect.table(table.name)} INDEXED BY {dialect.index(index_name(table, shape.index))}"


def _where(table: Table, shape: Shape, dialect: Dialect) -> tuple[list[str], int, list[str], list[int]]:
    """Return the conditions, the next parameter, the columns that order what is left, and where these stand in a position."""
    if shape.index is None:
        partition, sort, names = table.partition, table.sort, table.key
    else:
        spec = table.index(shape.index)
        partition, sort, names = spec.partition, spec.sort, spec.partition + spec.sort + table.key
    pinned = partition + sort[: shape.fixed]
    where = [f"{dialect.quoted(name)} = {dialect.parameter(n + 1)}" for n, name in enumerate(pinned)]
    number = len(where) + 1
    for comparison in shape.bounds:
        # With a position to go on from, the bound on that side must not be what the index is entered by.
        blunt = shape.after and comparison[0] == ("<" if shape.descending else ">")
        where.append(f"{dialect.blunt if blunt else ''}{dialect.quoted(sort[shape.fixed])} {comparison} {dialect.parameter(number)}")
        number += 1
    ordered = [name for name in distinct(names) if name not in pinned]
    where += [f"{dialect.quoted(name)} IS NOT NULL" for name in optional(table, sort[shape.fixed :])]
    return where, number, ordered, [names.index(name) for name in ordered]
