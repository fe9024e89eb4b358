"""What the flows of a blueprint write, op by op, and that nothing of it can change unseen."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import pytest

import palaver
from palaver import Batch
from palaver.draft import Plan
from palaver.explain import explain_batch
from palaver.ops import Add, Address, Check, Delete, Op, Put, Set, Update
from palaver.plan import Planner
from palaver.store import Store

_REVISION = re.compile(r"revision=\d+")


class Blueprint(Protocol):
    store: Store


B = TypeVar("B", bound=Blueprint)
Flow = Callable[[B], Awaitable[Any]]
Step = Callable[[Any], Awaitable[Any]]


class Planned:
    """The batches a flow wrote: what `explain` says of each, and the plan it was."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.batches: list[tuple[list[Address], Plan]] = []
        self.explained: list[str] = []
        write, create = Store.write, Store.create

        async def explained(store: Store, batch: Batch, **options: Any) -> Any:
            await self._note(batch)
            return await write(store, batch, **options)

        async def created(store: Store, entity: Any, **options: Any) -> Any:
            await self._note(Batch().create(entity))
            return await create(store, entity, **options)

        monkeypatch.setattr(Store, "write", explained)
        monkeypatch.setattr(Store, "create", created)

    async def _note(self, batch: Batch) -> None:
        self.explained.append(str(await self.store.explain(batch)))
        self.batches.append(await self._plan(batch))

    async def _plan(self, batch: Batch) -> tuple[list[Address], Plan]:
        planner: Planner = self.store.core.planner
        premises = planner.premises(batch, None)
        seen = dict(zip(premises, await self.store.core.records.get(premises), strict=True)) if premises else {}
        return premises, planner.plan(batch, seen, self.store.core.now_us())

    def taken(self) -> tuple[list[tuple[list[Address], Plan]], list[str]]:
        """Return what was noted so far, and forget it."""
        taken = self.batches, self.explained
        self.batches, self.explained = [], []
        return taken

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


@dataclass(frozen=True)
class Flows(Generic[B]):
    """What a blueprint does: the steps of a turn by name, and by name what comes before a flow, and the flow.

    `begun` begins a turn; `again` one that comes hours after another that was answered.
    """

    steps: Mapping[str, Step]
    flows: Mapping[str, tuple[Flow[B], Flow[B]]]
    answer: Flow[B]
    begun: Callable[[B], AbstractAsyncContextManager[Any]]
    again: Callable[[B], AbstractAsyncContextManager[Any]]

    @property
    def names(self) -> list[str]:
        return ["begin", "begin_again", "stop", *self.steps, *self.flows]

    async def run(self, blueprint: B, name: str, monkeypatch: pytest.MonkeyPatch) -> Planned:
        """Run what comes before a flow, and then the flow with every batch noted."""
        if name in self.flows:
            before, run = self.flows[name]
            await before(blueprint)
            planned = Planned(blueprint.store, monkeypatch)
            await run(blueprint)
            return planned
        begun = self.begun
        if name == "begin_again":
            await self.answer(blueprint)
            blueprint.store.clock.advance(palaver.hours(2))  # type: ignore[attr-defined]
            begun = self.again
        planned = Planned(blueprint.store, monkeypatch)
        async with begun(blueprint) as turn:
            opening = planned.taken()
            if name in self.steps:
                await self.steps[name](turn)
                opening = planned.taken()
        if name != "stop":
            planned.batches, planned.explained = opening
        return planned


def cannot_change_unseen(planned: Planned) -> None:
    """Assert that a plan without one guard, field or change, or with another value, has another golden file."""
    assert planned.batches
    for premises, plan in planned.batches:
        explained, shown = written(planned.store, premises, plan)
        assert explained not in [written(planned.store, premises, other)[0] for other in changed(plan, fewer)]
        assert shown not in [written(planned.store, premises, other)[1] for other in changed(plan, different)]


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
