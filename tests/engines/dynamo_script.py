"""A loopback HTTP server that plays a script: one act per request, so that each fault comes exactly when a test wants it."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any
from zlib import crc32

from palaver.clock import ManualClock
from palaver.connections.dynamodb import Credentials, DynamoClient

Act = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    headers: dict[str, str]
    body: bytes
    #: How many requests this connection had carried before.
    before: int
    method: str = "POST"
    path: str = "/"

    @property
    def operation(self) -> str:
        return self.headers["x-amz-target"].rpartition(".")[2]


@dataclass
class Script:
    """What the server does next and what it was asked so far; the last act is played for ever."""

    acts: list[Act]
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    port: int = 0

    def next(self) -> Act:
        return self.acts[0] if len(self.acts) == 1 else self.acts.pop(0)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def encoded(status: int, payload: bytes, *, crc: int | None = None, date: float | None = None, extra: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} Whatever\r\nDate: {formatdate(date, usegmt=True)}\r\nx-amz-crc32: {crc32(payload) if crc is None else crc}\r\n"
        f"Content-Type: application/x-amz-json-1.0\r\n{extra}Content-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


def sent(data: bytes) -> Act:
    async def act(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return act


def ok(answer: dict[str, Any] | None = None, **how: Any) -> Act:
    return sent(encoded(200, json.dumps(answer or {}).encode(), **how))


def failed(code: str, status: int = 400, *, date: float | None = None, **members: Any) -> Act:
    return sent(encoded(status, json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", **members}).encode(), date=date))


async def cut(request: Request, writer: asyncio.StreamWriter) -> None:
    """Close without a byte."""
    writer.transport.abort()


async def half(request: Request, writer: asyncio.StreamWriter) -> None:
    whole = encoded(200, b'{"Item": {"a": {"S": "x"}}}')
    writer.write(whole[:-5])
    await writer.drain()
    writer.close()


async def silent(request: Request, writer: asyncio.StreamWriter) -> None:
    """Never answer."""


async def chunked(request: Request, writer: asyncio.StreamWriter) -> None:
    payload = b'{"Item": {"a": {"S": "in parts"}}}'
    writer.write(f"HTTP/1.1 200 OK\r\nx-amz-crc32: {crc32(payload)}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    for part in (payload[:7], payload[7:9], payload[9:]):
        writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.002)
    writer.write(b"0\r\n\r\n")


async def dripping(request: Request, writer: asyncio.StreamWriter) -> None:
    for byte in encoded(200, b"{}" + b" " * 4000):
        if writer.transport.is_closing():
            return
        writer.write(bytes([byte]))
        await asyncio.sleep(0.01)


def then_closed(act: Act) -> Act:
    async def both(request: Request, writer: asyncio.StreamWriter) -> None:
        await act(request, writer)
        await writer.drain()
        writer.close()

    return both


@asynccontextmanager
async def scripted(*acts: Act, tls: ssl.SSLContext | None = None) -> AsyncIterator[Script]:
    script = Script(list(acts))
    handlers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script.connections += 1
        script.open.add(writer)
        served = 0
        try:
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                request = Request(headers, await reader.readexactly(int(headers.get("content-length", 0))), served, *first.split(" ")[:2])
                script.requests.append(request)
                served += 1
                await script.next()(request, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            script.open.discard(writer)
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        handlers.add(task)
        task.add_done_callback(handlers.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    script.port = server.sockets[0].getsockname()[1]
    try:
        yield script
    finally:
        server.close()
        for task in tuple(handlers):
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


KEYS = Credentials("AKIDEXAMPLE", "canary/Secret+Of/Nobody", "canaryToken==")
PUT = {"TableName": "t", "Item": {"a": {"S": "stored value"}}}
THROTTLED = failed("ProvisionedThroughputExceededException", message="slow down")
FAULT = failed("InternalServerError", 500)


class Pauses:
    """A sleep that takes no time: it moves the client's clock and keeps what it was asked for."""

    def __init__(self) -> None:
        self.clock = ManualClock(datetime.now(UTC))
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.clock.advance(timedelta(seconds=seconds))
        await asyncio.sleep(0)


@asynccontextmanager
async def client(script: Script, *, seed: int = 1, pauses: Pauses | None = None, **options: Any) -> AsyncIterator[DynamoClient]:
    pauses = pauses or Pauses()
    options = {"endpoint": script.endpoint, "credentials": KEYS, "clock": pauses.clock, "sleep": pauses, **options}
    opened = await DynamoClient.open("eu-west-1", draw=random.Random(seed).random, **options)
    try:
        yield opened
    finally:
        await opened.aclose()


async def outcome(*acts: Act, operation: str = "PutItem", body: dict[str, Any] | None = None, **how: Any) -> tuple[Any, int]:
    """Return what a call gave or raised, and how many requests reached the server."""
    idempotent = how.pop("idempotent", True)
    async with scripted(*acts) as script, client(script, **how) as dynamo:
        try:
            found: Any = await dynamo.call(operation, body or PUT, idempotent=idempotent)
        except Exception as error:
            found = error
        return found, len(script.requests)


def kinds(found: tuple[Any, int]) -> tuple[type, int]:
    return type(found[0]), found[1]


LOST = {"fault": FAULT, "cut": cut, "half": half, "silent": silent, "garbled": sent(b"SSH-2.0-OpenSSH_9.2\r\n"), "crc": ok({}, crc=1)}
