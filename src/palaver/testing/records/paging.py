"""Facts about pages, scans and counts: nothing lost, nothing twice, limits counted on what is read."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from palaver.errors import NotProvisioned
from palaver.expr import F
from palaver.ops import MARK, Bound, Read, Set
from palaver.ports import RecordEngine
from palaver.testing.records.base import (
    BYTES,
    COUNTERS,
    INTS,
    NOTES,
    NOW,
    NOW_S,
    WIDE,
    RecordSuite,
    all_changes,
    delete,
    ids,
    put,
    put_note,
    read_kind,
    read_notes,
    update,
    written,
)
from palaver.values import Record, record_size


class Pages(RecordSuite):
    async def _ten_records(self, engine: RecordEngine) -> list[str]:
        names = [f"{n}" for n in range(10)]
        await written(engine, *(put_note("u", name, kind="k", stamp=int(name) // 3) for name in names))
        return names

    async def test_small_pages_together_equal_one_big_read(self, engine: RecordEngine) -> None:
        await self._ten_records(engine)
        for read in (read_notes("u"), read_kind("k"), read_notes("u", Bound(">", "1"), Bound("<=", "8")), read_kind("k", Bound(">=", 1))):
            for descending in (False, True):
                whole = await self.all_of(engine, read._replace(descending=descending))
                for limit in range(1, 12):
                    pages = await self.pages(engine, read._replace(descending=descending, limit=limit))
                    assert whole == [record for page in pages for record in page]
                    assert all(len(page) == limit for page in pages[:-1])

    async def test_a_page_that_is_not_full_is_the_last(self, engine: RecordEngine) -> None:
        await self._ten_records(engine)
        page = await engine.query(read_notes("u", limit=11))
        assert (10, None) == (len(page.records), page.last)

    async def test_an_empty_partition_is_one_empty_page(self, engine: RecordEngine) -> None:
        assert [[]] == await self.pages(engine, read_notes("u"))

    async def test_a_position_is_the_place_of_the_last_record_read(self, engine: RecordEngine) -> None:
        await self._ten_records(engine)
        await self.settle(engine)
        assert ("u", "3") == (await engine.query(read_notes("u", limit=4))).last
        page = await engine.query(read_kind("k", limit=4))
        # Which of those with one stamp comes fourth is not promised.
        assert ("k", 1, "u", page.records[-1]["id"]) == page.last

    async def test_index_ties_page_without_loss_or_duplicate(self, engine: RecordEngine) -> None:
        for at in range(3):
            await written(engine, *(put_note(f"u{n}", f"{at}", kind="k", stamp=5) for n in range(9)))
        expected = sorted((f"u{n}", f"{at}") for at in range(3) for n in range(9))
        for limit in (1, 2, 5, 26, 27, 28):
            for descending in (False, True):
                found = await self.all_of(engine, read_kind("k", limit=limit, descending=descending))
                assert expected == sorted((str(record["owner"]), str(record["id"])) for record in found)

    async def test_a_read_of_one_whole_key_ends_after_its_record(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", kind="k", stamp=1), put(COUNTERS, {"name": "a"}))
        one_note, one_counter = read_notes("u", limit=1)._replace(fixed=("1",)), Read(COUNTERS.name, None, ("a",), limit=1)
        for read, last in ((one_note, ("u", "1")), (one_counter, ("a",)), (read_kind("k", limit=1)._replace(fixed=(1,)), None)):
            for descending in (False, True):
                assert 1 == len(await self.all_of(engine, read._replace(descending=descending)))
                if last:
                    assert [] == await self.all_of(engine, read._replace(descending=descending, after=last))

    async def test_ties_under_a_bound_page_without_loss(self, engine: RecordEngine) -> None:
        await written(engine, *(put_note("u", f"{n}", kind="k", stamp=n // 5) for n in range(15)))
        for bounds in ((Bound(">=", 1),), (Bound("<=", 1),), (Bound(">", 0), Bound("<", 2))):
            for descending in (False, True):
                whole = await self.all_of(engine, read_kind("k", *bounds, descending=descending))
                assert whole == await self.all_of(engine, read_kind("k", *bounds, descending=descending, limit=2))
                assert len(whole) == (5 if len(bounds) == 2 else 10)

    async def test_a_limit_counts_hidden_records_too(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", expires=NOW_S - 5), put_note("u", "2"), put_note("u", "3"))
        await written(engine, update(NOTES, ("u", "2"), Set(F(MARK), NOW)))
        page = await engine.query(read_notes("u", limit=2))
        assert (["1", "2"], ("u", "2")) == (ids(page.records), page.last)
        assert [["1"], ["2"], ["3"]] == [ids(found) for found in await self.pages(engine, read_notes("u", limit=1)) if found]

    async def test_a_position_stays_good_when_its_record_is_deleted(self, engine: RecordEngine) -> None:
        await self._ten_records(engine)
        await self.settle(engine)
        for read, rest in (
            (read_notes("u", limit=4), "456789"),
            (read_notes("u", limit=4, descending=True), "543210"),
            (read_kind("k", limit=3), "3456789"),
        ):
            await self._ten_records(engine)
            await self.settle(engine)
            page = await engine.query(read)
            await written(engine, delete(NOTES, "u", str(page.records[-1]["id"])))
            found = ids(await self.all_of(engine, read._replace(after=page.last)))
            assert list(rest) == (found if read.index is None else sorted(found))

    async def test_records_deleted_before_they_are_read_vanish(self, engine: RecordEngine) -> None:
        await self._ten_records(engine)
        page = await engine.query(read_notes("u", limit=4))
        await written(engine, delete(NOTES, "u", "5"), delete(NOTES, "u", "0"))
        assert ["4", "6", "7", "8", "9"] == ids(await self.all_of(engine, read_notes("u", limit=3, after=page.last)))

    async def test_records_that_do_not_move_are_seen_once_while_others_come_and_go(self, engine: RecordEngine) -> None:
        await self._ten_records(engine)
        seen: list[str] = []
        read = read_notes("u", limit=2)
        for turn in range(20):
            page = await engine.query(read)
            seen += ids(page.records)
            if page.last is None:
                break
            await written(engine, put_note("u", f"{turn}x"), delete(NOTES, "u", f"{turn - 1}x"))
            read = read._replace(after=page.last)
        assert [f"{n}" for n in range(10)] == [id for id in seen if len(id) == 1]

    async def test_positions_of_every_key_type_go_on_where_they_stopped(self, engine: RecordEngine) -> None:
        ints = [-(2**63), -1, 0, 2**63 - 1]
        blobs = [b"\x00", b"\x00\x00", b"\xff", b"\xff\xff"]
        await written(
            engine, *(put(INTS, {"bucket": 1, "n": n}) for n in ints), *(put(BYTES, {"file": b"f", "part": part}) for part in blobs)
        )
        found = await self.pages(engine, Read(INTS.name, None, (1,), limit=1))
        assert ints == [record["n"] for page in found for record in page]
        backwards = await self.pages(engine, Read(BYTES.name, None, (b"f",), limit=1, descending=True))
        assert blobs[::-1] == [record["part"] for page in backwards for record in page]

    async def test_positions_in_a_composite_key_go_on_where_they_stopped(self, engine: RecordEngine) -> None:
        keys = [("t", "g", day, order) for day in (1, 2, 10) for order in ("a", "b", "c")]
        await written(engine, *(put(WIDE, dict(zip(WIDE.key, key, strict=True))) for key in keys))
        for limit in (1, 2, 4):
            for descending in (False, True):
                read = Read(WIDE.name, None, ("t", "g"), limit=limit, descending=descending)
                found = [(record["day"], record["order"]) for record in await self.all_of(engine, read)]
                assert sorted((key[2:] for key in keys), reverse=descending) == found

    async def test_a_page_holds_at_most_a_megabyte(self, engine: RecordEngine) -> None:
        for n in range(15):
            await written(engine, put_note("u", f"{n:02d}", kind="k", stamp=n, text="x" * 200_000))
        for read in (read_notes("u"), read_notes("u", descending=True), read_kind("k")):
            pages = await self.pages(engine, read)
            assert 15 == sum(map(len, pages))
            assert {5} == {len(page) for page in pages if page}
            assert all(sum(record_size(record, "Note") for record in page) <= 1024 * 1024 for page in pages)

    async def test_a_page_is_full_at_exactly_a_megabyte(self, engine: RecordEngine) -> None:
        rest = record_size({"owner": "u", "id": "0", "text": ""}, "Note")
        for extra, expected in ((0, [4, 1]), (1, [3, 2])):
            for n in range(5):
                size = 1024 * 1024 // 4 + (extra if n == 3 else 0)
                await written(engine, put_note("u", f"{n}", text="x" * (size - rest)))
            assert expected == [len(page) for page in await self.pages(engine, read_notes("u")) if page]

    async def test_a_page_holds_at_least_one_record(self, engine: RecordEngine) -> None:
        for n in range(3):
            await written(engine, put_note("u", f"{n}", text="x" * 400_000))
        assert [["0", "1"], ["2"]] == [ids(page) for page in await self.pages(engine, read_notes("u")) if page]
        assert [["0"], ["1"], ["2"]] == [ids(page) for page in await self.pages(engine, read_notes("u", limit=1)) if page]

    async def test_reading_writes_nothing(self, engine: RecordEngine) -> None:
        await self._ten_records(engine)
        before = await all_changes(engine)
        await self.all_of(engine, read_notes("u", limit=3))
        await self.scanned(engine, NOTES)
        assert before == await all_changes(engine)


class Scans(RecordSuite):
    async def _sixty(self, engine: RecordEngine) -> set[tuple[str, str]]:
        keys = {(f"owner {n % 7}", f"id {n}") for n in range(60)}
        await written(engine, *(put_note(owner, id) for owner, id in sorted(keys)))
        return keys

    def _keys(self, records: Sequence[Record]) -> list[tuple[str, str]]:
        return [(str(record["owner"]), str(record["id"])) for record in records]

    @pytest.mark.parametrize("limit", [1, 7, 60, 100])
    async def test_a_scan_gives_every_record_once(self, engine: RecordEngine, limit: int) -> None:
        keys = await self._sixty(engine)
        found = self._keys(await self.scanned(engine, NOTES, limit))
        assert 60 == len(found)
        assert keys == set(found)

    @pytest.mark.parametrize("segments", [1, 2, 3, 16])
    async def test_segments_are_disjoint_and_complete_together(self, engine: RecordEngine, segments: int) -> None:
        keys = await self._sixty(engine)
        found = [key for n in range(segments) for key in self._keys(await self.scanned(engine, NOTES, 7, (n, segments)))]
        assert 60 == len(found)
        assert keys == set(found)

    async def test_a_scan_shows_hidden_records(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", expires=NOW_S - 5), put_note("u", "2"))
        await written(engine, update(NOTES, ("u", "2"), Set(F(MARK), NOW)))
        assert {"1", "2"} == set(ids(await self.scanned(engine, NOTES)))

    async def test_a_scan_of_an_empty_table_is_empty(self, engine: RecordEngine) -> None:
        assert [] == await self.scanned(engine, NOTES)

    async def test_a_scan_goes_on_when_what_it_read_is_deleted(self, engine: RecordEngine) -> None:
        keys = await self._sixty(engine)
        seen: list[tuple[str, str]] = []
        after = None
        while True:
            page = await engine.scan(NOTES.name, after=after, limit=7)
            seen += self._keys(page.records)
            for key in self._keys(page.records):
                await written(engine, delete(NOTES, *key))
            after = page.last
            if after is None:
                break
        assert sorted(keys) == sorted(seen)
        assert [] == await self.scanned(engine, NOTES)

    async def test_a_scan_of_every_key_type_is_complete(self, engine: RecordEngine) -> None:
        ticks = [put(INTS, {"bucket": n - 5, "n": -n}) for n in range(10)]
        chunks = [put(BYTES, {"file": bytes([n * 25]), "part": b"\xff"}) for n in range(10)]
        await written(engine, *ticks, *chunks)
        assert {n - 5 for n in range(10)} == {record["bucket"] for record in await self.scanned(engine, INTS, 3)}
        assert {bytes([n * 25]) for n in range(10)} == {record["file"] for record in await self.scanned(engine, BYTES, 3)}

    async def test_a_scan_page_holds_at_most_a_megabyte(self, engine: RecordEngine) -> None:
        for n in range(4):
            await written(engine, put_note("u", f"{n}", text="x" * 400_000))
        page = await engine.scan(NOTES.name, after=None, limit=100)
        assert 2 == len(page.records)
        assert page.last is not None
        assert {"0", "1", "2", "3"} == set(ids(await self.scanned(engine, NOTES)))


class Counting(RecordSuite):
    async def test_a_count_is_of_live_records_only(self, engine: RecordEngine) -> None:
        await written(engine, *(put_note("u", f"{n}", kind="k", stamp=n) for n in range(5)))
        await written(
            engine, put_note("u", "expired", kind="k", stamp=9, expires=NOW_S), put_note("u", "later", kind="k", stamp=9, expires=NOW_S + 1)
        )
        await written(engine, update(NOTES, ("u", "0"), Set(F(MARK), NOW)))
        for read in (read_notes("u"), read_kind("k")):
            assert 5 == await self.counted(engine, read)
            assert 4 == await self.counted(engine, read, NOW + 1_000_000)
            assert 6 == await self.counted(engine, read, NOW - 1)

    async def test_a_count_honours_bounds(self, engine: RecordEngine) -> None:
        await written(engine, *(put_note("u", f"{n}", kind="k", stamp=n) for n in range(9)))
        assert 3 == await self.counted(engine, read_notes("u", Bound(">", "2"), Bound("<=", "5")))
        assert 3 == await self.counted(engine, read_kind("k", Bound(">=", 6)))
        assert 1 == await self.counted(engine, read_notes("u", Bound("prefix", "7")))
        assert 0 == await self.counted(engine, read_notes("nobody"))

    async def test_counting_in_an_unknown_table_or_index_is_not_provisioned(self, engine: RecordEngine) -> None:
        with pytest.raises(NotProvisioned):
            await self.counted(engine, read_notes("u")._replace(table="nowhere"))
        with pytest.raises(NotProvisioned):
            await self.counted(engine, read_notes("u")._replace(index="nowhere"))

    async def test_a_count_ignores_limit_position_and_page_size(self, engine: RecordEngine) -> None:
        await written(engine, *(put_note("u", f"{n:03d}") for n in range(100)))
        await written(engine, *(put_note("u", f"{n:03d}", text="x" * 40_000) for n in range(100, 150)))
        assert 150 == await self.counted(engine, read_notes("u", limit=1, after=("u", "050"), descending=True))
