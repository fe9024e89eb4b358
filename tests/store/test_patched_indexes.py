"""What a patch sets is found by it, whatever an index makes of it; and a plain value takes no look at the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from palaver import Entity, F, Index, Key, Query, Schema, Store
from palaver.batch import Batch
from palaver.errors import KeyTooLong
from tests.store.conftest import Opener
from tests.store.world import Conversation, Intent, Message, Mood

AT = Message.at("c", "1")
GOAL, CARD = Intent(name="goal", confidence=0.9), Intent(name="card", confidence=0.8)


@pytest.fixture
async def made(store: Store) -> Store:
    await store.create(Conversation(user_id="u", id="c"))
    await store.create(Message(conversation_id="c", id="1", user_id="u", intent=GOAL, mood=Mood.GOOD))
    await store.create(Message(conversation_id="c", id="2", user_id="u"))
    return store


async def found(store: Store, query: Query[Message]) -> list[str]:
    return sorted([message.id async for message in store.query(query)])


async def test_a_patched_value_is_found_in_the_index_and_the_one_before_is_not(made: Store) -> None:
    answer = await made.patch(AT, set={"intent": CARD, "mood": Mood.BAD})
    assert (CARD, Mood.BAD) == (answer.intent, answer.mood)
    assert ([], ["1"]) == (await found(made, Message.by_intent("goal")), await found(made, Message.by_intent("card")))
    assert ([], ["1"]) == (await found(made, Message.by_mood(Mood.GOOD)), await found(made, Message.by_mood(Mood.BAD)))


async def test_a_value_inside_a_field_moves_in_the_index_by_itself(made: Store) -> None:
    await made.patch(AT, set={"intent.name": "card"})
    assert ([], ["1"]) == (await found(made, Message.by_intent("goal")), await found(made, Message.by_intent("card")))
    await made.patch(AT, set={"intent.confidence": 0.5})
    assert ["1"] == await found(made, Message.by_intent("card"))


@pytest.mark.parametrize("how", [{"set": {"intent": None, "mood": None}}, {"remove": ("intent", "mood")}])
async def test_what_is_removed_leaves_the_index(made: Store, how: Mapping[str, Any]) -> None:
    await made.patch(AT, **how)
    assert [] == await found(made, Message.by_intent("goal"))
    assert [] == await found(made, Message.by_mood(Mood.GOOD))
    await made.patch(AT, set={"intent": GOAL})
    assert ["1"] == await found(made, Message.by_intent("goal"))


async def test_what_was_never_there_enters_the_index(made: Store) -> None:
    await made.patch(Message.at("c", "2"), set={"intent": GOAL})
    assert ["1", "2"] == await found(made, Message.by_intent("goal"))


async def test_a_value_computed_from_the_record_is_found_too(made: Store) -> None:
    await made.patch(AT, set={"mood": F("mood").if_absent(Mood.BAD)})
    await made.patch(Message.at("c", "2"), set={"mood": F("mood").if_absent(Mood.BAD)})
    assert (["1"], ["2"]) == (await found(made, Message.by_mood(Mood.GOOD)), await found(made, Message.by_mood(Mood.BAD)))


async def test_a_patch_and_a_put_leave_the_same_record(made: Store) -> None:
    patched = await made.patch(Message.at("c", "2"), set={"intent": GOAL, "mood": Mood.GOOD})
    records = made.core.records
    address = made.core.planner.address(AT, None)
    one, two = (
        {name: value for name, value in (record or {}).items() if name not in ("_revision", "id")}
        for record in await records.get([address, made.core.planner.address(Message.at("c", "2"), None)])
    )
    assert (GOAL, Mood.GOOD) == (patched.intent, patched.mood)
    assert {name: value for name, value in one.items() if "shard" not in name} == {n: v for n, v in two.items() if "shard" not in n}


async def test_a_value_too_long_for_the_index_is_refused(made: Store) -> None:
    with pytest.raises(KeyTooLong):
        await made.patch(AT, set={"intent": Intent(name="x" * 3_000)})
    assert ["1"] == await found(made, Message.by_intent("goal"))


@pytest.mark.parametrize(
    ("patch", "looks"),
    [
        ({"set": {"intent": CARD}}, 0),
        ({"set": {"intent.name": "card"}}, 0),
        ({"set": {"intent.confidence": 0.1}}, 0),
        ({"set": {"mood": Mood.BAD}, "add": {"number": 1}}, 0),
        ({"remove": ("intent", "mood")}, 0),
        ({"set": {"mood": F("mood").if_absent(Mood.BAD)}}, 1),
        ({"set": {"context": {"a": 1}}}, 1),
        ({"set": {"user_id": "v"}}, 1),
    ],
)
def test_only_what_is_computed_from_the_record_takes_a_look_at_it(store: Store, patch: Mapping[str, Any], looks: int) -> None:
    batch = Batch().patch(AT, **patch, when=F("number") == 0)
    premises: Sequence[Any] = store.core.planner.premises(batch)
    assert looks == len(premises)


class Place(BaseModel):
    city: str
    street: str = "s"


class Stay(Entity, table="stays"):
    id: str
    place: Place | None = None
    stops: tuple[str, ...] = ()
    key = Key("id")
    by_place = Index("place.city", sort="place.street")
    by_second_stop = Index("stops[1]")


@pytest.mark.parametrize(
    ("before", "how", "second"),
    [
        (["a", "b", "c"], {"remove": ("stops[0]",)}, "c"),
        (["a", "b", "c"], {"remove": ("stops[1]",)}, "c"),
        (["a", "b"], {"set": {"stops[1]": "c"}}, "c"),
        (["a"], {"set": {"stops[7]": "c"}}, "c"),
        ([], {"set": {"stops[1]": "c"}}, None),
        (["a", "b"], {"set": {"stops": ["a"]}}, None),
    ],
)
async def test_an_index_on_an_element_follows_the_list(
    opened: Opener, before: list[str], how: Mapping[str, Any], second: str | None
) -> None:
    store = await opened(Schema("stays", [Stay]))
    await store.create(Stay(id="1", stops=tuple(before)))
    stops = (await store.patch(Stay.at("1"), **how)).stops
    assert second == (stops[1] if len(stops) > 1 else None)
    for name in "abc":
        assert (["1"] if name == second else []) == [stay.id async for stay in store.query(Stay.by_second_stop(name))]


async def test_values_that_are_too_long_for_one_entry_together_are_refused_one_after_the_other_too(opened: Opener) -> None:
    store = await opened(Schema("stays", [Stay]))
    await store.create(Stay(id="1", place=Place(city="c")))
    city, street = "c" * 2_000, "s" * 1_000
    with pytest.raises(KeyTooLong):
        await store.patch(Stay.at("1"), set={"place": Place(city=city, street=street)})
    await store.patch(Stay.at("1"), set={"place.city": city})
    with pytest.raises(KeyTooLong):
        await store.patch(Stay.at("1"), set={"place.street": street})
