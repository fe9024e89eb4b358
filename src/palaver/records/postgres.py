"""Records in a PostgreSQL database: one table per entity, one table for the feed, every read one statement on one index.

Connections belong to `connections.postgres.Pool`; what a batch does to `postgres_writes`; loading to `postgres_bulk`;
the feed to `postgres_feed`; structure to `postgres_structure`.
"""

from __future__ import annotations

from collections.abc import Sequence

from palaver.connections.postgres import Pool
from palaver.errors import NotProvisioned
from palaver.observing import Finding, Observed
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
from palaver.records import postgres_figures, postgres_partitions as partitions, postgres_structure as structure
from palaver.records.postgres_bulk import Bulk
from palaver.records.postgres_doctor import Doctor
from palaver.records.postgres_feed import Feed
from palaver.records.postgres_looking import SharedLooks
from palaver.records.postgres_names import Names, tenant_columns
from palaver.records.postgres_restore import Restoring
from palaver.records.postgres_rows import PAGE_BYTES, Rows
from palaver.records.postgres_writes import Writes
from palaver.values import KeyPart, Record, record_size

# Rows fetched at once: a long page of large records is not to be in memory before it is measured.
_FETCHED_AT_ONCE = 200


REWRITE = "ANALYZE; VACUUM (FULL); SELECT pg_switch_wal(); CHECKPOINT;"
"""What leaves no deleted byte in a database's files: its statistics hold values too. Each table is locked while it is written anew."""


class PostgresRecords:
    """Fulfils RecordEngine, Counts, FindsExpired, TrimsFeed, Wakes, Restores, ContinuesFeed and Diagnoses on one schema of a database."""

    limits = Limits(partitions=True)

    def __init__(self, pool: Pool, tables: Sequence[Table]) -> None:
        self.pool = pool
        self.names = Names(pool.options.schema)
        self.feed = Feed(pool, self.names)
        self._tenants = tenant_columns(tables)
        self._rows = {table.name: Rows(table, self.names) for table in tables}
        self._writes = Writes(pool, self.feed, self._rows)
        self._looks = SharedLooks(pool, self._rows)
        self._bulk = Bulk(pool, self.feed, self._writes)
        self._restoring = Restoring(pool, self.feed, self.names, self._writes.rows)

    # --- writing ----------------------------------------------------------------------------------------------------

    async def write(self, writes: WriteSet) -> Written | Refused:
        return await self._writes.write(writes)

    async def load(self, table: str, records: Sequence[Record], now_us: int, cause: Cause) -> list[int]:
        return await self._bulk.load(table, records, now_us, cause)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def get(self, at: Sequence[Address], *, consistent: bool = True, snapshot: bool = False) -> list[Record | None]:
        # One statement, whatever the tables: what it finds stood there at one instant.
        rows = {address.table: self._writes.rows(address.table) for address in at}
        found = await self._looks.find(at) if at else {}
        records: list[Record | None] = []
        for address in at:
            row, version = found.get(address, (None, 0))
            self._writes.remembered.learn(address, row, version)
            # Whoever asks twice gets two records to change as he likes.
            records.append(rows[address.table].decode(row) if row is not None else None)
        return records

    async def query(self, read: Read) -> RecordPage:
        rows = self._known(read)
        records: list[Record] = []
        size, after = 0, read.after
        while True:
            limit = min(read.limit - len(records), _FETCHED_AT_ONCE)
            text, parameters = rows.page_of(read._replace(after=after), limit)
            found = await self.pool.read(text, *parameters)
            some, more_size, early = rows.page(found)
            records += some
            size += more_size
            ended = len(found) < limit and not early
            if ended or early or size > PAGE_BYTES // 4 or len(records) >= read.limit:
                return _page(rows.table, read.index, records, size, ended)
            after = position(rows.table, read.index, records[-1])

    def explain_read(self, read: Read) -> list[str]:
        """Return the statement a read becomes; its values are bound, not written into it."""
        return [self._known(read).page_of(read, read.limit)[0]]

    async def scan(self, table: str, *, after: tuple[KeyPart, ...] | None, limit: int, segment: tuple[int, int] = (0, 1)) -> RecordPage:
        return await self._scan(self._writes.rows(table), after, segment, limit)

    async def scan_as(self, table: Table, *, after: tuple[KeyPart, ...] | None, limit: int) -> RecordPage:
        return await self._scan(Rows(table, self.names), after, (0, 1), limit)

    async def _scan(self, rows: Rows, after: tuple[KeyPart, ...] | None, segment: tuple[int, int], limit: int) -> RecordPage:
        most = min(limit, _FETCHED_AT_ONCE)
        text, parameters = rows.scan(after, segment, most)
        found = await self.pool.read(text, *parameters)
        records, size, early = rows.page(found)
        return _page(rows.table, None, records, size, len(found) < most and not early)

    async def count(self, read: Read, now_us: int) -> int:
        text, parameters = self._known(read).count_of(read, now_us)
        return int((await self.pool.read(text, *parameters))[0][0])

    async def expired(self, table: str, now_us: int, limit: int) -> list[Address]:
        rows = self._writes.rows(table)
        if rows.table.expires is None:
            return []
        return [Address(table, tuple(key)) for key in await self.pool.read(rows.expired(), now_us // 1_000_000, limit)]

    def _known(self, read: Read) -> Rows:
        rows = self._writes.rows(read.table)
        if read.index is not None and read.index not in rows.indexes:
            raise NotProvisioned(f"{rows.table.entity} has no index {read.index}.", table=rows.name, index=read.index)
        return rows

    # --- the feed ---------------------------------------------------------------------------------------------------

    async def changes(self, after: int | None, limit: int) -> ChangePage:
        return await self.feed.changes(after, limit)

    async def trim(self, before: int) -> int:
        return await self.feed.trim(before)

    async def wait_for_change(self, after: int, timeout: float) -> bool:
        return await self.feed.wait_for_change(after, timeout)

    # --- from another database --------------------------------------------------------------------------------------

    async def restore(
        self, table: str, records: Sequence[Record], *, gone: Sequence[tuple[KeyPart, ...]] = (), over: bool = False
    ) -> list[tuple[KeyPart, ...]]:
        return await self._restoring.restore(table, records, gone, over)

    async def continue_feed(self, changes: Sequence[Change], last: int, *, gap: bool = False) -> None:
        await self._restoring.continue_feed(changes, last, gap)

    # --- structure --------------------------------------------------------------------------------------------------

    async def diagnose(self) -> list[Finding]:
        return await Doctor(self.pool, self.names, self._tenants).diagnose()

    def deleted_stays(self) -> str:
        return (
            "PostgreSQL: rows that were deleted stay in the files of their tables until these are written anew, and in its log until the"
            f" log's files are used again. Now, as the owner of the database: {REWRITE}"
        )

    async def observe(self) -> Observed:
        return await postgres_figures.observe(self.pool, self.names.schema)

    async def describe(self) -> Physical:
        return await structure.describe(self.pool, self.names)

    async def apply(self, step: Step) -> None:
        """Take one step; a step taken before is no error. An index of a table that is there is made while others write."""
        self._tenants |= tenant_columns([step.table])
        table = await structure.apply(self.pool, self.names, step, self._tenants)
        self._writes.remembered.clear()
        if isinstance(step, RenameTable):
            self._rows.pop(step.old, None)
        if table is None:
            self._rows.pop(step.table.name, None)
        else:
            self._rows[table.name] = Rows(table, self.names)

    async def make_parts(self, now_us: int) -> list[str]:
        """Make the monthly parts that are missing of tables kept in parts, this month's and the next three; return their names."""
        return await partitions.make_ahead(self.pool, self.names, [rows.table for rows in self._rows.values()], now_us)

    async def stamp(self, version: int, fingerprint: str) -> None:
        """Note which declaration the schema was made for; `describe` gives both back."""
        await structure.stamp(self.pool, self.names, version, fingerprint)

    async def aclose(self) -> None:
        await self._looks.aclose()
        await self._writes.aclose()
        await self.feed.aclose()
        await self.pool.aclose()


def _page(table: Table, index: str | None, records: list[Record], size: int, ended: bool) -> RecordPage:
    if size > PAGE_BYTES // 4 and len(records) > 1:
        kept = _kept(records, table)
        ended = ended and kept == len(records)
        del records[kept:]
    if ended or not records:
        return RecordPage(records, None)
    return RecordPage(records, position(table, index, records[-1]))


def _kept(records: Sequence[Record], table: Table) -> int:
    """Return how many records make at most 1 MB as metered; at least one."""
    total = 0
    for number, record in enumerate(records):
        total += record_size({name: record[name] for name in record if name not in (REVISION, MARK)}, table.entity)
        if total > PAGE_BYTES and number:
            return number
    return len(records)
