"""Measure appends to and reads of the context window on Redis, beside lists as they are written by hand.

    python -m bench.context_window [--rounds 7] [--calls 4000]

Needs redis-server; with redis-py in the interpreter it is a peer too. `raw` is LRANGE and RPUSH + LTRIM + EXPIRE over our own
connection, with JSON to dictionaries; it promises nothing (partial after expiry, doubled by retries). Every round gives each its
turn; what is printed is the median of the rounds, in thousands of calls a second, and the ratio to `raw` in the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import orjson

import palaver
from palaver import Entity, InstantMs, Key, Schema
from palaver.clock import now
from palaver.connections.redis import RedisClient, encode
from palaver.connections.redis_options import RedisOptions
from palaver.context import ContextWindow

KEEP, CONVERSATIONS = 20, 200
TEXT = "What did the other team do in the second half, and who was on the bench? " * 2
Call = Callable[[int], Awaitable[Any]]
Calls = dict[str, Call]


class Message(Entity, table="messages"):
    conversation_id: str
    message_id: str
    role: str
    content: str
    token_count: int | None = None
    timestamp: InstantMs
    key = Key("conversation_id", sort="message_id")


def said(conversation: int, number: int) -> Message:
    at = {"conversation_id": f"c{conversation}", "message_id": f"{number:08}", "timestamp": now()}
    return Message(**at, role="user", content=TEXT, token_count=40)  # type: ignore[arg-type]


async def ours(port: int, context: ContextWindow[Message], stored: list[list[Message]]) -> Calls:
    await context._subscription.ready()
    for conversation in range(CONVERSATIONS):
        await context.read(f"c{conversation}")
    return {
        "read": lambda n: context.read(f"c{n % CONVERSATIONS}", budget=8_000),
        "append": lambda n: context.append(stored[n % CONVERSATIONS][n % len(stored[0])]),
    }


def plain(message: Message) -> bytes:
    return orjson.dumps(message.model_dump(mode="json"))


async def raw(client: RedisClient, stored: list[list[Message]]) -> Calls:
    texts = [[plain(message) for message in messages] for messages in stored]

    async def append(n: int) -> None:
        key = f"raw:{n % CONVERSATIONS}"
        commands = (("RPUSH", key, texts[n % CONVERSATIONS][n % KEEP]), ("LTRIM", key, -KEEP, -1), ("EXPIRE", key, 7_200))
        await client.read_each([encode(*command) for command in commands])

    async def read(n: int) -> list[Any]:
        return [orjson.loads(text) for text in await client.read(encode("LRANGE", f"raw:{n % CONVERSATIONS}", 0, -1))]

    for n in range(CONVERSATIONS * KEEP):
        await append(n)
    return {"read": read, "append": append}


async def redis_py(client: Any, stored: list[list[Message]]) -> Calls:
    texts = [[plain(message) for message in messages] for messages in stored]

    async def append(n: int) -> None:
        key = f"redis-py:{n % CONVERSATIONS}"
        pipe = client.pipeline(transaction=True)
        pipe.rpush(key, texts[n % CONVERSATIONS][n % KEEP])
        pipe.ltrim(key, -KEEP, -1)
        pipe.expire(key, 7_200)
        await pipe.execute()

    async def read(n: int) -> list[Any]:
        return [orjson.loads(text) for text in await client.lrange(f"redis-py:{n % CONVERSATIONS}", 0, -1)]

    for n in range(CONVERSATIONS * KEEP):
        await append(n)
    return {"read": read, "append": append}


@contextmanager
def server() -> Iterator[int]:
    """Start a Redis of our own; its port."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise SystemExit("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        line = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.02)
            yield port
        finally:
            process.terminate()
            process.wait()


async def rate(call: Call, calls: int, tasks: int) -> float:
    async def some(first: int) -> None:
        for n in range(first, calls, tasks):
            await call(n)

    began = time.perf_counter()
    await asyncio.gather(*(some(first) for first in range(tasks)))
    return calls / (time.perf_counter() - began) / 1_000


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=4_000)
    told = parser.parse_args()
    with server() as port:
        url = f"memory:?cache={quote(f'redis://127.0.0.1:{port}', safe='')}"
        async with palaver.open(url, schema=Schema("bench", [Message]), maintain=False, migrate=True) as store:
            context = ContextWindow(store, Message, keep=KEEP, tokens=lambda message: message.token_count)
            stored = [[await store.create(said(c, number)) for number in range(KEEP)] for c in range(CONVERSATIONS)]
            client = RedisClient(RedisOptions(port=port))
            peers = {"raw": await raw(client, stored), "palaver": await ours(port, context, stored)}
            closes: list[Callable[[], Awaitable[Any]]] = [client.aclose]
            try:
                import redis.asyncio
            except ImportError:
                pass
            else:
                pool = redis.asyncio.BlockingConnectionPool(port=port, max_connections=32)
                other = redis.asyncio.Redis(connection_pool=pool)
                peers["redis-py"] = await redis_py(other, stored)
                closes += [other.aclose, pool.aclose]
            for what in ("read", "append"):
                for tasks in (1, 32):
                    await compare(peers, what, tasks, told.calls, told.rounds)
            for close in closes:
                await close()


async def compare(peers: dict[str, Calls], what: str, tasks: int, calls: int, rounds: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, made in peers.items():
            rates[name].append(await rate(made[what], calls, tasks))
    for name, found in rates.items():
        ratios = [own / other for own, other in zip(found, rates["raw"], strict=True)]
        print(f"{what}@{tasks:<3} {name:9} {statistics.median(found):7.1f}k/s  {statistics.median(ratios):5.2f} of raw")


if __name__ == "__main__":
    asyncio.run(main())
