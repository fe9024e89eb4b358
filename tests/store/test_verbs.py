"""Every verb, and the error each raises, in the words of the design."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from palaver import Batch, F, ManualClock, Store, days, unchanged
from palaver.errors import (
    AlreadyExists,
    BatchShape,
    ConditionFailed,
    Expression,
    NotFound,
    PathOverlap,
    ReferenceBroken,
    SchemaError,
    TransactionCancelled,
    Validation,
)
from tests.store.world import START, Conversation, Feedback, Intent, Member, Message, Mood, Team, User, conversation, message


async def test_what_was_created_is_found_as_it_was(store: Store) -> None:
    await store.create(conversation())
    created = await store.create(message(text="hi", mood=Mood.GOOD, intent=Intent(name="fixture", confidence=0.5), tags={"a", "b"}))

    assert created == await store.get(Message.at("c", "1"))
    assert created.revision == (await store.get(created.address)).revision > 0


async def test_create_refuses_a_key_that_is_taken_and_shows_the_record(store: Store) -> None:
    first = await store.create(Team(id="t", name="first"))

    with pytest.raises(AlreadyExists) as refused:
        await store.create(Team(id="t", name="second"))

    assert first == refused.value.found
    assert first.revision == refused.value.found.revision
    assert first == await store.get(Team.at("t"))


async def test_of_many_creates_exactly_one_wins(store: Store) -> None:
    results = await asyncio.gather(*(store.create(Team(id="t", name=str(n))) for n in range(32)), return_exceptions=True)

    winners = [result for result in results if isinstance(result, Team)]
    assert 1 == len(winners)
    assert 31 == sum(isinstance(result, AlreadyExists) for result in results)
    assert winners[0] == await store.get(Team.at("t"))


async def test_find_answers_none_and_get_raises(store: Store) -> None:
    assert await store.find(Team.at("none")) is None
    with pytest.raises(NotFound):
        await store.get(Team.at("none"))


async def test_put_replaces_the_whole_record(store: Store) -> None:
    await store.put(User(id="u", email="a@b.c", handle="h"))
    await store.put(User(id="u", email="a@b.c"))

    assert (await store.get(User.at("u"))).handle is None


async def test_put_grows_the_revision(store: Store) -> None:
    first = await store.put(Team(id="t"))
    second = await store.put(Team(id="t"))

    assert second.revision > first.revision


async def test_patch_sets_adds_and_removes(store: Store) -> None:
    await store.create(conversation())
    await store.create(message(text="old", number=5, notes=["a"], tags={"x"}, mood=Mood.BAD, intent=Intent(name="i")))

    after = await store.patch(
        Message.at("c", "1"),
        set={"text": "new", "notes": F("notes").append("b"), "intent.confidence": 0.5},
        add={"number": 2, "tags": {"y"}},
        remove=["mood"],
    )

    expected = message(text="new", number=7, notes=["a", "b"], tags={"x", "y"}, intent=Intent(name="i", confidence=0.5))
    assert expected == after == await store.get(Message.at("c", "1"))


async def test_operands_of_a_patch_read_the_record_as_it_was(store: Store) -> None:
    await store.create(User(id="u", email="a", plan="b"))

    after = await store.patch(User.at("u"), set={"email": F("plan"), "plan": F("email")})

    assert ("b", "a") == (after.email, after.plan)


async def test_if_absent_keeps_what_is_there(store: Store) -> None:
    await store.create(User(id="u", email="a"))

    once = await store.patch(User.at("u"), set={"handle": F("handle").if_absent("first")})
    twice = await store.patch(User.at("u"), set={"handle": F("handle").if_absent("second")})

    assert ("first", "first") == (once.handle, twice.handle)


async def test_patch_of_a_record_that_is_not_there_is_refused_and_makes_none(store: Store) -> None:
    with pytest.raises(ConditionFailed):
        await store.patch(Team.at("t"), set={"name": "ghost"})

    assert await store.find(Team.at("t")) is None


async def test_patch_of_a_deleted_record_is_refused(store: Store) -> None:
    user = await store.create(User(id="u", email="a"))
    await store.delete(user)

    for change in ({"plan": "b"}, {"email": "b"}):
        with pytest.raises(ConditionFailed):
            await store.patch(user, set=change)
    assert await store.find(user.address) is None


async def test_patching_tells_what_cannot_be(store: Store) -> None:
    await store.create(conversation())
    await store.create(message())
    one = Message.at("c", "1")

    for wrong, error in [
        ({"set": {"texd": "x"}}, Expression),
        ({"set": {"id": "2"}}, Expression),
        ({"set": {"text": 5}}, Validation),
        ({"set": {"text": None}}, Validation),
        ({"set": {"intent.nome": "x"}}, Expression),
        ({"set": {"intent.name": "x"}}, Expression),
        ({"set": {"context.big": "x"}}, Expression),
        ({"set": {"text": F("number")}}, Expression),
        ({"add": {"text": 1}}, Expression),
        ({"add": {"number": 0.5}}, Expression),
        ({"add": {"sent": 1}}, Expression),
        ({"add": {"number": {"x"}}}, Expression),
        ({"remove": ["text2"]}, Expression),
        ({"remove": ["user_id"]}, Expression),
        ({"set": {"intent": Intent(name="a")}, "remove": ["intent.name"]}, PathOverlap),
        ({}, Expression),
    ]:
        with pytest.raises(error):
            await store.patch(one, **wrong)  # type: ignore[arg-type]
    assert message() == await store.get(one)


async def test_did_you_mean_names_the_nearest_field(store: Store) -> None:
    await store.create(Team(id="t"))

    with pytest.raises(Expression, match="Did you mean name"):
        await store.patch(Team.at("t"), set={"nam": "x"})


async def test_a_sum_obeys_the_bounds_of_its_field(store: Store) -> None:
    await store.create(conversation(turns=99))
    await store.patch(Conversation.at("u", "c"), add={"turns": 1})

    with pytest.raises(Validation):
        await store.patch(Conversation.at("u", "c"), add={"turns": 1})
    assert 100 == (await store.get(Conversation.at("u", "c"))).turns


async def test_an_index_part_may_not_be_patched_empty_or_too_long(store: Store) -> None:
    await store.create(conversation())
    await store.create(message())

    for value in ("", "x" * 2049, "é" * 1300):
        with pytest.raises(Validation):
            await store.patch(Message.at("c", "1"), set={"user_id": value})


async def test_delete_of_nothing_is_no_error(store: Store) -> None:
    for at in (Team.at("t"), User.at("u"), Conversation.at("u", "c")):
        await store.delete(at)


async def test_a_condition_decides_every_guarded_verb(store: Store) -> None:
    user = await store.create(User(id="u", email="a"))
    team = await store.create(Team(id="t", name="x"))
    wrong: Any = F("name") == "y"

    for write in (
        store.put(Team(id="t", name="z"), when=wrong),
        store.patch(team, set={"name": "z"}, when=wrong),
        store.delete(team, when=wrong),
        store.delete(user, when=F("plan") == "paid"),
        store.patch(user, set={"email": "z"}, when=F("plan") == "paid"),
        store.patch(user, set={"plan": "z"}, when=F("plan") == "paid"),
    ):
        with pytest.raises(ConditionFailed) as refused:
            await write
        assert refused.value.found in (team, user)
    assert (user, team) == (await store.get(user.address), await store.get(team.address))
    await store.delete(team, when=F("name") == "x")
    assert await store.find(team.address) is None


async def test_unchanged_notices_every_write_between(store: Store) -> None:
    read = await store.create(Team(id="t"))
    await store.patch(read, set={"name": "other"})

    for write in (store.put(Team(id="t"), when=unchanged(read)), store.patch(read, set={"name": "x"}, when=unchanged(read))):
        with pytest.raises(ConditionFailed):
            await write
    with pytest.raises(ConditionFailed):
        await store.delete(read, when=unchanged(read))
    current = await store.get(read.address)
    await store.delete(current, when=unchanged(current))


async def test_unchanged_takes_a_stored_instance(store: Store) -> None:
    with pytest.raises(Validation):
        unchanged(Team(id="t"))


async def test_an_expired_record_exists_for_no_verb(store: Store, clock: ManualClock) -> None:
    kept = await store.create(User(id="u", email="a", expires=START + days(1)))
    clock.advance(days(1))

    assert await store.find(kept.address) is None
    assert await store.find(User.by_email("a")) is None
    for write in (
        store.patch(kept, set={"plan": "x"}),
        store.patch(kept, set={"expires": START + days(9)}),
        store.put(kept, when=unchanged(kept)),
        store.delete(kept, when=unchanged(kept)),
        store.delete(kept, when=F("email") == "a"),
        store.write(Batch().check(kept)),
    ):
        with pytest.raises(ConditionFailed):
            await write
    again = await store.create(User(id="u", email="b"))
    assert again == await store.get(User.at("u"))


async def test_put_over_an_expired_record_makes_a_new_one(store: Store, clock: ManualClock) -> None:
    await store.create(User(id="u", email="a", handle="h", expires=START + days(1)))
    clock.advance(days(2))

    made = await store.put(User(id="u", email="a"))

    assert made == await store.get(User.by_email("a"))
    assert made.expires is None


async def test_a_batch_is_written_whole(store: Store) -> None:
    made = await store.write(
        Batch().create(Team(id="t")).create(Member(team_id="t", name="n")).put(User(id="u", email="a")).delete(Team.at("none"))
    )

    assert [Team(id="t"), Member(team_id="t", name="n"), User(id="u", email="a"), None] == list(made)
    assert [entity for entity in made if entity] == [await store.get(entity.address) for entity in made if entity]


async def test_a_refused_batch_names_every_reason_and_writes_nothing(store: Store) -> None:
    await store.create(Team(id="taken"))
    await store.create(User(id="u", email="a"))
    batch = (
        Batch()
        .create(Team(id="free"))
        .create(Team(id="taken"))
        .patch(Team.at("none"), set={"name": "x"})
        .put(User(id="v", email="a"))
        .create(Member(team_id="nobody", name="n"))
    )

    with pytest.raises(TransactionCancelled) as refused:
        await store.write(batch)

    codes = [None if reason is None else reason.code for reason in refused.value.reasons]
    assert [None, "already_exists", "condition_failed", "duplicate", "reference"] == codes
    assert await store.find(Team.at("free")) is None
    assert await store.find(User.at("v")) is None


async def test_a_batch_of_one_raises_the_error_itself(store: Store) -> None:
    with pytest.raises(ReferenceBroken):
        await store.write(Batch().create(Member(team_id="nobody", name="n")))


async def test_a_batch_writes_a_record_once(store: Store) -> None:
    for batch in (
        Batch().create(Team(id="t")).patch(Team.at("t"), set={"name": "x"}),
        Batch().put(Team(id="t")).delete(Team.at("t")),
        Batch().put(Team(id="t")).check(Team.at("t")),
        Batch().put(User(id="u", email="a")).put(User(id="v", email="a")),
    ):
        with pytest.raises(BatchShape):
            await store.write(batch)
    assert () == await store.write(Batch())


async def test_a_check_holds_in_the_same_commit(store: Store) -> None:
    team = await store.create(Team(id="t", name="open"))

    await store.write(Batch().check(team, when=F("name") == "open").create(User(id="u", email="a")))
    with pytest.raises(TransactionCancelled):
        await store.write(Batch().check(team, when=F("name") == "closed").create(User(id="v", email="b")))
    with pytest.raises(TransactionCancelled):
        await store.write(Batch().check(Team.at("none")).create(User(id="v", email="b")))

    assert await store.find(User.at("v")) is None


async def test_entities_of_another_schema_are_refused(store: Store) -> None:
    from tests.store.world import Note

    with pytest.raises(SchemaError, match="Note is not in schema chat"):
        await store.find(Note.at("p", "i"))


async def test_counters_of_many_tasks_add_up(store: Store) -> None:
    await store.create(conversation())
    await store.create(message())

    await asyncio.gather(*(store.patch(Message.at("c", "1"), add={"number": 1}) for _ in range(64)))

    assert 64 == (await store.get(Message.at("c", "1"))).number


async def test_bank_transfers_keep_the_sum(store: Store) -> None:
    await store.create(conversation())
    await store.bulk([message(n, number=100) for n in range(8)])

    async def transfer(n: int) -> None:
        a, b = Message.at("c", str(n % 8)), Message.at("c", str((n + 3) % 8))
        await store.write(Batch().patch(a, add={"number": -n}).patch(b, add={"number": n}))

    await asyncio.gather(*(transfer(n) for n in range(40)))

    assert 800 == sum([each.number async for each in store.query(Message.key("c"))])


async def test_explain_sends_nothing(store: Store) -> None:
    await store.create(Team(id="t"))

    shown = await store.explain(Batch().delete(Team.at("t")))
    read = await store.explain(Message.by_intent("x").newest_first())

    assert "delete teams" in str(shown)
    assert "4 reads" in str(read)
    assert await store.find(Team.at("t")) is not None


async def test_health_shows_what_runs(store: Store) -> None:
    await store.create(Team(id="t"))
    await store.settle()

    health = await store.health()

    assert {"search", "objects"} <= set(health["projections"])
    assert all(0 == each["lag"] and each["error"] is None for each in health["projections"].values())
    assert {"cascade": 0, "blob": 0} == health["waiting"]


async def test_the_expiry_follows_the_field_it_counts_from(store: Store) -> None:
    made = await store.create(conversation())
    slid = await store.patch(made, set={"last_active": START + days(5)})
    fixed = await store.patch(made, set={"last_active": START + days(6), "expires": START + days(7)})
    unset = await store.patch(made, remove=["expires"])

    assert START + days(30) == made.expires
    assert START + days(35) == slid.expires
    assert START + days(7) == fixed.expires
    assert START + days(36) == unset.expires


async def test_a_patch_that_ends_a_record_still_answers_with_it(store: Store, clock: ManualClock) -> None:
    made = await store.create(conversation())

    ended = await store.patch(made, set={"expires": START - timedelta(seconds=1)})

    assert ended.id == "c"
    assert await store.find(made.address) is None


async def test_an_expiry_in_milliseconds_is_refused(store: Store) -> None:
    with pytest.raises(Validation, match="ten years"):
        await store.create(conversation(expires=START + days(20 * 366)))


async def test_no_patch_sets_an_expiry_that_nobody_means(store: Store) -> None:
    made = await store.create(conversation())
    for changes in (
        {"expires": START + timedelta(days=4_000)},
        {"last_active": START + timedelta(days=4_000)},
        {"expires": F("expires").if_absent(START + timedelta(days=4_000))},
        {"last_active": datetime(9999, 12, 31, tzinfo=UTC)},
    ):
        with pytest.raises(Validation, match=r"ten years|year 9999"):
            await store.patch(made, set=changes)
    with pytest.raises(Validation, match="year 9999"):
        await store.create(conversation("late", last_active=datetime(9999, 12, 31, tzinfo=UTC)))
    assert made == await store.get(made.address)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))),
        datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5))),
    ],
    ids=str,
)
def test_a_moment_outside_of_time_is_no_instant(moment: datetime) -> None:
    for field in ("last_active", "expires"):
        with pytest.raises(ValidationError, match="years 1 to 9999"):
            conversation(**{field: moment})  # type: ignore[arg-type]


async def test_a_wrong_type_smuggled_in_by_model_copy_is_refused(store: Store) -> None:
    await store.create(conversation())
    fields: list[dict[str, object]] = [
        {"text": 5},
        {"number": "5"},
        {"number": Decimal(5)},
        {"mood": "good"},
        {"intent": {"name": "x"}},
        {"intent": "x"},
        {"tags": "abc"},
        {"tags": ["a"]},
        {"notes": "abc"},
        {"notes": {"a": 1}},
        {"sent": 5},
        {"sent": "2026-01-01"},
        {"context": object()},
        {"text": "nul \0"},
        {"text": "half \ud800"},
    ]
    for wrong in fields:
        with pytest.raises(Validation):
            await store.create(message().model_copy(update=wrong))
            pytest.fail(f"stored {wrong}")
    assert await store.find(Message.at("c", "1")) is None


async def test_a_child_of_a_child_needs_its_own_parent(store: Store) -> None:
    with pytest.raises(ReferenceBroken, match=r"Feedback\.message refers to a Message that does not exist"):
        await store.create(Feedback(conversation_id="c", id="1", rater="r"))


async def test_what_nobody_asks_for_is_written_all_the_same(store: Store) -> None:
    made = await store.create(conversation())
    batch = Batch().create(message(1)).patch(made, set={"title": "x"}).delete(Message.at("c", "9"))

    answer = await store.write(batch, token="t")

    assert (await store.get(Message.at("c", "1")), None, None) == answer
    changed = await store.get(made.address)
    assert "x" == changed.title
    assert made.revision < changed.revision
    assert answer == await store.write(batch, token="t")
    assert changed == (await store.write(batch, token="t", returning=True))[1]
