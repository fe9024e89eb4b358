"""Finding what stands at the addresses of a batch: one statement whatever the number of tables, and none for what is remembered."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from palaver.connections.postgres import Pool
from palaver.ops import Absent, Address, Op, Put, Unchanged, WriteSet, position
from palaver.records.postgres_decision import Seen
from palaver.records.postgres_rows import Row, Rows
from palaver.records.postgres_sending import Senders
from palaver.values import KeyPart

# Rows remembered, how large each may be, and how long: others may write them meanwhile, and a wrong guess costs a round trip.
KEPT = 1_000
LARGEST = 16 * 1024
KEPT_S = 10.0
# Measured: more statements at once only make each of them smaller. A record may be large, so not too many are held.
GROUPS = 2
MOST = 64
Found: TypeAlias = dict[Address, tuple[Row, int]]
_NOTHING = Seen(None, 0)
_UNSTORED = Unchanged(None)


def is_creation(op: Op) -> bool:
    """Say whether an op is a put that asks for nothing but that nothing is there."""
    if type(op) is not Put or not op.guards:
        return False
    for guard in op.guards:
        when = guard.when
        if type(when) is not Absent and when != _UNSTORED:
            return False
    return True


class Look(NamedTuple):
    """A statement over several tables. Its rows: which table, the version, then columns by type; `taken[n]` picks those of table n."""

    text: str
    taken: tuple[Callable[[Any], Row], ...]


@lru_cache(maxsize=1_000)
def look(tables: tuple[Rows, ...]) -> Look:
    """Parameters: for each table an array for each key column."""
    casts = [[rows.cast(name) for name in rows.stored] for rows in tables]
    slots = [cast for cast in dict.fromkeys(chain.from_iterable(casts)) for _ in range(max(each.count(cast) for each in casts))]
    texts: list[str] = []
    taken: list[Callable[[Any], Row]] = []
    number = 1
    for n, rows in enumerate(tables):
        dialect = rows.names.dialect
        at: list[int] = []
        for cast in casts[n]:
            at.append(next(slot for slot, offered in enumerate(slots) if offered == cast and slot not in at))
        columns = [f"NULL::{cast}" for cast in slots]
        for slot, name in zip(at, rows.stored, strict=True):
            columns[slot] = f"t.{dialect.quoted(name)}"
        on = " AND ".join(f"t.{dialect.quoted(name)} = s.{dialect.quoted(name)}" for name in rows.table.key)
        source = f"{rows.arrays(rows.table.key, number)} AS s({dialect.commas(rows.table.key)}) JOIN {rows.at} AS t ON {on}"
        texts.append(f"SELECT {n}, t.xmin, {', '.join(columns)} FROM {source}")
        taken.append(itemgetter(*(slot + 2 for slot in at)))
        number += len(rows.table.key)
    return Look(" UNION ALL ".join(texts), tuple(taken))


async def looked(rows: Mapping[str, Rows], at: Iterable[Address], fetch: Any) -> Found:
    """Return the rows that stand at these addresses, and the version of each."""
    keys: dict[str, list[tuple[KeyPart, ...]]] = {}
    for table, key in dict.fromkeys(at):
        keys.setdefault(table, []).append(key)
    if not keys:
        return {}
    tables = tuple(rows[name] for name in sorted(keys))
    made = look(tables)
    arrays = [list(column) for each in tables for column in zip(*keys[each.name], strict=True)]
    found: Found = {}
    for given in await fetch(made.text, *arrays):
        of = tables[given[0]]
        row = made.taken[given[0]](given)
        found[Address(of.name, position(of.table, None, dict(zip(of.stored, row, strict=True))))] = (row, given[1])
    return found


def decoded(rows: Mapping[str, Rows], writes: WriteSet, found: Found) -> dict[Address, Seen]:
    """Return what was found at the addresses of a batch, as records of its own."""
    seen: dict[Address, Seen] = {}
    for op in writes.ops:
        if op.at in found and op.at not in seen:
            row, version = found[op.at]
            seen[op.at] = Seen(rows[op.at.table].decode(row), version)
    return seen


class SharedLooks:
    """Gathers what is asked for while others are on their way, and asks for it together."""

    def __init__(self, pool: Pool, rows: Mapping[str, Rows]) -> None:
        self._pool, self._rows = pool, rows
        self._asked: deque[tuple[Sequence[Address], asyncio.Future[Found]]] = deque()
        self._direct = 0
        self._senders = Senders(GROUPS, self._send)

    async def find(self, at: Sequence[Address]) -> Found:
        """Return the rows that stand at these addresses, and the version of each, as of one instant after the call."""
        if self._direct >= GROUPS:
            outcome: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
            self._asked.append((at, outcome))
            self._senders.start()
            return await outcome
        self._direct += 1
        try:
            if len(at) > 1:
                return await looked(self._rows, at, self._pool.read)
            found = await self._pool.read(self._rows[at[0].table].select, *at[0].key)
            return {at[0]: (found[0][:-1], found[0][-1])} if found else {}
        finally:
            self._direct -= 1

    async def _send(self) -> None:
        while self._asked:
            group: list[asyncio.Future[Found]] = []
            addresses: list[Address] = []
            while self._asked and len(addresses) < MOST:
                at, outcome = self._asked.popleft()
                if not outcome.done():
                    group.append(outcome)
                    addresses += at
            try:
                found = await looked(self._rows, addresses, self._pool.read)
            except BaseException as error:
                for outcome in group:
                    if not outcome.done():
                        outcome.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                continue
            for outcome in group:
                if not outcome.done():
                    outcome.set_result(found)

    async def aclose(self) -> None:
        """Return when everything that was asked has been answered."""
        await self._senders.ended()


class Remembered:
    """Rows as this process last saw or wrote them, for a few seconds.

    Only for writes that name the version of each row: where another wrote one meanwhile, nothing is written and it is looked for.
    """

    def __init__(self, rows: Mapping[str, Rows]) -> None:
        self._rows = rows
        # Forgotten half at a time: looking for the oldest one each time costs more than all the rest.
        self._newer: dict[Address, tuple[Row | None, int, float]] = {}
        self._older: dict[Address, tuple[Row | None, int, float]] = {}

    def __len__(self) -> int:
        return len(self._newer.keys() | self._older.keys())

    def recall(self, ops: Sequence[Op]) -> dict[Address, Seen] | None:
        """Return what stood at all these addresses, nothing where a new record is to be; None where one is not remembered."""
        since = time.monotonic() - KEPT_S
        seen: dict[Address, Seen] = {}
        for op in ops:
            found = self._newer.get(op.at) or self._older.get(op.at)
            if found is not None and found[2] >= since:
                row, version, _ = found
                seen[op.at] = _NOTHING if row is None else Seen(self._rows[op.at.table].decode(row), version)
            elif is_creation(op):
                seen[op.at] = _NOTHING
            else:
                return None
        return seen

    def learn(self, at: Address, row: Row | None, version: int) -> None:
        """Note what stands at an address."""
        newer = self._newer
        if row is not None:
            before = newer.get(at) or self._older.get(at)
            if before is not None and before[0] is not None and before[0][-2] > row[-2]:
                # What was read before a write may arrive after it: the later revision stays.
                row, version, _ = before
            elif (rows := self._rows.get(at.table)) is None or rows.length(row) > LARGEST:
                self.forget((at,))
                return
        if len(newer) >= KEPT // 2 and at not in newer:
            self._older, self._newer = newer, {}
            newer = self._newer
        newer[at] = (row, version, time.monotonic())

    def clear(self) -> None:
        """Forget everything: the columns have changed."""
        self._newer.clear()
        self._older.clear()

    def forget(self, at: Iterable[Address]) -> None:
        for address in at:
            self._newer.pop(address, None)
            self._older.pop(address, None)
