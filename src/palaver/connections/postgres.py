"""A pool of connections to one PostgreSQL database, for one event loop.

It is small on purpose: a call takes a free connection, sends one statement and gives the connection back without a
second round trip, because nothing here changes the state of a session. Behind a transaction pooler nothing is prepared
by name and nothing is set.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg

from palaver.connections.postgres_errors import is_elsewhere, is_refusal, translate
from palaver.connections.postgres_options import PostgresOptions
from palaver.errors import ConfigError, Throttled, Unavailable

Connection: TypeAlias = Any  # asyncpg.Connection, which has no types of its own
_STATEMENTS = 500
_BUDGET = """
SELECT current_setting('server_version_num')::int, pg_backend_pid(), (SELECT least(
  current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
  (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
  (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())))
"""
OLDEST = 150_000
# What PgBouncer says to settings at connecting.
_REFUSES_SETTINGS = "08P01"
_FULL_FOR_S = 1.0


class Pool:
    """At most `options.size` connections; a caller waits for one up to `options.wait_s`, then gets Throttled."""

    def __init__(self, dsn: str, options: PostgresOptions) -> None:
        self.options = options
        self.pooled = False
        self.version = 0
        self._dsn = dsn
        self._free: list[Connection] = []
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._count = 0
        self._closed = False
        # When a server that had no connection left may be asked for one again.
        self._full_until = 0.0
        self.losses = 0
        """How many connections were lost so far: the server that answers now may be another one."""

    @classmethod
    async def open(cls, dsn: str, options: PostgresOptions | None = None) -> Pool:
        """Connect once, find out whether a pooler stands between, and check that the server can hold the whole pool.

        Raises Unavailable, Unauthenticated, ConfigError.
        """
        pool = cls(dsn, options or PostgresOptions())
        pool.pooled = pool.options.pooler == "transaction"
        try:
            first = await pool.connect()
        except Unavailable as error:
            if error.context.get("sqlstate") != _REFUSES_SETTINGS or pool.options.pooler == "none":
                raise
            pool.pooled = True
            first = await pool.connect()
        try:
            pool.version, pid, most = await first.fetchrow(_BUDGET)
        except BaseException as error:
            first.terminate()
            raise translate(error) from None
        if pool.options.pooler == "auto" and not pool.pooled and pid != first.get_server_pid():
            # A pooler makes up the process number it gives its clients.
            pool.pooled = True
            first.terminate()
        else:
            pool._free.append(first)
            pool._count = 1
        problem = pool._problem(most)
        if problem is not None:
            await pool.aclose()
            raise problem
        return pool

    def _problem(self, most: int) -> ConfigError | None:
        if self.version < OLDEST:
            return ConfigError("The server is older than PostgreSQL 15.", hint="Update the server.")
        if not self.pooled and self.options.size > most:
            return ConfigError(
                f"The pool asks for {self.options.size} connections; the server allows {most}.", hint="Lower `pool` in the URL."
            )
        return None

    def __repr__(self) -> str:
        return f"<Pool of {self._count} connections>"

    def figures(self) -> dict[str, int]:
        """Return how many connections this process has open of how many, those in use, and how many callers wait for one."""
        waiting = sum(not waiter.done() for waiter in self._waiting)
        return {
            "pool_most": self.options.size,
            "pool_open": self._count,
            "pool_in_use": self._count - len(self._free),
            "pool_callers_waiting": waiting,
        }

    # --- one statement ----------------------------------------------------------------------------------------------

    async def read(self, text: str, *arguments: Any) -> list[Any]:
        """Return the rows of a statement that only reads; tried once more where the connection was lost."""
        try:
            return await self._call(False, text, arguments)
        except Unavailable:
            return await self._call(False, text, arguments)

    async def fetch(self, text: str, *arguments: Any) -> list[Any]:
        """Return the rows of a statement that may write; a connection lost meanwhile is OutcomeUnknown."""
        return await self._call(True, text, arguments)

    async def execute(self, text: str, *arguments: Any) -> None:
        """Run a statement that may write and gives no rows; without arguments it may be several statements."""
        if arguments:
            await self._call(True, text, arguments)
            return
        async with self.connection() as connection:
            try:
                await connection.execute(text)
            except BaseException as error:
                raise translate(error, sent=True) from None

    async def fetch_raw(self, text: str, *arguments: Any) -> list[Any]:
        """Return the rows of a statement that may write; a refusal of the server is raised as the driver's own error."""
        try:
            return await self._sent(text, arguments)
        except BaseException as error:
            if is_refusal(error):
                raise
            raise translate(error, sent=True) from None

    async def _call(self, writing: bool, text: str, arguments: Sequence[Any]) -> list[Any]:
        try:
            return await self._sent(text, arguments)
        except BaseException as error:
            raise translate(error, sent=writing) from None

    async def _sent(self, text: str, arguments: Sequence[Any]) -> list[Any]:
        while True:
            connection = await self.acquire()
            try:
                rows: list[Any] = await connection.fetch(text, *arguments)
            except BaseException as error:
                self.give_back_after(connection, error)
                if isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError) and connection.is_closed():
                    # It was closed before anything was sent.
                    continue
                raise
            self.release(connection)
            return rows

    # --- several statements -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def transaction(self, begin: str = "BEGIN", *, raw: bool = False) -> AsyncIterator[Connection]:
        """Give a connection inside a transaction that ends with the block; the outcome is unknown only if COMMIT was lost.

        `raw`: a refusal of the server is raised as the driver's own error.
        """
        async with self.connection() as connection:
            try:
                await connection.execute(begin)
                yield connection
            except BaseException as error:
                await self._roll_back(connection)
                if raw and is_refusal(error):
                    raise
                raise translate(error) from None
            try:
                await connection.execute("COMMIT")
            except BaseException as error:
                if raw and is_refusal(error):
                    raise
                raise translate(error, sent=True) from None

    async def _roll_back(self, connection: Connection) -> None:
        if connection.is_closed():
            return
        try:
            await connection.execute("ROLLBACK")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            # Without the connection there is no transaction either.
            connection.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Give a connection for as long as the block runs."""
        connection = await self.acquire()
        try:
            yield connection
        except BaseException as error:
            self.give_back_after(connection, error)
            raise
        self.release(connection)

    # --- the pool itself --------------------------------------------------------------------------------------------

    async def acquire(self) -> Connection:
        """Return a connection that is open as far as anybody knows; raises Throttled, Unavailable."""
        while True:
            while self._free:
                connection = self._free.pop()
                if not connection.is_closed():
                    return connection
                self._count -= 1
                self.losses += 1
            if self._closed:
                raise ConfigError("The store is closed.")
            if self._count < self.options.size and (not self._count or time.monotonic() >= self._full_until):
                try:
                    return await self._connect_more()
                except Throttled:
                    # Others took the server's last connections, so those this pool has must do.
                    self._full_until = time.monotonic() + _FULL_FOR_S
                    if not self._count:
                        raise
                    continue
            found = await self._wait()
            if found is not None:
                return found

    async def _connect_more(self) -> Connection:
        self._count += 1
        try:
            return await self.connect()
        except BaseException:
            self._forget()
            raise

    async def _wait(self) -> Connection | None:
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            # Not wait_for: before Python 3.12 it loses a cancellation that comes with the connection.
            async with asyncio.timeout(self.options.wait_s):
                return await waiter
        except TimeoutError:
            if waiter.done() and not waiter.cancelled():
                return waiter.result()
            raise Throttled(
                f"No connection became free in {self.options.wait_s:g} s.", hint="Raise `pool` in the URL, or ask less at once."
            ) from None
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and (connection := waiter.result()) is not None:
                self.release(connection)
            raise

    def release(self, connection: Connection) -> None:
        """Give a connection back; a lost one makes room for another."""
        if connection.is_closed() or self._closed:
            self.losses += 1
            connection.terminate()
            self._forget()
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._free.append(connection)

    def give_back_after(self, connection: Connection, error: BaseException) -> None:
        """Give a connection back after an error; one that may still be busy is closed.

        Where it leads nowhere any more, so do those that are free: whoever took one next would be told the same, maybe much later.
        """
        if not isinstance(error, Exception):
            # Cut off here, and so not lost.
            connection.terminate()
            self._forget()
            return
        if is_elsewhere(error):
            connection.terminate()
            while self._free:
                self._free.pop().terminate()
                self._count -= 1
        self.release(connection)

    def _forget(self) -> None:
        self._count -= 1
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def connect(self) -> Connection:
        """Return a new connection outside the pool; tries until `connect_timeout_s` while the server is starting or away."""
        until = time.monotonic() + self.options.connect_timeout_s
        settings = {} if self.pooled else self.options.settings()
        pause = 0.02
        while True:
            try:
                return await asyncpg.connect(
                    self._dsn,
                    timeout=max(0.1, until - time.monotonic()),
                    command_timeout=self.options.command_timeout_s,
                    statement_cache_size=0 if self.pooled else _STATEMENTS,
                    max_cached_statement_lifetime=0,
                    max_cacheable_statement_size=0,
                    server_settings=settings,
                )
            except BaseException as error:
                made = translate(error)
                if (
                    not isinstance(made, Unavailable)
                    or made.context.get("sqlstate") == _REFUSES_SETTINGS
                    or time.monotonic() + pause > until
                ):
                    raise made from None
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, 0.5)

    async def aclose(self) -> None:
        """Close every connection; calls under way end first, those waiting for a connection are refused."""
        self._closed = True
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
        while self._free:
            connection = self._free.pop()
            self._count -= 1
            try:
                await connection.close(timeout=5)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                connection.terminate()
