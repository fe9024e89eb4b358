"""SQL written out is what is applied, and Alembic agrees: run by either, a database has no difference to be found."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import MetaData
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from palaver import ManualClock, Schema
from palaver.blueprints.baller.schema import SCHEMA as BALLER
from palaver.blueprints.simple_agent.schema import SCHEMA as AGENT
from palaver.connections.postgres import Pool
from palaver.connections.postgres_options import PostgresOptions
from palaver.connections.sqlite import Database
from palaver.emit.alembic import revision
from palaver.emit.statements import script
from palaver.evolve import Fill, Migration, Take, comparable, plan_text
from palaver.migrating import Migrator
from palaver.ops import Physical
from palaver.plan import Planner
from palaver.records.postgres import PostgresRecords
from palaver.records.sqlite import SqliteRecords
from tests import servers
from tests.evolve.all_cases import CASES
from tests.evolve.cases import NOW, Case
from tests.evolve.test_interrupted import MUCH

_NUMBERS = count()
CHANGES = [
    case
    for case in CASES
    if case.name
    in (
        "much at once",
        "a renamed field in an index and a unique set",
        "a required field with a value for old records",
        "an integer that becomes a float",
        "a required field that becomes optional",
        "a range",
        "an index of other parts",
        "an expiry",
        "an expiry that goes",
        "a field that goes",
        "a new entity",
        "a table of another name",
        "a class of another name",
    )
]
RUN = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.executescript(sys.stdin.read())
connection.close()
"""


async def made(records: Any, schema: Schema) -> None:
    """Bring an empty database to a version."""
    migrator = Migrator(Planner(schema), records, ManualClock(NOW))
    await migrator.apply(await migrator.pending())


async def planned(records: Any, case: Case) -> tuple[Migration, Physical]:
    migrator = Migrator(Planner(case.new), records, ManualClock(NOW))
    return await migrator.pending(case.allow), await migrator.describe()


def structure(physical: Physical) -> dict[str, Any]:
    return {table.name: comparable(table) for table in physical.tables}


def module(text: str, folder: Path) -> Any:
    """Import a revision file as Alembic does."""
    file = folder / f"revision_{next(_NUMBERS)}.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def upgraded(connection: Connection, text: str, folder: Path, *, back: bool = False) -> None:
    loaded = module(text, folder)
    with Operations.context(MigrationContext.configure(connection)):
        (loaded.downgrade if back else loaded.upgrade)()


def differences(connection: Connection, metadata: MetaData, schema: str | None = None) -> list[Any]:
    options: dict[str, Any] = {"compare_type": True, "include_schemas": schema is not None}
    if schema is not None:
        options["include_name"] = lambda name, kind, parents: kind != "schema" or name == schema
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


# --- SQLite ---------------------------------------------------------------------------------------------------------


async def sqlite(file: Path, schema: Schema) -> SqliteRecords:
    return SqliteRecords(await Database.open(file), tuple(Planner(schema).tables.values()))


async def at_old(file: Path, case: Case) -> tuple[Migration, Physical]:
    records = await sqlite(file, case.old)
    await made(records, case.old)
    await records.aclose()
    records = await sqlite(file, case.new)
    found = await planned(records, case)
    await records.aclose()
    return found


def by_alembic(file: Path, text: str, *, back: bool = False) -> None:
    """Run a revision in a process of its own: two SQLite libraries in one break each other's locks."""
    command = [sys.executable, "-m", "tests.emit.run_revision", str(file), "back" if back else "forth"]
    subprocess.run(command, input=text, text=True, check=True, cwd=Path(__file__).parent.parent.parent, timeout=60)


def by_sqlite(file: Path, text: str) -> None:
    subprocess.run([sys.executable, "-c", RUN, file], input=text, text=True, check=True, timeout=60)


async def described(file: Path, case: Case) -> dict[str, Any]:
    records = await sqlite(file, case.new)
    found = structure(await records.describe())
    await records.aclose()
    return found


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case.name)
async def test_a_revision_makes_what_applying_makes_in_sqlite(case: Case, tmp_path: Path) -> None:
    one, other, third = tmp_path / "one.db", tmp_path / "other.db", tmp_path / "third.db"
    plan, physical = await at_old(one, case)
    await at_old(other, case)
    await at_old(third, case)
    before = await described(other, case)
    records = await sqlite(one, case.new)
    await Migrator(Planner(case.new), records, ManualClock(NOW)).apply(plan)
    await records.aclose()

    text = revision(plan, physical, "sqlite")
    by_alembic(other, text)
    assert await described(one, case) == await described(other, case)
    by_sqlite(third, script(plan, physical, "sqlite"))
    assert await described(one, case) == await described(third, case)
    assert [] == compared(one, other)
    if "cannot be undone" not in text:
        by_alembic(other, text, back=True)
        assert before == await described(other, case)


def compared(one: Path, other: Path) -> list[Any]:
    """Return what Alembic finds different between two files, asked in a process of its own."""
    command = [sys.executable, "-m", "tests.emit.run_revision", str(one), str(other)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent.parent, timeout=60)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database() -> str:
    server = servers.postgres18()
    return server.url(server.create_database())


async def postgres(url: str, name: str, schema: Schema) -> PostgresRecords:
    return PostgresRecords(await Pool.open(url, PostgresOptions(schema=name, size=2)), tuple(Planner(schema).tables.values()))


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case.name)
async def test_a_revision_makes_what_applying_makes_in_postgresql(case: Case, database: str, tmp_path: Path) -> None:
    one, other = (f"emit_{next(_NUMBERS)}" for _ in range(2))
    for name in (one, other):
        records = await postgres(database, name, case.old)
        await made(records, case.old)
        await records.aclose()
    records, beside = await postgres(database, one, case.new), await postgres(database, other, case.new)
    before = structure(await beside.describe())
    plan, _ = await planned(records, case)
    _, physical = await planned(beside, case)
    await Migrator(Planner(case.new), records, ManualClock(NOW)).apply(plan)

    text = revision(plan, physical, "postgresql", other)
    engine = create_async_engine(database.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as connection:
        await connection.run_sync(upgraded, text, tmp_path)
    assert structure(await records.describe()) == structure(await beside.describe())
    async with engine.connect() as connection:
        metadata = MetaData(schema=one)
        await connection.run_sync(metadata.reflect)
        assert [] == await connection.run_sync(differences, metadata, one)
        moved = MetaData()
        for table in metadata.tables.values():
            table.to_metadata(moved, schema=other, referred_schema_fn=lambda *_: other)
        assert [] == await connection.run_sync(differences, moved, other)
    if "cannot be undone" not in text:
        async with engine.begin() as connection:
            await connection.run_sync(lambda sync: upgraded(sync, text, tmp_path, back=True))
        assert before == structure(await beside.describe())
    await engine.dispose()
    for each in (records, beside):
        await each.aclose()


# --- the blueprints -------------------------------------------------------------------------------------------------

BLUEPRINTS = [pytest.param(schema, id=schema.name) for schema in (BALLER, AGENT)]


async def from_nothing(records: Any, schema: Schema) -> tuple[Migration, Physical]:
    migrator = Migrator(Planner(schema), records, ManualClock(NOW))
    return await migrator.pending(), await migrator.describe()


@pytest.mark.parametrize("schema", BLUEPRINTS)
async def test_a_revision_makes_a_blueprint_in_sqlite(schema: Schema, tmp_path: Path) -> None:
    one, other = tmp_path / "one.db", tmp_path / "other.db"
    records = await sqlite(one, schema)
    plan, physical = await from_nothing(records, schema)
    await Migrator(Planner(schema), records, ManualClock(NOW)).apply(plan)
    wanted = structure(await records.describe())
    await records.aclose()
    by_alembic(other, revision(plan, physical, "sqlite"))
    records = await sqlite(other, schema)
    assert wanted == structure(await records.describe())
    assert not [action for action in (await from_nothing(records, schema))[0].actions if isinstance(action, Take)]
    await records.aclose()
    assert [] == compared(one, other)


@pytest.mark.parametrize("schema", BLUEPRINTS)
async def test_a_revision_makes_a_blueprint_in_postgresql(schema: Schema, database: str, tmp_path: Path) -> None:
    """Partitions, sealed columns and foreign keys included; the parts themselves are made by time, by whoever opens it next."""
    one, other = (f"emit_{next(_NUMBERS)}" for _ in range(2))
    records, beside = await postgres(database, one, schema), await postgres(database, other, schema)
    plan, _ = await from_nothing(records, schema)
    _, physical = await from_nothing(beside, schema)
    await Migrator(Planner(schema), records, ManualClock(NOW)).apply(plan)
    engine = create_async_engine(database.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as connection:
        await connection.run_sync(upgraded, revision(plan, physical, "postgresql", other), tmp_path)
    found = await beside.describe()
    assert structure(await records.describe()) == structure(found)
    ranges = {table.name: table.ranges for table in Planner(schema).tables.values() if table.ranges is not None}
    assert ranges == {table.name: table.ranges for table in found.tables if table.ranges is not None}
    assert not [action for action in (await from_nothing(beside, schema))[0].actions if isinstance(action, Take)]
    await Migrator(Planner(schema), beside, ManualClock(NOW)).apply((await from_nothing(beside, schema))[0])
    async with engine.connect() as connection:
        for mine, theirs in ((one, other), (other, one)):
            metadata = MetaData(schema=mine)
            await connection.run_sync(metadata.reflect)
            moved = MetaData()
            for table in metadata.tables.values():
                table.to_metadata(moved, schema=theirs, referred_schema_fn=lambda *_, theirs=theirs: theirs)
            assert [] == await connection.run_sync(differences, moved, theirs)
    await engine.dispose()
    for each in (records, beside):
        await each.aclose()


# --- what it looks like ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_the_texts_of_a_migration(golden: Callable[[str, str], None], dialect: Any) -> None:
    from palaver.evolve import migration

    before = Physical(tuple(Planner(MUCH.old).tables.values()))
    kept = {"name": "s", "version": 1, "fingerprint": MUCH.old.fingerprint, "snapshot": json.loads(json.dumps(MUCH.old.snapshot()))}
    plan = migration(Planner(MUCH.new), before, kept, allow=MUCH.allow)
    golden(f"emit/much.{dialect}.sql", script(plan, before, dialect))
    golden(f"emit/much.{dialect}.alembic.py.txt", revision(plan, before, dialect, down="abc"))
    golden("emit/much.plan.json", plan_text(plan))
    assert any(isinstance(action, Fill) for action in plan.actions)
    assert sum(isinstance(action, Take) for action in plan.actions) > 10
