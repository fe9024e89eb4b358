"""Players who read through the entity cache while others write, the history of what they saw, and whether it can be right.

Every key has one writer, so its versions have an order; times are of one clock for all processes of a machine. A read is right
when it gives a version that no newer one had replaced, as far as the reader has to know, before the read began.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import palaver
from palaver import Store, entity_cache, in_step
from palaver.entity_cache import EntityCache
from tests.cache.people import PEOPLE, Plain

KEYS = 8


class Event(NamedTuple):
    """A read or write of a key: `version` is what was read or written, None for no record. Times in nanoseconds."""

    player: int
    process: str
    kind: str
    key: int
    called: int
    returned: int
    version: int | None
    number: int = 0


class Wrong(NamedTuple):
    """A read that gives less than it must, or what nobody had written."""

    event: Event
    floor: int
    most: int


class Player:
    """Reads all keys and writes some of them, with one store of its own."""

    def __init__(self, store: Store, me: int, players: int, process: str, seed: int, slow_s: float) -> None:
        self.store, self.me, self.process = store, me, process
        self.cache = EntityCache(store, Plain, ttl_s=60)
        self.chance = random.Random(f"{seed}/{me}")
        self.own = [key for key in range(KEYS) if key % players == me]
        self.versions = dict.fromkeys(self.own, 0)
        self.events: list[Event] = []
        self._slow(slow_s)

    def _slow(self, slow_s: float) -> None:
        """Let what was read lie a while before it is used: then others have written."""
        read = self.store.core.records.get

        async def get(at: Any, **options: Any) -> Any:
            found = await read(at, **options)
            if at and at[0].table == "plain":
                await asyncio.sleep(self.chance.random() * slow_s)
            return found

        self.store.core.records.get = get  # type: ignore[method-assign]

    async def read(self, key: int) -> None:
        called = time.monotonic_ns()
        if self.chance.random() < 0.2:
            keys = [key, *self.chance.sample(range(KEYS), 2)]
            found = await self.cache.get_many([Plain.at(f"k{each}") for each in keys])
        else:
            keys, found = [key], [await self.cache.get(Plain.at(f"k{key}"))]
        returned = time.monotonic_ns()
        for each, record in zip(keys, found, strict=True):
            self.events.append(Event(self.me, self.process, "read", each, called, returned, record.number if record else None))

    async def write(self, key: int) -> None:
        number = self.versions[key] = self.versions[key] + 1
        at, kind = Plain.at(f"k{key}"), self.chance.random()
        called = time.monotonic_ns()
        if kind < 0.2:
            await self.store.delete(at)
        elif kind < 0.4:
            await self.store.bulk([Plain(id=f"k{key}", number=number)])
        else:
            await self.store.put(Plain(id=f"k{key}", number=number))
        returned = time.monotonic_ns()
        self.events.append(Event(self.me, self.process, "write", key, called, returned, None if kind < 0.2 else number, number))

    async def play(self, rounds: int) -> None:
        await self.cache.get(Plain.at("k0"))

        async def reading() -> None:
            for _ in range(rounds):
                await self.read(self.chance.randrange(KEYS))
                await asyncio.sleep(self.chance.random() * 0.002)

        async def writing() -> None:
            for _ in range(rounds // 6 if self.own else 0):
                await self.write(self.chance.choice(self.own))
                await asyncio.sleep(self.chance.random() * 0.01)

        await asyncio.gather(*(reading() for _ in range(4)), writing())


async def play(url: str, me: int, players: int, process: str, *, rounds: int, seed: int, slow_s: float = 0.004) -> list[Event]:
    async with palaver.open(url, schema=PEOPLE, maintain=False, migrate=me == 0) as store:
        player = Player(store, me, players, process, seed, slow_s)
        await player.play(rounds)
        return player.events


def in_threads(url: str, players: int, **told: Any) -> list[Event]:
    """Let each play in a thread and event loop of its own."""
    events: list[Event] = []
    failed: list[BaseException] = []

    def run(me: int) -> None:
        try:
            events.extend(asyncio.run(play(url, me, players, f"thread {me}", **told)))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(me,)) for me in range(players)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return events


def in_processes(url: str, players: int, folder: Path, **told: Any) -> list[Event]:
    """Let each play in a process of its own."""
    root = Path(__file__).parents[2]
    with contextlib.ExitStack() as files:
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.cache.histories", json.dumps({"url": url, "me": me, "players": players, **told})],
                cwd=root,
                stdout=files.enter_context((folder / f"{me}.json").open("wb")),
            )
            for me in range(players)
        ]
        assert [0] * players == [process.wait(120) for process in running]
    return [Event(*row) for me in range(players) for row in json.loads((folder / f"{me}.json").read_text())]


def wrong(events: Iterable[Event], *, shared: bool, soon_s: float = 2.0) -> list[Wrong]:
    """Return the reads that cannot be right.

    A reader must know what was written in its own process before it began; what others wrote as well where the cache is `shared`,
    and else what they wrote `soon_s` before.
    """
    writes: dict[int, list[Event]] = {}
    events = list(events)
    for event in events:
        if event.kind == "write":
            writes.setdefault(event.key, []).append(event)
    found = []
    for event in events:
        if event.kind != "read":
            continue
        history = writes.get(event.key, [])
        known = [
            each.number
            for each in history
            if each.returned <= event.called - (0 if shared or each.process == event.process else soon_s * 1e9)
        ]
        floor = max(known, default=0)
        possible = [each for each in history if each.called <= event.returned and each.number >= floor]
        right = {each.version for each in possible} | ({None} if floor == 0 else set())
        if event.version not in right:
            found.append(Wrong(event, floor, max((each.number for each in possible), default=0)))
    return found


def latest_s(events: Sequence[Event]) -> float:
    """Return the longest that a read still gave an older version after a write of another process had returned, in seconds."""
    worst = 0.0
    writes = [event for event in events if event.kind == "write"]
    for event in events:
        if event.kind == "read" and event.version is not None:
            newer = [each.returned for each in writes if each.key == event.key and each.number > event.version]
            worst = max([worst, *((event.called - each) / 1e9 for each in newer)])
    return worst


@contextlib.contextmanager
def planted(bug: str) -> Iterator[None]:
    """Put a mistake into the cache, as somebody might make it."""
    shelf, step = entity_cache._Shelf, in_step.InStep
    kept = (shelf.wrote, shelf.changed, step.delete, step.set)

    async def nothing(self: Any, *_: Any) -> None: ...

    async def without_fence(self: Any, key: str, *, revision: int = 0, fence_s: float = 60.0) -> None:
        await kept[2](self, key, revision=0)

    async def without_revision(self: Any, key: str, value: bytes, *, ttl_s: float, revision: int = 0, expected: int | None = None) -> bool:
        await kept[2](self, key, revision=0)
        return await kept[3](self, key, value, ttl_s=ttl_s)

    changes: dict[str, Any] = {
        "a delete without a fence": ("delete", step, without_fence),
        "a set without its revision": ("set", step, without_revision),
        "own writes are not told": ("wrote", shelf, nothing),
        "the feed is not followed": ("changed", shelf, nothing),
    }
    name, owner, mistake = changes[bug]
    before = getattr(owner, name)
    setattr(owner, name, mistake)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _main(order: dict[str, Any]) -> None:
    url, me, players = (order.pop(name) for name in ("url", "me", "players"))
    json.dump(asyncio.run(play(url, me, players, f"process {me}", **order)), sys.stdout)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
