"""A change made by one process is what another one serves within a second, with Redis, without, and while it dies."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

import pytest

import palaver
from palaver.errors import Unavailable
from palaver.flags import Flags
from tests import servers
from tests.engines.redis_servers import own
from tests.flags.app import FLAGS, LENGTH, SCHEMA, FeatureFlag
from tests.stacks import fresh

ROOT = Path(__file__).parents[2]
PROMISED_S = 1.0
STALL_S = 4.0
"""What a busy machine may add to one of many."""


class Observer:
    """Another process, and what it says it serves."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def sees(self, value: int) -> float:
        """Return the monotonic time at which the process began to serve a value."""
        assert self._process.stdout is not None
        while True:
            words = (await asyncio.wait_for(self._process.stdout.readline(), 30)).split()
            assert words, "the observer ended"
            if int(words[0]) == value:
                return float(words[1])

    async def end(self) -> str:
        assert self._process.stdin is not None
        self._process.stdin.close()
        out, _ = await asyncio.wait_for(self._process.communicate(), 30)
        return out.decode().split("health ")[1].strip()


@asynccontextmanager
async def observer(url: str, environ: dict[str, str] | None = None) -> AsyncIterator[Observer]:
    command = (sys.executable, "-m", "tests.flags.observer", url)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe, env=environ)
    try:
        assert process.stdout is not None
        assert (await asyncio.wait_for(process.stdout.readline(), 30)).startswith(b"ready")
        yield Observer(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def setter(url: str) -> AsyncIterator[Flags]:
    async with palaver.open(url, schema=SCHEMA) as store, Flags.open(store, FLAGS, FeatureFlag) as flags:
        yield flags


async def delays(flags: Flags, watching: list[Observer], values: range) -> list[float]:
    """Set a flag again and again; return how long after the call began each process served each value."""
    found = []
    for value in values:
        began = time.monotonic()
        await flags.set(LENGTH, value, user="ann")
        assert value == flags.value(LENGTH, user="ann")
        found += [await one.sees(value) - began for one in watching]
        await asyncio.sleep(0.05)
    return found


def within(found: list[float]) -> None:
    print("delays in ms:", " ".join(f"{delay * 1000:.0f}" for delay in sorted(found)))
    assert median(found) < PROMISED_S
    assert max(found) < STALL_S


@pytest.mark.parametrize("cache", ["memory", "none", "redis"])
async def test_processes_on_one_sqlite_file(tmp_path: Path, cache: str) -> None:
    where = servers.redis().url if cache == "redis" else cache
    url = f"{fresh('sqlite', tmp_path)}&cache={quote(where, safe='')}"
    async with setter(url) as flags, observer(url) as one, observer(url) as two:
        within(await delays(flags, [one, two], range(1, 16)))
        assert ["ok"] * 2 == [(await each.end()).split()[0] for each in (one, two)]


async def test_processes_on_postgresql_while_redis_dies_and_comes_back(tmp_path: Path) -> None:
    with own() as redis:
        url = f"{fresh('postgresql', tmp_path)}&cache={quote(redis.url, safe='')}"
        async with setter(url) as flags, observer(url) as one, observer(url) as two:
            within(await delays(flags, [one, two], range(1, 11)))
            redis.kill_9()
            within(await delays(flags, [one, two], range(11, 21)))
            redis.start()
            within(await delays(flags, [one, two], range(21, 31)))
            redis.freeze()
            within(await delays(flags, [one, two], range(31, 36)))
            redis.thaw()
            within(await delays(flags, [one, two], range(36, 41)))


async def test_processes_on_dynamodb_whose_feed_comes_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ: dict[str, str] = {}
    url = f"{fresh('dynamodb', tmp_path, environ)}&cache=none"
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    async with setter(url) as flags, observer(url) as one:
        within(await delays(flags, [one], range(1, 8)))


async def test_without_a_feed_and_without_redis_a_change_is_seen_within_a_second(tmp_path: Path) -> None:
    """The feed begins to fail while Redis is away: whoever watches looks at the records himself, and soon."""
    with own() as redis:
        url = f"{fresh('sqlite', tmp_path)}&cache={quote(redis.url, safe='')}"
        async with (
            setter(url) as flags,
            palaver.open(url, schema=SCHEMA, maintain=False) as store,
            Flags.open(store, FLAGS, FeatureFlag) as other,
        ):
            redis.kill_9()
            feed = store.core.records.changes
            store.core.records.changes = _fails  # type: ignore[method-assign]
            within([await _seen(flags, other, value) for value in range(1, 5)])
            store.core.records.changes = feed  # type: ignore[method-assign]
            within([await _seen(flags, other, value) for value in range(5, 7)])
            assert "ok" == other.health().status


async def test_while_a_long_transaction_holds_the_feed_back_a_change_is_seen_within_a_second(tmp_path: Path) -> None:
    url = f"{fresh('postgresql', tmp_path)}&cache=none"
    async with (
        setter(url) as flags,
        palaver.open(url, schema=SCHEMA, maintain=False) as store,
        Flags.open(store, FLAGS, FeatureFlag) as other,
    ):
        pool: Any = store.core.records.pool  # type: ignore[attr-defined]
        async with pool.transaction() as connection:
            await connection.fetchval("SELECT pg_current_xact_id()::text")
            within([await _seen(flags, other, value) for value in range(1, 5)])


async def _fails(after: int | None, limit: int) -> NoReturn:
    raise Unavailable("The feed is away.")


async def _seen(flags: Flags, other: Flags, value: int) -> float:
    """Set a flag; return how long after the call began another store serves it."""
    began = time.monotonic()
    await flags.set(LENGTH, value, user="ann")
    while other.value(LENGTH, user="ann") != value:
        assert time.monotonic() < began + 20, "it was never seen"
        await asyncio.sleep(0.002)
    return time.monotonic() - began


async def test_processes_behind_a_pooler_where_nothing_can_listen(tmp_path: Path) -> None:
    database = servers.postgres18().create_database()
    url = f"{servers.pgbouncer().url(database)}?pooler=transaction&pool=2&cache=none&{urlencode({'blobs': f'file:{tmp_path}/blobs'})}"
    async with setter(url) as flags, observer(url) as one:
        within(await delays(flags, [one], range(1, 11)))
    servers.postgres18().drop_database(database)
