"""Facts about what exists: describing it, changing it step by step, finding expired records through an index."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from palaver.errors import NotProvisioned
from palaver.expr import F
from palaver.ops import AddColumn, Address, Column, CreateIndex, CreateTable, DropIndex, IndexSpec, Read, Set, Table
from palaver.ports import RecordEngine
from palaver.testing.records.base import (
    COUNTERS,
    NOTES,
    NOW,
    NOW_S,
    TABLES,
    RecordSuite,
    address,
    all_changes,
    bare,
    delete,
    exact,
    ids,
    note,
    put,
    put_note,
    read_notes,
    stored,
    update,
    written,
)

EXTRA = Table(
    "suite-extra",
    "Extra",
    columns=(Column("id", "text", required=True), Column("size", "int"), Column("group", "text")),
    partition=("id",),
    sort=(),
    indexes=(IndexSpec("by_group", ("group",), ("size",)),),
)


class Structure(RecordSuite):
    async def test_what_exists_is_described(self, engine: RecordEngine) -> None:
        found = {table.name: table for table in (await engine.describe()).tables}
        assert {table.name for table in TABLES} == set(found)
        for table in TABLES:
            assert {index.name for index in table.indexes} == {index.name for index in found[table.name].indexes}
            assert {column.name for column in table.columns} <= {column.name for column in found[table.name].columns}
            assert (table.partition, table.sort) == (found[table.name].partition, found[table.name].sort)

    async def test_a_created_table_is_used_like_any_other(self, engine: RecordEngine) -> None:
        with pytest.raises(NotProvisioned):
            await engine.get([Address(EXTRA.name, ("a",))])
        await engine.apply(CreateTable(EXTRA))
        await written(engine, put(EXTRA, {"id": "a", "size": 1, "group": "g"}))
        assert {"id": "a", "size": 1, "group": "g"} == bare(await stored(engine, EXTRA, "a"))
        assert ["a"] == ids(await self.all_of(engine, Read(EXTRA.name, "by_group", ("g",))))
        assert EXTRA.name in {table.name for table in (await engine.describe()).tables}

    async def test_creating_a_table_that_exists_leaves_its_records(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        await engine.apply(CreateTable(NOTES))
        assert note("u", "1") == bare(await stored(engine, NOTES, "u", "1"))

    async def test_an_added_column_is_absent_from_old_records_and_stored_in_new_ones(self, engine: RecordEngine) -> None:
        await engine.apply(CreateTable(EXTRA))
        await written(engine, put(EXTRA, {"id": "old", "size": 1}))
        column = Column("more", "json")
        wider = replace(EXTRA, columns=(*EXTRA.columns, column))
        await engine.apply(AddColumn(wider, column))
        await written(engine, put(wider, {"id": "new", "more": {"a": [1]}}))
        assert {"id": "old", "size": 1} == bare(await stored(engine, wider, "old"))
        assert exact({"id": "new", "more": {"a": [1]}}) == exact(bare(await stored(engine, wider, "new")))
        found = next(table for table in (await engine.describe()).tables if table.name == EXTRA.name)
        assert "more" in {column.name for column in found.columns}

    async def test_a_created_index_shows_records_written_before_and_after(self, engine: RecordEngine) -> None:
        await written(
            engine, put(COUNTERS, {"name": "a", "hits": 2}), put(COUNTERS, {"name": "b", "hits": 1}), put(COUNTERS, {"name": "c"})
        )
        await written(engine, update(COUNTERS, ("a",), Set(F("text"), "t")), update(COUNTERS, ("b",), Set(F("text"), "t")))
        index = IndexSpec("by_text", ("text",), ("hits",))
        read = Read(COUNTERS.name, "by_text", ("t",))
        with pytest.raises(NotProvisioned):
            await engine.query(read)
        await engine.apply(CreateIndex(replace(COUNTERS, indexes=(index,)), index))
        await written(engine, put(COUNTERS, {"name": "d", "hits": 0, "text": "t"}))
        assert ["d", "b", "a"] == [record["name"] for record in await self.all_of(engine, read)]
        await written(engine, delete(COUNTERS, "b"))
        assert ["d", "a"] == [record["name"] for record in await self.all_of(engine, read)]

    async def test_a_dropped_index_is_gone_and_its_records_stay(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", kind="k", stamp=1))
        await engine.apply(DropIndex(NOTES, "by_kind"))
        with pytest.raises(NotProvisioned):
            await engine.query(Read(NOTES.name, "by_kind", ("k",)))
        await written(engine, put_note("u", "2", kind="k", stamp=1))
        assert ["1", "2"] == ids(await self.all_of(engine, read_notes("u")))
        found = next(table for table in (await engine.describe()).tables if table.name == NOTES.name)
        assert "by_kind" not in {index.name for index in found.indexes}

    async def test_a_step_taken_twice_is_taken_once(self, engine: RecordEngine) -> None:
        column, index = Column("more", "int"), IndexSpec("by_size", ("group",), ("size",))
        wider = replace(EXTRA, columns=(*EXTRA.columns, column), indexes=(*EXTRA.indexes, index))
        for _ in range(2):
            await engine.apply(CreateTable(EXTRA))
            await engine.apply(AddColumn(wider, column))
            await engine.apply(CreateIndex(wider, index))
        for _ in range(2):
            await engine.apply(DropIndex(wider, "by_group"))
        found = next(table for table in (await engine.describe()).tables if table.name == EXTRA.name)
        assert ["by_size"] == [index.name for index in found.indexes]

    async def test_changing_what_exists_is_no_change_of_records(self, engine: RecordEngine) -> None:
        await engine.apply(CreateTable(EXTRA))
        await engine.apply(DropIndex(NOTES, "by_kind"))
        assert [] == await all_changes(engine)


class Expiring(RecordSuite):
    async def _expired(self, engine: Any, table: str, now_us: int, limit: int) -> list[Address]:
        return await engine.expired(table, now_us, limit)  # type: ignore[no-any-return]

    async def test_expired_records_are_found_oldest_first_up_to_a_limit(self, engine: RecordEngine) -> None:
        due = {"c": -30, "a": -20, "b": 0, "later": 1, "much later": 10**6}
        await written(engine, *(put_note("u", id, expires=NOW_S + by) for id, by in due.items()), put_note("u", "never"))
        expected = [address(NOTES, "u", id) for id in ("c", "a", "b")]
        assert expected == await self._expired(engine, NOTES.name, NOW, 100)
        assert expected[:2] == await self._expired(engine, NOTES.name, NOW, 2)
        assert expected[:2] == await self._expired(engine, NOTES.name, NOW - 1, 100)

    async def test_a_record_whose_expiry_changed_is_found_by_the_new_one(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", expires=NOW_S - 5), put_note("u", "2", expires=NOW_S - 5), put_note("u", "3"))
        await written(engine, update(NOTES, ("u", "1"), Set(F("expires"), NOW_S + 5)), delete(NOTES, "u", "2"))
        await written(engine, update(NOTES, ("u", "3"), Set(F("expires"), NOW_S - 1)))
        assert [address(NOTES, "u", "3")] == await self._expired(engine, NOTES.name, NOW, 100)

    async def test_nothing_expires_in_a_table_without_expiry(self, engine: RecordEngine) -> None:
        await written(engine, put(COUNTERS, {"name": "a", "hits": 1}))
        assert [] == await self._expired(engine, COUNTERS.name, NOW * 2, 100)

    async def test_looking_for_expired_records_in_an_unknown_table_is_not_provisioned(self, engine: RecordEngine) -> None:
        with pytest.raises(NotProvisioned):
            await self._expired(engine, "nowhere", NOW, 10)

    async def test_what_was_found_expired_is_deleted_unless_it_was_extended(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", expires=NOW_S - 5), put_note("u", "2", expires=NOW_S - 5))
        found = await self._expired(engine, NOTES.name, NOW, 100)
        await written(engine, update(NOTES, ("u", "1"), Set(F("expires"), NOW_S + 60)))
        for at in found:
            await written(engine, delete(NOTES, *at.key, expired=True)) if at.key[1] == "2" else None
        assert ["1"] == ids(await self.all_of(engine, read_notes("u")))
        assert "expired" == (await all_changes(engine))[-1].kind
