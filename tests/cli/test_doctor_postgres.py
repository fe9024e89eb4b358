"""`palaver doctor` on PostgreSQL: every finding is made to happen on a real server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

import palaver
from palaver.blueprints.baller import SCHEMA
from palaver.connections.postgres import Pool
from palaver.connections.postgres_options import PostgresOptions
from palaver.records.postgres_doctor import Doctor
from palaver.records.postgres_names import Names
from tests import servers
from tests.cli.conftest import Palaver


@pytest.fixture(params=["18", "15"])
def server(request: pytest.FixtureRequest) -> servers.Database:
    return servers.postgres18() if request.param == "18" else servers.postgres15()


@pytest.fixture
def name(server: servers.Database) -> str:
    """A database of the test's own with Baller's tables."""
    made = server.create_database()

    async def open() -> None:
        async with palaver.open(f"{server.url(made)}?blobs=memory:", schema=SCHEMA, maintain=False, migrate=True):
            pass

    asyncio.run(open())
    return made


@asynccontextmanager
async def examined(url: str, **options: Any) -> AsyncIterator[dict[str, Any]]:
    pool = await Pool.open(url, PostgresOptions(**options))
    try:
        yield {finding.check: finding for finding in await Doctor(pool, Names("public"), {}).diagnose()}
    finally:
        await pool.aclose()


async def found(url: str, check: str, **options: Any) -> tuple[str, str, str]:
    """Return level, text and remedy of one check."""
    async with examined(url, **options) as findings:
        finding = findings[check]
        return finding.level, finding.seen, finding.fix


def test_a_sound_database_is_well(palaver: Palaver, server: servers.Database, name: str) -> None:
    ran = palaver("doctor", "-u", f"{server.url(name)}?blobs=memory:", "--blueprint", "baller")
    checks = {check["check"]: check for check in ran.json["checks"]}
    assert "ok" == checks["server"]["level"]
    assert "PostgreSQL" in checks["server"]["seen"]
    assert {"encoding", "rights", "collation", "durability", "feed", "positions", "connections", "schema", "clock"} <= set(checks)
    assert [] == [check for check in ran.json["checks"] if check["level"] != "ok"], ran.json
    assert 0 == ran.code


def test_a_server_that_is_away_and_a_wrong_password_are_named_without_the_password(palaver: Palaver, server: servers.Database) -> None:
    ran = palaver("doctor", "-u", "postgresql://u:s3cret@127.0.0.1:1/db?connect_timeout=1", "--blueprint", "baller")
    assert 2 == ran.code
    assert "reached" in ran.json["checks"][-1]["seen"]
    assert "s3cret" not in ran.out + ran.err
    missing = palaver("doctor", "-u", server.url("nowhere"), "--blueprint", "baller")
    assert 2 == missing.code
    assert "no such database" in missing.json["checks"][-1]["seen"]


def test_a_place_for_objects_that_the_url_does_not_name_is_told(palaver: Palaver, server: servers.Database, name: str) -> None:
    ran = palaver("doctor", "-u", server.url(name), "--blueprint", "baller")
    assert "option blobs" in {check["check"] for check in ran.json["checks"] if check["level"] == "warn"}


@pytest.fixture
def clerk(server: servers.Database, name: str) -> Iterator[str]:
    """A user without any right of its own; gives the address."""
    user = f"clerk_{secrets.token_hex(4)}"
    server.sql(f"CREATE ROLE {user} LOGIN PASSWORD 'pw'")
    server.sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC", database=name)
    yield server.url(name, user=user, password="pw")
    server.sql(f"DROP OWNED BY {user}", database=name)
    server.sql(f"DROP ROLE {user}")


async def test_missing_rights_are_named_with_the_grant_that_gives_them(server: servers.Database, name: str, clerk: str) -> None:
    user = clerk.partition("//")[2].partition(":")[0]
    level, seen, fix = await found(clerk, "rights")
    assert "fail" == level
    assert "lacks DELETE, INSERT, SELECT, UPDATE" in seen
    assert "GRANT SELECT, INSERT, UPDATE, DELETE" in fix
    server.sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}", database=name)
    level, seen, _ = await found(clerk, "rights")
    assert ("warn", True) == (level, "no right to create" in seen)
    server.sql("REVOKE USAGE ON SCHEMA public FROM PUBLIC", database=name)
    level, _, fix = await found(clerk, "rights")
    assert ("fail", True) == (level, "GRANT USAGE" in fix)


async def test_a_column_out_of_byte_order_is_found(server: servers.Database, name: str) -> None:
    url = server.url(name)
    assert "ok" == (await found(url, "collation"))[0]
    server.sql('ALTER TABLE "baller-feedback" ALTER COLUMN user_id TYPE text COLLATE "default"', database=name)
    level, seen, fix = await found(url, "collation")
    assert "fail" == level
    assert "byte order" in seen
    assert 'COLLATE "C"' in fix


async def test_an_index_that_was_not_built_to_its_end_is_found(server: servers.Database, name: str) -> None:
    connection = await asyncpg.connect(server.url(name))
    try:
        await connection.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = (SELECT indexrelid FROM pg_index i"
            " JOIN pg_class c ON c.oid = i.indrelid WHERE c.relname = 'baller-messages' AND NOT i.indisprimary LIMIT 1)"
        )
    finally:
        await connection.close()
    assert ("fail", "Run `palaver migrate apply`.") == (await found(server.url(name), "indexes"))[::2]


async def test_a_transaction_that_holds_the_feed_back_is_named(
    server: servers.Database, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palaver.records.postgres_doctor.HELD_S", -1)
    connection = await asyncpg.connect(server.url(name))
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.fetchval("SELECT pg_current_xact_id()")
        level, seen, fix = await found(server.url(name), "feed")
        pid = connection.get_server_pid()
        assert ("warn", f"End it: SELECT pg_terminate_backend({pid}).") == (level, fix)
        assert "idle in transaction" in seen
        await transaction.rollback()
    finally:
        await connection.close()


async def test_positions_that_would_be_given_again_are_found(server: servers.Database, name: str) -> None:
    server.sql(
        "INSERT INTO palaver_changes (position, revision, entity, kind, key) VALUES (9000000000000000000, 1, 1, 0, '{a}')", database=name
    )
    level, seen, _ = await found(server.url(name), "positions")
    assert ("fail", True) == (level, "before old ones" in seen)


async def test_commits_that_are_not_durable_are_told(server: servers.Database, name: str) -> None:
    server.sql(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    level, seen, fix = await found(server.url(name), "durability")
    assert ("warn", "Set synchronous_commit = on.") == (level, fix)
    assert "power cut" in seen


async def test_a_pool_for_which_there_is_no_room_is_told(server: servers.Database, name: str) -> None:
    assert "room for" in (await found(server.url(name), "connections", size=4))[1]
    assert "warn" == (await found(server.url(name), "connections", size=97))[0]


async def test_another_encoding_is_found(server: servers.Database) -> None:
    made = f"latin_{secrets.token_hex(4)}"
    server.sql(f"CREATE DATABASE {made} ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0")
    try:
        level, seen, fix = await found(server.url(made), "encoding")
    finally:
        server.drop_database(made)
    assert ("fail", "the database is encoded as LATIN1") == (level, seen)
    assert "UTF8" in fix


async def test_a_clock_that_differs_is_told(server: servers.Database, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from palaver.records import postgres_doctor

    class Slow:
        @staticmethod
        def time() -> float:
            return time.time() - 100

    monkeypatch.setattr(postgres_doctor, "time", Slow)
    level, seen, _ = await found(server.url(name), "server clock")
    assert "warn" == level
    assert seen.startswith("it is +100") or seen.startswith("it is +99") or seen.startswith("it is +101")


async def test_a_slot_that_nobody_reads_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    server = servers.start_postgres(wal_level="logical")
    try:
        name = server.create_database()
        server.sql("SELECT pg_create_physical_replication_slot('forgotten', true)")
        server.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) n", database=name)
        monkeypatch.setattr("palaver.records.postgres_doctor.SLOT_BYTES", 1)
        level, seen, fix = await found(server.url(name), "replication")
        assert "warn" == level
        assert "forgotten" in seen
        assert "pg_drop_replication_slot" in fix
        server.sql("ALTER SYSTEM SET fsync = off")
        server.sql("SELECT pg_reload_conf()")
        assert ("fail", "Set fsync = on.") == (await found(server.url(name), "durability"))[::2]
    finally:
        server.close()


async def test_a_pooler_is_seen(server: servers.Database) -> None:
    bouncer = servers.pgbouncer()
    name = servers.postgres18().create_database()
    level, seen, _ = await found(bouncer.url(name), "server")
    assert "ok" == level
    assert "transaction pooler" in seen


def test_a_migration_that_is_pending_is_told(palaver: Palaver, server: servers.Database, name: str) -> None:
    (index,) = server.sql("SELECT indexname FROM pg_indexes WHERE indexname LIKE '%IntentIndex'", database=name).splitlines()
    server.sql(f'DROP INDEX "{index}"', database=name)
    ran = palaver("doctor", "-u", f"{server.url(name)}?blobs=memory:", "--blueprint", "baller")
    (schema,) = [check for check in ran.json["checks"] if check["check"] == "schema"]
    assert ("warn", "Run `palaver migrate apply`.") == (schema["level"], schema["fix"])
    assert "IntentIndex" in schema["seen"]


async def test_a_standby_takes_no_writes(server: servers.Database, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a standby answers, and a server that is too old: neither is started here, so their answer stands in."""
    pool = await Pool.open(server.url(name), PostgresOptions())
    try:
        doctor = Doctor(pool, Names("public"), {})
        asked = doctor._row

        async def standby(text: str, *arguments: Any) -> Any:
            return ("18.1", True) if "pg_is_in_recovery" in text else await asked(text, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(doctor, "_row", standby)
            assert ("fail", "Name the primary in the URL.") == ((found := await doctor._server()).level, found.fix)
        monkeypatch.setattr(pool, "version", 140_011)
        assert ("fail", "Update the server to 15 or newer.") == ((found := await doctor._server()).level, found.fix)
    finally:
        await pool.aclose()


async def test_extensions_are_told_and_none_is_required(server: servers.Database, name: str) -> None:
    level, seen, _ = await found(server.url(name), "extensions")
    assert ("ok", True) == (level, seen.endswith("none is required"))
    available = server.sql("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'", database=name) != "0"
    assert available == ("no vector" not in seen)
