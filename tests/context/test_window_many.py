"""Many who read a window at once: one query for them all, no more at once than allowed, and nobody waits for another."""

from __future__ import annotations

import asyncio
from typing import Any

from palaver import Store
from palaver.context import ContextWindow
from palaver.context.rebuilding import Rebuilding
from palaver.errors import Conflict
from tests.context.app import Message, message, numbers
from tests.context.queries import Queries, listening, queries

__all__ = ["queries"]


async def test_many_who_ask_at_once_cause_one_query(store: Store, queries: Queries) -> None:
    context = ContextWindow(store, Message, keep=5)
    await listening(context)
    for number in range(8):
        await context.create(message(number))
    found = await asyncio.gather(*(context.read("c", limit=1 + number % 5) for number in range(100)))
    assert [[*range(8)][-1 - number % 5 :] for number in range(100)] == [numbers(each) for each in found]
    assert (1, 99) == (queries.count, context.figures.joined)


async def test_who_asks_while_the_records_are_read_gets_what_was_stored_before_he_asked(store: Store, queries: Queries) -> None:
    context = ContextWindow(store, Message, keep=5)
    await listening(context)
    await context.create(message(1))
    late: list[asyncio.Task[list[Message]]] = []

    async def meanwhile() -> None:
        queries.meanwhile = None
        await context.create(message(2))
        late.extend(asyncio.create_task(context.read("c")) for _ in range(50))
        await asyncio.sleep(0)

    queries.meanwhile = meanwhile
    early = await context.read("c")
    assert [1] == numbers(early)
    assert [[1, 2]] * 50 == [numbers(each) for each in await asyncio.gather(*late)]
    assert 1 == queries.count


async def test_no_more_rebuilds_run_at_once_than_allowed(store: Store, queries: Queries) -> None:
    context = ContextWindow(store, Message, keep=5, at_most=3)
    await listening(context)
    queries.meanwhile = lambda: asyncio.sleep(0.001)
    await asyncio.gather(*(context.read(f"c{number}") for number in range(30)))
    assert (30, True) == (queries.count, queries.most <= 3)


async def test_an_error_of_the_records_reaches_everybody_and_is_not_kept(store: Store, queries: Queries) -> None:
    context = ContextWindow(store, Message, keep=5)
    await listening(context)
    await context.create(message(1))

    async def fails() -> None:
        raise Conflict("The database was busy.")

    queries.meanwhile = fails
    found = await asyncio.gather(*(context.read("c") for _ in range(5)), return_exceptions=True)
    assert {Conflict} == set(map(type, found))
    queries.meanwhile = None
    assert [1] == numbers(await context.read("c"))


async def test_who_gives_up_does_not_take_the_rebuild_from_the_others(store: Store, queries: Queries) -> None:
    context = ContextWindow(store, Message, keep=5)
    await listening(context)
    await context.create(message(1))
    gate = asyncio.Event()
    queries.meanwhile = gate.wait
    tasks = [asyncio.create_task(context.read("c")) for _ in range(5)]
    for _ in range(1_000):
        await asyncio.sleep(0.001 * (not queries.at_once))
    tasks[0].cancel()
    gate.set()
    assert [[1]] * 4 == [numbers(each) for each in await asyncio.gather(*tasks[1:])]
    assert 1 == queries.count


async def test_of_one_conversation_one_rebuild_runs_and_one_waits() -> None:
    rebuilding: Rebuilding[int] = Rebuilding(10)
    at_once = most = looks = 0

    async def look(flight: Any) -> int:
        nonlocal at_once, most, looks
        at_once, looks = at_once + 1, looks + 1
        most = max(most, at_once)
        now = looks
        await asyncio.sleep(0.001)
        at_once -= 1
        return now

    async def ask(number: int) -> bool:
        await asyncio.sleep(number / 20_000)
        before = looks
        # What is found was looked for after it was asked for.
        return (await rebuilding.joined("c", None, look))[0] > before

    assert all(await asyncio.gather(*(ask(number) for number in range(200))))
    assert (1, True) == (most, looks < 20)
    assert ({}, {}) == (rebuilding._waiting, rebuilding._under_way)
