"""Sessions whose truth is in the records, and which the cache serves.

A copy in the cache is believed while it is certain that the cache was told of every ending. A cache that was out of reach may not
have been: so each copy carries the epoch it was put in, and whoever connects to the cache anew begins another epoch. Copies of an
older one are compared with the record once before they are believed again. What this process could not tell the cache it
remembers, and tells before it believes anything; what other processes changed the feed tells.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeVar

from pydantic import Field

from palaver.batch import Batch
from palaver.caching import HIGHEST_REVISION, checked_name
from palaver.clock import us_of
from palaver.entity import Entity
from palaver.errors import ConditionFailed, ConfigError, Conflict, NotFound, PalaverError, StorageFull, TransactionCancelled, Validation
from palaver.expr import F
from palaver.following import Subscription, Wrote
from palaver.identity.session_values import (
    Copy,
    Form,
    Payload,
    Session,
    Started,
    id_of,
    new_token,
    packed_copy,
    plain_payload,
    unpacked,
)
from palaver.keys import Key, Unique
from palaver.markers import Expires, Expiry, InstantMs, Json, Personal, Subject
from palaver.ops import Change
from palaver.ports import Cache
from palaver.store import Store

T = TypeVar("T")
_EPOCH = "@epoch"
_EPOCH_TTL_S = 400 * 86_400.0
_FENCE_S = 600.0
_TOGETHER = 20
_TOUCHES_PER_IDLE = 10
_UNTOUCHED_S = 1.0
_MOST_OWED = 1_000
"""Sessions the cache has yet to forget, that are remembered one by one; after more of them every copy is compared with its record."""


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


@dataclass(slots=True)
class SessionFigures:
    """What became of the reads: answered by the cache, or by how many loads; records touched, and not touched because the records
    were away; calls in which the cache was no help; copies that were compared with the record because of their epoch."""

    hits: int = 0
    loads: int = 0
    touches: int = 0
    untouched: int = 0
    away: int = 0
    doubted: int = 0


class RecordedSessions:
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
        self.entities: Sequence[type[Entity]] = (entity,)
        self.figures = SessionFigures()
        self._cache, self._values, self._store = cache, cache.values(checked_name(kind)), store
        self._entity, self._table, self._clock = entity, declared.table.name, store.clock
        self._tenant = declared.tenant.name if declared.tenant else ""
        self._idle_s, self._absolute_s, self._form = idle_s, absolute_s, form
        self._idle, self._step = timedelta(seconds=idle_s), timedelta(seconds=idle_s / _TOUCHES_PER_IDLE)
        self._step_ms = int(idle_s * 1_000 / _TOUCHES_PER_IDLE)
        self._epoch, self._made = "", -1
        self._beginning = asyncio.Lock()
        self._turns = asyncio.Semaphore(at_most)
        self._waiting: dict[str, asyncio.Task[Session | None]] = {}
        self._loading: dict[str, asyncio.Task[Session | None]] = {}
        # What the cache has to be told; `_late`: telling it was tried, and failed.
        self._owed: dict[str, int] = {}
        self._late = False
        self._touch_again = 0.0
        self._subscription: Subscription | None = None

    # --- verbs ------------------------------------------------------------------------------------------------------

    async def start(self, user: str, payload: Payload) -> Started:
        self._follow()
        token, epoch = new_token(), await self._known_epoch()
        record = await self._store.create(self._fresh(user, id_of(token), payload))
        await self._keep(record, epoch)
        return Started(token, self._session(record))

    async def read(self, id: str) -> Session | None:
        self._follow()
        copy = await self._believed(id)
        if copy is None:
            return await self._loaded(id)
        now, head = us_of(self._clock) // 1_000, copy.head
        if now >= head.ends_ms or now - head.seen >= self._step_ms + self._idle_s * 1_000:
            return None
        session = self._form.session(id, copy, head.edition)
        if session is None:
            return await self._loaded(id)
        if now - head.seen >= self._step_ms and self._clock.monotonic() >= self._touch_again and id not in self._loading:
            # Nobody waits for it: what is believed is believed now, and this is for later.
            self._begin(id, session)
        self.figures.hits += 1
        return session

    async def update(self, session: Session, payload: Payload) -> Session:
        plain_payload(payload)
        now = self._clock.now()
        if now >= session.ends:
            raise NotFound("The session has ended.")
        epoch = await self._known_epoch()
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
        if not await self._keep(record, epoch):
            # Whatever the cache has is older, and nobody may go on reading it.
            await self._forget(session.id, record.revision)
        return self._session(record)

    async def renew(self, id: str) -> Started | None:
        session = await self.read(id)
        if session is None:
            return None
        token, epoch = new_token(), await self._known_epoch()
        fresh = self._fresh(session.user, id_of(token), session.payload)
        await self._forget(id, HIGHEST_REVISION)
        try:
            made = (await self._store.write(Batch().create(fresh).delete(self._entity.at(session.user, id), when=F("edition") > 0)))[0]
        except (ConditionFailed, TransactionCancelled):
            return None
        assert isinstance(made, SessionRecord)
        await self._keep(made, epoch)
        return Started(token, self._session(made))

    async def end(self, id: str) -> None:
        # The cache first: then there is no moment in which the record is gone and the cache serves it.
        await self._forget(id, HIGHEST_REVISION)
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
            await asyncio.gather(*(self._forget(record.id, HIGHEST_REVISION) for record in records))
            for start in range(0, len(records), _TOGETHER):
                batch = Batch()
                for record in records[start : start + _TOGETHER]:
                    batch = batch.delete(record.address)
                await self._store.write(batch)
            ended += len(records)
        return ended

    async def ready(self) -> None:
        self._follow()
        assert self._subscription is not None
        await self._subscription.ready()

    async def aclose(self) -> None:
        """Stop listening, and let loads under way end."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None
        if tasks := {*self._waiting.values(), *self._loading.values()}:
            await asyncio.wait(tasks)

    # --- what the cache is told -------------------------------------------------------------------------------------

    async def _forget(self, id: str, revision: int) -> None:
        """Have the cache forget what is older than a revision, and remember it here where the cache cannot be told."""
        if len(self._owed) >= _MOST_OWED:
            self._owed.clear()
            self._epoch, self._made = "", -1
        self._owed[id] = max(revision, self._owed.get(id, 0))
        await self._told(self._pay(id))

    async def _pay(self, id: str) -> None:
        revision = self._owed[id]
        try:
            try:
                await self._values.delete(id, revision=revision, fence_s=_FENCE_S)
            except StorageFull:
                # A server without room takes no fence, but forgets.
                await self._values.delete(id)
        except BaseException:
            self._late = True
            raise
        if self._owed.get(id) == revision:
            del self._owed[id]

    async def _keep(self, record: SessionRecord, epoch: str) -> bool:
        """Put what a record says into the cache; return whether the cache answered."""
        left = min(self._idle_s, (record.ends - self._clock.now()).total_seconds())
        if not epoch or left <= 0:
            return False
        data = packed_copy(self._session(record), self._form.version, record.last_seen, epoch)
        found = await self._told(self._values.set(record.id, data, ttl_s=left, revision=record.revision))
        return found is not None

    async def _told(self, telling: Awaitable[T]) -> T | None:
        try:
            return await telling
        except PalaverError as error:
            _check_away(error)
            self.figures.away += 1
            return None

    # --- what the cache says ----------------------------------------------------------------------------------------

    async def _believed(self, id: str) -> Copy | None:
        """Return the copy in the cache, if there is one and nothing it does not know of can have happened to the session."""
        try:
            if self._cache.made != self._made or self._late:
                await self._begin_epoch()
            held = await self._values.get(id, extend_s=self._idle_s)
            copy = None if held is None else unpacked(held.value)
            if copy is None:
                return None
            if copy.head.epoch != self._epoch:
                # Another process may have connected later than this one, and said so.
                told = await self._values.get(_EPOCH)
                if told is not None and told.value.decode(errors="replace") == copy.head.epoch:
                    self._epoch = copy.head.epoch
        except PalaverError as error:
            _check_away(error)
            self.figures.away += 1
            return None
        # Asked after the answer: it may have come over a connection that is newer than the epoch.
        if copy.head.epoch != self._epoch or self._cache.made != self._made or id in self._owed:
            self.figures.doubted += 1
            return None
        return copy

    async def _known_epoch(self) -> str:
        """Return the epoch that what is read from the records now may be put in; none while the cache is away."""
        if self._cache.made == self._made and not self._late:
            return self._epoch
        return self._epoch if await self._told(self._begin_epoch()) else ""

    async def _begin_epoch(self) -> bool:
        """Tell the cache what it was not told, and begin an epoch if this process connected anew."""
        async with self._beginning:
            if self._late:
                self._late = False
                for id in list(self._owed):
                    if id in self._owed:
                        await self._pay(id)
            while self._cache.made != self._made:
                made, epoch = self._cache.made, secrets.token_hex(8)
                await self._values.set(_EPOCH, epoch.encode(), ttl_s=_EPOCH_TTL_S)
                if self._cache.made == made:
                    self._epoch, self._made = epoch, made
        return True

    # --- what the records say ---------------------------------------------------------------------------------------

    async def _loaded(self, id: str) -> Session | None:
        """Read the record: one load for all who ask before it begins."""
        return await asyncio.shield(self._begin(id, None))

    def _begin(self, id: str, session: Session | None) -> asyncio.Task[Session | None]:
        task = self._waiting.get(id)
        if task is None:
            before = self._loading.get(id)
            task = asyncio.get_running_loop().create_task(self._load(id, session, before), name="palaver-session")
            self._waiting[id] = task
            task.add_done_callback(_seen_to)
        return task

    async def _load(self, id: str, session: Session | None, before: asyncio.Task[Any] | None) -> Session | None:
        this = asyncio.current_task()
        assert this is not None
        try:
            if before is not None:
                await asyncio.wait([before])
            async with self._turns:
                # From here on nobody joins: who comes later may know of an ending that this load does not.
                self._loading[id] = self._waiting.pop(id)
                if session is not None:
                    try:
                        return await self._touched(session)
                    except PalaverError as error:
                        self._untouched(error)
                return await self._read_record(id)
        finally:
            for tasks in (self._waiting, self._loading):
                if tasks.get(id) is this:
                    del tasks[id]

    async def _read_record(self, id: str) -> Session | None:
        epoch, begun = await self._known_epoch(), self._clock.monotonic()
        self.figures.loads += 1
        record = await self._store.find(self._entity.by_token(id))
        now = self._clock.now()
        if record is None or now >= record.ends or now - record.last_seen >= self._idle:
            return None
        if now - record.last_seen >= self._step and self._clock.monotonic() >= self._touch_again:
            try:
                return await self._touched(self._session(record))
            except PalaverError as error:
                self._untouched(error)
        # Past its time a fence no longer tells that the session has ended since.
        if self._clock.monotonic() - begun < _FENCE_S / 2:
            await self._keep(record, epoch)
        return self._session(record)

    async def _touched(self, session: Session) -> Session | None:
        """Note in the record that the session is used; None where it has ended."""
        epoch, begun, now = await self._known_epoch(), self._clock.monotonic(), self._clock.now()
        try:
            record = await self._store.patch(
                self._entity.at(session.user, session.id),
                set=self._seen(now, session.ends),
                when=F("last_seen") < now - self._step / 2,
            )
            self.figures.touches += 1
        except ConditionFailed as error:
            if error.found is None:
                await self._forget(session.id, HIGHEST_REVISION)
                return None
            record = error.found
        if self._clock.monotonic() - begun < _FENCE_S / 2:
            await self._keep(record, epoch)
        return self._session(record)

    def _untouched(self, error: PalaverError) -> None:
        """Go on without a touch, for a moment: while the records take no writes, nobody ends sessions either."""
        _check_away(error)
        self.figures.untouched += 1
        self._touch_again = self._clock.monotonic() + _UNTOUCHED_S

    def _fresh(self, user: str, id: str, payload: Payload) -> SessionRecord:
        plain_payload(payload)
        now = self._clock.now()
        ends = now + timedelta(seconds=self._absolute_s)
        whose: dict[str, Any] = {self._tenant: self._store._tenant} if self._tenant else {}
        asked: dict[str, Any] = {**whose, **self._seen(now, ends), "payload": dict(payload), "version": self._form.version}
        return self._entity(user=user, id=id, started=now, ends=ends, **asked)

    def _seen(self, now: datetime, ends: datetime) -> dict[str, Any]:
        # The record knows of the last use only up to a step, so it outlives it by as much.
        return {"last_seen": now, "expires": min(ends, now + self._idle + self._step)}

    def _session(self, record: SessionRecord) -> Session:
        payload = self._form.current(record.version, dict(record.payload))
        return Session(record.id, record.user, record.started, record.ends, record.edition, payload)

    # --- what other processes do ------------------------------------------------------------------------------------

    def _follow(self) -> None:
        if self._subscription is None:
            self._subscription = self._store.following.add(self)

    async def wrote(self, writes: Sequence[Wrote]) -> None:
        """Forget what this process changed in the records by other ways."""
        for write in writes:
            if not write.created and write.at.table == self._table:
                await self._forget(str(write.at.key[-1]), HIGHEST_REVISION if write.revision is None else write.revision)

    async def changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.table == self._table and change.kind != "created":
                await self._forget(str(change.key[-1]), change.revision if change.kind == "updated" else HIGHEST_REVISION)

    async def missed(self) -> None:
        """Believe no copy until it was compared with its record."""
        self._epoch, self._made = "", -1


def _check_away(error: PalaverError) -> None:
    """Raise what is a mistake of the caller's; everything else means that the cache is away."""
    if isinstance(error, Validation | ConfigError):
        raise error


def _seen_to(task: asyncio.Task[Any]) -> None:
    """Look at an error: its callers may all have gone."""
    if not task.cancelled():
        task.exception()
