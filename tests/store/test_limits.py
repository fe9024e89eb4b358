"""Bad input meets a named error before anything is stored, and no error or log line holds what was stored."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pydantic
import pytest

from palaver import Batch, Entity, F, Key, Schema, Store
from palaver.errors import (
    AlreadyExists,
    BadCursor,
    BatchShape,
    EmptyKey,
    Expression,
    ItemTooLarge,
    KeyTooLong,
    KeyType,
    NumberRange,
    PalaverError,
    Validation,
)
from palaver.values import MAX_RECORD, record_size
from tests.store.conftest import Opener
from tests.store.world import Intent, Member, Message, Team, User, conversation, message

CANARY = "canary-7f3a"
NAMES = ("has no field", "has no search index", "has no filter")
"""What the caller wrote as the name of a field or an index is a name, not a stored value."""


class Sack(Entity, table="sacks"):
    id: str
    text: str = ""
    number: int = 0
    amount: float = 0.0
    data: dict[str, Any] | None = None
    key = Key("id")


@pytest.fixture
async def sacks(opened: Opener) -> Store:
    return await opened(Schema("sacks", [Sack]))


async def stored(store: Store, *tables: str) -> int:
    return sum([len((await store.core.records.scan(table, after=None, limit=100)).records) for table in tables])


def overhead() -> int:
    from palaver.plan import Planner

    codec = Planner(Schema("sacks", [Sack])).codec(Sack)
    return record_size(codec.encode(Sack(id="i", text="x"), 1, None).record, "Sack") - 1 + len("_revision") + 8


async def test_a_record_of_exactly_the_limit_is_stored_and_one_byte_more_is_not(sacks: Store) -> None:
    most = MAX_RECORD - overhead()

    await sacks.create(Sack(id="i", text="x" * most))
    assert most == len((await sacks.get(Sack.at("i"))).text)
    with pytest.raises(ItemTooLarge):
        await sacks.create(Sack(id="j", text="x" * (most + 1)))
    with pytest.raises(ItemTooLarge):
        await sacks.put(Sack(id="i", text="x" * (most + 1)))
    with pytest.raises(ItemTooLarge):
        await sacks.patch(Sack.at("i"), set={"text": "x" * (MAX_RECORD + 1)})
    with pytest.raises(ItemTooLarge):
        await sacks.bulk([Sack(id="j", text="x" * (most + 1))])
    assert 1 == await stored(sacks, "sacks")


async def test_keys_of_exactly_the_limit_are_stored(sacks: Store, store: Store) -> None:
    await sacks.create(Sack(id="x" * 2048))
    await sacks.create(Sack(id="é" * 1024))
    with pytest.raises(KeyTooLong):
        await sacks.create(Sack(id="x" * 2049))
    with pytest.raises(KeyTooLong):
        await sacks.create(Sack(id="é" * 1025))
    await store.create(Team(id="x" * 1576))
    await store.create(Member(team_id="x" * 1576, name="n" * 1024))
    await store.create(Team(id="x" * 1577))
    with pytest.raises(KeyTooLong):
        await store.create(Member(team_id="x" * 1577, name="n" * 1024))
    with pytest.raises(KeyTooLong):
        await store.create(Member(team_id="x", name="n" * 1025))


async def test_an_index_entry_is_limited_with_its_key(store: Store) -> None:
    await store.create(conversation("x" * 1000, user="u" * 700))
    with pytest.raises(KeyTooLong):
        await store.create(message(1, "x" * 1000, user="u" * 1600))
    assert 0 == await stored(store, "messages")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Sack(id=""), EmptyKey),
        (lambda: Sack(id="a\0b"), Validation),
        (lambda: Sack(id="a\ud800"), Validation),
        (lambda: Sack(id="i", text="a\0b"), Validation),
        (lambda: Sack(id="i", text="a\udfff"), Validation),
        (lambda: Sack(id="i", data={"a": "\0"}), Validation),
        (lambda: Sack(id="i", data={"\0": "a"}), Validation),
        (lambda: Sack(id="i", data={"a": ["b", {"c": "\ud800"}]}), Validation),
        (lambda: Sack(id="i", number=2**63), NumberRange),
        (lambda: Sack(id="i", number=-(2**63) - 1), NumberRange),
        (lambda: Sack(id="i", data={"a": 10**130}), NumberRange),
        (lambda: Sack(id="i", amount=float("nan")), NumberRange),
        (lambda: Sack(id="i", amount=float("inf")), NumberRange),
        (lambda: Sack(id="i", data={"a": float("nan")}), NumberRange),
        (lambda: Sack(id="i", data={"a": object()}), Validation),
        (lambda: Sack(id="i", data={"a": set()}), Validation),
        (lambda: Sack.model_validate({"id": "i", "data": {1: "a"}}), (Validation, pydantic.ValidationError)),
    ],
)
async def test_what_no_engine_holds_is_refused_by_every_verb(sacks: Store, make: Any, error: Any) -> None:
    for verb in (lambda: sacks.create(make()), lambda: sacks.put(make()), lambda: sacks.bulk([make()])):
        with pytest.raises(error):
            await verb()
    assert 0 == await stored(sacks, "sacks")


async def test_nesting_has_a_depth(sacks: Store) -> None:
    data: dict[str, Any] = {}
    for _ in range(31):
        data = {"a": data}
    await sacks.create(Sack(id="i", data=data))
    with pytest.raises(Validation, match="deeper than 32"):
        await sacks.create(Sack(id="j", data={"a": data}))


async def test_unknown_fields_and_wrong_types_are_refused_when_the_instance_is_made() -> None:
    for fields in ({"id": "i", "texd": CANARY}, {"id": 5}, {"id": "i", "number": CANARY}, {"id": "i", "data": CANARY}, {}):
        with pytest.raises(pydantic.ValidationError) as refused:
            Sack.model_validate(fields)
        assert CANARY not in str(refused.value)


async def test_a_batch_has_at_most_a_hundred_ops_after_expansion(store: Store) -> None:
    teams = Batch()
    for n in range(100):
        teams = teams.put(Team(id=str(n)))
    with pytest.raises(BatchShape, match="101 ops"):
        await store.write(teams.put(Team(id="one more")))
    await store.delete(Team.at("0"))
    members = Batch()
    for n in range(100):
        members = members.create(Member(team_id="t", name=str(n)))
    with pytest.raises(BatchShape, match="101 ops"):
        await store.write(members)
    users = Batch()
    for n in range(34):
        users = users.create(User(id=str(n), email=str(n)))
    with pytest.raises(BatchShape, match="102 ops"):
        await store.write(users)
    assert 0 == await stored(store, "teams", "members", "users")

    await store.write(Batch(users.ops[:33]))
    await store.write(Batch(teams.ops))
    with pytest.raises(BatchShape, match="101 ops"):
        await store.write(Batch(teams.ops), token="x")


async def test_a_batch_has_at_most_four_megabytes(sacks: Store) -> None:
    each = MAX_RECORD - overhead()
    batch = Batch()
    for n in range(10):
        batch = batch.put(Sack(id=str(n), text="x" * each))
    rest = 4 * 1024 * 1024 - 10 * MAX_RECORD - overhead()

    with pytest.raises(BatchShape, match="bytes"):
        await sacks.write(batch.put(Sack(id="+", text="x" * (rest + 1000))))
    assert 0 == await stored(sacks, "sacks")
    await sacks.write(batch.put(Sack(id="+", text="x" * (rest - 1000))))


async def test_sums_stay_in_range(sacks: Store) -> None:
    await sacks.create(Sack(id="i", number=2**63 - 1, amount=9e125))

    with pytest.raises(NumberRange):
        await sacks.patch(Sack.at("i"), add={"number": 1})
    with pytest.raises(NumberRange):
        await sacks.patch(Sack.at("i"), add={"amount": 9e125})
    assert 2**63 - 1 == (await sacks.get(Sack.at("i"))).number


async def test_no_error_and_no_log_line_holds_what_was_stored(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await store.create(User(id=CANARY, email=CANARY, password=CANARY))
    await store.create(Team(id=CANARY))
    await store.create(Member(team_id=CANARY, name=CANARY))
    await store.create(conversation(CANARY))
    await store.create(message(1, CANARY, text=CANARY))
    page = await store.page(Message.key(CANARY), limit=1)
    texts: list[str] = []
    attempts: list[Any] = [
        lambda: store.create(User(id=CANARY, email=CANARY)),
        lambda: store.create(User(id="v", email=CANARY)),
        lambda: store.put(User(id="v", email=CANARY)),
        lambda: store.patch(User.at(CANARY + "x"), set={"plan": CANARY}),
        lambda: store.patch(User.at(CANARY), set={"plan": CANARY}, when=F("email") == CANARY + "x"),
        lambda: store.patch(User.at(CANARY), set={CANARY: 1}),
        lambda: store.patch(Message.at(CANARY, "1"), set={"number": CANARY}),
        lambda: store.patch(Message.at(CANARY, "1"), set={"mood": CANARY}),
        lambda: store.patch(Message.at(CANARY, "1"), set={"sent": CANARY}),
        lambda: store.patch(Message.at(CANARY, "1"), add={"text": CANARY}),
        lambda: store.get(User.at(CANARY + "x")),
        lambda: store.get(User.by_email(CANARY + "x")),
        lambda: store.delete(Team.at(CANARY)),
        lambda: store.create(Member(team_id=CANARY + "x", name=CANARY)),
        lambda: store.create(User(id=CANARY + "\0", email=CANARY)),
        lambda: store.create(User(id=CANARY * 1000, email="x")),
        lambda: store.create(User(id="v", email=CANARY * 200)),
        lambda: store.create(message(2, CANARY).model_copy(update={"text": [CANARY]})),
        lambda: store.create(message(2, CANARY).model_copy(update={"mood": CANARY})),
        lambda: store.create(message(2, CANARY).model_copy(update={"intent": Intent(name=CANARY + "\0")})),
        lambda: store.page(Message.key(CANARY), cursor=CANARY),
        lambda: store.page(Message.key(CANARY + "x"), cursor=page.cursor or CANARY),
        lambda: store.write(Batch().create(Team(id=CANARY)).create(User(id="w", email=CANARY))),
        lambda: store.page(Message.by_mood(CANARY)),
        lambda: store.page(Message.key(CANARY).after(CANARY)),
        lambda: store.page(Message.key(CANARY).filter(F("text") == None)),  # noqa: E711
        lambda: store.search(CANARY, CANARY),
        lambda: store.search("messages", CANARY, where=F(CANARY) == CANARY),
        lambda: User.model_validate({"id": "v", "email": "x", "plan": [CANARY]}),
        lambda: store.create(Team(id="t"), token=CANARY),
        lambda: store.create(Team(id="t2"), token=CANARY),
    ]
    for attempt in attempts:
        try:
            await attempt()
        except (PalaverError, pydantic.ValidationError) as error:
            if any(words in str(error) for words in NAMES):
                continue
            texts += [str(error), repr(error), str(getattr(error, "reasons", ""))]
            context = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
            texts.append(str(context))
            if isinstance(error, PalaverError):
                texts += [str(value) for value in error.context.values()]

    await store.settle()
    assert [] == [text for text in texts if CANARY in text]
    assert len(texts) > 70
    assert CANARY not in caplog.text
    assert CANARY not in repr(Message.key(CANARY)) + repr(User.at(CANARY)) + repr(User.by_email(CANARY))


async def test_each_piece_of_bad_input_has_its_own_error(store: Store) -> None:
    await store.create(Team(id="t"))
    asked: list[tuple[Callable[[], Awaitable[object]], type[PalaverError]]] = [
        (lambda: store.create(Team(id="t")), AlreadyExists),
        (lambda: store.page(Message.key("c"), cursor="forged"), BadCursor),
        (lambda: store.find(Team.at(5)), KeyType),
        (lambda: store.find(Team.at("")), EmptyKey),
        (lambda: store.find(Team.at("x" * 2049)), KeyTooLong),
        (lambda: store.find(Team.at("a", "b")), Expression),
    ]
    for make, error in asked:
        with pytest.raises(error):
            await make()
