"""What crosses the record port: tables, ops with their guards, reads, pages, changes.

Everything here is a plain value. Engines execute it; the planner makes it; `explain` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypeAlias

from palaver.errors import Expression, PathOverlap
from palaver.expr import MISSING, Append, Condition, IfAbsent, Operand, Path, add_numbers, evaluate, parse_path, resolve
from palaver.structure import (
    CONVERSIONS as CONVERSIONS,
    KINDS as KINDS,
    MARK as MARK,
    REVISION as REVISION,
    AddColumn as AddColumn,
    AlterColumn as AlterColumn,
    Belt as Belt,
    Column as Column,
    CreateIndex as CreateIndex,
    CreateTable as CreateTable,
    DropColumn as DropColumn,
    DropIndex as DropIndex,
    DropTable as DropTable,
    IndexSpec as IndexSpec,
    Physical as Physical,
    Ranges as Ranges,
    RenameColumn as RenameColumn,
    RenameTable as RenameTable,
    SetExpiry as SetExpiry,
    Step as Step,
    Table as Table,
    after_step as after_step,
)
from palaver.values import KeyPart, Record, Value, record_size

# --- addresses --------------------------------------------------------------------------------------------------------


class Address(NamedTuple):
    """One record: `key` holds the values of the table's key columns, in order."""

    table: str
    key: tuple[KeyPart, ...]


def is_live(table: Table, record: Record | None, now_us: int) -> bool:
    """Say whether a stored record exists for readers: it is there, not marked for deletion, and not expired."""
    if record is None or record.get(MARK) is not None:
        return False
    if table.expires is None:
        return True
    expires = record.get(table.expires)
    return expires is None or expires * 1_000_000 > now_us  # type: ignore[operator]


# --- guards: what must hold at one address for a write to happen ----------------------------------------------------


class Absent(NamedTuple):
    """No live record; an expired one counts as absent, one marked for deletion does not."""


class Alive(NamedTuple):
    """A live record."""


class Unchanged(NamedTuple):
    """The stored record has exactly this revision; None: nothing at all is stored."""

    revision: int | None


class Holds(NamedTuple):
    """The condition is true of the live record, or of an empty one where there is none."""

    condition: Condition


When: TypeAlias = Absent | Alive | Unchanged | Holds


class Origin(NamedTuple):
    """Who asked for a guard: the position of the op in the user's batch, and the guard's role there."""

    op: int
    role: str


class Guard(NamedTuple):
    when: When
    origin: Origin


def holds(guard: Guard, table: Table, record: Record | None, now_us: int) -> bool:
    """Say whether a guard is true of what is stored at its address."""
    match guard.when:
        case Absent():
            return record is None or (record.get(MARK) is None and not is_live(table, record, now_us))
        case Alive():
            return is_live(table, record, now_us)
        case Unchanged(revision):
            return (record[REVISION] if record else None) == revision
        case Holds(condition):
            return evaluate(condition, record if record is not None and is_live(table, record, now_us) else {})


# --- ops ------------------------------------------------------------------------------------------------------------


class Set(NamedTuple):
    """Set a path to a value or operand; operands read the record as it was before the update."""

    path: Path
    to: Operand


class Remove(NamedTuple):
    path: Path


class Add(NamedTuple):
    """Add to a number (absent counts as 0), or add elements to a set."""

    path: Path
    amount: Value


Change_: TypeAlias = Set | Remove | Add


class Put(NamedTuple):
    """Store the whole record, replacing what is there. REVISION is not in `record`."""

    at: Address
    record: Record
    guards: tuple[Guard, ...] = ()
    released: tuple[str, ...] = ()


class Update(NamedTuple):
    """Change parts of a record; all operands read the old record; nothing is created where there is none."""

    at: Address
    changes: tuple[Change_, ...]
    guards: tuple[Guard, ...] = ()
    released: tuple[str, ...] = ()


class Delete(NamedTuple):
    """Remove the record; removing what is not there is not an error and is not a change."""

    at: Address
    guards: tuple[Guard, ...] = ()
    released: tuple[str, ...] = ()
    expired: bool = False


class Check(NamedTuple):
    """Write nothing; the guards must hold in the same commit."""

    at: Address
    guards: tuple[Guard, ...]


Op: TypeAlias = Put | Update | Delete | Check


class Cause(NamedTuple):
    """Why something was written; travels with the change. `token` is the digest a token is remembered under, not its text."""

    actor: str | None = None
    token: str | None = None


class WriteSet(NamedTuple):
    """Ops that are written all or none.

    `now_us` is the instant of the write: liveness is judged by it, and a new revision is
    max(now_us, the old revision + 1). Without `returning` nobody asks what updates made, and an engine that would have
    to read a record for it does not say.
    """

    ops: Sequence[Op]
    now_us: int
    cause: Cause = Cause()
    returning: bool = True


class Written(NamedTuple):
    """`revisions[i]` is the new revision of op i (None for Check and Delete); `updated[i]` the record after an Update.

    Of a write set that is not `returning`, `updated` may be None for an Update; its revision is there.
    """

    revisions: Sequence[int | None]
    updated: Sequence[Record | None]


class Failure(NamedTuple):
    """One op that was refused: its first failed guard, and the record that failed it (None: nothing stored)."""

    op: int
    guard: Guard
    found: Record | None


class Refused(NamedTuple):
    """Nothing was written. Every failed op is listed, in order."""

    failures: Sequence[Failure]


def next_revision(record: Record | None, now_us: int) -> int:
    return now_us if record is None else max(now_us, record[REVISION] + 1)  # type: ignore[operator, return-value]


def revision_of(record: Mapping[str, Value]) -> int:
    return record[REVISION]  # type: ignore[return-value]


def apply_update(table: Table, record: Record, changes: Sequence[Change_]) -> Record:
    """Return the record after an update, REVISION and MARK untouched.

    Raises Expression (no such parent, wrong operand type), PathOverlap, ItemTooLarge.
    """
    taken: list[tuple[str | int, ...]] = []
    after: Record = dict(record)
    copied: set[str] = set()
    doomed: list[tuple[int, list[Value]]] = []
    for change in changes:
        steps = _claimed(table, change.path, taken)
        holder = _parent(table, after, steps, copied, change.path)
        last = steps[-1]
        match change:
            case Set(_, to):
                value = _operand(table, record, to)
                if value is None and holder is after:
                    after.pop(str(last), None)
                else:
                    _store(holder, last, value)
            case Remove():
                if isinstance(holder, dict):
                    holder.pop(last, None)  # type: ignore[arg-type]
                else:
                    doomed.append((last, holder))  # type: ignore[arg-type]
            case Add(_, amount):
                _store(holder, last, _added(table, resolve(record, steps, MISSING), amount, change.path))
    # Positions are those of the old list, so the last goes first, and only after everything else was found.
    for last, elements in sorted(doomed, key=lambda each: each[0], reverse=True):
        del elements[last : last + 1]
    record_size({name: value for name, value in after.items() if name not in (REVISION, MARK)}, table.entity)
    return after


def _claimed(table: Table, path: Path, taken: list[tuple[str | int, ...]]) -> tuple[str | int, ...]:
    """Return the steps of a path that no other change of the update touches, and that may be changed at all."""
    steps = parse_path(path)
    for other in taken:
        short = min(len(other), len(steps))
        if other[:short] == steps[:short]:
            raise PathOverlap(f"An update of {table.entity} touches {path} twice.", entity=table.entity)
    taken.append(steps)
    if steps[0] in table.key or steps[0] == REVISION:
        raise Expression(f"{table.entity}.{steps[0]} is a key part and cannot be updated.", hint="Put a new record.", entity=table.entity)
    return steps


def _parent(table: Table, after: Record, steps: tuple[str | int, ...], copied: set[str], path: Path) -> dict[str, Value] | list[Value]:
    if len(steps) == 1:
        return after
    top = str(steps[0])
    if top not in copied and isinstance(after.get(top), dict | list):
        after[top] = _copy(after[top])
        copied.add(top)
    holder = resolve(after, steps[:-1])
    if not isinstance(holder, list if isinstance(steps[-1], int) else dict):
        raise Expression(f"{table.entity} has nothing at the parent of {path}.", hint="Set the parent first.", entity=table.entity)
    return holder


def _copy(value: Value) -> Value:
    if isinstance(value, dict):
        return {name: _copy(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_copy(inner) for inner in value]
    return value


def _store(holder: dict[str, Value] | list[Value], last: str | int, value: Value) -> None:
    if isinstance(holder, dict):
        holder[str(last)] = value
    elif isinstance(last, int) and last < len(holder):
        holder[last] = value
    else:
        holder.append(value)


def _operand(table: Table, record: Record, to: Operand) -> Value:
    match to:
        case Path():
            value = resolve(record, parse_path(to), MISSING)
            if value is MISSING:
                raise Expression(f"{table.entity} has nothing at {to} to copy.", entity=table.entity)
            return value  # type: ignore[no-any-return]
        case IfAbsent(path, default):
            value = resolve(record, parse_path(path), MISSING)
            return default if value is MISSING else value
        case Append(path, items):
            value = resolve(record, parse_path(path), [])
            if not isinstance(value, list):
                raise Expression(f"{table.entity}.{path} is not a list.", entity=table.entity)
            return [*value, *items]
        case _:
            return to


def _added(table: Table, old: Any, amount: Value, path: Path) -> Value:
    if isinstance(amount, frozenset):
        if old is not MISSING and not isinstance(old, frozenset):
            raise Expression(f"{table.entity}.{path} is not a set.", entity=table.entity)
        return amount if old is MISSING else old | amount
    if old is not MISSING and (isinstance(old, bool) or not isinstance(old, int | float | Decimal)):
        raise Expression(f"{table.entity}.{path} is not a number.", entity=table.entity)
    return add_numbers(0 if old is MISSING else old, amount, f"{table.entity}.{path}")


# --- reads ----------------------------------------------------------------------------------------------------------


class Bound(NamedTuple):
    """A limit on the sort column after the fixed ones: ">=" or ">" a value, "<=" or "<" a value, "prefix" a text."""

    op: Literal[">", ">=", "<", "<=", "prefix"]
    value: KeyPart


class Read(NamedTuple):
    """One page of one partition of a key or index.

    `index` None reads the key. `partition` and `fixed` hold equal values for the partition columns and the leading
    sort columns; `bounds` narrow the sort column after those. Order is by the sort columns, then by the key, reversed
    when `descending`. `limit` counts records read, live or not; `after` is the position (index values + key values) of
    the last record already seen. At most 1 MB a page.
    """

    table: str
    index: str | None  # type: ignore[assignment]
    partition: tuple[KeyPart, ...]
    fixed: tuple[KeyPart, ...] = ()
    bounds: tuple[Bound, ...] = ()
    descending: bool = False
    limit: int = 100
    after: tuple[KeyPart, ...] | None = None
    consistent: bool = True


class RecordPage(NamedTuple):
    """Records as stored, hidden ones included; `last` is the position to go on from, None at the end."""

    records: Sequence[Record]
    last: tuple[KeyPart, ...] | None


def position(table: Table, index: str | None, record: Mapping[str, Value]) -> tuple[KeyPart, ...]:
    """Return where a record stands in a key or index: its part values, then its key."""
    if index is None:
        names = table.key
    else:
        spec = table.index(index)
        names = spec.partition + spec.sort + table.key
    return tuple([record[name] for name in names])  # type: ignore[misc]


# --- the feed -------------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """One committed write. It holds no values: read the record as it is now.

    `released` are blob keys the write stopped referring to.
    """

    position: int
    table: str
    key: tuple[KeyPart, ...]
    revision: int
    kind: Literal["created", "updated", "deleted", "expired"]
    cause: Cause
    released: tuple[str, ...] = ()


class ChangePage(NamedTuple):
    changes: Sequence[Change]
    last: int
    head: int


# --- structure ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """What one engine can take at once; the planner uses the portable minimum, the engine enforces its own.

    `loads_in_order`: of loads that are under way together, what was asked for first is stored first. `joins_keys`: a record holds
    the parts of an index joined, so who writes it has to know the index.
    """

    ops: int = 100
    bytes: int = 4 * 1024 * 1024
    record: int = 409_600
    feed_retention_s: int = 7 * 86_400
    expires_natively: bool = False
    renames: bool = True
    partitions: bool = False
    loads_in_order: bool = False
    joins_keys: bool = False
