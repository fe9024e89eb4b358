"""What a database is found to be, as a text to compare, and how that differs from what was kept with the data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from palaver.evolve.columns import is_required
from palaver.snapshot import plain_table, table_of
from palaver.structure import Physical, Table


def base_of(physical: Physical, stored: Mapping[str, Any]) -> str:
    """Return a hash of everything a plan depends on."""
    tables = [comparable(table) for table in sorted(physical.tables, key=lambda each: each.name)]
    text = json.dumps([tables, stored.get("fingerprint", "")], sort_keys=True)
    return sha256(text.encode()).hexdigest()[:16]


def comparable(table: Table) -> dict[str, Any]:
    """Return a table as JSON values in an order of their own: columns stand in the order they were added."""
    plain = plain_table(table)
    # Who removes what has expired is a matter of the program, not of the database.
    del plain["swept"]
    # Nor does every engine keep tables in parts.
    plain.pop("ranges", None)
    for column in plain["columns"]:
        column["required"] = is_required(table, next(each for each in table.columns if each.name == column["name"]))
    return {**plain, "columns": _sorted(plain["columns"]), "indexes": _sorted(plain["indexes"])}


def _sorted(named: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(named, key=lambda each: str(each["name"]))


def drift_of(physical: Physical, stored: Mapping[str, Any]) -> Iterable[str]:
    """Yield how what exists differs from what was there after the last migration; nothing where that was not kept."""
    found = {table.name: table for table in physical.tables}
    kept = set(stored.get("kept", ()))
    for entity in (stored.get("snapshot") or {}).get("entities", ()):
        wanted = table_of(entity["table"])
        table = found.get(wanted.name)
        if table is None:
            yield f"table {wanted.name} is not there"
        else:
            yield from _of_table(table, wanted, kept)


def _of_table(table: Table, wanted: Table, kept: set[str]) -> Iterable[str]:
    have = {column["name"]: column for column in comparable(table)["columns"]}
    want = {column["name"]: column for column in comparable(wanted)["columns"]}
    for name in sorted(want.keys() - have.keys()):
        yield f"column {name} of {table.name} is not there"
    for name in sorted(have.keys() - want.keys()):
        if f"{table.name}.{name}" not in kept:
            yield f"column {name} of {table.name} was added by somebody else"
    for name in sorted(want.keys() & have.keys()):
        if have[name] != want[name]:
            yield f"column {name} of {table.name} was altered"
    if table.expires != wanted.expires:
        yield f"{table.name} expires by {table.expires}, not by {wanted.expires}"
    had, wants = {index.name: index for index in table.indexes}, {index.name: index for index in wanted.indexes}
    for name in sorted(wants.keys() - had.keys()):
        yield f"index {name} of {table.name} is not there"
    for name in sorted(had.keys() - wants.keys()):
        yield f"index {name} of {table.name} was added by somebody else"
    for name in sorted(had.keys() & wants.keys()):
        if had[name] != wants[name]:
            yield f"index {name} of {table.name} was altered"
