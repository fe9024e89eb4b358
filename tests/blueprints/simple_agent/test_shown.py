"""Everything a turn says is stored, counted and shown: no field of it is left out, and none is another's."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import JsonValue

import palaver
from palaver.blueprints.simple_agent import SimpleAgent, patterns
from palaver.blueprints.simple_agent.schema import ToolCall
from palaver.blueprints.simple_agent.turn import AgentTurn
from palaver.turns.transcripts import Said, Shown
from tests.blueprints.simple_agent.given import found

TIMED_OUT = "TimeoutError"


async def timed_out(call: Any, clock: palaver.ManualClock, milliseconds: int) -> None:
    async with call:
        clock.advance(timedelta(milliseconds=milliseconds))
        raise TimeoutError


async def full_turn(agent: SimpleAgent, clock: palaver.ManualClock, **more: Any) -> tuple[AgentTurn, list[datetime]]:
    """Record a turn in which every step says everything it can, each in a time of its own; return when its calls began."""

    def passed(milliseconds: int) -> datetime:
        clock.advance(timedelta(milliseconds=milliseconds))
        return clock.now()

    async with agent.message("discord", "ann", "?", **more) as turn:
        passed(10)
        await turn.relevance(is_relevant=False, confidence=0.25, explanation="Small talk.")
        passed(20)
        await turn.intent("chat", confidence=0.75, api_resource="/x", api_params={"a": 1}, entities=[{"name": "today"}])
        await turn.context({"language": "en"})
        await turn.call_tools([ToolCall(id="t1", name="invoices", arguments={"due": "today"})])
        async with turn.api_call("/invoices", {"due": "today"}) as api:
            passed(40)
            api.response(200, [1, 2])
        with pytest.raises(TimeoutError):
            await timed_out(turn.api_call("/weather"), clock, 80)
        began = [clock.now()]
        async with turn.llm_call(provider="p", model="m", purpose="reply") as llm:
            began.append(passed(160))
            llm.result("?", "!", {"input_tokens": 12, "output_tokens": 3})
        with pytest.raises(TimeoutError):
            await timed_out(turn.llm_call(provider="q", model="n", purpose="evaluation"), clock, 320)
        await turn.reply("!")
    return turn, began


async def transcripts(agent: SimpleAgent, turn: AgentTurn) -> list[list[Said]]:
    """Return a transcript as it is read whole, and as its last messages are."""
    return [[said async for said in agent.transcript(turn.user_id, turn.conversation_id, last=last)] for last in (None, 10)]


async def test_a_transcript_shows_every_field_of_every_step(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    turn, (first, second) = await full_turn(agent, clock)
    tokens = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    none = dict.fromkeys(tokens, 0)
    for said in await transcripts(agent, turn):
        question, asked, answered, failed, reply = said
        relevance: dict[str, JsonValue] = {"is_relevant": False, "confidence": 0.25, "explanation": "Small talk.", "latency": 10}
        intent: dict[str, JsonValue] = {"name": "chat", "confidence": 0.75, "api_resource": "/x", "api_params": {"a": 1}}
        assert [
            Shown("relevance", "relevance", latency=10.0, detail=relevance),
            Shown("intent", "chat", latency=20.0, detail={**intent, "entities": [{"name": "today"}], "latency": 20}),
            Shown("context", "context", detail={"language": "en"}),
            Shown("llm_call", "m", first, 160.0, detail={"provider": "p", "purpose": "reply", **tokens}),
            Shown("llm_call", "n", second, 320.0, False, TIMED_OUT, {"provider": "q", "purpose": "evaluation", **none}),
        ] == list(question.steps)
        assert ("answered", 630.0) == (question.status, question.latency)
        assert [Shown("tool_call", "invoices", asked.at, detail={"id": "t1", "arguments": {"due": "today"}})] == list(asked.steps)
        shown = [step for each in (answered, failed) for step in each.steps]
        assert [("api_call", "/invoices", 40.0, True, None), ("api_call", "/weather", 80.0, False, TIMED_OUT)] == [
            (step.kind, step.name, step.latency, step.success, step.error) for step in shown
        ]
        assert [({"due": "today"}, 200), ({}, None)] == [(step.detail["parameters"], step.detail["status_code"]) for step in shown]
        assert all(step.detail["tool_call_id"] for step in shown)
        # A reply took as long as the call of the model that wrote it.
        assert (None, 160.0, ()) == (reply.status, reply.latency, reply.steps)


async def test_what_a_turn_took_is_stored_with_its_conversation_and_its_reply(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    turn, _ = await full_turn(agent, clock)
    reply = await agent.message_of(turn.reply_id)
    assert ("m", 3, 160.0) == (reply.model_used, reply.token_count, reply.latency)
    conversation = await agent.conversation(turn.conversation_id)
    assert (5, 15, 2) == (conversation.message_count, conversation.token_count, conversation.error_count)
    [record] = await found(agent, patterns.turns_of_conversation(turn.conversation_id))
    assert ("answered", "reply", 2, 630.0) == (record.status, record.last_step, record.model_calls, record.latency)


async def test_a_conversation_is_listed_with_its_errors_and_the_model_it_was_given(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    begun = clock.now()
    turn, _ = await full_turn(agent, clock)
    await agent.override_model(turn.conversation_id, "large")
    [chat] = (await agent.chats()).items
    assert (turn.user_id, turn.conversation_id, begun, 5, 2, "discord", {"state": "active", "model": "large"}) == (
        chat.user_id,
        chat.conversation_id,
        chat.started,
        chat.messages,
        chat.errors,
        chat.place,
        chat.labels,
    )


async def test_a_call_after_the_reply_leaves_the_turn_answered(agent: SimpleAgent) -> None:
    async with agent.message("discord", "ann", "?") as turn:
        await turn.reply("!")
        async with turn.llm_call(provider="p", model="m", purpose="evaluation") as llm:
            llm.result("Was that right?", "Yes.")
    [record] = await found(agent, patterns.turns_of_conversation(turn.conversation_id))
    assert ("answered", "llm_call", 1) == (record.status, record.last_step, record.model_calls)


@pytest.mark.parametrize("inside", [True, False])
async def test_what_fails_a_turn_is_counted_once(agent: SimpleAgent, clock: palaver.ManualClock, inside: bool) -> None:
    async def fails() -> None:
        async with agent.message("discord", "ann", "?") as turn:
            if inside:
                await timed_out(turn.llm_call(provider="p", model="m", purpose="reply"), clock, 10)
            raise TimeoutError

    with pytest.raises(TimeoutError):
        await fails()
    [conversation] = await found(agent, patterns.active_conversations())
    assert 1 == conversation.error_count
    [record] = await found(agent, patterns.turns_of_conversation(conversation.conversation_id))
    assert ("failed", TIMED_OUT) == (record.status, record.error)
    assert ("llm_call" if inside else None) == record.stopped_at


async def test_the_words_of_one_person_are_found_by_the_person(agent: SimpleAgent) -> None:
    turns = {}
    for who in ("ann", "bob"):
        async with agent.message("discord", who, f"Invoices of {who}") as turns[who]:
            pass
    await agent.store.settle()
    assert 2 == len(await agent.search("invoices"))
    assert ["Invoices of bob"] == [hit.content for hit in await agent.search("invoices", user_id=turns["bob"].user_id)]
