"""Loading: ops that each stand alone, in few commits. New records go through COPY, the rest through arrays."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import asyncpg

from palaver.connections.postgres import Pool
from palaver.connections.postgres_errors import translate
from palaver.ops import Address, Op, Put, Refused, WriteSet, Written
from palaver.records.postgres_feed import CREATED, Feed, key_text, more
from palaver.records.postgres_names import short
from palaver.records.postgres_rows import Row, Rows
from palaver.records.postgres_sending import Senders
from palaver.records.postgres_statements import creates
from palaver.records.postgres_writes import Writes
from palaver.values import Record

CHUNK = 1_000
# Below this a transaction of its own costs more than COPY saves.
FEW = 20


# Measured: one copies while the next is encoded and sent; more only make each commit smaller.
COPIES = 2
MOST_ROWS = 2_000


class Load:
    """New records of one table that wait to be copied; the outcome is False where one of them is there already."""

    __slots__ = ("made", "mores", "outcome", "rows")

    def __init__(self, rows: Rows, made: list[Row], mores: list[str | None]) -> None:
        self.rows, self.made, self.mores = rows, made, mores
        self.outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class Bulk:
    """Chunks that wait at the same time are copied in one commit; where that is refused, each alone."""

    def __init__(self, pool: Pool, feed: Feed, writes: Writes) -> None:
        self._pool = pool
        self._feed = feed
        self._writes = writes
        self._waiting: list[Load] = []
        self._senders = Senders(COPIES, self._send)

    async def write(self, writes: WriteSet) -> Written:
        """Write op by op, unguarded, each durable when this returns; a chunk that holds only new records is one COPY."""
        await self._writes.identified({op.at.table for op in writes.ops})
        revisions: list[int | None] = []
        updated: list[Record | None] = []
        for run in _runs(writes.ops):
            if type(run[0]) is Put and len(run) > 1:
                revisions += await self._put(run, writes)
                updated += [None] * len(run)
            else:
                for op in run:
                    done = await self._writes.write(writes._replace(ops=(op._replace(guards=()),), atomic=True))
                    assert not isinstance(done, Refused), "an unguarded op cannot be refused"
                    revisions += done.revisions
                    updated += done.updated
        return Written(revisions, updated)

    async def _put(self, ops: Sequence[Op], writes: WriteSet) -> list[int]:
        rows = self._writes.rows(ops[0].at.table)
        now_us, cause, encode = writes.now_us, writes.cause, rows.encode
        made = [encode(op.record, now_us) for op in ops]  # type: ignore[union-attr]
        mores = [more(cause, op.released) for op in ops]  # type: ignore[union-attr]
        if len(ops) >= FEW and await self._copy(Load(rows, made, mores)):
            return [now_us] * len(ops)
        return await self._put_over(rows, ops, writes, made, mores)

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
                    places = [rows.stored.index(name) for name in rows.table.key]
                    arrays = [[row[place] for row in made] for place in places]
                    mores = [kept for load in group for kept in load.mores]
                    await connection.execute(_published(rows), *arrays, [row[-2] for row in made], mores)
        except asyncpg.UniqueViolationError:
            return False
        except asyncpg.PostgresError as error:
            raise translate(error) from None
        self._feed.written()
        return True

    async def _put_over(self, rows: Rows, ops: Sequence[Op], writes: WriteSet, made: list[Row], mores: list[str | None]) -> list[int]:
        """Store records whether or not they are there; a key named twice is written twice, in order."""
        revisions: list[int] = []
        for start, end in _distinct([op.at for op in ops]):
            if rows.table.ranges is not None:
                # A table kept in parts does not tell whether such a row is new.
                alone = [op._replace(guards=()) for op in ops[start:end]]
                done = await self._writes.decide(writes._replace(ops=alone, atomic=True))
                assert not isinstance(done, Refused), "an unguarded op cannot be refused"
                revisions += [revision or 0 for revision in done.revisions]
                continue
            arrays: list[Any] = [list(column) for column in zip(*made[start:end], strict=True)]
            text = creates((rows,), over=True)
            found = await self._writes.retried(text, *arrays, mores[start:end])
            at = {tuple(key): revision for _, key, revision, _ in found}
            revisions += [at[tuple(map(key_text, op.at.key))] for op in ops[start:end]]
        self._feed.written()
        return revisions


def _end(load: Load, outcome: bool | Exception) -> None:
    if load.outcome.done():
        return
    if isinstance(outcome, Exception):
        load.outcome.set_exception(outcome)
    else:
        load.outcome.set_result(outcome)


def _published(rows: Rows) -> str:
    """Parameters: an array for each key column, the revisions, what changes keep beside the key."""
    quote, key = rows.names.dialect.quoted, rows.table.key
    arrays = ", ".join(f"${n + 1}::{rows.cast(name)}[]" for n, name in enumerate(key))
    last = len(key) + 1
    return (
        f"INSERT INTO {rows.names.changes} (position, entity, kind, revision, key, more) SELECT {rows.names.position}, {rows.id},"
        f" {CREATED}, s.r, {rows.key_texts('s.')}, s.more FROM unnest({arrays}, ${last}::bigint[], ${last + 1}::jsonb[])"
        f" AS s({', '.join(map(quote, key))}, r, more)"
    )


def _runs(ops: Sequence[Op]) -> Iterator[Sequence[Op]]:
    """Split ops, in order, into runs of puts to one table and of other ops."""
    start = 0
    while start < len(ops):
        end = start + 1
        puts, table = type(ops[start]) is Put, ops[start].at.table
        while end < len(ops) and end - start < CHUNK and (type(ops[end]) is Put) is puts and ops[end].at.table == table:
            end += 1
        yield ops[start:end]
        start = end


def _distinct(keys: Sequence[Address]) -> Iterator[tuple[int, int]]:
    """Return ranges in which no key comes twice, as long as they can be."""
    start = 0
    seen: set[Address] = set()
    for number, key in enumerate(keys):
        if key in seen:
            yield start, number
            start, seen = number, set()
        seen.add(key)
    if start < len(keys):
        yield start, len(keys)
