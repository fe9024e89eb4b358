"""The record suite on PostgreSQL 18 and 15, and through a transaction pooler; the backdoor is a connection of its own.

Every engine gets a schema of its own in one database of the test run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

import asyncpg

from palaver.connections.postgres import Pool
from palaver.connections.postgres_options import PostgresOptions
from palaver.ops import Address, CreateTable, Ranges, Table
from palaver.ports import RecordEngine
from palaver.records.postgres import PostgresRecords
from palaver.records.postgres_names import identifier
from palaver.records.postgres_partitions import add
from palaver.testing import RecordEngineTests
from palaver.testing.records.base import BY_NAME
from palaver.values import Record
from tests import servers
from tests.engines.postgres_roles import OWNER, Owned


@cache
def database(server: Callable[[], servers.Database]) -> str:
    return server().create_database()


class TestPostgres18(RecordEngineTests):
    server = staticmethod(servers.postgres18)
    behind: Any = None
    options_too: Mapping[str, Any] = MappingProxyType({})

    def url(self) -> str:
        """Return the address of the run's database, through the pooler where there is one."""
        name = database(type(self).server)
        return (type(self).behind or type(self).server)().url(name)

    @asynccontextmanager
    async def make(self, tables: Sequence[Table]) -> AsyncIterator[RecordEngine]:
        self.options = PostgresOptions(schema=f"suite {type(self).__name__} {hash(tuple(tables)) & 0xFFFF}", size=4, **self.options_too)
        engine = PostgresRecords(await Pool.open(self.url(), self.options), tables)
        self.opened: list[PostgresRecords] = [engine]
        await self.empty(engine, tables)
        try:
            yield engine
        finally:
            for each in self.opened:
                await each.aclose()

    async def empty(self, engine: PostgresRecords, tables: Sequence[Table]) -> None:
        """Leave the schema as if it were new; making it anew for every test costs ten times as much."""
        if {table.name: table for table in (await engine.describe()).tables} == {table.name: table for table in tables}:
            made = [engine.names.within(table.name) for table in tables]
            texts = [f"DELETE FROM {name}" for name in [*made, engine.names.changes]]
            texts.append(f"DELETE FROM {engine.names.meta} WHERE name IN ('trimmed', 'version', 'fingerprint')")
            await engine.pool.execute("; ".join(texts))
            return
        await engine.pool.execute(f"DROP SCHEMA IF EXISTS {identifier(self.options.schema)} CASCADE")
        for table in tables:
            await engine.apply(CreateTable(table))

    def backdoor_url(self) -> str:
        return type(self).server().url(database(type(self).server))

    async def backdoor(self, text: str, *arguments: object) -> list[Any]:
        connection = await asyncpg.connect(self.backdoor_url())
        try:
            return await connection.fetch(text, *arguments)  # type: ignore[no-any-return]
        finally:
            await connection.close()

    async def raw_get(self, engine: Any, at: Address) -> Mapping[str, object] | None:
        table = BY_NAME[at.table]
        where = " AND ".join(f"{identifier(name)} = ${n + 1}" for n, name in enumerate(table.key))
        rows = await self.backdoor(f"SELECT * FROM {engine.names.within(table.name)} WHERE {where}", *at.key)
        return dict(rows[0]) if rows else None

    async def raw_put(self, engine: Any, table: Table, record: Record) -> None:
        names, marks = ", ".join(map(identifier, record)), ", ".join(f"${n + 1}" for n in range(len(record)))
        await self.backdoor(f"INSERT INTO {engine.names.within(table.name)} ({names}) VALUES ({marks})", *record.values())

    async def reopen(self, engine: Any) -> RecordEngine:
        await engine.aclose()
        again = PostgresRecords(await Pool.open(self.url(), self.options), tuple(BY_NAME.values()))
        self.opened.append(again)
        return again


@cache
def owned(server: Callable[[], servers.Database]) -> Owned:
    return Owned(server())


class TestIsolated18(TestPostgres18):
    """With row-level security on every table, as the role that owns them: superusers would not be held to it anyway."""

    options_too = MappingProxyType({"rls": True})

    def url(self) -> str:
        return owned(type(self).server).url(OWNER)

    def backdoor_url(self) -> str:
        return owned(type(self).server).server.url(owned(type(self).server).name)

    @asynccontextmanager
    async def make(self, tables: Sequence[Table]) -> AsyncIterator[RecordEngine]:
        tenanted = [replace(table, tenant=_first_text(table)) for table in tables]
        async with super().make(tenanted) as engine:
            yield engine
            assert isinstance(engine, PostgresRecords)
            open_tables = f"SELECT count(*) FROM pg_class WHERE relnamespace = '{identifier(self.options.schema)}'::regnamespace"
            assert [0] == [row[0] for row in await self.backdoor(f"{open_tables} AND relkind = 'r' AND NOT relrowsecurity")]


def _first_text(table: Table) -> str | None:
    kinds = {column.name: column.kind for column in table.columns}
    return next((name for name in table.partition if kinds[name] == "text"), None)


class TestPostgres15(TestPostgres18):
    server = staticmethod(servers.postgres15)


# Which column of the suite's tables tells a time, as far as the engine knows, and the bounds of parts beside the rest.
PARTS: Mapping[str, tuple[Ranges, Sequence[tuple[str, str]]]] = {
    "suite-notes": (Ranges("id", "month", "uuid7"), [("'0'", "'3'"), ("'3'", "'b'"), ("'n'", "'x'")]),
    "suite-counters": (Ranges("name", "month", "uuid7"), [("'a'", "'b'"), ("'b'", "'d'")]),
    "suite-ints": (Ranges("n", "month", "ms"), [("-3", "2"), ("2", "50")]),
    "suite.Wide_Table": (Ranges("day", "month", "s"), [("0", "2"), ("2", "3")]),
    "suite-numbers": (Ranges("n", "month", "ms"), [("0", "10")]),
}


class TestPartitioned18(TestPostgres18):
    """Tables kept in parts: whatever a table of its own promises, records in several parts and in the rest do."""

    @asynccontextmanager
    async def make(self, tables: Sequence[Table]) -> AsyncIterator[RecordEngine]:
        parted = [replace(table, ranges=PARTS[table.name][0] if table.name in PARTS else None) for table in tables]
        async with super().make(parted) as engine:
            yield engine

    async def empty(self, engine: PostgresRecords, tables: Sequence[Table]) -> None:
        await super().empty(engine, tables)
        for table in tables:
            for number, (low, high) in enumerate(PARTS[table.name][1] if table.name in PARTS else ()):
                await add(engine.pool, engine.names, table, f"{table.name}::{number}", low, high)


class TestPartitioned15(TestPartitioned18):
    server = staticmethod(servers.postgres15)


class TestPgBouncer(TestPostgres18):
    """Behind a transaction pooler: no prepared statements by name, nothing that outlives a transaction."""

    behind = staticmethod(servers.pgbouncer)
