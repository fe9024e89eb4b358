"""Records in a SQLite file: one table per entity, one table for the feed, every read one statement on one index.

Committing, waiting and threads belong to `connections.sqlite.Database`; what a batch does to `sqlite_writes`; structure
to `sqlite_structure`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import apsw

from palaver.connections.sqlite import Database
from palaver.errors import NotProvisioned, Trimmed
from palaver.observing import Observed
from palaver.ops import (
    MARK,
    REVISION,
    Address,
    Cause,
    Change,
    ChangePage,
    Limits,
    Physical,
    Read,
    RecordPage,
    Refused,
    RenameTable,
    Step,
    Table,
    WriteSet,
    Written,
    position,
)
from palaver.records import sqlite_figures, sqlite_structure as structure
from palaver.records.sqlite_restore import TRIMMED, continue_feed, restore
from palaver.records.sqlite_rows import PAGE_BYTES, Rows, fetched
from palaver.records.sqlite_writes import KINDS, LOADED_COST, Writes
from palaver.stored_json import loads
from palaver.values import KeyPart, Record, record_size

# AUTOINCREMENT would promise as much as an emptied last row does, and write one more page in every commit.
_HEAD = "SELECT coalesce(max(position), 0) FROM palaver_changes"
# What is trimmed leaves one row, emptied, at the last position forgotten: positions of a copied feed have gaps, and only such
# a row tells a reader who missed nothing from one who did.
_OLDEST = "SELECT position, kind FROM palaver_changes ORDER BY position LIMIT 1"
_CHANGES = (
    "SELECT position, name, key1, key2, key3, revision, kind, more FROM palaver_changes"
    " JOIN palaver_names ON palaver_names.id = entity WHERE position > ? AND kind >= 0 ORDER BY position LIMIT ?"
)
_TRIM = (
    "DELETE FROM palaver_changes WHERE kind >= 0 AND position < min(?1, (SELECT min(position) FROM palaver_changes WHERE kind >= 0) + ?2,"
    " (SELECT max(position) FROM palaver_changes WHERE kind >= 0 AND position < ?1))"
)
_EMPTY_LAST = (
    f"UPDATE palaver_changes SET kind = {TRIMMED}, key1 = NULL, key2 = NULL, key3 = NULL, more = NULL"
    " WHERE position = (SELECT max(position) FROM palaver_changes WHERE kind >= 0 AND position < ?)"
)
_TRIM_EMPTIED = (
    "DELETE FROM palaver_changes WHERE kind < 0 AND position < (SELECT max(position) FROM palaver_changes WHERE kind < 0 AND position < ?)"
)
_TRIM_ROWS = 1_000
_FETCHED_AT_ONCE = 32
_RESTORED = 500
_NOBODY = Cause()


class SqliteRecords:
    """Fulfils RecordEngine, Counts, FindsExpired, TrimsFeed, Scrubs, Wakes, Restores and ContinuesFeed on one file."""

    limits = Limits(loads_in_order=True)

    def __init__(self, database: Database, tables: Sequence[Table]) -> None:
        self.database = database
        self._rows = {table.name: Rows(table) for table in tables}
        self._writes = Writes(database, self._rows)

    # --- writing ----------------------------------------------------------------------------------------------------

    def write(self, writes: WriteSet) -> Coroutine[Any, Any, Written | Refused]:
        return self._writes.write(writes)

    def load(self, table: str, records: Sequence[Record], now_us: int, cause: Cause) -> Coroutine[Any, Any, list[int]]:
        return self._writes.load(table, records, now_us, cause)

    async def restore(
        self, table: str, records: Sequence[Record], *, gone: Sequence[tuple[KeyPart, ...]] = (), over: bool = False
    ) -> list[tuple[KeyPart, ...]]:
        """Store in commits of some hundred records, so that other writers come in between."""
        rows = self._writes.rows(table)
        stayed: list[tuple[KeyPart, ...]] = []
        for start in range(0, max(len(records), 1), _RESTORED):
            some, last = records[start : start + _RESTORED], start + _RESTORED >= len(records)
            job = partial(restore, rows=rows, records=some, gone=gone if last else (), over=over)
            stayed += await self.database.write(job, cost=LOADED_COST * len(some))
        return stayed

    # --- reading ----------------------------------------------------------------------------------------------------

    async def get(self, at: Sequence[Address], *, consistent: bool = True, snapshot: bool = False) -> list[Record | None]:
        if len(at) == 1:
            rows = self._writes.rows(at[0].table)
            found = await self.database.fetch(rows.select, at[0].key)
            return [rows.decode(found[0]) if found else None]
        asked = [(self._writes.rows(table), key) for table, key in at]

        def job(connection: apsw.Connection) -> list[Record | None]:
            # One transaction gives one instant, and takes the lock once instead of for every record.
            connection.execute("BEGIN")
            try:
                return [_one(connection, rows, key) for rows, key in asked]
            finally:
                connection.execute("ROLLBACK")

        if not asked:
            return []
        return await (self.database.read(job) if len(asked) <= _FETCHED_AT_ONCE else self.database.read_pooled(job))

    async def query(self, read: Read) -> RecordPage:
        rows = self._writes.rows(read.table)
        text, parameters = _known(rows, read).page_of(read)
        if read.limit <= _FETCHED_AT_ONCE:
            return _paged(await self.database.fetch(text, parameters), rows, read.index, read.limit)
        return await self.database.read(lambda connection: _page(connection, rows, text, parameters, read.index, read.limit))

    def explain_read(self, read: Read) -> list[str]:
        """Return the statement a read becomes; its values are bound, not written into it."""
        return [_known(self._writes.rows(read.table), read).page_of(read)[0]]

    async def scan(self, table: str, *, after: tuple[KeyPart, ...] | None, limit: int, segment: tuple[int, int] = (0, 1)) -> RecordPage:
        return await self._scan(self._writes.rows(table), after, segment, limit)

    async def scan_as(self, table: Table, *, after: tuple[KeyPart, ...] | None, limit: int) -> RecordPage:
        return await self._scan(Rows(table), after, (0, 1), limit)

    async def _scan(self, rows: Rows, after: tuple[KeyPart, ...] | None, segment: tuple[int, int], limit: int) -> RecordPage:
        text, parameters = rows.scan(after, segment, limit)
        return await self.database.read_pooled(lambda connection: _page(connection, rows, text, parameters, None, limit))

    async def count(self, read: Read, now_us: int) -> int:
        text, parameters = _known(self._writes.rows(read.table), read).count_of(read, now_us)
        return int((await self.database.fetch(text, parameters))[0][0])

    async def expired(self, table: str, now_us: int, limit: int) -> list[Address]:
        rows = self._writes.rows(table)
        if rows.table.expires is None:
            return []
        found = await self.database.fetch(rows.expired(), (now_us // 1_000_000, limit))
        return [Address(table, key) for key in found]

    # --- the feed ---------------------------------------------------------------------------------------------------

    async def changes(self, after: int | None, limit: int) -> ChangePage:
        return await self.database.read(lambda connection: _changes(connection, after, limit))

    async def trim(self, before: int) -> int:
        forgotten = 0
        while True:
            # In pieces, so that no writer waits long behind one of them.
            some = await self.database.write(_execute(_TRIM, (before, _TRIM_ROWS)), savepoint=False)
            forgotten += some
            if not some:
                break
        forgotten += await self.database.write(_execute(_EMPTY_LAST, (before,)), savepoint=False)
        await self.database.write(_execute(_TRIM_EMPTIED, (before,)), savepoint=False)
        return forgotten

    async def continue_feed(self, changes: Sequence[Change], last: int, *, gap: bool = False) -> None:
        await self.database.write(lambda connection: continue_feed(connection, changes, last, gap))

    async def scrub(self) -> None:
        """Empty the log: deleted content is overwritten in the file, and its former pages are nowhere else."""
        await self.database.checkpoint()

    async def wait_for_change(self, after: int, timeout: float) -> bool:
        until = time.monotonic() + timeout
        while True:
            since = self.database.commits
            head = (await self.database.fetch(_HEAD))[0][0]
            if head > after:
                return True
            left = until - time.monotonic()
            if left <= 0 or not await self.database.wait_for_commit(left, since):
                return False

    # --- structure --------------------------------------------------------------------------------------------------

    async def observe(self) -> Observed:
        return await sqlite_figures.observe(self.database)

    async def describe(self) -> Physical:
        return await self.database.read_pooled(structure.describe)

    async def apply(self, step: Step) -> None:
        """Take one step in one commit; a step taken before is no error."""
        name = step.old if isinstance(step, RenameTable) else step.table.name
        found = await self.database.write(lambda connection: structure.apply(connection, step))
        self._rows.pop(name, None)
        if found is not None:
            # What is not in the file is the declaration's.
            self._rows[found.name] = Rows(replace(found, swept=step.table.swept, tenant=step.table.tenant))

    async def stamp(self, version: int, fingerprint: str) -> None:
        """Note which declaration the file was made for; `describe` gives both back."""
        await self.database.write(lambda connection: structure.stamp(connection, version, fingerprint))

    async def aclose(self) -> None:
        await self.database.aclose()


def _one(connection: apsw.Connection, rows: Rows, key: tuple[KeyPart, ...]) -> Record | None:
    found = fetched(connection, rows.select, key)
    return rows.decode(found[0]) if found else None


def _known(rows: Rows, read: Read) -> Rows:
    if read.index is not None and read.index not in rows.indexes:
        raise NotProvisioned(f"{rows.table.entity} has no index {read.index}.", table=rows.name, index=read.index)
    return rows


def _page(connection: apsw.Connection, rows: Rows, text: str, parameters: Any, index: str | None, limit: int) -> RecordPage:
    cursor = connection.execute(text, parameters)
    try:
        # Fetching first is faster; row by row keeps a long page of large records out of memory.
        return _paged(cursor.fetchall() if limit <= _FETCHED_AT_ONCE else cursor, rows, index, limit)
    finally:
        cursor.close(True)


def _paged(found: Iterable[Any], rows: Rows, index: str | None, limit: int) -> RecordPage:
    records, size, more = rows.page(found)
    if size > PAGE_BYTES // 4 and len(records) > 1:
        kept = _kept(records, rows.table)
        more = more or kept < len(records)
        del records[kept:]
    if not more and len(records) < limit:
        return RecordPage(records, None)
    return RecordPage(records, position(rows.table, index, records[-1]) if records else None)


def _kept(records: Sequence[Record], table: Table) -> int:
    """Return how many records make at most 1 MB as metered; at least one."""
    total = 0
    for number, record in enumerate(records):
        total += record_size({name: record[name] for name in record if name not in (REVISION, MARK)}, table.entity)
        if total > PAGE_BYTES and number:
            return number
    return len(records)


def _changes(connection: apsw.Connection, after: int | None, limit: int) -> ChangePage:
    connection.execute("BEGIN")
    try:
        head = fetched(connection, _HEAD)[0][0]
        oldest = fetched(connection, _OLDEST)
        found = fetched(connection, _CHANGES, (after or 0, limit))
    finally:
        connection.execute("ROLLBACK")
    trimmed = oldest[0][0] - (oldest[0][1] >= 0) if oldest else head
    if after is not None and after < trimmed:
        raise Trimmed("The feed does not reach back to this position.")
    changes = [_change(*row) for row in found]
    if len(changes) < limit:
        # It ends at the head, even where the head is an emptied row.
        return ChangePage(changes, max(after or 0, head), head)
    return ChangePage(changes, changes[-1].position if changes else max(after or 0, trimmed), head)


def _change(at: int, table: str, key1: Any, key2: Any, key3: Any, revision: int, kind: int, more: str | None) -> Change:
    key = tuple(part for part in (key1, key2, key3) if part is not None)
    if more is None:
        return Change(at, table, key, revision, KINDS[kind], _NOBODY)
    rest = loads(more)
    cause = Cause(rest.get("actor"), rest.get("token"))
    return Change(at, table, key + tuple(rest.get("key", ())), revision, KINDS[kind], cause, tuple(rest.get("released", ())))


def _execute(text: str, parameters: tuple[Any, ...] = ()) -> Callable[[apsw.Connection], int]:
    def job(connection: apsw.Connection) -> int:
        connection.execute(text, parameters)
        return connection.changes()

    return job
