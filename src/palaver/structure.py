"""What is stored where: tables as declared and as found, and the steps from the one to the other, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from palaver.values import Value

REVISION = "_revision"
MARK = "_deleting"
KINDS = Literal["text", "int", "float", "bool", "number", "bytes", "json"]


@dataclass(frozen=True, slots=True)
class Column:
    """One attribute of a record as stored: `json` holds lists, maps and sets; `number` a Decimal of up to 38 digits.

    `check` is a portable belt for people who write with SQL: ("in", values) or ("range", low, high).
    """

    name: str
    kind: KINDS
    required: bool = False
    shadow: bool = False
    check: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """A secondary index: `partition` and `sort` name columns; a record lacking one of them is not in it."""

    name: str
    partition: tuple[str, ...]
    sort: tuple[str, ...]
    unique: bool = False


@dataclass(frozen=True, slots=True)
class Belt:
    """A foreign key a SQL engine may add where neither side can expire or be marked; never a cascade."""

    columns: tuple[str, ...]
    table: str
    target: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ranges:
    """A table kept in parts by the time that a column of its key tells, for engines that have such tables.

    `form`: how the column tells it. A UUIDv7 ("uuid7") and a "snowflake" begin with milliseconds, the latter's since
    `epoch_ms`; "ms", "s" and "text" are instants as stored.
    """

    column: str
    every: Literal["month"]
    form: Literal["uuid7", "snowflake", "ms", "s", "text"]
    epoch_ms: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """The physical form of one entity.

    `partition` + `sort` name the key columns, in order. `expires` names an integer column of epoch seconds; `swept` says
    that something goes with a record that expires, so that an engine that expires records by itself must leave these alone.
    `feed` says whether its writes appear in the change feed. Every record also has REVISION (int, >= 1) and may
    have MARK (int, when it is being deleted); they are not listed in `columns`. `tenant` names the column that says whose a
    record is, for engines that can guard it; it is the program's word and not kept with the table. `ranges` asks engines that
    can to keep the table in parts; the others ignore it.
    """

    name: str
    entity: str
    columns: tuple[Column, ...]
    partition: tuple[str, ...]
    sort: tuple[str, ...]
    indexes: tuple[IndexSpec, ...] = ()
    expires: str | None = None
    feed: bool = True
    belts: tuple[Belt, ...] = ()
    swept: bool = field(default=True, compare=False)
    tenant: str | None = field(default=None, compare=False)
    ranges: Ranges | None = field(default=None, compare=False)

    @property
    def key(self) -> tuple[str, ...]:
        return self.partition + self.sort

    def index(self, name: str) -> IndexSpec:
        return next(index for index in self.indexes if index.name == name)


# --- steps -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Physical:
    """What exists in a database now: tables of this schema, tables nobody declared, and the version that made them."""

    tables: tuple[Table, ...]
    unknown: tuple[str, ...] = ()
    version: int = 0
    fingerprint: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CreateTable:
    table: Table


@dataclass(frozen=True, slots=True)
class AddColumn:
    table: Table
    column: Column


@dataclass(frozen=True, slots=True)
class CreateIndex:
    """The index is there and complete; one of that name with other parts is replaced, readers having one or the other."""

    table: Table
    index: IndexSpec


@dataclass(frozen=True, slots=True)
class DropIndex:
    table: Table
    index: str


@dataclass(frozen=True, slots=True)
class RenameColumn:
    """What is stored as `old` is stored as `new`. It is no key part and no expiry, and no index names it meanwhile."""

    table: Table
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class AlterColumn:
    """The column is what `column` says: its `required`, `check` and `kind`; a new kind is one of CONVERSIONS.

    It is no key part, no expiry, and in no index meanwhile. Whoever takes the step has made sure that every stored record
    fits; an engine that sees one that does not raises Validation and changes nothing.
    """

    table: Table
    column: Column


@dataclass(frozen=True, slots=True)
class DropColumn:
    """The column and its values are gone. It is no key part and no expiry, and no index names it."""

    table: Table
    column: str


@dataclass(frozen=True, slots=True)
class SetExpiry:
    """Records expire by this column from now on; None: they never do. The column is there."""

    table: Table
    column: str | None


@dataclass(frozen=True, slots=True)
class RenameTable:
    """What is stored as table `old` is stored as `table`, under its name and entity; the feed's past changes follow.

    `old` may be the same name, where only the entity's changes. Engines whose `limits.renames` is False never get it.
    """

    table: Table
    old: str


@dataclass(frozen=True, slots=True)
class DropTable:
    """The table, its indexes and its records are gone; none of that is a change of the feed."""

    table: Table


Step: TypeAlias = (
    CreateTable | AddColumn | CreateIndex | DropIndex | RenameColumn | AlterColumn | DropColumn | SetExpiry | RenameTable | DropTable
)
CONVERSIONS: Mapping[tuple[KINDS, KINDS], Callable[[Any], Value]] = {
    ("int", "float"): float,
    ("int", "number"): Decimal,
}
"""Kinds a stored column may change between in place, and what becomes of each value."""


def after_step(table: Table, step: Step) -> Table:
    """Return the declaration of a stored table as it is after a step; a step taken before changes nothing."""
    names = {column.name for column in table.columns}
    match step:
        case AddColumn(_, column) if column.name not in names:
            return replace(table, columns=(*table.columns, column))
        case CreateIndex(_, index) if index not in table.indexes:
            return replace(table, indexes=(*(each for each in table.indexes if each.name != index.name), index))
        case DropIndex(_, name):
            return replace(table, indexes=tuple(index for index in table.indexes if index.name != name))
        case RenameColumn(_, old, new) if old in names:
            return replace(table, columns=tuple(replace(each, name=new) if each.name == old else each for each in table.columns))
        case AlterColumn(_, column):
            return replace(table, columns=tuple(column if each.name == column.name else each for each in table.columns))
        case DropColumn(_, name):
            return replace(table, columns=tuple(each for each in table.columns if each.name != name))
        case SetExpiry(wanted, expires):
            return replace(table, expires=expires, swept=wanted.swept)
        case RenameTable(wanted, _):
            return replace(table, name=wanted.name, entity=wanted.entity)
    return table
