"""What a batch does to a SQLite file: runs in the writer thread, inside a transaction that other batches share.

Guards are judged and records are changed by the same functions as in memory; SQL only fetches and stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import chain
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import apsw

from palaver.connections.sqlite import Database
from palaver.connections.sqlite_errors import LOSES_TRANSACTION
from palaver.errors import NotProvisioned
from palaver.expr import parse_path
from palaver.ops import (
    REVISION,
    Absent,
    Cause,
    Check,
    Delete,
    Failure,
    Op,
    Put,
    Refused,
    Update,
    WriteSet,
    Written,
    apply_update,
    holds,
)
from palaver.records import sql
from palaver.records.sqlite_rows import Row, Rows
from palaver.stored_json import dumps
from palaver.values import KeyPart, Record

KINDS: tuple[Literal["created", "updated", "deleted", "expired"], ...] = ("created", "updated", "deleted", "expired")
CREATED, UPDATED, DELETED, EXPIRED = range(4)
KEY_COLUMNS = 3
MOST_AT_ONCE = 32
LOADED_AT_ONCE = 4_000
LOADED_AT_LEAST = 500
LOADED_COST = 500
SHORT_COST = 64 * 1024
_PADDING = (None,) * KEY_COLUMNS
_FEED = "INSERT INTO palaver_changes (entity, kind, revision, key1, key2, key3, more) VALUES "
_FEED_ROW = "(?, ?, ?, ?, ?, ?, ?)"
_FEED_ROWS = 32
_NOBODY = Cause()
T = TypeVar("T")
Execute: TypeAlias = Callable[..., Any]
FeedRow: TypeAlias = "tuple[Any, ...]"


# A record that most likely is not there yet, ready to be inserted; a plain tuple, because one is made for every put.
Create: TypeAlias = "tuple[Rows, Row, Put]"


class Writes:
    """Turns write sets into jobs for the one writer of a file."""

    def __init__(self, database: Database, rows: Mapping[str, Rows]) -> None:
        self._database = database
        self._rows = rows
        self._feed = database.deferred(_flush)
        self._together = self._create_together
        self._connection: apsw.Connection | None = None
        self._execute: Execute = _unbound

    def rows(self, table: str) -> Rows:
        found = self._rows.get(table)
        if found is None:
            raise NotProvisioned(f"There is no table {table}.", table=table)
        return found

    async def write(self, writes: WriteSet) -> Written | Refused:
        if (job := self._creation(writes)) is not None:
            cost = job.cost
            return await self._database.write(job, cost=cost, savepoint=False, together=self._together, short=cost <= SHORT_COST)
        for op in writes.ops:
            self.rows(op.at.table)
        cost = _cost(writes.ops)
        return await self._database.write(
            lambda connection: self._decide(connection, writes), cost=cost, savepoint=False, short=cost <= SHORT_COST
        )

    # --- records that are new ---------------------------------------------------------------------------------------

    def _creation(self, writes: WriteSet) -> _Creation | None:
        """Return the job for a batch that only creates: it inserts first and asks afterwards, since a record is rarely there already."""
        now_us, tables = writes.now_us, self._rows
        creates: list[Create] = []
        cost = 0
        for op in writes.ops:
            if type(op) is not Put or (op.guards and (len(op.guards) > 1 or type(op.guards[0].when) is not Absent)):
                return None
            rows = tables.get(op.at.table) or self.rows(op.at.table)
            row = rows.encode(op.record, now_us)
            cost += rows.weigh(row)
            creates.append((rows, row, op))
        return _Creation(self, creates, writes, cost) if creates else None

    def _create_job(self, creates: list[Create], writes: WriteSet, connection: apsw.Connection) -> Written | Refused:
        if not self._insert(connection, creates):
            return self._decide(connection, writes)
        return self._created(creates, writes)

    def _created(self, creates: list[Create], writes: WriteSet) -> Written:
        now_us, cause = writes.now_us, writes.cause
        for rows, _, op in creates:
            self._publish(rows, op.at.key, CREATED, now_us, cause, op.released)
        return Written([now_us] * len(creates), [None] * len(creates))

    def _create_together(self, connection: apsw.Connection, jobs: list[Any]) -> list[Written] | None:
        """Insert what several callers create with as few statements as can be; None, and nothing written, where one cannot be.

        A statement lets other threads in with each row it makes alone, and each time the interpreter changes hands.
        """
        by_table: dict[Rows, list[Create]] = {}
        for job in jobs:
            for create in job.creates:
                by_table.setdefault(create[0], []).append(create)
        self._start(connection, by_table)
        inserted: list[Create] = []
        try:
            for rows, creates in by_table.items():
                for some in _slices(creates, min(MOST_AT_ONCE, rows.most)):
                    self._execute(rows.inserts(len(some)), list(chain.from_iterable([row for _, row, _ in some])))
                    inserted += some
        except LOSES_TRANSACTION:
            raise
        except BaseException as error:
            for rows, _, op in inserted:
                self._execute(rows.delete, op.at.key)
            if not isinstance(error, apsw.ConstraintError):
                raise
            return None
        return [self._created(job.creates, job.writes) for job in jobs]

    def _insert(self, connection: apsw.Connection, creates: list[Create]) -> bool:
        """Insert all, or nothing where one cannot be; cheaper than a savepoint, which copies every page first."""
        execute = self._execute
        inserted = 0
        try:
            for rows, row, _ in creates:
                if not rows.id:
                    execute = self._start(connection, [rows for rows, _, _ in creates])
                execute(rows.insert, row)
                inserted += 1
        except LOSES_TRANSACTION:
            raise
        except BaseException as error:
            for rows, _, op in creates[:inserted]:
                execute(rows.delete, op.at.key)
            if not isinstance(error, apsw.ConstraintError):
                raise
            return False
        return True

    # --- anything ---------------------------------------------------------------------------------------------------

    def _decide(self, connection: apsw.Connection, writes: WriteSet) -> Written | Refused:
        """Judge every guard against the state before, make every new record, and only then write."""
        execute = self._start(connection, [self.rows(op.at.table) for op in writes.ops])
        found = [_Found(self.rows(op.at.table), op, execute) for op in writes.ops]
        failures = [failure for number, each in enumerate(found) if (failure := each.judge(number, writes.now_us)) is not None]
        if failures:
            return Refused(failures)
        done = [each.prepare(writes.now_us) for each in found]
        statements = [each.statement for each in done if each.statement is not None]
        if len(statements) == 1:
            execute(*statements[0])
        elif statements:
            with self._database.undoable():
                for text, parameters in statements:
                    execute(text, parameters)
        for each, outcome in zip(found, done, strict=True):
            if outcome.statement is not None:
                self._publish(each.rows, each.op.at.key, outcome.kind, outcome.revision, writes.cause, each.op.released)  # type: ignore[union-attr]
        return Written([outcome.given for outcome in done], [outcome.updated for outcome in done])

    # --- records by themselves --------------------------------------------------------------------------------------

    async def load(self, table: str, records: Sequence[Record], now_us: int, cause: Cause) -> list[int]:
        """Store records, each by itself, in as few commits as other callers allow: a commit ends early when somebody else waits."""
        rows = self.rows(table)
        encode = rows.encode
        # Here and not in the writer's thread: between two statements that one holds up the event loop.
        made = [encode(record, now_us) for record in records]
        revisions: list[int] = []
        while made:
            job = partial(self._load_some, rows=rows, made=made[:LOADED_AT_ONCE], cause=cause)
            done = await self._database.write(job, cost=LOADED_COST * min(len(made), LOADED_AT_ONCE), savepoint=False)
            revisions += done
            made = made[len(done) :]
        return revisions

    def _load_some(self, connection: apsw.Connection, rows: Rows, made: Sequence[Row], cause: Cause) -> list[int]:
        """Store rows, at least the first `LOADED_AT_LEAST`, and return the revisions of those stored."""
        execute = self._start(connection, (rows,))
        revisions: list[int] = []
        for some in _slices(made, rows.most):
            if self._load_new(connection, rows, some, cause):
                revisions += [row[-2] for row in some]
            else:
                revisions += [self._put_over(execute, rows, row, cause) for row in some]
            if len(revisions) >= LOADED_AT_LEAST and self._database.is_wanted():
                break
        return revisions

    def _load_new(self, connection: apsw.Connection, rows: Rows, some: Sequence[Row], cause: Cause) -> bool:
        """Insert rows with one statement and their changes with another; False, and nothing written, where one is there already.

        A statement for each row would wait for its turn among the threads each time.
        """
        try:
            self._execute(rows.inserts(len(some)), list(chain.from_iterable(some)))
        except apsw.ConstraintError:
            return False
        if rows.publish:
            before = connection.last_insert_rowid() - len(some)
            # What waits of other jobs comes first: it may be about the same records.
            _flush(connection, self._feed.rows)
            self._feed.rows.clear()
            self._execute(rows.publish, (rows.id, None if cause == _NOBODY else more((), cause, ()), before))
        else:
            for row in some:
                self._publish(rows, rows.key_of(row), CREATED, row[-2], cause)
        return True

    def _put_over(self, execute: Execute, rows: Rows, row: Row, cause: Cause) -> int:
        """Store a row whether or not its record is there; return its revision."""
        key, revision = rows.key_of(row), row[-2]
        stored = execute(rows.select_revision, key).fetchall()
        if stored:
            revision = max(revision, stored[0][0] + 1)
            execute(rows.replace, (*row[:-2], revision, row[-1], *key))
        else:
            execute(rows.insert, row)
        self._publish(rows, key, UPDATED if stored else CREATED, revision, cause)
        return revision  # type: ignore[no-any-return]

    # --- the feed ---------------------------------------------------------------------------------------------------

    def _publish(
        self, rows: Rows, key: tuple[KeyPart, ...], kind: int, revision: int, cause: Cause, released: tuple[str, ...] = ()
    ) -> None:
        if not rows.table.feed:
            return
        if released or cause != _NOBODY or len(key) > KEY_COLUMNS:
            self._feed.rows.append((rows.id, kind, revision, *(key + _PADDING)[:KEY_COLUMNS], more(key, cause, released)))
        else:
            self._feed.rows.append((rows.id, kind, revision, *key, *_PADDING[len(key) :], None))

    def _identify(self, rows: Rows) -> None:
        """Learn the small number that stands for a table in the feed; another process may have given it."""
        found = self._execute("SELECT id FROM palaver_names WHERE name = ?", (rows.name,)).fetchall()
        if not found:
            raise NotProvisioned(f"The table {rows.name} was not made by this library.", hint="Apply the migrations first.")
        rows.id = found[0][0]

    def _start(self, connection: apsw.Connection, tables: Iterable[Rows]) -> Execute:
        """Return `execute` of one cursor that is used again and again: a new one for each statement costs more than the statement."""
        if self._connection is not connection:
            self._connection = connection
            self._execute = connection.cursor().execute
        for rows in tables:
            # Before anything is written: it may raise.
            if not rows.id:
                self._identify(rows)
        return self._execute


class _Creation:
    """The job that stores new records for one caller."""

    __slots__ = ("_owner", "cost", "creates", "writes")

    def __init__(self, owner: Writes, creates: list[Create], writes: WriteSet, cost: int) -> None:
        self._owner, self.creates, self.writes, self.cost = owner, creates, writes, cost

    def __call__(self, connection: apsw.Connection) -> Written | Refused:
        return self._owner._create_job(self.creates, self.writes, connection)


class _Outcome(NamedTuple):
    """What an op does: its statement, if any, and what it tells its caller and the feed."""

    statement: tuple[str, Sequence[Any]] | None
    kind: int = UPDATED
    revision: int = 0
    given: int | None = None
    updated: Record | None = None


_NOTHING = _Outcome(None)


class _Found:
    """An op and what is stored at its address."""

    __slots__ = ("op", "record", "revision", "rows")

    def __init__(self, rows: Rows, op: Op, execute: Execute) -> None:
        self.rows = rows
        self.op = op
        self.record: Record | None = None
        if op.guards or type(op) is Update:
            stored = execute(rows.select, op.at.key).fetchall()
            self.record = rows.decode(stored[0]) if stored else None
            self.revision: int | None = self.record[REVISION] if self.record is not None else None  # type: ignore[assignment]
        else:
            stored = execute(rows.select_revision, op.at.key).fetchall()
            self.revision = stored[0][0] if stored else None

    def judge(self, number: int, now_us: int) -> Failure | None:
        for guard in self.op.guards:
            if not holds(guard, self.rows.table, self.record, now_us):
                return Failure(number, guard, self.record)
        return None

    def prepare(self, now_us: int) -> _Outcome:
        """Return what to do; raises where the new record cannot be made."""
        rows, op, old = self.rows, self.op, self.revision
        if type(op) is Check or (old is None and type(op) is not Put):
            return _NOTHING
        revision = now_us if old is None else max(now_us, old + 1)
        match op:
            case Put(at, record):
                row = rows.encode(record, revision)
                if old is None:
                    return _Outcome((rows.insert, row), CREATED, revision, revision)
                return _Outcome((rows.replace, (*row, *at.key)), UPDATED, revision, revision)
            case Delete(at):
                return _Outcome((rows.delete, at.key), EXPIRED if op.expired else DELETED, revision)
        return self._updated(op, revision)  # type: ignore[arg-type]

    def _updated(self, op: Update, revision: int) -> _Outcome:
        rows = self.rows
        assert self.record is not None
        after = apply_update(rows.table, self.record, op.changes)
        after[REVISION] = revision
        names = sql.distinct([str(parse_path(change.path)[0]) for change in op.changes])
        values = [rows.encoded(name, after.get(name)) for name in names]
        statement = rows.update((*names, REVISION)), (*values, revision, *op.at.key)
        return _Outcome(statement, UPDATED, revision, revision, copied(after))


def copied(record: Record) -> Record:
    """Return the record with its own lists and maps: operands of the caller may be inside."""
    return {name: _copied(value) for name, value in record.items()}


def _copied(value: Any) -> Any:
    if type(value) is dict:
        return {name: _copied(inner) for name, inner in value.items()}
    return [_copied(inner) for inner in value] if type(value) is list else value


def _cost(ops: Sequence[Op]) -> int:
    """Return a rough size of what ops hold in memory."""
    total = 0
    for op in ops:
        total += 500
        if type(op) is Put:
            total += sum(len(value) if type(value) is str or type(value) is bytes else 50 for value in op.record.values())
    return total


def _slices(made: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Cut into lengths of powers of two, so that few different statements are prepared."""
    start = 0
    while start < len(made):
        length = min(most, 1 << (len(made) - start).bit_length() - 1)
        yield made[start : start + length]
        start += length


def more(key: tuple[Any, ...], cause: Cause, released: tuple[str, ...]) -> str:
    rest: dict[str, Any] = {}
    if len(key) > KEY_COLUMNS:
        rest["key"] = list(key[KEY_COLUMNS:])
    if cause.actor is not None:
        rest["actor"] = cause.actor
    if cause.token is not None:
        rest["token"] = cause.token
    if released:
        rest["released"] = list(released)
    return dumps(rest)


def _flush(connection: apsw.Connection, changes: list[FeedRow]) -> None:
    """Store the changes of a whole group: one statement for many rows also means one hand-over of the interpreter."""
    for start in range(0, len(changes), _FEED_ROWS):
        part = changes[start : start + _FEED_ROWS]
        connection.execute(_feed_text(len(part)), list(chain.from_iterable(part)))


@cache
def _feed_text(rows: int) -> str:
    return _FEED + ", ".join([_FEED_ROW] * rows)


def _unbound(*_arguments: Any) -> Any:
    raise AssertionError("no job has run yet")
