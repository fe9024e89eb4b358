"""No read is older than it may be: histories of readers and writers in event loops, threads and processes, and planted mistakes found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

import palaver
from tests.cache.histories import Event, in_processes, in_threads, latest_s, planted, play, wrong
from tests.cache.people import PEOPLE, with_cache
from tests.engines.test_cache import url as redis_url
from tests.stacks import fresh

BUGS = ("a delete without a fence", "a set without its revision", "own writes are not told", "the feed is not followed")


async def in_one_loop(url: str, players: int, rounds: int, seed: int) -> list[Event]:
    """Let several stores play in one event loop."""
    async with palaver.open(url, schema=PEOPLE, migrate=True, maintain=False):
        found = await asyncio.gather(*(play(url, me, players, f"store {me}", rounds=rounds, seed=seed) for me in range(players)))
    return [event for events in found for event in events]


def checked(events: Sequence[Event], *, shared: bool) -> None:
    reads = [event for event in events if event.kind == "read"]
    writes = [event for event in events if event.kind == "write"]
    assert len(reads) > 500
    assert len(writes) > 50
    assert {True, False} == {event.version is None for event in reads}
    assert [] == wrong(events, shared=shared)


@pytest.mark.parametrize("engine", ["memory", "redis"])
@pytest.mark.parametrize("stack", ["sqlite", "postgresql"])
async def test_several_stores_in_one_event_loop(stack: str, engine: str, tmp_path: Path) -> None:
    url = with_cache(fresh(stack, tmp_path), "memory" if engine == "memory" else redis_url())
    checked(await in_one_loop(url, 3, 120, 7), shared=engine == "redis")


@pytest.mark.parametrize("engine", ["memory", "redis"])
def test_several_event_loops_in_threads(engine: str, tmp_path: Path) -> None:
    url = with_cache(fresh("sqlite", tmp_path), "memory" if engine == "memory" else redis_url())
    prepare(url)
    checked(in_threads(url, 3, rounds=120, seed=8), shared=engine == "redis")


@pytest.mark.parametrize(
    ("stack", "engine"), [("sqlite", "memory"), ("sqlite", "redis"), ("postgresql", "redis"), ("postgresql", "memory")]
)
def test_several_processes(stack: str, engine: str, tmp_path: Path) -> None:
    url = with_cache(fresh(stack, tmp_path), "memory" if engine == "memory" else redis_url())
    prepare(url)
    events = in_processes(url, 3, tmp_path, rounds=150, seed=9)
    checked(events, shared=engine == "redis")
    assert latest_s(events) < 5


def prepare(url: str) -> None:
    async def migrated() -> None:
        async with palaver.open(url, schema=PEOPLE, migrate=True, maintain=False):
            pass

    asyncio.run(migrated())


@pytest.mark.parametrize("bug", BUGS)
async def test_a_planted_mistake_is_found(bug: str, tmp_path: Path) -> None:
    shared = bug != "the feed is not followed"
    with planted(bug):
        for seed in range(6):
            folder = tmp_path / str(seed)
            folder.mkdir()
            url = with_cache(fresh("sqlite", folder), redis_url() if shared else "memory")
            if wrong(await in_one_loop(url, 3, 120, seed), shared=shared, soon_s=0.3):
                return
    raise AssertionError("nobody noticed")


def test_the_checker_knows_right_from_wrong() -> None:
    write = Event(0, "a", "write", 1, 10, 20, 1, 1)
    again = Event(0, "a", "write", 1, 30, 40, None, 2)
    read = Event(1, "a", "read", 1, 21, 25, 1)
    assert [] == wrong([write, again, read], shared=True)
    assert [] == wrong([write, again, read._replace(called=35, returned=36)], shared=True)
    assert [] == wrong([write, again, read._replace(called=35, returned=36, version=None)], shared=True)
    assert 1 == len(wrong([write, again, read._replace(called=41, returned=45)], shared=True))
    assert 1 == len(wrong([write, read._replace(version=None)], shared=True))
    assert 1 == len(wrong([write, read._replace(called=1, returned=5)], shared=True))
    assert [] == wrong([write, again, read._replace(called=41, returned=45, process="b")], shared=False)
    assert 1 == len(wrong([write, again, read._replace(called=41 + 2 * 10**9, returned=45 + 2 * 10**9, process="b")], shared=False))
