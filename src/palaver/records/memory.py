"""Records in memory: the executable specification of `ports.RecordEngine`, and the double tests use.

A key, an index and the order of expiry are each a sorted list of positions; nothing here is clever, so that it can be
read beside `semantics.md`. Index reads may be made to lag, because on DynamoDB they do.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypeAlias
from zlib import crc32

from palaver.clock import Clock, SystemClock
from palaver.errors import NotProvisioned, Trimmed
from palaver.ops import (
    CONVERSIONS,
    MARK,
    REVISION,
    Address,
    AlterColumn,
    Bound,
    Cause,
    Change,
    ChangePage,
    Check,
    CreateTable,
    Delete,
    DropColumn,
    DropTable,
    Failure,
    Limits,
    Op,
    Physical,
    Put,
    Read,
    RecordPage,
    Refused,
    RenameColumn,
    RenameTable,
    Step,
    Table,
    Update,
    WriteSet,
    Written,
    after_step,
    apply_update,
    holds,
    is_live,
    next_revision,
    position,
    revision_of,
)
from palaver.values import KeyPart, Record, Value, record_size

PAGE_BYTES = 1024 * 1024
Place: TypeAlias = "tuple[Any, ...]"
Kind: TypeAlias = Literal["created", "updated", "deleted", "expired"]


class _Top:
    """Greater than every key part."""

    def __lt__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return True


TOP = _Top()


def sortable(part: Any) -> Any:
    """Return what orders as the part does on every engine: text by its UTF-8 bytes."""
    return part.encode() if isinstance(part, str) else part


def copied(value: Any) -> Any:
    """Return the value with its own lists and maps; scalars and frozen sets cannot change and are shared. Zero has no sign."""
    kind = type(value)
    if kind is dict:
        return {name: copied(inner) for name, inner in value.items()}
    if kind is list:
        return [copied(inner) for inner in value]
    return abs(value) if (kind is float or kind is Decimal) and not value else value


class Ordered:
    """Records by position: what a key, an index and the order of expiry are."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.places: list[Place] = []
        self.records: dict[Place, Record] = {}

    def place(self, record: Record | None) -> Place | None:
        """Return where a record stands; None where a part is missing, so that it is not in a sparse index."""
        if record is None:
            return None
        parts = [record.get(name) for name in self.names]
        return None if any(part is None for part in parts) else tuple(map(sortable, parts))

    def move(self, before: Record | None, after: Record | None) -> None:
        old, new = self.place(before), self.place(after)
        if old is not None and old != new:
            del self.records[old]
            del self.places[bisect_left(self.places, old)]
        if new is not None and after is not None:
            if new not in self.records:
                insort(self.places, new)
            self.records[new] = after

    def chosen(self, read: Read) -> list[Place]:
        """Return the places a read asks for, in ascending order; `limit` and `after` are left to the page."""
        head = tuple(map(sortable, read.partition + read.fixed))
        low, high = bisect_left(self.places, head), bisect_left(self.places, (*head, TOP))
        for bound in read.bounds:
            at_least, below = self._span(head, bound)
            low, high = max(low, at_least), min(high, below)
        return self.places[low:high]

    def _span(self, head: Place, bound: Bound) -> tuple[int, int]:
        value = sortable(bound.value)
        at, past = (*head, value), (*head, value, TOP)
        match bound.op:
            case ">=":
                return bisect_left(self.places, at), len(self.places)
            case ">":
                return bisect_left(self.places, past), len(self.places)
            case "<":
                return 0, bisect_left(self.places, at)
            case "<=":
                return 0, bisect_left(self.places, past)
            case "prefix":
                return bisect_left(self.places, at), bisect_left(self.places, (*head, _after_prefix(value)))


def _after_prefix(prefix: bytes) -> Any:
    """Return the least value above everything that starts with a prefix."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else TOP


class Shelf:
    """One table: its records by key, its indexes, and its records by expiry."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.by_key = Ordered(table.key)
        self.indexes = {index.name: Ordered(position_names(table, index.name)) for index in table.indexes}
        self.by_expiry = Ordered((table.expires, *table.key)) if table.expires else None

    def filled(self, order: Ordered) -> Ordered:
        """Return an order of the records that are there, put into it."""
        for record in self.by_key.records.values():
            order.move(None, record)
        return order

    def stored(self, key: tuple[KeyPart, ...]) -> Record | None:
        return self.by_key.records.get(tuple(map(sortable, key)))

    def index(self, name: str) -> Ordered:
        if name not in self.indexes:
            raise NotProvisioned(f"{self.table.entity} has no index {name}.", table=self.table.name, index=name)
        return self.indexes[name]


def position_names(table: Table, index: str) -> tuple[str, ...]:
    """Return the columns whose values are the position in an index."""
    spec = table.index(index)
    return spec.partition + spec.sort + table.key


class _Late(NamedTuple):
    """A change no index shows yet."""

    commit: int
    instant: float
    shelf: Shelf
    before: Record | None
    after: Record | None


class MemoryRecords:
    """Records of one process, gone with it.

    `index_lag` delays what indexes show: a number of later writes, or a time by `clock`. Reads by key never lag.
    Everything handed in and out is copied, so that nobody changes what is stored but through `write`.
    """

    limits = Limits(loads_in_order=True)

    def __init__(self, tables: Sequence[Table], *, clock: Clock | None = None, index_lag: int | timedelta = 0) -> None:
        self.index_lag = index_lag
        self._clock = clock or SystemClock()
        self._shelves = {table.name: Shelf(table) for table in tables}
        self._late: deque[_Late] = deque()
        self._commits = 0
        self._feed: list[Change] = []
        self._head = 0
        self._trimmed = 0
        self._moved = asyncio.Event()

    # --- reading ----------------------------------------------------------------------------------------------------

    async def get(self, at: Sequence[Address], *, consistent: bool = True, snapshot: bool = False) -> list[Record | None]:
        return [copied(self._shelf(table).stored(key)) for table, key in at]

    async def query(self, read: Read) -> RecordPage:
        shelf = self._shelf(read.table)
        order = self._order(shelf, read.index)
        places = order.chosen(read)
        if read.descending:
            places.reverse()
        if read.after is not None:
            after = tuple(map(sortable, read.after))
            places = [place for place in places if (place < after if read.descending else place > after)]
        return self._page(shelf, read.index, [order.records[place] for place in places], read.limit)

    async def scan(self, table: str, *, after: tuple[KeyPart, ...] | None, limit: int, segment: tuple[int, int] = (0, 1)) -> RecordPage:
        shelf = self._shelf(table)
        places = shelf.by_key.places
        start = bisect_right(places, tuple(map(sortable, after))) if after is not None else 0
        mine, of = segment
        records = [shelf.by_key.records[place] for place in places[start:] if of == 1 or crc32(repr(place).encode()) % of == mine]
        return self._page(shelf, None, records, limit)

    async def scan_as(self, table: Table, *, after: tuple[KeyPart, ...] | None, limit: int) -> RecordPage:
        return await self.scan(table.name, after=after, limit=limit)

    async def count(self, read: Read, now_us: int) -> int:
        shelf = self._shelf(read.table)
        order = self._order(shelf, read.index)
        return sum(is_live(shelf.table, order.records[place], now_us) for place in order.chosen(read))

    async def expired(self, table: str, now_us: int, limit: int) -> list[Address]:
        shelf = self._shelf(table)
        if shelf.by_expiry is None:
            return []
        order = shelf.by_expiry
        due = order.places[: bisect_left(order.places, (now_us // 1_000_000, TOP))]
        return [Address(table, position(shelf.table, None, order.records[place])) for place in due[:limit]]

    def _page(self, shelf: Shelf, index: str | None, records: Sequence[Record], limit: int) -> RecordPage:
        taken: list[Record] = []
        size = 0
        for record in records[:limit]:
            size += record_size({name: record[name] for name in record if name not in (REVISION, MARK)}, shelf.table.entity)
            if taken and size > PAGE_BYTES:
                break
            taken.append(record)
        last = position(shelf.table, index, taken[-1]) if taken and len(taken) < len(records) else None
        return RecordPage([copied(record) for record in taken], last)

    def _shelf(self, table: str) -> Shelf:
        if table not in self._shelves:
            raise NotProvisioned(f"There is no table {table}.", table=table)
        return self._shelves[table]

    def _order(self, shelf: Shelf, index: str | None) -> Ordered:
        if index is None:
            return shelf.by_key
        self._catch_up()
        return shelf.index(index)

    def _catch_up(self, *, wholly: bool = False) -> None:
        """Show in the indexes what is old enough to be shown."""
        while self._late and (wholly or self._is_due(self._late[0])):
            late = self._late.popleft()
            for order in late.shelf.indexes.values():
                order.move(late.before, late.after)

    def _is_due(self, late: _Late) -> bool:
        if isinstance(self.index_lag, timedelta):
            return self._clock.monotonic() - late.instant >= self.index_lag.total_seconds()
        return self._commits - late.commit >= self.index_lag

    # --- writing ----------------------------------------------------------------------------------------------------

    async def write(self, writes: WriteSet) -> Written | Refused:
        return self._commit(writes)

    async def load(self, table: str, records: Sequence[Record], now_us: int, cause: Cause) -> list[int]:
        shelf = self._shelf(table)
        revisions: list[int] = []
        for record in records:
            put = Put(Address(table, position(shelf.table, None, record)), record)
            done = self._commit(WriteSet((put,), now_us, cause))
            assert isinstance(done, Written), "an unguarded op cannot be refused"
            revisions.append(done.revisions[0] or 0)
        return revisions

    def _commit(self, writes: WriteSet) -> Written | Refused:
        ops, now_us = writes.ops, writes.now_us
        shelves = [self._shelf(op.at.table) for op in ops]
        found = [shelf.stored(op.at.key) for shelf, op in zip(shelves, ops, strict=True)]
        failures = list(self._failures(ops, shelves, found, now_us))
        if failures:
            return Refused(failures)
        # Every new record is made before the first is stored: making one may raise, and then nothing may be written.
        after = [self._after(op, shelf.table, record, now_us) for op, shelf, record in zip(ops, shelves, found, strict=True)]
        self._commits += 1
        for op, shelf, old, new in zip(ops, shelves, found, after, strict=True):
            self._store(op, shelf, old, new, writes)
        revisions = [_revision(new) if isinstance(op, Put | Update) else None for op, new in zip(ops, after, strict=True)]
        return Written(revisions, [copied(new) if isinstance(op, Update) else None for op, new in zip(ops, after, strict=True)])

    def _failures(self, ops: Sequence[Op], shelves: Sequence[Shelf], found: Sequence[Record | None], now_us: int) -> Iterable[Failure]:
        for number, (op, shelf, record) in enumerate(zip(ops, shelves, found, strict=True)):
            failed = next((guard for guard in op.guards if not holds(guard, shelf.table, record, now_us)), None)
            if failed is not None:
                yield Failure(number, failed, copied(record))

    def _after(self, op: Op, table: Table, old: Record | None, now_us: int) -> Record | None:
        match op:
            case Put():
                record: Record = {name: copied(value) for name, value in op.record.items() if value is not None}
            case Update():
                if old is None:
                    return None
                record = copied(apply_update(table, old, op.changes))
            case Delete():
                return None
            case Check():
                return old
        record[REVISION] = next_revision(old, now_us)
        return record

    def _store(self, op: Op, shelf: Shelf, old: Record | None, new: Record | None, writes: WriteSet) -> None:
        if isinstance(op, Check) or (old is None and new is None):
            return
        self._move(shelf, old, new)
        if shelf.table.feed:
            self._publish(op, old, new, writes)

    async def restore(
        self, table: str, records: Sequence[Record], *, gone: Sequence[tuple[KeyPart, ...]] = (), over: bool = False
    ) -> list[tuple[KeyPart, ...]]:
        shelf = self._shelf(table)
        self._commits += 1
        stayed: list[tuple[KeyPart, ...]] = []
        for record in records:
            key = position(shelf.table, None, record)
            old = shelf.stored(key)
            if old is not None and not over and revision_of(old) > revision_of(record):
                stayed.append(key)
            else:
                self._move(shelf, old, {name: copied(value) for name, value in record.items() if value is not None})
        for key in gone:
            self._move(shelf, shelf.stored(key), None)
        return stayed

    def _move(self, shelf: Shelf, old: Record | None, new: Record | None) -> None:
        shelf.by_key.move(old, new)
        if shelf.by_expiry is not None:
            shelf.by_expiry.move(old, new)
        self._late.append(_Late(self._commits, self._clock.monotonic(), shelf, old, new))
        if not self.index_lag:
            self._catch_up()

    # --- the feed ---------------------------------------------------------------------------------------------------

    def _publish(self, op: Put | Update | Delete, old: Record | None, new: Record | None, writes: WriteSet) -> None:
        self._head += 1
        kind: Kind = "created" if old is None else "updated"
        if isinstance(op, Delete):
            kind = "expired" if op.expired else "deleted"
        revision = _revision(new) or next_revision(old, writes.now_us)
        self._feed.append(Change(self._head, op.at.table, op.at.key, revision, kind, writes.cause, op.released))
        self._moved.set()
        self._moved = asyncio.Event()

    async def changes(self, after: int | None, limit: int) -> ChangePage:
        if after is not None and after < self._trimmed:
            raise Trimmed("The feed does not reach back to this position.")
        start = self._trimmed if after is None else after
        page = self._feed[self._place(start + 1) :][:limit]
        if len(page) < limit:
            return ChangePage(page, max(start, self._head), self._head)
        return ChangePage(page, page[-1].position if page else start, self._head)

    def _place(self, position: int) -> int:
        """Return how many changes are below a position; a copied feed has gaps."""
        return bisect_left(self._feed, position, key=lambda change: change.position)

    async def trim(self, before: int) -> int:
        forgotten = self._place(before)
        if forgotten:
            self._trimmed = self._feed[forgotten - 1].position
            del self._feed[:forgotten]
        return forgotten

    async def continue_feed(self, changes: Sequence[Change], last: int, *, gap: bool = False) -> None:
        if gap and last >= self._head:
            self._feed.clear()
            self._trimmed = last
        self._feed += [change for change in changes if change.position > self._head and change.table in self._shelves]
        self._head = max([self._head, last, *(change.position for change in changes)])

    async def wait_for_change(self, after: int, timeout: float) -> bool:
        if self._head > after:
            return True
        try:
            # Not wait_for, which loses a cancellation that comes with the event.
            async with asyncio.timeout(timeout):
                await self._moved.wait()
        except TimeoutError:
            return False
        return True

    # --- structure --------------------------------------------------------------------------------------------------

    async def describe(self) -> Physical:
        return Physical(tuple(shelf.table for shelf in self._shelves.values()))

    async def apply(self, step: Step) -> None:
        """Take one step; a step taken before is no error, so that an interrupted migration can be run again."""
        self._catch_up(wholly=True)
        match step:
            case CreateTable(table):
                self._shelves.setdefault(table.name, Shelf(table))
            case DropTable(table):
                self._shelves.pop(table.name, None)
            case RenameTable(table, old):
                self._rename(table, old)
            case _:
                self._change(self._shelf(step.table.name), step)

    def _rename(self, table: Table, old: str) -> None:
        shelf = self._shelves.pop(old, None)
        if shelf is not None:
            shelf.table = after_step(shelf.table, RenameTable(table, old))
            self._shelves[table.name] = shelf
            self._feed = [change._replace(table=table.name) if change.table == old else change for change in self._feed]

    def _change(self, shelf: Shelf, step: Step) -> None:
        """Change one table: its records first, which all its orders share, then what they are ordered by."""
        before, after = shelf.table, after_step(shelf.table, step)
        kinds = {column.name: column.kind for column in before.columns}
        for record in shelf.by_key.records.values():
            match step:
                case RenameColumn(_, old, new) if old in record:
                    record[new] = record.pop(old)
                case DropColumn(_, name):
                    record.pop(name, None)
                case AlterColumn(_, column) if kinds[column.name] != column.kind and column.name in record:
                    record[column.name] = CONVERSIONS[kinds[column.name], column.kind](record[column.name])
        shelf.table = after
        names = {index.name: position_names(after, index.name) for index in after.indexes}
        orders = {name: shelf.indexes.get(name) for name in names}
        shelf.indexes = {
            name: order if order is not None and order.names == names[name] else shelf.filled(Ordered(names[name]))
            for name, order in orders.items()
        }
        if before.expires != after.expires:
            shelf.by_expiry = shelf.filled(Ordered((after.expires, *after.key))) if after.expires else None

    async def aclose(self) -> None:
        return


def _revision(record: Record | None) -> int | None:
    revision: Value = record[REVISION] if record is not None else None
    return revision if isinstance(revision, int) else None
