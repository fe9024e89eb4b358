"""A batch as a chain of statements in one: possible where SQL can judge every guard and make every change itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from palaver.expr import OPERANDS, parse_path
from palaver.ops import (
    MARK,
    REVISION,
    Absent,
    Add,
    Address,
    Alive,
    Change_,
    Check,
    Delete,
    Guard,
    Op,
    Put,
    Remove,
    Set,
    Unchanged,
    Update,
    WriteSet,
    Written,
)
from palaver.records.postgres_feed import more
from palaver.records.postgres_rows import Row, Rows
from palaver.records.postgres_statements import Link
from palaver.values import MAX_INT, MIN_INT, Record, size

Learn: TypeAlias = "Callable[[Address, Row | None, int], None]"
# A longer chain has too many shapes for each to be worth a prepared statement.
LONGEST = 8
_SCALAR_SIZE = 24


class Chain(NamedTuple):
    """`made`: for each op the row it stores, as far as that is known before."""

    ops: Sequence[Op]
    links: tuple[Link, ...]
    arguments: list[Any]
    made: list[Row | None]

    def written(self, row: Row | None, learn: Learn) -> Written:
        """Return what the statement's one row says, and let what stands where after it be learned; no row: nothing was there."""
        revisions: list[int | None] = []
        updated: list[Record | None] = []
        values: list[Any] = list(row) if row is not None else [None] * 1_000
        at = 2
        for op, link, made in zip(self.ops, self.links, self.made, strict=True):
            revision = values[at]
            at += 1
            revisions.append(revision if isinstance(op, Put | Update) else None)
            record = None
            stored = None if made is None else (*made[:-2], revision, made[-1])
            if link.gives_record:
                width = len(link.rows.stored)
                stored = tuple(values[at : at + width])
                record = link.rows.decode(stored) if revision is not None else None
                at += width
            updated.append(record)
            if revision is not None and link.action != "check":
                learn(op.at, stored, values[1])
        return Written(revisions, updated)


class _Demand(NamedTuple):
    """What guards ask of a stored record; `absent`: that there is none."""

    absent: bool = False
    alive: bool = False
    revision: int | None = None


def chained(rows: Mapping[str, Rows], writes: WriteSet) -> Chain | None:
    """Return a batch as a chain; None where a guard or a change takes looking."""
    ops = writes.ops
    if len(ops) > LONGEST or (len(ops) > 1 and len({op.at for op in ops}) < len(ops)):
        return None
    links: list[Link] = []
    arguments: list[Any] = []
    rows_made: list[Row | None] = []
    for op in ops:
        demand = _demand(op.guards)
        made = None if demand is None else _linked(rows[op.at.table], op, demand, writes.now_us)
        if made is None:
            return None
        link, given, row = made
        rows_made.append(row)
        links.append(link)
        arguments += given
        if link.rows.table.feed and link.action != "check":
            arguments.append(more(writes.cause, op.released))  # type: ignore[union-attr]
    return Chain(ops, tuple(links), arguments, rows_made)


def _demand(guards: Sequence[Guard]) -> _Demand | None:
    """Return what guards ask; None where it is more than a revision and being there."""
    absent = alive = False
    revision: int | None = None
    for guard in guards:
        match guard.when:
            case Absent() | Unchanged(None):
                absent = True
            case Alive():
                alive = True
            case Unchanged(wanted) if revision in (None, wanted):
                revision = wanted
            case _:
                return None
    if absent and (alive or revision is not None):
        return None
    return _Demand(absent, alive, revision)


def _linked(rows: Rows, op: Op, demand: _Demand, now_us: int) -> tuple[Link, list[Any], Row | None] | None:
    tail = [] if demand.revision is None else [demand.revision]
    guarded = bool(op.guards)
    unchanged = demand.revision is not None
    if isinstance(op, Put):
        row = rows.encode(op.record, now_us)
        if not guarded and rows.table.ranges is not None:
            # A table kept in parts does not tell whether a row stored over another is new.
            return None
        if demand.absent or not guarded:
            return Link(rows, "create" if demand.absent else "put"), list(row), row
        names = [name for name in rows.stored if name not in rows.table.key and name != REVISION]
        values = [value for name, value in zip(rows.stored, row, strict=True) if name in names]
        changes = tuple(("set", name) for name in names)
        return Link(rows, "replace", changes, demand.alive, unchanged), [*op.at.key, *values, *tail], row
    if demand.absent:
        return None
    match op:
        case Delete():
            return Link(rows, "expire" if op.expired else "delete", (), demand.alive, unchanged, guarded), [*op.at.key, *tail], None
        case Check():
            return (Link(rows, "check", (), demand.alive, unchanged), [*op.at.key, *tail], None) if guarded else None
        case Update():
            simple = _simple(rows, op.changes)
            if simple is None:
                return None
            changes, values, grown = simple
            # Nothing found may also mean a record that might grow too large.
            return Link(rows, "update", changes, demand.alive, unchanged), [*op.at.key, *values, grown, *tail], None
    return None


def _simple(rows: Rows, changes: Sequence[Change_]) -> tuple[tuple[tuple[str, str], ...], list[Any], int] | None:
    """Return changes of whole columns, their values, and by how much the record may grow; None for any other change."""
    found: list[tuple[str, str]] = []
    values: list[Any] = []
    grown = 0
    for change in changes:
        steps = parse_path(change.path)
        name = str(steps[0])
        if len(steps) > 1 or name not in rows.kinds or name in rows.table.key or name == REVISION or any(name == each[1] for each in found):
            return None
        match change:
            case Set(_, to) if not isinstance(to, OPERANDS):
                if rows.kinds[name] in ("int", "float", "number", "bool") and not (name == MARK or _fits(rows.kinds[name], to)):
                    return None
                found.append(("set", name))
                values.append(rows.encoded(name, to))
                grown += size(to) + len(name.encode())
            case Remove():
                found.append(("set", name))
                values.append(None)
            case Add(_, amount) if rows.kinds[name] == "int" and type(amount) is int and MIN_INT <= amount <= MAX_INT:
                found.append(("add", name))
                values.append(amount)
                grown += _SCALAR_SIZE
            case _:
                return None
    return tuple(found), values, grown


def _fits(kind: str, value: object) -> bool:
    if value is None:
        return True
    return {"int": type(value) is int, "float": type(value) is float, "bool": type(value) is bool}.get(kind, False)
