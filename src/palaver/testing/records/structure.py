"""Facts about what exists: describing it, changing it step by step, finding expired records through an index."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from palaver.errors import NotProvisioned
from palaver.expr import F
from palaver.ops import (
    CONVERSIONS,
    REVISION,
    AddColumn,
    Address,
    AlterColumn,
    Column,
    CreateIndex,
    CreateTable,
    DropColumn,
    DropIndex,
    DropTable,
    IndexSpec,
    Read,
    RenameColumn,
    RenameTable,
    Set,
    SetExpiry,
    Table,
)
from palaver.ports import RecordEngine, ScansAs
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
    loaded,
    note,
    put,
    put_note,
    read_notes,
    stored,
    update,
    written,
)
from palaver.values import Record

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

    async def test_an_index_created_with_other_parts_replaces_the_one_of_its_name(self, engine: RecordEngine) -> None:
        await engine.apply(CreateTable(EXTRA))
        await written(engine, *(put(EXTRA, {"id": id, "size": 5, "group": group}) for id, group in (("a", "y"), ("b", "x"), ("c", "y"))))
        index = IndexSpec("by_group", ("size",), ("group",))
        for _ in range(2):
            await engine.apply(CreateIndex(replace(EXTRA, indexes=(index,)), index))
        assert "b" == ids(await self.all_of(engine, Read(EXTRA.name, "by_group", (5,))))[0]
        assert ["b"] == ids(await self.all_of(engine, Read(EXTRA.name, "by_group", (5,), ("x",))))
        found = next(table for table in (await engine.describe()).tables if table.name == EXTRA.name)
        assert (index,) == found.indexes

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


class Changing(RecordSuite):
    """What exists is changed in place; every stored record stays, with its revision, and nothing of it is in the feed."""

    async def _found(self, engine: RecordEngine, name: str = EXTRA.name) -> Table:
        return next(table for table in (await engine.describe()).tables if table.name == name)

    async def _filled(self, engine: RecordEngine) -> list[Record | None]:
        """Make EXTRA with two records, and return them as stored."""
        await engine.apply(CreateTable(EXTRA))
        await written(engine, put(EXTRA, {"id": "a", "size": 1, "group": "g"}), put(EXTRA, {"id": "b"}))
        return [await stored(engine, EXTRA, id) for id in ("a", "b")]

    async def test_a_renamed_column_keeps_its_values(self, engine: RecordEngine) -> None:
        whole, bare_one = await self._filled(engine)
        before = await all_changes(engine)
        await engine.apply(DropIndex(EXTRA, "by_group"))
        team = Column("team", "text")
        renamed = replace(EXTRA, columns=(*EXTRA.columns[:2], team), indexes=(IndexSpec("by_group", ("team",), ("size",)),))
        for _ in range(2):
            await engine.apply(RenameColumn(renamed, "group", "team"))
        await engine.apply(CreateIndex(renamed, renamed.indexes[0]))
        assert {"id": "a", "size": 1, "team": "g", REVISION: (whole or {})[REVISION]} == await stored(engine, EXTRA, "a")
        assert bare_one == await stored(engine, EXTRA, "b")
        await written(engine, put(renamed, {"id": "c", "team": "g", "size": 0}))
        assert ["c", "a"] == ids(await self.all_of(engine, Read(EXTRA.name, "by_group", ("g",))))
        names = {column.name for column in (await self._found(engine)).columns}
        assert "team" in names
        assert "group" not in names
        assert len(before) + 1 == len(await all_changes(engine))

    async def test_a_table_is_scanned_by_the_declaration_given(self, engine: RecordEngine) -> None:
        if not isinstance(engine, ScansAs):
            pytest.skip("this engine reads by its own declarations only")
        await engine.apply(CreateTable(EXTRA))
        await written(engine, *(put(EXTRA, {"id": str(n), "size": n, "group": "g"}) for n in range(7)))
        # An engine opened with a declaration that is still to be applied has columns in mind that are not there.
        narrow = replace(EXTRA, columns=EXTRA.columns[:2], indexes=())
        found: list[Record] = []
        after = None
        while True:
            page = await engine.scan_as(narrow, after=after, limit=3)
            found += page.records
            after = page.last
            if after is None:
                break
        assert {str(n): n for n in range(7)} == {record["id"]: record["size"] for record in found}
        assert 7 == len(found)

    async def test_a_dropped_column_is_gone_from_every_record(self, engine: RecordEngine) -> None:
        _, bare_one = await self._filled(engine)
        await engine.apply(DropIndex(EXTRA, "by_group"))
        narrower = replace(EXTRA, columns=EXTRA.columns[:2], indexes=())
        for _ in range(2):
            await engine.apply(DropColumn(narrower, "group"))
        assert {"id": "a", "size": 1} == bare(await stored(engine, EXTRA, "a"))
        assert bare_one == await stored(engine, EXTRA, "b")
        await written(engine, put(narrower, {"id": "c", "size": 5}), update(narrower, ("a",), Set(F("size"), 2)))
        assert {"id": "a", "size": 2} == bare(await stored(engine, EXTRA, "a"))
        assert "group" not in {column.name for column in (await self._found(engine)).columns}
        # A column of that name that comes back begins empty.
        again = Column("group", "text")
        await engine.apply(AddColumn(EXTRA, again))
        assert {"id": "a", "size": 2} == bare(await stored(engine, EXTRA, "a"))

    async def test_a_column_that_becomes_required_is_described_so_and_read_as_before(self, engine: RecordEngine) -> None:
        await engine.apply(CreateTable(EXTRA))
        await written(engine, put(EXTRA, {"id": "a", "size": 1, "group": "g"}), put(EXTRA, {"id": "b", "size": 0, "group": "g"}))
        await engine.apply(DropIndex(EXTRA, "by_group"))
        size = Column("size", "int", required=True, check=("range", 0, 9))
        strict = replace(EXTRA, columns=(EXTRA.columns[0], size, EXTRA.columns[2]))
        for _ in range(2):
            await engine.apply(AlterColumn(strict, size))
        await engine.apply(CreateIndex(strict, strict.indexes[0]))
        assert {"id": "a", "size": 1, "group": "g"} == bare(await stored(engine, strict, "a"))
        assert ["b", "a"] == ids(await self.all_of(engine, Read(EXTRA.name, "by_group", ("g",))))
        found = next(column for column in (await self._found(engine)).columns if column.name == "size")
        assert size == found
        loose = replace(size, required=False, check=())
        await engine.apply(AlterColumn(EXTRA, loose))
        await written(engine, put(EXTRA, {"id": "c", "group": "g"}), put(EXTRA, {"id": "d", "size": 77}))
        assert {"id": "c", "group": "g"} == bare(await stored(engine, EXTRA, "c"))

    @pytest.mark.parametrize(("kind", "value"), [("float", 7.0), ("number", Decimal(7))])
    async def test_integers_become_another_kind_of_number(self, engine: RecordEngine, kind: Any, value: object) -> None:
        _, bare_one = await self._filled(engine)
        await engine.apply(DropIndex(EXTRA, "by_group"))
        await written(engine, put(EXTRA, {"id": "a", "size": 7}), put(EXTRA, {"id": "low", "size": -(2**53)}))
        size = Column("size", kind)
        wider = replace(EXTRA, columns=(EXTRA.columns[0], size, EXTRA.columns[2]), indexes=())
        for _ in range(2):
            await engine.apply(AlterColumn(wider, size))
        assert exact({"id": "a", "size": value}) == exact(bare(await stored(engine, wider, "a")))
        assert -(2**53) == (await stored(engine, wider, "low") or {})["size"]
        assert bare_one == await stored(engine, wider, "b")
        await written(engine, update(wider, ("a",), Set(F("size"), CONVERSIONS["int", kind](8))))
        assert 8 == (await stored(engine, wider, "a") or {})["size"]
        assert size in (await self._found(engine)).columns

    async def test_a_table_takes_an_expiry_and_gives_it_up(self, engine: RecordEngine) -> None:
        await self._filled(engine)
        ends = Column("ends", "int")
        expiring = replace(EXTRA, columns=(*EXTRA.columns, ends), expires="ends")
        await engine.apply(AddColumn(expiring, ends))
        for _ in range(2):
            await engine.apply(SetExpiry(expiring, "ends"))
        await written(engine, put(expiring, {"id": "c", "ends": NOW_S - 1}), put(expiring, {"id": "d", "ends": NOW_S + 1}))
        assert "ends" == (await self._found(engine)).expires
        assert [address(EXTRA, "c")] == await engine.expired(EXTRA.name, NOW, 10)  # type: ignore[attr-defined]
        for _ in range(2):
            await engine.apply(SetExpiry(replace(expiring, expires=None), None))
        assert (await self._found(engine)).expires is None
        assert [] == await engine.expired(EXTRA.name, NOW, 10)  # type: ignore[attr-defined]

    async def test_a_renamed_table_takes_its_records_and_its_changes_along(self, engine: RecordEngine) -> None:
        if not engine.limits.renames:
            pytest.skip("this engine keeps the names of its tables")
        whole, _ = await self._filled(engine)
        before = await all_changes(engine)
        other = replace(EXTRA, name="suite-other", entity="Other")
        for _ in range(2):
            await engine.apply(RenameTable(other, EXTRA.name))
        assert whole == await stored(engine, other, "a")
        assert ["a"] == ids(await self.all_of(engine, Read(other.name, "by_group", ("g",))))
        with pytest.raises(NotProvisioned):
            await engine.get([Address(EXTRA.name, ("a",))])
        assert [change._replace(table=other.name) for change in before] == await all_changes(engine)
        await written(engine, update(other, ("a",), Set(F("size"), 2)))
        assert other.name == (await all_changes(engine))[-1].table
        assert "Other" == (await self._found(engine, other.name)).entity

    async def test_a_table_may_change_its_entity_alone(self, engine: RecordEngine) -> None:
        if not engine.limits.renames:
            pytest.skip("this engine keeps the names of its tables")
        whole, _ = await self._filled(engine)
        await engine.apply(RenameTable(replace(EXTRA, entity="Other"), EXTRA.name))
        assert "Other" == (await self._found(engine)).entity
        assert whole == await stored(engine, EXTRA, "a")
        assert ["a"] == ids(await self.all_of(engine, Read(EXTRA.name, "by_group", ("g",))))

    async def test_a_dropped_table_is_gone_and_may_come_back_empty(self, engine: RecordEngine) -> None:
        await self._filled(engine)
        changes = await all_changes(engine)
        for _ in range(2):
            await engine.apply(DropTable(EXTRA))
        with pytest.raises(NotProvisioned):
            await engine.get([Address(EXTRA.name, ("a",))])
        assert EXTRA.name not in {table.name for table in (await engine.describe()).tables}
        assert changes == await all_changes(engine)
        await engine.apply(CreateTable(EXTRA))
        assert await stored(engine, EXTRA, "a") is None
        await written(engine, put(EXTRA, {"id": "z", "group": "g", "size": 1}))
        assert ["z"] == ids(await self.all_of(engine, Read(EXTRA.name, "by_group", ("g",))))

    async def test_a_text_added_to_a_table_of_numbers_is_loaded_with_its_changes(self, engine: RecordEngine) -> None:
        narrow = Table("suite-narrow", "Narrow", (Column("id", "text", required=True), Column("n", "int")), ("id",), ())
        await engine.apply(CreateTable(narrow))
        await written(engine, put(narrow, {"id": "a", "n": 1}))
        column = Column("text", "text")
        wider = replace(narrow, columns=(*narrow.columns, column))
        await engine.apply(AddColumn(wider, column))
        await loaded(engine, *(put(wider, {"id": str(n), "text": "t"}) for n in range(300)))
        assert 301 == len(await all_changes(engine))
        assert {"id": "a", "n": 1} == bare(await stored(engine, wider, "a"))


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
