"""What migrations rename: kept with each that was carried out, and turned round to lead back from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from palaver.evolve.actions import ASIDE, Action, Take
from palaver.structure import RenameColumn, RenameTable
from palaver.system import HISTORY


@dataclass(frozen=True)
class Names:
    """Under which name a table, or a column of one, is stored that a declaration calls otherwise: of tables by their declared names."""

    tables: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def renamed(actions: Sequence[Action]) -> dict[str, Any]:
    """Return as JSON values what a migration renames: `[old, new]` of tables, `[table, old, new]` of columns."""
    tables, columns = [], []
    for action in actions:
        match action:
            case Take(RenameTable(table, old)) if old != table.name and not old.endswith(HISTORY):
                tables.append([old, table.name])
            case Take(RenameColumn(table, old, new)) if new != ASIDE.format(old):
                columns.append([table.name, old, new])
    return {"tables": tables, "columns": columns}


def turned_round(plain: Mapping[str, Any]) -> Names:
    """Return what is stored under new names, for the declaration that has the old ones."""
    tables: dict[str, str] = dict(plain["tables"])
    before = {new: old for old, new in tables.items()}
    columns: dict[str, dict[str, str]] = {}
    for table, old, new in plain["columns"]:
        columns.setdefault(before.get(table, table), {})[old] = new
    return Names(tables, columns)
