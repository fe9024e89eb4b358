"""A transaction of PostgreSQL that still runs while others read and write beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg


@asynccontextmanager
async def under_way(url: str, table: str, key: str, copied: str) -> AsyncIterator[None]:
    """Run a transaction that has drawn its position in the feed and written a record; it commits at the end.

    The record is the one with the key `copied`, once more, under the key `late`.
    """
    other = await asyncpg.connect(url)
    try:
        async with other.transaction():
            await other.execute(f"CREATE TEMP TABLE late ON COMMIT DROP AS SELECT * FROM {table} WHERE {key} = '{copied}'")
            await other.execute(f"UPDATE late SET {key} = 'late'")
            await other.execute(f"CREATE TEMP TABLE told ON COMMIT DROP AS SELECT * FROM palaver_changes WHERE key = ARRAY['{copied}']")
            await other.execute("UPDATE told SET key = ARRAY['late'], position = nextval('palaver_positions')")
            await other.execute(f"INSERT INTO {table} SELECT * FROM late")
            await other.execute("INSERT INTO palaver_changes SELECT * FROM told")
            yield
    finally:
        await other.close()
