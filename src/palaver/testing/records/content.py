"""Facts about values: what is stored comes back as it was, type and content, to the last digit."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from palaver.expr import Path
from palaver.ops import REVISION, Add, Set
from palaver.ports import RecordEngine
from palaver.testing.records.base import (
    COUNTERS,
    NOTES,
    RecordSuite,
    bare,
    exact,
    loaded,
    note,
    put,
    put_note,
    read_kind,
    read_notes,
    stored,
    update,
    written,
)
from palaver.testing.records.texts import NAUGHTY
from palaver.values import MAX_INT, MAX_RECORD, MIN_INT, record_size

DECIMALS = (
    "0",
    "1",
    "-1",
    "0.1",
    "-0.001",
    "12345678901234567890123456789012345678",
    "-1.2345678901234567890123456789012345678",
    "1E+38",
    "1E-130",
    "-1E-130",
    "9.9999999999999999999999999999999999999E+125",
    "-9.9999999999999999999999999999999999999E+125",
    "9007199254740993",
    "18446744073709551616",
)
FLOATS = (0.0, 1.0, -1.0, 0.1, 1 / 3, 1e100, -1e-100, 1e22, 2.0**53, 123456789.123456789, 5e-125, 1e16)
INTS = (0, 1, -1, 2**31, -(2**31), 2**53 + 1, -(2**53) - 1, MAX_INT, MIN_INT, MAX_INT - 1)
NAMES = (
    *("$", "$n", "$d", "$b", "$set", "$type", "$$", "$.a", "a.b", 'a"b', "a'b", "a\\b", "__proto__", "", " ", "[0]", "0"),
    *("😀", "é", "a/b", "~", "@type", "__type__", "null", "%"),
)


def nested(depth: int, kind: str) -> Any:
    """Return a value of so many containers inside each other."""
    value: Any = "bottom"
    for _ in range(depth):
        value = [value] if kind == "list" else {"d": value}
    return value


def _scalars(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _scalars(inner)
    else:
        yield value


class Content(RecordSuite):
    async def _round(self, engine: RecordEngine, **fields: Any) -> None:
        """See that fields come back exactly by get and by query, and survive a second round."""
        await written(engine, put_note("u", "1", **fields))
        expected = exact(note("u", "1", **fields))
        found = bare(await stored(engine, NOTES, "u", "1"))
        assert expected == exact(found)
        assert [expected] == [exact(bare(record)) for record in await self.all_of(engine, read_notes("u"))]
        assert found is not None
        await written(engine, put(NOTES, found))
        assert expected == exact(bare(await stored(engine, NOTES, "u", "1")))

    @pytest.mark.parametrize("text", DECIMALS)
    async def test_a_decimal_keeps_every_digit(self, engine: RecordEngine, text: str) -> None:
        await self._round(engine, amount=Decimal(text), data={"d": Decimal(text), "l": [Decimal(text)]})

    @pytest.mark.parametrize("number", FLOATS)
    async def test_a_float_stays_a_float(self, engine: RecordEngine, number: float) -> None:
        await self._round(engine, score=number)

    async def test_a_zero_has_no_sign(self, engine: RecordEngine) -> None:
        """Some databases cannot keep one, so that none does: what is read says the same wherever it is stored."""
        data = {"f": -0.0, "l": [-0.0, Decimal("-0"), "-0.0"]}
        fields: dict[str, Any] = {"kind": "k", "stamp": 1, "score": -0.0, "amount": Decimal("-0.0"), "data": data}
        await written(engine, put_note("u", "1", **fields), put_note("u", "2", kind="k", stamp=1, score=1.0, data={"f": 1.0}))
        await loaded(engine, put_note("u", "3", **fields))
        changes = Set(Path("score"), -0.0), Set(Path("data.f"), -0.0), Set(Path("tags"), [-0.0])
        await written(engine, update(NOTES, ("u", "2"), *changes))
        await written(engine, put_note("u", "4", kind="k", stamp=1, score=-0.0), put_note("u", "5", kind="k", stamp=1))
        await written(engine, update(NOTES, ("u", "5"), Add(Path("score"), -0.0)))
        await self.settle(engine)
        for found in (await self.all_of(engine, read_notes("u")), await self.all_of(engine, read_kind("k"))):
            assert 5 == len(found)
            for record in found:
                signed = [value for value in _scalars(record) if value == 0 and str(value).startswith("-")]
                assert not signed, record
        assert "-0.0" == (await stored(engine, NOTES, "u", "1"))["data"]["l"][2]  # type: ignore[index, call-overload]

    @pytest.mark.parametrize("number", INTS)
    async def test_an_integer_keeps_every_bit(self, engine: RecordEngine, number: int) -> None:
        await self._round(engine, stamp=number, data={"n": number, "l": [number]})

    async def test_numbers_inside_keep_their_type(self, engine: RecordEngine) -> None:
        await self._round(engine, data={"i": 1, "f": 1.0, "d": Decimal(1), "t": True}, tags=[1, 1.0, Decimal(1), True, 0, 0.0, False])
        await self._round(engine, data=list(FLOATS))

    @pytest.mark.parametrize("done", [True, False])
    async def test_a_truth_value_is_not_a_number(self, engine: RecordEngine, done: bool) -> None:
        await self._round(engine, done=done, data={"b": done}, tags=[done, int(done)])

    async def test_every_naughty_text_comes_back(self, engine: RecordEngine) -> None:
        puts = [put_note("u", f"{n:04d}", text=text, data={"t": [text]}) for n, text in enumerate(NAUGHTY)]
        await loaded(engine, *puts)
        found = await self.all_of(engine, read_notes("u"))
        assert list(NAUGHTY) == [record["text"] for record in found]
        assert [{"t": [text]} for text in NAUGHTY] == [record["data"] for record in found]

    async def test_every_naughty_text_may_be_a_name_inside_a_map(self, engine: RecordEngine) -> None:
        await self._round(engine, data=dict.fromkeys(NAUGHTY, 1))

    async def test_names_that_look_like_tags_or_paths_are_only_names(self, engine: RecordEngine) -> None:
        await self._round(engine, data={name: name for name in NAMES})
        for name in NAMES:
            await self._round(engine, data={name: "1"}, tags=[{name: [{name: None}]}])
            await self._round(engine, data={name: Decimal("1.5")}, tags={name: {name: b"x"}})

    async def test_an_empty_text_and_empty_bytes_are_values(self, engine: RecordEngine) -> None:
        await self._round(engine, text="", raw=b"", kind="", data={"s": "", "b": b"", "l": [], "m": {}}, tags=[])
        await self._round(engine, data={}, tags=["", b"", [], {}])

    async def test_every_byte_comes_back(self, engine: RecordEngine) -> None:
        every = bytes(range(256))
        await self._round(engine, raw=every, data={"raw": every, "list": [b"\x00", b"\xff"]})

    async def test_null_inside_is_a_value(self, engine: RecordEngine) -> None:
        await self._round(engine, data={"a": None, "b": [None, {"c": None}]}, tags=[None])

    async def test_sets_come_back_as_sets(self, engine: RecordEngine) -> None:
        await self._round(engine, tags=frozenset({"a", "b", ""}), data={"s": frozenset({"x"}), "l": [frozenset({b"\x00", b""})]})
        await self._round(engine, tags=frozenset({1, -5, MAX_INT}), data={"d": frozenset({Decimal("0.1"), Decimal("1E+30")})})
        await self._round(engine, tags=frozenset({"$set"}), data={"$set": ["a"]})

    @pytest.mark.parametrize("kind", ["list", "map"])
    async def test_thirty_two_levels_come_back(self, engine: RecordEngine, kind: str) -> None:
        await self._round(engine, data=nested(32, kind))

    async def test_the_order_of_a_list_is_kept(self, engine: RecordEngine) -> None:
        await self._round(engine, tags=[3, 1, 2, "b", "a", [2, 1]])

    async def test_a_thousand_elements_come_back(self, engine: RecordEngine) -> None:
        await self._round(engine, data={f"name {n}": n for n in range(1000)}, tags=list(range(1000)))

    async def test_texts_that_look_like_other_types_stay_texts(self, engine: RecordEngine) -> None:
        for text in ("1", "1.0", "true", "null", "1e5", "2026-01-01", "[1]", '{"a":1}', "0x10", "b'x'", "Infinity", "9" * 40):
            await self._round(engine, text=text, kind=text, data={"t": text}, tags=[text])

    async def test_a_record_at_the_limit_is_stored(self, engine: RecordEngine) -> None:
        room = MAX_RECORD - record_size(note("u", "1", text=""), "Note")
        record = note("u", "1", text="x" * room)
        assert record_size(record, "Note") == 409_600
        await self._round(engine, text="x" * room)
        await self._round(engine, text="é" * (room // 2))

    async def test_a_nested_record_at_the_limit_is_stored(self, engine: RecordEngine) -> None:
        room = MAX_RECORD - record_size(note("u", "1", data={"big": "", "raw": b""}), "Note")
        await self._round(engine, data={"big": "\\" * (room // 2), "raw": b"\xff" * (room - room // 2)})

    async def test_attributes_with_alike_names_in_different_records_do_not_mix(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", text="a"), put(COUNTERS, {"name": "u", "text": "b"}))
        assert note("u", "1", text="a") == bare(await stored(engine, NOTES, "u", "1"))
        found = await stored(engine, COUNTERS, "u")
        assert found is not None
        assert set(found) == {"name", "text", REVISION}
