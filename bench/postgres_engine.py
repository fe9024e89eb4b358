"""The PostgreSQL engine at its port beside raw asyncpg that stores the same typed record and the same change row.

Raw and ours run in turn in one process; a ratio above 1 means ours is faster. The raw loops prepare their statements,
keep their connections and commit each call; `create_32` is 32 tasks, in the raw loop one commit each.

    python -m bench.postgres_engine postgresql://user@host:port/db --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from bench.sqlite_engine import CREATE, MESSAGES
from palaver.connections.postgres import Pool
from palaver.connections.postgres_options import PostgresOptions
from palaver.ops import Address, Cause, CreateTable, Put, Read, WriteSet
from palaver.records.postgres import PostgresRecords

NOW = 1_767_225_600_000_000
POOL = 8
TEXT = "the quick brown fox asks whether its order has been shipped and when it arrives " * 5
META = {"model": "m-1", "tokens": 120, "tags": ["a", "b"]}
SETUP = """
DROP SCHEMA IF EXISTS bench_raw CASCADE; CREATE SCHEMA bench_raw; SET search_path = bench_raw;
CREATE TABLE messages (conversation_id text COLLATE "C" NOT NULL, message_id bigint NOT NULL, user_id text COLLATE "C" NOT NULL,
  role text COLLATE "C" NOT NULL, content text COLLATE "C" NOT NULL, timestamp bigint NOT NULL, metadata jsonb,
  _revision bigint NOT NULL, _deleting bigint, PRIMARY KEY (conversation_id, message_id));
CREATE SEQUENCE positions;
CREATE TABLE changes (position bigint PRIMARY KEY, revision bigint NOT NULL, entity integer NOT NULL, kind smallint NOT NULL,
  key text[] NOT NULL, more jsonb);
"""
INSERT = """WITH w AS (INSERT INTO bench_raw.messages VALUES ($1, $2, $3, $4, $5, $6, $7, $8, NULL) RETURNING conversation_id, message_id)
INSERT INTO bench_raw.changes SELECT nextval('bench_raw.positions'), $8, 1, 0, ARRAY[conversation_id, message_id::text], NULL FROM w"""
LAST = "SELECT * FROM bench_raw.messages WHERE conversation_id = $1 ORDER BY message_id DESC LIMIT 20"
COLUMNS = ["conversation_id", "message_id", "user_id", "role", "content", "timestamp", "metadata", "_revision"]


def row(number: int) -> tuple[Any, ...]:
    return f"c{number % 500}", number, "u1", "user", TEXT, number, json.dumps(META), NOW


def op(number: int, guards: Any = CREATE) -> Put:
    conversation = f"c{number % 500}"
    fields = {"conversation_id": conversation, "message_id": number, "user_id": "u1", "role": "user", "content": TEXT}
    return Put(Address("messages", (conversation, number)), {**fields, "timestamp": number, "metadata": META}, guards)  # type: ignore[dict-item]


class Bench:
    def __init__(self, url: str, seconds: float) -> None:
        self.url, self.seconds, self.number = url, seconds, 0

    def next(self) -> int:
        self.number += 1
        return self.number

    async def __aenter__(self) -> Bench:
        async def keep(connection: Any) -> None:
            """Leave the session as it is: the default reset is a second round trip."""

        self.raw = await asyncpg.create_pool(self.url, min_size=POOL, max_size=POOL, reset=keep)
        async with self.raw.acquire() as connection:
            await connection.execute(SETUP)
            await connection.execute("DROP SCHEMA IF EXISTS bench_ours CASCADE")
        self.ours = PostgresRecords(await Pool.open(self.url, PostgresOptions(schema="bench_ours", size=POOL)), (MESSAGES,))
        await self.ours.apply(CreateTable(MESSAGES))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.raw.close()
        await self.ours.aclose()

    async def rate(self, tasks: int, call: Callable[[], Awaitable[Any]]) -> float:
        done, until = 0, time.perf_counter() + self.seconds

        async def caller() -> None:
            nonlocal done
            while time.perf_counter() < until:
                await call()
                done += 1

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(tasks)))
        return done / (time.perf_counter() - began)

    async def raw_last(self) -> None:
        rows = await self.raw.fetch(LAST, f"c{self.next() % 500}")
        assert [{**each, "metadata": json.loads(each["metadata"])} for each in rows]

    async def our_last(self) -> None:
        page = await self.ours.query(Read("messages", None, (f"c{self.next() % 500}",), descending=True, limit=20))
        assert page.records

    async def raw_copy(self) -> None:
        rows = [row(self.next()) for _ in range(1_000)]
        async with self.raw.acquire() as connection:
            await connection.copy_records_to_table("messages", schema_name="bench_raw", columns=COLUMNS, records=rows)

    async def our_load(self) -> None:
        await self.ours.load("messages", [op(self.next(), ()).record for _ in range(1_000)], NOW, Cause())

    def phases(self) -> dict[str, tuple[int, Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]]]]:
        async def raw_create() -> None:
            await self.raw.execute(INSERT, *row(self.next()))

        async def our_create() -> None:
            await self.ours.write(WriteSet((op(self.next()),), NOW))

        return {
            "create_1": (1, raw_create, our_create),
            "create_32": (32, raw_create, our_create),
            "last_20": (1, self.raw_last, self.our_last),
            "last_20_32": (32, self.raw_last, self.our_last),
            "bulk": (2, self.raw_copy, self.our_load),
        }


async def run(url: str, rounds: int, seconds: float) -> None:
    async with Bench(url, seconds) as bench:
        for name, (tasks, raw, ours) in bench.phases().items():
            pairs = [(await bench.rate(tasks, raw), await bench.rate(tasks, ours)) for _ in range(rounds)]
            ratios = [mine / theirs for theirs, mine in pairs]
            middle = [round(statistics.median(column)) for column in zip(*pairs, strict=True)]
            told = {"raw_s": middle[0], "ours_s": middle[1], "min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)}
            print(json.dumps({"phase": name, **{key: round(value, 2) for key, value in told.items()}}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    asyncio.run(run(options.url, options.rounds, options.seconds))
