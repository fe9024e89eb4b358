"""Facts about keys and indexes: their order, bounds in both directions, sparse entries."""

from __future__ import annotations

import random
from decimal import Decimal
from itertools import product

import pytest

from palaver.expr import F
from palaver.ops import MARK, Bound, Op, Read, Remove, Set
from palaver.ports import RecordEngine
from palaver.testing.records.base import (
    BYTES,
    INTS,
    NOTES,
    NOW,
    NOW_S,
    WIDE,
    RecordSuite,
    bare,
    delete,
    ids,
    note,
    put,
    put_note,
    read_kind,
    read_notes,
    refused,
    stored,
    update,
    written,
)
from palaver.testing.records.texts import NAUGHTY
from palaver.values import MAX_INT, MIN_INT, KeyPart, Record, number_from_key, number_key


def shuffled(ops: list[Op]) -> list[Op]:
    random.Random(7).shuffle(ops)
    return ops


class Order(RecordSuite):
    async def test_text_keys_are_read_in_the_order_of_their_utf8_bytes(self, engine: RecordEngine) -> None:
        texts = sorted({text for text in NAUGHTY if text}, key=str.encode)
        for at in range(0, len(texts), 100):
            await written(engine, *shuffled([put_note("u", text) for text in texts[at : at + 100]]))
        assert texts == ids(await self.all_of(engine, read_notes("u")))
        assert texts[::-1] == ids(await self.all_of(engine, read_notes("u", descending=True)))

    async def test_text_order_is_not_the_order_of_utf16_nor_of_any_language(self, engine: RecordEngine) -> None:
        texts = ["B", "a", "b", "~", "ä", "\ufffd", "\U0001f600"]
        await written(engine, *shuffled([put_note("u", text) for text in texts]))
        assert texts == ids(await self.all_of(engine, read_notes("u")))

    async def test_texts_that_look_alike_are_different_keys(self, engine: RecordEngine) -> None:
        texts = sorted(["é", "e\u0301", "a", "A", "a ", " a", "ａ", "1", "01", "1.0", "ß", "ss"], key=str.encode)
        await written(engine, *(put_note("u", text) for text in texts))
        assert texts == ids(await self.all_of(engine, read_notes("u")))

    @pytest.mark.parametrize(
        "text", ["'", '"', "a'b", "%", "_", "\\", "--", "a;b", "$", "[0]", "{}", "null", "\n", "\t", "\x01", "💥", " "]
    )
    async def test_a_naughty_text_is_a_key_like_any_other(self, engine: RecordEngine, text: str) -> None:
        await written(engine, put_note(text, text, kind=text, stamp=1), put_note(text, text + "x"), put_note("other", text))
        assert note(text, text, kind=text, stamp=1) == bare(await stored(engine, NOTES, text, text))
        assert [text, text + "x"] == ids(await self.all_of(engine, read_notes(text)))
        assert [text] == ids(await self.all_of(engine, read_kind(text)))
        assert [text + "x"] == ids(await self.all_of(engine, read_notes(text, Bound("prefix", text + "x"))))
        await written(engine, delete(NOTES, text, text))
        assert [text + "x"] == ids(await self.all_of(engine, read_notes(text)))

    async def test_integer_keys_are_read_in_the_order_of_numbers(self, engine: RecordEngine) -> None:
        numbers = [MIN_INT, -(2**53) - 1, -256, -255, -10, -9, -1, 0, 1, 9, 10, 255, 256, 2**31, 2**53 + 1, MAX_INT]
        await written(engine, *shuffled([put(INTS, {"bucket": MIN_INT, "n": n}) for n in numbers]))
        read = Read(INTS.name, None, (MIN_INT,))
        assert numbers == [record["n"] for record in await self.all_of(engine, read)]
        assert numbers[::-1] == [record["n"] for record in await self.all_of(engine, read._replace(descending=True))]
        above = await self.all_of(engine, read._replace(bounds=(Bound(">", -10), Bound("<=", 255))))
        assert [-9, -1, 0, 1, 9, 10, 255] == [record["n"] for record in above]

    async def test_bytes_keys_are_read_in_unsigned_order(self, engine: RecordEngine) -> None:
        parts = [b"\x00", b"\x00\x00", b"\x00\xff", b"\x01", b"a", b"a\x00", b"ab", b"\x7f", b"\x80", b"\xff", b"\xff\x00", b"\xff\xff"]
        await written(engine, *shuffled([put(BYTES, {"file": b"\xff\x00", "part": part}) for part in parts]))
        read = Read(BYTES.name, None, (b"\xff\x00",))
        assert parts == [record["part"] for record in await self.all_of(engine, read)]
        above = await self.all_of(engine, read._replace(bounds=(Bound(">=", b"a\x00"), Bound("<", b"\xff\x00"))))
        assert [b"a\x00", b"ab", b"\x7f", b"\x80", b"\xff"] == [record["part"] for record in above]
        assert {"file": b"\xff\x00", "part": b"\x00"} == bare(await stored(engine, BYTES, b"\xff\x00", b"\x00"))

    async def test_encoded_decimals_are_read_in_the_order_of_numbers(self, engine: RecordEngine) -> None:
        numbers = [Decimal(text) for text in ("-9E+125", "-10", "-9.5", "-1", "-1E-130", "0", "1E-130", "0.5", "1", "9", "10", "9E+125")]
        await written(engine, *shuffled([put_note("u", number_key(number)) for number in numbers]))
        assert numbers == [number_from_key(str(id)) for id in ids(await self.all_of(engine, read_notes("u")))]

    async def test_a_partition_shows_only_its_own_records(self, engine: RecordEngine) -> None:
        await written(engine, *(put_note(owner, "1") for owner in ("a", "aa", "b", "A", "a ")))
        assert [note("a", "1")] == [bare(record) for record in await self.all_of(engine, read_notes("a"))]
        assert [] == await self.all_of(engine, read_notes("c"))

    async def test_composite_keys_are_ordered_part_by_part(self, engine: RecordEngine) -> None:
        parts = [("t", group, day, order) for group, day, order in product(("g", "gg"), (-1, 2, 10), ("a", "b"))]
        await written(engine, *shuffled([put(WIDE, dict(zip(WIDE.key, key, strict=True))) for key in parts]))

        async def found(read: Read) -> list[tuple[object, object]]:
            return [(record["day"], record["order"]) for record in await self.all_of(engine, read)]

        read = Read(WIDE.name, None, ("t", "g"))
        assert [(-1, "a"), (-1, "b"), (2, "a"), (2, "b"), (10, "a"), (10, "b")] == await found(read)
        assert [(2, "b"), (2, "a")] == await found(read._replace(fixed=(2,), descending=True))
        assert [(2, "b")] == await found(read._replace(fixed=(2,), bounds=(Bound(">", "a"),)))
        assert [(2, "a"), (2, "b"), (10, "a"), (10, "b")] == await found(read._replace(bounds=(Bound(">", -1),)))
        assert [(-1, "b"), (-1, "a")] == await found(read._replace(bounds=(Bound("<=", -1),), descending=True))
        assert [(10, "a")] == await found(read._replace(fixed=(10, "a")))
        assert [] == await found(read._replace(partition=("t", "x")))

    async def test_the_parts_of_a_key_do_not_run_together(self, engine: RecordEngine) -> None:
        keys = [("a", "bc", 1, "x"), ("ab", "c", 1, "x"), ("a", "b", 1, "cx"), ("a", "b", 11, "x"), ("a", "b", 1, "1x")]
        await written(engine, *(put(WIDE, dict(zip(WIDE.key, key, strict=True))) for key in keys))
        assert set(keys) == {tuple(record[name] for name in WIDE.key) for record in await self.scanned(engine, WIDE)}
        assert 3 == len(await self.all_of(engine, Read(WIDE.name, None, ("a", "b"))))

    async def test_the_longest_keys_are_stored(self, engine: RecordEngine) -> None:
        owner, id = "ö" * 1024, "i" * 552
        await written(engine, put_note(owner, id, stamp=1))
        assert note(owner, id, stamp=1) == bare(await stored(engine, NOTES, owner, id))
        assert [id] == ids(await self.all_of(engine, read_notes(owner)))


class Bounds(RecordSuite):
    texts = ("a", "ab", "abc", "b", "ba", "c")

    async def _six(self, engine: RecordEngine) -> None:
        await written(engine, *shuffled([put_note("u", text, kind="k", text=text) for text in self.texts]))

    async def test_every_pair_of_bounds_gives_what_lies_between_in_both_directions(self, engine: RecordEngine) -> None:
        await self._six(engine)
        values = ("", "a", "aa", "b", "c", "d")
        for low, high in product(product((">", ">="), values), product(("<", "<="), values)):
            expected = [
                text
                for text in self.texts
                if (text > low[1] or (low[0] == ">=" and text == low[1])) and (text < high[1] or (high[0] == "<=" and text == high[1]))
            ]
            bounds = (Bound(*low), Bound(*high))  # type: ignore[arg-type]
            assert expected == ids(await self.all_of(engine, read_notes("u", *bounds))), bounds
            assert expected[::-1] == ids(await self.all_of(engine, read_notes("u", *bounds, descending=True))), bounds

    async def test_a_single_bound_leaves_the_other_end_open(self, engine: RecordEngine) -> None:
        await self._six(engine)
        for bound, expected in (
            (Bound(">", "ab"), ["abc", "b", "ba", "c"]),
            (Bound(">=", "ab"), ["ab", "abc", "b", "ba", "c"]),
            (Bound("<", "ab"), ["a"]),
            (Bound("<=", "ab"), ["a", "ab"]),
            (Bound("prefix", "ab"), ["ab", "abc"]),
            (Bound("prefix", ""), list(self.texts)),
            (Bound("prefix", "x"), []),
        ):
            assert expected == ids(await self.all_of(engine, read_notes("u", bound))), bound
            assert expected[::-1] == ids(await self.all_of(engine, read_notes("u", bound, descending=True))), bound

    async def test_bounds_hold_on_an_index_in_both_directions(self, engine: RecordEngine) -> None:
        await self._six(engine)
        read = Read(NOTES.name, "by_text", ("k",))
        for bound, expected in (
            (Bound(">", "ab"), ["abc", "b", "ba", "c"]),
            (Bound(">=", "ab"), ["ab", "abc", "b", "ba", "c"]),
            (Bound("<", "ab"), ["a"]),
            (Bound("<=", "ab"), ["a", "ab"]),
            (Bound("prefix", "ab"), ["ab", "abc"]),
        ):
            asked = read._replace(bounds=(bound,))
            assert expected == ids(await self.all_of(engine, asked)), bound
            assert expected[::-1] == ids(await self.all_of(engine, asked._replace(descending=True))), bound

    async def test_a_prefix_with_the_top_of_the_code_space_is_exact(self, engine: RecordEngine) -> None:
        top, next_to_top = "\U0010ffff", "\U0010fffe"
        texts = sorted(
            ["a", "aÿ", "aÿÿ", "aĀ", "a\ud7ff", "a\ue000", "a" + top, "a" + top + top, "a" + next_to_top, "b", top, top + "a"],
            key=str.encode,
        )
        await written(engine, *shuffled([put_note("u", text, kind="k", text=text) for text in texts]))
        for prefix in ("a", "aÿ", "aÿÿ", "a\ud7ff", "a" + top, top, top + top, "a" + next_to_top):
            expected = [text for text in texts if text.startswith(prefix)]
            assert expected == ids(await self.all_of(engine, read_notes("u", Bound("prefix", prefix)))), ascii(prefix)
            indexed = Read(NOTES.name, "by_text", ("k",), bounds=(Bound("prefix", prefix),), descending=True)
            assert expected[::-1] == ids(await self.all_of(engine, indexed)), ascii(prefix)

    async def test_a_prefix_is_no_pattern_and_knows_case(self, engine: RecordEngine) -> None:
        await written(engine, *(put_note("u", text) for text in ("%x", "_x", "ax", "Ax", "*x", "[a]x")))
        for prefix in ("%", "_", "a", "A", "*", "[a]"):
            assert [prefix + "x"] == ids(await self.all_of(engine, read_notes("u", Bound("prefix", prefix))))

    async def test_a_prefix_and_another_bound_hold_together(self, engine: RecordEngine) -> None:
        await self._six(engine)
        assert ["abc"] == ids(await self.all_of(engine, read_notes("u", Bound("prefix", "ab"), Bound(">", "ab"))))


class Indexes(RecordSuite):
    async def test_a_record_without_an_index_part_is_not_in_the_index(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", kind="k", stamp=1), put_note("u", "2", kind="k"), put_note("u", "3", stamp=1))
        assert ["1"] == ids(await self.all_of(engine, read_kind("k")))
        assert ["1", "3"] == ids(await self.all_of(engine, Read(NOTES.name, "ByStamp", ("u",))))

    async def test_removing_an_index_part_takes_the_record_out_and_adding_puts_it_in(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", kind="k", stamp=1))
        await written(engine, update(NOTES, ("u", "1"), Remove(F("stamp"))))
        assert [] == await self.all_of(engine, read_kind("k"))
        await written(engine, update(NOTES, ("u", "1"), Set(F("stamp"), 2)))
        assert ["1"] == ids(await self.all_of(engine, read_kind("k")))
        await written(engine, put_note("u", "1", stamp=2))
        assert [] == await self.all_of(engine, read_kind("k"))
        await written(engine, put_note("u", "1", kind="k", stamp=2))
        assert ["1"] == ids(await self.all_of(engine, read_kind("k")))

    async def test_a_deleted_record_leaves_every_index(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", kind="k", stamp=1, text="x"), put_note("u", "2", kind="k", stamp=2, text="y"))
        await written(engine, delete(NOTES, "u", "1"))
        for index, partition in (("by_kind", "k"), ("ByStamp", "u"), ("by_text", "k")):
            assert ["2"] == ids(await self.all_of(engine, Read(NOTES.name, index, (partition,))))

    async def test_a_changed_index_part_moves_the_record(self, engine: RecordEngine) -> None:
        await written(engine, *(put_note("u", str(n), kind="k", stamp=n) for n in range(3)))
        await written(engine, put_note("u", "0", kind="k", stamp=10))
        assert ["1", "2", "0"] == ids(await self.all_of(engine, read_kind("k")))
        assert [1, 2, 10] == [record["stamp"] for record in await self.all_of(engine, read_kind("k"))]

    async def test_an_index_read_gives_the_whole_record_as_it_is(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", kind="k", stamp=1, data={"a": 1}))
        await written(engine, update(NOTES, ("u", "1"), Set(F("data.a"), 2), Set(F("text"), "new")))
        found = await self.all_of(engine, read_kind("k"))
        assert [await stored(engine, NOTES, "u", "1")] == found
        assert [note("u", "1", kind="k", stamp=1, data={"a": 2}, text="new")] == [bare(record) for record in found]

    async def test_index_order_is_by_sort_and_reversed_when_descending(self, engine: RecordEngine) -> None:
        stamps = [-(2**40), -10, -9, 0, 9, 10, 2**40]
        await written(engine, *shuffled([put_note(f"u{n}", "x", kind="k", stamp=stamp) for n, stamp in enumerate(stamps)]))
        assert stamps == [record["stamp"] for record in await self.all_of(engine, read_kind("k"))]
        assert stamps[::-1] == [record["stamp"] for record in await self.all_of(engine, read_kind("k", descending=True))]
        between = read_kind("k", Bound(">=", -9), Bound("<", 10), descending=True)
        assert [9, 0, -9] == [record["stamp"] for record in await self.all_of(engine, between)]

    async def test_an_index_over_several_parts_is_read_by_leading_ones(self, engine: RecordEngine) -> None:
        def wide(select: str | None, at: int | None, where: str | None, order: str) -> Op:
            record: Record = {"tenant": "t", "group": "g", "day": 1, "order": order, "select": select, "from": at, "where": where}
            return put(WIDE, {name: value for name, value in record.items() if value is not None})

        await written(engine, wide("s", 2, "b", "1"), wide("s", 1, "z", "2"), wide("s", 2, "a", "3"), wide("r", 1, "a", "4"))
        await written(engine, wide(None, 1, "a", "5"), wide("s", None, "a", "6"), wide("s", 1, None, "7"))

        async def found(*fixed: KeyPart, bounds: tuple[Bound, ...] = ()) -> list[object]:
            read = Read(WIDE.name, "WideSelectIndex", ("t", "s"), fixed, bounds)
            return [record["order"] for record in await self.all_of(engine, read)]

        assert ["2", "3", "1"] == await found()
        assert ["3", "1"] == await found(2)
        assert ["1"] == await found(2, bounds=(Bound("prefix", "b"),))
        assert ["3", "1"] == await found(bounds=(Bound(">", 1),))

    async def test_expired_and_marked_records_stay_in_the_index_until_deleted(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", kind="k", stamp=1, expires=NOW_S - 5), put_note("u", "2", kind="k", stamp=2))
        await written(engine, update(NOTES, ("u", "2"), Set(F(MARK), NOW)))
        assert ["1", "2"] == ids(await self.all_of(engine, read_kind("k")))

    async def test_a_refused_batch_leaves_the_indexes_as_they_were(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", kind="k", stamp=1))
        before = await self.all_of(engine, read_kind("k"))
        bad = update(NOTES, ("u", "1"), Set(F("stamp"), 9), when=[F("stamp") == 2])
        await refused(engine, bad, put_note("u", "2", kind="k", stamp=2))
        assert before == await self.all_of(engine, read_kind("k"))
