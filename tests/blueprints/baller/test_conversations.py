"""Conversations: who they belong to, their counters, their order, and what many at once do to them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

import palaver
from palaver.blueprints.baller import Baller, Settings, patterns
from palaver.blueprints.baller.schema import Conversation, Message
from palaver.errors import ConditionFailed
from palaver.ops import Read
from tests.blueprints.baller.conftest import Opened
from tests.blueprints.baller.given import ask, found


async def test_a_message_continues_the_users_conversation_in_this_place(baller: Baller, clock: palaver.ManualClock) -> None:
    async def where(**place: str | None) -> str:
        async with baller.turn(**{"user_id": "u", "server_id": "s", **place}, content="?") as turn:  # type: ignore[arg-type]
            return turn.conversation_id

    first = await where()
    clock.advance(timedelta(minutes=50))
    assert first == await where()
    others = {await where(server_id="other"), await where(server_id=None), await where(channel_id="c"), await where(user_id="v")}
    assert 4 == len(others - {first})
    assert first == await where()


async def test_a_pause_begins_another_conversation_that_sorts_after_the_first(baller: Baller, clock: palaver.ManualClock) -> None:
    first, _ = await ask(baller)
    clock.advance(palaver.hours(3))
    second, _ = await ask(baller)
    conversations = [(await baller.message(message)).conversation_id for message in (second, first)]
    assert conversations == [c.conversation_id for c in await found(baller, patterns.conversations_of_user("u1"))]


async def test_first_messages_at_the_same_time_begin_one_conversation(baller: Baller) -> None:
    await asyncio.gather(*(ask(baller, reply=None) for _ in range(16)))
    [conversation] = await found(baller, patterns.conversations_of_user("u1"))
    assert 16 == conversation.metrics.message_count


async def test_two_writers_of_500_messages_leave_1000_in_order(baller: Baller) -> None:
    async def write(writer: str) -> None:
        for number in range(500):
            await baller.append("u", "c", "user", f"{writer}{number}")

    await asyncio.gather(write("a"), write("b"))
    messages = await found(baller, patterns.messages_of_conversation("c"))
    assert 1_000 == len(messages)
    for writer in "ab":
        assert [f"{writer}{n}" for n in range(500)] == [m.content for m in messages if m.content[0] == writer]
    assert 1_000 == (await baller.conversation("u", "c")).metrics.message_count


async def test_identifiers_around_a_change_of_length_keep_their_order(baller: Baller) -> None:
    numbers = [10**18 - 2, 10**18 - 1, 10**18, 10**18 + 1, 10**17, 9, 10]
    for number in numbers:
        async with baller.turn(user_id="u", conversation_id="c", content=f"{number}", message_id=f"{number}"):
            pass
    messages = await found(baller, patterns.messages_of_conversation("c"))
    assert sorted(numbers) == [int(message.message_id) for message in messages]


async def test_an_answer_sorts_after_its_question_even_when_the_platforms_clock_is_ahead(baller: Baller) -> None:
    question, answer = await ask(baller, message_id=f"{2**63}")
    assert int(question) < int(answer)
    message = await baller.message(question)
    assert [question, answer] == [m.message_id for m in await found(baller, patterns.messages_of_conversation(message.conversation_id))]


async def test_a_number_from_far_ahead_does_not_move_those_of_others(baller: Baller) -> None:
    async with baller.turn(user_id="u1", content="?", conversation_id="c", message_id=f"{2**63}") as turn:
        parts = [await turn.reply(f"part {number}") for number in range(5)]
    assert [f"part {number}" for number in range(5)] == [m.content for m in (await baller.recent_messages("u1", "c"))[1:]]
    assert all(int(part) > 2**63 for part in parts)
    question, _ = await ask(baller, user_id="u2")
    assert int(question) < 2**62


async def test_concurrent_turns_count_exactly(baller: Baller) -> None:
    async def turn(number: int) -> None:
        async with baller.turn(user_id="u", conversation_id="c", content="?") as turn:
            try:
                async with turn.api_call("/fixtures") as call:
                    if number % 4 == 0:
                        raise TimeoutError
                    call.response(200)
            except TimeoutError:
                await turn.reply("Later.")
            else:
                await turn.reply("Now.")

    await asyncio.gather(*(turn(number) for number in range(32)))
    metrics = (await baller.conversation("u", "c")).metrics
    assert (64, 8, 32) == (metrics.message_count, metrics.error_count, metrics.response_time_count)


async def test_the_last_activity_moves_in_steps(baller: Baller, clock: palaver.ManualClock) -> None:
    start = clock.now()
    seen = set()
    for _ in range(100):
        async with baller.turn(user_id="u", server_id="s", conversation_id="c", content="?") as turn:
            await turn.reply("!")
        seen.add((await baller.conversation("u", "c")).last_active)
        clock.advance(timedelta(minutes=1))
    # 100 minutes in steps of ten: each step is one delete and one insert in ServerIndex, not each of 200 messages.
    assert {start + timedelta(minutes=10 * step) for step in range(10)} == seen


async def test_the_step_is_a_setting(opened: Opened, clock: palaver.ManualClock) -> None:
    async with opened(settings=Settings(touch=timedelta(seconds=0))) as baller:
        await ask(baller, conversation_id="c")
        clock.advance(timedelta(seconds=1))
        await ask(baller, conversation_id="c")
        assert clock.now() == (await baller.conversation("u1", "c")).last_active


async def test_a_summary_is_kept_with_the_conversation(baller: Baller) -> None:
    await ask(baller, conversation_id="c")
    assert "They asked about Arsenal." == (await baller.summarise("u1", "c", "They asked about Arsenal.")).summary


async def test_an_update_of_what_was_deleted_fails(baller: Baller) -> None:
    question, _ = await ask(baller, conversation_id="c")
    await baller.delete_conversation("u1", "c")
    await baller.store.sweep()
    for at in (Message.at("c", question), Conversation.at("u1", "c")):
        with pytest.raises(ConditionFailed):
            await baller.store.patch(at, set={"server_id": "s"})
        assert await baller.store.find(at) is None


async def test_a_transcript_is_what_was_said_with_its_steps_in_order(baller: Baller) -> None:
    question, answer = await ask(baller, conversation_id="c")
    said = [entry async for entry in baller.transcript("u1", "c")]
    assert [(question, "user"), (answer, "assistant")] == [(entry.message_id, entry.role) for entry in said]
    assert [("relevance", "relevant"), ("intent", "match_result"), ("api_call", "/fixtures"), ("llm_call", "m-1")] == [
        (step.kind, step.name) for step in said[0].steps
    ]
    assert {"score": [2, 0]} == said[0].steps[2].detail["response"]
    assert ["Yes, 2–0."] == [entry.content async for entry in baller.transcript("u1", "c", last=1)]


async def test_a_transcript_of_another_person_is_not_found(baller: Baller) -> None:
    await ask(baller, conversation_id="c")
    with pytest.raises(palaver.errors.NotFound):
        _ = [entry async for entry in baller.transcript("u2", "c")]


async def test_all_conversations_are_listed_once_page_by_page(baller: Baller) -> None:
    for number in range(7):
        mode = ("production", "beta", "development")[number % 3]
        await ask(baller, user_id=f"u{number}", app_mode=mode)
    # With 1, 3 and 5 a page ends where a mode does.
    for limit in (1, 2, 3, 5, 7):
        listed, cursor = [], None
        for _ in range(20):
            page = await baller.chats(limit=limit, cursor=cursor)
            assert len(page) <= limit
            listed += [chat.user_id for chat in page.items]
            cursor = page.cursor
            if cursor is None:
                break
        assert [f"u{number}" for number in range(7)] == sorted(listed)
    [chat] = (await baller.chats(user_id="u4")).items
    assert (2, 0, "s1", "beta") == (chat.messages, chat.errors, chat.place, chat.labels["app_mode"])


async def test_a_name_two_people_chose_shows_neither_the_others_messages(baller: Baller) -> None:
    await ask(baller, "mine", "for me", user_id="u1", conversation_id="c")
    await ask(baller, "yours", "for you", user_id="u2", conversation_id="c")
    assert ["mine", "for me"] == [entry.content async for entry in baller.transcript("u1", "c")]
    assert ["for you"] == [entry.content async for entry in baller.transcript("u2", "c", last=1)]
    assert ["mine", "for me"] == [message.content for message in await baller.recent_messages("u1", "c", 5)]
    await baller.delete_conversation("u1", "c")
    await baller.store.sweep()
    assert ["yours", "for you"] == [entry.content async for entry in baller.transcript("u2", "c")]


async def test_an_evaluation_after_the_reply_leaves_the_question_answered(baller: Baller) -> None:
    async with baller.turn(user_id="u", content="?", message_id="1") as turn:
        await turn.reply("Yes.")
        async with turn.llm_call(provider="p", model="m", purpose="evaluation") as call:
            call.result("Was that right?", "Yes.")
    metadata = (await baller.message("1")).processing_metadata
    assert ("answered", "llm_call", 1) == (metadata.status, metadata.last_step, metadata.llm_calls)


async def test_who_talks_in_many_places_continues_each_conversation(baller: Baller, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: dict[str, str] = {}
    for place in [f"channel {number}" for number in range(18)] * 2:
        async with baller.turn(user_id="u", channel_id=place, content="?") as turn:
            assert turn.conversation_id == begun.setdefault(place, turn.conversation_id)
    assert 18 == len(set(begun.values()))
    limits: list[int] = []
    query = type(baller.store.core.records).query

    async def noted(self: Any, read: Read) -> Any:
        limits.append(read.limit)
        return await query(self, read)

    monkeypatch.setattr(type(baller.store.core.records), "query", noted)
    newest = max(begun, key=lambda place: begun[place])
    async with baller.turn(user_id="u", channel_id=newest, content="?"):
        assert [3] == limits


async def test_what_is_shown_says_why_and_what_failed_and_where_it_ran(opened: Opened) -> None:
    async with opened(settings=Settings("development", "development")) as baller:
        async with baller.turn(user_id="u", content="?", conversation_id="c") as turn:
            await turn.relevance(is_relevant=False, explanation="Not about football.")
            async with turn.llm_call(provider="p", model="m", purpose="main_response"):
                pass
        [said] = [said async for said in baller.transcript("u", "c")]
        relevance, call = said.steps
        assert "Not about football." == relevance.detail["explanation"]
        assert (False, "NoResponse") == (call.success, call.error)
        [chat] = (await baller.chats()).items
        assert {"app_mode": "development", "environment": "development"} == chat.labels
