"""The steps of a migration as statements of one SQL dialect, forwards and, where that can be, backwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from palaver.evolve import Migration, Take
from palaver.ops import (
    AddColumn,
    AlterColumn,
    CreateIndex,
    CreateTable,
    DropColumn,
    DropIndex,
    DropTable,
    Physical,
    RenameColumn,
    RenameTable,
    SetExpiry,
    Step,
    Table,
    after_step,
)

DialectName = Literal["sqlite", "postgresql"]


class Writes(Protocol):
    def system(self) -> str:
        """Return what makes the tables every database of ours has."""
        ...

    def step(self, before: Table | None, step: Step) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Taken:
    """One step as statements, and the statements that undo it: None where what it removed is gone for good."""

    words: str
    forwards: tuple[str, ...]
    backwards: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Left:
    """What is no statement: stored records are filled by `palaver migrate apply`."""

    words: str


class Sqlite:
    def system(self) -> str:
        from palaver.records import sqlite_structure

        return sqlite_structure.system_text().strip()

    def step(self, before: Table | None, step: Step) -> list[str]:
        from palaver.records import sqlite_structure

        return sqlite_structure.texts(before, step)


class Postgresql:
    def __init__(self, schema: str = "public") -> None:
        from palaver.records.postgres_names import Names

        self._names = Names(schema)

    def system(self) -> str:
        from palaver.records import postgres_structure

        return postgres_structure.system(self._names).strip()

    def step(self, before: Table | None, step: Step) -> list[str]:
        from palaver.records import postgres_structure

        return postgres_structure.texts(before, step, self._names)


def writer(dialect: DialectName, schema: str = "public") -> Writes:
    return Sqlite() if dialect == "sqlite" else Postgresql(schema)


def taken(plan: Migration, physical: Physical, writes: Writes) -> Iterator[Taken | Left]:
    """Yield the actions of a migration in order, each step with the table as it is by then."""
    now = {table.name: table for table in physical.tables}
    for action in plan.actions:
        if not isinstance(action, Take):
            yield Left(action.words)
            continue
        step = action.step
        before = now.get(step.old if isinstance(step, RenameTable) else step.table.name)
        forwards = tuple(writes.step(before, step))
        after = _after(before, step)
        back = undo(before, step)
        yield Taken(
            action.words, forwards, None if back is None else tuple(text for each in back for text in _backwards(writes, after, each))
        )
        if isinstance(step, RenameTable):
            now.pop(step.old, None)
        if after is None:
            now.pop(step.table.name, None)
        else:
            now[after.name] = after


def _after(before: Table | None, step: Step) -> Table | None:
    if isinstance(step, DropTable):
        return None
    return step.table if before is None else after_step(before, step)


def _backwards(writes: Writes, after: Table | None, step: Step) -> Sequence[str]:
    return writes.step(None if isinstance(step, CreateTable) else after, step)


def undo(before: Table | None, step: Step) -> list[Step] | None:
    """Return the steps that lead back; None where values are gone or were converted."""
    if isinstance(step, CreateTable):
        return [DropTable(step.table)] if before is None else []
    assert before is not None
    old = {column.name: column for column in before.columns}
    match step:
        case AddColumn(table, column):
            return [DropColumn(table, column.name)] if column.name not in old else []
        case CreateIndex(table, index):
            former = next((each for each in before.indexes if each.name == index.name), None)
            return [DropIndex(table, index.name) if former is None else CreateIndex(table, former)]
        case DropIndex(table, name):
            return [CreateIndex(table, index) for index in before.indexes if index.name == name]
        case RenameColumn(table, old_name, new):
            return [RenameColumn(table, new, old_name)]
        case AlterColumn(table, column):
            return [AlterColumn(table, old[column.name])] if column.kind == old[column.name].kind else None
        case SetExpiry(table, _):
            return [SetExpiry(table, before.expires)]
        case RenameTable(table, name):
            return [RenameTable(before if name != table.name else replace(before), table.name)]
    return None


def script(plan: Migration, physical: Physical, dialect: DialectName, schema: str = "public") -> str:
    """Return a migration as an SQL script with what it leaves to `palaver migrate apply` as comments."""
    writes = writer(dialect, schema)
    lines = [f"-- {plan.schema}: version {plan.from_version} to {plan.version}, for {dialect}"]
    if not physical.tables:
        lines += ["", writes.system()]
    for each in taken(plan, physical, writes):
        lines += [
            "",
            f"-- {each.words}" + ("" if isinstance(each, Taken) else ": left to `palaver migrate apply`, which reads every record"),
        ]
        if isinstance(each, Taken):
            lines += [f"{text};" for text in each.forwards]
    return "\n".join(lines) + "\n"
