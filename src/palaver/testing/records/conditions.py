"""Facts about conditions: every comparison over every type, on top and inside, present and missing.

The expected answers are written out, not computed: `expr.evaluate` may be wrong as well.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from palaver.expr import Condition, F
from palaver.ops import Check, Written
from palaver.ports import RecordEngine
from palaver.testing.records.base import NOTES, NOW, RecordSuite, address, attempt, guards, put, put_note, written

FULL: dict[str, Any] = {
    "owner": "u",
    "id": "1",
    "kind": "",
    "stamp": 10,
    "text": "hello wörld",
    "score": 1.5,
    "amount": Decimal("10"),
    "done": True,
    "raw": b"\x00ab\xff",
    "data": {
        "n": 10,
        "f": 2.5,
        "d": Decimal("12345678901234567890.123456789"),
        "s": "x",
        "t": True,
        "none": None,
        "list": [1, "a", None, [2]],
        "deep": {"er": [{"id": "here"}]},
        "set": frozenset({"p", "q"}),
        "raw": b"\x01",
        "$": "dollar",
        "": "empty",
    },
    "tags": ["red", "green", 3],
}

TRUE: dict[str, Condition] = {
    "text equals the same text": F("text") == "hello wörld",
    "text differs from another text": F("text") != "hello",
    "text orders by bytes": F("text") < "hello wörle",
    "lower case is after upper case": F("text") > "Z",
    "empty text equals empty text": F("kind") == "",
    "empty text is before all text": F("kind") < "a",
    "an integer equals a Decimal": F("stamp") == Decimal("10.0"),
    "an integer equals a float": F("stamp") == 10.0,
    "an integer orders with a Decimal": F("stamp") < Decimal("10.5"),
    "an integer orders as a number, not as text": F("stamp") > 9,
    "a Decimal equals an integer": F("amount") == 10,
    "a Decimal orders as a number": F("amount") > 9,
    "a Decimal orders with a float": F("amount") < 10.25,
    "a float equals a Decimal": F("score") == Decimal("1.5"),
    "a float orders with an integer": F("score") >= 1,
    "true equals true": F("done") == True,  # noqa: E712
    "true differs from false": F("done") != False,  # noqa: E712
    "true differs from one": F("done") != 1,
    "bytes equal bytes": F("raw") == b"\x00ab\xff",
    "bytes order unsigned": F("raw") < b"\x01",
    "bytes start with bytes": F("raw").starts_with(b"\x00a"),  # type: ignore[arg-type]
    "bytes contain bytes": F("raw").contains(b"b\xff"),
    "text differs from a number": F("text") != 10,
    "a number differs from its text": F("stamp") != "10",
    "text differs from its bytes": F("text") != b"hello",
    "a missing attribute differs from everything": F("expires") != 5,
    "a missing inner attribute differs from everything": F("data.nothing.inner") != "x",
    "between includes both ends": F("stamp").between(10, 10),
    "between holds inside": F("score").between(1, Decimal("1.6")),
    "in holds for one of the values": F("stamp").is_in([1, "10", 10]),
    "in compares numbers by value": F("stamp").is_in([Decimal("10")]),
    "a hundred values may be asked for": F("stamp").is_in(range(100)),
    "text starts with a part": F("text").starts_with("hello w"),
    "text starts with the empty text": F("text").starts_with(""),
    "text contains a part": F("text").contains("o wö"),
    "text contains the empty text": F("text").contains(""),
    "a list contains an element": F("tags").contains("green"),
    "a list contains a number by value": F("tags").contains(Decimal("3")),
    "a set contains an element": F("data.set").contains("p"),
    "a list contains a list": F("data.list").contains([2]),
    "a list contains null": F("data.list").contains(None),
    "an attribute exists": F("done").exists(),
    "an empty text exists": F("kind").exists(),
    "an inner attribute exists": F("data.deep.er[0].id").exists(),
    "a null inside a value exists": F("data.none").exists(),
    "a null inside a value equals null": F("data.none") == None,  # noqa: E711
    "a null inside a value differs from text": F("data.none") != "",
    "an attribute is missing": F("expires").missing(),
    "a list position past the end is missing": F("tags[3]").missing(),
    "a name inside a text is missing": F("text.inner").missing(),
    "a position inside a map is missing": F("data[0]").missing(),
    "a name inside a list is missing": F("tags.inner").missing(),
    "an inner integer compares": F("data.n") > 9,
    "an inner float compares": F("data.f") == 2.5,
    "an inner Decimal compares in all its digits": F("data.d") > Decimal("12345678901234567890.123456788"),
    "an inner Decimal equals in all its digits": F("data.d") == Decimal("12345678901234567890.123456789"),
    "an inner truth value compares": F("data.t") == True,  # noqa: E712
    "inner bytes compare": F("data.raw") == b"\x01",
    "an inner position compares": F("tags[1]") == "green",
    "a name that looks like a path compares": F("data.$") == "dollar",
    "lists are equal in order": F("tags") == ["red", "green", Decimal("3")],
    "maps are equal in any order": F("data.deep") == {"er": [{"id": "here"}]},
    "sets are equal in any order": F("data.set") == frozenset(["q", "p"]),
    "a set differs from a list": F("data.set") != ["p", "q"],
    "and holds when both hold": (F("stamp") == 10) & (F("done") == True),  # noqa: E712
    "or holds when one holds": (F("stamp") == 11) | (F("kind") == ""),
    "not turns false into true": ~(F("stamp") == 11),
    "not over a missing attribute holds": ~(F("expires") > 5),
    "conditions nest": ~((F("stamp") == 11) | ~((F("score") > 1) & ~F("expires").exists())),
}

FALSE: dict[str, Condition] = {
    "text does not equal another case": F("text") == "Hello wörld",
    "text does not equal itself with a space": F("text") == "hello wörld ",
    "a number does not equal its text": F("stamp") == "10",
    "a number is not before text": F("stamp") < "9",
    "a number is not after text": F("stamp") > "1",
    "text is not before a number": F("text") < 5,
    "text is not after bytes": F("text") > b"",
    "true is not one": F("done") == 1,
    "one is not true": F("stamp").is_in([True]),
    "truth values do not order": F("done") > False,
    "lists do not order": F("tags") > ["a"],
    "a missing attribute equals nothing": F("expires") == 0,
    "a missing attribute does not equal null": F("expires") == None,  # noqa: E711
    "a missing attribute is before nothing": F("expires") < 10**9,
    "a missing attribute is after nothing": F("expires") >= 0,
    "a missing attribute is in nothing": F("expires").is_in([0, None]),
    "a missing attribute contains nothing": F("expires").contains(""),
    "a missing attribute starts with nothing": F("expires").starts_with(""),
    "a missing attribute is between nothing": F("expires").between(0, 10**9),
    "between does not hold below": F("stamp").between(Decimal("10.1"), 20),
    "between the wrong way round holds never": F("stamp").between(20, 1),
    "in does not hold without a value": F("stamp").is_in([]),
    "in does not compare text with numbers": F("stamp").is_in(["10"]),
    "text does not start with its middle": F("text").starts_with("ello"),
    "a percent sign is no wildcard": F("text").starts_with("h%"),
    "an underscore is no wildcard": F("text").contains("h_llo"),
    "a star is no wildcard": F("text").starts_with("h*"),
    "starting is exact about case": F("text").starts_with("HELLO"),
    "containing is exact about case": F("text").contains("HELLO"),
    "a number starts with nothing": F("stamp").starts_with("1"),
    "a number contains nothing": F("stamp").contains(1),
    "text does not contain a number": F("text").contains(1),
    "a list does not contain a part of an element": F("tags").contains("gre"),
    "a list does not contain the text of a number": F("tags").contains("3"),
    "a map does not contain its names": F("data").contains("n"),
    "a set does not contain another type": F("data.set").contains(b"p"),
    "a missing attribute does not exist": F("expires").exists(),
    "an attribute is not missing": F("kind").missing(),
    "a null inside a value is not missing": F("data.none").missing(),
    "an inner integer is not its text": F("data.n") == "10",
    "an inner text is not a truth value": F("data.t") == "true",
    "an inner truth value is not one": F("data.t") == 1,
    "an inner Decimal is not its neighbour": F("data.d") == Decimal("12345678901234567890.123456788"),
    "lists differ in order": F("tags") == ["green", "red", 3],
    "lists differ in length": F("tags") == ["red", "green"],
    "maps differ in content": F("data.deep") == {"er": [{"id": "there"}]},
    "a map does not equal its text": F("data.deep") == '{"er":[{"id":"here"}]}',
    "and fails when one fails": (F("stamp") == 10) & (F("done") == False),  # noqa: E712
    "or fails when both fail": (F("stamp") == 11) | (F("kind") == "x"),
    "not turns true into false": ~(F("stamp") == 10),
}


class Conditions(RecordSuite):
    async def _judge(self, engine: RecordEngine, condition: Condition) -> bool:
        done = await attempt(engine, Check(address(NOTES, "u", "1"), guards(condition)), now_us=NOW)
        return isinstance(done, Written)

    @pytest.mark.parametrize("fact", TRUE)
    async def test_a_condition_holds(self, engine: RecordEngine, fact: str) -> None:
        await written(engine, put(NOTES, FULL))
        assert await self._judge(engine, TRUE[fact])

    @pytest.mark.parametrize("fact", FALSE)
    async def test_a_condition_fails(self, engine: RecordEngine, fact: str) -> None:
        await written(engine, put(NOTES, FULL))
        assert not await self._judge(engine, FALSE[fact])

    @pytest.mark.parametrize("text", ["'", '"', "%", "_", "\\", "a\nb", "\u2028", "😀", "ÿ", "\U0010ffff", "'; --", "$.a", "{}", "[0]"])
    async def test_a_naughty_text_equals_itself_and_contains_itself(self, engine: RecordEngine, text: str) -> None:
        await written(engine, put_note("u", "1", text=f"a{text}b", data={"s": text}))
        assert await self._judge(engine, F("text") == f"a{text}b")
        assert await self._judge(engine, F("text").contains(text))
        assert await self._judge(engine, F("text").starts_with(f"a{text}"))
        assert await self._judge(engine, F("data.s") == text)
        assert not await self._judge(engine, F("text").contains(f"b{text}"))

    async def test_a_whole_number_column_with_a_huge_literal_compares(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", stamp=2**63 - 1, amount=Decimal("9.99E+125")))
        assert await self._judge(engine, F("stamp") < Decimal(2**63))
        assert await self._judge(engine, F("stamp") > 2**63 - 2)
        assert await self._judge(engine, F("stamp") == 2**63 - 1)
        assert not await self._judge(engine, F("stamp") == Decimal(2**63))
        assert await self._judge(engine, F("amount") > 10**125)
        assert await self._judge(engine, F("amount") == Decimal("999E+123"))
