"""Exports: whole, exact, stable, in constant memory."""

from __future__ import annotations

import base64
import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, strategies as st

from palaver.clock import ManualClock
from palaver.errors import Validation
from palaver.lifecycle.encoding import cell, decimal_text, json_value
from palaver.lifecycle.export import export
from palaver.store import Store
from tests.lifecycle.app import Address, Conversation, Counter, Message, User


async def lines(store: Store, what: Any, **options: Any) -> list[dict[str, Any]]:
    exported = await export(store, what, **options)
    return [json.loads(line) async for line in exported]


async def test_the_count_comes_first_and_nothing_is_cut_off(store: Store) -> None:
    await store.bulk(Counter(name=f"c{number:05d}", n=number) for number in range(1_234))
    exported = await export(store, Counter)
    assert 1_234 == exported.count
    found = [json.loads(line) async for line in exported]
    assert set(range(1_234)) == {record["n"] for record in found}


async def test_values_keep_every_digit_and_byte(store: Store) -> None:
    user = User(
        user_id="u",
        email="a@b.c",
        home=Address(city="Zürich"),
        token="do not tell",
        balance=Decimal("12345678901234567890.0123456789"),
        avatar=bytes(range(256)),
        tags=frozenset({"b", "a"}),
    )
    await store.create(user)
    (record,) = await lines(store, User)
    assert "token" not in record
    assert user.balance == Decimal(record["balance"])
    assert user.avatar == base64.b64decode(record["avatar"])
    assert (["a", "b"], {"city": "Zürich"}, None) == (record["tags"], record["home"], record["name"])


async def test_instants_are_iso_in_utc(store: Store) -> None:
    at = datetime.fromisoformat("2026-03-10T14:00:00.125+02:00")
    await store.create(Conversation(user_id="u", conversation_id="c", last_active=at))
    (record,) = await lines(store, Conversation)
    assert "2026-03-10T12:00:00.125000Z" == record["last_active"]
    assert "2026-04-09T12:00:01.000000Z" == record["expires"]


async def test_large_values_are_exported_whole(store: Store) -> None:
    await store.create(Conversation(user_id="u", conversation_id="c"))
    context: dict[str, Any] = {"history": ["x" * 100] * 50}
    await store.create(Message(conversation_id="c", message_id="1", owner_id="u", user_id="u", content="hi", context=context))
    (record,) = await lines(store, Message)
    assert context == record["context"]
    assert "1" == record["message_id"]


async def test_a_query_exports_its_records_in_its_order(store: Store) -> None:
    for number in range(5):
        await store.create(Conversation(user_id="u", conversation_id=f"c{number}"))
        await store.create(Conversation(user_id="v", conversation_id=f"c{number}"))
    found = await lines(store, Conversation.key("u").newest_first())
    assert ["c4", "c3", "c2", "c1", "c0"] == [record["conversation_id"] for record in found]
    assert 5 == (await export(store, Conversation.key("u"))).count


async def test_personal_fields_can_be_left_out(store: Store) -> None:
    await store.create(User(user_id="u", email="a@b.c"))
    (record,) = await lines(store, User, personal=False)
    assert {"user_id", "balance", "avatar", "tags"} == set(record)


async def test_expired_records_are_not_exported(store: Store, clock: ManualClock) -> None:
    await store.create(Conversation(user_id="u", conversation_id="c", last_active=clock.now()))
    clock.advance(timedelta(days=31))
    exported = await export(store, Conversation)
    assert (0, []) == (exported.count, [line async for line in exported])


async def test_csv_round_trips_through_a_reader(store: Store) -> None:
    await store.create(User(user_id='u"1,\n', email="a@b.c", name="", balance=Decimal("0.10")))
    await store.create(User(user_id="u2", email="d@e.f"))
    exported = await export(store, User, format="csv")
    out = io.BytesIO()
    assert 2 == await exported.write(out)
    rows = {row["user_id"]: row for row in csv.DictReader(io.StringIO(out.getvalue().decode(), newline=""))}
    assert ("a@b.c", "0.1", '{"city":""}') == tuple(rows['u"1,\n'][name] for name in ("email", "balance", "home"))
    assert b',"",' in out.getvalue()
    assert "" == cell(None)
    assert '""' == cell("")


async def test_a_line_is_one_line_whatever_a_text_holds(store: Store) -> None:
    """Chats are full of what was pasted: U+2028 ends a line for `str.splitlines`, and for editors."""
    text = "a\nb\r\nc\u2028d\u2029e\x85f\x0bg\x0ch\x1ci\x1dj\x1ek\x00l".replace("\0", "")
    for number in range(3):
        await store.create(User(user_id=f"u{number}", email=f"{number}@b.c", name=text))
    whole = b"".join([line async for line in await export(store, User)]).decode()
    assert [text] * 3 == [json.loads(line)["name"] for line in whole.splitlines()]
    rows = b"".join([line async for line in await export(store, User, format="csv")]).decode()
    assert [text] * 3 == [row["name"] for row in csv.DictReader(io.StringIO(rows, newline=""))]


async def test_what_a_spreadsheet_takes_for_a_formula_is_exported_as_it_is(store: Store) -> None:
    """The page of the command says so: a changed text would be another one when it is read back."""
    await store.create(User(user_id="u", email="a@b.c", name="=cmd|' /C calc'!A0"))
    rows = b"".join([line async for line in await export(store, User, format="csv")]).decode()
    assert ["=cmd|' /C calc'!A0"] == [row["name"] for row in csv.DictReader(io.StringIO(rows, newline=""))]


async def test_an_unknown_format_is_refused(store: Store) -> None:
    with pytest.raises(Validation):
        await export(store, User, format="xml")  # type: ignore[arg-type]


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_comes_back_as_it_was(number: Decimal) -> None:
    assert number == Decimal(decimal_text(number))


class Colour(Enum):
    RED = 1


def test_every_python_value_of_a_field_has_one_json_form() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert [1, "2026-01-02T03:04:05.000006Z", "1.500000", "AAE=", ["a"], {"n": [1]}, "2026-01-02", True] == json_value(
        [Colour.RED, moment, timedelta(seconds=1.5), b"\0\1", {"a"}, {"n": (1,)}, moment.date(), True]
    )
    with pytest.raises(TypeError):
        json_value(object())
