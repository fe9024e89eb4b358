"""What a batch does to PostgreSQL: one statement where SQL can judge its guards, otherwise a look and one statement.

Guards are judged and records are changed by the same functions as in memory wherever that takes looking; then the
statement writes only where every row is still the version looked at. Who is overtaken again and again locks the rows
first, in the order of their addresses, so that somebody always gets through.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import asyncpg

from palaver.connections.postgres import Pool
from palaver.connections.postgres_errors import GUARD_FAILED, RETRIED, UNIQUE, is_behind, translate
from palaver.errors import Conflict, NotProvisioned
from palaver.ops import Address, Check, Delete, Op, Refused, WriteSet, Written
from palaver.records.postgres_batching import Creation, SharedCommits
from palaver.records.postgres_chain import Chain, chained
from palaver.records.postgres_decision import Decision, Seen, statement
from palaver.records.postgres_feed import Feed, jittered, key_text
from palaver.records.postgres_groups import SharedDecisions
from palaver.records.postgres_looking import Remembered, decoded, is_creation, looked
from palaver.records.postgres_placeholders import hold_absent
from palaver.records.postgres_rows import Rows
from palaver.records.postgres_statements import chain
from palaver.values import KeyPart

_LOOKS = 3
_TRIES = 12
_PAUSE_S = 0.002
# Measured: with more under way than these it is quicker to share a look and a commit.
CHAINS = 4


class Overtaken(Exception):
    """A row is no longer the version that was looked at; nothing was written."""


class Writes:
    """Writes of one schema."""

    def __init__(self, pool: Pool, feed: Feed, rows: Mapping[str, Rows]) -> None:
        self._pool = pool
        self._feed = feed
        self._rows = rows
        self._identifying = asyncio.Lock()
        self._chains = 0
        self._chained_at: Counter[Address] = Counter()
        self.remembered = Remembered(rows)
        self._shared = SharedCommits(pool, feed, self._create_alone, self.remembered)
        self._decisions = SharedDecisions(pool, feed, rows, self.remembered, self._alone)

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
        # Whoever wants a record that is being written waits for it at the server: sharing would only look, and be overtaken.
        alone = self._chains < CHAINS or any(op.at in self._chained_at for op in ops)
        if alone and (linked := chained(rows, writes)) is not None:
            done = await self._chained(linked, writes)
            return done if done is not None else await self.decide(writes)
        return await self._decisions.write(writes)

    async def _alone(self, writes: WriteSet) -> Written | Refused:
        """Write what could not be written with others."""
        linked = chained(self._rows, writes)
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
                await self._mended(error)
            await asyncio.sleep(jittered(_PAUSE_S * 2**attempt))
        raise Conflict("Other writers kept changing the same records.")

    async def _mended(self, error: asyncpg.PostgresError) -> None:
        """Return where trying again may help; raises the error of the tree where not."""
        if is_behind(error):
            await self._feed.pass_given()
        elif error.sqlstate not in RETRIED:
            raise translate(error) from None

    async def aclose(self) -> None:
        await self._decisions.aclose()
        await self._shared.aclose()

    # --- one statement ----------------------------------------------------------------------------------------------

    async def _chained(self, linked: Chain, writes: WriteSet) -> Written | None:
        """Write what SQL can judge; None, and nothing written, where a guard does not hold or more has to be known."""
        self._chains += 1
        self._chained_at.update(op.at for op in linked.ops)
        try:
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
                return linked.written(rows[0] if rows else None, self.remembered.learn)
        finally:
            self._chains -= 1
            for op in linked.ops:
                self._chained_at[op.at] -= 1
                if not self._chained_at[op.at]:
                    del self._chained_at[op.at]
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
                found = await looked(self._rows, [op.at for op in writes.ops], self._pool.read)
                decided = Decision(self._rows, writes, decoded(self._rows, writes, found))
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
                await self._mended(error)
                locked = True
            await asyncio.sleep(jittered(_PAUSE_S * 2 ** min(attempt, 6)))
        raise Conflict("Other writers kept changing the same records.")

    async def _under_locks(self, writes: WriteSet) -> Written | Refused:
        """Lock every row in the order of the addresses, keep absent ones absent, then judge and write."""
        async with self._pool.transaction(raw=True) as connection:
            ops = sorted(writes.ops, key=lambda op: (op.at.table, [key_text(part) for part in op.at.key]))
            looked = await self._locked(writes, connection.fetch)
            decided = Decision(self._rows, writes, looked)
            if decided.failures:
                return Refused(decided.failures)
            # In the order of addresses, those to be created too: two batches must not wait for each other.
            if not await hold_absent(connection, [(self.rows(op.at.table), op.at) for op in ops if op.at in decided.places]):
                raise Overtaken
            await self._apply(decided, connection.fetch)
        return decided.written()

    async def _locked(self, writes: WriteSet, fetch: Any) -> dict[Address, Seen]:
        """Lock what is stored at every address and return it, with the version of each row."""
        by_table: dict[str, list[Op]] = {}
        for op in writes.ops:
            by_table.setdefault(op.at.table, []).append(op)
        seen: dict[Address, Seen] = {}
        for table in sorted(by_table):
            rows, ops = self.rows(table), by_table[table]
            for row in await fetch(rows.several(_lock(ops)), *map(list, zip(*(op.at.key for op in ops), strict=True))):
                *stored, version = row
                record = rows.decode(tuple(stored))
                key: tuple[KeyPart, ...] = tuple(record[name] for name in rows.table.key)  # type: ignore[misc]
                seen[Address(table, key)] = Seen(record, version)
        return seen

    async def _apply(self, decided: Decision, fetch: Any) -> None:
        made = statement((decided,))
        if made is None:
            return
        try:
            rows = await fetch(*made)
        except asyncpg.PostgresError as error:
            if error.sqlstate in (GUARD_FAILED, UNIQUE) and not decided.is_duplicate(error) and not is_behind(error):
                raise Overtaken from None
            raise
        for address, row in decided.rows():
            self.remembered.learn(address, row, rows[0][1])
        self._feed.written()


def _lock(ops: Sequence[Op]) -> str:
    if any(isinstance(op, Delete) for op in ops):
        return "FOR UPDATE"
    return "FOR SHARE" if all(isinstance(op, Check) for op in ops) else "FOR NO KEY UPDATE"
