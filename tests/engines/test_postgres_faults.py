"""What can go wrong with a PostgreSQL server, and the error of the tree each failure becomes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

import palaver
from palaver import Entity, Index, Key, Schema, Store
from palaver.connections.postgres import Pool
from palaver.connections.postgres_errors import RETRIED, is_refusal, translate
from palaver.connections.postgres_options import PostgresOptions
from palaver.errors import (
    ConfigError,
    Forbidden,
    NotProvisioned,
    OutcomeUnknown,
    ReadOnly,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from palaver.ops import Absent, CreateTable, Refused, WriteSet
from palaver.records.postgres import PostgresRecords
from palaver.testing.records.base import COUNTERS, NOTES, NOW, put, put_note, stored
from tests import servers
from tests.engines.proxy import Proxy


class Tally(Entity, table="tallies"):
    name: str
    count: int = 0

    key = Key("name")


SCHEMA = Schema("faults", [Tally])


def newer() -> Any:
    """Return the entity as a later version of the program declares it."""

    class Tally(Entity, table="tallies"):
        name: str
        count: int = 0
        remark: str = ""

        key = Key("name")

    return Tally


@pytest.fixture
async def engine(url: str) -> AsyncIterator[PostgresRecords]:
    engine = PostgresRecords(await Pool.open(url, PostgresOptions(schema="faults", size=2, wait_s=0.2)), (NOTES, COUNTERS))
    for table in (NOTES, COUNTERS):
        await engine.apply(CreateTable(table))
    yield engine
    await engine.aclose()


async def asked(url: str, text: str) -> list[Any]:
    connection = await asyncpg.connect(url, server_settings={"default_transaction_read_only": "off"})
    try:
        return await connection.fetch(text)  # type: ignore[no-any-return]
    finally:
        await connection.close()


async def repeated(store: Store, token: str) -> str:
    """Count once, as a caller who repeats until he is told; return what he was told first."""
    first = ""
    while True:
        try:
            await store.patch(Tally.at("t"), add={"count": 1}, token=token)
            return first or "done"
        except (OutcomeUnknown, Unavailable) as error:
            first = first or type(error).__name__


# --- connections that break -----------------------------------------------------------------------------------------


async def test_a_connection_cut_before_or_after_the_commit_loses_and_doubles_nothing(url: str) -> None:
    server = servers.postgres18()
    chance = random.Random(7)
    async with Proxy(server.host, server.port) as proxy:
        through = url.replace(f":{server.port}/", f":{proxy.port}/")
        async with palaver.open(f"{through}?schema=cut&pool=2&blobs=memory:", schema=SCHEMA, migrate=True, maintain=False) as store:
            await store.put(Tally(name="t"))
            for number in range(3):
                await store.patch(Tally.at("t"), add={"count": 1}, token=f"warm {number}")
            told: list[str] = []
            committed = 0
            for number in range(40):
                cut = chance.choice(["", "request", "answer"])
                if cut:
                    proxy.cut_next("request" if cut == "request" else "answer")
                told.append(await repeated(store, f"token {number}"))
                assert 4 + number == (await store.get(Tally.at("t"))).count
                committed += cut == "answer" and told[-1] == "OutcomeUnknown"
            assert 43 == (await store.get(Tally.at("t"))).count
    assert proxy.cuts > 10
    assert committed > 3
    assert "OutcomeUnknown" in told


async def test_without_a_token_a_lost_answer_is_told(url: str, engine: PostgresRecords) -> None:
    server = servers.postgres18()
    async with Proxy(server.host, server.port) as proxy:
        options = PostgresOptions(schema="faults", size=1)
        through = PostgresRecords(await Pool.open(url.replace(f":{server.port}/", f":{proxy.port}/"), options), (NOTES, COUNTERS))
        for number in range(2):
            await through.write(WriteSet([put(COUNTERS, {"name": f"warm {number}"}, Absent())], NOW))
        # What tells other processes of the writes before must be through.
        await asyncio.sleep(0.2)
        proxy.cut_next("answer")
        with pytest.raises(OutcomeUnknown):
            await through.write(WriteSet([put(COUNTERS, {"name": "lost answer"}, Absent())], NOW))
        assert await stored(engine, COUNTERS, "lost answer") is not None
        await through.write(WriteSet([put(COUNTERS, {"name": "warm again"}, Absent())], NOW))
        await asyncio.sleep(0.2)
        proxy.cut_next("request")
        with pytest.raises(OutcomeUnknown):
            await through.write(WriteSet([put(COUNTERS, {"name": "lost request"}, Absent())], NOW))
        assert await stored(engine, COUNTERS, "lost request") is None
        proxy.cut_next("answer")
        assert (await through.get([put_note("u", "1").at]))[0] is None, "a read is simply asked again"
        await through.aclose()


async def more_than(acknowledged: list[str], further: int) -> None:
    """Return when so many more writes have been acknowledged."""
    until = len(acknowledged) + further
    for _ in range(6_000):
        if len(acknowledged) >= until:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the writers do not get on")


async def test_a_server_killed_under_load_keeps_what_was_acknowledged_and_is_found_again() -> None:
    server = servers.start_postgres()
    try:
        options = PostgresOptions(schema="load", size=4, connect_timeout_s=15)
        engine = PostgresRecords(await Pool.open(server.url(), options), (NOTES,))
        await engine.apply(CreateTable(NOTES))
        acknowledged: list[str] = []
        unknown = 0
        over = asyncio.Event()

        async def writer(me: int) -> None:
            nonlocal unknown
            number = 0
            while not over.is_set():
                number += 1
                try:
                    done = await engine.write(WriteSet([put_note("u", f"{me}/{number}", Absent())], NOW))
                    assert not isinstance(done, Refused)
                    acknowledged.append(f"{me}/{number}")
                except OutcomeUnknown:
                    unknown += 1
                except Unavailable:
                    await asyncio.sleep(0.01)

        writers = [asyncio.create_task(writer(me)) for me in range(8)]
        for _ in range(2):
            await more_than(acknowledged, 100)
            await asyncio.to_thread(server.kill_9)
            await asyncio.to_thread(server.start)
        await more_than(acknowledged, 100)
        over.set()
        await asyncio.gather(*writers)
        there = {row[0] for row in await engine.pool.read(f"SELECT id FROM {engine.names.within(NOTES.name)}")}
        assert set() == set(acknowledged) - there
        assert unknown > 0
        changes = await engine.pool.read(f"SELECT key[2] FROM {engine.names.changes}")
        assert sorted(there) == sorted(row[0] for row in changes), "every record and its change, or neither"
        await engine.aclose()
    finally:
        server.close()


# --- opening --------------------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_unauthenticated_and_not_shown(url: str, database: str) -> None:
    wrong = servers.postgres18().url(database, password="not-the-secret")
    with pytest.raises(Unauthenticated) as caught:
        await Pool.open(wrong)
    assert "not-the-secret" not in f"{caught.value!r} {caught.value}"
    assert caught.value.__cause__ is None


async def test_an_unknown_database_is_named_in_the_hint() -> None:
    with pytest.raises(ConfigError):
        await Pool.open(servers.postgres18().url("no-such-database"))


async def test_nobody_listening_is_unavailable_within_its_time() -> None:
    with pytest.raises(Unavailable):
        await Pool.open(f"postgresql://u:p@127.0.0.1:{servers.free_port()}/d", PostgresOptions(connect_timeout_s=0.3))


async def test_a_pool_larger_than_the_server_allows_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="allows"):
        await Pool.open(url, PostgresOptions(size=10_000))


async def test_a_program_the_database_is_ahead_of_reads_and_puts_nothing(url: str) -> None:
    at = f"{url}?schema=ahead&blobs=memory:"
    later = newer()
    async with palaver.open(at, schema=Schema("faults", [later], version=2), migrate=True, maintain=False) as store:
        await store.put(later(name="t", count=1, remark="kept"))
    async with palaver.open(at, schema=SCHEMA, maintain=False) as older:
        assert 1 == (await older.get(Tally.at("t"))).count
        with pytest.raises(NotProvisioned):
            await older.put(Tally(name="t"))


async def test_an_index_that_is_being_built_is_not_provisioned(url: str) -> None:
    class Tally(Entity, table="tallies"):
        name: str
        count: int = 0

        key = Key("name")
        by_count = Index("count")

    at, indexed = f"{url}?schema=building&blobs=memory:", Schema("faults", [Tally], version=2)
    async with palaver.open(at, schema=SCHEMA, migrate=True, maintain=False) as store:
        await store.put(globals()["Tally"](name="t", count=1))

    async def migrate() -> None:
        async with palaver.open(at, schema=indexed, migrate=True, maintain=False):
            pass

    writing = await asyncpg.connect(url)
    try:
        async with writing.transaction():
            # Whoever builds an index waits for those who write already.
            await writing.execute("LOCK TABLE building.tallies IN ROW EXCLUSIVE MODE")
            migrating = asyncio.create_task(migrate())
            building = "SELECT FROM pg_index WHERE indrelid = 'building.tallies'::regclass AND NOT indisvalid"
            for _ in range(500):
                if await asked(url, building):
                    break
                await asyncio.sleep(0.02)
            assert await asked(url, building)
            with pytest.raises(NotProvisioned, match="has not ended"):
                async with palaver.open(at, schema=indexed, maintain=False):
                    pass
        await migrating
    finally:
        await writing.close()
    async with palaver.open(at, schema=indexed, maintain=False) as store:
        assert ["t"] == [each.name async for each in store.query(Tally.by_count(1))]
    # As whoever builds it and dies leaves it.
    await asked(url, "UPDATE pg_index SET indisvalid = false WHERE indrelid = 'building.tallies'::regclass AND NOT indisprimary")
    with pytest.raises(NotProvisioned, match="lacks 1 of"):
        async with palaver.open(at, schema=indexed, maintain=False):
            pass
    await migrate()
    assert not await asked(url, building)


# --- what the server refuses ----------------------------------------------------------------------------------------


async def test_a_full_pool_is_throttled_and_works_again(engine: PostgresRecords) -> None:
    async with engine.pool.connection(), engine.pool.connection():
        with pytest.raises(Throttled):
            await stored(engine, NOTES, "u", "1")
    assert await stored(engine, NOTES, "u", "1") is None


async def test_a_cancellation_that_comes_with_a_connection_is_not_lost(engine: PostgresRecords) -> None:
    """Before Python 3.12 `wait_for` would take the connection and go on: whoever stops a task would wait for it for ever."""
    pool = engine.pool
    async with pool.connection():
        last = await pool.acquire()
        waiting = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0)
        pool.release(last)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with pool.connection():
            pass


async def test_a_connection_that_comes_with_the_end_of_the_waiting_is_taken(engine: PostgresRecords) -> None:
    pool = engine.pool
    async with pool.connection():
        last = await pool.acquire()
        waiting = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(pool.options.wait_s - 0.01, pool.release, last)
        time.sleep(pool.options.wait_s * 2)  # noqa: ASYNC251 - both are due in one turn of the loop
        pool.release(await waiting)
        async with pool.connection():
            pass


async def test_missing_rights_are_forbidden(url: str, database: str, engine: PostgresRecords) -> None:
    await asked(url, "DO $$ BEGIN CREATE ROLE reader LOGIN PASSWORD 'reading'; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    await asked(url, "GRANT USAGE ON SCHEMA faults TO reader")
    await asked(url, "GRANT SELECT ON ALL TABLES IN SCHEMA faults TO reader")
    options = PostgresOptions(schema="faults", size=1)
    reader = PostgresRecords(await Pool.open(servers.postgres18().url(database, user="reader", password="reading"), options), (NOTES,))
    assert await stored(reader, NOTES, "u", "1") is None
    with pytest.raises(Forbidden):
        await reader.write(WriteSet([put_note("u", "1", Absent())], NOW))
    with pytest.raises(Forbidden):
        await reader.write(WriteSet([put_note("u", "1")], NOW))
    await reader.aclose()


async def test_a_server_that_only_reads_says_so(url: str, database: str, engine: PostgresRecords) -> None:
    await asked(url, f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
    try:
        # Connections that were open before may write, as those to a server that was the primary could.
        standby = PostgresRecords(await Pool.open(url, PostgresOptions(schema="faults", size=2)), (NOTES, COUNTERS))
        assert await stored(standby, NOTES, "u", "1") is None
        for what in (put_note("u", "1", Absent()), put_note("u", "1")):
            with pytest.raises(ReadOnly):
                await standby.write(WriteSet([what], NOW))
        await standby.aclose()
    finally:
        await asked(url, f'ALTER DATABASE "{database}" RESET default_transaction_read_only')
    await engine.write(WriteSet([put_note("w", "1", Absent())], NOW))


async def test_a_statement_over_its_time_has_written_nothing(url: str) -> None:
    pool = await Pool.open(url, PostgresOptions(size=1, timeout_s=0.1))
    with pytest.raises(Throttled, match="timeout"):
        await pool.fetch("SELECT pg_sleep(5)")
    assert [(1,)] == [tuple(row) for row in await pool.read("SELECT 1")]
    await pool.aclose()


async def test_a_missing_table_is_not_provisioned(url: str) -> None:
    engine = PostgresRecords(await Pool.open(url, PostgresOptions(schema="nowhere", size=1)), (NOTES,))
    for call in (engine.write(WriteSet([put_note("u", "1")], NOW)), stored(engine, NOTES, "u", "1")):
        with pytest.raises(NotProvisioned):
            await call
    await engine.aclose()


async def test_a_cancelled_call_leaves_the_pool_whole(engine: PostgresRecords) -> None:
    for _ in range(20):
        task = asyncio.create_task(stored(engine, NOTES, "u", "1"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await stored(engine, NOTES, "u", "1") is None


async def test_tls_is_asked_for_and_verified() -> None:
    """PostgreSQL 15 speaks TLS here, with a certificate nobody vouches for."""
    server: Any = servers.postgres15()
    if getattr(server, "certificate", None) is None:
        pytest.skip("this server speaks no TLS")
    pool = await Pool.open(server.url() + f"?sslmode=verify-full&sslrootcert={server.certificate}")
    assert [(True,)] == [tuple(row) for row in await pool.read("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")]
    await pool.aclose()
    with pytest.raises(ConfigError, match="TLS"):
        await Pool.open(server.url() + "?sslmode=strictest")
    other = server.url().replace("127.0.0.1", "127.0.0.2") + f"?sslmode=verify-full&sslrootcert={server.certificate}"
    with pytest.raises(Unavailable):
        await Pool.open(other, PostgresOptions(connect_timeout_s=0.5))


@pytest.mark.parametrize("state", ["40003", "08006", "08P01", "57P01", "57P02"])
def test_what_nobody_knows_to_be_done_is_not_repeated(state: str) -> None:
    """A server that cannot say whether it committed may have done so: again would count twice."""
    error = asyncpg.PostgresError.new({"C": state, "M": "?"})
    assert state not in RETRIED
    assert not is_refusal(error)
    assert isinstance(translate(error, sent=True), OutcomeUnknown)
