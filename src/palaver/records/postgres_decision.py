"""A batch judged in Python against what was seen, and the one statement that does what any number of such batches decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from palaver.connections.postgres_errors import UNIQUE
from palaver.ops import REVISION, Address, Check, Delete, Failure, Op, Put, Update, WriteSet, Written, apply_update, holds, next_revision
from palaver.records.postgres_feed import CREATED, DELETED, EXPIRED, UPDATED, key_text, more
from palaver.records.postgres_rows import Row, Rows
from palaver.records.postgres_statements import Part, applied, array_literal
from palaver.values import Record


class Seen(NamedTuple):
    """What stands at an address and which version of the row it is; no record: nothing stands there."""

    record: Record | None
    version: int


class _Outcome(NamedTuple):
    """What an op does: to which rows, and what it tells its caller and the feed."""

    action: str
    row: Row = ()
    kind: int = UPDATED
    revision: int = 0
    given: int | None = None
    updated: Record | None = None


class Step(NamedTuple):
    """What one op adds to the statement; `feed`: entity, kind, revision, key and what is kept beside it."""

    order: tuple[str, list[str]]
    part: Part
    arguments: tuple[Any, ...]
    feed: tuple[Any, ...] | None


class Decision:
    """A batch judged against what was seen, and what it does."""

    def __init__(self, rows: Mapping[str, Rows], writes: WriteSet, seen: Mapping[Address, Seen]) -> None:
        self._rows = rows
        self.writes = writes
        self._seen = seen
        self.failures: list[Failure] = []
        for number, op in enumerate(writes.ops):
            record = seen[op.at].record if op.at in seen else None
            failed = next((guard for guard in op.guards if not holds(guard, rows[op.at.table].table, record, writes.now_us)), None)
            if failed is not None:
                self.failures.append(Failure(number, failed, record))
        self.outcomes = [] if self.failures else [self._outcome(op) for op in writes.ops]
        # With several ops, an absence that nothing is written to must last until the commit as well.
        self._written_to = {op.at for op in writes.ops if not isinstance(op, Check)}
        puts = {op.at for op in writes.ops if isinstance(op, Put)}
        nothing = {op.at for op in writes.ops if self._old(op) is None and len(writes.ops) > 1}
        self.absent = {op.at for op in writes.ops if op.at in nothing and op.at not in puts}
        self.places = self.absent | (nothing & puts)

    def _old(self, op: Op) -> Record | None:
        found = self._seen.get(op.at)
        return found.record if found else None

    def written(self) -> Written:
        return Written([outcome.given for outcome in self.outcomes], [outcome.updated for outcome in self.outcomes])

    def rows(self) -> list[tuple[Address, Row | None]]:
        """Return what stands where after this: the row; None where one was removed."""
        pairs = zip(self.writes.ops, self.outcomes, strict=True)
        return [(op.at, outcome.row or None) for op, outcome in pairs if outcome.action not in ("", "check")]

    def _outcome(self, op: Op) -> _Outcome:
        """Return what to do; raises where the new record cannot be made."""
        rows, old = self._rows[op.at.table], self._old(op)
        if isinstance(op, Check) or (old is None and not isinstance(op, Put)):
            return _Outcome("check" if old is not None else "")
        revision = next_revision(old, self.writes.now_us)
        match op:
            case Put(_, record):
                row = rows.encode(record, revision)
                return _Outcome("insert" if old is None else "replace", row, CREATED if old is None else UPDATED, revision, revision)
            case Delete():
                return _Outcome("delete", (), EXPIRED if op.expired else DELETED, revision)
        assert isinstance(op, Update)
        assert old is not None
        after = apply_update(rows.table, old, op.changes)
        row = rows.encode(after, revision)
        return _Outcome("replace", row, UPDATED, revision, revision, rows.decode(row))

    def is_sure(self) -> bool:
        """Say whether the statement finds out by itself where a row is no longer what was seen, absent ones included."""
        wrote = all(outcome.action for outcome in self.outcomes) and not self.absent
        return wrote and (len(self.outcomes) > 1 or self.outcomes[0].action != "check")

    def steps(self) -> list[Step]:
        """Return what each op adds to the statement; nothing where nothing is to be done."""
        steps = [self._step(op, outcome) for op, outcome in zip(self.writes.ops, self.outcomes, strict=True)]
        found = [step for step in steps if step is not None]
        if len(self.writes.ops) < 2 and all(step.part.action == "check" for step in found):
            return []
        return found

    def _step(self, op: Op, outcome: _Outcome) -> Step | None:
        if not outcome.action or (outcome.action == "check" and op.at in self._written_to):
            return None
        rows = self._rows[op.at.table]
        key = list(map(key_text, op.at.key))
        feed = None
        if outcome.action != "check" and rows.table.feed:
            kept = more(self.writes.cause, op.released)  # type: ignore[union-attr]
            feed = (rows.id, outcome.kind, outcome.revision, array_literal(key), kept)
        return Step((op.at.table, key), Part(rows, outcome.action), self._arguments(op, outcome), feed)

    def _arguments(self, op: Op, outcome: _Outcome) -> tuple[Any, ...]:
        if outcome.action == "insert":
            return outcome.row
        record, version = self._seen[op.at]
        assert record is not None, "what is not there is inserted"
        return (*(outcome.row if outcome.action == "replace" else op.at.key), version, record[REVISION])

    def is_duplicate(self, error: Exception) -> bool:
        """Say whether a unique index of the declaration refused, which looking again would not change."""
        name = getattr(error, "constraint_name", None) or ""
        return getattr(error, "sqlstate", None) == UNIQUE and not name.endswith("_pkey")


def statement(decisions: Sequence[Decision], *, patient: bool = True) -> tuple[Any, ...] | None:
    """Return the statement that does it all where nothing has changed meanwhile, and its arguments; None for nothing to do.

    No two of the decisions may write one record. It gives the version of every row written. Not `patient`: it fails soon
    where somebody holds a row.
    """
    steps = [step for decision in decisions for step in decision.steps()]
    if not steps:
        return None
    # Changes stand in the order of the ops; rows in the order of addresses, so that two statements lock in one order.
    feed = [step.feed for step in steps if step.feed is not None]
    steps.sort(key=lambda step: step.order)
    parts: dict[Part, list[tuple[Any, ...]]] = {}
    checked: set[tuple[str, tuple[str, ...]]] = set()
    for step in steps:
        if step.part.action == "check":
            address = (step.order[0], tuple(step.order[1]))
            if address in checked:
                continue
            checked.add(address)
        parts.setdefault(step.part, []).append(step.arguments)
    ordered = sorted(parts, key=lambda part: (part.rows.name, part.action))
    shape = tuple([part._replace(many=not patient or len(parts[part]) > 1) for part in ordered])
    arguments: list[Any] = [list(column) for part in ordered for column in zip(*parts[part], strict=True)]
    arguments += [list(column) for column in zip(*feed, strict=True)]
    return (applied(shape, feed=bool(feed), patient=patient), sum(map(len, parts.values())), *arguments)
