"""asyncpg beside psycopg 3: rate and CPU of one durable record with its change row, alone, at 32 tasks, and behind a pooler.

    python -m bench.postgres_drivers postgresql://user@host:port/db [postgresql://… of a transaction pooler]

One JSON line per way. Every way commits the same rows; `*-rls` also sets the tenant in the same round trip.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

SECONDS = 2.0
BODY = json.dumps({"role": "user", "content": "x" * 400, "n": 1})
SETUP = """
DROP TABLE IF EXISTS bench_notes, bench_changes;
CREATE TABLE bench_notes (owner text COLLATE "C", id bigint GENERATED ALWAYS AS IDENTITY, body jsonb, PRIMARY KEY (owner, id));
CREATE TABLE bench_changes (position bigint PRIMARY KEY, entity int, key text[]);
"""
ONE = (
    "WITH w AS (INSERT INTO bench_notes (owner, body) VALUES ({0}, {1}) RETURNING owner, id) INSERT INTO bench_changes"
    " SELECT (pg_current_xact_id()::text::bigint << 20) + 1, 1, ARRAY[owner, id::text] FROM w"
)
RLS = (
    "WITH t AS MATERIALIZED (SELECT set_config('palaver.tenant', {0}, true) AS tenant), w AS (INSERT INTO bench_notes (owner, body)"
    " SELECT tenant, {1} FROM t RETURNING owner, id) INSERT INTO bench_changes"
    " SELECT (pg_current_xact_id()::text::bigint << 20) + 1, 1, ARRAY[owner, id::text] FROM w"
)
MANY = (
    "WITH w AS (INSERT INTO bench_notes (owner, body) SELECT * FROM unnest($1::text[], $2::jsonb[]) RETURNING owner, id)"
    " INSERT INTO bench_changes SELECT (SELECT pg_current_xact_id()::text::bigint << 20) + row_number() OVER (), 1,"
    " ARRAY[owner, id::text] FROM w"
)
READ = "SELECT owner, id, body FROM bench_notes WHERE owner = {0} ORDER BY id DESC LIMIT 20"


async def measured(name: str, tasks: int, call: Callable[[], Awaitable[Any]]) -> None:
    until = time.perf_counter() + SECONDS
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await call()
            done += 1

    await call()
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(tasks)))
    rate, used = done / (time.perf_counter() - began), (time.process_time() - cpu) / done
    print(json.dumps({"way": name, "tasks": tasks, "per_s": round(rate), "client_cpu_us": round(used * 1e6, 1)}), flush=True)


async def asyncpg_ways(url: str, pooler: bool) -> None:
    options: dict[str, Any] = {"statement_cache_size": 0} if pooler else {}

    async def keep(connection: Any) -> None:
        """Leave the session as it is: the default sends RESET ALL, a second round trip."""

    label = "asyncpg behind a pooler" if pooler else "asyncpg"
    async with asyncpg.create_pool(url, min_size=8, max_size=8, reset=keep, **options) as pool:
        for tasks in (1, 32):
            await measured(label, tasks, lambda: pool.execute(ONE.format("$1", "$2"), "u1", BODY))
            await measured(f"{label} rls", tasks, lambda: pool.execute(RLS.format("$1", "$2"), "u1", BODY))
            await measured(f"{label} read 20", tasks, lambda: pool.fetch(READ.format("$1"), "u1"))
        if not pooler:
            await measured(f"{label} unnest of 64 (per statement)", 2, lambda: pool.execute(MANY, ["u2"] * 64, [BODY] * 64))


async def psycopg_ways(url: str, pooler: bool) -> None:
    from psycopg_pool import AsyncConnectionPool

    label = "psycopg behind a pooler" if pooler else "psycopg"
    options: dict[str, Any] = {"autocommit": True, "prepare_threshold": None if pooler else 0}
    pool: Any = AsyncConnectionPool(url, min_size=8, max_size=8, open=False, kwargs=options)
    await pool.open()

    async def execute(text: str, *arguments: Any) -> Any:
        async with pool.connection() as connection:
            cursor = await connection.execute(text, arguments, binary=True)
            return await cursor.fetchall() if cursor.description else None

    async def tenant() -> None:
        async with pool.connection() as connection, connection.pipeline(), connection.transaction():
            await connection.execute("SELECT set_config('palaver.tenant', %s, true)", ("u1",))
            await connection.execute(ONE.format("%s", "%s::jsonb"), ("u1", BODY))

    for tasks in (1, 32):
        await measured(label, tasks, lambda: execute(ONE.format("%s", "%s::jsonb"), "u1", BODY))
        await measured(f"{label} rls", tasks, tenant)
        await measured(f"{label} read 20", tasks, lambda: execute(READ.format("%s"), "u1"))
    piped = ONE.format("%s", "%s::jsonb").replace("<< 20) + 1", "<< 20) + %s")

    async def pipeline() -> None:
        async with pool.connection() as connection, connection.pipeline(), connection.transaction():
            for number in range(32):
                await connection.execute(piped, ("u1", BODY, number))

    await measured(f"{label} pipeline of 32, one commit (per 32)", 2, pipeline)
    await pool.close()


async def run(url: str, pooler: str | None) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(SETUP)
    await connection.close()
    await asyncpg_ways(url, False)
    await psycopg_ways(url, False)
    if pooler:
        await asyncpg_ways(pooler, True)
        await psycopg_ways(pooler, True)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
