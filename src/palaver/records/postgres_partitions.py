"""Tables kept in parts by month: the parts, made ahead, and what is moved into them from the part for everything else.

The rest is a part as well, so that nothing is ever refused for want of a month.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from palaver.clock import from_us, to_ms
from palaver.connections.postgres import Connection, Pool
from palaver.ops import Ranges, Table
from palaver.records import sql
from palaver.records.postgres_names import Names, identifier, short

# Months made beside the one that is: whoever looks after the store may be away for as long.
AHEAD = 3
_PARTS = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1::regclass ORDER BY c.relname
"""
_SECURED = "SELECT relrowsecurity FROM pg_class WHERE oid = $1::regclass"


def options(table: Table, names: Names) -> str:
    """Return what stands after a table's columns."""
    return f" PARTITION BY RANGE ({names.dialect.quoted(table.ranges.column)})" if table.ranges else ""


def rest_name(table: Table) -> str:
    return f"{table.name}::rest"


def rest(table: Table, names: Names) -> str:
    """Return the statement that makes the part for what no month has a part for."""
    return f"CREATE TABLE IF NOT EXISTS {names.within(rest_name(table))} PARTITION OF {names.within(table.name)} DEFAULT"


def months(now_us: int, ahead: int = AHEAD) -> list[datetime]:
    """Return the first instants of this month and those after it."""
    now = from_us(now_us)
    count = now.year * 12 + now.month - 1
    return [datetime((count + n) // 12, (count + n) % 12 + 1, 1, tzinfo=UTC) for n in range(ahead + 1)]


def following(month: datetime) -> datetime:
    return datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)


def bound(ranges: Ranges, at: datetime) -> str:
    """Return the least value of the column at an instant, as a constant."""
    ms = to_ms(at)
    match ranges.form:
        case "ms":
            return str(ms)
        case "s":
            return str(ms // 1000)
        case "snowflake":
            return f"'{max(0, ms - ranges.epoch_ms) << 22:020}'"
        case "uuid7":
            return f"'{ms >> 16:08x}-{ms & 0xFFFF:04x}'"
        case "text":
            return f"'{at.isoformat(timespec='microseconds')[:26]}Z'"


def part_name(table: Table, month: datetime) -> str:
    return f"{table.name}::{month:%Y-%m}"


async def make_ahead(pool: Pool, names: Names, tables: Iterable[Table], now_us: int) -> list[str]:
    """Make the parts of this month and the next ones that are missing; return their names. Each is one commit."""
    made: list[str] = []
    for table in tables:
        if table.ranges is None:
            continue
        there = {name for (name,) in await pool.read(_PARTS, names.within(table.name))}
        for month in months(now_us):
            name = part_name(table, month)
            if short(name) in there or short(rest_name(table)) not in there:
                continue
            low, high = bound(table.ranges, month), bound(table.ranges, following(month))
            if low != high:
                await add(pool, names, table, name, low, high)
                made.append(name)
    return made


async def add(pool: Pool, names: Names, table: Table, name: str, low: str, high: str) -> None:
    """Make one part, and move what the rest holds of it; done before is no error. Writers of the table wait meanwhile."""
    part, parent = names.within(name), names.within(table.name)
    async with pool.transaction() as connection:
        # Nothing may come into the rest while it is looked through.
        await connection.execute(f"LOCK TABLE {parent} IN ACCESS EXCLUSIVE MODE")
        if await connection.fetchval("SELECT to_regclass($1)", part) is not None:
            return
        await _move(connection, names, table, part, low, high)
        await connection.execute(f"ALTER TABLE {parent} ATTACH PARTITION {part} FOR VALUES FROM ({low}) TO ({high})")
        if await connection.fetchval(_SECURED, parent):
            # Policies of the whole do not hold for who names a part.
            await connection.execute(f"ALTER TABLE {part} ENABLE ROW LEVEL SECURITY")


async def _move(connection: Connection, names: Names, table: Table, part: str, low: str, high: str) -> None:
    assert table.ranges is not None
    column = names.dialect.quoted(table.ranges.column)
    columns = names.dialect.commas(sql.stored_names(table))
    rest_at = names.within(rest_name(table))
    await connection.execute(
        f"CREATE TABLE {part} (LIKE {names.within(table.name)} INCLUDING DEFAULTS INCLUDING CONSTRAINTS);"
        f" WITH moved AS (DELETE FROM {rest_at} WHERE {column} >= {low} AND {column} < {high} RETURNING {columns})"
        f" INSERT INTO {part} ({columns}) SELECT {columns} FROM moved"
    )


async def create_index(connection: Connection, names: Names, table: Table, name: str, text: str, *, timeout: float) -> None:
    """Make an index part by part while others write; the whole has it when every part does."""
    parent, whole = names.within(table.name), names.within(name)
    await connection.execute(text.replace(f" ON {parent} ", f" ON ONLY {parent} ", 1), timeout=timeout)
    for (part,) in await connection.fetch(_PARTS, parent):
        own = short(f"{name}@{part}")
        await connection.execute(f"DROP INDEX IF EXISTS {names.within(own)}", timeout=timeout)
        alone = text.replace(" INDEX IF NOT EXISTS ", " INDEX CONCURRENTLY ", 1).replace(identifier(name), identifier(own), 1)
        await connection.execute(alone.replace(f" ON {parent} ", f" ON {names.within(part)} ", 1), timeout=timeout)
        await connection.execute(f"ALTER INDEX {whole} ATTACH PARTITION {names.within(own)}", timeout=timeout)
