"""Cancellation at every await of a write and of a read: nothing acknowledged is lost, nothing is half-written, nothing leaks."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver import Batch, ManualClock, Store
from tests.store.world import CHAT, START, Conversation, Message, conversation, message

LARGE = {"said": "x" * 2_000}
Act = Callable[[Store, int], Awaitable[Any]]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with palaver.open(
        f"sqlite:///{tmp_path}/a.db?sync=normal", schema=CHAT, clock=ManualClock(START), migrate=True, maintain=False
    ) as store:
        await store.create(conversation())
        yield store


class GivenUp:
    """An act whose task is cancelled at its n-th await: while it waits there, or when what it waited for is `done` already."""

    def __init__(self, act: Awaitable[Any], at: int, done: bool) -> None:
        self.act, self.at, self.done = act, at, done

    def __await__(self) -> Generator[Any, Any, Any]:
        inner, task = self.act.__await__(), asyncio.current_task()
        assert task is not None
        for moment in count():
            try:
                waited = next(inner)
            except StopIteration as ended:
                return ended.value
            if moment == self.at and not self.done:
                task.cancel()
            try:
                yield waited
            except BaseException as error:
                yield from _thrown(inner, error)
                raise
            if moment == self.at and self.done:
                yield from _thrown(inner, asyncio.CancelledError())
                raise asyncio.CancelledError


def _thrown(inner: Generator[Any, Any, Any], error: BaseException) -> Generator[Any, Any, None]:
    """Throw an error into an act and let it tidy up."""
    step: Callable[[], Any] = partial(inner.throw, error)
    while True:
        try:
            waited = step()
        except StopIteration:
            return
        yield waited
        step = partial(next, inner)


async def given_up(act: Awaitable[Any], at: int, done: bool) -> Any:
    """Return what an act gave or raised."""

    async def run() -> Any:
        return await GivenUp(act, at, done)

    return (await asyncio.gather(asyncio.ensure_future(run()), return_exceptions=True))[0]


async def wrote(store: Store, id: int) -> object:
    return await store.create(message(id=id, text="short"))


async def wrote_an_object(store: Store, id: int) -> object:
    return await store.put(message(id=id, text="long", context=dict(LARGE)))


async def wrote_several(store: Store, id: int) -> object:
    return await store.write(Batch().put(message(id=id)).patch(Conversation.at("u", "c"), add={"turns": 0}), token=f"t{id}")


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("act", [wrote, wrote_an_object, wrote_several])
async def test_a_write_given_up_at_any_await_is_whole_or_not_there(store: Store, act: Act, done: bool) -> None:
    before, told = asyncio.all_tasks(), None
    for number in count(1):
        told = await given_up(act(store, number), number - 1, done)
        found = await store.find(Message.at("c", str(number)))
        if found is not None and act is wrote_an_object:
            assert LARGE == found.context
        after = await store.create(message(id=number * 1000, text="after"))
        assert after == await store.get(after.address)
        if not isinstance(told, asyncio.CancelledError):
            break
    assert not isinstance(told, BaseException), told
    assert found is not None
    assert number > 1
    await _nothing_is_left(store, before)


async def test_a_read_given_up_at_any_moment_leaves_the_next_one_unharmed(store: Store) -> None:
    await store.bulk([message(id=number, context=dict(LARGE)) for number in range(1, 40)])
    before = asyncio.all_tasks()

    async def page() -> int:
        return len((await store.page(Message.key("c"), limit=30)).items)

    async def every() -> int:
        return len([each async for each in store.query(Message.key("c"))])

    async def counted() -> int:
        return await store.count(Message.key("c"))

    for read, expected in ((page, 30), (every, 39), (counted, 39)):
        for number, done in product(range(8), (False, True)):
            told = await given_up(read(), number, done)
            assert isinstance(told, asyncio.CancelledError) or told == expected
            assert expected == await read()
    await _nothing_is_left(store, before)


async def test_a_close_given_up_at_any_moment_is_finished_by_the_next(tmp_path: Path) -> None:
    for number in range(12):
        store = await palaver.open(
            f"sqlite:///{tmp_path}/{number}.db?sync=normal", schema=CHAT, clock=ManualClock(START), migrate=True, maintain=False
        )
        await store.create(conversation())
        writing = asyncio.ensure_future(wrote(store, 1))
        await asyncio.sleep(0)
        await given_up(store.aclose(), number // 2, bool(number % 2))
        await store.core.aclose()
        (told,) = await asyncio.gather(writing, return_exceptions=True)
        async with palaver.open(f"sqlite:///{tmp_path}/{number}.db", schema=CHAT, clock=ManualClock(START), maintain=False) as again:
            assert isinstance(told, BaseException) or told == await again.get(Message.at("c", "1"))


async def _nothing_is_left(store: Store, before: set[asyncio.Task[Any]]) -> None:
    """The queue is empty, no transaction is open, no task is left."""
    database: Any = store.core.records.database  # type: ignore[attr-defined]
    for _ in range(200):
        if database._put == database._writer.taken and asyncio.all_tasks() == before:
            break
        await asyncio.sleep(0.01)
    gc.collect()
    assert (database._put, database._put_bytes) == (database._writer.taken, database._writer.taken_bytes)
    assert not database._blocked
    assert not database._asked
    assert before == asyncio.all_tasks()
    assert database._writer.connection.get_autocommit()
    assert database._reader.get_autocommit()
