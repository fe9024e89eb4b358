"""What a batch does to PostgreSQL: one statement where SQL can judge its guards, otherwise a look and one statement.

Guards are judged and records are changed by the same functions as in memory wherever that takes looking; then the
statement writes only where every row is still the version looked at. Who is overtaken again and again locks the rows
first, in the order of their addresses, so that somebody always gets through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg

from palaver.connections.postgres import Pool
from palaver.connections.postgres_errors import GUARD_FAILED, RETRIED, UNIQUE, translate
from palaver.errors import Conflict, NotProvisioned
from palaver.ops import (
    Address,
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
    next_revision,
)
from palaver.records.postgres_batching import Creation, SharedCommits, is_creation
from palaver.records.postgres_chain import Chain, chained
from palaver.records.postgres_feed import CREATED, DELETED, EXPIRED, UPDATED, Feed, jittered, key_text, more
from palaver.records.postgres_placeholders import hold_absent
from palaver.records.postgres_rows import Row, Rows
from palaver.records.postgres_statements import Part, applied, array_literal, chain
from palaver.values import KeyPart, Record

_LOOKS = 3
_TRIES = 12
_PAUSE_S = 0.002


class Overtaken(Exception):
    """A row is no longer the version that was looked at; nothing was written."""


class Writes:
    """Writes of one schema."""

    def __init__(self, pool: Pool, feed: Feed, rows: Mapping[str, Rows]) -> None:
        self._pool = pool
        self._feed = feed
        self._rows = rows
        self._identifying = asyncio.Lock()
        self._shared = SharedCommits(pool, feed, self._create_alone)

    def rows(self, table: str) -> Rows:
        found = self._rows.get(table)
        if found is None:
            raise NotProvisioned(f"There is no table {table}.", table=table)
        return found

    async def identified(self, tables: Iterable[str]) -> None:
        """Learn the small numbers that stand for tables in the feed."""
        wanted = list(map(self.rows, set(tables)))
        async with self._identifying:
            # Whoever waited here finds that it was done meanwhile.
            missing = [rows for rows in wanted if not rows.id]
            if not missing:
                return
            found = dict(await self._pool.read(f"SELECT name, id FROM {missing[0].names.names}"))
        for rows in missing:
            if rows.name not in found:
                raise NotProvisioned(f"The table {rows.name} was not made by this library.", hint="Apply the migrations first.")
            rows.id = found[rows.name]

    async def write(self, writes: WriteSet) -> Written | Refused:
        """Write one atomic batch."""
        ops, rows = writes.ops, self._rows
        creates = True
        for op in ops:
            found = rows.get(op.at.table)
            if found is None or not found.id:
                await self.identified([op.at.table])
            creates = creates and is_creation(op)
        if not ops:
            return Written((), ())
        if creates:
            return await self._shared.write(Creation(rows, writes))
        linked = chained(rows, writes)
        done = await self._chained(linked, writes) if linked is not None else None
        return done if done is not None else await self.decide(writes)

    async def _create_alone(self, creation: Creation) -> Written | Refused:
        """Store what could not be stored with others, or what is there already."""
        for attempt in range(_TRIES):
            try:
                await self._shared.store([creation])
                return creation.written()
            except asyncpg.PostgresError as error:
                if error.sqlstate not in RETRIED:
                    return await self.decide(creation.writes)
            await asyncio.sleep(jittered(_PAUSE_S * 2**attempt))
        raise Conflict("Other writers kept changing the same records.")

    async def retried(self, text: str, *arguments: Any) -> list[Any]:
        """Run one writing statement, again where the server undid it in favour of another."""
        for attempt in range(_TRIES):
            try:
                return await self.fetched(text, *arguments)
            except asyncpg.PostgresError as error:
                if error.sqlstate not in RETRIED:
                    raise translate(error) from None
            await asyncio.sleep(jittered(_PAUSE_S * 2**attempt))
        raise Conflict("Other writers kept changing the same records.")

    async def aclose(self) -> None:
        await self._shared.aclose()

    # --- one statement ----------------------------------------------------------------------------------------------

    async def _chained(self, linked: Chain, writes: WriteSet) -> Written | None:
        """Write what SQL can judge; None, and nothing written, where a guard does not hold or more has to be known."""
        for attempt in range(_TRIES):
            try:
                rows = await self.fetched(chain(linked.links), writes.now_us, *linked.arguments)
            except asyncpg.PostgresError as error:
                if error.sqlstate not in RETRIED:
                    return None
                await asyncio.sleep(jittered(_PAUSE_S * 2**attempt))
                continue
            if not rows and linked.links[0].sure:
                return None
            self._feed.written()
            return linked.written(rows[0] if rows else None)
        return None

    async def fetched(self, text: str, *arguments: Any) -> list[Any]:
        """Run one writing statement; errors of the server come as they are, those of the connection translated."""
        return await self._pool.fetch_raw(text, *arguments)

    # --- a look, and one statement ----------------------------------------------------------------------------------

    async def decide(self, writes: WriteSet) -> Written | Refused:
        """Judge every guard against the state before, make every new record, and only then write."""
        locked = False
        for attempt in range(_TRIES):
            try:
                if locked:
                    return await self._under_locks(writes)
                decided = Decision(self._rows, writes, await self._look(writes, self._pool.read))
                if decided.failures:
                    return Refused(decided.failures)
                if decided.absent:
                    locked = True
                    continue
                await self._apply(decided, self.fetched)
                return decided.written()
            except Overtaken:
                locked = locked or attempt + 1 >= _LOOKS
            except asyncpg.PostgresError as error:
                if error.sqlstate not in RETRIED:
                    raise translate(error) from None
                locked = True
            await asyncio.sleep(jittered(_PAUSE_S * 2 ** min(attempt, 6)))
        raise Conflict("Other writers kept changing the same records.")

    async def _under_locks(self, writes: WriteSet) -> Written | Refused:
        """Lock every row in the order of the addresses, keep absent ones absent, then judge and write."""
        async with self._pool.transaction(raw=True) as connection:
            ops = sorted(writes.ops, key=lambda op: (op.at.table, [key_text(part) for part in op.at.key]))
            looked = await self._look(writes, connection.fetch, lock=True)
            decided = Decision(self._rows, writes, looked)
            if decided.failures:
                return Refused(decided.failures)
            # In the order of addresses, those to be created too: two batches must not wait for each other.
            if not await hold_absent(connection, [(self.rows(op.at.table), op.at) for op in ops if op.at in decided.places]):
                raise Overtaken
            await self._apply(decided, connection.fetch)
        return decided.written()

    async def _look(self, writes: WriteSet, fetch: Any, *, lock: bool = False) -> dict[Address, _Seen]:
        """Return what is stored at every address, with the version of each row."""
        by_table: dict[str, list[Op]] = {}
        for op in writes.ops:
            by_table.setdefault(op.at.table, []).append(op)
        seen: dict[Address, _Seen] = {}
        for table in sorted(by_table):
            rows, ops = self.rows(table), by_table[table]
            text = rows.several(_lock(ops) if lock else "")
            for row in await fetch(text, *map(list, zip(*(op.at.key for op in ops), strict=True))):
                *stored, version = row
                record = rows.decode(tuple(stored))
                key: tuple[KeyPart, ...] = tuple(record[name] for name in rows.table.key)  # type: ignore[misc]
                seen[Address(table, key)] = _Seen(record, version)
        return seen

    async def _apply(self, decided: Decision, fetch: Any) -> None:
        statement = decided.statement()
        if statement is None:
            return
        try:
            await fetch(*statement)
        except asyncpg.PostgresError as error:
            if error.sqlstate in (GUARD_FAILED, UNIQUE) and not decided.is_duplicate(error):
                raise Overtaken from None
            raise
        self._feed.written()


def _lock(ops: Sequence[Op]) -> str:
    if any(isinstance(op, Delete) for op in ops):
        return "FOR UPDATE"
    return "FOR SHARE" if all(isinstance(op, Check) for op in ops) else "FOR NO KEY UPDATE"


class _Seen(NamedTuple):
    record: Record
    version: int


class _Outcome(NamedTuple):
    """What an op does: to which rows, and what it tells its caller and the feed."""

    action: str
    row: Row = ()
    kind: int = UPDATED
    revision: int = 0
    given: int | None = None
    updated: Record | None = None


class Decision:
    """A batch judged against what was seen, and what it does."""

    def __init__(self, rows: Mapping[str, Rows], writes: WriteSet, seen: Mapping[Address, _Seen]) -> None:
        self._rows = rows
        self._writes = writes
        self._seen = seen
        self.failures: list[Failure] = []
        for number, op in enumerate(writes.ops):
            found = seen.get(op.at)
            record = found.record if found else None
            failed = next((guard for guard in op.guards if not holds(guard, rows[op.at.table].table, record, writes.now_us)), None)
            if failed is not None:
                self.failures.append(Failure(number, failed, record))
        self.outcomes = [] if self.failures else [self._outcome(op) for op in writes.ops]
        # With several ops, an absence that nothing is written to must last until the commit as well.
        self._written_to = {op.at for op in writes.ops if not isinstance(op, Check)}
        puts = {op.at for op in writes.ops if isinstance(op, Put)}
        nothing = {op.at for op in writes.ops if op.at not in seen and len(writes.ops) > 1}
        self.absent = {op.at for op in writes.ops if op.at in nothing and op.at not in puts and op.guards}
        self.places = self.absent | (nothing & puts)

    def written(self) -> Written:
        return Written([outcome.given for outcome in self.outcomes], [outcome.updated for outcome in self.outcomes])

    def _outcome(self, op: Op) -> _Outcome:
        """Return what to do; raises where the new record cannot be made."""
        rows, found = self._rows[op.at.table], self._seen.get(op.at)
        old = found.record if found else None
        if isinstance(op, Check) or (old is None and not isinstance(op, Put)):
            return _Outcome("check" if old is not None else "")
        revision = next_revision(old, self._writes.now_us)
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
        updated = rows.decode(row)
        return _Outcome("replace", row, UPDATED, revision, revision, updated)

    def statement(self) -> tuple[Any, ...] | None:
        """Return the statement that does it all where nothing has changed meanwhile, and its arguments."""
        parts: dict[Part, list[tuple[Any, ...]]] = {}
        feed: list[tuple[Any, ...]] = []
        order = sorted(
            zip(self._writes.ops, self.outcomes, strict=True), key=lambda each: (each[0].at.table, list(map(key_text, each[0].at.key)))
        )
        for op, outcome in order:
            if not outcome.action or (outcome.action == "check" and op.at in self._written_to):
                continue
            rows = self._rows[op.at.table]
            parts.setdefault(Part(rows, outcome.action), []).append(self._arguments(op, outcome))
            if outcome.action != "check" and rows.table.feed:
                key = array_literal(list(map(key_text, op.at.key)))
                kept = more(self._writes.cause, op.released)  # type: ignore[union-attr]
                feed.append((rows.id, outcome.kind, outcome.revision, key, kept))
        if not parts or (all(part.action == "check" for part in parts) and len(self._writes.ops) < 2):
            return None
        arrays = [list(column) for given in parts.values() for column in zip(*given, strict=True)]
        if feed:
            arrays += [list(column) for column in zip(*feed, strict=True)]
        return (applied(tuple(parts), feed=bool(feed)), sum(map(len, parts.values())), *arrays)

    def _arguments(self, op: Op, outcome: _Outcome) -> tuple[Any, ...]:
        if outcome.action == "insert":
            return outcome.row
        version = self._seen[op.at].version
        return (*outcome.row, version) if outcome.action == "replace" else (*op.at.key, version)

    def is_duplicate(self, error: Exception) -> bool:
        """Say whether a unique index of the declaration refused, which looking again would not change."""
        name = getattr(error, "constraint_name", None) or ""
        return getattr(error, "sqlstate", None) == UNIQUE and not name.endswith("_pkey")
