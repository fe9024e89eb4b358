"""A migration as a file: JSON that can be read, reviewed and committed, and is applied exactly or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from hashlib import sha256
from typing import Any

from palaver.errors import ConfigError
from palaver.evolve.actions import Action, Claim, Demand, Fill, Prepare, Rebuild, Release, Seal, Take
from palaver.evolve.diff import Migration
from palaver.snapshot import column_of, index_of, plain_table, table_of
from palaver.structure import (
    AddColumn,
    AlterColumn,
    Column,
    CreateIndex,
    CreateTable,
    DropColumn,
    DropIndex,
    DropTable,
    IndexSpec,
    RenameColumn,
    RenameTable,
    SetExpiry,
    Step,
    Table,
)

FORMAT = 1
_STEPS: Mapping[str, type[Any]] = {
    step.__name__: step
    for step in (
        CreateTable,
        AddColumn,
        CreateIndex,
        DropIndex,
        RenameColumn,
        AlterColumn,
        DropColumn,
        SetExpiry,
        RenameTable,
        DropTable,
    )
}
_ACTIONS: Mapping[str, type[Any]] = {action.__name__: action for action in (Prepare, Fill, Seal, Claim, Release, Rebuild)}


def plan_text(migration: Migration) -> str:
    """Return the file: each action with what it does in words, the tables it speaks of once, and a hash of it all."""
    return json.dumps(plain_plan(migration), indent=2, ensure_ascii=False) + "\n"


def plain_plan(migration: Migration) -> dict[str, Any]:
    """Return a migration as JSON values; `plan_of` gives it back."""
    tables = {_table(action).name: plain_table(_table(action)) for action in migration.actions if isinstance(action, Take)}
    plain: dict[str, Any] = {
        "palaver_plan": FORMAT,
        "schema": migration.schema,
        "from": {"version": migration.from_version, "fingerprint": migration.from_fingerprint},
        "to": {"version": migration.version, "fingerprint": migration.fingerprint},
        "base": migration.base,
        "actions": [_plain(action) for action in migration.actions],
        "demands": [_jsonable(demand) for demand in migration.demands],
        "kept": list(migration.kept),
        "drift": list(migration.drift),
        "tables": dict(sorted(tables.items())),
    }
    return {**plain, "digest": digest(plain)}


def digest(plain: Mapping[str, Any]) -> str:
    """Return the hash of a plan without its own."""
    rest = {name: value for name, value in plain.items() if name != "digest"}
    return sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def plan_of(plain: Any) -> Migration:
    """Return the migration a file holds. Raises ConfigError for a file that is none, or was changed after it was made."""
    if not isinstance(plain, dict) or plain.get("palaver_plan") != FORMAT:
        raise ConfigError("This file is not a migration plan of this version.", hint="Make one: palaver migrate plan -o plan.json.")
    if plain.get("digest") != digest(plain):
        raise ConfigError("The plan was changed after it was made.", hint="Make it anew: palaver migrate plan -o plan.json.")
    tables = {name: table_of(table) for name, table in plain["tables"].items()}
    return Migration(
        plain["schema"],
        plain["from"]["version"],
        plain["from"]["fingerprint"],
        plain["to"]["version"],
        plain["to"]["fingerprint"],
        plain["base"],
        tuple(_action(each, tables) for each in plain["actions"]),
        tuple(Demand(**{**each, "check": _check(each["check"])}) for each in plain["demands"]),
        tuple(plain["kept"]),
        tuple(plain["drift"]),
    )


def _table(action: Take) -> Table:
    return action.step.table


def _plain(action: Action) -> dict[str, Any]:
    if not isinstance(action, Take):
        return {"do": type(action).__name__, "words": action.words, **_jsonable(action)}
    step = action.step
    parts = {each.name: getattr(step, each.name) for each in fields(step) if each.name != "table"}
    plain = {
        name: json.loads(json.dumps(asdict(value))) if isinstance(value, Column | IndexSpec) else value for name, value in parts.items()
    }
    return {"do": type(step).__name__, "words": action.words, "effect": action.effect, "table": step.table.name, **plain}


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(asdict(value)))


def _action(plain: Mapping[str, Any], tables: Mapping[str, Table]) -> Action:
    words = () if plain["do"] == Prepare.__name__ else ("words",)
    parts = {name: value for name, value in plain.items() if name not in ("do", *words)}
    if plain["do"] in _ACTIONS:
        made = {name: tuple(value) if isinstance(value, list) else value for name, value in parts.items()}
        action: Action = _ACTIONS[plain["do"]](**made)
        return action
    effect = parts.pop("effect")
    parts["table"] = tables[parts["table"]]
    if isinstance(parts.get("column"), dict):
        parts["column"] = column_of(parts["column"])
    if isinstance(parts.get("index"), dict):
        parts["index"] = index_of(parts["index"])
    step: Step = _STEPS[plain["do"]](**parts)
    return Take(step, effect)


def _check(plain: list[Any]) -> tuple[object, ...]:
    return tuple(tuple(part) if isinstance(part, list) else part for part in plain)
