"""The memory engine fulfils the suite, with and without lagging indexes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from palaver.clock import ManualClock
from palaver.ops import Address, Table, position
from palaver.records.memory import MemoryRecords, copied
from palaver.testing import RecordEngineTests
from palaver.values import Record


class TestMemory(RecordEngineTests):
    @asynccontextmanager
    async def make(self, tables: Sequence[Table]) -> AsyncIterator[MemoryRecords]:
        yield MemoryRecords(tables)

    async def raw_get(self, engine: MemoryRecords, at: Address) -> Mapping[str, object] | None:
        records = engine._shelves[at.table].by_key.records.values()
        return next((record for record in records if position(engine._shelves[at.table].table, None, record) == at.key), None)

    async def raw_put(self, engine: MemoryRecords, table: Table, record: Record) -> None:
        engine._shelves[table.name].by_key.move(None, copied(record))


class TestLaggingMemory(TestMemory):
    """Reads by key and writes do not notice that indexes lag."""

    @asynccontextmanager
    async def make(self, tables: Sequence[Table]) -> AsyncIterator[MemoryRecords]:
        yield MemoryRecords(tables, clock=ManualClock(), index_lag=timedelta(milliseconds=200))

    async def settle(self, engine: MemoryRecords) -> None:
        clock = engine._clock
        assert isinstance(clock, ManualClock)
        clock.advance(timedelta(milliseconds=201))
