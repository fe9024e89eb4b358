"""What workers ask of a store, in a given order, and the state after each step: a model to compare with.

Each worker is sequential and owns its keys, so whatever a crash leaves of a worker must be the state after one of its
steps: the last acknowledged one, or the one that was under way.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from palaver.batch import Batch
from palaver.entity import Entity
from palaver.store import Store
from tests.reliability.app import CANARY, Account, Left, Note, Owner, Right

State = Mapping[str, Any]
KINDS = ("owner", "note", "note", "note", "patch", "patch", "bump", "drop", "pair", "pair", "move", "fell", "rename", "sweep")
ACCOUNTS = ("a", "b", "c")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing a worker asks: the call, its token, and the state of the worker once it is done."""

    kind: str
    values: tuple[Any, ...]
    token: str | None
    after: State


def steps(seed: int, worker: int, count: int) -> list[Step]:
    """Return the steps of one worker; the same for the same seed."""
    chance = random.Random(f"{seed}/{worker}")
    state: dict[str, Any] = {f"account/{name}": 0 for name in ACCOUNTS}
    found = [Step("open", (), f"{seed}/{worker}/0", dict(state))]
    while len(found) < count:
        number = len(found)
        values = _draw(chance, state, KINDS[chance.randrange(len(KINDS))], number)
        if values is None:
            continue
        kind, *rest = values
        _advance(state, kind, rest, number)
        found.append(Step(kind, tuple(rest), f"{seed}/{worker}/{number}" if number % 2 else None, dict(state)))
    return found


def _draw(chance: random.Random, state: State, kind: str, number: int) -> tuple[Any, ...] | None:
    """Return a step's kind and values, or None where the state has nothing for it."""
    owners = [name.split("/")[1] for name in state if name.startswith("owner/")]
    notes = [tuple(name.split("/")[1:]) for name in state if name.startswith("note/")]
    size = chance.choice((0, 10, 200, 5_000))
    match kind:
        case "owner" | "pair" | "sweep":
            return (kind, f"o{number}")
        case "note" if owners:
            return (kind, chance.choice(owners), f"n{number}", size)
        case "patch" if notes:
            return (kind, *chance.choice(notes), size)
        case "bump" | "drop" if notes:
            return (kind, *chance.choice(notes))
        case "fell" | "rename" if owners:
            return (kind, chance.choice(owners))
        case "move":
            return (kind, *chance.sample(ACCOUNTS, 2), chance.randrange(1, 100))
    return None


def _advance(state: dict[str, Any], kind: str, values: list[Any], number: int) -> None:
    match kind, values:
        case "owner", [name]:
            state[f"owner/{name}"] = f"h{number}"
        case "rename", [name]:
            state[f"owner/{name}"] = f"h{number}"
        case "note", [owner, note, size]:
            state[f"note/{owner}/{note}"] = (0, _text(number), size)
        case "patch", [owner, note, size]:
            state[f"note/{owner}/{note}"] = (state[f"note/{owner}/{note}"][0], _text(number), size)
        case "bump", [owner, note]:
            n, text, size = state[f"note/{owner}/{note}"]
            state[f"note/{owner}/{note}"] = (n + 1, text, size)
        case "drop", [owner, note]:
            del state[f"note/{owner}/{note}"]
        case "pair", _:
            state[f"left/{number}"] = state[f"right/{number}"] = True
        case "move", [source, target, amount]:
            state[f"account/{source}"] -= amount
            state[f"account/{target}"] += amount
        case "fell", [owner]:
            for name in [name for name in state if name == f"owner/{owner}" or name.startswith(f"note/{owner}/")]:
                del state[name]


def _text(number: int) -> str:
    return f"{CANARY} word{number} told again"


def payload(size: int) -> dict[str, str] | None:
    return {"body": (CANARY * (size // len(CANARY) + 1))[:size]} if size else None


async def perform(store: Store, worker: int, number: int, step: Step) -> None:
    """Do one step; it returns when the store has acknowledged it."""
    values, token = step.values, step.token
    match step.kind:
        case "open":
            batch = Batch()
            for name in ACCOUNTS:
                batch = batch.create(Account(worker=worker, name=name))
            await store.write(batch, token=token)
        case "owner":
            await store.create(Owner(worker=worker, name=values[0], handle=f"{worker}/h{number}"), token=token)
        case "rename":
            await store.patch(Owner.at(worker, values[0]), set={"handle": f"{worker}/h{number}"}, token=token)
        case "note":
            owner, note, size = values
            await store.create(Note(worker=worker, owner=owner, note_id=note, text=_text(number), payload=payload(size)), token=token)
        case "patch":
            owner, note, size = values
            await store.patch(Note.at(worker, owner, note), set={"text": _text(number), "payload": payload(size)}, token=token)
        case "bump":
            await store.patch(Note.at(worker, *values), add={"n": 1}, token=token)
        case "drop":
            await store.delete(Note.at(worker, *values), token=token)
        case "pair":
            pair = Batch().create(Left(worker=worker, number=number)).create(Right(worker=worker, number=number))
            await store.write(pair, token=token)
        case "move":
            source, target, amount = values
            moved = Batch().patch(Account.at(worker, source), add={"amount": -amount})
            await store.write(moved.patch(Account.at(worker, target), add={"amount": amount}), token=token)
        case "fell":
            await store.delete(Owner.at(worker, values[0]), token=token)
        case "sweep":
            # Objects become removable once the projection has seen their release.
            await store.settle(2)
            await store.sweep()


async def work(store: Store, seed: int, workers: int, count: int, say: Callable[[str], None]) -> None:
    """Let all workers do their steps at once; say each acknowledgement as it comes."""

    async def one(worker: int) -> None:
        for number, step in enumerate(steps(seed, worker, count)):
            await perform(store, worker, number, step)
            say(json.dumps([worker, number]))

    await asyncio.gather(*(one(worker) for worker in range(workers)))


# --- what is there --------------------------------------------------------------------------------------------------


async def everything(store: Store, entity: type[Entity]) -> list[Any]:
    """Return every live record of an entity as the file has it, found by scanning, objects fetched."""
    table = entity.declared().table
    found: list[Any] = []
    after = None
    while True:
        page = await store.core.records.scan(table.name, after=after, limit=500)
        for record in page.records:
            live: Any = await store.find(entity.at(*(record[name] for name in table.key)))
            found += [live] if live is not None else []
        if page.last is None:
            return found
        after = page.last


async def observed(store: Store, workers: int) -> list[dict[str, Any]]:
    """Return the state of each worker as the store has it now."""
    states: list[dict[str, Any]] = [{} for _ in range(workers)]
    for owner in await everything(store, Owner):
        states[owner.worker][f"owner/{owner.name}"] = owner.handle.split("/")[1]
        # The claim of a unique name must lead back to its record.
        assert owner == await store.find(Owner.by_handle(owner.handle)), "a unique name does not lead to its record"
    for note in await everything(store, Note):
        size = len(note.payload["body"]) if note.payload else 0
        assert payload(size) == note.payload, "a large value is not what was written"
        states[note.worker][f"note/{note.owner}/{note.note_id}"] = (note.n, note.text, size)
    for entity, name in ((Left, "left"), (Right, "right")):
        for half in await everything(store, entity):
            states[half.worker][f"{name}/{half.number}"] = True
    for account in await everything(store, Account):
        states[account.worker][f"account/{account.name}"] = account.amount
    return states
