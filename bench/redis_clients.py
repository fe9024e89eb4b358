"""Compare clients of Redis on the calls a cache makes, so that the choice of our own rests on figures.

    PEERS/bin/python -m bench.redis_clients [--rounds 7]

Needs redis-server, and redis, coredis and hiredis in the interpreter that runs it. Every round gives each client its turn; what is
printed is the median of the rounds, in thousands of calls a second, and the ratio to ours in the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

from palaver.connections.redis import RedisClient, encode
from palaver.connections.redis_options import RedisOptions

VALUE = b"x" * 600
SCRIPT = "local c = redis.call('INCR', KEYS[1]) if c == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end return c"
Call = Callable[[str], Awaitable[Any]]


async def ours(port: int) -> tuple[dict[str, Call], Callable[[], Awaitable[Any]]]:
    client = RedisClient(RedisOptions(port=port))
    sha = (await client.read(encode("SCRIPT", "LOAD", SCRIPT))).decode()
    calls: dict[str, Call] = {
        "get": lambda key: client.read(encode("GET", key)),
        "set": lambda key: client.write(encode("SET", key, VALUE, "PX", 60_000)),
        "script": lambda key: client.write(encode("EVALSHA", sha, 1, "n" + key, 60)),
    }
    return calls, client.aclose


async def redis_py(port: int) -> tuple[dict[str, Call], Callable[[], Awaitable[Any]]]:
    import redis.asyncio

    client = redis.asyncio.Redis(connection_pool=redis.asyncio.BlockingConnectionPool(port=port, max_connections=32))
    script = client.register_script(SCRIPT)
    calls: dict[str, Call] = {
        "get": client.get,
        "set": lambda key: client.set(key, VALUE, px=60_000),
        "script": lambda key: script(keys=["n" + key], args=[60]),
    }
    return calls, client.aclose


async def coredis(port: int) -> tuple[dict[str, Call], Callable[[], Awaitable[Any]]]:
    import coredis

    client: Any = coredis.Redis(port=port, max_connections=32)
    sha = await client.script_load(SCRIPT)
    calls: dict[str, Call] = {
        "get": client.get,
        "set": lambda key: client.set(key, VALUE, px=60_000),
        "script": lambda key: client.evalsha(sha, keys=["n" + key], args=[60]),
    }

    async def close() -> None:
        client.connection_pool.disconnect()

    return calls, close


async def timed(call: Call, tasks: int, count: int) -> float:
    left = count

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call(f"k{left % 500}")

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(tasks)))
    return count / (time.perf_counter() - start)


async def measure(port: int, rounds: int) -> None:
    made = {"ours": await ours(port), "redis-py": await redis_py(port), "coredis": await coredis(port)}
    rates: dict[tuple[str, str, int], list[float]] = {}
    for _ in range(rounds):
        for what in ("set", "get", "script"):
            for tasks, count in ((1, 1_500), (32, 6_000), (256, 12_000)):
                for name, (calls, _close) in made.items():
                    scale = 1 if name == "ours" or tasks == 1 else 3
                    rates.setdefault((name, what, tasks), []).append(await timed(calls[what], tasks, count // scale))
    print(f"| {'call':8} | tasks | " + " | ".join(f"{name:>22}" for name in made) + " |")
    for what in ("set", "get", "script"):
        for tasks in (1, 32, 256):
            cells = []
            for name in made:
                of = rates[name, what, tasks]
                ratio = statistics.median(one / own for one, own in zip(of, rates["ours", what, tasks], strict=True))
                cells.append(f"{statistics.median(of) / 1_000:13.1f}k ({ratio:.2f})")
            print(f"| {what:8} | {tasks:5} | " + " | ".join(f"{cell:>22}" for cell in cells) + " |")
    for _, close in made.values():
        await close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    binary = shutil.which("redis-server")
    if binary is None:
        raise SystemExit("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        line = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        server = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        try:
            for _ in range(200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.02)
            print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("redis", "coredis", "hiredis")))
            asyncio.run(measure(port, rounds))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
