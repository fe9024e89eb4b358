"""Sessions whose truth is in the records, and which the cache serves as it serves an entity: in step with the feed.

A copy is believed while the cache is known to have been told of every ending, whoever wrote it. While it is not, the records answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import Field

from palaver.batch import Batch
from palaver.cache.bounded import Newest
from palaver.caching import HIGHEST_REVISION, Held, checked_name
from palaver.clock import us_of
from palaver.entity import Entity
from palaver.errors import ConditionFailed, ConfigError, Conflict, NotFound, PalaverError, TransactionCancelled, Validation
from palaver.expr import F
from palaver.identity.session_values import Form, Head, Payload, Session, Started, id_of, new_token, packed_copy, plain_payload, unpacked
from palaver.in_step import Kept
from palaver.keys import Key, Unique
from palaver.markers import Expires, Expiry, InstantMs, Json, Personal, Subject
from palaver.ports import Cache
from palaver.store import Store
from palaver.values import KeyPart

_FENCE_S = 600.0
_TOGETHER = 20
_TOUCHES_PER_IDLE = 10
_EXTENSIONS_PER_IDLE = 100
_MOST_EXTENDED = 10_000
_UNTOUCHED_S = 1.0


class SessionRecord(Entity):
    """Base for the sessions of a schema: `class Login(SessionRecord, table="sessions"): ...` is all it takes.

    `id` is the hash of the token. `last_seen` is written about ten times per idle timeout while the session is used.
    """

    user: Annotated[str, Subject()]
    id: str
    started: InstantMs
    ends: InstantMs
    last_seen: InstantMs
    edition: int = 1
    version: int = 1
    payload: Annotated[dict[str, Json], Personal()] = Field(default_factory=dict)
    expires: Annotated[Expiry | None, Expires()] = None

    key = Key("user", sort="id")
    by_token = Unique("id")


@dataclass(frozen=True, slots=True)
class SessionFigures:
    """What became of the reads: answered by the cache, or by how many loads. Some loads note in the record that it is used: how many
    did, and how many could not because the records took no write. And the calls in which the cache was no help."""

    hits: int = 0
    loads: int = 0
    touches: int = 0
    untouched: int = 0
    away: int = 0


class RecordedSessions(Kept):
    """What `Sessions` does where its truth is in the records."""

    def __init__(
        self,
        cache: Cache,
        store: Store,
        entity: type[SessionRecord],
        kind: str,
        *,
        idle_s: float,
        absolute_s: float,
        form: Form,
        at_most: int,
    ) -> None:
        declared = store.schema.of(entity)
        if not issubclass(entity, SessionRecord):
            raise ConfigError(f"{entity.__name__} is no entity of sessions.", hint="Derive it from SessionRecord.")
        if at_most < 1:
            raise ConfigError("At least one load runs at once.")
        # A read has what it finds live on for the idle timeout, a fence too: no fence that is counted on may be longer.
        fence_s = min(_FENCE_S, idle_s)
        super().__init__(store.core, cache, checked_name(kind), entity, self._load, ttl_s=idle_s, fence_s=fence_s, at_most=at_most)
        self._store, self._entity = store, entity
        self._tenant = declared.tenant.name if declared.tenant else ""
        self._idle_s, self._absolute_s, self._form = idle_s, absolute_s, form
        self._idle, self._step = timedelta(seconds=idle_s), timedelta(seconds=idle_s / _TOUCHES_PER_IDLE)
        self._idle_ms, self._step_ms = int(idle_s * 1_000), int(idle_s * 1_000 / _TOUCHES_PER_IDLE)
        self._extended: Newest[str, float] = Newest(_MOST_EXTENDED)
        self._touching: dict[str, asyncio.Task[None]] = {}
        self._touches = self._untouched = 0
        self._touch_again = 0.0

    @property
    def figures(self) -> SessionFigures:
        told = self.remember.figures
        return SessionFigures(told.hits, told.loads, self._touches, self._untouched, told.away)

    def _named(self, key: Sequence[KeyPart]) -> str:
        return str(key[-1])

    def _listen(self) -> None:
        if self._subscription is None:
            self.follow(self._store.following.add)

    async def ready(self) -> None:
        self._listen()
        await super().ready()

    async def aclose(self) -> None:
        if self._touching:
            await asyncio.wait(self._touching.values())
        await super().aclose()

    # --- verbs ------------------------------------------------------------------------------------------------------

    async def start(self, user: str, payload: Payload) -> Started:
        self._listen()
        token = new_token()
        key = self._key(id_of(token))
        record = await self._store.create(self._fresh(user, id_of(token), payload))
        await self.remember.keep(key, self._held(record))
        return Started(token, self._session(record))

    async def read(self, id: str) -> Session | None:
        self._listen()
        key = self._key(id)
        held = await self.remember.get(key, extend_s=self._extension(id))
        found = self._read(id, held)
        if held is not None and found is None:
            # Somebody else put that there.
            found = self._read(id, await self.remember.get(key, at_least=held.revision + 1))
        if held is None or found is None:
            return None
        session, head = found
        now_ms = us_of(self._clock) // 1_000
        unseen_ms = now_ms - head.seen
        if now_ms >= head.ends_ms or unseen_ms >= self._step_ms + self._idle_ms:
            return None
        if unseen_ms >= self._step_ms and self._clock.monotonic() >= self._touch_again and id not in self._touching:
            # Nobody waits for it: what is believed is believed now, and this is for later.
            task = asyncio.get_running_loop().create_task(self._touch(key, id, held.revision), name="palaver-session")
            self._touching[id] = task
            task.add_done_callback(lambda _: self._touching.pop(id, None))
        return session

    def _extension(self, id: str) -> float | None:
        """Return for how long a copy is to live on, None where this process had it live on just before: that costs a command."""
        now = self._clock.monotonic()
        if now - self._extended.get(id, -self._idle_s) < self._idle_s / _EXTENSIONS_PER_IDLE:
            return None
        self._extended[id] = now
        return self._idle_s

    async def update(self, session: Session, payload: Payload) -> Session:
        plain_payload(payload)
        self._listen()
        now, key = self._clock.now(), self._key(session.id)
        if now >= session.ends:
            raise NotFound("The session has ended.")
        try:
            record = await self._store.patch(
                self._entity.at(session.user, session.id),
                set={**self._seen(now, session.ends), "payload": dict(payload), "version": self._form.version},
                add={"edition": 1},
                when=F("edition") == session.revision,
            )
        except ConditionFailed as error:
            if error.found is None:
                raise NotFound("The session has ended.") from None
            raise Conflict("The session was changed meanwhile.", hint="Read it again and decide anew.") from None
        await self.remember.keep(key, self._held(record))
        return self._session(record)

    async def renew(self, id: str) -> Started | None:
        session = await self.read(id)
        if session is None:
            return None
        token = new_token()
        key = self._key(id_of(token))
        fresh = self._fresh(session.user, id_of(token), session.payload)
        await self._end([id])
        try:
            made = (await self._store.write(Batch().create(fresh).delete(self._entity.at(session.user, id), when=F("edition") > 0)))[0]
        except (ConditionFailed, TransactionCancelled):
            return None
        assert isinstance(made, SessionRecord)
        await self.remember.keep(key, self._held(made))
        return Started(token, self._session(made))

    async def end(self, id: str) -> None:
        await self._end([id])
        record = await self._store.find(self._entity.by_token(id))
        if record is not None:
            await self._store.delete(record.address)

    async def of(self, user: str) -> list[Session]:
        now = self._clock.now()
        alive = [record async for record in self._store.query(self._entity.key(user)) if now < record.ends]
        return [self._session(record) for record in sorted(alive, key=lambda record: record.started, reverse=True)]

    async def end_all(self, user: str, kept: str) -> int:
        ended = 0
        while records := [record async for record in self._store.query(self._entity.key(user)) if record.id != kept]:
            await self._end([record.id for record in records])
            for start in range(0, len(records), _TOGETHER):
                batch = Batch()
                for record in records[start : start + _TOGETHER]:
                    batch = batch.delete(record.address)
                await self._store.write(batch)
            ended += len(records)
        return ended

    async def _end(self, ids: Sequence[str]) -> None:
        """Have the cache forget sessions whose records are about to go: there is no moment in which it serves one that is gone."""
        self._listen()
        with contextlib.suppress(PalaverError):
            await self._forget([((id,), HIGHEST_REVISION) for id in ids])

    # --- what the records say ---------------------------------------------------------------------------------------

    async def _load(self, key: str) -> Held | None:
        """Read a record, and note in it that it is used where that is due; None where it is idle too long or too old."""
        record = await self._store.find(self._entity.by_token(key.partition(" ")[2]))
        now = self._clock.now()
        if record is None or now >= record.ends or now - record.last_seen >= self._idle:
            return None
        if now - record.last_seen >= self._step and self._clock.monotonic() >= self._touch_again:
            try:
                record = await self._touched(record, now)
            except PalaverError as error:
                if isinstance(error, Validation | ConfigError):
                    raise
                # While the records take no writes, nobody ends sessions either.
                self._untouched_for_now()
        return None if record is None else self._held(record)

    async def _touched(self, record: SessionRecord, now: datetime) -> SessionRecord | None:
        """Note that a session is used; return the record as it is then, None where it has ended."""
        try:
            touched = await self._store.patch(record.address, set=self._seen(now, record.ends), when=F("last_seen") < now - self._step / 2)
        except ConditionFailed as error:
            found = error.found
            assert found is None or isinstance(found, SessionRecord)
            return found
        self._touches += 1
        return touched

    async def _touch(self, key: str, id: str, revision: int) -> None:
        """Compare a copy with its record, which notes the use."""
        try:
            if await self.remember.get(key, at_least=revision + 1) is None:
                await self._end([id])
        except PalaverError:
            self._untouched_for_now()

    def _untouched_for_now(self) -> None:
        self._untouched += 1
        self._touch_again = self._clock.monotonic() + _UNTOUCHED_S

    # --- forms ------------------------------------------------------------------------------------------------------

    def _held(self, record: SessionRecord) -> Held:
        return Held(packed_copy(self._session(record), self._form.version, record.last_seen), record.revision)

    def _read(self, id: str, held: Held | None) -> tuple[Session, Head] | None:
        """Return the session of a copy, and what the copy says of itself."""
        copy = None if held is None else unpacked(held.value)
        if copy is None or copy.head.id != id:
            return None
        session = self._form.session(id, copy, copy.head.edition)
        return None if session is None else (session, copy.head)

    def _fresh(self, user: str, id: str, payload: Payload) -> SessionRecord:
        plain_payload(payload)
        now = self._clock.now()
        ends = now + timedelta(seconds=self._absolute_s)
        whose: dict[str, Any] = {self._tenant: self._store.tenant} if self._tenant else {}
        asked: dict[str, Any] = {**whose, **self._seen(now, ends), "payload": dict(payload), "version": self._form.version}
        return self._entity(user=user, id=id, started=now, ends=ends, **asked)

    def _seen(self, now: datetime, ends: datetime) -> dict[str, Any]:
        # The record knows of the last use only up to a step, so it outlives it by as much.
        return {"last_seen": now, "expires": min(ends, now + self._idle + self._step)}

    def _session(self, record: SessionRecord) -> Session:
        payload = self._form.current(record.version, dict(record.payload))
        return Session(record.id, record.user, record.started, record.ends, record.edition, payload)
