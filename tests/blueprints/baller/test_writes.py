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
from palaver.blueprints.baller import SCHEMA, Baller
from palaver.draft import Plan
from palaver.explain import explain_batch
from palaver.ops import Add, Address, Check, Delete, Op, Put, Set, Update
from palaver.plan import Planner
from palaver.store import Store

_REVISION = re.compile(r"revision=\d+")
QUESTION, ANSWER = "1450000000000000001", "1450000000000000002"


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


STEPS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "relevance": lambda turn: turn.relevance(is_relevant=True, confidence=0.97, explanation="Football.", raw_response="{}"),
    "relevance_large": lambda turn: turn.relevance(is_relevant=True, raw_response="r" * 9_000),
    "intent": lambda turn: turn.intent("result", confidence=0.9, api_params={"team": 42}, entities=[{"name": "Arsenal", "id": 42}]),
    "context": lambda turn: turn.context({"history": ["Hello."]}),
    "api_call": api_call,
    "api_call_failed": failed_call,
    "llm_call": llm_call,
    "reply": lambda turn: turn.reply("Yes, 2–0.", message_id=ANSWER),
}

Flow = Callable[[Baller], Awaitable[Any]]
FLOWS: dict[str, tuple[Flow, Flow]] = {
    "feedback": (answer, lambda baller: baller.give_feedback(ANSWER, user_id="v", rating="positive", follow_up="Thanks.")),
    "preferences": (nothing, lambda baller: baller.set_preferences("u", "s", username="Ann", followed_teams=["Arsenal"])),
    "follow": (lambda baller: baller.set_preferences("u"), lambda baller: baller.follow_team("u", "Arsenal")),
    "summary": (answer, lambda baller: baller.summarise("u", "c", "About Arsenal.")),
    "delete_conversation": (answer, lambda baller: baller.delete_conversation("u", "c")),
    "entity": (nothing, lambda baller: baller.entities.put("team", "42", "Arsenal FC", aliases=["Arsenal"])),
}
TURNS = ("begin", "begin_again", "stop", *STEPS)


async def flow(baller: Baller, name: str, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """Run what comes before a flow, and then the flow with every batch noted."""
    if name in FLOWS:
        before, run = FLOWS[name]
        await before(baller)
        planned = Planned(baller.store, monkeypatch)
        await run(baller)
        return planned
    if name == "begin_again":
        await answer(baller)
        baller.store.clock.advance(palaver.hours(2))  # type: ignore[attr-defined]
    planned = Planned(baller.store, monkeypatch)
    async with begun(baller, ANSWER + "0" if name == "begin_again" else QUESTION) as turn:
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
    baller: Baller, name: str, monkeypatch: pytest.MonkeyPatch, golden: Callable[[str, str], None]
) -> None:
    planned = await flow(baller, name, monkeypatch)
    golden(f"baller/{name}.write.txt", planned.text())


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
async def test_a_plan_cannot_change_without_its_golden_file(baller: Baller, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = await flow(baller, name, monkeypatch)
    assert planned.batches
    for premises, plan in planned.batches:
        explained, shown = written(baller.store, premises, plan)
        assert explained not in [written(baller.store, premises, other)[0] for other in changed(plan, fewer)]
        assert shown not in [written(baller.store, premises, other)[1] for other in changed(plan, different)]
