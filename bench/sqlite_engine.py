"""The SQLite engine at its port beside a loop of raw apsw statements that stores the same records as JSON bodies.

Each phase runs raw and ours in turn; a ratio above 1 means ours is faster. Put `--dir` on a real disk: where an fsync
costs nothing, every durable figure is wrong.

    python bench/sqlite_engine.py --dir /var/tmp --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import queue
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from palaver.connections.sqlite import Database
from palaver.ops import Absent, Address, Cause, Column, CreateTable, Guard, IndexSpec, Origin, Put, Read, Refused, Table, WriteSet
from palaver.records.sqlite import SqliteRecords

MESSAGES = Table(
    "messages",
    "Message",
    columns=(
        Column("conversation_id", "text", required=True),
        Column("message_id", "int", required=True),
        Column("user_id", "text", required=True),
        Column("role", "text", required=True),
        Column("content", "text", required=True),
        Column("timestamp", "int", required=True),
        Column("metadata", "json"),
    ),
    partition=("conversation_id",),
    sort=("message_id",),
)
INDEXED = replace(MESSAGES, indexes=(IndexSpec("by_user", ("user_id",), ("timestamp",)),))
CREATE = (Guard(Absent(), Origin(0, "create")),)
WORDS = ("the", "quick", "brown", "fox", "asks", "whether", "its", "order", "has", "been", "shipped", "and", "when", "it", "arrives")


class Spent(NamedTuple):
    """Seconds on the wall, and of this process's own CPU: the latter holds still on a busy machine."""

    wall: float
    cpu: float

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall - other.wall, self.cpu - other.cpu)


def stamp() -> Spent:
    return Spent(time.perf_counter(), time.process_time())


class Raw:
    """WAL, synchronous=FULL, one index, a JSON body: the least a chat store can do."""

    def __init__(self, path: Path) -> None:
        self.connection = self.connect(path)
        self.connection.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, conv TEXT NOT NULL, body TEXT NOT NULL)")
        self.connection.execute("CREATE INDEX m_conv ON messages (conv, id)")
        self.reader = self.connect(path)

    @staticmethod
    def connect(path: Path) -> apsw.Connection:
        connection = apsw.Connection(str(path))
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def insert(self, message: dict[str, Any]) -> None:
        self.connection.execute("INSERT INTO messages (conv, body) VALUES (?, ?)", (message["conversation_id"], json.dumps(message)))

    def many(self, messages: list[dict[str, Any]]) -> None:
        self.connection.execute("BEGIN")
        rows = ((message["conversation_id"], json.dumps(message)) for message in messages)
        self.connection.executemany("INSERT INTO messages (conv, body) VALUES (?, ?)", rows)
        self.connection.execute("COMMIT")

    def last(self, conversation: str) -> list[Any]:
        found: list[Any] = self.reader.execute(
            "SELECT body FROM messages WHERE conv = ? ORDER BY id DESC LIMIT 20", (conversation,)
        ).fetchall()
        return [json.loads(body) for (body,) in found]

    def group(self, loop: asyncio.AbstractEventLoop) -> Group:
        return Group(self, loop)


class Group:
    """The ceiling for many callers: a thread that commits whatever waits, and does nothing else."""

    def __init__(self, raw: Raw, loop: asyncio.AbstractEventLoop) -> None:
        self.raw, self.loop = raw, loop
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while (item := self.queue.get()) is not None:
            batch = [item]
            while not self.queue.empty() and len(batch) < 256:
                batch.append(self.queue.get())
            self.raw.connection.execute("BEGIN IMMEDIATE")
            self.raw.connection.executemany("INSERT INTO messages (conv, body) VALUES (?, ?)", [row for row, _ in batch])
            self.raw.connection.execute("COMMIT")
            self.loop.call_soon_threadsafe(self.done, [future for _, future in batch])

    @staticmethod
    def done(futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            future.set_result(None)

    async def insert(self, message: dict[str, Any]) -> None:
        future: asyncio.Future[None] = self.loop.create_future()
        self.queue.put(((message["conversation_id"], json.dumps(message)), future))
        await future

    def stop(self) -> None:
        self.queue.put(None)
        self.thread.join()


class Messages:
    """Fresh messages of 64 conversations, about 500 bytes each."""

    def __init__(self) -> None:
        self.conversations = [str(uuid.uuid4()) for _ in range(64)]
        self.number = 1 << 60

    def one(self, conversation: int | None = None) -> dict[str, Any]:
        self.number += 4096
        n = self.number >> 12
        return {
            "conversation_id": self.conversations[n % 64 if conversation is None else conversation],
            "message_id": self.number,
            "user_id": f"user-{n % 97}",
            "role": "user",
            "content": " ".join(WORDS[(n + k) % len(WORDS)] for k in range(60)),
            "timestamp": 1_767_225_600_000 + n % 10_000_000,
            "metadata": {"model": "m-1", "tokens": n % 1000, "latency": 0.25},
        }

    def list(self, count: int) -> list[dict[str, Any]]:
        return [self.one() for _ in range(count)]


def put(message: dict[str, Any], guards: tuple[Guard, ...] = CREATE) -> Put:
    return Put(Address("messages", (message["conversation_id"], message["message_id"])), message, guards)


class Bench:
    def __init__(self, raw: Raw, engine: SqliteRecords, loop: asyncio.AbstractEventLoop) -> None:
        self.raw, self.engine, self.loop = raw, engine, loop
        self.messages = Messages()

    async def create(self, message: dict[str, Any]) -> None:
        done = await self.engine.write(WriteSet((put(message),), time.time_ns() // 1000))
        assert not isinstance(done, Refused)

    async def fill(self) -> None:
        made = self.messages.list(64 * 50)
        self.raw.many(made)
        await self.engine.load("messages", made, time.time_ns() // 1000, Cause())

    async def create_1(self, n: int) -> tuple[Spent, Spent]:
        made = self.messages.list(n)
        start = stamp()
        for message in made:
            self.raw.connection.execute("BEGIN IMMEDIATE")
            self.raw.insert(message)
            self.raw.connection.execute("COMMIT")
        middle = stamp()
        for message in made:
            await self.create(message)
        return middle - start, stamp() - middle

    async def create_32(self, n: int) -> tuple[Spent, Spent]:
        made = [self.messages.list(n // 32) for _ in range(32)]
        group = self.raw.group(self.loop)

        async def caller(store: Callable[[dict[str, Any]], Awaitable[None]], messages: list[dict[str, Any]]) -> None:
            for message in messages:
                await store(message)

        start = stamp()
        await asyncio.gather(*(caller(group.insert, messages) for messages in made))
        middle = stamp()
        await asyncio.gather(*(caller(self.create, messages) for messages in made))
        end = stamp()
        group.stop()
        return middle - start, end - middle

    async def last_20(self, n: int) -> tuple[Spent, Spent]:
        asked = [self.messages.conversations[k % 64] for k in range(n)]
        start = stamp()
        for conversation in asked:
            assert 20 == len(self.raw.last(conversation))
        middle = stamp()
        for conversation in asked:
            page = await self.engine.query(Read("messages", None, (conversation,), descending=True, limit=20))
            assert 20 == len(page.records)
        return middle - start, stamp() - middle

    async def get(self, n: int) -> tuple[Spent, Spent]:
        key = self.messages.one()
        await self.create(key)
        self.raw.insert(key)
        number = self.raw.connection.last_insert_rowid()
        at = [put(key).at]
        start = stamp()
        for _ in range(n):
            found: list[Any] = self.raw.reader.execute("SELECT body FROM messages WHERE id = ?", (number,)).fetchall()
            json.loads(found[0][0])
        middle = stamp()
        for _ in range(n):
            await self.engine.get(at)
        return middle - start, stamp() - middle

    async def bulk(self, n: int) -> tuple[Spent, Spent]:
        made = self.messages.list(n)
        made.sort(key=lambda message: message["conversation_id"])
        start = stamp()
        self.raw.many(made)
        middle = stamp()
        await self.engine.load("messages", made, time.time_ns() // 1000, Cause())
        return middle - start, stamp() - middle


def report(name: str, n: int, runs: list[tuple[Spent, Spent]]) -> None:
    ratios = sorted(raw.wall / ours.wall for raw, ours in runs)
    raw, ours = ([run[side] for run in runs] for side in (0, 1))
    print(
        f"{name:10} ours {n / statistics.median(run.wall for run in ours):9,.0f}/s"
        f"  raw {n / statistics.median(run.wall for run in raw):9,.0f}/s"
        f"  ratio {ratios[0]:.2f} - {statistics.median(ratios):.2f} - {ratios[-1]:.2f}"
        f"  cpu us {statistics.median(run.cpu for run in ours) / n * 1e6:6.1f} / {statistics.median(run.cpu for run in raw) / n * 1e6:6.1f}"
    )


async def main(options: argparse.Namespace) -> None:
    phases = {"create_1": 1_000, "create_32": 9_600, "last_20": 2_000, "get": 5_000, "bulk": 10_000}
    table = INDEXED if options.indexed else MESSAGES
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        engine = SqliteRecords(await Database.open(Path(folder) / "ours.db"), (table,))
        await engine.apply(CreateTable(table))
        bench = Bench(Raw(Path(folder) / "raw.db"), engine, asyncio.get_running_loop())
        await bench.fill()
        for name, n in phases.items():
            if not options.only or name in options.only.split(","):
                report(name, n, [await getattr(bench, name)(n) for _ in range(options.rounds)])
        await engine.aclose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="phases, separated by commas")
    parser.add_argument("--indexed", action="store_true", help="with a secondary index, which raw does not have")
    asyncio.run(main(parser.parse_args()))
