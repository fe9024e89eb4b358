"""Reads of DynamoDB: pages that end where the contract says, whatever one answer holds, and instants over several records."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from palaver.connections.dynamodb import DynamoClient, TransactionCancelled
from palaver.errors import ConfigError, Conflict, NotProvisioned, Validation
from palaver.ops import MARK, REVISION, Address, Read, RecordPage, is_live, position, revision_of
from palaver.records import dynamo_read_requests as requests
from palaver.records.dynamo_items import address_of, record_of
from palaver.records.dynamo_keys import ASIDE, SHARDS, Layout, Span, Way
from palaver.records.dynamo_values import Item
from palaver.values import KeyPart, Record, record_size

PAGE_BYTES = 1024 * 1024
MOST_AT_ONCE = 100
ATTEMPTS = 10
IN_FLIGHT = 16


class Reads:
    """Reads whichever tables are known at the time."""

    def __init__(self, client: DynamoClient, layout: Callable[[str], Layout]) -> None:
        self._client = client
        self._layout = layout

    # --- by key -----------------------------------------------------------------------------------------------------

    async def get(self, at: Sequence[Address], consistent: bool, snapshot: bool) -> list[Record | None]:
        if len(at) == 1:
            layout = self._layout(at[0].table)
            answer = await self._client.call("GetItem", requests.get(layout, at[0].key, consistent))
            return [record_of(layout, answer["Item"]) if answer.get("Item") else None]
        distinct = list(dict.fromkeys(at))
        if snapshot and len(distinct) > 1:
            found = await self._instant(distinct)
        else:
            found = await self._several(distinct, consistent)
        first: set[Address] = set()
        out: list[Record | None] = []
        for each in at:
            # A record asked for twice is handed out as two, so that changing one changes nothing else.
            out.append(found[each] if each not in first else deepcopy(found[each]))
            first.add(each)
        return out

    async def fetch(self, at: Sequence[Address]) -> list[Record | None]:
        return await self.get(at, True, False) if at else []

    async def _several(self, at: Sequence[Address], consistent: bool) -> dict[Address, Record | None]:
        bodies = requests.gets(((self._layout(table), key) for table, key in at), consistent)
        found: dict[Address, Record | None] = dict.fromkeys(at)
        for layout, item in await self._items(at, bodies):
            found[address_of(layout, item)] = record_of(layout, item)
        return found

    async def revisions(self, at: Sequence[Address]) -> Mapping[Address, int]:
        """Return the revisions of those that are stored."""
        if not at:
            return {}
        bodies = requests.gets(((self._layout(table), key) for table, key in at), True, (REVISION,))
        return {address_of(layout, item): int(item.get(REVISION, {"N": "0"})["N"]) for layout, item in await self._items(at, bodies)}

    async def _items(self, at: Sequence[Address], bodies: Sequence[dict[str, Any]]) -> Iterable[tuple[Layout, Item]]:
        layouts = map(self._layout, {table for table, _ in at})
        names = {layout.name: layout for layout in layouts}
        if len(bodies) == 1:
            return [(names[name], item) for name, items in (await self._client.batch_get(bodies[0])).items() for item in items]
        flights = asyncio.Semaphore(IN_FLIGHT)

        async def one(body: dict[str, Any]) -> dict[str, list[Item]]:
            async with flights:
                return await self._client.batch_get(body)

        answers = await asyncio.gather(*map(one, bodies))
        return [(names[name], item) for answer in answers for name, items in answer.items() for item in items]

    async def _instant(self, at: Sequence[Address]) -> dict[Address, Record | None]:
        """Return records as of one instant."""
        if len(at) > MOST_AT_ONCE:
            return await self._still(at)
        body = requests.snapshot([(self._layout(table), key) for table, key in at])
        for attempt in range(ATTEMPTS):
            try:
                answer = await self._client.call("TransactGetItems", body)
            except (TransactionCancelled, Conflict):
                await asyncio.sleep(random.random() * 0.005 * 2**attempt)
                continue
            except (Validation, ConfigError):
                # Over 4 MB together, or a server without transactions.
                return await self._still(at)
            found = zip(at, answer["Responses"], strict=True)
            return {each: record_of(self._layout(each.table), got["Item"]) if got.get("Item") else None for each, got in found}
        raise Conflict("Writers kept changing the records of a snapshot.", hint="Try again after a random pause.")

    async def _still(self, at: Sequence[Address]) -> dict[Address, Record | None]:
        """Read until nothing changed between two reads: then all of it was there at the instant between them."""
        before = await self._several(at, True)
        for _ in range(ATTEMPTS):
            after = await self._several(at, True)
            if all(_revision(before[each]) == _revision(after[each]) for each in at):
                return after
            before = after
        raise Conflict("Writers kept changing the records of a snapshot.", hint="Try again after a random pause.")

    # --- by order ---------------------------------------------------------------------------------------------------

    async def query(self, read: Read) -> RecordPage:
        layout = self._layout(read.table)
        way = layout.way(read.index)
        asked = requests.wanted(way, read)
        if asked is None:
            return RecordPage([], None)
        start, is_over = requests.start_of(way, asked, read)
        if is_over or not read.limit:
            return RecordPage([], None)
        page = _Page(layout, read.limit)
        while True:
            body = requests.query(layout, way, read, asked, page.next_limit(), start)
            answer = await self._query(layout, way, body)
            start = answer.get("LastEvaluatedKey")
            page.take(answer["Items"], way, asked)
            if start is None or page.is_full():
                break
        more = start is not None or page.is_cut
        return RecordPage(page.records, position(layout.table, read.index, page.records[-1]) if more and page.records else None)

    async def _query(self, layout: Layout, way: Way, body: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._client.call("Query", body)
        except Validation:
            if way.index is None:
                raise
            # DynamoDB answers so while an index is being built.
            await self.require_index(layout, way.index)
            raise

    async def require_index(self, layout: Layout, name: str) -> None:
        """Raise NotProvisioned unless the index can be read."""
        answer = await self._client.call("DescribeTable", {"TableName": layout.name})
        states = {index["IndexName"]: index["IndexStatus"] for index in answer["Table"].get("GlobalSecondaryIndexes", ())}
        if states.get(name) not in ("ACTIVE", "UPDATING"):
            state = "still being built" if states.get(name) == "CREATING" else "missing"
            raise NotProvisioned(f"The index {name} of {layout.table.entity} is {state}.", table=layout.table.name, index=name)

    def explain(self, read: Read) -> list[str]:
        layout = self._layout(read.table)
        way = layout.way(read.index)
        asked = requests.wanted(way, read)
        if asked is None:
            return []
        start, _ = requests.start_of(way, asked, read)
        return ["Query " + json.dumps(requests.query(layout, way, read, asked, read.limit, start), ensure_ascii=False)]

    async def scan(self, table: str, after: tuple[KeyPart, ...] | None, limit: int, segment: tuple[int, int]) -> RecordPage:
        layout = self._layout(table)
        answer = await self._client.call("Scan", requests.scan(layout, after, limit, segment))
        page = _Page(layout, limit)
        page.take(answer["Items"], layout.base, Span())
        more = answer.get("LastEvaluatedKey") is not None or page.is_cut
        return RecordPage(page.records, position(layout.table, None, page.records[-1]) if more and page.records else None)

    async def count(self, read: Read, now_us: int) -> int:
        layout = self._layout(read.table)
        way = layout.way(read.index)
        asked = requests.wanted(way, read)
        if asked is None:
            return 0
        if way.sort is not None and {*way.sort.columns, *way.partition.columns} & {layout.table.expires, MARK}:
            return await self._count_here(read, now_us)
        total = await self._count(layout, way, read, asked, now_us)
        # DynamoDB counts both ends of a range between two values.
        for end, is_open in ((asked.low, asked.low_open), (asked.high, asked.high_open)):
            if asked.is_between and is_open:
                total -= await self._count(layout, way, read, Span(end, False, end, False), now_us)
        return total

    async def _count(self, layout: Layout, way: Way, read: Read, asked: Span, now_us: int) -> int:
        total = 0
        start: Item | None = None
        while True:
            answer = await self._query(layout, way, requests.count(layout, way, read, asked, now_us, start))
            total += int(answer["Count"])
            start = answer.get("LastEvaluatedKey")
            if start is None:
                return total

    async def _count_here(self, read: Read, now_us: int) -> int:
        """Count what a filter may not name, because it is part of the index."""
        table = self._layout(read.table).table
        total = 0
        read = read._replace(limit=1000, after=None)
        while True:
            page = await self.query(read)
            total += sum(is_live(table, record, now_us) for record in page.records)
            if page.last is None:
                return total
            read = read._replace(after=page.last)

    # --- by expiry --------------------------------------------------------------------------------------------------

    async def expired(self, table: str, now_us: int, limit: int) -> list[Address]:
        """Return the oldest expired records of all partitions of the expiry index."""
        layout = self._layout(table)
        if not layout.sweeps:
            return []
        some = await asyncio.gather(*(self._expired(layout, shard, now_us // 1_000_000, limit) for shard in range(SHARDS)))
        return [address for _, address in sorted(each for shard in some for each in shard)[:limit]]

    async def _expired(self, layout: Layout, shard: int, second: int, limit: int) -> list[tuple[int, Address]]:
        expires = layout.table.expires
        assert expires is not None
        body = requests.expired(layout, expires, shard, second, limit)
        found: list[tuple[int, Address]] = []
        while True:
            answer = await self._client.call("Query", body)
            found += [(int(item[expires]["N"]), address_of(layout, item)) for item in answer["Items"]]
            if "LastEvaluatedKey" not in answer or len(found) >= limit:
                return found
            body["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


class _Page:
    """A page being filled: up to `limit` records and 1 MB as metered, which is a little less than DynamoDB counts."""

    def __init__(self, layout: Layout, limit: int) -> None:
        self._layout = layout
        self._limit = limit
        self._size: int | None = None
        self.records: list[Record] = []
        self.is_cut = False

    def is_full(self) -> bool:
        """Say whether nothing more is to be asked for; what is there is measured now, if it was not before."""
        if self.is_cut or len(self.records) >= self._limit:
            return True
        if self._size is None:
            self._size = sum(map(self._measured, self.records))
        return self._size >= PAGE_BYTES

    def next_limit(self) -> int:
        """Return how many items to ask for next: after an answer that ended early only as many as may still fit."""
        left = self._limit - len(self.records)
        return max(1, min(left, (PAGE_BYTES - self._size) * len(self.records) // self._size)) if self._size else left

    def take(self, items: Sequence[Item], way: Way, asked: Span) -> None:
        is_compressed = any(ASIDE in item for item in items)
        records = [record_of(self._layout, item) for item in items]
        if asked.is_between and way.sort is not None:
            records = [record for record in records if not asked.drops(way.sort.of(record))]
        if self._size is None and not is_compressed:
            # One answer holds at most 1 MB as DynamoDB counts, which is never less than ours.
            self.records += records
            return
        self._size = self._size or 0
        for record in records:
            size = self._measured(record)
            if self.records and self._size + size > PAGE_BYTES:
                self.is_cut = True
                return
            self._size += size
            self.records.append(record)

    def _measured(self, record: Record) -> int:
        return record_size({name: record[name] for name in record if name not in (REVISION, MARK)}, self._layout.table.entity)


def _revision(record: Record | None) -> int | None:
    return None if record is None else revision_of(record)
