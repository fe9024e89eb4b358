"""Context windows while Redis is emptied, stalls, dies and comes back with less than it was told: a history of appends and reads."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import palaver
from palaver import Store
from palaver.cache.none import NoCache
from palaver.cache.redis import RedisCache
from palaver.connections.redis import encode
from palaver.context import ContextWindow
from palaver.errors import PalaverError
from tests import servers
from tests.context.app import CHAT, Message, message, numbers
from tests.engines.redis_servers import answers, opened, own, until

KEEP = 6
HEARD_WITHIN_S = 3.0
"""How long after an append of which the cache was not told another process may go without it; a second, and a slow machine."""


@asynccontextmanager
async def process(folder: Path, redis: str, **options: object) -> AsyncIterator[ContextWindow[Message]]:
    """A store on the one file and the one Redis, with windows of its own: all that another process would have."""
    url = f"sqlite:///{folder}/chat.db?sync=normal&cache={quote(redis, safe='')}"
    async with palaver.open(url, schema=CHAT, migrate=True, maintain=False) as store:
        context = ContextWindow(store, Message, keep=KEEP, **options)  # type: ignore[arg-type]
        await context._subscription.ready()
        yield context


def store_of(context: ContextWindow[Message]) -> Store:
    return context._store


# --- a history ------------------------------------------------------------------------------------------------------


@dataclass
class Appended:
    """What is known of one append: when it began and ended, and by whom the cache was told."""

    began: float
    by: int
    ended: float = float("inf")
    told: bool = False


@dataclass
class History:
    """Appends and reads of conversations, and what no read may say."""

    appends: dict[str, dict[int, Appended]] = field(default_factory=dict)
    reads: int = 0
    wrong: list[str] = field(default_factory=list)

    def judge(self, conversation: str, by: int, began: float, ended: float, limit: int, found: list[int]) -> None:
        """A read equals the last `limit` of a set that holds all that was appended before it, and nothing that was not yet."""
        self.reads += 1
        appends = self.appends[conversation]
        if found != sorted(set(found)):
            self.wrong.append(f"order or duplicates: {found}")
        if len(found) > limit or any(each not in appends or appends[each].began > ended for each in found):
            self.wrong.append(f"from nowhere: {found}")
        oldest = found[0] if len(found) == limit else -1
        for number, append in list(appends.items()):
            heard = append.ended if append.told or append.by == by else append.ended + HEARD_WITHIN_S
            if number > oldest and heard < began and number not in found:
                self.wrong.append(f"{number} is missing in {found}")


async def talks(context: ContextWindow[Message], by: int, history: History, chance: random.Random, ids: count[int], until_s: float) -> None:
    """Append and read until the time is over."""
    while time.monotonic() < until_s:
        conversation = chance.choice(list(history.appends))
        holding = None
        if chance.random() < 0.4:
            number, away = next(ids), context.figures.away
            append = history.appends[conversation][number] = Appended(time.monotonic(), by)
            if chance.random() < 0.5:
                await context.create(message(number, conversation))
            else:
                stored = await store_of(context).create(message(number, conversation))
                await asyncio.sleep(chance.choice([0, 0, 0.001]))
                await context.append(stored)
                if chance.random() < 0.2:
                    await context.append(stored)
            append.told, append.ended = away == context.figures.away, time.monotonic()
            holding = f"{number:06}" if chance.random() < 0.5 else None
        limit, began = chance.randint(1, KEEP), time.monotonic()
        found = numbers(await context.read(conversation, limit=limit, holding=holding))
        history.judge(conversation, by, began, time.monotonic(), limit, found)
        if holding is not None and int(holding) not in found and len(found) < limit:
            history.wrong.append(f"{holding} was not held: {found}")
        await asyncio.sleep(chance.choice([0, 0, 0, 0.002]))


async def breaks(server: servers.Redis, chance: random.Random, faults: list[str], until_s: float) -> list[str]:
    """Do one harm after another."""
    done: list[str] = []
    admin = RedisCache(server.url)
    try:
        while time.monotonic() < until_s:
            await asyncio.sleep(chance.uniform(0.02, 0.1))
            fault = faults[len(done) % len(faults)]
            done.append(fault)
            with suppress(PalaverError):
                match fault:
                    case "flush":
                        await admin.client.write(encode("FLUSHALL"))
                    case "del":
                        for key in await admin.client.read(encode("KEYS", "*:w:*")):
                            await admin.client.write(encode("DEL", key))
                    case "pause":
                        await admin.client.write(encode("CLIENT", "PAUSE", "300", "ALL"))
                    case "save":
                        await admin.client.write(encode("SAVE"))
                    case "kill":
                        await asyncio.to_thread(server.kill_9)
                        await asyncio.sleep(chance.choice([0, 0.05]))
                        await asyncio.to_thread(server.start)
    finally:
        await admin.aclose()
    return done


async def plays(context: ContextWindow[Message], by: int, history: History, ids: count[int], seed: int, ends: float) -> None:
    await asyncio.gather(*(talks(context, by, history, random.Random(f"{seed}/{by}/{task}"), ids, ends) for task in range(3)))


async def recovers(context: ContextWindow[Message], history: History) -> None:
    """Recovery needs no restart: when all is over, windows answer again, and rightly."""
    hits = context.figures.hits

    async def answered() -> bool:
        for conversation in history.appends:
            assert numbers(await context.read(conversation)) == sorted(history.appends[conversation])[-KEEP:]
        return context.figures.hits > hits + 3

    await asyncio.sleep(0.3)
    await until(answered)


async def run(folder: Path, faults: list[str], *, seed: int, seconds: float = 3.0, processes: int = 2, **redis: str) -> History:
    """Let several stores play in one event loop while the server is harmed."""
    history, ids = History({"a": {}, "b": {}, "c": {}}), count(1)
    async with AsyncExitStack() as stack:
        server = stack.enter_context(own(**redis))
        contexts = [await stack.enter_async_context(process(folder, f"{server.url}?timeout=0.2")) for _ in range(processes)]
        ends = time.monotonic() + seconds
        playing = [asyncio.create_task(plays(context, by, history, ids, seed, ends)) for by, context in enumerate(contexts)]
        assert set(faults) == set(await breaks(server, random.Random(seed), faults, ends))
        await asyncio.gather(*playing)
        for context in contexts:
            await recovers(context, history)
    return history


def run_in_threads(folder: Path, faults: list[str], *, seed: int, seconds: float = 3.0, **redis: str) -> History:
    """Let two stores play, each in a thread and an event loop of its own, while the server is harmed from a third."""
    history, ids = History({"a": {}, "b": {}, "c": {}}), count(1)
    begun, over = threading.Barrier(3), threading.Barrier(2)

    async def player(by: int, url: str) -> None:
        try:
            async with process(folder, url) as context:
                await asyncio.to_thread(begun.wait, 30)
                await plays(context, by, history, ids, seed, time.monotonic() + seconds)
                await asyncio.to_thread(over.wait, 30)
                await recovers(context, history)
        except BaseException:
            begun.abort()
            over.abort()
            raise

    with own(**redis) as server, ThreadPoolExecutor(2) as threads:
        playing = [threads.submit(asyncio.run, player(by, f"{server.url}?timeout=0.2")) for by in range(2)]
        with suppress(threading.BrokenBarrierError):
            begun.wait(30)
        assert set(faults) == set(asyncio.run(breaks(server, random.Random(seed), faults, time.monotonic() + seconds)))
        # The barriers break for the other one, whose error says nothing.
        for each in sorted(playing, key=lambda each: isinstance(each.exception(), threading.BrokenBarrierError)):
            each.result()
    return history


@pytest.mark.parametrize("fault", ["nothing", "flush", "del", "pause", "kill"])
async def test_no_read_is_partial_stale_doubled_or_out_of_order(tmp_path: Path, fault: str) -> None:
    history = await run(tmp_path, [fault], seed=7)
    assert [] == history.wrong
    assert history.reads > 100


async def test_a_server_that_comes_back_with_less_than_it_was_told_is_not_believed(tmp_path: Path) -> None:
    """Most servers save now and then: after a crash windows are there again, whole, and without the last messages."""
    history = await run(tmp_path, ["save", "kill"], seed=8, dbfilename="dump.rdb")
    assert [] == history.wrong


async def test_everything_at_once_in_three_processes(tmp_path: Path) -> None:
    history = await run(tmp_path, ["flush", "pause", "del", "save", "kill"], seed=9, seconds=5, processes=3, dbfilename="dump.rdb")
    assert [] == history.wrong


@pytest.mark.parametrize("faults", [["nothing"], ["flush", "pause", "del", "save", "kill"]], ids=["nothing", "everything"])
def test_two_event_loops_in_threads(tmp_path: Path, faults: list[str]) -> None:
    history = run_in_threads(tmp_path, faults, seed=10, dbfilename="dump.rdb")
    assert [] == history.wrong
    assert history.reads > 100


# --- one fault each, without chance ---------------------------------------------------------------------------------


async def test_a_window_that_a_crashed_process_left_behind_is_not_believed(tmp_path: Path) -> None:
    """It stored a message and died before it told the cache; nobody else was there to hear of it."""
    with own() as server:
        async with process(tmp_path, server.url) as dying:
            for number in range(3):
                await dying.create(message(number))
            assert [0, 1, 2] == numbers(await dying.read("c"))
            dying.close()
            await store_of(dying).create(message(3))
        async with process(tmp_path, server.url) as next_one:
            stored = await next_one.create(message(4))
            assert [0, 1, 2, 3, 4] == numbers(await next_one.read("c", holding=stored))
            assert [0, 1, 2, 3, 4] == numbers(await next_one.read("c"))
            assert 1 == next_one.figures.hits


async def test_a_server_that_forgot_between_two_calls_is_not_believed(tmp_path: Path) -> None:
    """Nobody asked it anything while it was away, so no call failed."""
    with own(dbfilename="dump.rdb") as server:
        async with process(tmp_path, server.url) as context, opened(server.url) as admin:
            for number in range(3):
                await context.create(message(number))
                await context.read("c")
            await admin.client.write(encode("SAVE"))
            await context.create(message(3))
            # Long enough for the feed to have told of it: from then on nobody doubts that the window holds it.
            await asyncio.sleep(0.5)
            assert [0, 1, 2, 3] == numbers(await context.read("c"))
            await asyncio.to_thread(server.kill_9)
            await asyncio.to_thread(server.start)
            cache: Any = context._cache
            await until(lambda: answers(cache))
            assert [0, 1, 2, 3] == numbers(await context.read("c"))
            assert 1 == context.figures.stale


async def test_what_the_cache_could_not_be_told_is_told_when_it_is_back(tmp_path: Path) -> None:
    with own() as server:
        async with process(tmp_path, server.url) as here, process(tmp_path, server.url) as there:
            await here.create(message(1))
            for context in (here, there):
                assert [[1], [1]] == [numbers(await context.read("c")) for _ in range(2)]
            # Only this process loses its way to the server.
            own_cache = here._cache
            here._cache = NoCache()
            await here.create(message(2))
            assert [1, 2] == numbers(await here.read("c"))
            await here.read("d")
            here._cache = own_cache
            await here.read("d")
            await here.read("d")
            assert None is await there._cache.windows.read(there._place(("c",)).key, limit=1)
            assert [1, 2] == numbers(await here.read("c"))


async def test_a_cache_that_is_away_costs_no_error_and_no_wait_once_that_is_known(tmp_path: Path) -> None:
    with own() as server:
        async with process(tmp_path, f"{server.url}?timeout=0.2", at_most=4) as context:
            await context.create(message(1))
            await context.read("c")
            server.freeze()
            try:
                await context.create(message(2))
                began = time.monotonic()
                for number in range(3, 40):
                    await context.create(message(number))
                    assert number == numbers(await context.read("c"))[-1]
                # Known to be away: no call waits for the time-out again, but for those that try whether it is back.
                assert time.monotonic() - began < 37 * 0.2
            finally:
                server.thaw()

            async def hits() -> bool:
                before = context.figures.hits
                assert list(range(34, 40)) == numbers(await context.read("c"))
                return context.figures.hits > before

            await until(hits)
