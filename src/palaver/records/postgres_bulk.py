"""Loading: records that each stand alone, in few commits. New ones go through COPY, the rest through arrays."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import count

import asyncpg

from palaver.connections.postgres import Pool
from palaver.connections.postgres_errors import translate
from palaver.ops import REVISION, Address, Cause, Put, WriteSet, Written, position
from palaver.records.postgres_feed import CREATED, Feed, key_text, more
from palaver.records.postgres_lists import parameter, source
from palaver.records.postgres_names import short
from palaver.records.postgres_rows import Row, Rows
from palaver.records.postgres_sending import Senders
from palaver.records.postgres_statements import creates
from palaver.records.postgres_writes import Writes
from palaver.values import KeyPart, Record

CHUNK = 1_000
# Below this a transaction of its own costs more than COPY saves.
FEW = 20


# Measured: one copies while the next is encoded and sent; more only make each commit smaller.
COPIES = 2
MOST_ROWS = 2_000


class Load:
    """New records of one table that wait to be copied; the outcome is False where one of them is there already."""

    __slots__ = ("kept", "made", "outcome", "rows")

    def __init__(self, rows: Rows, made: list[Row], kept: str | None) -> None:
        self.rows, self.made, self.kept = rows, made, kept
        self.outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class Bulk:
    """Chunks that wait at the same time are copied in one commit; where that is refused, each alone."""

    def __init__(self, pool: Pool, feed: Feed, writes: Writes) -> None:
        self._pool = pool
        self._feed = feed
        self._writes = writes
        self._waiting: list[Load] = []
        self._senders = Senders(COPIES, self._send)

    async def load(self, table: str, records: Sequence[Record], now_us: int, cause: Cause) -> list[int]:
        """Store records, each by itself, durable when this returns; a chunk that holds only new ones is one COPY."""
        rows = self._writes.rows(table)
        if not rows.id:
            await self._writes.identified([table])
        kept, encode = more(cause, ()), rows.encode
        revisions: list[int] = []
        for start in range(0, len(records), CHUNK):
            some = records[start : start + CHUNK]
            made = [encode(record, now_us) for record in some]
            if len(made) >= FEW and await self._copy(Load(rows, made, kept)):
                revisions += [now_us] * len(made)
            else:
                revisions += await self._put_over(rows, some, made, WriteSet((), now_us, cause), kept)
        return revisions

    async def _copy(self, load: Load) -> bool:
        self._waiting.append(load)
        self._senders.start()
        return await load.outcome

    async def _send(self) -> None:
        while self._waiting:
            group = self._taken()
            try:
                done = await self._copied(group)
            except Exception as error:
                if len(group) == 1:
                    _end(group[0], error)
                    continue
                done = False
            if done or len(group) == 1:
                for load in group:
                    _end(load, done)
                continue
            for load in group:
                try:
                    _end(load, await self._copied([load]))
                except Exception as error:
                    _end(load, error)

    def _taken(self) -> list[Load]:
        """Take what waits for one table, up to a size."""
        first, size = self._waiting[0], 0
        group: list[Load] = []
        rest: list[Load] = []
        for load in self._waiting:
            if load.rows is first.rows and size < MOST_ROWS:
                group.append(load)
                size += len(load.made)
            else:
                rest.append(load)
        self._waiting = rest
        return group

    async def _copied(self, group: Sequence[Load]) -> bool:
        """Store records that are all new; False, and nothing stored, where one is there already."""
        rows = group[0].rows
        made = [row for load in group for row in load.made]
        try:
            async with self._pool.transaction(raw=True) as connection:
                await connection.copy_records_to_table(
                    short(rows.name), schema_name=rows.names.schema, columns=list(map(short, rows.stored)), records=made
                )
                if rows.table.feed:
                    names = (*rows.table.key, REVISION)
                    columns = [[row[place] for row in made] for place in map(rows.stored.index, names)]
                    lists = [parameter(rows.kinds[name], column) for name, column in zip(names, columns, strict=True)]
                    about = any(load.kept is not None for load in group)
                    if about:
                        lists.append(parameter("json", [kept for load in group for kept in [load.kept] * len(load.made)]))
                    await connection.execute(_published(rows, about=about), *lists)
        except asyncpg.UniqueViolationError:
            return False
        except asyncpg.PostgresError as error:
            raise translate(error) from None
        self._feed.written()
        return True

    async def _put_over(self, rows: Rows, records: Sequence[Record], made: list[Row], writes: WriteSet, kept: str | None) -> list[int]:
        """Store records whether or not they are there; a key named twice is written twice, in order."""
        revisions: list[int] = []
        keys = [position(rows.table, None, record) for record in records]
        for start, end in _distinct(keys):
            if rows.table.ranges is not None:
                # A table kept in parts does not tell whether such a row is new.
                puts = [Put(Address(rows.name, keys[number]), records[number]) for number in range(start, end)]
                done = await self._writes.decide(writes._replace(ops=puts))
                assert isinstance(done, Written), "an unguarded op cannot be refused"
                revisions += [revision or 0 for revision in done.revisions]
                continue
            columns = zip(rows.stored, zip(*made[start:end], strict=True), strict=True)
            lists = [parameter(rows.kinds[name], column) for name, column in columns]
            found = await self._writes.retried(creates((rows,), over=True), *lists, parameter("json", [kept] * (end - start)))
            at = {tuple(key): revision for _, key, revision, _ in found}
            revisions += [at[tuple(map(key_text, key))] for key in keys[start:end]]
        self._feed.written()
        return revisions


def _end(load: Load, outcome: bool | Exception) -> None:
    if load.outcome.done():
        return
    if isinstance(outcome, Exception):
        load.outcome.set_exception(outcome)
    else:
        load.outcome.set_result(outcome)


def _published(rows: Rows, *, about: bool) -> str:
    """Parameters: a list for each key column, the revisions, and, with `about`, what changes keep beside the key."""
    quote, key = rows.names.dialect.quoted, rows.table.key
    kinds = [*(rows.kinds[name] for name in (*key, REVISION)), *(["json"] if about else [])]
    return (
        f"INSERT INTO {rows.names.changes} (position, entity, kind, revision, key, more) SELECT {rows.names.position}, {rows.id},"
        f" {CREATED}, s.r, {rows.key_texts('s.')}, {'s.more' if about else 'NULL'} FROM {source(zip(kinds, count(1)))}"
        f" AS s({', '.join(map(quote, key))}, r{', more' if about else ''})"
    )


def _distinct(keys: Sequence[tuple[KeyPart, ...]]) -> Iterator[tuple[int, int]]:
    """Return ranges in which no key comes twice, as long as they can be."""
    start = 0
    seen: set[tuple[KeyPart, ...]] = set()
    for number, key in enumerate(keys):
        if key in seen:
            yield start, number
            start, seen = number, set()
        seen.add(key)
    if start < len(keys):
        yield start, len(keys)
