"""What is stored is how far a turn came: after an exception, after kill -9, after the same message twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

import palaver
from palaver.blueprints.baller import SCHEMA, Baller, patterns
from palaver.errors import ConditionFailed, Conflict, Duplicate, Validation
from tests.blueprints.baller.conftest import Opened
from tests.blueprints.baller.given import ask, found

STOPS = {
    "message": ("received", "message"),
    "relevance": ("in_progress", "relevance"),
    "intent": ("in_progress", "intent"),
    "inside api_call": ("in_progress", "intent"),
    "api_call": ("in_progress", "api_call"),
    "llm_call": ("in_progress", "llm_call"),
    "reply": ("answered", "reply"),
}


@pytest.mark.parametrize("last", STOPS)
async def test_a_killed_turn_shows_its_last_finished_step(last: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    script = Path(__file__).with_name("crash.py")
    process = await asyncio.create_subprocess_exec(sys.executable, str(script), url, last, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert b"ready\n" == await asyncio.wait_for(process.stdout.readline(), 30)
    process.kill()
    await process.wait()
    async with palaver.open(url, schema=SCHEMA, maintain=False) as store:
        baller = Baller(store)
        message = await baller.message("1000000000000000001")
        metadata = message.processing_metadata
        assert STOPS[last] == (metadata.status, metadata.last_step)
        assert (last == "reply") == (metadata.reply_id is not None)
        calls = await found(baller, patterns.api_calls_of_message(message.message_id))
        assert (metadata.api_calls, len(calls)) == ((1, 1) if last in ("api_call", "llm_call", "reply") else (0, 0))
        if last != "reply":
            await _taken_up_again(baller, message.message_id)


async def _taken_up_again(baller: Baller, message_id: str) -> None:
    """The platform delivers again what was never acknowledged, and the answer is given once."""
    async with baller.turn(user_id="u", content="?", message_id=message_id) as turn:
        assert (True, False) == (turn.duplicate, turn.answered)
        turn.resume()
        await turn.reply("At last.")
    texts = [said.content async for said in baller.transcript("u", turn.conversation_id)]
    assert ["?", "At last."] == texts


async def test_an_exception_leaves_a_turn_that_says_where_it_stopped(baller: Baller) -> None:
    with pytest.raises(ValueError, match="secret"):
        async with baller.turn(user_id="u", content="?", message_id="1") as turn:
            await turn.relevance(is_relevant=True)
            async with turn.llm_call(provider="p", model="m", purpose="main_response") as call:
                call.prompt("How?")
                raise ValueError("secret")
    metadata = (await baller.message("1")).processing_metadata
    assert ("failed", "llm_call", "llm_call", "ValueError") == (metadata.status, metadata.last_step, metadata.stopped_at, metadata.error)
    [stored] = await found(baller, patterns.llm_calls_of_message("1"))
    assert (False, "ValueError") == (stored.success, stored.error_message)
    assert stored.exchange is not None
    assert "How?" == stored.exchange.prompt
    assert "secret" not in repr(stored)
    assert 1 == (await baller.conversation("u", turn.conversation_id)).metrics.error_count


async def test_a_turn_that_chose_not_to_answer_says_so(baller: Baller) -> None:
    async with baller.turn(user_id="u", content="Nice weather.", message_id="1") as turn:
        await turn.relevance(is_relevant=False, confidence=0.99)
    metadata = (await baller.message("1")).processing_metadata
    assert ("unanswered", "relevance", None) == (metadata.status, metadata.last_step, metadata.error)


async def test_a_message_delivered_twice_is_one_row_and_one_event(baller: Baller) -> None:
    question, answer = await ask(baller, message_id="1000000000000000001")
    head = (await baller.store.core.records.changes(None, 0)).head
    conversation = (await baller.message(question)).conversation_id
    before = await baller.conversation("u1", conversation)
    async with baller.turn(user_id="u1", server_id="s1", content="Did Arsenal win on Saturday?", message_id=question) as turn:
        assert (True, True, conversation) == (turn.duplicate, turn.answered, turn.conversation_id)
        await turn.relevance(is_relevant=True)
        async with turn.api_call("/fixtures") as call:
            call.response(200)
        await turn.reply("Yes, 2–0.")
    assert head == (await baller.store.core.records.changes(None, 0)).head
    assert before == await baller.conversation("u1", conversation)
    assert [question, answer] == [m.message_id for m in await found(baller, patterns.messages_of_conversation(conversation))]


async def test_deliveries_at_the_same_time_give_one_turn_that_is_no_duplicate(baller: Baller) -> None:
    async def deliver() -> bool:
        async with baller.turn(user_id="u", content="?", message_id="1000000000000000001") as turn:
            if not turn.duplicate:
                await turn.reply("Here.")
            return turn.duplicate

    assert [False, *[True] * 7] == sorted(await asyncio.gather(*(deliver() for _ in range(8))))
    [conversation] = await found(baller, patterns.conversations_of_user("u"))
    assert 2 == conversation.metrics.message_count


async def test_a_message_delivered_after_a_pause_does_not_begin_another_conversation(baller: Baller, clock: palaver.ManualClock) -> None:
    question, _ = await ask(baller, message_id="1000000000000000001")
    clock.advance(palaver.days(2))
    async with baller.turn(user_id="u1", server_id="s1", content="Did Arsenal win on Saturday?", message_id=question) as turn:
        assert turn.duplicate
    assert 1 == len(await found(baller, patterns.conversations_of_user("u1")))


async def test_another_persons_message_is_not_taken_for_a_duplicate(baller: Baller) -> None:
    await ask(baller, message_id="1000000000000000001")
    with pytest.raises(Duplicate):
        async with baller.turn(user_id="u2", content="?", message_id="1000000000000000001"):
            raise AssertionError


async def test_a_reply_to_a_message_that_is_gone_fails_and_makes_no_ghost(baller: Baller) -> None:
    async with baller.turn(user_id="u", content="?", message_id="1") as turn:
        await turn.reply("…")
        await baller.delete_conversation("u", turn.conversation_id)
        await baller.store.sweep()
        with pytest.raises((ConditionFailed, palaver.PalaverError)):
            await turn.relevance(is_relevant=True)
    assert [] == await found(baller, patterns.messages_of_conversation(turn.conversation_id))


async def test_large_prompts_and_responses_are_objects_and_come_back(baller: Baller) -> None:
    body, prompt, raw = {"rows": ["x" * 1_000] * 100}, "p" * 100_000, "r" * 50_000
    async with baller.turn(user_id="u", content="?", message_id="1") as turn:
        await turn.relevance(is_relevant=True, raw_response=raw)
        await turn.context({"history": ["h" * 100] * 1_000})
        async with turn.api_call("/fixtures") as api:
            api.response(200, body)
        async with turn.llm_call(provider="p", model="m", purpose="main_response") as llm:
            llm.result(prompt, {"text": "t" * 60_000}, metadata={"template": "match"})
        await turn.reply("…")
    message = await baller.message("1")
    assert raw == message.relevance_response
    assert message.context_used
    assert {"history": ["h" * 100] * 1_000} == message.context
    [api_call] = await found(baller, patterns.api_calls_of_message("1"))
    assert (body, 100_310) == (api_call.response, api_call.response_size)
    [llm_call] = await found(baller, patterns.llm_calls_of_message("1"))
    assert llm_call.exchange is not None
    assert (prompt, {"text": "t" * 60_000}, {"template": "match"}) == (
        llm_call.exchange.prompt,
        llm_call.exchange.response,
        llm_call.exchange.metadata,
    )
    buckets = sorted({key.split("/")[2] for key in await baller.stored_objects(message)})
    assert ["baller-api-responses", "baller-llm-interactions", "baller-message-contexts"] == buckets
    assert all(key.startswith("-/u/") and f"/2026/01/01/{turn.conversation_id}/1/" in key for key in await baller.stored_objects(message))


async def test_latencies_are_kept_with_the_message(baller: Baller, clock: palaver.ManualClock) -> None:
    from datetime import timedelta

    async with baller.turn(user_id="u", content="?", message_id="1") as turn:
        clock.advance(timedelta(milliseconds=10))
        await turn.relevance(is_relevant=True)
        for ms in (20, 30):
            async with turn.api_call("/fixtures") as call:
                clock.advance(timedelta(milliseconds=ms))
                call.response(200)
        async with turn.llm_call(provider="p", model="m", purpose="main_response") as llm:
            clock.advance(timedelta(milliseconds=40))
            llm.result("a", "b")
        await turn.reply("…")
    metadata = (await baller.message("1")).processing_metadata
    assert (10, 50, 40, 100) == (
        metadata.relevance_check_time,
        metadata.api_call_time,
        metadata.llm_generation_time,
        metadata.processing_time,
    )
    assert 100 == (await baller.conversation("u", turn.conversation_id)).metrics.average_response_time


async def test_a_conversation_being_deleted_takes_no_new_message(opened: Opened) -> None:
    async with opened() as baller:
        async with baller.turn(user_id="u", content="?", conversation_id="c") as turn:
            await turn.reply("…")
        await baller.delete_conversation("u", "c")
        with pytest.raises(Conflict):
            async with baller.turn(user_id="u", content="?", conversation_id="c"):
                raise AssertionError
        await baller.store.sweep()
        async with baller.turn(user_id="u", content="Again?", conversation_id="c") as turn:
            await turn.reply("…")
        assert ["Again?", "…"] == [said.content async for said in baller.transcript("u", "c")]


async def test_a_refused_value_is_named_by_its_field_and_never_repeated(baller: Baller) -> None:
    async with baller.turn(user_id="u", content="?", message_id="1") as turn:
        with pytest.raises(Validation, match=r"Intent\.confidence"):
            await turn.intent("standings", confidence=7.25)
        with pytest.raises(Validation, match=r"LlmInteraction\.purpose") as caught:
            async with turn.llm_call(provider="p", model="m", purpose="canary") as llm:
                llm.result("a", "b")
        assert "canary" not in str(caught.value)
        with pytest.raises(Validation, match=r"ApiInteraction\.parameters") as caught:
            async with turn.api_call("/fixtures", {"canary": object()}) as api:
                api.response(200)
        assert "canary" not in str(caught.value)
        await turn.reply("…")
    assert "answered" == (await baller.message("1")).processing_metadata.status
    with pytest.raises(Validation, match=r"Message\.message_id"):
        async with baller.turn(user_id="u", content="?", message_id="canary"):
            raise AssertionError
