"""Everything a turn says is stored, counted and shown: no field of it is left out, and none is another's."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

import palaver
from palaver.blueprints.baller import PROJECTIONS, Baller, Settings, patterns
from palaver.turns.transcripts import Shown
from tests.blueprints.baller.conftest import Opened
from tests.blueprints.baller.given import found

TIMED_OUT = "TimeoutError"


async def full_turn(baller: Baller, clock: palaver.ManualClock, **where: Any) -> list[datetime]:
    """Record a turn in which every step says everything it can, each in a time of its own; return when its calls began."""

    def passed(milliseconds: int) -> datetime:
        clock.advance(timedelta(milliseconds=milliseconds))
        return clock.now()

    async with baller.turn(**{"user_id": "u", "conversation_id": "c", "content": "?", "message_id": "1", **where}) as turn:
        passed(10)
        await turn.relevance(is_relevant=False, confidence=0.25, explanation="Not football.", raw_response="{}")
        passed(20)
        await turn.intent("chat", confidence=0.75, api_resource="/x", api_params={"a": 1}, entities=[{"name": "Ajax", "confidence": 0.5}])
        await turn.context({"history": ["Hello."]})
        began = [clock.now()]
        async with turn.api_call("/teams/7", {"team": 7}) as api:
            api.response(200, {"name": "Ajax"}, size=99)
            began.append(passed(40))
        with pytest.raises(TimeoutError):
            await timed_out(turn.api_call("/fixtures"), clock, 80)
        began.append(clock.now())
        async with turn.llm_call(provider="p", model="m", purpose="main_response") as llm:
            llm.result("How?", "Well.", {"input_tokens": 12, "output_tokens": 3}, metadata={"seed": 5})
            began.append(passed(160))
        with pytest.raises(TimeoutError):
            await timed_out(turn.llm_call(provider="q", model="n", purpose="evaluation"), clock, 320)
        await turn.reply("!")
    return began


async def timed_out(call: Any, clock: palaver.ManualClock, milliseconds: int) -> None:
    async with call:
        clock.advance(timedelta(milliseconds=milliseconds))
        raise TimeoutError


async def test_a_transcript_shows_every_field_of_every_step(baller: Baller, clock: palaver.ManualClock) -> None:
    first, second, third, fourth = await full_turn(baller, clock)
    question, answer = [said async for said in baller.transcript("u", "c")]
    tokens = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    none = dict.fromkeys(tokens, 0)
    assert [
        Shown(
            "relevance",
            "not relevant",
            latency=10.0,
            detail={"is_relevant": False, "confidence": 0.25, "explanation": "Not football.", "raw_response": "{}"},
        ),
        Shown(
            "intent",
            "chat",
            latency=20.0,
            detail={
                "name": "chat",
                "confidence": 0.75,
                "api_resource": "/x",
                "api_params": {"a": 1},
                "entities": [{"name": "Ajax", "normalized_name": "ajax", "confidence": 0.5}],
            },
        ),
        Shown("context", "context", detail={"history": ["Hello."]}),
        Shown(
            "api_call",
            "/teams/7",
            first,
            40.0,
            detail={"parameters": {"team": 7}, "status_code": 200, "response_size": 99, "response": {"name": "Ajax"}},
        ),
        Shown(
            "api_call",
            "/fixtures",
            second,
            80.0,
            False,
            TIMED_OUT,
            {"parameters": {}, "status_code": None, "response_size": None, "response": None},
        ),
        Shown(
            "llm_call",
            "m",
            third,
            160.0,
            detail={"provider": "p", "purpose": "main_response", **tokens, "prompt": "How?", "response": "Well."},
        ),
        Shown(
            "llm_call",
            "n",
            fourth,
            320.0,
            False,
            TIMED_OUT,
            {"provider": "q", "purpose": "evaluation", **none, "prompt": None, "response": None},
        ),
    ] == list(question.steps)
    assert ("answered", 630.0) == (question.status, question.latency)
    assert ("answered", 630.0, ()) == (answer.status, answer.latency, answer.steps)


async def test_a_large_answer_of_the_relevance_check_is_shown_whole(baller: Baller) -> None:
    async with baller.turn(user_id="u", content="?", conversation_id="c") as turn:
        await turn.relevance(is_relevant=True, raw_response="r" * 20_000)
    [said] = [said async for said in baller.transcript("u", "c")]
    assert "r" * 20_000 == said.steps[0].detail["raw_response"]
    assert "unanswered" == said.status


async def test_a_conversation_is_listed_with_its_errors_and_its_summary(baller: Baller, clock: palaver.ManualClock) -> None:
    begun = clock.now()
    await full_turn(baller, clock, server_id="s", channel_id="ch", app_mode="beta")
    await baller.summarise("u", "c", "About a derby.")
    [chat] = (await baller.chats()).items
    assert ("u", "c", begun, 2, 2, "About a derby.", "s") == (
        chat.user_id,
        chat.conversation_id,
        chat.started,
        chat.messages,
        chat.errors,
        chat.title,
        chat.place,
    )
    assert {"app_mode": "beta", "environment": "production"} == chat.labels
    await baller.store.settle()
    assert [("u", "c", None, "About a derby.")] == [
        (hit.user_id, hit.conversation_id, hit.message_id, hit.content) for hit in await baller.search("derby", user_id="u")
    ]
    assert [] == list(await baller.search("derby", user_id="v"))


async def test_all_that_is_stored_of_a_turn_says_where_it_was_and_in_which_mode(baller: Baller, clock: palaver.ManualClock) -> None:
    await full_turn(baller, clock, server_id="s", channel_id="ch", app_mode="beta")
    conversation = await baller.conversation("u", "c")
    messages = await found(baller, patterns.messages_of_conversation("c"))
    assert ("s", "ch", "beta") == (conversation.server_id, conversation.channel_id, conversation.app_mode)
    assert [("s", "ch", "beta")] * 2 == [(each.server_id, each.channel_id, each.app_mode) for each in messages]
    assert ["beta"] * 2 == [call.app_mode for call in await found(baller, patterns.api_calls_of_message("1"))]
    assert ["beta"] * 2 == [call.app_mode for call in await found(baller, patterns.llm_calls_of_message("1"))]
    times = messages[0].processing_metadata
    assert (10.0, 20.0, 120.0, 160.0) == (
        times.relevance_check_time,
        times.intent_detection_time,
        times.api_call_time,
        times.llm_generation_time,
    )
    assert messages[0].context_used is True
    [exchange] = [call.exchange for call in await found(baller, patterns.llm_calls_of_message("1")) if call.model == "m"]
    assert exchange is not None
    assert {"seed": 5} == exchange.metadata


async def test_what_is_counted_of_a_turn_is_what_it_took(opened: Opened, clock: palaver.ManualClock) -> None:
    async with opened(projections=PROJECTIONS) as baller:
        day = clock.now().date()
        await full_turn(baller, clock)
        async with baller.turn(user_id="v", content="?"):
            pass
        with pytest.raises(TimeoutError):
            await timed_out(baller.turn(user_id="w", content="?"), clock, 5)
        await baller.store.settle()
        points = {(point.category, point.name): point.values for point in await baller.metrics.read(day, day)}
        assert {
            ("latency", "response"): (3, 635),
            ("latency", "relevance_check"): (1, 10),
            ("latency", "intent_detection"): (1, 20),
            ("latency", "api_call"): (2, 120),
            ("latency", "llm_generation"): (1, 160),
            ("relevance", "relevant"): (1, 0),
            ("relevance", "confidence"): (1, 0.25),
            ("intent", "chat"): (1, 1),
            ("endpoint", "/teams/{id}"): (1, 40),
            ("endpoint", "/fixtures"): (1, 80),
            ("endpoint_success", "/teams/{id}"): (1, 1),
            ("endpoint_success", "/fixtures"): (1, 0),
            ("success", "answer"): (3, 1),
            ("success", "api_call"): (2, 1),
            ("success", "llm_call"): (2, 1),
        } == {name: (values.count, float(values.total)) for name, values in points.items()}


async def test_silence_no_longer_than_the_pause_begins_no_conversation(opened: Opened, clock: palaver.ManualClock) -> None:
    """The last activity that is stored is up to a step of `touch` behind what was said last."""
    settings = Settings(pause=timedelta(minutes=60), touch=timedelta(minutes=10))
    async with opened(settings=settings) as baller:

        async def after(minutes: int) -> str:
            clock.advance(timedelta(minutes=minutes))
            async with baller.turn(user_id="u", content="?") as turn:
                return turn.conversation_id

        first = await after(0)
        assert first == await after(9)
        assert first == await after(60)
        assert first != await after(71)
