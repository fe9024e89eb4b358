"""Conversations and messages: one active for each user, models in their order, roles, retries, pages that cost the same."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import ValidationError

import palaver
from palaver import Schema
from palaver.blueprints.simple_agent import Settings, SimpleAgent, patterns
from palaver.blueprints.simple_agent.directory import Known
from palaver.blueprints.simple_agent.opening import opening
from palaver.blueprints.simple_agent.people import over
from palaver.blueprints.simple_agent.schema import (
    ENTITIES,
    SEARCHES,
    Conversation,
    Identity,
    Message,
    Message as Declared,
    ToolCall,
    TurnRecord,
    User,
)
from palaver.errors import ConditionFailed, Duplicate, NotFound, ReferenceBroken, TransactionCancelled, Validation
from palaver.expr import F
from palaver.ids import Ids
from palaver.ops import Read
from palaver.schema import Search, Source
from tests.blueprints.simple_agent.conftest import Opened
from tests.blueprints.simple_agent.given import ask, found


async def test_eight_starts_at_once_begin_one_conversation(agent: SimpleAgent) -> None:
    started = await asyncio.gather(*(agent.start("discord", "ann") for _ in range(8)))
    assert 1 == len({conversation.conversation_id for conversation in started})
    assert 1 == len(await found(agent, patterns.active_conversations()))


async def test_eight_messages_at_once_begin_one_conversation_and_all_are_in_it(agent: SimpleAgent) -> None:
    turns = await asyncio.gather(*(ask(agent, f"Question {n}", f"Answer {n}") for n in range(8)))
    [conversation] = await found(agent, patterns.active_conversations())
    assert {conversation.conversation_id} == {turn.conversation_id for turn in turns}
    assert 16 == conversation.message_count == len(await found(agent, patterns.messages_of_conversation(conversation.conversation_id)))
    assert 8 * 1_500 == conversation.token_count


async def test_a_second_active_conversation_is_refused_however_it_is_written(agent: SimpleAgent) -> None:
    first = await agent.start("discord", "ann")
    copy = first.model_copy(update={"conversation_id": "another"})
    with pytest.raises(ConditionFailed):
        await agent.store.create(copy)
    await agent.store.create(copy.model_copy(update={"is_active": False}))
    with pytest.raises(ConditionFailed):
        await agent.store.patch(Conversation.at("another"), set={"is_active": True})


async def test_a_conversation_on_a_channel_the_user_has_not_is_refused(agent: SimpleAgent) -> None:
    user = await agent.people.resolve("discord", "ann")
    wrong = Conversation(user_id=user.user_id, channel_type="slack", channel_user_id="ann")
    with pytest.raises(ReferenceBroken):
        await agent.store.create(wrong)


async def test_a_conversation_as_somebody_elses_identity_is_refused(agent: SimpleAgent) -> None:
    ann, bob = await agent.people.resolve("discord", "ann"), await agent.people.resolve("discord", "bob")
    theirs = Conversation(user_id=ann.user_id, channel_type="discord", channel_user_id="bob")
    with pytest.raises(TransactionCancelled):
        await agent.store.write(opening(Known(("main", "discord", "bob"), ann, None, None), theirs))
    assert bob.user_id == (await agent.start("discord", "bob")).user_id


async def test_a_conversation_is_resumed_ended_and_begun_again(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    first = await ask(agent)
    clock.advance(palaver.days(3))
    assert first.conversation_id == (await ask(agent)).conversation_id
    ended = await agent.end(first.conversation_id)
    assert (False, clock.now()) == (ended.is_active, ended.ended_at)
    assert ended == await agent.end(first.conversation_id)
    assert await agent.active_conversation(first.user_id) is None
    assert first.conversation_id != (await ask(agent)).conversation_id


async def test_a_pause_ends_a_conversation_where_one_is_set(opened: Opened, clock: palaver.ManualClock) -> None:
    async with opened(settings=Settings(pause=palaver.hours(1))) as agent:
        first = await ask(agent)
        clock.advance(palaver.hours(0.9))
        assert first.conversation_id == (await ask(agent)).conversation_id
        clock.advance(palaver.hours(1.1))
        assert first.conversation_id != (await ask(agent)).conversation_id
        assert 1 == len(await found(agent, patterns.active_conversations()))


async def test_silence_no_longer_than_the_pause_ends_no_conversation(opened: Opened, clock: palaver.ManualClock) -> None:
    """The last activity that is stored is up to a step of `touch` behind what was said last, in conversations of all paces."""
    for pause, touch, silences in ((60, 10, (9, 60, 9, 60)), (2, 10, (1, 2, 1, 2, 1, 2, 1, 2))):
        settings = Settings(pause=timedelta(minutes=pause), touch=timedelta(minutes=touch))
        async with opened(settings=settings) as agent:
            begun = await ask(agent, who=f"{pause}")
            for silence in silences:
                clock.advance(timedelta(minutes=silence))
                assert begun.conversation_id == (await ask(agent, who=f"{pause}")).conversation_id
            clock.advance(timedelta(minutes=pause + touch))
            assert begun.conversation_id != (await ask(agent, who=f"{pause}")).conversation_id


async def test_a_conversation_in_which_something_was_said_since_is_not_stale(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    turn = await ask(agent)
    clock.advance(timedelta(minutes=0.5))
    asked = clock.now()
    clock.advance(timedelta(minutes=0.25))
    await ask(agent)
    assert 0 == await agent.end_stale(asked)
    assert (await agent.conversation(turn.conversation_id)).is_active
    assert 1 == await agent.end_stale(clock.now() + timedelta(minutes=1.25))


async def test_stale_conversations_are_ended_and_others_are_not(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    old = await ask(agent)
    clock.advance(palaver.days(2))
    new = await ask(agent, who="bob")
    assert 1 == await agent.end_stale(clock.now() - palaver.days(1))
    assert 0 == await agent.end_stale(clock.now() - palaver.days(1))
    assert [new.conversation_id] == [each.conversation_id for each in await found(agent, patterns.active_conversations())]
    assert not (await agent.conversation(old.conversation_id)).is_active


async def test_the_last_activity_moves_in_steps_and_the_counters_with_every_message(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    turn = await ask(agent)
    began = clock.now()
    for seconds, moved in ((30, False), (40, True), (30, False)):
        clock.advance(palaver.hours(seconds / 3_600))
        await ask(agent)
        conversation = await agent.conversation(turn.conversation_id)
        assert moved is (conversation.last_activity == clock.now())
    assert (8, began) == (conversation.message_count, conversation.started_at)


# --- models -----------------------------------------------------------------------------------------------------------


async def test_the_conversation_goes_before_the_user_before_the_channel_before_the_default(agent: SimpleAgent) -> None:
    async def model() -> str:
        async with agent.message("discord", "ann", "?") as turn:
            assert turn.model == await agent.model_for("discord", "ann")
            return turn.model

    assert "gpt-4" == await model()
    await agent.channels.configure("discord", default_model="of the channel")
    assert "of the channel" == await model()
    user = await agent.people.resolve("discord", "ann")
    await agent.people.prefer(user.user_id, "of the user")
    assert "of the user" == await model()
    conversation = await agent.start("discord", "ann")
    await agent.override_model(conversation.conversation_id, "of the conversation")
    assert "of the conversation" == await model()
    await agent.override_model(conversation.conversation_id, None)
    assert "of the user" == await model()
    with pytest.raises(NotFound):
        await agent.override_model("nothing", "m")


async def test_a_reply_says_which_model_wrote_it_and_what_it_took(agent: SimpleAgent) -> None:
    turn = await ask(agent, model="claude-sonnet-4-5")
    reply = await agent.message_of(turn.reply_id)
    assert ("claude-sonnet-4-5", 500, "assistant") == (reply.model_used, reply.token_count, reply.role)
    [record] = await found(agent, patterns.turns_of_conversation(turn.conversation_id))
    assert ("answered", turn.reply_id, 1) == (record.status, record.reply_id, record.model_calls)


# --- messages ---------------------------------------------------------------------------------------------------------


async def test_tool_calls_and_every_role_come_back_as_they_were_said(agent: SimpleAgent) -> None:
    call = ToolCall(id="call_1", name="invoices", arguments={"due": "today", "limit": 2})
    async with agent.message("discord", "ann", "What is due?") as turn:
        await turn.say("system", "Answer briefly.")
        await turn.say("developer", "Today is Thursday.", metadata={"metadata": {"json": True, "copy": 1, "schema": None}})
        await turn.call_tools([call])
        await turn.tool_result(call, '["A","B"]')
        await turn.reply("Two invoices.")
    messages = await agent.recent_messages(turn.conversation_id)
    assert ["user", "system", "developer", "assistant", "tool", "assistant"] == [message.role for message in messages]
    assert [call] == messages[3].tool_calls
    assert ("call_1", "invoices", '["A","B"]') == (messages[4].tool_call_id, messages[4].tool_name, messages[4].content)
    assert {"metadata": {"json": True, "copy": 1, "schema": None}} == messages[2].metadata


def test_another_role_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(ValidationError, match="developer"):
        Message(conversation_id="c", user_id="u", channel_type="web", role="robot", content="")  # type: ignore[arg-type]


async def test_a_further_role_is_one_more_word_and_a_migration(opened: Opened, url: str, stack: str, clock: palaver.ManualClock) -> None:
    class Message(Declared, table="messages"):
        role: Literal["user", "assistant", "system", "tool", "developer", "critic"]  # type: ignore[assignment]

    if stack == "memory":
        pytest.skip("what is in memory has no earlier version")
    async with opened() as agent:
        turn = await ask(agent)
    entities = [Message if entity is Declared else entity for entity in ENTITIES]
    wider = Schema("simple_agent", entities, searches=[Search("messages", Source(Message, filters=SEARCHES[0].sources[0].filters))])
    async with palaver.open(url, schema=wider, clock=clock, maintain=False, migrate=True) as store:
        said = Message(conversation_id=turn.conversation_id, user_id=turn.user_id, channel_type="discord", role="critic", content="Hm.")
        await store.create(said)
        read = [message async for message in store.query(Message.key(turn.conversation_id))]
        assert ["assistant", "critic", "user"] == sorted(message.role for message in read)


async def test_a_message_delivered_twice_is_stored_once(agent: SimpleAgent) -> None:
    first = await ask(agent, delivery_id="77")
    async with agent.message("discord", "ann", "What is due today?", delivery_id="77") as again:
        assert (True, True) == (again.duplicate, again.answered)
        assert "" == await again.reply("Not stored.")
        assert await again.say("system", "Not stored.") is None
    assert first.message_id == again.message_id
    assert 2 == len(await agent.recent_messages(first.conversation_id))
    other = await ask(agent, delivery_id="77", channel="slack", who="ann")
    assert not other.duplicate


async def test_a_delivery_under_the_identifier_of_anothers_is_refused(agent: SimpleAgent) -> None:
    first = await ask(agent, delivery_id="77")
    with pytest.raises(Duplicate, match="Another user's message"):
        await ask(agent, who="bob", delivery_id="77")
    assert 2 == len(await found(agent, patterns.messages_of_conversation(first.conversation_id)))
    assert not (await ask(agent, channel="slack", who="bob", delivery_id="77")).duplicate


async def test_a_conversation_ends_no_earlier_than_it_began(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    begun = await agent.start("discord", "ann")
    behind = over(begun, clock.now() - palaver.days(1))
    assert {"is_active": False, "ended_at": begun.started_at} == behind


async def test_two_deliveries_at_once_are_stored_once(agent: SimpleAgent) -> None:
    async def deliver() -> bool:
        async with agent.message("discord", "ann", "Once.", delivery_id="1") as turn:
            return turn.duplicate

    assert [False, True, True, True] == sorted(await asyncio.gather(*(deliver() for _ in range(4))))
    assert 1 == len(await found(agent, patterns.messages_by_time()))


async def test_a_turn_that_fails_says_where_it_stopped(agent: SimpleAgent) -> None:
    with pytest.raises(ConnectionError):
        async with agent.message("discord", "ann", "?") as turn, turn.llm_call(provider="openai", model="gpt-4", purpose="reply"):
            raise ConnectionError
    record = await agent.store.get(TurnRecord.at(turn.conversation_id, turn.message_id))
    assert ("failed", "ConnectionError", "llm_call") == (record.status, record.error, record.stopped_at)
    assert 1 == (await agent.conversation(turn.conversation_id)).error_count


async def test_a_reply_sorts_after_its_question_even_when_the_question_came_from_a_clock_ahead(
    agent: SimpleAgent, clock: palaver.ManualClock
) -> None:
    async with agent.message("discord", "ann", "?") as turn:
        behind = palaver.ManualClock(clock.now() - palaver.days(1))
        agent.directory.ids = Ids(behind)
        await turn.reply("!")
    assert ["?", "!"] == [message.content for message in await agent.recent_messages(turn.conversation_id)]


async def test_a_reply_under_an_id_of_ones_own_sorts_after_its_question_or_is_refused(agent: SimpleAgent) -> None:
    async with agent.message("discord", "ann", "?") as turn:
        own = str(UUID(int=UUID(turn.message_id).int + 5))
        for wrong in ("msg_1", "zzz", "9", turn.message_id, str(UUID(int=1)), own.upper(), f"{{{own}}}"):
            with pytest.raises(Validation, match="sorts after"):
                await turn.reply("!", message_id=wrong)
        assert own == await turn.reply("!", message_id=own)
        await turn.say("system", "Noted.")
    assert ["?", "!", "Noted."] == [message.content for message in await agent.recent_messages(turn.conversation_id)]


async def test_thirty_two_writers_append_in_an_order_that_stays(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    await agent.start("discord", "ann")
    # Also when each of them is the one that moves the last activity.
    clock.advance(palaver.hours(1))
    await asyncio.gather(*(ask(agent, f"{n}", None) for n in range(32)))
    [conversation] = await found(agent, patterns.active_conversations())
    read = [message.message_id for message in await found(agent, patterns.messages_of_conversation(conversation.conversation_id))]
    assert 32 == len(set(read)) == conversation.message_count
    assert sorted(read) == read


async def test_a_page_far_down_reads_as_much_as_the_first(agent: SimpleAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = await agent.start("discord", "ann")
    user_id = conversation.user_id
    for n in range(60):
        message = Message(
            conversation_id=conversation.conversation_id, user_id=user_id, channel_type="discord", role="user", content=f"{n}"
        )
        await agent.store.create(message)
    handed: list[int] = []
    query = type(agent.store.core.records).query

    async def counted(self: Any, read: Read) -> Any:
        page = await query(self, read)
        handed.append(len(page.records))
        return page

    monkeypatch.setattr(type(agent.store.core.records), "query", counted)
    for read in (agent.messages, agent.history):
        seen: list[str] = []
        cursor = None
        while True:
            page = await read(conversation.conversation_id if read == agent.messages else user_id, limit=7, cursor=cursor)
            seen += [message.content for message in page.items]
            cursor = page.cursor
            if cursor is None:
                break
        assert [f"{n}" for n in range(59, -1, -1)] == seen
    assert max(handed) <= 8


async def test_messages_are_searched_by_words_of_one_user_or_all(agent: SimpleAgent) -> None:
    ann, bob = await ask(agent, "Where is the invoice?"), await ask(agent, "Which invoice?", who="bob", channel="slack")
    await agent.store.settle()
    assert {ann.message_id, bob.message_id} == {hit.message_id for hit in await agent.search("invoice")}
    assert [bob.message_id] == [hit.message_id for hit in await agent.search("invoice", user_id=bob.user_id)]
    counted = await agent.search_messages("invoice*", facets=["channel_type", "role"])
    assert {"discord": 2, "slack": 2} == counted.facets["channel_type"]
    assert {"user": 2, "assistant": 2} == counted.facets["role"]
    assert 1 == (await agent.search_messages("invoice", where=(F("channel_type") == "slack") & (F("role") == "user"))).total


async def test_a_deleted_conversation_takes_its_messages_along_and_ratings_stay(agent: SimpleAgent) -> None:
    turn = await ask(agent)
    await agent.give_feedback(turn.reply_id, user_id="rater", rating="positive", comment="Good.")
    await agent.delete_conversation(turn.conversation_id)
    await agent.store.sweep()
    assert [] == await found(agent, patterns.messages_by_time())
    assert [] == await found(agent, patterns.model_calls_of_user(turn.user_id))
    assert ["rater"] == [rating.user_id for rating in await found(agent, patterns.feedback_rated("positive"))]


async def test_rating_again_replaces_ones_own_verdict_only(agent: SimpleAgent) -> None:
    turn = await ask(agent)
    await agent.rate(turn.reply_id, user_id="a", rating="positive", comment="Good.")
    await agent.rate(turn.reply_id, user_id="b", rating="positive")
    await agent.rate(turn.reply_id, user_id="a", rating="negative")
    rated = {rating.user_id: rating for rating in await found(agent, patterns.feedback_on_message(turn.reply_id))}
    assert {"a": "negative", "b": "positive"} == {user: rating.rating for user, rating in rated.items()}
    assert ("Good.", "gpt-4") == (rated["a"].comment, rated["a"].model_used)
    with pytest.raises(NotFound):
        await agent.rate("nothing", user_id="a", rating="positive")


async def test_a_user_goes_with_everything_and_a_conversation_needs_one(agent: SimpleAgent) -> None:
    turn = await ask(agent)
    await agent.store.delete(User.at(turn.user_id))
    await agent.store.sweep()
    assert [] == await found(agent, patterns.messages_by_time())
    assert await agent.store.find(Identity.at("main", "discord", "ann")) is None
    with pytest.raises(ReferenceBroken):
        await agent.store.create(Conversation(user_id=turn.user_id, channel_type="discord", channel_user_id="ann"))
