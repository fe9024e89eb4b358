"""Places a database of each engine lives in while its schema changes: opened again and again with other declarations."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

from palaver import ManualClock, Schema, Store
from palaver.blobs.objects import ObjectBlobs
from palaver.core import Core
from palaver.cursor import Signer
from palaver.evolve import comparable
from palaver.migrating import Migrator
from palaver.migrating.opening import provision
from palaver.ops import REVISION, Table
from palaver.plan import Planner
from palaver.ports import RecordEngine
from palaver.sealing import Sealer, SealKey
from palaver.search.memory import MemorySearch
from palaver.values import Record
from tests import servers
from tests.stacks import SEAL_KEYS

ENGINES = ("memory", "sqlite", "postgres", "dynamodb")
_NUMBERS = count()
Open = Callable[[Sequence[Table]], Awaitable[RecordEngine]]


def planner_of(schema: Schema) -> Planner:
    """Return a planner that seals alike what is alike, so that two databases can be compared. Nobody else may do that."""
    return Planner(schema, Sealer([SealKey.parse(SEAL_KEYS)], random=bytes))


class Bed:
    """One database. `open` gives an engine for some declarations, and closes the one before."""

    def __init__(self, make: Open, clock: ManualClock) -> None:
        self._make, self.clock = make, clock
        self.engine: RecordEngine | None = None

    async def open(self, tables: Sequence[Table]) -> RecordEngine:
        await self.close()
        self.engine = await self._make(tables)
        return self.engine

    async def close(self) -> None:
        if self.engine is not None:
            await self.engine.aclose()

    async def migrator(self, schema: Schema, **options: Any) -> Migrator:
        planner = planner_of(schema)
        return Migrator(planner, await self.open(tuple(planner.tables.values())), self.clock, **options)

    async def store(self, schema: Schema, *, changing: bool = False) -> Store:
        """Open a store as an application does; nothing runs beside it."""
        planner = planner_of(schema)
        records = await self.open(tuple(planner.tables.values()))
        await provision(planner, records, self.clock, changing=changing)
        blobs, search = ObjectBlobs("memory:"), MemorySearch()
        return Store(
            Core(
                schema,
                planner,
                records,
                blobs,
                search,
                self.clock,
                Signer([b"k" * 32]),
                loop=asyncio.get_running_loop(),
                pid=os.getpid(),
            )
        )

    async def contents(self, schema: Schema, kept: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, list[Record]]]:
        """Return the structure and every record, in an order of their own, without what two databases may differ in."""
        planner = planner_of(schema)
        records = await self.open(tuple(planner.tables.values()))
        left = {table: {name.partition(".")[2] for name in kept if name.startswith(f"{table}.")} for table in planner.tables}
        tables: dict[str, Any] = {}
        for table in (await records.describe()).tables:
            if table.name in planner.tables:
                plain = comparable(table)
                if not records.limits.renames:
                    # What an engine that renames nothing calls the entity is read by nobody.
                    plain["entity"] = planner.tables[table.name].entity
                plain["columns"] = [column for column in plain["columns"] if column["name"] not in left[table.name]]
                tables[table.name] = plain
        return tables, {name: await self._records(records, name, left[name]) for name in planner.tables}

    async def _records(self, records: RecordEngine, table: str, left: set[str]) -> list[Record]:
        found: list[Record] = []
        after = None
        while True:
            page = await records.scan(table, after=after, limit=100)
            found += page.records
            after = page.last
            if after is None:
                break
        mine = [each for each in found if table != "palaver_system" or each["scope"] == "unique"]
        plain = [{name: value for name, value in each.items() if name != REVISION and name not in left} for each in mine]
        return sorted(plain, key=repr)


@asynccontextmanager
async def bed(engine: str, folder: Path, clock: ManualClock) -> AsyncIterator[Bed]:
    """Give an empty database of an engine; skip where its server is not there."""
    async with _WAYS[engine](folder) as make:
        made = Bed(make, clock)
        try:
            yield made
        finally:
            await made.close()


@asynccontextmanager
async def _memory(folder: Path) -> AsyncIterator[Open]:
    from palaver.records.memory import MemoryRecords

    engine = MemoryRecords(())

    async def make(tables: Sequence[Table]) -> RecordEngine:
        return engine

    yield make


@asynccontextmanager
async def _sqlite(folder: Path) -> AsyncIterator[Open]:
    from palaver.connections.sqlite import Database, SqliteOptions
    from palaver.records.sqlite import SqliteRecords

    path = folder / f"{next(_NUMBERS)}.db"

    async def make(tables: Sequence[Table]) -> RecordEngine:
        return SqliteRecords(await Database.open(path, options=SqliteOptions(synchronous="normal")), tables)

    yield make


@asynccontextmanager
async def _postgres(folder: Path) -> AsyncIterator[Open]:
    import asyncpg

    from palaver.connections.postgres import Pool
    from palaver.connections.postgres_options import PostgresOptions
    from palaver.records.postgres import PostgresRecords

    server = servers.postgres18()
    url = server.url(_database())
    options = PostgresOptions(schema=f"evolve {next(_NUMBERS)}", size=2)

    async def make(tables: Sequence[Table]) -> RecordEngine:
        return PostgresRecords(await Pool.open(url, options), tables)

    yield make
    connection = await asyncpg.connect(url)
    await connection.execute(f'DROP SCHEMA IF EXISTS "{options.schema}" CASCADE')
    await connection.close()


@cache
def _database() -> str:
    return servers.postgres18().create_database()


@asynccontextmanager
async def _dynamodb(folder: Path) -> AsyncIterator[Open]:
    from tests.engines.dynamodb import drop, engine_of

    endpoint = servers.endpoint("ministack")
    prefix = f"evolve-{uuid4().hex[:12]}-"

    async def make(tables: Sequence[Table]) -> RecordEngine:
        return await engine_of(endpoint, tables, prefix)

    yield make
    await drop(endpoint, prefix)


_WAYS: dict[str, Any] = {"memory": _memory, "sqlite": _sqlite, "postgres": _postgres, "dynamodb": _dynamodb}
