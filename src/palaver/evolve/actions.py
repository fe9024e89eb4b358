"""What a migration does, as plain values: steps of the engine, fills of stored records, the bucket, what the data must fulfil first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from palaver.structure import (
    AddColumn,
    AlterColumn,
    CreateIndex,
    CreateTable,
    DropColumn,
    DropIndex,
    DropTable,
    RenameColumn,
    RenameTable,
    SetExpiry,
    Step,
)

Effect = Literal["adds", "widens", "tidies", "fills", "tightens", "renames", "converts", "drops"]
ASIDE = "{}__before"
"""What a column is called while its values are sealed or opened into the one that takes its name."""
AUTOMATIC: frozenset[Effect] = frozenset(("adds", "widens", "tidies", "fills"))
"""What opening an embedded store may do by itself: a program of the version before would not notice, or lose nothing."""


@dataclass(frozen=True, slots=True)
class Take:
    """Take one step of the engine."""

    step: Step
    effect: Effect

    @property
    def words(self) -> str:
        return in_words(self.step)


@dataclass(frozen=True, slots=True)
class Fill:
    """Give every stored record of a table these columns: a default, or what is computed from its other values."""

    table: str
    columns: tuple[str, ...]
    effect: Effect = "fills"

    @property
    def words(self) -> str:
        return f"fill {', '.join(self.columns)} of {self.table}"


@dataclass(frozen=True, slots=True)
class Claim:
    """Reserve the unique values stored records hold, and free those nobody holds any more."""

    table: str
    entity: str
    unique: str
    effect: Effect = "fills"

    @property
    def words(self) -> str:
        return f"reserve the values of {self.entity}.{self.unique}"


@dataclass(frozen=True, slots=True)
class Release:
    """Free all values of a unique set that is declared no more."""

    entity: str
    unique: str
    effect: Effect = "tidies"

    @property
    def words(self) -> str:
        return f"free the values of {self.entity}.{self.unique}"


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Build a projection anew: its documents name what was renamed, or their source changed."""

    projection: str
    effect: Effect = "fills"

    @property
    def words(self) -> str:
        return f"rebuild the projection {self.projection}"


@dataclass(frozen=True, slots=True)
class Seal:
    """Seal a column of every stored record from `source`, open it from there, or `move` it: seal it for the place it has now.

    A place is the table and the column a value was sealed for; `table` and `column` are where it lies afterwards. With `images`
    it is done to what history keeps of the records, where a value lies under the column's name before and after.
    """

    table: str
    column: str
    how: Literal["seal", "open", "move"]
    source: str
    was_table: str = ""
    was_column: str = ""
    images: bool = False
    effect: Effect = "converts"

    @property
    def words(self) -> str:
        verb = {"seal": "seal", "open": "store in clear", "move": "seal for its new name"}[self.how]
        return f"{verb} {self.column} of {self.table}{' in images of history' if self.images else ''}"


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make or set one part of the place objects are kept in."""

    place: str
    part: str
    words: str
    effect: Effect = "adds"


Action: TypeAlias = Prepare | Take | Fill | Seal | Claim | Release | Rebuild


@dataclass(frozen=True, slots=True)
class Demand:
    """What stored records must fulfil before anything is changed.

    `kind`: "empty" (there are none), "present" (each has the column), "within" (values pass the check), "exact" (integers a
    float holds), "reads" (the new declaration reads and writes the value as it is), "distinct" (no two hold one value of
    the unique set), "refers" (each parent exists).
    """

    kind: Literal["empty", "present", "within", "exact", "reads", "distinct", "refers"]
    table: str
    entity: str
    name: str
    check: tuple[object, ...] = ()
    hint: str = ""


def _rule(check: tuple[object, ...]) -> list[str]:
    match check:
        case ("in", values):
            return [f"one of {', '.join(map(str, values))}"]  # type: ignore[call-overload]
        case ("range", low, high):
            return [f"from {low}"] * (low is not None) + [f"up to {high}"] * (high is not None)
    return []


def in_words(step: Step) -> str:
    """Return what a step does, for people."""
    table = step.table.name
    match step:
        case CreateTable():
            return f"table {table}"
        case AddColumn(_, column):
            return f"column {column.name} of {table}"
        case CreateIndex(_, index):
            return f"index {index.name} of {table}"
        case DropIndex(_, name):
            return f"index {name} of {table} goes"
        case RenameColumn(_, old, new):
            return f"column {old} of {table} becomes {new}"
        case AlterColumn(_, column):
            rules = [column.kind, "required" if column.required else "optional", *_rule(column.check)]
            return f"column {column.name} of {table} becomes {', '.join(rules)}"
        case DropColumn(_, name) if name.endswith(ASIDE.format("")):
            return f"column {name} of {table} goes: its values are in {name.removesuffix(ASIDE.format(''))} by then"
        case DropColumn(_, name):
            return f"column {name} of {table} goes, with its values"
        case SetExpiry(_, None):
            return f"records of {table} no longer expire"
        case SetExpiry(_, column_name):
            return f"records of {table} expire by {column_name}"
        case RenameTable(_, old):
            return f"table {old} becomes {table}" if old != table else f"table {table} holds {step.table.entity}"
        case DropTable():
            return f"table {table} goes, with its records"
