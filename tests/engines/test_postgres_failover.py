"""A PostgreSQL server that is another one than before, or set up otherwise than most: what a process with open connections makes of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from palaver.connections.postgres import Pool
from palaver.connections.postgres_errors import translate
from palaver.connections.postgres_isolation import isolate, secured_tables
from palaver.connections.postgres_options import PostgresOptions
from palaver.errors import ConfigError, OutcomeUnknown, ReadOnly
from palaver.expr import Append, F, Path
from palaver.ops import Absent, Add, Alive, Cause, CreateTable, Set, Update, WriteSet
from palaver.records import postgres_feed
from palaver.records.postgres import PostgresRecords
from palaver.records.postgres_names import identifier
from palaver.testing.records.base import COUNTERS, NOTES, NOW, address, all_changes, exact, put, put_note, stored, update, written
from tests import servers
from tests.engines.redis_servers import until


async def opened(url: str, **options: Any) -> PostgresRecords:
    engine = PostgresRecords(await Pool.open(url, PostgresOptions(**{"schema": "moved", "size": 4, **options})), (NOTES, COUNTERS))
    for table in (NOTES, COUNTERS):
        await engine.apply(CreateTable(table))
    return engine


@pytest.fixture
async def engine(url: str) -> AsyncIterator[PostgresRecords]:
    engine = await opened(url)
    yield engine
    await engine.pool.execute("DROP SCHEMA moved CASCADE")
    await engine.aclose()


@pytest.fixture
async def other(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


def appending(name: str, text: str) -> Update:
    """A write that takes a look, or what is remembered of one."""
    return update(COUNTERS, (name,), Set(Path("data.list"), Append(Path("data.list"), (text,))))


async def announced(engine: PostgresRecords) -> bool:
    return engine.feed._announcing is None


# --- another server than before -------------------------------------------------------------------------------------


async def test_who_is_told_that_a_server_only_reads_asks_the_address_again(engine: PostgresRecords, url: str) -> None:
    """What was the primary may have become a standby under an open connection, and the address may lead to the new one."""
    async with engine.pool.connection() as first, engine.pool.connection() as second:
        for connection in (first, second):
            await connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(ReadOnly):
        await engine.pool.fetch(f"DELETE FROM {engine.names.changes}")
    await written(engine, put_note("u", "1", Absent()), update(COUNTERS, ("c",), Add(F("hits"), 1)))


async def test_one_lost_connection_is_told_once(engine: PostgresRecords) -> None:
    """Of a machine that went away without a word every connection is dead: each would be waited for as long as a statement may take."""
    async with engine.pool.connection(), engine.pool.connection():
        pass
    assert 2 <= engine.pool.figures()["pool_open"]
    with pytest.raises(OutcomeUnknown):
        await engine.pool.fetch("SELECT pg_terminate_backend(pg_backend_pid())")
    assert 0 == engine.pool.figures()["pool_open"]
    await written(engine, put_note("u", "1", Absent()))


async def test_positions_that_were_given_before_are_not_given_again(engine: PostgresRecords, other: Any) -> None:
    """Logical replication copies rows and leaves sequences behind: the server that takes over begins at one."""
    for n in range(40):
        await written(engine, put_note("u", f"{n}", Absent()))
    await other.execute(f"SELECT setval('{engine.names.positions}', 1)")
    await written(engine, put_note("u", "created", Absent()))
    await other.execute(f"SELECT setval('{engine.names.positions}', 1)")
    await written(engine, update(NOTES, ("u", "1"), Set(F("text"), "patched"), when=[Alive()]))
    await other.execute(f"SELECT setval('{engine.names.positions}', 1)")
    await engine.load(NOTES.name, [put_note("v", f"{n}").record for n in range(50)], NOW, Cause())
    changes = await all_changes(engine)
    assert 92 == len(changes)
    assert [change.position for change in changes] == sorted({change.position for change in changes})


async def test_the_doctor_sees_positions_that_would_be_given_again_although_what_had_them_was_trimmed(
    engine: PostgresRecords, other: Any
) -> None:
    """Who follows the feed stands behind them already, and would never see what is written there."""
    for n in range(5):
        await written(engine, put_note("u", f"{n}", Absent()))
    page = await engine.changes(None, 10)
    await engine.trim(page.last + 1)
    await other.execute(f"SELECT setval('{engine.names.positions}', 1)")
    (told,) = [finding for finding in await engine.diagnose() if finding.check == "positions"]
    assert "fail" == told.level
    await other.execute(told.fix.removeprefix("Move the sequence on: ").removesuffix("."))
    await written(engine, put_note("u", "after", Absent()))
    assert [page.last + 1] == [change.position for change in (await engine.changes(page.last, 10)).changes]


async def test_a_reader_does_not_trust_what_it_knew_of_a_server_that_crashed(
    engine: PostgresRecords, other: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions that were drawn and never committed may be drawn again after a crash, by a transaction that is still running."""
    monkeypatch.setattr(postgres_feed, "_FENCE_WAIT_S", 0.3)
    names = engine.names
    await written(engine, put_note("u", "before", Absent()))
    page = await engine.changes(None, 10)
    at = page.last
    await other.execute(f"SELECT nextval('{names.positions}') FROM generate_series(1, 20)")
    for _ in range(3):
        assert [] == (await engine.changes(at, 10)).changes
    # The crash: every connection is gone, and so is what was drawn last.
    await other.execute(f"SELECT setval('{names.positions}', {at})")
    ours = "application_name = 'palaver' AND datname = current_database()"
    await other.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")
    while not all(connection.is_closed() for connection in engine.pool._free):  # noqa: ASYNC110 - the server ends them
        await asyncio.sleep(0.01)
    (number,) = await other.fetchrow(f"SELECT id FROM {names.names} WHERE name = $1", NOTES.name)
    transaction = other.transaction()
    await transaction.start()
    into = f"INSERT INTO {names.changes} (position, entity, kind, revision, key) VALUES ({names.position}, $1, 0, 1, $2)"
    await other.execute(into, number, ["u", "slow"])
    await written(engine, put_note("u", "fast", Absent()))
    early = await engine.changes(at, 10)
    await transaction.commit()
    late = await engine.changes(early.last, 10)
    assert ["slow", "fast"] == [change.key[1] for change in [*early.changes, *late.changes]]


async def test_a_call_that_is_given_up_is_no_loss(engine: PostgresRecords) -> None:
    """Else a program that gives up often would make its readers begin anew all the time."""
    before = engine.pool.losses
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await engine.pool.fetch("SELECT pg_sleep(5)")
    await stored(engine, NOTES, "u", "1")
    assert before == engine.pool.losses


async def test_what_is_remembered_of_a_commit_the_server_lost_is_not_written_over_another() -> None:
    """Who is promoted without the last commits, as who crashed with synchronous_commit off, gives their transaction numbers again."""
    at = address(COUNTERS, "a")
    server = servers.start_postgres(synchronous_commit="off", wal_writer_delay="10s", autovacuum="off")
    try:
        mine = await opened(server.url())
        await written(mine, put(COUNTERS, {"name": "a", "data": {"list": ["first"]}}))
        await mine.pool.execute("CHECKPOINT")
        # What would bring the log to the disk by itself, whenever it wakes.
        for (pid,) in await mine.pool.fetch("SELECT pid FROM pg_stat_activity WHERE backend_type IN ('walwriter', 'background writer')"):
            os.kill(pid, signal.SIGSTOP)
        await mine.write(WriteSet((appending("a", "lost"),), NOW + 1_000))
        _, lost = (await mine._looks.find([at]))[at]
        # Nothing else may take a number, as a notice does: what was written is announced before the server dies, not after.
        await until(lambda: announced(mine))
        server.kill_9()
        server.start()
        theirs = PostgresRecords(await Pool.open(server.url(), PostgresOptions(schema="moved", size=2)), (COUNTERS,))
        await theirs.write(WriteSet((appending("a", "theirs"),), NOW + 1_001))
        _, found = (await theirs._looks.find([at]))[at]
        assert lost == found, "the number was given again"
        await written(mine, appending("a", "mine"))
        counter: Any = await stored(theirs, COUNTERS, "a")
        assert ["first", "theirs", "mine"] == counter["data"]["list"]
        await mine.aclose()
        await theirs.aclose()
    finally:
        server.close()


# --- fewer connections than wanted ----------------------------------------------------------------------------------


async def test_a_pool_makes_do_with_the_connections_it_gets(url: str, database: str, other: Any) -> None:
    """Others may take the server's last connections: calls then share those that are open."""
    await other.execute("DROP ROLE IF EXISTS few")
    await other.execute("CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 3")
    at = servers.postgres18().url(database, user="few", password="few")
    pool = await Pool.open(at, PostgresOptions(size=3))
    taken = [await asyncpg.connect(at) for _ in range(2)]
    try:
        rows = await asyncio.gather(*(pool.fetch("SELECT pg_sleep(0.01)") for _ in range(10)))
        assert 10 == len(rows)
    finally:
        for connection in taken:
            await connection.close()
        await pool.aclose()
        await other.execute("DROP ROLE few")


# --- poolers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError])
def test_a_pooler_that_hides_itself_is_named(error: type[Exception]) -> None:
    made = translate(error("prepared statement __asyncpg_stmt_1__"))
    assert isinstance(made, ConfigError)
    assert "pooler=transaction" in made.hint


# --- names and settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", ["q'uo\"ted;--", "ü" * 31, "a" * 63, "Palaver Schema"])
async def test_a_schema_may_have_any_name(url: str, schema: str, other: Any) -> None:
    engine = await opened(url, schema=schema)
    try:
        await engine.load(NOTES.name, [put_note("u", f"{n}").record for n in range(50)], NOW, Cause())
        waiting = asyncio.create_task(engine.wait_for_change(50, 5))
        second = PostgresRecords(await Pool.open(url, PostgresOptions(schema=schema, size=1)), (NOTES,))
        heard: list[str] = []
        await other.add_listener(engine.feed._channel, lambda *_: heard.append("heard"))
        await written(second, put_note("v", "1", Absent()))
        assert await waiting
        await second.aclose()
        await until(lambda: asyncio.sleep(0, heard))
        assert 51 == (await engine.pool.read(f"SELECT count(*) FROM {engine.names.within(NOTES.name)}"))[0][0]
        assert [] == [finding for finding in await engine.diagnose() if finding.level == "fail"]
        assert (await engine.observe()) is not None
        await isolate(engine.pool, {})
        assert {table.secured for table in await secured_tables(engine.pool, identifier(schema))} == {True}
        assert {table.name for table in (await engine.describe()).tables} == {NOTES.name, COUNTERS.name}
    finally:
        await engine.pool.execute(f"DROP SCHEMA {identifier(schema)} CASCADE")
        await engine.aclose()


@pytest.mark.parametrize("schema", ["", "ü" * 32, "a" * 64])
def test_a_name_the_server_would_cut_off_is_refused(schema: str) -> None:
    with pytest.raises(ConfigError):
        PostgresOptions(schema=schema)


SETTINGS = {
    "default_transaction_isolation": "'serializable'",
    "standard_conforming_strings": "off",
    "datestyle": "German, DMY",
    "timezone": "'Pacific/Chatham'",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "plan_cache_mode": "force_generic_plan",
    "transform_null_equals": "on",
    "client_encoding": "LATIN1",
    "search_path": "nowhere",
    "array_nulls": "off",
}
ODD = "a\\'b\"\\ {é} \\n"


async def test_what_a_role_has_set_changes_nothing(url: str, database: str, other: Any) -> None:
    await other.execute("DROP ROLE IF EXISTS odd")
    await other.execute(f"CREATE ROLE odd LOGIN PASSWORD 'odd'; GRANT CREATE ON DATABASE \"{database}\" TO odd")
    for name, value in SETTINGS.items():
        await other.execute(f"ALTER ROLE odd SET {name} = {value}")
    engine = await opened(servers.postgres18().url(database, user="odd", password="odd"), schema=ODD)
    try:
        data = {"a": [1, 2.5, ODD, 1e300]}
        await written(engine, put_note(ODD, ODD, Absent(), text=ODD, data=data))
        found = await stored(engine, NOTES, ODD, ODD)
        assert found is not None
        assert (ODD, exact(data)) == (found["text"], exact(found["data"]))
        assert [(ODD, ODD)] == [change.key for change in await all_changes(engine)]
        await written(engine, put(COUNTERS, {"name": "c", "hits": 0}))
        count = update(COUNTERS, ("c",), Add(F("hits"), 1), when=[Alive()])
        await asyncio.gather(*(written(engine, count) for _ in range(30)), *(stored(engine, COUNTERS, "c") for _ in range(30)))
        counter: Any = await stored(engine, COUNTERS, "c")
        assert 30 == counter["hits"]
        assert {table.name for table in (await engine.describe()).tables} == {NOTES.name, COUNTERS.name}
    finally:
        await engine.aclose()
        await other.execute("DROP OWNED BY odd CASCADE; DROP ROLE odd")
