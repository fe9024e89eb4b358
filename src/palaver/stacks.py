"""The stacks a URL can name, each put together from its engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from palaver.clock import Clock
from palaver.config import Stack, beside
from palaver.errors import ConfigError
from palaver.ops import Table
from palaver.ports import SearchIndex
from palaver.url import Url, parse_url

if TYPE_CHECKING:
    from palaver.connections.postgres import Pool
    from palaver.connections.sqlite import Database as SqliteDatabase

T = TypeVar("T", bound=str)


def _flag(url: Url, name: str, default: bool) -> bool:
    value = url.options.get(name)
    if value is None:
        return default
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    if value.lower() in ("0", "false", "no", "off"):
        return False
    raise ConfigError(f"The option {name} is true or false.", hint=f"Write {name}=true.")


def _seconds(url: Url, name: str, default: float) -> float:
    try:
        value = float(url.options.get(name, default))
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise ConfigError(f"The option {name} is a number of seconds.", hint=f"Write {name}=5.")
    return value


def _count(url: Url, name: str, default: int) -> int:
    value = url.options.get(name, str(default))
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= 10_000:
        raise ConfigError(f"The option {name} is a number from 1 to 10,000.", hint=f"Write {name}={default}.")
    return int(value)


def _one_of(url: Url, name: str, known: tuple[T, ...]) -> T:
    value = url.options.get(name, known[0])
    if value not in known:
        raise ConfigError(f"The option {name} is one of {', '.join(known)}.", hint=f"Write {name}={known[0]}.")
    return value


async def memory(url: Url, tables: Sequence[Table], clock: Clock) -> Stack:
    """Keep everything in this process, gone when it ends: tests and experiments."""
    from palaver.blobs.opening import open_blobs
    from palaver.records.memory import MemoryRecords
    from palaver.search.memory import MemorySearch

    return Stack(MemoryRecords((), clock=clock), open_blobs(url.options.get("blobs", "memory:")), MemorySearch(), [])


async def sqlite(url: Url, tables: Sequence[Table], clock: Clock) -> Stack:
    """Open one SQLite file for records and search, and a folder beside it for objects."""
    from palaver.blobs.opening import open_blobs
    from palaver.records.sqlite import SqliteRecords
    from palaver.search.sqlite import SqliteSearch

    blobs = open_blobs(url.options.get("blobs") or beside(url.path))
    database = await _sqlite_file(url)
    embedded = not database.options.read_only
    return Stack(SqliteRecords(database, tables), blobs, SqliteSearch(database), [database.aclose], embedded=embedded)


async def _sqlite_file(url: Url) -> SqliteDatabase:
    from palaver.connections.sqlite import Database, SqliteOptions

    sync = url.options.get("sync", "full")
    if sync not in ("full", "normal"):
        raise ConfigError("The option sync is full or normal.", hint="full survives a power cut; normal loses the last commits then.")
    options = SqliteOptions(
        synchronous="full" if sync == "full" else "normal",
        create=_flag(url, "create", True),
        read_only=_flag(url, "read_only", False),
        busy_timeout_s=_seconds(url, "timeout", 5.0),
    )
    return await Database.open(url.path, options=options)


async def postgresql(url: Url, tables: Sequence[Table], clock: Clock) -> Stack:
    """Open one schema of a PostgreSQL database for records and search; objects where `blobs` says."""
    from palaver.blobs.opening import open_blobs
    from palaver.records.postgres import PostgresRecords
    from palaver.search.postgres import PostgresSearch

    blobs = open_blobs(url.options.get("blobs", "memory:"))
    pool = await _postgres_pool(url, tables)
    missing = () if "blobs" in url.options else ("blobs",)
    return Stack(PostgresRecords(pool, tables), blobs, PostgresSearch(pool), [pool.aclose], embedded=False, missing=missing)


async def _postgres_pool(url: Url, tables: Sequence[Table]) -> Pool:
    from palaver.connections.postgres import Pool
    from palaver.connections.postgres_isolation import isolate
    from palaver.connections.postgres_options import PostgresOptions
    from palaver.records.postgres_names import tenant_columns

    standard = PostgresOptions()
    poolers: tuple[Literal["auto", "transaction", "none"], ...] = ("auto", "transaction", "none")
    options = PostgresOptions(
        schema=url.options.get("schema", standard.schema),
        size=_count(url, "pool", standard.size),
        pooler=_one_of(url, "pooler", poolers),
        timeout_s=_seconds(url, "timeout", standard.timeout_s),
        wait_s=_seconds(url, "wait", standard.wait_s),
        connect_timeout_s=_seconds(url, "connect_timeout", standard.connect_timeout_s),
        rls=_flag(url, "rls", standard.rls),
    )
    pool = await Pool.open(url.address, options)
    try:
        if options.rls:
            await isolate(pool, tenant_columns(tables))
    except BaseException:
        await pool.aclose()
        raise
    return pool


async def dynamodb(url: Url, tables: Sequence[Table], clock: Clock) -> Stack:
    """Open the tables with one prefix in one region for records; search and objects where `search` and `blobs` say."""
    from palaver.blobs.opening import open_blobs
    from palaver.connections.dynamodb import DynamoClient
    from palaver.records.dynamo_tables import TableOptions
    from palaver.records.dynamodb import PACE_S, DynamoRecords

    region, _, prefix = url.path.partition("/")
    endpoint = url.options.get("endpoint")
    options = TableOptions(
        point_in_time_recovery=_flag(url, "recovery", False),
        encryption=url.options.get("encryption", ""),
        deletion_protection=_flag(url, "protection", False),
        native_expiry=_one_of(url, "expiry", ("native", "swept")) == "native",
    )
    blobs = open_blobs(url.options.get("blobs", "memory:"))
    search, closers = await _search(url.options.get("search"))
    try:
        client = await DynamoClient.open(region, endpoint=endpoint, pool=_count(url, "pool", 32), deadline_s=_seconds(url, "timeout", 10.0))
    except BaseException:
        for close in closers:
            await close()
        raise
    # Five reads of a shard in a second is a limit of the service, not of an endpoint of one's own.
    records = DynamoRecords(client, tables, prefix=prefix, options=options, pace_s=0.02 if endpoint else PACE_S)
    missing = tuple(name for name in ("blobs", "search") if name not in url.options)
    return Stack(records, blobs, search, closers, embedded=False, missing=missing)


async def _search(where: str | None) -> tuple[SearchIndex, list[Any]]:
    """Open the search of a stack whose records cannot search; without one, nothing is indexed."""
    url = parse_url(where or "memory:")
    if url.scheme == "memory":
        from palaver.search.memory import MemorySearch

        return MemorySearch(), []
    if url.scheme == "sqlite":
        from palaver.search.sqlite import SqliteSearch

        database = await _sqlite_file(url)
        return SqliteSearch(database), [database.aclose]
    if url.scheme == "postgresql":
        from palaver.search.postgres import PostgresSearch

        pool = await _postgres_pool(url, ())
        return PostgresSearch(pool), [pool.aclose]
    raise ConfigError(f"{url.scheme} is no place for search.", hint="Write search=sqlite:///search.db, or a PostgreSQL URL.")
