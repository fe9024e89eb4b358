"""Facts about taking in what another database has: records with their own revisions, changes at their own positions."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from palaver.errors import Trimmed
from palaver.ops import MARK, REVISION, Address, Cause, Change, Unchanged, position
from palaver.ports import ContinuesFeed, RecordEngine, Restores
from palaver.testing.records.base import (
    BYTES,
    INTS,
    NOBODY,
    NOTES,
    NOW,
    NOW_S,
    NUMBERS,
    QUIET,
    RecordSuite,
    all_changes,
    bare,
    delete,
    exact,
    head,
    note,
    put,
    put_note,
    read_kind,
    stored,
    written,
)
from palaver.values import Record

FULL: dict[str, Any] = {
    "kind": "k",
    "stamp": -5,
    "text": "ÿ\U0010ffff",
    "score": 0.1,
    "amount": Decimal("12345678901234567890.123456789"),
    "done": False,
    "raw": b"\0\xff",
    "data": {"a": [1, 2.5, None, {"b": b"x"}], "": True},
    "tags": frozenset({"x", "y"}),
    "expires": NOW_S - 1,
    MARK: 7,
}


class Restoring(RecordSuite):
    @pytest.fixture
    async def taking(self, engine: RecordEngine) -> Any:
        if not isinstance(engine, Restores):
            pytest.skip("this engine cannot take in what another database has")
        return engine

    async def test_a_record_is_stored_with_the_revision_and_the_mark_it_carries(self, taking: Any) -> None:
        record: Record = {**note("u", "1", **FULL), REVISION: 3}
        assert [] == await taking.restore(NOTES.name, [record])
        found = await stored(taking, NOTES, "u", "1")
        assert exact(record) == exact(found)

    async def test_every_kind_of_key_can_be_restored_and_removed(self, taking: Any) -> None:
        every: tuple[tuple[Any, Record], ...] = (
            (INTS, {"bucket": -(2**63), "n": 2**63 - 1, REVISION: 5}),
            (BYTES, {"file": b"\0", "part": b"\xff\0", REVISION: 6}),
            (NUMBERS, {"n": 0, "text": "x", REVISION: 7}),
            (QUIET, {"name": "ÿ", REVISION: 8}),
        )
        for table, record in every:
            await taking.restore(table.name, [record])
            key = position(table, None, record)
            assert exact(record) == exact(await stored(taking, table, *key))
            assert [] == await taking.restore(table.name, [], gone=[key])
            assert await stored(taking, table, *key) is None

    async def test_it_leaves_no_change(self, taking: Any) -> None:
        await written(taking, put_note("u", "1"), put_note("u", "2"))
        before = await all_changes(taking)
        await taking.restore(
            NOTES.name, [{**note("u", "1", text="new"), REVISION: NOW + 9}, {**note("u", "3"), REVISION: 1}], gone=[("u", "2")]
        )
        assert before == await all_changes(taking)
        assert before[-1].position == await head(taking)

    async def test_a_later_write_is_a_change_as_ever(self, taking: Any) -> None:
        await taking.restore(NOTES.name, [{**note("u", "1"), REVISION: NOW + 9}, {**note("u", "2"), REVISION: 1}])
        await written(taking, put_note("u", "1", stamp=1))
        await written(taking, delete(NOTES, "u", "2"))
        found = [(change.key, change.revision, change.kind) for change in await all_changes(taking)]
        assert [(("u", "1"), NOW + 10, "updated"), (("u", "2"), NOW, "deleted")] == found

    async def test_a_newer_record_stays_and_is_named(self, taking: Any) -> None:
        await written(taking, put_note("u", "1", text="newer"), put_note("u", "2", text="older"))
        stayed = await taking.restore(
            NOTES.name, [{**note("u", n, text="copied"), REVISION: NOW + by} for n, by in (("1", -1), ("2", 1), ("3", 0))]
        )
        assert [("u", "1")] == [tuple(key) for key in stayed]
        assert ["newer", "copied", "copied"] == [(await stored(taking, NOTES, "u", n) or {})["text"] for n in "123"]

    async def test_the_same_record_again_is_no_newer_one(self, taking: Any) -> None:
        record: Record = {**note("u", "1", text="x"), REVISION: NOW}
        assert [] == await taking.restore(NOTES.name, [record])
        assert [] == await taking.restore(NOTES.name, [record])

    async def test_over_replaces_whatever_is_there_whole(self, taking: Any) -> None:
        await written(taking, put_note("u", "1", **{name: value for name, value in FULL.items() if name != MARK}))
        record: Record = {**note("u", "1"), REVISION: 4}
        assert [] == await taking.restore(NOTES.name, [record], over=True)
        assert record == await stored(taking, NOTES, "u", "1")

    async def test_indexes_follow(self, taking: Any) -> None:
        await written(taking, put_note("u", "1", kind="a", stamp=1), put_note("u", "2", kind="a", stamp=2))
        await taking.restore(NOTES.name, [{**note("u", n, kind="b", stamp=3), REVISION: NOW + 1} for n in ("1", "3")], gone=[("u", "2")])
        assert [] == await self.all_of(taking, read_kind("a"))
        assert ["1", "3"] == [record["id"] for record in await self.all_of(taking, read_kind("b"))]

    async def test_an_expired_record_is_found_by_a_sweep(self, taking: Any) -> None:
        await taking.restore(NOTES.name, [{**note("u", "1", expires=NOW_S - 1), REVISION: 1}])
        if hasattr(taking, "expired"):
            assert [Address(NOTES.name, ("u", "1"))] == await taking.expired(NOTES.name, NOW, 10)

    async def test_guards_see_the_restored_revision(self, taking: Any) -> None:
        await taking.restore(NOTES.name, [{**note("u", "1"), REVISION: 41}])
        done = await written(taking, put_note("u", "1", Unchanged(41), text="x"), now_us=40)
        assert [42] == list(done.revisions)

    async def test_many_records_are_all_stored(self, taking: Any) -> None:
        records: list[Record] = [{**note(f"u{n % 7}", f"{n:05}", text="t" * 500), REVISION: NOW + n} for n in range(1_200)]
        gone = [(f"u{n % 7}", f"{n:05}") for n in range(1_200, 1_400)]
        await taking.restore(NOTES.name, [{**note(*key), REVISION: 1} for key in gone])
        assert [] == await taking.restore(NOTES.name, records, gone=gone, over=True)
        found = {record["id"]: record for record in await self.scanned(taking, NOTES)}
        assert {record["id"]: record for record in records} == found

    async def test_it_is_there_after_opening_again(self, taking: Any) -> None:
        await taking.restore(QUIET.name, [{"name": "x", "text": "y", REVISION: 2}])
        again = await self.reopen(taking)
        assert {"name": "x", "text": "y"} == bare(await stored(again, QUIET, "x"))


def change(at: int, *key: str, kind: Any = "created", revision: int = NOW, cause: Cause = NOBODY, released: Any = ()) -> Change:
    return Change(at, NOTES.name, key, revision, kind, cause, released)


FAR = 10**15


class Continuing(RecordSuite):
    @pytest.fixture
    async def following(self, engine: RecordEngine) -> Any:
        if not isinstance(engine, ContinuesFeed):
            pytest.skip("this engine cannot go on with the feed of another database")
        return engine

    async def test_changes_are_read_as_they_were_given(self, following: Any) -> None:
        given = [
            change(FAR, "u", "1"),
            change(FAR + 3, "u", "1", kind="deleted", revision=NOW + 5, cause=Cause("actor", "token"), released=("a/b", "c")),
            change(FAR + 1_000, "u", "2", kind="expired"),
        ]
        await following.continue_feed((), FAR - 10, gap=True)
        await following.continue_feed(given, FAR + 1_000)
        assert given == await all_changes(following)
        assert given[1:] == await all_changes(following, FAR)
        assert FAR + 1_000 == await head(following)

    async def test_every_later_write_is_above(self, following: Any) -> None:
        await following.continue_feed((), 5, gap=True)
        await following.continue_feed([change(FAR, "u", "1")], FAR + 7)
        assert FAR <= await head(following) <= FAR + 7
        await written(following, put_note("u", "2"))
        assert [FAR] == [each.position for each in await all_changes(following)][:1]
        later = await all_changes(following, FAR + 7)
        assert [("u", "2")] == [each.key for each in later]
        assert later[0].position > FAR + 7

    async def test_what_is_there_already_is_left_out(self, following: Any) -> None:
        await following.continue_feed((), 5, gap=True)
        await following.continue_feed([change(FAR, "u", "1")], FAR)
        await following.continue_feed([change(FAR, "u", "1"), change(FAR + 1, "u", "2")], FAR + 1)
        await following.continue_feed([change(FAR, "u", "1")], FAR)
        assert [FAR, FAR + 1] == [each.position for each in await all_changes(following)]

    async def test_changes_of_a_table_that_is_not_there_are_left_out(self, following: Any) -> None:
        await following.continue_feed((), 5, gap=True)
        await following.continue_feed([change(FAR, "u", "1")._replace(table="suite-gone"), change(FAR + 1, "u", "2")], FAR + 1)
        assert [FAR + 1] == [each.position for each in await all_changes(following)]

    @pytest.mark.parametrize("start", [0, 40, FAR])
    async def test_a_reader_from_where_the_feed_begins_goes_on_and_an_older_one_is_told(self, following: Any, start: int) -> None:
        await following.continue_feed((), start, gap=True)
        assert start == await head(following)
        page = await following.changes(start, 10)
        assert ([], start) == (list(page.changes), page.last)
        await following.continue_feed([change(start + 900, "u", "1"), change(start + 990, "u", "2")], start + 990)
        for after, count in ((start, 2), (start + 1, 2), (start + 900, 1), (start + 950, 1), (start + 990, 0)):
            assert count == len(await all_changes(following, after))
        if start:
            with pytest.raises(Trimmed):
                await following.changes(start - 1, 10)

    async def test_after_a_gap_the_feed_begins_anew(self, following: Any) -> None:
        await following.continue_feed((), 5, gap=True)
        await following.continue_feed([change(FAR, "u", "1")], FAR)
        await following.continue_feed((), FAR + 50, gap=True)
        assert [] == await all_changes(following)
        assert FAR + 50 == await head(following)
        for after in (FAR - 1, FAR, FAR + 49):
            with pytest.raises(Trimmed):
                await following.changes(after, 10)
        await following.continue_feed([change(FAR, "u", "1"), change(FAR + 60, "u", "2")], FAR + 60)
        assert [FAR + 60] == [each.position for each in (await following.changes(FAR + 50, 10)).changes]

    async def test_without_a_gap_only_later_writes_move_on(self, following: Any) -> None:
        await following.continue_feed((), 5, gap=True)
        await following.continue_feed([change(FAR, "u", "1")], FAR)
        await following.continue_feed((), FAR + 50)
        assert [FAR] == [each.position for each in (await following.changes(5, 10)).changes]
        await written(following, put_note("u", "2"))
        assert FAR + 50 < (await all_changes(following))[-1].position

    async def test_a_reader_of_the_last_page_reaches_the_head(self, following: Any) -> None:
        await following.continue_feed((), 5, gap=True)
        await following.continue_feed([change(FAR, "u", "1")], FAR + 9)
        page = await following.changes(FAR, 10)
        assert FAR <= page.head <= page.last <= FAR + 9

    async def test_a_feed_with_gaps_is_trimmed_and_who_missed_nothing_goes_on(self, following: Any) -> None:
        await following.continue_feed((), 5, gap=True)
        await following.continue_feed([change(FAR + 100 * n, "u", f"{n}") for n in range(5)], FAR + 400)
        if not hasattr(following, "trim"):
            pytest.skip("this engine cannot forget changes")
        assert 2 == await following.trim(FAR + 101)
        assert 3 == len((await following.changes(FAR + 100, 10)).changes)
        with pytest.raises(Trimmed):
            await following.changes(FAR, 10)
        assert 3 == await following.trim(FAR + 1_000)
        assert [] == list((await following.changes(FAR + 400, 10)).changes)
        assert FAR + 400 == await head(following)

    async def test_an_engine_opened_again_goes_on_above(self, following: Any) -> None:
        await following.continue_feed((), FAR, gap=True)
        again = await self.reopen(following)
        await written(again, put(INTS, {"bucket": 1, "n": 1}))
        (new,) = await all_changes(again)
        assert new.position > FAR
