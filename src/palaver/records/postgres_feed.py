"""The change feed of a PostgreSQL schema: positions in the order of commits as far as readers can tell, and waking them.

A position comes from a sequence when the record is locked already, so changes of one record stand in the order of its
revisions. (Positions made of transaction numbers would not: two that wait for one record have their numbers before either
has the record.) Positions appear in the order of commits, though, so a reader must not pass a transaction that is still
running: it notes how far the sequence has come, and goes as far once every transaction of that moment has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Any, Literal

from palaver.connections.postgres import Connection, Pool
from palaver.connections.postgres_errors import is_lost, is_refusal
from palaver.errors import PalaverError, Trimmed
from palaver.ops import Cause, Change, ChangePage
from palaver.records.postgres_names import Names, short
from palaver.stored_json import dumps, loads
from palaver.values import KeyPart

CREATED, UPDATED, DELETED, EXPIRED = range(4)
_KINDS: tuple[Literal["created", "updated", "deleted", "expired"], ...] = ("created", "updated", "deleted", "expired")
_NOBODY = Cause()
_TRIM_ROWS = 1_000
_FENCE_WAIT_S = 2.0
_POLL_S = 0.25
_LISTENING_POLL_S = 2.0
_NOTIFY_EVERY_S = 0.02


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
        self._pool = pool
        self._names = names
        self._moved = asyncio.Event()
        self._listener: Connection | None = None
        self._channel = short(f"palaver_{names.schema}")
        self._connecting = asyncio.Lock()
        self._announcing: asyncio.Task[None] | None = None
        self._unannounced = False
        self._closed = False
        self._fence = Fence()
        self._head = (
            f"SELECT greatest((SELECT max(position) FROM {names.changes}),"
            f" (SELECT max(value::bigint) FROM {names.meta} WHERE name = 'trimmed'), 0)"
        )
        # Parameters: the position, how many, the fence: safe, waiting and the transaction it waits for, the last seen.
        self._changes = (
            "SELECT s.head, s.trimmed, s.running, s.next, s.last, c.* FROM (SELECT"
            f" (SELECT coalesce(max(position), 0) FROM {names.changes}) AS head,"
            f" (SELECT coalesce(max(value::bigint), 0) FROM {names.meta} WHERE name = 'trimmed') AS trimmed,"
            " pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS running,"
            f" pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next, (SELECT last_value FROM {names.positions}) AS last"
            ") s LEFT JOIN LATERAL"
            " (SELECT f.position, n.name, n.kinds, f.key, f.revision, f.kind, f.more::text"
            f" FROM {names.changes} f JOIN {names.names} n ON n.id = f.entity WHERE f.position > $1 AND f.position <= greatest($3::bigint,"
            " CASE WHEN s.running >= $5::bigint THEN $4::bigint END, CASE WHEN s.running = s.next THEN $6::bigint END)"
            " ORDER BY f.position LIMIT $2) c ON true ORDER BY c.position"
        )

    # --- reading ----------------------------------------------------------------------------------------------------

    async def changes(self, after: int | None, limit: int) -> ChangePage:
        """Return committed changes; where all of them stand behind a running transaction, wait a moment for that one."""
        until = time.monotonic() + _FENCE_WAIT_S
        pause = 0.0
        while True:
            asked, losses = self._fence.asked(), self._pool.losses
            rows = await self._pool.read(self._changes, after or 0, limit, *asked)
            head, trimmed, *moved = rows[0][:5]
            if losses != self._pool.losses or moved[-1] < asked[-1]:
                # After a crash, or elsewhere, positions that were drawn and never committed are drawn again.
                self._fence = Fence()
                continue
            self._fence.moved(asked, *moved)
            if after is not None and after < trimmed:
                raise Trimmed("The feed does not reach back to this position.")
            start = max(after or 0, trimmed)
            if rows[0][5] is not None:
                found = [_change(*row[5:]) for row in rows]
                return ChangePage(found, found[-1].position, max(head, trimmed))
            if head <= start or limit < 1 or time.monotonic() > until:
                return ChangePage([], start, max(head, trimmed))
            await asyncio.sleep(pause)
            pause = min(pause * 2 or 0.001, 0.05)

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
            ((head,),) = await self._pool.read(self._head)
            left = until - time.monotonic()
            if head > after or left <= 0:
                return bool(head > after)
            poll = _LISTENING_POLL_S if self._listener is not None else _POLL_S
            with contextlib.suppress(TimeoutError):
                # Not wait_for, which loses a cancellation that comes with the event.
                async with asyncio.timeout(min(left, poll)):
                    await self._moved.wait()

    async def _listen(self) -> None:
        if self._pool.pooled or (self._listener is not None and not self._listener.is_closed()):
            return
        async with self._connecting:
            if self._listener is None or self._listener.is_closed():
                self._listener = await self._listening()

    async def _listening(self) -> Connection | None:
        """Return a connection that hears of changes; None where the server gives none now."""
        try:
            listener = await self._pool.connect()
        except PalaverError:
            return None
        try:
            await listener.add_listener(self._channel, lambda *_: self._moved.set())
        except BaseException as error:
            listener.terminate()
            if is_refusal(error) or is_lost(error):
                return None
            raise
        return listener

    async def aclose(self) -> None:
        self._closed = True
        if self._announcing is not None:
            await self._announcing
        if self._listener is not None:
            self._listener.terminate()
            self._listener = None

    async def pass_given(self) -> None:
        """Let every later write stand above what is there: a sequence may be left behind where a server was copied row by row."""
        ((head,),) = await self._pool.read(self._head)
        await self.pass_by(head)

    async def pass_by(self, position: int) -> None:
        """Let every later write of any process stand above a position."""
        positions = self._names.positions
        async with self._pool.transaction() as connection:
            # What changes nothing of a sequence still keeps others from drawing from it until the commit.
            await connection.execute(f"ALTER SEQUENCE {positions} NO CYCLE")
            await connection.execute(
                f"SELECT setval('{positions.replace(chr(39), chr(39) * 2)}', $1) FROM {positions} WHERE last_value < $1", position
            )


class Fence:
    """How far the feed may be read: no transaction that is still running can come before.

    Whoever drew a position was a running transaction when it drew. So what the sequence had given before a snapshot is
    safe once no transaction of that snapshot runs any more.
    """

    def __init__(self) -> None:
        self._safe = 0
        # What was drawn before a snapshot, and the first transaction after that snapshot.
        self._waiting, self._until = 0, 0
        self._seen = 0

    def asked(self) -> tuple[int, int, int, int]:
        return self._safe, self._waiting, self._until, self._seen

    def moved(self, asked: tuple[int, int, int, int], running: int, following: int, last: int) -> None:
        """Learn from a statement that was `asked`: its oldest running transaction, the next one, and then the sequence.

        What is learned is judged by what was asked, since another reader may have learned more meanwhile.
        """
        _, waiting, until, seen = asked
        if running >= until:
            self._safe = max(self._safe, waiting)
        if running == following:
            self._safe = max(self._safe, seen)
        if running >= self._until:
            self._waiting, self._until = seen, following
        self._seen = max(self._seen, last)


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
