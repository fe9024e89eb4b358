"""The PostgreSQL servers are what the tests take them for."""

from __future__ import annotations

import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.servers import Database, PgBouncer, Postgres


@pytest.fixture
def own() -> Iterator[Postgres]:
    server = servers.start_postgres()
    yield server
    server.close()


def test_postgres_18_has_pgvector(postgres18: Database) -> None:
    name = postgres18.create_database()
    try:
        postgres18.sql("CREATE EXTENSION vector", database=name)
        assert "5" == postgres18.sql("SELECT '[0,3]'::vector <-> '[4,0]'", database=name)
        assert postgres18.version.startswith("18.")
    finally:
        postgres18.drop_database(name)


def test_postgres_15_is_the_floor_without_pgvector(postgres15: Database) -> None:
    assert postgres15.version.startswith("15.")
    assert "0" == postgres15.sql("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'")


def test_postgres_15_sorts_by_a_language_where_nobody_says_otherwise(postgres15: Database) -> None:
    assert "f|t" == postgres15.sql("SELECT 'Z' < 'a', 'Z' < ('a' COLLATE \"C\")")


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
def test_writes_are_as_durable_as_by_default(postgres18: Database, postgres15: Database, setting: str) -> None:
    assert ["on", "on"] == [server.sql(f"SHOW {setting}") for server in (postgres18, postgres15)]


def test_two_databases_know_nothing_of_each_other(postgres18: Database) -> None:
    one, other = postgres18.create_database(), postgres18.create_database()
    try:
        postgres18.sql("CREATE TABLE here (x int)", database=one)
        assert ["here", ""] == [postgres18.sql("SELECT to_regclass('here')", database=name) for name in (one, other)]
    finally:
        postgres18.drop_database(one)
        postgres18.drop_database(other)


def test_a_database_made_from_a_template_has_what_is_in_it(postgres18: Database) -> None:
    template = postgres18.create_database()
    postgres18.sql("CREATE TABLE kept AS SELECT 7 AS x", database=template)
    copy = postgres18.create_database(template)
    try:
        assert "7" == postgres18.sql("SELECT x FROM kept", database=copy)
    finally:
        postgres18.drop_database(copy)
        postgres18.drop_database(template)


def test_a_wrong_password_is_refused(postgres18: Database) -> None:
    shown = subprocess.run(
        [str(postgres18._psql), postgres18.url(), "-c", "SELECT 1"],
        env=os.environ | {"PGPASSWORD": "ignored"},
        capture_output=True,
        text=True,
    )
    assert 0 == shown.returncode
    refused = subprocess.run([str(postgres18._psql), postgres18.url(password="wrong"), "-c", "SELECT 1"], capture_output=True, text=True)
    assert "password authentication failed" in refused.stderr


def test_what_was_acknowledged_is_there_after_a_kill_and_a_restart(own: Postgres, tmp_path: Path) -> None:
    own.sql("CREATE TABLE kept (n int)")
    work = tmp_path / "work.sql"
    work.write_text("".join(f"INSERT INTO kept VALUES ({n}) RETURNING n;\n" for n in range(20_000)), encoding="utf-8")
    command = [str(own._psql), own.url(), "-qAt", "-v", "ON_ERROR_STOP=1", "-f", str(work)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        acknowledged = [int(client.stdout.readline()) for _ in range(50)]
        own.kill_9()
        acknowledged += [int(line) for line in client.stdout.read().split()]
    assert len(acknowledged) < 20_000, "the server was not killed while it worked"
    own.start()
    stored = int(own.sql("SELECT count(*) FROM kept"))
    assert acknowledged[-1] < stored <= acknowledged[-1] + 2
    own.restart()
    assert stored == int(own.sql("SELECT count(*) FROM kept"))


def test_a_kill_leaves_none_of_the_server_s_processes(own: Postgres) -> None:
    with subprocess.Popen([str(own._psql), own.url(), "-c", "SELECT pg_sleep(600)"], stderr=subprocess.PIPE) as client:
        while own.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%'") != "2":
            time.sleep(0.01)
        own.kill_9()
        client.communicate(timeout=10)
    running = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout
    assert str(own.data) not in running


def test_tls_is_there_with_a_certificate_that_can_be_checked() -> None:
    server = servers.postgres15()
    if not isinstance(server, Postgres) or server.certificate is None:
        pytest.skip("this server has no certificate of ours")
    url = f"{server.url()}?sslmode=verify-full&sslrootcert={server.certificate}"
    shown = subprocess.run(
        [str(server._psql), url, "-Atc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"], capture_output=True, text=True
    )
    if "not compiled" in shown.stderr or "sslmode" in shown.stderr:
        pytest.skip("this psql knows no TLS")
    assert "t" == shown.stdout.strip(), shown.stderr
    assert ssl.create_default_context(cafile=str(server.certificate)).get_ca_certs()


def test_behind_the_pooler_a_connection_keeps_nothing_between_transactions(pgbouncer: PgBouncer) -> None:
    asked = "BEGIN; SELECT pg_backend_pid(); SELECT pg_sleep(0.3); COMMIT; SELECT pg_backend_pid()"
    shown = [
        subprocess.Popen([str(pgbouncer._psql), pgbouncer.url(), "-qAtc", asked], stdout=subprocess.PIPE, text=True) for _ in range(12)
    ]
    backends = {line for client in shown for line in client.communicate(timeout=30)[0].split()}
    assert 1 <= len(backends) <= 4
