"""A turn used in ways it was not meant to be: each is refused by name, or leaves what is stored true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from palaver.blueprints.baller import Baller, patterns
from palaver.blueprints.baller.schema import ProcessingMetadata
from palaver.errors import PalaverError, Validation
from palaver.turns import Turn
from tests.blueprints.baller.given import found


async def _call(turn: Turn) -> None:
    async with turn.api_call("/fixtures") as call:
        call.response(200)


@pytest.mark.parametrize(
    "step",
    [lambda turn: turn.relevance(is_relevant=True), lambda turn: turn.reply("…"), lambda turn: turn.context({}), _call],
    ids=["relevance", "reply", "context", "api_call"],
)
async def test_a_step_of_a_turn_that_has_not_begun_is_refused(baller: Baller, step: Callable[[Turn], Awaitable[Any]]) -> None:
    with pytest.raises(Validation, match="has not begun"):
        await step(baller.turn(user_id="u", content="?"))
    with pytest.raises(Validation, match="has not begun"):
        baller.turn(user_id="u", content="?").elapsed()


async def test_a_turn_is_used_once(baller: Baller) -> None:
    turn = baller.turn(user_id="u", content="?")
    async with turn:
        await turn.reply("…")
    with pytest.raises(Validation, match="begun before"):
        async with turn:
            raise AssertionError
    assert 2 == len(await found(baller, patterns.messages_of_conversation(turn.conversation_id)))


async def _ended(baller: Baller, turn: Turn) -> tuple[ProcessingMetadata, int]:
    conversation = await baller.conversation("u", turn.conversation_id)
    return (await baller.message(turn.message_id)).processing_metadata, conversation.metrics.error_count


async def test_a_call_that_ends_after_its_turn_leaves_the_turn_failed(baller: Baller) -> None:
    other_may_end, turn = asyncio.Event(), baller.turn(user_id="u", content="?")

    async def slow() -> None:
        async with turn.api_call("/slow") as call:
            await other_may_end.wait()
            call.response(200)

    async def broken() -> None:
        async with turn.api_call("/broken"):
            await asyncio.sleep(0)
            raise ConnectionResetError

    left: list[asyncio.Task[None]] = []
    with pytest.raises(ConnectionResetError):
        async with turn:
            left.append(asyncio.create_task(slow()))
            await asyncio.gather(*left, broken())
    other_may_end.set()
    await left[0]
    metadata, errors = await _ended(baller, turn)
    assert ("failed", "api_call", "ConnectionResetError") == (metadata.status, metadata.stopped_at, metadata.error)
    assert (2, 1) == (metadata.api_calls, errors)


async def test_a_step_after_an_end_without_a_reply_leaves_the_end_and_a_late_reply_answers(baller: Baller) -> None:
    async with baller.turn(user_id="u", content="?") as turn:
        pass
    await turn.relevance(is_relevant=True)
    assert "unanswered" == (await _ended(baller, turn))[0].status
    await turn.reply("After all.")
    assert "answered" == (await _ended(baller, turn))[0].status


async def test_a_turn_that_is_answered_after_all_no_longer_says_where_it_stopped(baller: Baller) -> None:
    with pytest.raises(TimeoutError):
        async with baller.turn(user_id="u", content="?", message_id="1") as turn, turn.api_call("/fixtures"):
            raise TimeoutError
    assert "TimeoutError" == (await _ended(baller, turn))[0].error
    async with baller.turn(user_id="u", content="?", message_id="1") as again:
        again.resume()
        await again.reply("At last.")
    metadata, _ = await _ended(baller, again)
    assert ("answered", None, None) == (metadata.status, metadata.stopped_at, metadata.error)


async def test_an_exception_that_was_caught_is_not_where_another_one_came_from(baller: Baller) -> None:
    with pytest.raises(KeyError):
        async with baller.turn(user_id="u", content="?") as turn:
            with pytest.raises(TimeoutError):
                async with turn.api_call("/fixtures"):
                    raise TimeoutError
            raise KeyError
    metadata, errors = await _ended(baller, turn)
    assert ("failed", None, "KeyError", 2) == (metadata.status, metadata.stopped_at, metadata.error, errors)


async def test_a_call_that_is_refused_is_an_error_of_the_conversation(baller: Baller) -> None:
    with pytest.raises(Validation):
        async with baller.turn(user_id="u", content="?") as turn, turn.llm_call(provider="p", model="m", purpose="nonsense"):
            pass
    metadata, errors = await _ended(baller, turn)
    assert ("failed", "llm_call", "Validation", 1) == (metadata.status, metadata.stopped_at, metadata.error, errors)


async def test_calls_at_once_in_a_group_say_which_of_them_failed_first(baller: Baller) -> None:
    turn = baller.turn(user_id="u", content="?")

    async def good() -> None:
        async with turn.llm_call(provider="p", model="m", purpose="main_response") as call:
            call.prompt("How?")
            await asyncio.Event().wait()

    async def bad() -> None:
        async with turn.api_call("/fixtures"):
            raise ConnectionResetError

    with pytest.raises(ExceptionGroup):
        async with turn, asyncio.TaskGroup() as group:
            group.create_task(good())
            await asyncio.sleep(0)
            group.create_task(bad())
    metadata, _ = await _ended(baller, turn)
    assert ("failed", "api_call", "ConnectionResetError") == (metadata.status, metadata.stopped_at, metadata.error)
    assert (1, 1) == (metadata.api_calls, metadata.llm_calls)
    [call] = await found(baller, patterns.llm_calls_of_message(turn.message_id))
    assert (False, "CancelledError") == (call.success, call.error_message)


@pytest.mark.parametrize("where", ["between", "api_call", "llm_call"])
async def test_a_turn_that_is_cancelled_says_where(baller: Baller, where: str) -> None:
    turn, here = baller.turn(user_id="u", content="?"), asyncio.Event()

    async def wait() -> None:
        here.set()
        await asyncio.Event().wait()

    async def answer() -> None:
        async with turn:
            if where == "api_call":
                async with turn.api_call("/fixtures"):
                    await wait()
            if where == "llm_call":
                async with turn.llm_call(provider="p", model="m", purpose="main_response"):
                    await wait()
            await wait()

    task = asyncio.create_task(answer())
    await here.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    metadata, errors = await _ended(baller, turn)
    at = None if where == "between" else where
    assert ("failed", at, "CancelledError", 1) == (metadata.status, metadata.stopped_at, metadata.error, errors)


REFUSED: Mapping[str, Callable[[Turn], Awaitable[None]]] = {
    "entity without a name": lambda turn: turn.intent("x", entities=[{"id": 4}]),
    "entity with an unknown field": lambda turn: turn.intent("x", entities=[{"name": "Arsenal", "colour": "canary"}]),
    "entity that is a text": lambda turn: turn.intent("x", entities=["canary"]),  # type: ignore[list-item]
    "parameters that are a list": lambda turn: turn.intent("x", api_params=["canary"]),  # type: ignore[arg-type]
    "context that is a text": lambda turn: turn.context("canary"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("given", REFUSED)
async def test_a_step_of_another_form_is_refused_and_the_turn_goes_on(baller: Baller, given: str) -> None:
    async with baller.turn(user_id="u", content="?") as turn:
        with pytest.raises(PalaverError) as caught:
            await REFUSED[given](turn)
        assert "canary" not in str(caught.value)
        await turn.reply("…")
    metadata, _ = await _ended(baller, turn)
    assert "answered" == metadata.status


async def test_a_status_that_is_no_number_is_refused_where_it_is_given(baller: Baller) -> None:
    async with baller.turn(user_id="u", content="?") as turn:
        with pytest.raises(Validation, match="status"):
            async with turn.api_call("/fixtures") as call:
                call.response("200")  # type: ignore[arg-type]
        await turn.reply("…")


@pytest.mark.parametrize("field", ["user_id", "server_id", "channel_id", "conversation_id", "message_id"])
async def test_a_platforms_number_in_place_of_a_text_is_refused(baller: Baller, field: str) -> None:
    given: Any = {"user_id": "u", "content": "?", field: 201_000_000_000_000_000}
    with pytest.raises(PalaverError, match=field):
        async with baller.turn(**given):
            raise AssertionError


async def test_an_empty_platform_identifier_is_none(baller: Baller) -> None:
    with pytest.raises(Validation, match="message_id"):
        async with baller.turn(user_id="u", content="?", message_id=""):
            raise AssertionError


async def test_bytes_of_a_response_are_counted_and_come_back(baller: Baller) -> None:
    async with baller.turn(user_id="u", content="?") as turn:
        async with turn.api_call("/badge") as call:
            call.response(200, b"\x89PNG")
        await turn.reply("…")
    [stored] = await found(baller, patterns.api_calls_of_message(turn.message_id))
    body: Any = stored.response
    assert (b"\x89PNG", 4) == (body, stored.response_size)
