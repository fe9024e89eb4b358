"""The whole store beside raw apsw on the same columns: validated entities in, the same Pydantic objects out.

Each phase runs raw and ours in turn, round by round; a ratio above 1 means ours is faster. The feed is on; with
`--search` the full-text projection runs beside the writes, and its lag when they end is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import apsw
import orjson
from pydantic import Field

import palaver
from palaver import Entity, InstantMs, Json, Key, Schema, Search, Searchable, Snowflake, Source, Store, now

WORDS = ("the", "quick", "brown", "fox", "asks", "whether", "its", "order", "has", "been", "shipped", "and", "when", "it", "arrives")
CONVERSATIONS = 64


class Message(Entity, table="messages"):
    conversation_id: str
    message_id: Snowflake
    user_id: str
    message_type: Literal["user", "assistant"] = "user"
    content: Annotated[str, Searchable()]
    timestamp: InstantMs = Field(default_factory=now)
    metadata: dict[str, Json] = Field(default_factory=dict)

    key = Key("conversation_id", sort="message_id")


PLAIN = Schema("bench", [Message])
SEARCHED = Schema("bench", [Message], searches=[Search("messages", Source(Message))])
COLUMNS = "conversation_id, message_id, user_id, message_type, content, timestamp, metadata"


class Messages:
    """Messages of about 600 bytes, spread over conversations, in the order of their ids."""

    def __init__(self) -> None:
        self.number = 1 << 58

    def one(self) -> Message:
        self.number += 4096
        n = self.number >> 12
        return Message(
            conversation_id=f"conversation-{n % CONVERSATIONS:032d}",
            message_id=str(self.number),
            user_id=f"user-{n % 97}",
            content=" ".join(WORDS[(n + k) % len(WORDS)] for k in range(62)),
            metadata={"model": "m-1", "channel": "discord", "tokens": n % 1000, "latency": 0.25, "intent": "fixtures"},
        )

    def many(self, count: int) -> list[Message]:
        return [self.one() for _ in range(count)]


class Raw:
    """apsw alone: the same columns, JSON for the nested one, synchronous=FULL."""

    def __init__(self, path: Path) -> None:
        self.writer, self.reader = self._connect(path), self._connect(path)
        self.writer.execute(
            "CREATE TABLE messages (conversation_id TEXT NOT NULL, message_id TEXT NOT NULL, user_id TEXT NOT NULL, message_type TEXT,"
            " content TEXT NOT NULL, timestamp INTEGER, metadata TEXT, PRIMARY KEY (conversation_id, message_id))"
        )

    @staticmethod
    def _connect(path: Path) -> apsw.Connection:
        connection = apsw.Connection(str(path))
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    @staticmethod
    def row(message: Message) -> tuple[Any, ...]:
        return (
            message.conversation_id,
            message.message_id.zfill(20),
            message.user_id,
            message.message_type,
            message.content,
            int(message.timestamp.timestamp() * 1000),
            json.dumps(message.metadata),
        )

    INSERT = f"INSERT INTO messages ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"

    @staticmethod
    def message(row: tuple[Any, ...]) -> Message:
        return Message.model_construct(
            conversation_id=row[0],
            message_id=row[1].lstrip("0"),
            user_id=row[2],
            message_type=row[3],
            content=row[4],
            timestamp=datetime.fromtimestamp(row[5] / 1000, UTC),
            metadata=orjson.loads(row[6]),
        )

    def create(self, message: Message) -> None:
        self.writer.execute("BEGIN IMMEDIATE")
        self.writer.execute(self.INSERT, self.row(message))
        self.writer.execute("COMMIT")

    def get(self, conversation: str, message: str) -> Message:
        found = self.reader.execute(
            f"SELECT {COLUMNS} FROM messages WHERE conversation_id = ? AND message_id = ?", (conversation, message.zfill(20))
        ).fetchall()
        return self.message(found[0])

    def last(self, conversation: str) -> list[Message]:
        found = self.reader.execute(
            f"SELECT {COLUMNS} FROM messages WHERE conversation_id = ? ORDER BY message_id DESC LIMIT 20", (conversation,)
        ).fetchall()
        return [self.message(row) for row in found]

    def load(self, messages: list[Message]) -> None:
        self.writer.execute("BEGIN IMMEDIATE")
        self.writer.executemany(self.INSERT, map(self.row, messages))
        self.writer.execute("COMMIT")


class Group:
    """The ceiling for many callers: a thread that commits whatever waits, and does nothing else."""

    def __init__(self, raw: Raw) -> None:
        self.raw, self.loop = raw, asyncio.get_running_loop()
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (item := self.queue.get()) is not None:
            batch = [item]
            while not self.queue.empty() and len(batch) < 256:
                batch.append(self.queue.get())
            self.raw.writer.execute("BEGIN IMMEDIATE")
            self.raw.writer.executemany(Raw.INSERT, [row for row, _ in batch])
            self.raw.writer.execute("COMMIT")
            self.loop.call_soon_threadsafe(self._done, [future for _, future in batch])

    @staticmethod
    def _done(futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            future.set_result(None)

    async def create(self, message: Message) -> None:
        future: asyncio.Future[None] = self.loop.create_future()
        self.queue.put((Raw.row(message), future))
        await future

    def stop(self) -> None:
        self.queue.put(None)
        self.thread.join()


class Bench:
    def __init__(self, raw: Raw, store: Store) -> None:
        self.raw, self.store, self.messages = raw, store, Messages()
        self.lag: list[int] = []
        self.bare: list[float] = []

    def prepared(self, n: int) -> list[Message]:
        """Return messages that the collector does not look at again: the inputs are the bench's own heap, not what is measured."""
        made = self.messages.many(n)
        gc.collect()
        gc.freeze()
        return made

    async def create_1(self, n: int) -> tuple[float, float]:
        made = self.prepared(n)
        start = time.perf_counter()
        for message in made:
            self.raw.create(message)
        middle = time.perf_counter()
        for message in made:
            await self.store.create(message)
        end = time.perf_counter()
        group = Group(self.raw)
        again = self.prepared(n)
        begun = time.perf_counter()
        for message in again:
            await group.create(message)
        self.bare.append(n / (time.perf_counter() - begun))
        group.stop()
        return middle - start, end - middle

    async def create_32(self, n: int) -> tuple[float, float]:
        ready = self.prepared(n)
        made = [ready[k::32] for k in range(32)]
        group = Group(self.raw)

        async def caller(create: Callable[[Message], Awaitable[Any]], messages: list[Message]) -> None:
            for message in messages:
                await create(message)

        start = time.perf_counter()
        await asyncio.gather(*(caller(group.create, messages) for messages in made))
        middle = time.perf_counter()
        await asyncio.gather(*(caller(self.store.create, messages) for messages in made))
        end = time.perf_counter()
        group.stop()
        health = await self.store.health()
        self.lag += [figures["lag"] for name, figures in health["projections"].items() if name == "search"]
        await self.store.settle(60)
        return middle - start, end - middle

    async def get(self, n: int) -> tuple[float, float]:
        known = self.messages.many(64)
        self.raw.load(known)
        await self.store.bulk(known)
        asked = [known[k % 64] for k in range(n)]
        start = time.perf_counter()
        for message in asked:
            self.raw.get(message.conversation_id, message.message_id)
        middle = time.perf_counter()
        for message in asked:
            await self.store.get(Message.at(message.conversation_id, message.message_id))
        return middle - start, time.perf_counter() - middle

    async def last_20(self, n: int) -> tuple[float, float]:
        asked = [f"conversation-{k % CONVERSATIONS:032d}" for k in range(n)]
        start = time.perf_counter()
        for conversation in asked:
            assert 20 == len(self.raw.last(conversation))
        middle = time.perf_counter()
        for conversation in asked:
            assert 20 == len(await self.store.page(Message.key(conversation).newest_first().limit(20)))
        return middle - start, time.perf_counter() - middle

    async def bulk(self, n: int) -> tuple[float, float]:
        made = sorted(self.prepared(n), key=lambda message: message.conversation_id)
        start = time.perf_counter()
        self.raw.load(made)
        middle = time.perf_counter()
        await self.store.bulk(made)
        return middle - start, time.perf_counter() - middle


PHASES = {"create_1": 1_000, "create_32": 9_600, "get": 5_000, "last_20": 2_000, "bulk": 10_000}


async def measure(folder: str | None, rounds: int, *, search: bool, only: str = "") -> list[dict[str, Any]]:
    """Run every phase and return one row each: rates, and the ratio's minimum, median and maximum over the rounds."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=folder) as where:
        raw = Raw(Path(where) / "raw.db")
        async with palaver.open(f"sqlite:///{where}/ours.db", schema=SEARCHED if search else PLAIN) as store:
            bench = Bench(raw, store)
            filling = bench.messages.many(CONVERSATIONS * 60)
            raw.load(filling)
            await store.bulk(filling)
            await store.settle(120)
            for name, n in PHASES.items():
                if only and name not in only.split(","):
                    continue
                runs = [await getattr(bench, name)(n) for _ in range(rounds)]
                ratios = sorted(theirs / ours for theirs, ours in runs)
                row = {
                    "phase": name,
                    "ours_per_s": round(n / statistics.median(ours for _, ours in runs)),
                    "raw_per_s": round(n / statistics.median(theirs for theirs, _ in runs)),
                    "ratio": [round(ratio, 2) for ratio in (ratios[0], statistics.median(ratios), ratios[-1])],
                }
                if name == "create_1":
                    row["bare_thread_per_s"] = round(statistics.median(bench.bare))
                if search and name == "create_32":
                    row["search_lag"] = max(bench.lag)
                rows.append(row)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--search", action="store_true")
    options = parser.parse_args()
    for measured in asyncio.run(measure(options.dir, options.rounds, search=options.search, only=options.only)):
        print(json.dumps(measured))
