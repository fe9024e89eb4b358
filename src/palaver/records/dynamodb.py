"""Records in DynamoDB: one table per entity, every read one query on one key or index, every write set one request.

What is sent is built in `dynamo_requests` and `dynamo_read_requests`; what a write set does stands in `dynamodb_writes`, reading in
`dynamodb_reads`, structure in `dynamodb_structure`, and the feed, copied out of the tables' streams, in `dynamodb_feed`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from palaver.connections.dynamodb import DynamoClient
from palaver.errors import NotProvisioned
from palaver.observing import Finding, Observed
from palaver.ops import (
    Address,
    Cause,
    Change,
    ChangePage,
    DropTable,
    Limits,
    Physical,
    Read,
    RecordPage,
    Refused,
    Step,
    Table,
    WriteSet,
    Written,
)
from palaver.records import dynamodb_figures
from palaver.records.dynamo_keys import Layout
from palaver.records.dynamo_tables import TableOptions, table_name
from palaver.records.dynamodb_doctor import Doctor
from palaver.records.dynamodb_feed import Feed
from palaver.records.dynamodb_reads import Reads
from palaver.records.dynamodb_structure import Structure
from palaver.records.dynamodb_writes import Writes
from palaver.values import KeyPart, Record

PACE_S = 0.25
"""A shard answers five times a second, to two readers; one of them may be Lambda."""


class DynamoRecords:
    """Fulfils RecordEngine and every power of `ports` but Scrubs, on the tables of one prefix in one region."""

    limits = Limits(renames=False, joins_keys=True)

    def __init__(
        self,
        client: DynamoClient,
        tables: Sequence[Table],
        *,
        prefix: str = "",
        options: TableOptions | None = None,
        pace_s: float = PACE_S,
    ) -> None:
        table_name(prefix)
        self.client = client
        self.prefix = prefix
        self._layouts: dict[str, Layout] = {}
        self._structure = Structure(client, prefix, self._layouts, options or TableOptions())
        for table in tables:
            self._layouts[table.name] = self._structure.layout(table)
        self._reads = Reads(client, self.layout)
        self._writes = Writes(client, self._layouts, self._structure.own, self._reads.fetch, self._reads.revisions)
        self._feed = Feed(client, self._structure.own, self._layouts, pace_s=pace_s, sleep=asyncio.sleep)

    def layout(self, table: str) -> Layout:
        found = self._layouts.get(table)
        if found is None:
            raise NotProvisioned(f"There is no table {table}.", table=table)
        return found

    # --- writing ----------------------------------------------------------------------------------------------------

    async def write(self, writes: WriteSet) -> Written | Refused:
        try:
            return await self._writes.write(writes)
        finally:
            # Also after a failure: whether it was written may be unknown.
            for op in writes.ops:
                layout = self._layouts.get(op.at.table)
                if layout is not None and layout.table.feed:
                    self._feed.wrote()
                    break

    async def load(self, table: str, records: Sequence[Record], now_us: int, cause: Cause) -> list[int]:
        try:
            return await self._writes.load(table, records, now_us, cause)
        finally:
            if table in self._layouts and self._layouts[table].table.feed:
                self._feed.wrote()

    # --- reading ----------------------------------------------------------------------------------------------------

    async def get(self, at: Sequence[Address], *, consistent: bool = True, snapshot: bool = False) -> list[Record | None]:
        return await self._reads.get(at, consistent, snapshot) if at else []

    async def query(self, read: Read) -> RecordPage:
        return await self._reads.query(read)

    async def scan(self, table: str, *, after: tuple[KeyPart, ...] | None, limit: int, segment: tuple[int, int] = (0, 1)) -> RecordPage:
        return await self._reads.scan(table, after, limit, segment)

    async def scan_as(self, table: Table, *, after: tuple[KeyPart, ...] | None, limit: int) -> RecordPage:
        layout = self._structure.layout(table)
        return await Reads(self.client, lambda _: layout).scan(table.name, after, limit, (0, 1))

    async def count(self, read: Read, now_us: int) -> int:
        return await self._reads.count(read, now_us)

    async def expired(self, table: str, now_us: int, limit: int) -> list[Address]:
        return await self._reads.expired(table, now_us, limit)

    def explain_read(self, read: Read) -> list[str]:
        """Return the request a read becomes, as JSON."""
        return self._reads.explain(read)

    def explain_write(self, writes: WriteSet) -> list[str]:
        """Return the requests a write set becomes at first, as JSON; what has to be read for it comes before."""
        return [f"{operation} {json.dumps(body, ensure_ascii=False)}" for operation, body in self._writes.explain(writes)]

    # --- the feed ---------------------------------------------------------------------------------------------------

    async def changes(self, after: int | None, limit: int) -> ChangePage:
        return await self._feed.changes(after, limit)

    async def logged(self, after: int, limit: int) -> ChangePage:
        return await self._feed.logged(after, limit)

    async def copy_feed(self) -> None:
        """Copy into the log whatever the tables' streams hold now."""
        await self._feed.pull(at_once=True)

    async def trim(self, before: int) -> int:
        return await self._feed.trim(before)

    async def wait_for_change(self, after: int, timeout: float) -> bool:
        return await self._feed.wait_for_change(after, timeout)

    # --- from another database --------------------------------------------------------------------------------------

    async def restore(
        self, table: str, records: Sequence[Record], *, gone: Sequence[tuple[KeyPart, ...]] = (), over: bool = False
    ) -> list[tuple[KeyPart, ...]]:
        return await self._writes.restore(table, records, gone, over)

    async def continue_feed(self, changes: Sequence[Change], last: int, *, gap: bool = False) -> None:
        await self._feed.continue_feed(changes, last, gap)

    # --- structure --------------------------------------------------------------------------------------------------

    def deleted_stays(self) -> str:
        return (
            "DynamoDB: the streams show what was deleted for 24 hours, and point-in-time recovery, where it is on, can bring it back for"
            " as many days as it is set to (35 at most). On-demand backups keep it until they are deleted."
        )

    async def diagnose(self) -> list[Finding]:
        return await Doctor(self.client, self._structure.own, self._layouts).diagnose()

    async def observe(self) -> Observed:
        return await dynamodb_figures.observe(self.client, [self._structure.own, *(layout.name for layout in self._layouts.values())])

    async def describe(self) -> Physical:
        return await self._structure.describe()

    async def apply(self, step: Step) -> None:
        """Take one step and wait until it is done; a step taken before is no error."""
        if isinstance(step, DropTable) and step.table.name in self._layouts:
            # Its stream ends with it, and its past changes are to stay.
            await self._feed.pull(at_once=True)
        await self._structure.apply(step)
        self._feed.forget(step.table.name)

    async def stamp(self, version: int, fingerprint: str) -> None:
        """Note which declaration the tables were made for; `describe` gives both back."""
        await self._structure.stamp(version, fingerprint)

    async def aclose(self) -> None:
        await self.client.aclose()
