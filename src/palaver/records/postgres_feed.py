"""The change feed of a PostgreSQL schema: positions in the order of commits as far as readers can tell, and waking them.

A change stands at (number of its transaction, place in it). Transactions commit in another order than they begin, so a
reader sees only what is below every transaction still running: nothing can appear behind its back.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Literal

import asyncpg

from palaver.connections.postgres import Connection, Pool
from palaver.errors import PalaverError, Trimmed, Unavailable
from palaver.ops import Cause, Change, ChangePage
from palaver.records.postgres_names import Names
from palaver.stored_json import dumps, loads
from palaver.values import KeyPart

CREATED, UPDATED, DELETED, EXPIRED = range(4)
PLACES = 20
# The place of this transaction; the parameter is what a restored database adds.
XID = f"(pg_current_xact_id()::text::bigint << {PLACES})"
_KINDS: tuple[Literal["created", "updated", "deleted", "expired"], ...] = ("created", "updated", "deleted", "expired")
_NOBODY = Cause()
_TRIM_ROWS = 1_000
_FENCE_WAIT_S = 2.0
_POLL_S = 0.25
_LISTENING_POLL_S = 2.0
_NOTIFY_EVERY_S = 0.02
_MOVE = 0x70616C_6D6F7665


def more(cause: Cause, released: tuple[str, ...]) -> str | None:
    """Return what a change keeps beside its key; None for the most."""
    if not released and cause == _NOBODY:
        return None
    kept: dict[str, Any] = {}
    if cause.actor is not None:
        kept["actor"] = cause.actor
    if cause.token is not None:
        kept["token"] = cause.token
    if released:
        kept["released"] = list(released)
    return dumps(kept)


class Feed:
    """Reads, trims and waits for the changes of one schema."""

    def __init__(self, pool: Pool, names: Names) -> None:
        self.offset = 0
        self._pool = pool
        self._names = names
        self._moved = asyncio.Event()
        self._listener: Connection | None = None
        self._channel = f"palaver_{names.schema}"[:63]
        self._announcing: asyncio.Task[None] | None = None
        self._unannounced = False
        self._closed = False
        fence = f"($1::bigint + (pg_snapshot_xmin(pg_current_snapshot())::text::bigint << {PLACES}))"
        self._changes = (
            f"SELECT s.head, s.trimmed, c.* FROM (SELECT (SELECT coalesce(max(position), 0) FROM {names.changes}) AS head,"
            f" (SELECT coalesce(max(value::bigint), 0) FROM {names.meta} WHERE name = 'trimmed') AS trimmed) s LEFT JOIN LATERAL"
            " (SELECT f.position, n.name, n.kinds, f.key, f.revision, f.kind, f.more::text"
            f" FROM {names.changes} f JOIN {names.names} n ON n.id = f.entity"
            f" WHERE f.position > $2 AND f.position < {fence} ORDER BY f.position LIMIT $3) c ON true ORDER BY c.position"
        )
        self._ready = (
            f"SELECT coalesce(bool_or(position < {fence}), false), count(*) > 0 FROM"
            f" (SELECT position FROM {names.changes} WHERE position > $2 ORDER BY position LIMIT 1) f"
        )

    # --- reading ----------------------------------------------------------------------------------------------------

    async def changes(self, after: int | None, limit: int) -> ChangePage:
        """Return committed changes; where all of them stand behind a running transaction, wait a moment for that one."""
        until = time.monotonic() + _FENCE_WAIT_S
        pause = 0.001
        while True:
            rows = await self._pool.read(self._changes, self.offset, after or 0, limit)
            head, trimmed = rows[0][0], rows[0][1]
            if after is not None and after < trimmed:
                raise Trimmed("The feed does not reach back to this position.")
            start = max(after or 0, trimmed)
            if rows[0][2] is not None:
                found = [_change(*row[2:]) for row in rows]
                return ChangePage(found, found[-1].position, max(head, trimmed))
            if head <= start or limit < 1 or time.monotonic() > until:
                return ChangePage([], start, max(head, trimmed))
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.05)

    async def trim(self, before: int) -> int:
        """Forget changes below a position, in pieces, so that no transaction is long; their last position is kept."""
        changes, meta = self._names.changes, self._names.meta
        text = (
            f"WITH gone AS (DELETE FROM {changes} WHERE position IN (SELECT position FROM {changes}"
            f" WHERE position < $1 ORDER BY position LIMIT {_TRIM_ROWS}) RETURNING position),"
            " last AS (SELECT max(position) AS at, count(*) AS many FROM gone),"
            f" kept AS (INSERT INTO {meta} SELECT 'trimmed', at::text FROM last WHERE many > 0 ON CONFLICT (name) DO UPDATE"
            " SET value = greatest(palaver_meta.value::bigint, excluded.value::bigint)::text) SELECT many FROM last"
        )
        forgotten: int = 0
        while True:
            ((many,),) = await self._pool.fetch(text, before)
            forgotten += many
            if many < _TRIM_ROWS:
                return forgotten

    # --- waking -----------------------------------------------------------------------------------------------------

    def written(self) -> None:
        """Wake whoever waits here, and tell other processes soon, once for many commits: NOTIFY makes commits wait in line."""
        self._moved.set()
        self._unannounced = True
        if self._announcing is None and not self._pool.pooled and not self._closed:
            self._announcing = asyncio.get_running_loop().create_task(self._announce())

    async def _announce(self) -> None:
        try:
            while self._unannounced:
                self._unannounced = False
                await self._pool.fetch("SELECT pg_notify($1, '')", self._channel)
                await asyncio.sleep(_NOTIFY_EVERY_S)
        except PalaverError:
            # Whoever listens asks again by itself after a while.
            self._unannounced = False
        finally:
            self._announcing = None

    async def wait_for_change(self, after: int, timeout: float) -> bool:
        """Return True as soon as a reader would find a change after a position."""
        until = time.monotonic() + timeout
        while True:
            self._moved.clear()
            await self._listen()
            ((ready, some),) = await self._pool.read(self._ready, self.offset, after)
            left = until - time.monotonic()
            if ready or left <= 0:
                return bool(ready)
            # One that is there, behind a running transaction, may be read any moment without another signal.
            poll = 0.01 if some else (_LISTENING_POLL_S if self._listener is not None else _POLL_S)
            try:
                await asyncio.wait_for(self._moved.wait(), min(left, poll))
            except TimeoutError:
                continue

    async def _listen(self) -> None:
        if self._pool.pooled or (self._listener is not None and not self._listener.is_closed()):
            return
        self._listener = None
        try:
            listener = await self._pool.connect()
            await listener.add_listener(self._channel, lambda *_: self._moved.set())
        except (Unavailable, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return
        self._listener = listener

    async def aclose(self) -> None:
        self._closed = True
        if self._announcing is not None:
            await self._announcing
        if self._listener is not None:
            self._listener.terminate()
            self._listener = None

    # --- positions that are never used again ------------------------------------------------------------------------

    async def prepare(self, connection: Connection) -> None:
        """Learn what is added to positions; a database that was restored into another server counts transactions anew."""
        identity, known = await connection.fetchrow(
            "SELECT (SELECT system_identifier::text FROM pg_control_system()) || ':' ||"
            " (SELECT oid::text FROM pg_database WHERE datname = current_database()), to_regclass($1) IS NOT NULL",
            self._names.meta,
        )
        if not known:
            return
        kept = dict(await connection.fetch(f"SELECT name, value FROM {self._names.meta} WHERE name IN ('identity', 'offset')"))
        if kept.get("identity") != identity:
            await self._move(connection, identity)
            kept = dict(await connection.fetch(f"SELECT name, value FROM {self._names.meta} WHERE name = 'offset'"))
        self.offset = int(kept.get("offset", 0))

    async def _move(self, connection: Connection, identity: str) -> None:
        meta = self._names.meta
        store = f"INSERT INTO {meta} VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({_MOVE})")
            kept = dict(await connection.fetch(f"SELECT name, value FROM {meta}"))
            if kept.get("identity") == identity:
                return
            last, here = await connection.fetchrow(f"SELECT (SELECT coalesce(max(position), 0) FROM {self._names.changes}), {XID}")
            last = max(last, int(kept.get("trimmed", 0)))
            await connection.execute(store, "offset", str(max(int(kept.get("offset", 0)), last + 1 - here)))
            await connection.execute(store, "identity", identity)

    async def pass_by(self, position: int) -> None:
        """Let every later write of any process stand above a position; processes that are connected must connect anew."""
        meta = self._names.meta
        async with self._pool.transaction() as connection:
            await connection.execute(f"SELECT pg_advisory_xact_lock({_MOVE})")
            ((kept, here),) = await connection.fetch(f"SELECT (SELECT value::bigint FROM {meta} WHERE name = 'offset'), {XID}")
            self.offset = max(kept or 0, position + 1 - here)
            text = f"INSERT INTO {meta} VALUES ('offset', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
            await connection.execute(text, str(self.offset))


def jittered(pause: float) -> float:
    return pause * random.uniform(0.5, 1.0)


def _change(at: int, table: str, kinds: str, key: list[str], revision: int, kind: int, kept: str | None) -> Change:
    parts = tuple(_part(*each) for each in zip(kinds.split(","), key, strict=True))
    if kept is None:
        return Change(at, table, parts, revision, _KINDS[kind], _NOBODY)
    rest = loads(kept)
    cause = Cause(rest.get("actor"), rest.get("token"))
    return Change(at, table, parts, revision, _KINDS[kind], cause, tuple(rest.get("released", ())))


def _part(kind: str, text: str) -> KeyPart:
    if kind == "text":
        return text
    return int(text) if kind == "int" else bytes.fromhex(text)


def key_text(part: KeyPart) -> str:
    """Return a key part as the feed keeps it."""
    return part.hex() if isinstance(part, bytes) else str(part)
