"""What PostgreSQL keeps of a person who was erased: what the receipt says, and no more once that was done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

import palaver
from palaver.lifecycle.erase import erase, remaining
from palaver.records.postgres import REWRITE
from tests import servers
from tests.lifecycle.app import SCHEMA
from tests.lifecycle.people import DOOMED, canary, found_in, write_person
from tests.lifecycle.test_erase import ALL


@pytest.fixture
def server() -> Iterator[servers.Postgres]:
    made = servers.start_postgres(wal_recycle="off", autovacuum="off")
    yield made
    made.close()


def opening(server: servers.Postgres, name: str, folder: Path) -> AbstractAsyncContextManager[palaver.Store]:
    return palaver.open(f"{server.url(name)}?blobs=file:{folder}/blobs", schema=SCHEMA, maintain=False, migrate=True)


async def test_what_stays_of_the_erased_is_said_and_ends_as_it_is_said(server: servers.Postgres, tmp_path: Path) -> None:
    name = server.create_database()
    async with opening(server, name, tmp_path) as store:
        await write_person(store, DOOMED, canary)
        await store.settle(10)
        await erase(store, DOOMED, policy=ALL)
        (said,) = remaining(store)
    assert said.endswith(REWRITE)
    server.sql("CHECKPOINT")
    assert found_in(server.data / "base"), "the tables were written anew by themselves: the sentence is wrong"
    assert found_in(server.data / "pg_wal")
    for statement in REWRITE.split(";")[:-1]:
        server.sql(statement, database=name)
    assert {} == found_in(server.data)
    assert {} == found_in(tmp_path)
