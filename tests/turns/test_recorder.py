"""The recorder alone, with a book that only remembers: order, times, failures, duplicates."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from palaver import ManualClock
from palaver.errors import StorageFull, Validation
from palaver.turns import Turn, Usage
from palaver.turns.steps import ApiCalled, Beginning, ContextUsed, IntentFound, LlmCalled, Relevance, Reply, Step, Stop


class Remembers:
    """A book in memory; `fails` are the methods that raise."""

    def __init__(self, beginning: Beginning | None = None, fails: tuple[str, ...] = ()) -> None:
        self.beginning, self.fails = beginning or Beginning("c", "1"), fails
        self.steps: list[Step] = []
        self.replies: list[Reply] = []
        self.stops: list[tuple[str | None, str | None, float]] = []

    async def begin(self) -> Beginning:
        self._fail("begin")
        return self.beginning

    async def record(self, step: Step) -> None:
        self._fail("record")
        self.steps.append(step)

    async def answer(self, reply: Reply) -> str:
        self._fail("answer")
        self.replies.append(reply)
        return "2"

    async def stop(self, stop: Stop) -> None:
        self._fail("stop")
        self.stops.append((stop.at, stop.error, stop.elapsed))

    def _fail(self, method: str) -> None:
        if method in self.fails:
            raise StorageFull("No space is left.")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def pause(clock: ManualClock, ms: float) -> None:
    clock.advance(timedelta(milliseconds=ms))


async def test_steps_are_measured_with_the_clock_given(clock: ManualClock) -> None:
    book = Remembers()
    async with Turn(book, clock) as turn:
        pause(clock, 10)
        await turn.relevance(is_relevant=True)
        pause(clock, 20)
        await turn.intent("standings")
        async with turn.api_call("/standings") as api:
            pause(clock, 30)
            api.response(200, {"a": 1})
        async with turn.llm_call(provider="p", model="m", purpose="main_response") as llm:
            pause(clock, 40)
            llm.result("prompt", "text", {"input_tokens": 1, "output_tokens": 2})
        assert "2" == await turn.reply("Here.")
    assert [10, 20, 30, 40] == [step.latency for step in book.steps if not isinstance(step, ContextUsed)]
    assert [100] == [reply.elapsed for reply in book.replies]
    assert [] == book.stops


async def test_a_second_reply_is_a_further_part_of_the_answer(clock: ManualClock) -> None:
    book = Remembers()
    async with Turn(book, clock) as turn:
        await turn.reply("First.")
        await turn.reply("Second.", message_id="9")
    assert [("First.", None, 0.0), ("Second.", "9", None)] == [(reply.content, reply.message_id, reply.elapsed) for reply in book.replies]


async def test_an_exception_in_a_block_stores_its_class_and_never_its_text(clock: ManualClock) -> None:
    book = Remembers()
    with pytest.raises(ValueError, match="a secret"):
        async with Turn(book, clock) as turn, turn.api_call("/fixtures"):
            pause(clock, 5)
            raise ValueError("a secret")
    [step] = book.steps
    assert isinstance(step, ApiCalled)
    assert (False, "ValueError", 5.0) == (step.success, step.error, step.latency)
    assert [("api_call", "ValueError", 5.0)] == book.stops
    assert "a secret" not in repr((book.steps, book.stops))


async def test_a_call_that_is_caught_does_not_stop_the_turn(clock: ManualClock) -> None:
    book = Remembers()
    async with Turn(book, clock) as turn:
        with pytest.raises(TimeoutError):
            async with turn.llm_call(provider="p", model="m", purpose="main_response") as call:
                call.prompt("How?")
                raise TimeoutError
        await turn.reply("Sorry.")
    [step] = book.steps
    assert isinstance(step, LlmCalled)
    assert (False, "TimeoutError", "How?", None) == (step.success, step.error, step.prompt, step.response)
    assert [] == book.stops


@pytest.mark.parametrize(("status", "error"), [(200, None), (302, None), (404, "HTTP 404"), (503, "HTTP 503"), (None, "NoResponse")])
async def test_a_status_from_400_on_and_no_answer_at_all_are_failures(clock: ManualClock, status: int | None, error: str | None) -> None:
    book = Remembers()
    async with Turn(book, clock) as turn:
        async with turn.api_call("/fixtures") as call:
            if status is not None:
                call.response(status, "body")
        await turn.reply("…")
    [step] = book.steps
    assert isinstance(step, ApiCalled)
    assert (error is None, error) == (step.success, step.error)


async def test_a_turn_that_ends_without_a_reply_says_so(clock: ManualClock) -> None:
    book = Remembers()
    async with Turn(book, clock) as turn:
        await turn.relevance(is_relevant=False)
    assert [(None, None, 0.0)] == book.stops


async def test_an_exception_between_steps_names_no_step(clock: ManualClock) -> None:
    book = Remembers()
    with pytest.raises(KeyError):
        async with Turn(book, clock) as turn:
            await turn.relevance(is_relevant=True)
            raise KeyError
    assert [(None, "KeyError", 0.0)] == book.stops


async def test_a_step_that_cannot_be_stored_raises(clock: ManualClock) -> None:
    book = Remembers(fails=("record",))
    with pytest.raises(StorageFull):
        async with Turn(book, clock) as turn:
            await turn.relevance(is_relevant=True)
    assert [("relevance", "StorageFull", 0.0)] == book.stops


async def test_the_first_error_is_seen_even_when_nothing_can_be_stored(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="first") as caught:
        async with Turn(Remembers(fails=("record", "stop")), clock) as turn, turn.api_call("/fixtures"):
            raise ValueError("first")
    assert [
        "The failed call could not be stored: storage_full.",
        "The end of the turn could not be stored: storage_full.",
    ] == caught.value.__notes__


async def test_a_duplicate_stores_nothing(clock: ManualClock) -> None:
    book = Remembers(Beginning("c", "1", duplicate=True, answered=True))
    async with Turn(book, clock) as turn:
        assert (True, True) == (turn.duplicate, turn.answered)
        await turn.relevance(is_relevant=True)
        async with turn.api_call("/fixtures") as call:
            call.response(200)
        assert "" == await turn.reply("Again.")
        with pytest.raises(Validation):
            turn.resume()
    assert ([], [], []) == (book.steps, book.replies, book.stops)


async def test_a_duplicate_of_a_turn_that_stopped_can_be_resumed(clock: ManualClock) -> None:
    book = Remembers(Beginning("c", "1", duplicate=True))
    async with Turn(book, clock) as turn:
        assert not turn.answered
        turn.resume()
        await turn.intent("standings", entities=[{"name": "Arsenal"}])
        await turn.reply("At last.")
    assert [IntentFound] == [type(step) for step in book.steps]
    assert 1 == len(book.replies)


async def test_a_turn_is_used_with_async_with(clock: ManualClock) -> None:
    turn = Turn(Remembers(), clock)
    with pytest.raises(Validation):
        _ = turn.message_id


async def test_storing_a_step_does_not_count_as_time_of_the_next(clock: ManualClock) -> None:
    class Slow(Remembers):
        async def record(self, step: Step) -> None:
            pause(clock, 1_000)
            await super().record(step)

    book = Slow()
    async with Turn(book, clock) as turn:
        await turn.relevance(is_relevant=True)
        pause(clock, 7)
        await turn.intent("standings")
        await turn.reply("…")
    latencies = [step.latency for step in book.steps if isinstance(step, Relevance | IntentFound)]
    assert [0, 7] == latencies


class _Counts:
    input_tokens, output_tokens = 3, 4


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, Usage()),
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 9}, Usage(1, 2, 9)),
        ({"input_tokens": 1, "output_tokens": 2}, Usage(1, 2, 3)),
        (_Counts(), Usage(3, 4, 7)),
        ({"prompt_token_count": 3, "candidates_token_count": 4, "total_token_count": 9}, Usage(3, 4, 9)),
        ({"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}, Usage(3, 4, 7)),
        ({"total_tokens": 7}, Usage(0, 0, 7)),
        ({"input_tokens": None, "output_tokens": None}, Usage()),
        (Usage(5, 6, 11), Usage(5, 6, 11)),
    ],
)
def test_usage_is_read_as_providers_give_it(given: Any, expected: Usage) -> None:
    assert expected == Usage.of(given)


@pytest.mark.parametrize(("body", "size"), [(None, None), ("é", 2), ({"a": [1, 2]}, 11), ({"a": 2**70}, None), ({"a": object()}, None)])
async def test_a_response_is_measured_or_not_but_noting_it_never_fails(clock: ManualClock, body: Any, size: int | None) -> None:
    book = Remembers()
    async with Turn(book, clock) as turn, turn.api_call("/fixtures") as call:
        call.response(200, body)
    [step] = book.steps
    assert isinstance(step, ApiCalled)
    assert size == step.size


@pytest.mark.parametrize(
    "given",
    [{"prompt_tokens": -5}, {"prompt_tokens": "5"}, {"prompt_tokens": 1.5}, {"prompt_tokens": float("nan")}, {"tokens": 1}, {}, "text"],
    ids=repr,
)
def test_usage_that_counts_no_tokens_is_refused(given: Any) -> None:
    with pytest.raises(Validation):
        Usage.of(given)


def test_usage_below_zero_is_refused() -> None:
    with pytest.raises(Validation, match="completion_tokens"):
        Usage.of(Usage(1, -2, 3))
