"""What each flow writes, op by op, as golden files; and that no op, guard, field or value can change unseen."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

import palaver
from palaver import Batch
from palaver.blueprints.simple_agent import SCHEMA, SimpleAgent
from palaver.blueprints.simple_agent.schema import ToolCall
from palaver.blueprints.simple_agent.turn import AgentTurn
from palaver.draft import Plan
from palaver.explain import explain_batch
from palaver.ids import Ids
from palaver.ops import Add, Address, Check, Delete, Op, Put, Set, Update
from palaver.plan import Planner
from palaver.store import Store

_REVISION = re.compile(r"revision=\d+")


class Planned:
    """The batches a flow wrote: what `explain` says of each, and the plan it was."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.batches: list[tuple[list[Address], Plan]] = []
        self.explained: list[str] = []
        write = Store.write

        async def explained(store: Store, batch: Batch, **options: Any) -> Any:
            self.explained.append(str(await store.explain(batch)))
            self.batches.append(await self._plan(batch))
            return await write(store, batch, **options)

        monkeypatch.setattr(Store, "write", explained)

    async def _plan(self, batch: Batch) -> tuple[list[Address], Plan]:
        planner: Planner = self.store.core.planner
        premises = planner.premises(batch, None)
        seen = dict(zip(premises, await self.store.core.records.get(premises), strict=True)) if premises else {}
        return premises, planner.plan(batch, seen, self.store.core.now_us())

    def text(self) -> str:
        texts = [written(self.store, premises, plan) for premises, plan in self.batches]
        # What is compared below is what `explain` gives, and the values.
        assert self.explained == [explanation for explanation, _ in texts]
        return "\n".join(f"{explanation}\n{values}" for explanation, values in texts)


def written(store: Store, premises: Sequence[Address], plan: Plan) -> tuple[str, str]:
    """Return what `explain` says of a plan, and every key, value and condition in it."""
    return str(explain_batch(store.core, premises, plan)), "\n".join(line for op in plan.writes.ops for line in values(op)) + "\n"


def values(op: Op) -> Iterator[str]:
    yield f"\n  {type(op).__name__} {op.at.table} {op.at.key!r}"
    # Which revision a record has says how many writes came before, and nothing of this one.
    yield from (f"    if {guard.origin.role}: {_REVISION.sub('revision=as read', repr(guard.when))}" for guard in op.guards)
    match op:
        case Put(_, record):
            yield from (f"    {name} = {value!r}" for name, value in sorted(record.items()))
        case Update(_, changes):
            yield from (f"    {shown(change)}" for change in changes)


def shown(change: Any) -> str:
    match change:
        case Set(path, to):
            return f"set {path} = {to!r}"
        case Add(path, amount):
            return f"add {path} {amount!r}"
        case _:
            return f"remove {change.path}"


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
STEPS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "intent": lambda turn: turn.intent("invoices", confidence=0.9, entities=[{"name": "today"}]),
    "tool_calls": lambda turn: turn.call_tools([CALL]),
    "tool_result": lambda turn: turn.tool_result(CALL, "[1,2]"),
    "api_call": api_call,
    "llm_call": llm_call,
    "llm_call_failed": failed_call,
    "reply": lambda turn: turn.reply("Two invoices."),
}

Flow = Callable[[SimpleAgent], Awaitable[Any]]
FLOWS: dict[str, tuple[Flow, Flow]] = {
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
TURNS = ("begin", "begin_again", "stop", *STEPS)


async def _link(agent: SimpleAgent) -> None:
    await agent.people.link(await user(agent), "slack", "U1", username="Ann")


async def flow(agent: SimpleAgent, name: str, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """Run what comes before a flow, and then the flow with every batch noted."""
    if name in FLOWS:
        before, run = FLOWS[name]
        await before(agent)
        planned = Planned(agent.store, monkeypatch)
        await run(agent)
        return planned
    if name == "begin_again":
        await answer(agent)
        agent.store.clock.advance(palaver.hours(2))  # type: ignore[attr-defined]
    planned = Planned(agent.store, monkeypatch)
    async with begun(agent, "2" if name == "begin_again" else "1") as turn:
        opening = planned.batches[:], planned.explained[:]
        if name in STEPS:
            planned.batches.clear()
            planned.explained.clear()
            await STEPS[name](turn)
            opening = planned.batches[:], planned.explained[:]
    if name == "stop":
        planned.batches, planned.explained = planned.batches[1:], planned.explained[1:]
    else:
        planned.batches, planned.explained = opening
    return planned


@pytest.mark.parametrize("name", [*TURNS, *FLOWS])
async def test_what_a_flow_writes_is_known(
    agent: SimpleAgent, name: str, monkeypatch: pytest.MonkeyPatch, golden: Callable[[str, str], None]
) -> None:
    planned = await flow(agent, name, monkeypatch)
    golden(f"simple_agent/{name}.write.txt", planned.text())


def changed(plan: Plan, others: Callable[[Op], Iterator[Op]]) -> Iterator[Plan]:
    """Yield a plan with one thing different: without one op, or with one op in another form."""
    ops = list(plan.writes.ops)
    for number, op in enumerate(ops):
        for instead in ([], *([other] for other in others(op))):
            yield replace(plan, writes=plan.writes._replace(ops=[*ops[:number], *instead, *ops[number + 1 :]]))


def fewer(op: Op) -> Iterator[Op]:
    """Yield an op without one guard, one field or one change."""
    for number in range(len(op.guards)):
        yield op._replace(guards=op.guards[:number] + op.guards[number + 1 :])
    match op:
        case Put(_, record):
            for gone in record:
                yield op._replace(record={name: value for name, value in record.items() if name != gone})
        case Update(_, changes):
            for number in range(len(changes)):
                yield op._replace(changes=changes[:number] + changes[number + 1 :])
        case Delete() | Check():
            return


def different(op: Op) -> Iterator[Op]:
    """Yield an op with one value different."""
    match op:
        case Put(_, record):
            for name in record:
                yield op._replace(record={**record, name: ["another"]})
        case Update(_, changes):
            for number, change in enumerate(changes):
                yield op._replace(changes=(*changes[:number], Set(change.path, "another"), *changes[number + 1 :]))
        case Delete() | Check():
            return


@pytest.mark.parametrize("name", [*TURNS, *FLOWS])
async def test_a_plan_cannot_change_without_its_golden_file(agent: SimpleAgent, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = await flow(agent, name, monkeypatch)
    assert planned.batches
    for premises, plan in planned.batches:
        explained, shown = written(agent.store, premises, plan)
        assert explained not in [written(agent.store, premises, other)[0] for other in changed(plan, fewer)]
        assert shown not in [written(agent.store, premises, other)[1] for other in changed(plan, different)]
