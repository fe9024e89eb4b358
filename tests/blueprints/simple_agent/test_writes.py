"""What each flow writes, op by op, as golden files; and that no op, guard, field or value can change unseen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import pytest

import palaver
from palaver.blueprints.simple_agent import SCHEMA, SimpleAgent
from palaver.blueprints.simple_agent.schema import ToolCall
from palaver.blueprints.simple_agent.turn import AgentTurn
from palaver.ids import Ids
from tests.blueprints.written import Flow, Flows, Step, cannot_change_unseen


class Counted(Ids):
    """Identifiers that say which they are."""

    def __init__(self) -> None:
        super().__init__()
        self._n = 0

    def new(self) -> str:
        self._n += 1
        return f"00000000-0000-7000-8000-{self._n:012d}"


@pytest.fixture
async def agent(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimpleAgent]:
    numbers = count(1)
    monkeypatch.setattr("palaver.turns.recorder.new_id", lambda: f"call-{next(numbers)}")
    async with palaver.open("memory:", schema=SCHEMA, clock=palaver.ManualClock(), maintain=False) as store:
        agent = SimpleAgent(store)
        agent.directory.ids = agent.people._ids = Counted()
        yield agent


def begun(agent: SimpleAgent, delivery_id: str = "1") -> Any:
    return agent.message("discord", "ann", "What is due today?", delivery_id=delivery_id, username="Ann")


async def failing(call: Any) -> None:
    async with call:
        raise ConnectionError


async def user(agent: SimpleAgent) -> str:
    return (await agent.people.resolve("discord", "ann")).user_id


async def answer(agent: SimpleAgent) -> AgentTurn:
    turn: AgentTurn
    async with begun(agent) as turn:
        await turn.reply("Two invoices.")
    return turn


async def nothing(agent: SimpleAgent) -> None:
    return


async def known(agent: SimpleAgent) -> None:
    await user(agent)


async def rate(agent: SimpleAgent) -> None:
    message = (await agent.history(await user(agent))).items[0]
    await agent.give_feedback(message.message_id, user_id="rater", rating="positive", comment="Thanks.")


async def end(agent: SimpleAgent) -> None:
    await agent.end((await agent.start("discord", "ann")).conversation_id)


async def two(agent: SimpleAgent) -> None:
    await answer(agent)
    async with agent.message("slack", "U1", "Me again.") as turn:
        await turn.reply("Hello.")


async def merge(agent: SimpleAgent) -> None:
    await agent.people.merge((await agent.people.resolve("slack", "U1")).user_id, into=await user(agent))


async def api_call(turn: Any) -> None:
    async with turn.api_call("/invoices", {"due": "today"}) as call:
        call.response(200, {"found": 2})


async def llm_call(turn: Any) -> None:
    async with turn.llm_call(provider="openai", model="gpt-4o", purpose="reply") as call:
        call.result("How?", "Well.", {"input_tokens": 12, "output_tokens": 3})


async def failed_call(turn: Any) -> None:
    with pytest.raises(ConnectionError):
        await failing(turn.llm_call(provider="openai", model="gpt-4o", purpose="reply"))


CALL = ToolCall(id="1", name="invoices", arguments={"due": "today"})
STEPS: dict[str, Step] = {
    "intent": lambda turn: turn.intent("invoices", confidence=0.9, entities=[{"name": "today"}]),
    "tool_calls": lambda turn: turn.call_tools([CALL]),
    "tool_result": lambda turn: turn.tool_result(CALL, "[1,2]"),
    "api_call": api_call,
    "llm_call": llm_call,
    "llm_call_failed": failed_call,
    "reply": lambda turn: turn.reply("Two invoices."),
}

BY_THEMSELVES: dict[str, tuple[Flow[SimpleAgent], Flow[SimpleAgent]]] = {
    "user": (nothing, known),
    "start": (known, lambda agent: agent.start("discord", "ann")),
    "end": (lambda agent: agent.start("discord", "ann"), end),
    "link": (known, lambda agent: _link(agent)),
    "unlink": (lambda agent: _link(agent), lambda agent: agent.people.unlink("slack", "U1")),
    "merge": (two, merge),
    "feedback": (answer, rate),
    "channel": (nothing, lambda agent: agent.channels.configure("discord", default_model="gpt-4", settings={"slash": True})),
    "migrate": (known, lambda agent: agent.migrate_users("zones", lambda user: {"metadata": {"zone": "UTC"}})),
}


async def _link(agent: SimpleAgent) -> None:
    await agent.people.link(await user(agent), "slack", "U1", username="Ann")


FLOWS = Flows(STEPS, BY_THEMSELVES, answer, begun, lambda agent: begun(agent, "2"))


@pytest.mark.parametrize("name", FLOWS.names)
async def test_what_a_flow_writes_is_known(
    agent: SimpleAgent, name: str, monkeypatch: pytest.MonkeyPatch, golden: Callable[[str, str], None]
) -> None:
    golden(f"simple_agent/{name}.write.txt", (await FLOWS.run(agent, name, monkeypatch)).text())


@pytest.mark.parametrize("name", FLOWS.names)
async def test_a_plan_cannot_change_without_its_golden_file(agent: SimpleAgent, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cannot_change_unseen(await FLOWS.run(agent, name, monkeypatch))
