"""What each flow writes, op by op, as golden files; and that no op, guard, field or value can change unseen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import pytest

import palaver
from palaver.blueprints.baller import SCHEMA, Baller
from tests.blueprints.written import Flow, Flows, Step, cannot_change_unseen

QUESTION, ANSWER = "1450000000000000001", "1450000000000000002"


@pytest.fixture
async def baller(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Baller]:
    numbers = count(1)
    monkeypatch.setattr("palaver.turns.recorder.new_id", lambda: f"call-{next(numbers)}")
    async with palaver.open("memory:", schema=SCHEMA, clock=palaver.ManualClock(), maintain=False) as store:
        yield Baller(store)


def begun(baller: Baller, message_id: str = QUESTION) -> Any:
    return baller.turn(user_id="u", server_id="s", content="Did Arsenal win?", conversation_id="c", message_id=message_id)


async def failing(call: Any) -> None:
    async with call:
        raise ConnectionError


async def answer(baller: Baller) -> None:
    async with begun(baller) as turn:
        await turn.reply("Yes, 2–0.", message_id=ANSWER)


async def nothing(baller: Baller) -> None:
    return


async def api_call(turn: Any) -> None:
    async with turn.api_call("/fixtures/7?live=1", {"team": 42}) as call:
        call.response(200, {"score": [2, 0]})


async def llm_call(turn: Any) -> None:
    async with turn.llm_call(provider="anthropic", model="m", purpose="main_response") as call:
        call.result("How?", "Well.", {"input_tokens": 12, "output_tokens": 3})


async def failed_call(turn: Any) -> None:
    with pytest.raises(ConnectionError):
        await failing(turn.api_call("/fixtures"))


STEPS: dict[str, Step] = {
    "relevance": lambda turn: turn.relevance(is_relevant=True, confidence=0.97, explanation="Football.", raw_response="{}"),
    "relevance_large": lambda turn: turn.relevance(is_relevant=True, raw_response="r" * 9_000),
    "intent": lambda turn: turn.intent("result", confidence=0.9, api_params={"team": 42}, entities=[{"name": "Arsenal", "id": 42}]),
    "context": lambda turn: turn.context({"history": ["Hello."]}),
    "api_call": api_call,
    "api_call_failed": failed_call,
    "llm_call": llm_call,
    "reply": lambda turn: turn.reply("Yes, 2–0.", message_id=ANSWER),
}

BY_THEMSELVES: dict[str, tuple[Flow[Baller], Flow[Baller]]] = {
    "feedback": (answer, lambda baller: baller.give_feedback(ANSWER, user_id="v", rating="positive", follow_up="Thanks.")),
    "preferences": (nothing, lambda baller: baller.set_preferences("u", "s", username="Ann", followed_teams=["Arsenal"])),
    "follow": (lambda baller: baller.set_preferences("u"), lambda baller: baller.follow_team("u", "Arsenal")),
    "summary": (answer, lambda baller: baller.summarise("u", "c", "About Arsenal.")),
    "delete_conversation": (answer, lambda baller: baller.delete_conversation("u", "c")),
    "entity": (nothing, lambda baller: baller.entities.put("team", "42", "Arsenal FC", aliases=["Arsenal"])),
}

FLOWS = Flows(STEPS, BY_THEMSELVES, answer, begun, lambda baller: begun(baller, ANSWER + "0"))


@pytest.mark.parametrize("name", FLOWS.names)
async def test_what_a_flow_writes_is_known(
    baller: Baller, name: str, monkeypatch: pytest.MonkeyPatch, golden: Callable[[str, str], None]
) -> None:
    golden(f"baller/{name}.write.txt", (await FLOWS.run(baller, name, monkeypatch)).text())


@pytest.mark.parametrize("name", FLOWS.names)
async def test_a_plan_cannot_change_without_its_golden_file(baller: Baller, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cannot_change_unseen(await FLOWS.run(baller, name, monkeypatch))
