"""What every engine counts of itself, on the real server: figures that are right, and none that shows what is stored."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw
import asyncpg
import pytest

import palaver
from palaver.cache import redis_figures
from palaver.cache.memory import MemoryCache
from palaver.cache.redis import RedisCache
from palaver.connections.redis import encode
from palaver.entity import Entity
from palaver.keys import Index, Key
from palaver.observing import Observed, Observes, Size
from palaver.schema import Schema
from palaver.store import Store
from tests import servers
from tests.engines.redis_servers import opened, own
from tests.stacks import fresh

SECRET = "nobody-may-see-this"
COUNT = 200


class Person(Entity, table="people"):
    name: str
    town: str

    key = Key("name")
    by_town = Index("town", name="by_town")


SCHEMA = Schema("figures", entities=[Person])


@asynccontextmanager
async def filled(url: str) -> AsyncIterator[Store]:
    async with palaver.open(url, schema=SCHEMA, migrate=True, maintain=False) as store:
        await store.bulk([Person(name=f"{SECRET}-{number}", town=SECRET) for number in range(COUNT)])
        yield store


@pytest.fixture(params=["sqlite", "postgresql", "dynamodb"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    environ: dict[str, str] = {}
    made = fresh(request.param, tmp_path, environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return made


async def seen(store: Store) -> Observed:
    engine: Any = store.core.records
    assert isinstance(engine, Observes)
    return await engine.observe()


def named(sizes: tuple[Size, ...], name: str) -> Size:
    return next(size for size in sizes if size.name.endswith(name))


async def test_tables_are_sized_and_nothing_stored_is_shown(url: str) -> None:
    async with filled(url) as store:
        found = await seen(store)
    table, index = named(found.tables, "people"), named(found.indexes, "by_town")
    assert index.of.endswith("people")
    assert None not in (table.entries, table.bytes)
    assert SECRET not in json.dumps(asdict(found))
    assert found.engine in url.replace("postgres:", "postgresql:")


# --- SQLite -----------------------------------------------------------------------------------------------------------


async def test_a_file_is_shared_out_exactly(tmp_path: Path) -> None:
    async with filled(f"sqlite:///{tmp_path}/a.db") as store:
        await store.delete(Person.at(f"{SECRET}-0"))
        found = await seen(store)
        figures = found.figures
        assert COUNT - 1 == named(found.tables, "people").entries == named(found.indexes, "by_town").entries
        shared = sum(size.bytes or 0 for size in (*found.tables, *found.indexes))
        assert int(figures["pages"]) * int(figures["page_bytes"]) == shared + int(figures["free_bytes"])
        assert int(figures["log_bytes"]) > 0
    assert ("full", apsw.sqlite_lib_version()) == (figures["synchronous"], figures["version"])
    assert () == found.notes


async def test_of_a_large_file_it_is_said_that_tables_are_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palaver.records.sqlite_figures.MOST_PAGES", 1)
    async with filled(f"sqlite:///{tmp_path}/a.db") as store:
        found = await seen(store)
    assert () == found.tables
    assert "not measured" in found.notes[0]
    assert int(found.figures["file_bytes"]) > 0


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


async def test_a_table_with_quotes_in_a_schema_with_quotes_is_reported_and_another_of_its_name_is_not() -> None:
    server = servers.postgres18()
    name = server.create_database()
    schema = 'The "Other" schema'
    connection = await asyncpg.connect(server.url(name))
    async with filled(f"{server.url(name)}?schema={quote(schema)}") as store:
        try:
            for where, rows in ((f'"{schema.replace(chr(34), chr(34) * 2)}"', 3_000), ("public", 1)):
                await connection.execute(
                    f'CREATE TABLE {where}."Odd ""Name""" AS SELECT repeat($$x$$, 100) v FROM generate_series(1, {rows})'
                )
                await connection.execute(f'CREATE INDEX "Odd ""Index""" ON {where}."Odd ""Name""" (v)')
                await connection.execute(f'ANALYZE {where}."Odd ""Name"""')
            found = await seen(store)
            size = await connection.fetchval(
                "SELECT pg_total_relation_size(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
                " WHERE relname = $1 AND nspname = $2",
                'Odd "Name"',
                schema,
            )
        finally:
            await connection.close()
    odd = [table for table in found.tables if table.name == 'Odd "Name"']
    assert [(3_000, size)] == [(table.entries, table.bytes) for table in odd]
    assert ['Odd "Name"'] == [index.of for index in found.indexes if index.name == 'Odd "Index"']


async def test_the_parts_of_a_table_are_counted_as_the_table() -> None:
    server = servers.postgres18()
    name = server.create_database()
    async with filled(server.url(name)) as store:
        server.sql("CREATE TABLE parted (n int PRIMARY KEY) PARTITION BY RANGE (n)", database=name)
        for start in (0, 1_000):
            server.sql(f"CREATE TABLE part_{start} PARTITION OF parted FOR VALUES FROM ({start}) TO ({start + 1_000})", database=name)
        server.sql("INSERT INTO parted SELECT generate_series(0, 1999)", database=name)
        server.sql("VACUUM ANALYZE parted", database=name)
        found = await seen(store)
    assert 2_000 == named(found.tables, "parted").entries
    assert (named(found.tables, "parted").bytes or 0) >= 2 * 65_536
    assert (named(found.indexes, "parted_pkey").bytes or 0) > 0
    assert [] == [size.name for size in (*found.tables, *found.indexes) if size.name.startswith("part_")]


async def test_connections_are_told_apart_by_what_they_do() -> None:
    server = servers.postgres18()
    name = server.create_database()
    async with filled(server.url(name)) as store:
        idle = await asyncpg.connect(server.url(name))
        try:
            before = (await seen(store)).figures
            await idle.execute("BEGIN")
            after = (await seen(store)).figures
        finally:
            await idle.close()
    assert int(before["connections_idle_in_transaction"]) + 1 == after["connections_idle_in_transaction"]
    assert int(after["connections_of_palaver"]) >= 1
    assert (0, 1) == (after["pool_callers_waiting"], after["pool_in_use"]) or after["pool_in_use"] == 0
    assert int(after["pool_open"]) <= int(after["pool_most"])
    assert int(after["connections"]) <= int(after["connections_most"])


async def test_slow_statements_are_told_without_their_values_where_they_are_counted() -> None:
    server = servers.start_postgres15(shared_preload_libraries="pg_stat_statements")
    try:
        name = server.create_database()
        async with filled(server.url(name)) as store:
            assert "CREATE EXTENSION pg_stat_statements" in (await seen(store)).notes[-1]
            server.sql('CREATE SCHEMA "stat s"', database=name)
            server.sql('CREATE EXTENSION pg_stat_statements SCHEMA "stat s"', database=name)
            server.sql(f"SELECT pg_sleep(0.05), '{SECRET}'", database=name)
            server.sql(f"CREATE ROLE someone PASSWORD '{SECRET}'", database=name)
            found = await seen(store)
    finally:
        server.close()
    slowest = next(slow for slow in found.slow if "pg_sleep" in slow.what)
    assert slowest.mean_ms >= 50
    assert 1 == slowest.calls
    assert SECRET not in json.dumps(asdict(found))
    assert () == found.notes


async def test_slow_statements_that_the_server_was_not_started_to_count_are_a_note() -> None:
    server = servers.postgres15()
    name = server.create_database()
    async with filled(server.url(name)) as store:
        server.sql("CREATE EXTENSION pg_stat_statements", database=name)
        found = await seen(store)
    assert "shared_preload_libraries" in found.notes[-1]
    assert () == found.slow


# --- caches -----------------------------------------------------------------------------------------------------------


async def test_the_cache_of_a_process_tells_each_kind_apart() -> None:
    cache = MemoryCache()
    try:
        await cache.values("session").set("a", b"12345", ttl_s=60)
        await cache.values("session").get("a")
        await cache.values("flag").get("b")
        found = await cache.observe()
    finally:
        await cache.aclose()
    assert (1, 1, 0.5, 1) == tuple(found.figures[name] for name in ("hits", "misses", "hit_share", "entries"))
    assert ("session", 1, 1) == (found.tables[0].name, found.tables[0].entries, found.tables[0].reads)


async def test_redis_tells_its_own_hits_and_ours_and_names_slow_commands_without_arguments() -> None:
    with own(**{"slowlog-log-slower-than": "0", "maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}) as server:
        async with opened(server.url) as cache:
            values = cache.values("session")
            await values.set(SECRET, SECRET.encode(), ttl_s=60, revision=1)
            for key in (SECRET, SECRET, SECRET, "other"):
                await values.get(key)
            found = await cache.observe()
    figures = found.figures
    assert (3, 1, 0.75) == (figures["hits"], figures["misses"], figures["hit_share"])
    assert int(figures["keyspace_hits"]) >= 3
    assert (1, "allkeys-lru", 100 * 2**20, 0) == tuple(figures[name] for name in ("keys", "eviction", "most_bytes", "evicted_keys"))
    assert {"GET", "EVALSHA set"} <= {slow.what for slow in found.slow}
    assert len(found.slow) <= 10
    assert "allkeys-lru" in found.warnings[0]
    assert SECRET not in json.dumps(asdict(found))


async def test_a_redis_user_without_the_right_to_look_gets_a_note() -> None:
    with own() as server:
        async with opened(server.url) as admin:
            rules = ("on", ">pw", "~palaver:*", "&*", "+@all", "-info", "-slowlog")
            await admin.client.read(encode("ACL", "SETUSER", "clerk", *rules))
        async with opened(f"redis://clerk:pw@127.0.0.1:{server.port}/0") as cache:
            found = await cache.observe()
    assert ["INFO", "SLOWLOG"] == [note.rpartition(" ")[2] for note in found.notes]
    assert {"hits", "misses", "hit_share"} == set(found.figures)


@pytest.mark.parametrize(
    ("settings", "level", "said"),
    [
        ({"maxmemory": "100mb", "maxmemory-policy": "volatile-ttl"}, "ok", "volatile-ttl"),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-random"}, "warn", "forget sessions"),
        ({"maxmemory": "100mb", "maxmemory-policy": "noeviction"}, "warn", "refused"),
        ({}, "warn", "without a bound"),
    ],
)
async def test_the_doctor_judges_how_redis_makes_room(settings: dict[str, str], level: str, said: str) -> None:
    with own(**settings) as server:
        async with opened(server.url) as cache:
            findings = {finding.check: finding for finding in await cache.diagnose()}
    assert level == findings["cache memory"].level
    assert said in findings["cache memory"].seen
    assert {"ok"} == {finding.level for name, finding in findings.items() if name != "cache memory"}
    assert "a restart empties it" in findings["cache persistence"].seen


async def test_the_doctor_sees_persistence_a_replica_and_missing_rights() -> None:
    with own(appendonly="yes", save="60 1") as server, own(replicaof=f"127.0.0.1 {server.port}") as replica:
        async with opened(server.url) as cache:
            kept = {finding.check: finding for finding in await cache.diagnose()}
            await cache.client.read(encode("ACL", "SETUSER", "clerk", "on", ">pw", "~palaver:*", "&*", "+@all", "-publish"))
        async with opened(f"redis://clerk:pw@127.0.0.1:{server.port}/0") as cache:
            limited = {finding.check: finding for finding in await cache.diagnose()}
        async with opened(replica.url) as cache:
            behind = {finding.check: finding for finding in await cache.diagnose()}
    assert "append-only file and snapshots" in kept["cache persistence"].seen
    assert ("fail", True) == (limited["cache rights"].level, "messages" in limited["cache rights"].seen)
    assert "fail" == behind["cache role"].level


async def test_the_doctor_tells_a_clock_that_differs_and_connections_that_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        @staticmethod
        def time() -> float:
            return time.time() - 100

    with own(maxclients="2") as server:
        async with opened(server.url) as cache, opened(server.url) as another:
            await another.client.read(encode("PING"))
            assert "ok" == {finding.check: finding.level for finding in await cache.diagnose()}["cache clock"]
            monkeypatch.setattr(redis_figures, "time", Slow)
            found = {finding.check: finding for finding in await cache.diagnose()}
    assert ("warn", "+100") == (found["cache clock"].level, found["cache clock"].seen[6:10])
    assert ("warn", True) == (found["cache connections"].level, "maxclients" in found["cache connections"].fix)


@pytest.mark.parametrize(("version", "level"), [("6.0.16", "fail"), ("5.0", "fail"), ("6.2.0", "ok"), ("8.0.2", "ok")])
def test_the_doctor_names_a_redis_that_is_too_old(version: str, level: str) -> None:
    found = redis_figures._version({"redis_version": version})
    assert (level, True) == (found.level, version in found.seen)


async def test_the_doctor_tells_a_redis_that_cannot_write_to_its_disk() -> None:
    with own(save="60 1") as server:
        async with opened(server.url) as cache:
            _, folder = redis_figures._texts(await cache.client.read(encode("CONFIG", "GET", "dir")))
            (Path(folder) / "dump.rdb").mkdir()
            await cache.client.read(encode("BGSAVE"))
            for _ in range(200):
                # It takes no command any more that may follow a write, a PING neither.
                found = (await cache.diagnose())[0]
                if found.level != "ok":
                    break
                await asyncio.sleep(0.05)
    assert ("fail", True, True) == (found.level, "disk" in found.seen, "room" in found.fix)


async def test_the_doctor_names_a_redis_that_is_away_without_its_password() -> None:
    cache = RedisCache("redis://u:s3cret@127.0.0.1:1/0?connect=0.2")
    try:
        (finding,) = await cache.diagnose()
    finally:
        await cache.aclose()
    assert ("cache", "fail") == (finding.check, finding.level)
    assert "s3cret" not in repr(finding)
