"""The memory engine fulfils the suite, with and without lagging indexes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from palaver.clock import ManualClock
from palaver.ops import Address, CreateIndex, IndexSpec, Read, Table, position
from palaver.ports import RecordEngine
from palaver.records.memory import MemoryRecords, copied
from palaver.testing import RecordEngineTests
from palaver.testing.records.base import COUNTERS, NOW, TABLES, ids, put, put_note, read_kind, read_notes, written
from palaver.values import Record


class TestMemory(RecordEngineTests):
    @asynccontextmanager
    async def make(self, tables: Sequence[Table]) -> AsyncIterator[RecordEngine]:
        yield MemoryRecords(tables)

    async def raw_get(self, engine: Any, at: Address) -> Mapping[str, object] | None:
        records = engine._shelves[at.table].by_key.records.values()
        return next((record for record in records if position(engine._shelves[at.table].table, None, record) == at.key), None)

    async def raw_put(self, engine: Any, table: Table, record: Record) -> None:
        engine._shelves[table.name].by_key.move(None, copied(record))


class TestLaggingMemory(TestMemory):
    """Reads by key and writes do not notice that indexes lag."""

    @asynccontextmanager
    async def make(self, tables: Sequence[Table]) -> AsyncIterator[RecordEngine]:
        yield MemoryRecords(tables, clock=ManualClock(), index_lag=timedelta(milliseconds=200))

    async def settle(self, engine: Any) -> None:
        clock = engine._clock
        assert isinstance(clock, ManualClock)
        clock.advance(timedelta(milliseconds=201))


async def test_an_index_lagging_by_writes_shows_the_state_of_so_many_writes_ago() -> None:
    engine = MemoryRecords(TABLES, index_lag=2)
    for n in range(4):
        await written(engine, put_note("u", f"{n}", kind="k", stamp=n))
    assert ["0", "1"] == ids((await engine.query(read_kind("k"))).records)
    await written(engine, put_note("u", "0"))
    assert ["0", "1", "2"] == ids((await engine.query(read_kind("k"))).records)
    assert ["0", "1", "2", "3"] == ids((await engine.query(read_notes("u"))).records)


async def test_an_index_lagging_by_time_shows_a_record_when_the_time_is_over() -> None:
    clock = ManualClock()
    engine = MemoryRecords(TABLES, clock=clock, index_lag=timedelta(seconds=1))
    await written(engine, put_note("u", "1", kind="k", stamp=1))
    assert [] == list((await engine.query(read_kind("k"))).records)
    assert 0 == await engine.count(read_kind("k"), NOW)
    clock.advance(timedelta(seconds=1))
    assert ["1"] == ids((await engine.query(read_kind("k"))).records)
    await written(engine, put_note("u", "1", kind="k", stamp=2))
    assert [1] == [record["stamp"] for record in (await engine.query(read_kind("k"))).records]


async def test_a_lag_that_is_taken_away_shows_everything() -> None:
    engine = MemoryRecords(TABLES, index_lag=100)
    await written(engine, put_note("u", "1", kind="k", stamp=1))
    engine.index_lag = 0
    assert ["1"] == ids((await engine.query(read_kind("k"))).records)


async def test_a_new_index_of_a_lagging_engine_is_complete_and_stays_right() -> None:
    engine = MemoryRecords(TABLES, index_lag=100)
    index = IndexSpec("by_hits", ("text",), ("hits",))
    read = Read(COUNTERS.name, "by_hits", ("t",))
    await written(engine, put(COUNTERS, {"name": "a", "text": "t", "hits": 1}))
    await engine.apply(CreateIndex(COUNTERS, index))
    assert [1] == [record["hits"] for record in (await engine.query(read)).records]
    await written(engine, put(COUNTERS, {"name": "a", "text": "t", "hits": 2}))
    assert [1] == [record["hits"] for record in (await engine.query(read)).records]
    engine.index_lag = 0
    assert [2] == [record["hits"] for record in (await engine.query(read)).records]
