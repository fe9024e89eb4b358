"""The generated configuration of Redis, started and filled; and pools that fit into what PostgreSQL has."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

import palaver
from palaver.blueprints import simple_agent
from palaver.blueprints.simple_agent import SCHEMA, SimpleAgent
from palaver.blueprints.simple_agent.schema import RateLimits
from palaver.blueprints.simple_agent.sizing import pool_size, redis_conf
from palaver.cache.redis import RedisCache
from palaver.errors import RateLimited, Validation
from tests import servers
from tests.blueprints.simple_agent.given import ask
from tests.stacks import SEAL_KEYS, fresh


def settings(text: str) -> dict[str, str]:
    """The lines of a configuration as a server is given them; a name that comes again adds to the one before."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition(" ")
            found[name] = f"{found[name]} {value}" if name in found else value
    return found


async def test_a_server_with_the_generated_settings_keeps_sessions_and_limits_while_it_evicts(tmp_path: Path) -> None:
    given = settings(redis_conf(memory_mb=6)) | {"save": "900 1 300 10 60 10000"}
    server = servers.start_redis(**given)
    try:
        at = f"{fresh('sqlite', tmp_path)}&cache={quote(server.url, safe='')}"
        async with palaver.open(at, schema=SCHEMA, maintain=False) as store, await simple_agent.capabilities(store) as running:
            agent = SimpleAgent(store, running)
            await agent.channels.configure("web", default_model="m", rate_limits=RateLimits(per_user=3))
            started = await agent.log_in("web", "visitor")
            for _ in range(3):
                async with agent.message_in(started.token, "?"):
                    pass
            cold = RedisCache(f"{server.url}?prefix=cold")
            values = cold.values("cold")
            for n in range(120):
                await asyncio.gather(*(values.set(f"{n}.{m}", b"x" * 1_000, ttl_s=3_600) for m in range(100)))
                with pytest.raises(RateLimited):
                    async with agent.message_in(started.token, "?"):
                        pass
            held = await values.get_many([f"{n}.{m}" for n in range(120) for m in range(100)])
            await cold.aclose()
            assert 3_000 < held.count(None) < 12_000
    finally:
        server.close()


def test_the_settings_are_the_designs_but_for_what_was_wrong() -> None:
    given = settings(redis_conf())
    assert ("512mb", "volatile-lfu", "yes", "everysec") == tuple(
        given[name] for name in ("maxmemory", "maxmemory-policy", "appendonly", "appendfsync")
    )
    assert not [line for line in redis_conf().splitlines() if "#" in line[1:]]
    with pytest.raises(Validation):
        redis_conf(memory_mb=0)


@pytest.mark.parametrize("processes", [1, 2, 4, 8, 40])
def test_pools_of_all_processes_fit_with_room_for_people(processes: int) -> None:
    assert processes * (pool_size(processes) + 1) <= 100 - 13
    assert processes * (pool_size(processes) + 2) > 100 - 13


def test_more_processes_than_connections_are_refused() -> None:
    assert 1 == pool_size(40, max_connections=100)
    for processes in (0, 44):
        with pytest.raises(Validation):
            pool_size(processes)


async def test_four_processes_at_full_load_never_have_too_many_connections(
    postgres18: servers.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four stores stand for four processes: each has a pool of its own, all of them on one server."""
    monkeypatch.setenv("PALAVER_SEAL_KEYS", SEAL_KEYS)
    address = postgres18.url(postgres18.create_database())
    async with AsyncExitStack() as stack:
        agents = []
        for number in range(4):
            url = f"{address}?pool={min(8, pool_size(4))}&schema=budget{number}"
            agents.append(SimpleAgent(await stack.enter_async_context(palaver.open(url, schema=SCHEMA, maintain=False))))
        turns = await asyncio.gather(*(ask(agent, who=f"{n}") for agent in agents for n in range(24)))
        assert 96 == len({turn.message_id for turn in turns})
