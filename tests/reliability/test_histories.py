"""Concurrent calls on one record are as if one came after the other, and the check would notice if they were not."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.errors import ConditionFailed, OutcomeUnknown
from palaver.expr import F
from palaver.ops import Address
from palaver.records.sqlite import SqliteRecords
from palaver.store import Store
from palaver.testing.faulty import Faults, Faulty
from palaver.values import Record
from tests.reliability.app import SCHEMA, Account
from tests.reliability.histories import NEVER, Call, is_linearizable, register
from tests.reliability.results import publish

KEYS = 6


async def ask(store: Store, key: int, asked: tuple[Any, ...]) -> Any:
    """Do one call and return what it answered: a number, None, or "refused"."""
    at = Account.at(key, "a")
    try:
        match asked:
            case ("get",):
                found = await store.find(at)
                return None if found is None else found.amount
            case ("create", value):
                return (await store.create(Account(worker=key, name="a", amount=value))).amount
            case ("add", amount):
                return (await store.patch(at, add={"amount": amount})).amount
            case ("swap", old, new):
                return (await store.patch(at, set={"amount": new}, when=F("amount") == old)).amount
            case _:
                return await store.delete(at)
    except ConditionFailed:
        return "refused"


def draw(chance: random.Random, number: int) -> tuple[Any, ...]:
    """Return a call. New values are all different, so that a stale one is seen to be stale."""
    match chance.randrange(8):
        case 0 | 1 | 2:
            return ("get",)
        case 3 | 4:
            return ("create", 1_000 * number)
        case 5:
            return ("add", 1)
        case 6:
            return ("swap", 1_000 * chance.randrange(number + 1), 1_000 * number + 500)
        case _:
            return ("delete",)


async def history(stores: Sequence[Store], seed: int, callers: int, count: int) -> dict[int, list[Call]]:
    """Let callers call at once, and note of each record what was asked and answered, and when."""
    calls: dict[int, list[Call]] = {key: [] for key in range(KEYS)}

    async def caller(me: int) -> None:
        chance = random.Random(f"{seed}/{me}")
        for number in range(count):
            key, asked = chance.randrange(KEYS), draw(chance, me * count + number + 1)
            began = time.monotonic()
            try:
                answer = await ask(stores[me % len(stores)], key, asked)
                ended = time.monotonic()
            except OutcomeUnknown:
                answer, ended = None, NEVER
            calls[key].append(Call(began, ended, asked, answer))

    await asyncio.gather(*(caller(me) for me in range(callers)))
    return calls


def wrong(calls: dict[int, list[Call]]) -> list[int]:
    return [key for key, some in calls.items() if not is_linearizable(some, None, register)]


def lose_answers(store: Store, seed: int) -> None:
    """Let a tenth of the writes be done and their answers lost."""
    store._records = Faulty(store._records, seed, Faults(outcome_unknown=0.1, yields=2))


async def recorded(path: Path, seed: int, *, lossy: bool = False, count: int = 40) -> dict[int, list[Call]]:
    """Record a history of two stores on one file, as two processes would have it."""
    url = f"sqlite:///{path}/{seed}.db"
    async with palaver.open(url, schema=SCHEMA, maintain=False) as one, palaver.open(url, schema=SCHEMA, maintain=False) as other:
        if lossy:
            lose_answers(one, seed)
        return await history([one, other], seed, 6, count)


@pytest.mark.parametrize("lossy", [False, True])
async def test_histories_are_linearizable(tmp_path: Path, lossy: bool) -> None:
    for seed in range(4):
        assert [] == wrong(await recorded(tmp_path, seed, lossy=lossy)), f"seed {seed}"


@pytest.mark.soak
async def test_many_histories_are_linearizable(tmp_path: Path) -> None:
    calls = 0
    for seed in range(500, 560):
        found = await recorded(tmp_path, seed, lossy=bool(seed % 2), count=80)
        assert [] == wrong(found), f"seed {seed}"
        calls += sum(map(len, found.values()))
    publish("histories", {"histories": 60 * KEYS, "calls": calls, "not_linearizable": 0})


async def test_a_stale_read_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache without invalidation, in front of the records: the bug this check is for."""
    kept: dict[Address, Record | None] = {}
    get = SqliteRecords.get

    async def cached(self: SqliteRecords, at: Sequence[Address], **options: Any) -> list[Record | None]:
        if len(at) == 1 and at[0].table == "accounts":
            if at[0] not in kept or len(kept) % 7 == 0:
                kept[at[0]] = (await get(self, at, **options))[0]
            return [kept[at[0]]]
        return await get(self, at, **options)

    monkeypatch.setattr(SqliteRecords, "get", cached)
    assert wrong(await recorded(tmp_path, 1))


def test_the_check_itself_knows_right_from_wrong() -> None:
    def judged(*calls: Call) -> bool:
        return is_linearizable(calls, None, register)

    create = Call(0, 1, ("create", 5), 5)
    assert judged(create, Call(2, 3, ("get",), 5))
    assert not judged(create, Call(2, 3, ("get",), None))
    assert judged(create, Call(0.5, 3, ("get",), None))
    assert judged(Call(0, NEVER, ("create", 5), None), Call(2, 3, ("get",), None), Call(4, 5, ("get",), 5))
    assert not judged(Call(0, NEVER, ("create", 5), None), Call(2, 3, ("get",), 5), Call(4, 5, ("get",), None))
    assert not judged(create, Call(2, 3, ("add", 1), 6), Call(2, 3, ("add", 1), 6))
    assert judged(create, Call(2, 4, ("add", 1), 7), Call(2, 4, ("add", 1), 6))
    assert not judged(create, Call(2, 3, ("create", 6), 6))
