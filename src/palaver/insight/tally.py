"""Counting facts from the feed into rows, each fact once, whatever is delivered twice, crashes or is rebuilt.

A row remembers the position up to which it counts (`counted_to`), so a change seen again adds nothing. A value that
arrives by a later update has no position of its own: the record it came from gets a marker in the commit that counts it.
What is counted, and how a row adds up, belongs to a subclass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Any, Generic, TypeVar

from palaver.clock import check_day
from palaver.declared import Declared
from palaver.entity import Entity
from palaver.errors import Conflict, SchemaError, Validation
from palaver.expr import Path, parse_path
from palaver.following import settled
from palaver.ops import REVISION, Address, Cause, Change, Delete, Guard, Op, Origin, Put, Refused, Unchanged, WriteSet, is_live
from palaver.store import Store
from palaver.system import key_text, system
from palaver.values import KeyPart, Record

D = TypeVar("D")
E = TypeVar("E", bound=Entity)
SCAN = 500
COMMIT = 80
MARKS_OUTLIVE_S = 90 * 86_400


@dataclass(frozen=True)
class Fact(Generic[D]):
    """One contribution of one record: the row it belongs to, by its fields, and what to add there.

    `once` names a fact that may arrive by an update; it is counted when it is first seen.
    """

    row: tuple[Any, ...]
    day: date
    amount: D
    group: str
    once: str | None = None


@dataclass
class _Pending(Generic[D]):
    """Contributions waiting to be written together."""

    amounts: dict[tuple[str | None, tuple[Any, ...]], list[tuple[int | None, D]]] = field(default_factory=dict)
    marks: dict[Address, tuple[frozenset[str], int | None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.amounts) + len(self.marks)


class Tally(ABC, Generic[D]):
    """Base of projections that count. A row entity has a field `counted_to`, no unique sets, no history, no blobs."""

    def __init__(self, store: Store, name: str, row: type[Entity], sources: Iterable[type[Entity]]) -> None:
        self.name = name
        self._core = store.core
        self._records = store.core.records
        self._planner = store.core.planner
        self._row = store.schema.of(row)
        self._sources = {declared.table.name: declared for declared in map(store.schema.of, dict.fromkeys(sources))}
        if "counted_to" not in self._row.fields:
            raise SchemaError(f"{self._row.name} cannot be counted into.", hint="Declare counted_to: int = 0.", entity=self._row.name)
        if self._row.uniques or self._row.history is not None or self._row.blobs:
            raise SchemaError(f"{self._row.name} is counted into and has unique fields, history or blobs.", entity=self._row.name)
        self._flag = system("counting", name)

    def _keyed_by(self, *names: str) -> None:
        """Refuse a row whose key leaves out what it is counted by: two groups would be one row."""
        missing = [name for name in names if name not in {part.path for part in self._row.access["key"].parts}]
        if missing:
            raise SchemaError(
                f"The key of {self._row.name} leaves out {' and '.join(missing)}, by which it is counted.",
                hint=f"Write key = Key({', '.join(map(repr, names))}).",
                entity=self._row.name,
            )

    # --- for subclasses ---------------------------------------------------------------------------------------------

    @abstractmethod
    def facts(self, entity: Any, record: Record) -> Iterator[Fact[D]]:
        """Yield what one record contributes, as it is now; `record` is its stored form."""

    @abstractmethod
    def fresh(self, row: tuple[Any, ...]) -> Entity:
        """Return the empty row of these fields."""

    @abstractmethod
    def added(self, row: Any, amounts: Sequence[D]) -> dict[str, Any]:
        """Return the fields of a row that amounts change."""

    @abstractmethod
    def groups(self) -> Mapping[str, Sequence[type[Entity]]]:
        """Return the sources of each group of rows; a day of a group is rebuilt while all of them are still there."""

    # --- counting ---------------------------------------------------------------------------------------------------

    async def apply(self, changes: Sequence[Change]) -> Sequence[Op]:
        """Count the facts of these changes. Rows and markers are committed here: seen again, they add nothing."""
        if (await self._records.get((self._flag,)))[0] is not None:
            # A rebuild was cut off; what it left is neither the old numbers nor the new ones.
            await self.rebuild()
        created: dict[Address, int] = {}
        touched: dict[Address, int] = {}
        for change in changes:
            if change.table in self._sources and change.kind in ("created", "updated"):
                at = Address(change.table, change.key)
                touched[at] = change.position
                if change.kind == "created":
                    created[at] = change.position
        if touched:
            await self._count(list(touched), created)
        return ()

    async def _count(self, addresses: Sequence[Address], created: Mapping[Address, int]) -> None:
        records = await self._records.get(addresses)
        live = [(at, record) for at, record in zip(addresses, records, strict=True) if record is not None and self._is_live(at, record)]
        marks = await self._marks([at for at, _ in live])
        pending = _Pending[D]()
        # In order of position, so that a row's position never passes one that is still to come.
        for at, record in sorted(live, key=lambda pair: created.get(pair[0], 0)):
            facts = list(self._facts(at, record))
            mark = marks[at]
            for fact in facts:
                if fact.once is None and at in created:
                    pending.amounts.setdefault((self._tenant(at), fact.row), []).append((created[at], fact.amount))
                elif fact.once is not None and fact.once not in mark:
                    pending.amounts.setdefault((self._tenant(at), fact.row), []).append((None, fact.amount))
            self._note_mark(pending, at, facts, mark, record)
            if len(pending) >= COMMIT:
                await self._write(pending)
                pending = _Pending()
        await self._write(pending)

    def _note_mark(self, pending: _Pending[D], at: Address, facts: Sequence[Fact[D]], mark: frozenset[str], record: Record) -> bool:
        now = frozenset(fact.once for fact in facts if fact.once is not None)
        if now <= mark:
            return False
        declared = self._sources[at.table]
        expires = record.get(declared.expires.stored) if declared.expires else None
        # A marker outlives its record, whose expiry may slide; where records stay for ever, so do their markers.
        pending.marks[self._mark(at)] = (mark | now, expires + MARKS_OUTLIVE_S if isinstance(expires, int) else None)
        return True

    async def _write(self, pending: _Pending[D]) -> None:
        """Commit rows and markers together."""
        if not len(pending):
            return
        now_us = self._core.now_us()
        addresses = [self._address(tenant, row) for tenant, row in pending.amounts]
        ops: list[Op] = []
        for ((tenant, row), amounts), at, old in zip(pending.amounts.items(), addresses, await self._records.get(addresses), strict=True):
            entity = self._decoded(old, tenant, row)
            counted_to = entity.counted_to
            new = [(position, amount) for position, amount in amounts if position is None or position > counted_to]
            if not new:
                continue
            reached = max([counted_to, *(position for position, _ in new if position is not None)])
            ops.append(self._put(at, old, entity, [amount for _, amount in new], reached, now_us, tenant))
        ops += [self._marker(at, names, expires) for at, (names, expires) in pending.marks.items()]
        await self._commit(ops, now_us)

    async def _commit(self, ops: Sequence[Op], now_us: int) -> None:
        if ops and isinstance(await self._records.write(WriteSet(ops, now_us, Cause(self.name))), Refused):
            raise Conflict(f"Another process counts {self.name} as well.", projection=self.name)

    def _put(
        self, at: Address, old: Record | None, entity: Any, amounts: Sequence[D], reached: int, now_us: int, tenant: str | None
    ) -> Put:
        changed = entity.model_copy(update={**self.added(entity, amounts), "counted_to": reached})
        encoded = self._planner.codec(self._row.entity).encode(changed, now_us, tenant)
        seen: Any = old[REVISION] if old is not None else None
        return Put(at, encoded.record, (Guard(Unchanged(seen), Origin(0, "premise")),))

    # --- rebuilding -------------------------------------------------------------------------------------------------

    async def rebuild(self) -> None:
        """Count anew the days whose facts are all still there; rows of older days stay as they are, for ever.

        Writers may go on: what is created meanwhile is left to the feed. Facts deleted since are no longer counted.
        """
        await self._records.write(WriteSet((Put(self._flag, {"scope": "counting", "name": self.name}),), self._core.now_us()))
        head = await settled(self._records)
        rows: dict[tuple[str | None, tuple[Any, ...]], list[D]] = {}
        marks = _Pending[D]()
        follower = _Follower(self._records, head, set(self._sources))
        since = self._rebuilt_since()
        for table in self._sources:
            after: tuple[KeyPart, ...] | None = None
            while True:
                page = await self._records.scan(table, after=after, limit=SCAN)
                await follower.catch_up()
                await self._recount(table, page.records, follower, since, rows, marks)
                if page.last is None:
                    break
                after = page.last
        await self._replace(rows, head)
        await self._write_marks(marks)
        await self._records.write(WriteSet((Delete(self._flag),), self._core.now_us()))

    async def _recount(
        self,
        table: str,
        records: Sequence[Record],
        follower: _Follower,
        since: Mapping[str, date],
        rows: dict[tuple[str | None, tuple[Any, ...]], list[D]],
        marks: _Pending[D],
    ) -> None:
        key = self._sources[table].table.key
        addressed = [(Address(table, tuple(record[name] for name in key)), record) for record in records]  # type: ignore[misc]
        live = [(at, record) for at, record in addressed if self._is_live(at, record)]
        marked = await self._marks([at for at, _ in live])
        for at, record in live:
            facts = list(self._facts(at, record))
            counted = [fact for fact in facts if self._counts_now(fact, at, marked[at], follower)]
            for fact in counted:
                if fact.day >= since[fact.group]:
                    amounts = rows.setdefault((self._tenant(at), fact.row), [])
                    amounts.append(fact.amount)
                    if len(amounts) >= SCAN:
                        amounts[:] = [self.joined(amounts)]
            self._note_mark(marks, at, [fact for fact in counted if fact.once is not None], marked[at], record)
            if len(marks) >= COMMIT:
                await self._write_marks(marks)

    @abstractmethod
    def joined(self, amounts: Sequence[D]) -> D:
        """Return several amounts as one."""

    def _counts_now(self, fact: Fact[D], at: Address, mark: frozenset[str], follower: _Follower) -> bool:
        """Say whether the rebuild counts a fact, or leaves it to the changes that come after its beginning."""
        if fact.once is None:
            return at not in follower.created
        return fact.once in mark or at not in follower.touched

    async def _replace(self, rows: Mapping[tuple[str | None, tuple[Any, ...]], Sequence[D]], head: int) -> None:
        waiting = list(rows.items())
        for start in range(0, len(waiting), COMMIT):
            some = waiting[start : start + COMMIT]
            now_us = self._core.now_us()
            addresses = [self._address(tenant, row) for (tenant, row), _ in some]
            ops: list[Op] = []
            for ((tenant, row), amounts), at, old in zip(some, addresses, await self._records.get(addresses), strict=True):
                if self._decoded(old, tenant, row).counted_to > head:
                    raise Conflict(f"Another process counts {self.name} as well.", projection=self.name)
                ops.append(self._put(at, old, self._empty(tenant, row), amounts, head, now_us, tenant))
            await self._commit(ops, now_us)

    async def _write_marks(self, marks: _Pending[D]) -> None:
        ops = [self._marker(at, names, expires) for at, (names, expires) in marks.marks.items()]
        marks.marks.clear()
        await self._commit(ops, self._core.now_us())

    def _rebuilt_since(self) -> dict[str, date]:
        """Return the first day of each group of which nothing can have expired yet."""
        now = self._core.clock.now()
        out: dict[str, date] = {}
        for group, sources in self.groups().items():
            kept = [rule.after for rule in (self._planner.codec(source).rule for source in sources) if rule is not None]
            shortest = min((after for after in kept if after is not None), default=None)
            out[group] = date.min if shortest is None else utc_day(now - shortest) + timedelta(days=1)
        return out

    # --- addresses, rows and markers --------------------------------------------------------------------------------

    def _is_live(self, at: Address, record: Record) -> bool:
        return is_live(self._sources[at.table].table, record, 0)

    def _facts(self, at: Address, record: Record) -> Iterator[Fact[D]]:
        return self.facts(self._planner.codec(self._sources[at.table].entity).decode_sealed(record), record)

    def _tenant(self, at: Address) -> str | None:
        return str(at.key[0]) if self._sources[at.table].tenant is not None else None

    def _address(self, tenant: str | None, row: tuple[Any, ...]) -> Address:
        return self._planner.address(self._empty(tenant, row).address, tenant)

    def _empty(self, tenant: str | None, row: tuple[Any, ...]) -> Any:
        return owned(self._row, self.fresh(row), tenant)

    def _decoded(self, old: Record | None, tenant: str | None, row: tuple[Any, ...]) -> Any:
        return self._empty(tenant, row) if old is None else self._planner.codec(self._row.entity).decode(old)

    def _mark(self, at: Address) -> Address:
        digest = sha256(key_text(at.key).encode()).hexdigest()
        # One partition for all of them would be a hot one.
        return system(f"counted/{digest[:2]}", f"{self.name}/{at.table}/{digest}")

    def _marker(self, at: Address, names: frozenset[str], expires: int | None) -> Put:
        body: Any = {"counted": sorted(names)}
        record: Record = {"scope": at.key[0], "name": at.key[1], "body": body}
        if expires is not None:
            record["expires"] = expires
        return Put(at, record)

    async def _marks(self, addresses: Sequence[Address]) -> dict[Address, frozenset[str]]:
        """Return what was counted of each record that arrives in parts."""
        late = [at for at in addresses if self.late(at.table)]
        found = await self._records.get([self._mark(at) for at in late]) if late else []
        out = dict.fromkeys(addresses, frozenset[str]())
        for at, record in zip(late, found, strict=True):
            body: Any = record["body"] if record is not None else {}
            out[at] = frozenset(body.get("counted", ()))
        return out

    def late(self, table: str) -> bool:
        """Say whether facts of a table may arrive by updates."""
        return False


class _Follower:
    """Which records were written since a position: read after each page, so that nothing in a page is missed."""

    def __init__(self, records: Any, position: int, tables: set[str]) -> None:
        self._records, self._position, self._tables = records, position, tables
        self.created: set[Address] = set()
        self.touched: set[Address] = set()

    async def catch_up(self) -> None:
        while True:
            page = await self._records.changes(self._position, SCAN)
            for change in page.changes:
                if change.table in self._tables:
                    at = Address(change.table, change.key)
                    self.touched.add(at)
                    if change.kind == "created":
                        self.created.add(at)
            self._position = page.last
            if not page.changes or page.last >= page.head:
                return


def owned(declared: Declared, row: E, tenant: str | None) -> E:
    """Return a row as a tenant's, where its entity has tenants."""
    return row if declared.tenant is None else row.model_copy(update={declared.tenant.name: tenant})


def utc_day(at: datetime) -> date:
    """Return the day of an instant, in UTC."""
    return at.astimezone(UTC).date()


def reach(entity: Any, path: str) -> Any:
    """Return the value at a field path, None where a step of it is missing."""
    value = entity
    for step in parse_path(Path(path)):
        if value is None:
            return None
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(step, int):
            value = value[step] if isinstance(value, Sequence) and step < len(value) else None
        else:
            value = getattr(value, step, None)
    return value


def check_path(entity: type[Entity], path: str) -> None:
    """Raise Expression where a path names nothing of an entity."""
    entity.locate(Path(path))


def check_days(first: date, last: date) -> None:
    """Raise Validation for what is no range of days."""
    check_day(first, "first")
    check_day(last, "last")
    if last < first:
        raise Validation("A range of days ends before it begins.")


def days_between(first: date, last: date) -> Iterator[date]:
    """Yield every day from the first to the last; raises Validation for what is no range of days."""
    check_days(first, last)
    for number in range((last - first).days + 1):
        yield first + timedelta(days=number)
