"""Simple AI Agent's design as written: what is wrong with it, finding by finding, tried on real servers; and that nothing was left out."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from palaver.blueprints.simple_agent import SCHEMA
from palaver.connections.redis import RedisClient, encode
from palaver.connections.redis_options import parse_redis_url
from palaver.design import Design
from palaver.design_sql import diagnose_keys, diagnose_settings, diagnose_sql, tables
from tests import servers
from tests.servers.redis import binary

HERE = Path(__file__).parent
SQL, KEYS, SETTINGS = ((HERE / f"simple_agent.{end}").read_text(encoding="utf-8") for end in ("sql", "redis", "conf"))
DESIGN = Design.model_validate_json((HERE / "simple_agent.json").read_text(encoding="utf-8"))

IN_SQL = {
    "index_in_table": [
        "users.idx_users_channel",
        "conversations.idx_conversations_user",
        "conversations.idx_conversations_activity",
        "conversations.idx_conversations_active",
        "messages.idx_messages_conversation",
        "messages.idx_messages_timestamp",
    ],
    "index_twice": ["users.idx_users_channel"],
    "one_channel_a_person": ["users"],
    "column_repeated": ["conversations.channel_type"],
    "state_without_unique": ["conversations.is_active"],
    "clock_orders": ["messages.timestamp"],
    "updated_at_stays": ["users.updated_at", "channel_configs.updated_at"],
    "roles_missing": ["messages.role"],
    "one_tenant": ["channel_configs.channel_type"],
    "name_cast": ["information_schema.tables"],
    "column_unknown": ["pg_stat_user_indexes"],
}
IN_KEYS = {
    "expiry_apart": ["session", "rate:user", "rate:ip", "active", "context"],
    "identity_as_key": ["session"],
    "copy_without_version": ["session"],
    "window_at_the_edge": ["rate:user", "rate:ip"],
    "address_trusted": ["rate:ip"],
    "members_expire_together": ["active"],
    "newest_first": ["context"],
    "partial_list": ["context"],
    "flag_evictable": ["features"],
    "grows_forever": ["ab_test"],
}
IN_SETTINGS = {
    "not_durable": ["appendfsync"],
    "evicts_everything": ["maxmemory-policy"],
    "comment_in_value": ["save 900 1", "save 300 10", "save 60 10000"],
}

MOVED = {
    "users.channel_type": "identities.channel_type",
    "users.channel_user_id": "identities.channel_user_id",
    "users.username": "identities.username",
    "channel_configs.id": "the key, which is tenant and channel",
}
"""Attributes that are in another place."""

REPLACED = {
    "idx_users_channel": "the key of identities",
    "idx_messages_conversation": "the key of messages, whose ids grow with time",
}


@pytest.mark.parametrize(
    ("found", "expected"),
    [(diagnose_sql(SQL), IN_SQL), (diagnose_keys(KEYS), IN_KEYS), (diagnose_settings(SETTINGS), IN_SETTINGS)],
    ids=["tables", "keys", "settings"],
)
def test_the_design_has_exactly_these_flaws(found: list[Any], expected: dict[str, list[str]]) -> None:
    assert {(code, where) for code, places in expected.items() for where in places} == {(each.code, each.where) for each in found}
    assert len(found) == sum(len(places) for places in expected.values())
    assert all(each.reason.endswith(".") and each.remedy.endswith(".") for each in found)


def test_a_design_without_flaws_has_no_findings() -> None:
    assert [] == diagnose_sql("CREATE TABLE notes (\n    id UUID PRIMARY KEY,\n    text TEXT NOT NULL\n);\n")
    assert [] == diagnose_keys("ZADD active:discord 1 user123\n# EXPIRE is not needed\n")
    assert [] == diagnose_settings("maxmemory-policy volatile-lru\n# a comment\nsave 900 1\n")


# --- nothing was left out ---------------------------------------------------------------------------------------------


def test_the_tables_of_the_page_are_those_of_the_text() -> None:
    def said(found: list[Any]) -> list[Any]:
        return [
            (each.name, {name: each.attributes[name].type for name in each.attributes}, {i.name for i in each.indexes}) for each in found
        ]

    assert said(tables(SQL)) == said(DESIGN.tables)


@pytest.mark.parametrize("table", DESIGN.tables, ids=lambda table: table.name)
def test_every_table_attribute_and_index_of_the_design_is_declared(table: Any) -> None:
    declared = SCHEMA.tables[table.name]
    assert {index.name for index in table.indexes} - set(REPLACED) <= {index.name for index in declared.table.indexes}
    for name in table.attributes:
        moved = MOVED.get(f"{table.name}.{name}", "")
        other, _, attribute = moved.partition(".")
        if attribute:
            assert attribute in SCHEMA.tables[other].by_stored
        else:
            assert moved or name in declared.by_stored, name


def test_the_schema_as_built_has_no_findings() -> None:
    assert () == SCHEMA.diagnostics


# --- tried ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def connected(server: servers.Database) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(server.url(server.create_database()))
    try:
        yield connection
    finally:
        await connection.close()


async def test_three_of_four_tables_are_not_made_by_postgresql(postgres18: servers.Database) -> None:
    statements = re.findall(r"CREATE TABLE .*?\n\);", SQL, re.DOTALL)
    made = []
    async with connected(postgres18) as connection:
        for statement in statements:
            try:
                await connection.execute(statement)
            except asyncpg.SyntaxOrAccessError:
                continue
            made.append(statement.split()[2])
    assert (4, ["channel_configs"]) == (len(statements), made)


async def test_the_monitoring_queries_fail_in_postgresql(postgres18: servers.Database) -> None:
    async with connected(postgres18) as connection:
        await _fail(connection)


async def _fail(connection: Any) -> None:
    await connection.execute('CREATE SCHEMA other; CREATE TABLE other."Odd ""Name""" (id int); CREATE TABLE "Odd" (id int)')
    queries = [text[text.index("SELECT") :] for text in SQL.split(";") if "pg_stat" in text or "regclass" in text]
    assert 3 == len(queries)
    assert 1 == len(await connection.fetch(queries[0]))
    with pytest.raises(asyncpg.UndefinedTableError):
        await connection.fetch(queries[1])
    with pytest.raises(asyncpg.UndefinedColumnError):
        await connection.fetch(queries[2])


async def test_rows_of_one_transaction_have_one_instant(postgres18: servers.Database) -> None:
    async with connected(postgres18) as connection, connection.transaction():
        await connection.execute("CREATE TABLE m (id uuid DEFAULT gen_random_uuid(), timestamp timestamptz DEFAULT CURRENT_TIMESTAMP)")
        await connection.execute("INSERT INTO m DEFAULT VALUES")
        await connection.execute("INSERT INTO m DEFAULT VALUES")
        assert 1 == await connection.fetchval("SELECT count(DISTINCT timestamp) FROM m")


Said = Callable[[str], Awaitable[Any]]


@pytest.fixture
async def raw(redis: servers.Redis) -> AsyncIterator[Said]:
    """The design's own commands, on a database of a real server that nobody else uses."""
    client = RedisClient(parse_redis_url(redis.url.removesuffix("/0") + "/9"))
    await client.write(encode("FLUSHDB"))

    async def say(command: str) -> Any:
        return await client.write(encode(*command.split()))

    yield say
    await client.write(encode("FLUSHDB"))
    await client.aclose()


async def test_the_context_of_the_design_is_backwards_and_partial_and_doubled(raw: Said) -> None:
    for text in ("first", "second"):
        await raw(f"LPUSH context:conv:xyz {text}")
    assert [b"second", b"first"] == await raw("LRANGE context:conv:xyz 0 19")
    await raw("PEXPIRE context:conv:xyz 1")
    await asyncio.sleep(0.01)
    await raw("LPUSH context:conv:xyz third")
    assert [b"third"] == await raw("LRANGE context:conv:xyz 0 19")
    await raw("LPUSH context:conv:xyz third")
    assert [b"third", b"third"] == await raw("LRANGE context:conv:xyz 0 19")


async def test_members_of_the_design_leave_all_together_or_never(raw: Said) -> None:
    await raw("SADD active:discord user123")
    await raw("EXPIRE active:discord 100")
    await raw("SADD active:discord user456")
    assert 100 >= await raw("TTL active:discord")
    await raw("EXPIRE active:discord 300")
    assert 1 == await raw("SISMEMBER active:discord user123")


async def test_a_counter_of_the_design_that_loses_its_second_command_never_ends(raw: Said) -> None:
    await raw("INCR rate:user:123:minute")
    assert -1 == await raw("TTL rate:user:123:minute")


async def test_a_session_of_the_design_that_loses_its_last_command_never_ends(raw: Said) -> None:
    for name, value in (("user_id", "abc"), ("conversation_id", "xyz"), ("model", "gpt-4"), ("last_activity", "now")):
        await raw(f"HSET session:discord:user123 {name} {value}")
        assert -1 == await raw("TTL session:discord:user123")


def test_a_server_does_not_start_with_the_settings_of_the_design(tmp_path: Path) -> None:
    (tmp_path / "redis.conf").write_text(SETTINGS, encoding="utf-8")
    told = subprocess.run(
        [binary(), str(tmp_path / "redis.conf"), "--port", "0", "--dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert 0 != told.returncode
    assert "save" in told.stdout + told.stderr


def test_every_chapter_of_the_design_is_read() -> None:
    def names() -> Iterator[str]:
        yield from (chapter.kind for chapter in DESIGN.chapters)

    assert ["use", "key", "setting", "query", "practice", "claim", "trouble", "plan"] == list(names())
