"""Facts about put, delete, get, revisions and loads."""

from __future__ import annotations

import asyncio

import pytest

from palaver.errors import NotProvisioned
from palaver.expr import F
from palaver.ops import MARK, REVISION, Add, Address, Alive, Check, Delete, Put, Refused, Set, Unchanged, Update, WriteSet
from palaver.ports import RecordEngine
from palaver.testing.records.base import (
    COUNTERS,
    INTS,
    NOBODY,
    NOTES,
    NOW,
    NOW_S,
    QUIET,
    TABLES,
    RecordSuite,
    address,
    all_changes,
    attempt,
    bare,
    delete,
    guards,
    loaded,
    note,
    put,
    put_note,
    read_notes,
    refused,
    stored,
    update,
    written,
)
from palaver.values import Value


class Writing(RecordSuite):
    async def test_a_put_record_is_read_back(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", text="hello", stamp=5))
        assert {**note("u", "1", text="hello", stamp=5), REVISION: NOW} == await stored(engine, NOTES, "u", "1")

    async def test_an_address_nothing_was_written_to_is_empty(self, engine: RecordEngine) -> None:
        assert await stored(engine, NOTES, "u", "1") is None

    async def test_a_put_record_is_stored_as_the_backdoor_sees_it(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", text="hé", stamp=-5, raw=b"\x00\xff"))
        raw = await self.raw_get(engine, address(NOTES, "u", "1"))
        assert raw is not None
        expected = {**note("u", "1", text="hé", stamp=-5, raw=b"\x00\xff"), REVISION: NOW}
        assert expected == {name: raw[name] for name in expected}
        assert raw.get("kind") is None

    async def test_a_deleted_record_is_gone_through_the_backdoor(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        await written(engine, delete(NOTES, "u", "1"))
        assert await self.raw_get(engine, address(NOTES, "u", "1")) is None

    async def test_a_record_put_through_the_backdoor_is_read(self, engine: RecordEngine) -> None:
        record = {**note("u", "1", text="x", stamp=3), REVISION: NOW}
        await self.raw_put(engine, NOTES, record)
        assert record == await stored(engine, NOTES, "u", "1")
        assert [record] == await self.all_of(engine, read_notes("u"))

    async def test_what_was_written_is_there_after_reopening(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", data={"a": [1]}))
        before = await stored(engine, NOTES, "u", "1")
        again = await self.reopen(engine)
        assert before == await stored(again, NOTES, "u", "1")
        assert 1 == len(await all_changes(again))

    async def test_a_second_put_replaces_the_whole_record(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", text="old", data={"a": 1}, tags=["x"], score=1.5))
        await written(engine, put_note("u", "1", stamp=2))
        assert note("u", "1", stamp=2) == bare(await stored(engine, NOTES, "u", "1"))

    async def test_a_none_at_the_top_is_stored_as_absent(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", text=None, data=None, stamp=1))
        assert note("u", "1", stamp=1) == bare(await stored(engine, NOTES, "u", "1"))

    async def test_a_put_without_guards_writes_whether_or_not_the_record_exists(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", stamp=1))
        await written(engine, put_note("u", "1", stamp=2))
        assert note("u", "1", stamp=2) == bare(await stored(engine, NOTES, "u", "1"))

    async def test_a_put_without_guards_unmarks_and_revives(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", expires=NOW_S - 1), put_note("u", "2"))
        await written(engine, update(NOTES, ("u", "2"), Set(F(MARK), NOW)))
        await written(engine, put_note("u", "1"), put_note("u", "2"))
        assert [note("u", "1"), note("u", "2")] == [bare(record) for record in await self.all_of(engine, read_notes("u"))]

    async def test_a_mark_is_read_with_the_record(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        await written(engine, update(NOTES, ("u", "1"), Set(F(MARK), NOW)))
        found = await stored(engine, NOTES, "u", "1")
        assert found is not None
        assert found[MARK] == NOW

    async def test_an_expired_record_is_still_read_as_stored(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", expires=NOW_S - 10))
        assert note("u", "1", expires=NOW_S - 10) == bare(await stored(engine, NOTES, "u", "1"))

    async def test_deleting_what_is_not_there_succeeds(self, engine: RecordEngine) -> None:
        assert [None] == list((await written(engine, delete(NOTES, "u", "1"))).revisions)

    async def test_an_update_of_nothing_creates_nothing(self, engine: RecordEngine) -> None:
        done = await written(engine, update(NOTES, ("u", "1"), Set(F("stamp"), 1)))
        assert ([None], [None]) == (list(done.revisions), list(done.updated))
        assert await stored(engine, NOTES, "u", "1") is None

    async def test_records_of_different_tables_with_one_key_are_two(self, engine: RecordEngine) -> None:
        await written(engine, put(COUNTERS, {"name": "a", "hits": 1}), put(QUIET, {"name": "a", "text": "x"}))
        assert {"name": "a", "hits": 1} == bare(await stored(engine, COUNTERS, "a"))
        assert {"name": "a", "text": "x"} == bare(await stored(engine, QUIET, "a"))

    async def test_changing_what_was_handed_in_or_out_changes_nothing_stored(self, engine: RecordEngine) -> None:
        record = note("u", "1", data={"a": [1, {"b": 2}]})
        await written(engine, put(NOTES, record))
        record["data"]["a"][1]["b"] = 99  # type: ignore[index, call-overload]
        found = await stored(engine, NOTES, "u", "1")
        found["data"]["a"].append(3)  # type: ignore[index, call-overload, union-attr]
        paged = (await self.all_of(engine, read_notes("u")))[0]
        paged["data"]["a"].clear()  # type: ignore[index, call-overload, union-attr]
        assert note("u", "1", data={"a": [1, {"b": 2}]}) == bare(await stored(engine, NOTES, "u", "1"))

    async def test_an_updated_record_that_was_handed_out_is_a_copy(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", data={"a": [1]}))
        tags: list[Value] = ["x"]
        done = await written(engine, update(NOTES, ("u", "1"), Set(F("tags"), tags)))
        done.updated[0]["data"]["a"].append(2)  # type: ignore[index, call-overload, union-attr]
        tags.append("y")
        assert note("u", "1", data={"a": [1]}, tags=["x"]) == bare(await stored(engine, NOTES, "u", "1"))

    async def test_get_answers_in_the_order_asked_with_duplicates_and_missing(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"), put_note("u", "2"), put(INTS, {"bucket": 1, "n": 2}))
        asked = [
            address(NOTES, "u", "2"),
            address(NOTES, "u", "x"),
            address(INTS, 1, 2),
            address(NOTES, "u", "1"),
            address(NOTES, "u", "2"),
        ]
        for snapshot in (False, True):
            found = [bare(record) for record in await engine.get(asked, snapshot=snapshot)]
            assert [note("u", "2"), None, {"bucket": 1, "n": 2}, note("u", "1"), note("u", "2")] == found

    async def test_getting_nothing_gives_nothing(self, engine: RecordEngine) -> None:
        assert [] == await engine.get([])

    async def test_a_hundred_records_are_got_at_once(self, engine: RecordEngine) -> None:
        await written(engine, *(put_note("u", f"{n:03d}", stamp=n) for n in range(100)))
        found = await engine.get([address(NOTES, "u", f"{n:03d}") for n in reversed(range(100))], snapshot=True)
        assert list(reversed(range(100))) == [record["stamp"] for record in found if record]

    async def test_an_eventual_get_gives_the_record_in_the_end(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        await self.settle(engine)
        assert [note("u", "1")] == [bare(record) for record in await engine.get([address(NOTES, "u", "1")], consistent=False)]


class Revisions(RecordSuite):
    async def test_a_new_record_has_the_instant_of_its_write_as_revision(self, engine: RecordEngine) -> None:
        assert [NOW + 7] == list((await written(engine, put_note("u", "1"), now_us=NOW + 7)).revisions)
        found = await stored(engine, NOTES, "u", "1")
        assert found is not None
        assert found[REVISION] == NOW + 7

    async def test_a_later_write_has_its_own_instant_as_revision(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        assert [NOW + 50] == list((await written(engine, put_note("u", "1"), now_us=NOW + 50)).revisions)

    async def test_two_writes_in_one_instant_have_growing_revisions(self, engine: RecordEngine) -> None:
        revisions = [(await written(engine, put_note("u", "1", stamp=n))).revisions[0] for n in range(3)]
        assert [NOW, NOW + 1, NOW + 2] == revisions

    async def test_revisions_grow_when_the_clock_goes_back(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        await written(engine, put_note("u", "1"), now_us=NOW - 3_600_000_000)
        done = await written(engine, update(NOTES, ("u", "1"), Set(F("stamp"), 1)), now_us=NOW - 7_200_000_000)
        assert [NOW + 2] == list(done.revisions)
        found = await stored(engine, NOTES, "u", "1")
        assert found is not None
        assert found[REVISION] == NOW + 2

    async def test_an_update_that_changes_nothing_grows_the_revision(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", stamp=1))
        done = await written(engine, update(NOTES, ("u", "1"), Set(F("stamp"), 1)))
        assert [NOW + 1] == list(done.revisions)

    async def test_a_put_of_the_same_record_grows_the_revision(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", stamp=1))
        assert [NOW + 1] == list((await written(engine, put_note("u", "1", stamp=1))).revisions)

    async def test_revisions_come_in_the_order_of_the_ops_and_none_for_checks_and_deletes(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"), put_note("u", "2"), put_note("u", "3"))
        done = await written(
            engine,
            delete(NOTES, "u", "1"),
            put_note("u", "4"),
            Check(address(NOTES, "u", "2"), guards(Alive())),
            update(NOTES, ("u", "3"), Set(F("stamp"), 1)),
            now_us=NOW + 5,
        )
        assert [None, NOW + 5, None, NOW + 5] == list(done.revisions)
        assert [None, None, None, {**note("u", "3", stamp=1), REVISION: NOW + 5}] == list(done.updated)

    async def test_a_check_leaves_the_revision_alone(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        await written(engine, Check(address(NOTES, "u", "1"), guards(Alive())), now_us=NOW + 5)
        found = await stored(engine, NOTES, "u", "1")
        assert found is not None
        assert found[REVISION] == NOW


class Unasked(RecordSuite):
    """Write sets that ask for nothing back."""

    async def test_revisions_are_told_and_grow_past_one_that_is_ahead(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"), now_us=NOW + 10)
        await written(engine, put_note("u", "2"))
        touched = [update(NOTES, ("u", each), Set(F("stamp"), 1)) for each in ("1", "2")]
        done = await written(engine, *touched, put_note("u", "3"), now_us=NOW + 5, returning=False)
        assert [NOW + 11, NOW + 5, NOW + 5] == list(done.revisions)
        found = await engine.get([address(NOTES, "u", each) for each in ("1", "2", "3")])
        assert list(done.revisions) == [each and each[REVISION] for each in found]
        assert [1, 1, None] == [each and each.get("stamp") for each in found]

    async def test_an_update_whose_guard_fails_is_refused_with_what_is_there(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", stamp=1))
        bad = update(NOTES, ("u", "1"), Add(F("stamp"), 1), when=[F("stamp") == 5])
        done = await attempt(engine, put_note("u", "2"), bad, returning=False)
        assert isinstance(done, Refused)
        assert [(1, 1)] == [(failure.op, failure.found and failure.found["stamp"]) for failure in done.failures]
        assert await stored(engine, NOTES, "u", "2") is None

    async def test_an_update_of_nothing_is_refused_and_creates_nothing(self, engine: RecordEngine) -> None:
        done = await attempt(engine, put_note("u", "2"), update(NOTES, ("u", "1"), Set(F("stamp"), 1), when=[Alive()]), returning=False)
        assert isinstance(done, Refused)
        assert [None, None] == await engine.get([address(NOTES, "u", "1"), address(NOTES, "u", "2")])

    async def test_concurrent_counts_in_batches_are_exact(self, engine: RecordEngine) -> None:
        await written(engine, put(COUNTERS, {"name": "a"}))
        ops = [(put_note("u", f"{n:02d}"), update(COUNTERS, ("a",), Add(F("hits"), 1))) for n in range(20)]
        done = await asyncio.gather(*(written(engine, *some, returning=False) for some in ops))
        assert {"name": "a", "hits": 20, REVISION: NOW + 20} == await stored(engine, COUNTERS, "a")
        assert list(range(NOW + 1, NOW + 21)) == sorted(each.revisions[1] or 0 for each in done)


class Loading(RecordSuite):
    @pytest.mark.parametrize("count", [1, 40, 1_300])
    async def test_a_load_stores_every_record(self, engine: RecordEngine, count: int) -> None:
        puts = [put_note("u", f"{n:04d}", stamp=n, data={"n": [n]}) for n in range(count)]
        assert [NOW] * count == await loaded(engine, *puts)
        found = await self.all_of(engine, read_notes("u"))
        assert [{**each.record, REVISION: NOW} for each in puts] == found

    async def test_a_load_asks_for_nothing(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", stamp=1), put_note("u", "2", expires=NOW_S - 1), put_note("u", "3", stamp=3))
        await written(engine, update(NOTES, ("u", "3"), Set(F(MARK), NOW)))
        await loaded(engine, *(put_note("u", id, stamp=int(id) + 10) for id in "1234"))
        assert [11, 12, 13, 14] == [record["stamp"] for record in await self.all_of(engine, read_notes("u"))]
        assert MARK not in (await stored(engine, NOTES, "u", "3") or {})

    async def test_a_load_is_in_the_feed_like_any_other_write(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "001"))
        await loaded(engine, *(put_note("u", f"{n:03}") for n in range(60)))
        await written(engine, delete(NOTES, "u", "001"))
        kinds: dict[object, list[str]] = {}
        for change in await all_changes(engine):
            kinds.setdefault(change.key, []).append(change.kind)
        expected = {("u", f"{n:03}"): ["created"] for n in range(60)}
        assert {**expected, ("u", "001"): ["created", "updated", "deleted"]} == kinds

    @pytest.mark.parametrize("others", [0, 300])
    async def test_a_load_replaces_and_grows_the_revision(self, engine: RecordEngine, others: int) -> None:
        await written(engine, put_note("u", "1", text="old"), now_us=NOW + 10)
        puts = [put_note("v", f"{n:03}") for n in range(others)]
        assert [NOW] * others + [NOW + 11] == await loaded(engine, *puts, put_note("u", "1", stamp=2))
        assert note("u", "1", stamp=2) == bare(await stored(engine, NOTES, "u", "1"))

    @pytest.mark.parametrize("others", [0, 300])
    async def test_of_two_with_one_key_the_later_one_stays(self, engine: RecordEngine, others: int) -> None:
        puts = [put_note("v", f"{n:03}") for n in range(others)]
        done = await loaded(engine, put_note("u", "1", text="a", stamp=1), *puts, put_note("u", "1", stamp=2))
        assert [NOW, *[NOW] * others, NOW + 1] == done
        assert {**note("u", "1", stamp=2), REVISION: NOW + 1} == await stored(engine, NOTES, "u", "1")

    async def test_loads_and_writes_at_once_lose_nothing(self, engine: RecordEngine) -> None:
        await written(engine, put(COUNTERS, {"name": "a"}))
        loads = [loaded(engine, *(put_note(f"u{k}", f"{n:03}") for n in range(200))) for k in range(4)]
        await asyncio.gather(*loads, *(written(engine, update(COUNTERS, ("a",), Add(F("hits"), 1)), returning=False) for _ in range(10)))
        assert [200] * 4 == [len(await self.all_of(engine, read_notes(f"u{k}"))) for k in range(4)]
        assert {"name": "a", "hits": 10, REVISION: NOW + 10} == await stored(engine, COUNTERS, "a")

    async def test_a_load_of_nothing_and_an_empty_write_set_write_nothing(self, engine: RecordEngine) -> None:
        assert [] == list(await engine.load(NOTES.name, [], NOW, NOBODY))
        assert ([], []) == tuple(map(list, await written(engine)))
        assert [] == await all_changes(engine)


class Unknown(RecordSuite):
    async def test_a_write_to_an_unknown_table_is_not_provisioned(self, engine: RecordEngine) -> None:
        nowhere = Address("nowhere", ("x",))
        for op in (
            Put(nowhere, {"name": "x"}),
            Update(nowhere, (Set(F("a"), 1),)),
            Delete(nowhere),
            Check(nowhere, guards(Unchanged(None))),
        ):
            with pytest.raises(NotProvisioned):
                await engine.write(WriteSet([op], NOW))
        with pytest.raises(NotProvisioned):
            await engine.load(nowhere.table, [{"name": "x"}], NOW, NOBODY)

    async def test_an_unknown_table_in_a_batch_writes_nothing(self, engine: RecordEngine) -> None:
        with pytest.raises(NotProvisioned):
            await engine.write(WriteSet([put_note("u", "1"), Put(Address("nowhere", ("x",)), {"name": "x"})], NOW))
        assert await stored(engine, NOTES, "u", "1") is None

    async def test_reading_an_unknown_table_or_index_is_not_provisioned(self, engine: RecordEngine) -> None:
        with pytest.raises(NotProvisioned):
            await engine.get([Address("nowhere", ("x",))])
        with pytest.raises(NotProvisioned):
            await engine.query(read_notes("u")._replace(table="nowhere"))
        with pytest.raises(NotProvisioned):
            await engine.query(read_notes("u")._replace(index="nowhere"))
        with pytest.raises(NotProvisioned):
            await engine.scan("nowhere", after=None, limit=10)

    async def test_a_table_that_was_not_made_is_unknown(self) -> None:
        async with self.make(TABLES[1:]) as engine:
            with pytest.raises(NotProvisioned):
                await engine.write(WriteSet([put_note("u", "1")], NOW))
            assert (await refused(engine, put(COUNTERS, {"name": "a"}, Alive()))).failures[0].found is None
