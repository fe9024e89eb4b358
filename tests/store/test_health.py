"""Each part of a stack away, one by one, on real servers: it is named, the rest is told as it is, and nothing is raised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import pytest

import palaver
from palaver.blob_ports import BlobStore
from palaver.cache.memory_limits import MemoryLimiter
from palaver.entity import Entity
from palaver.errors import Unavailable
from palaver.keys import Key
from palaver.markers import Blob, Searchable
from palaver.schema import Schema, Search, Source
from palaver.store import Store
from tests import servers
from tests.engines.redis_servers import until

SECRET = "nobody-may-see-this"


class Page(Entity, table="pages"):
    id: str
    text: Annotated[str, Searchable()]
    scan: Annotated[dict[str, str] | None, Blob("{id}/scan.json", inline=0)] = None

    key = Key("id")


SCHEMA = Schema("health", entities=[Page], searches=[Search("pages", Source(Page))])


def states(health: dict[str, Any]) -> dict[str, str]:
    return {name: part["state"] for name, part in health["components"].items()}


async def until_well(store: Store) -> None:
    async def well() -> bool:
        return bool((await store.health(30))["status"] == "ok")

    await until(well, patience=30)


async def test_all_is_well(tmp_path: Path) -> None:
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA) as store:
        await store.create(Page(id="1", text=SECRET, scan={"of": SECRET}))
        await store.settle()
        health = await store.health(30)
    assert ("ok", True) == (health["status"], health["ready"])
    assert {"records": "up", "search": "up", "blobs": "up", "cache": "up"} == states(health)
    assert SECRET not in json.dumps(health)
    assert "closed" == health["cache"]["breaker"]


async def test_a_folder_of_objects_that_is_gone_is_told_and_the_records_are_ready(tmp_path: Path) -> None:
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA) as store:
        assert "up" == (await store.health(30))["components"]["blobs"]["state"], "nothing was stored, so nothing can be missing"
        await store.create(Page(id="1", text="x", scan={"of": "x"}))
    shutil.move(tmp_path / "a.db.blobs", tmp_path / "elsewhere")
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA) as store:
        health = await store.health(30)
        shutil.move(tmp_path / "elsewhere", tmp_path / "a.db.blobs")
    assert ("degraded", True, "not_found") == (health["status"], health["ready"], health["components"]["blobs"]["error"])
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA) as store:
        assert "up" == (await store.health(30))["components"]["blobs"]["state"]


async def test_one_object_that_is_gone_is_no_storage_that_is_away(tmp_path: Path) -> None:
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA) as store:
        for number in range(3):
            await store.create(Page(id=str(number), text="x", scan={"of": str(number)}))
        blobs: BlobStore = store.core.blobs
        keys = [info.key async for info in blobs.list()]
        assert 3 == len(keys)
        await blobs.delete(keys[:1])
        assert "up" == (await store.health(30))["components"]["blobs"]["state"]


async def test_a_redis_that_dies_and_comes_back(tmp_path: Path) -> None:
    server = servers.start_redis()
    try:
        url = f"sqlite:///{tmp_path}/a.db?cache={quote(f'{server.url}?connect=0.3', safe='')}"
        async with palaver.open(url, schema=SCHEMA) as store:
            assert "ok" == (await store.health(30))["status"]
            server.kill_9()
            health = await store.health(30)
            assert ("degraded", True) == (health["status"], health["ready"])
            assert {"records": "up", "search": "up", "blobs": "up", "cache": "down"} == states(health)
            assert "closed" != health["cache"]["breaker"]
            server.start()
            await until_well(store)
            assert "closed" == (await store.health(30))["cache"]["breaker"]
    finally:
        server.close()


async def test_a_redis_that_is_silent_costs_no_more_than_the_time_that_was_asked_for(tmp_path: Path) -> None:
    server = servers.start_redis()
    try:
        url = f"sqlite:///{tmp_path}/a.db?cache={quote(f'{server.url}?timeout=60', safe='')}"
        async with palaver.open(url, schema=SCHEMA) as store:
            assert "ok" == (await store.health(30))["status"]
            server.freeze()
            try:
                health = await store.health(0.3)
            finally:
                server.thaw()
    finally:
        server.close()
    assert ("degraded", "timeout") == (health["status"], health["components"]["cache"]["error"])


async def test_a_postgresql_that_dies_and_comes_back(tmp_path: Path) -> None:
    server = servers.start_postgres()
    try:
        url = f"{server.url(server.create_database())}?blobs=file:{tmp_path}/blobs&connect_timeout=0.2"
        async with palaver.open(url, schema=SCHEMA, migrate=True, maintain=False) as store:
            await store.create(Page(id="1", text="x", scan={"of": "x"}))
            assert "ok" == (await store.health(30))["status"]
            server.kill_9()
            health = await store.health(30)
            assert ("down", False) == (health["status"], health["ready"])
            assert {"records": "down", "search": "down", "blobs": "up", "cache": "up"} == states(health)
            assert "unavailable" == health["components"]["records"]["error"]
            assert (None, {}) == (health["feed_head"], health["projections"])
            assert server.password not in json.dumps(health)
            server.start()
            await until_well(store)
    finally:
        server.close()


async def test_a_stack_without_a_cache_is_well(tmp_path: Path) -> None:
    async with palaver.open(f"sqlite:///{tmp_path}/a.db?cache=none", schema=SCHEMA) as store:
        health = await store.health(30)
    assert ("ok", "off") == (health["status"], health["components"]["cache"]["state"])


async def test_only_what_the_schema_uses_is_asked() -> None:
    class Plain(Entity, table="plain"):
        id: str
        key = Key("id")

    async with palaver.open("memory:", schema=Schema("plain", entities=[Plain])) as store:
        assert {"records", "cache"} == set(states(await store.health(30)))


async def test_a_failure_that_is_not_ours_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(MemoryLimiter, "peek", broken)
    async with palaver.open("memory:", schema=SCHEMA) as store:
        with pytest.raises(ValueError, match="a bug"):
            await store.health(30)


async def test_looking_counts_as_no_hit_and_no_miss() -> None:
    async with palaver.open("memory:", schema=SCHEMA) as store:
        health = await store.health(30)
    assert (0, 0) == (health["cache"]["hits"], health["cache"]["misses"])


async def test_records_that_cannot_be_read_make_nothing_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async with palaver.open("memory:", schema=SCHEMA) as store:

        async def away(*_: object, **__: object) -> None:
            raise Unavailable("gone")

        for verb in ("get", "scan", "query", "changes"):
            monkeypatch.setattr(store.core.records, verb, away)
        health = await store.health(30)
    assert ("down", False, "gone") == (health["status"], health["ready"], health["components"]["records"]["detail"])
    assert "up" == health["components"]["blobs"]["state"], "that the records are away is told of them alone"
