"""Kept-alive HTTP/1.1 connections to one endpoint: one request in flight on each, parsed by httptools, pooled.

What happened to a request that got no answer is told by `Lost`; whether to try again is decided by the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from math import inf
from typing import NamedTuple

import httptools

from palaver.connections.dynamodb_endpoints import Endpoint
from palaver.errors import ConfigError, PalaverError, Throttled

ROOM_BYTES = 64 * 1024


class Reply(NamedTuple):
    """One whole HTTP response; header names are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Lost(Exception):
    """No whole answer came. `sent` says whether the request may have reached the server; `error` is why trying again cannot help."""

    def __init__(self, kind: str, *, sent: bool, stale: bool = False, error: PalaverError | None = None) -> None:
        super().__init__(kind)
        self.kind = kind
        self.sent = sent
        self.error = error
        #: The connection had served before and was closed without a byte of answer: most likely an idle one the server gave up.
        self.stale = stale


class Connection(asyncio.BufferedProtocol):
    """One socket. `ask` sends a request; the next whole response, or `Lost`, is its future's result."""

    __slots__ = (
        "_body",
        "_headers",
        "_heard",
        "_parser",
        "_pool",
        "_room",
        "_served",
        "_transport",
        "born",
        "idle_since",
        "until",
        "waiter",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        # Without one of our own the loop takes 256 KB for each read, and may give them back to the system each time.
        self._room = memoryview(bytearray(ROOM_BYTES))
        self._heard = False
        self._served = False
        self.waiter: asyncio.Future[Reply] | None = None
        self.until = inf
        self.born = self.idle_since = pool.loop.time()

    def ask(self, request: bytes, until: float) -> asyncio.Future[Reply]:
        """Send a request whose whole answer must be here at the loop's time `until`."""
        self.waiter = waiter = self._pool.loop.create_future()
        self.until = until
        self._heard = False
        self._pool.watch(until)
        self._transport.write(request)
        return waiter

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()

    def abort(self, kind: str = "cut") -> None:
        """Cut the connection at once; whoever waits learns why."""
        self._fail(kind)
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._pool.made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("cut")
        self._pool.forget(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self._heard = True
        try:
            self._parser.feed_data(self._room[:nbytes])
        except httptools.HttpParserError:
            self.abort("garbled")

    def _fail(self, kind: str) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(Lost(kind, sent=True, stale=kind == "cut" and self._served and not self._heard))

    # --- called by the parser ---------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        headers, self._headers = self._headers, {}
        parts, self._body = self._body, []
        parser = self._parser
        status = parser.get_status_code()
        if status < 200:
            return
        if not parser.should_keep_alive():
            self._transport.close()
        waiter, self.waiter = self.waiter, None
        if waiter is None:
            # An answer to nothing: whatever comes next on this connection could be taken for another request's answer.
            self._transport.abort()
        elif not waiter.done():
            self._served = True
            waiter.set_result(Reply(status, headers, parts[0] if len(parts) == 1 else b"".join(parts)))


class Pool:
    """At most `limit` connections to one endpoint; the one used last is taken first, so that few stay warm.

    A connection idle for `idle_s` or older than `age_s` is not used again: servers close idle ones, and names move to other addresses.
    """

    def __init__(
        self, endpoint: Endpoint, tls: ssl.SSLContext | None, *, limit: int, connect_s: float, idle_s: float, age_s: float
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.endpoint = endpoint
        self._tls = tls
        self._limit = limit
        self._connect_s = connect_s
        self._idle_s = idle_s
        self._age_s = age_s
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._opening = 0
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._closing = False
        self._empty: asyncio.Future[None] | None = None

    # --- taking and giving back -------------------------------------------------------------------------------------

    def take(self) -> Connection | None:
        """Return an idle connection, if there is one that can be used."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                now = self.loop.time()
                if now - connection.idle_since < self._idle_s and now - connection.born < self._age_s:
                    return connection
                connection.close()
        return None

    async def connect(self, until: float) -> Connection:
        """Open a connection, or wait for one while all are busy.

        Raises Lost (not sent), with an error when none came free in time, the pool is closed or the certificate is not trusted.
        """
        if self._closing:
            raise _closed()
        if len(self._connections) + self._opening < self._limit:
            self._opening += 1
        elif (given := await self._wait(until)) is not None:
            return given
        try:
            return await self._open(until)
        finally:
            self._opening -= 1
            self._offer_place()

    async def _open(self, until: float) -> Connection:
        endpoint = self.endpoint
        make: Callable[[], Connection] = lambda: Connection(self)  # noqa: E731
        try:
            async with asyncio.timeout_at(min(until, self.loop.time() + self._connect_s)):
                # Not happy eyeballs: CPython loses a socket when its race is cancelled as it ends.
                _, connection = await self.loop.create_connection(make, endpoint.host, endpoint.port, ssl=self._tls)
        except ssl.SSLCertVerificationError as error:
            untrusted = ConfigError(
                f"The certificate of {endpoint.host} is not trusted: {error.verify_message}.",
                hint="Name the file of your certificate authority in AWS_CA_BUNDLE.",
            )
            raise Lost("untrusted", sent=False, error=untrusted) from None
        except (OSError, UnicodeError):
            raise Lost("unreachable", sent=False) from None
        return connection

    async def _wait(self, until: float) -> Connection | None:
        """Return a connection somebody gave back, or None for the right to open one, already counted in `_opening`."""
        turn: asyncio.Future[Connection | None] = self.loop.create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(until):
                given = await turn
        except BaseException as error:
            self._hand_on(turn)
            if isinstance(error, TimeoutError):
                full = Throttled("All connections to DynamoDB were busy until the deadline.", reason="pool", hint="Raise pool=.")
                raise Lost("pool", sent=False, error=full) from None
            raise
        if self._closing:
            self._hand_on(turn)
            raise _closed()
        return given

    def _hand_on(self, turn: asyncio.Future[Connection | None]) -> None:
        """Pass on what a waiter got and cannot use."""
        with contextlib.suppress(ValueError):
            self._waiting.remove(turn)
        if turn.done() and not turn.cancelled():
            connection = turn.result()
            if connection is not None:
                self.give(connection)
            else:
                self._opening -= 1
                self._offer_place()

    def give(self, connection: Connection) -> None:
        """Take a connection back; one whose answer did not come whole is cut."""
        if connection.waiter is not None:
            connection.abort()
        elif connection.is_open:
            if self._closing:
                connection.close()
                return
            while self._waiting:
                turn = self._waiting.popleft()
                if not turn.done():
                    turn.set_result(connection)
                    return
            connection.idle_since = self.loop.time()
            self._idle.append(connection)

    def made(self, connection: Connection) -> None:
        self._connections.add(connection)

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        self._offer_place()

    def _offer_place(self) -> None:
        while self._waiting and len(self._connections) + self._opening < self._limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._opening += 1
                turn.set_result(None)
        if self._empty is not None and not self._connections and not self._opening and not self._empty.done():
            self._empty.set_result(None)

    # --- deadlines --------------------------------------------------------------------------------------------------

    def watch(self, until: float) -> None:
        """Keep one timer for all requests in flight, at the earliest deadline: a timer each would cost as much as signing."""
        if until < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = until
            self._timer = self.loop.call_at(until, self._cut_late)

    def _cut_late(self) -> None:
        self._timer, self._timer_at = None, inf
        now = self.loop.time()
        for connection in tuple(self._connections):
            if connection.waiter is not None:
                if connection.until <= now:
                    connection.abort("late")
                else:
                    self.watch(connection.until)

    async def aclose(self, grace_s: float) -> None:
        """Refuse new requests, wait for those in flight, then cut what is left."""
        self._closing = True
        for turn in tuple(self._waiting):
            if not turn.done():
                self._opening += 1
                turn.set_result(None)
        for connection in tuple(self._idle):
            connection.close()
        for wait_s in (grace_s, 1.0):
            if self._connections or self._opening:
                self._empty = self.loop.create_future()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._empty
            for connection in tuple(self._connections):
                connection.abort()
        if self._timer is not None:
            self._timer.cancel()


def _closed() -> Lost:
    return Lost("closed", sent=False, error=ConfigError("The DynamoDB client is closed."))
