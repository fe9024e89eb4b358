"""A request with a token is written once, however often it comes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from palaver import Batch, F, ManualClock, Store, hours
from palaver.errors import AlreadyExists, ConditionFailed, IdempotencyMismatch, ReferenceBroken, TransactionCancelled, Validation
from tests.store.conftest import Opener
from tests.store.world import NOTES, Conversation, Member, Message, Note, Team, User, conversation, message


async def test_a_repeated_request_is_written_once_and_answered_alike(store: Store) -> None:
    await store.create(conversation())
    for verb in (
        lambda: store.create(message(), token="create"),
        lambda: store.put(Team(id="t"), token="put"),
        lambda: store.patch(Conversation.at("u", "c"), add={"turns": 1}, token="add"),
    ):
        first, again = await verb(), await verb()
        assert first == again
        assert first.revision == again.revision
    assert 1 == (await store.get(Conversation.at("u", "c"))).turns


async def test_a_repeated_delete_deletes_once(store: Store) -> None:
    team = await store.create(Team(id="t"))
    await store.delete(team, token="gone")
    await store.create(Team(id="t", name="new"))

    await store.delete(team, token="gone")

    assert "new" == (await store.get(team.address)).name


async def test_a_replay_is_answered_even_where_the_request_could_not_be_written_now(store: Store) -> None:
    await store.create(Team(id="t"))
    await store.create(Team(id="other"))
    await store.create(Member(team_id="t", name="n"), token="member")
    patched = Batch().patch(Member.at("t", "n"), set={"role": "boss"}, when=F("role") == "any")
    await store.write(patched, token="patch", returning=True)
    await store.delete(Team.at("other"), token="delete")
    await store.create(Team(id="other"))
    await store.create(Member(team_id="other", name="n"))

    assert ("boss",) == tuple(
        member.role for member in await store.write(patched, token="patch", returning=True) if isinstance(member, Member)
    )
    await store.delete(Team.at("other"), token="delete")
    assert await store.find(Team.at("other")) is not None


async def test_a_token_of_another_request_is_refused(store: Store) -> None:
    await store.create(Team(id="t"), token="x")

    for other in (
        store.create(Team(id="u"), token="x"),
        store.put(Team(id="t"), token="x"),
        store.patch(Team.at("t"), set={"name": "y"}, token="x"),
        store.delete(Team.at("t"), token="x"),
        store.write(Batch().create(Team(id="t")).create(Team(id="u")), token="x"),
    ):
        with pytest.raises(IdempotencyMismatch):
            await other
    assert await store.find(Team.at("u")) is None


async def test_the_condition_is_part_of_the_request(store: Store) -> None:
    team = await store.create(Team(id="t"))
    await store.patch(team, set={"name": "x"}, when=F("name") == "", token="x")

    with pytest.raises(IdempotencyMismatch):
        await store.patch(team, set={"name": "x"}, when=F("name") == "y", token="x")


async def test_defaults_are_no_part_of_the_request(store: Store, clock: ManualClock) -> None:
    first = await store.create(Conversation(user_id="u", id="c"), token="x")
    clock.advance(hours(1))

    assert first == await store.create(Conversation(user_id="u", id="c"), token="x")


async def test_the_order_of_sets_and_maps_is_no_part_of_the_request(store: Store) -> None:
    await store.create(conversation())
    tags = [f"tag {n}" for n in range(20)]
    first = await store.create(message(tags=set(tags), context={"a": 1, "b": 2}), token="x")

    assert first == await store.create(message(tags={*tags[::-1]}, context={"b": 2, "a": 1}), token="x")


async def test_of_concurrent_duplicates_one_is_written(store: Store) -> None:
    await store.create(conversation())
    at = Conversation.at("u", "c")

    answers = await asyncio.gather(*(store.patch(at, add={"turns": 1}, token="x") for _ in range(16)))

    assert 1 == (await store.get(at)).turns
    assert {1} == {answer.turns for answer in answers}


async def test_a_refused_attempt_leaves_the_token_free(store: Store) -> None:
    with pytest.raises(ReferenceBroken):
        await store.create(Member(team_id="t", name="n"), token="x")
    await store.create(Team(id="t"))

    assert "n" == (await store.create(Member(team_id="t", name="n"), token="x")).name


async def test_a_token_is_forgotten_after_a_day(store: Store, clock: ManualClock) -> None:
    await store.create(Team(id="t"), token="x")
    clock.advance(hours(23))
    await store.create(Team(id="t"), token="x")
    clock.advance(hours(1))

    with pytest.raises(AlreadyExists):
        await store.create(Team(id="t"), token="x")
    assert "u" == (await store.create(Team(id="u"), token="x")).id


async def test_a_failed_request_with_a_token_shows_its_own_reason(store: Store) -> None:
    await store.create(User(id="u", email="a"))

    with pytest.raises(TransactionCancelled) as refused:
        await store.write(Batch().create(User(id="v", email="a")).patch(Team.at("t"), set={"name": "x"}), token="x")
    codes: list[Any] = [reason and reason.code for reason in refused.value.reasons]
    assert ["duplicate", "condition_failed"] == codes
    with pytest.raises(ConditionFailed):
        await store.patch(Message.at("c", "1"), set={"text": "x"}, token="x")


async def test_tenants_have_tokens_of_their_own(opened: Opener) -> None:
    store = await opened(NOTES)
    for tenant in ("a", "b"):
        await store.for_tenant(tenant).create(Note(owner=tenant, person="p", id="1", slug="s"), token="x")

    for tenant in ("a", "b"):
        assert tenant == (await store.for_tenant(tenant).get(Note.at("p", "1"))).owner


async def test_what_a_token_says_is_stored_nowhere(store: Store) -> None:
    """It comes from others, and may hold a name or a number of somebody who is erased later."""
    text = "telegram:ann@example.org:4711"
    await store.create(conversation())
    await store.write(Batch().create(Team(id="t")).patch(Conversation.at("u", "c"), add={"turns": 1}), token=text)
    await store.delete(Team.at("t"), token=f"{text}, gone")
    records = store.core.records
    feed = (await records.changes(None, 100)).changes
    assert 3 == len([change for change in feed if change.cause.token is not None])
    kept = [record for table in store.core.planner.tables for record in (await records.scan(table, after=None, limit=100)).records]
    assert "ann@" not in repr((feed, kept))


@pytest.mark.parametrize("token", ["", "a\0", "\ud800", "x" * 1_025, 5], ids=repr)
async def test_what_cannot_be_remembered_is_no_token(store: Store, token: Any) -> None:
    """It comes from outside: a header of a webhook."""
    with pytest.raises(Validation, match=r"[Tt]he token"):
        await store.create(Team(id="t"), token=token)
    assert await store.find(Team.at("t")) is None
    await store.create(Team(id="t"), token="é" * 512)


@pytest.mark.parametrize("actor", ["", "a\0", "\ud800", "x" * 1_025, 5], ids=repr)
async def test_what_cannot_travel_with_a_change_is_no_actor(store: Store, opened: Opener, actor: Any) -> None:
    with pytest.raises(Validation, match=r"[Tt]he actor"):
        store.acting_as(actor)
    with pytest.raises(Validation, match=r"[Tt]he actor"):
        await opened(actor=actor)
    await store.acting_as("é" * 512).create(Team(id="t"))
    assert "é" * 512 == (await store.core.records.changes(None, 10)).changes[-1].cause.actor
