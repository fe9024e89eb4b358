"""Sessions: a secret that only its holder knows, and what is remembered for it until it is idle too long, too old or ended.

They live in the cache alone, or in records that the cache serves.
"""

from __future__ import annotations

import asyncio

from palaver.caching import ABSENT, HIGHEST_REVISION, Held, checked_name
from palaver.clock import Clock, SystemClock, from_ms, to_ms, us_of
from palaver.errors import ConfigError, Conflict, NotFound, Validation
from palaver.identity.session_records import RecordedSessions, SessionFigures, SessionRecord
from palaver.identity.session_values import (
    Form,
    Payload,
    Session,
    Started,
    Upgrade,
    id_of,
    is_token,
    new_token,
    packed,
    unpacked,
)
from palaver.ports import Cache
from palaver.store import Store

__all__ = ["Payload", "Session", "SessionFigures", "SessionRecord", "Sessions", "Started", "Upgrade"]
_MOST = 1_000
_TOGETHER = 100


class Sessions:
    """Sessions of one kind. Times are the application's own.

    With an `entity` derived from SessionRecord each session is a record: starting, changing and ending it writes the record, in one
    atomic write with its expiry, and the cache serves the reads. Ended means that nobody reads it any more, on a cache that several
    processes share at once; of a process that serves from memory of its own, or while the cache cannot be told, within a second.
    While the cache is away the records answer, with at most `at_most` loads at once. About ten times per idle timeout a session
    that is used is noted as used in its record, and compared with it.

    Without an entity sessions live in the cache alone: with the cache away every method raises what it raises, and nobody is let
    in on a guess.

    `version` is the shape of the payloads this program writes; `upgrade(version, payload)` brings older ones into it. A payload
    of a newer program is NotProvisioned.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        store: Store | None = None,
        entity: type[SessionRecord] | None = None,
        kind: str = "session",
        idle_s: float = 3_600.0,
        absolute_s: float = 86_400.0,
        version: int = 1,
        upgrade: Upgrade | None = None,
        clock: Clock | None = None,
        at_most: int = 32,
    ) -> None:
        if not 0 < idle_s <= absolute_s:
            raise ConfigError("A session may be idle for more than 0 seconds, and not for longer than it lives.")
        if (store is None) != (entity is None):
            raise ConfigError("Sessions with records have a store and an entity.", hint="Derive one from SessionRecord.")
        self._values, self._presence = cache.values(checked_name(kind)), cache.presence
        self._kind, self._idle_s, self._absolute_s = kind, idle_s, absolute_s
        self._form, self._clock = Form(version, upgrade), clock or (store.clock if store else SystemClock())
        self._recorded: RecordedSessions | None = None
        if store is not None and entity is not None:
            self._recorded = RecordedSessions(
                cache, store, entity, kind=kind, idle_s=idle_s, absolute_s=absolute_s, form=self._form, at_most=at_most
            )

    @property
    def recorded(self) -> bool:
        """Whether their truth is in records, and the cache only serves them."""
        return self._recorded is not None

    @property
    def figures(self) -> SessionFigures:
        """What became of the reads; all zero for sessions that live in the cache alone, which counts itself."""
        return SessionFigures() if self._recorded is None else self._recorded.figures

    async def ready(self) -> None:
        """Return when the cache is in use; before that the records answer. Waits for as long as the cache is away."""
        if self._recorded is not None:
            await self._recorded.ready()

    async def aclose(self) -> None:
        """Stop listening for what other processes end, and let loads under way end; the cache and the store stay open."""
        if self._recorded is not None:
            await self._recorded.aclose()

    async def start(self, user: str, payload: Payload | None = None) -> Started:
        """Begin a session and return its token. Raises Conflict when all of the user's sessions were ended meanwhile."""
        if not user:
            raise Validation("A session belongs to somebody.")
        if self._recorded is not None:
            return await self._recorded.start(user, payload or {})
        token = new_token()
        now = to_ms(self._clock.now())
        session = Session(id_of(token), user, from_ms(now), from_ms(now + int(self._absolute_s * 1_000)), 1, dict(payload or {}))
        data = self._packed(session)
        # Listed before it is there, so that whoever ends all of a user's sessions knows of it.
        await self._presence.touch(session.id, [self._channel(user)], ttl_s=self._absolute_s)
        if not await self._values.set(session.id, data, ttl_s=self._idle_s, revision=1, expected=ABSENT):
            raise Conflict("The sessions of this user were ended while this one began.")
        return Started(token, session)

    async def read(self, token: str) -> Session | None:
        """Return the session of a token and let it live on, in one round trip; None when it is unknown, idle too long, too old or ended."""
        if not is_token(token):
            return None
        id = id_of(token)
        if self._recorded is not None:
            return await self._recorded.read(id)
        return self._read(id, await self._values.get(id, extend_s=self._idle_s))

    async def update(self, session: Session, payload: Payload) -> Session:
        """Replace the payload of a session as it was read.

        Raises Conflict when somebody replaced it meanwhile: read it again; NotFound when it has ended.
        """
        if self._recorded is not None:
            return await self._recorded.update(session, payload)
        if self._clock.now() >= session.ends:
            raise NotFound("The session has ended.")
        changed = Session(session.id, session.user, session.started, session.ends, session.revision + 1, dict(payload))
        data = self._packed(changed)
        if await self._values.set(session.id, data, ttl_s=self._idle_s, revision=changed.revision, expected=session.revision):
            return changed
        if self._read(session.id, await self._values.get(session.id)) is None:
            raise NotFound("The session has ended.")
        raise Conflict("The session was changed meanwhile.", hint="Read it again and decide anew.")

    async def renew(self, token: str) -> Started | None:
        """Give the session a new token, and end the old one: at a login, and whenever rights change."""
        if self._recorded is not None:
            return await self._recorded.renew(id_of(token)) if is_token(token) else None
        session = await self.read(token)
        if session is None:
            return None
        started = await self.start(session.user, session.payload)
        await self.end(token)
        return started

    async def end(self, token: str) -> None:
        """End a session; nobody reads it any more when this returns."""
        if is_token(token):
            await self.end_by_id(id_of(token))

    async def end_by_id(self, id: str) -> None:
        """End the session of that `Session.id`, as `of` lists them: for whoever knows no token."""
        if self._recorded is not None:
            await self._recorded.end(id)
            return
        held = await self._values.get(id)
        await self._end(id)
        if held is not None and (copy := unpacked(held.value)):
            await self._presence.leave(id, [self._channel(copy.head.user)])

    async def of(self, user: str) -> list[Session]:
        """Return the sessions of a user, the newest first; of those in the cache alone a thousand at most."""
        if self._recorded is not None:
            return await self._recorded.of(user)
        ids = [present.member for present in await self._presence.present(self._channel(user), limit=_MOST)]
        read = [self._read(id, held) for id, held in zip(ids, await self._values.get_many(ids), strict=True)]
        return sorted((session for session in read if session and session.user == user), key=lambda session: session.started, reverse=True)

    async def end_all(self, user: str, *, besides: str = "") -> int:
        """End the sessions of a user, those just beginning included, `besides` the one of this token; return how many there were."""
        kept, ended = id_of(besides) if besides else "", 0
        if self._recorded is not None:
            return await self._recorded.end_all(user, kept)
        while ids := [
            present.member for present in await self._presence.present(self._channel(user), limit=_MOST) if present.member != kept
        ]:
            for start in range(0, len(ids), _TOGETHER):
                ended += sum(await asyncio.gather(*(self._end_of(user, id) for id in ids[start : start + _TOGETHER])))
        return ended

    async def _end_of(self, user: str, id: str) -> bool:
        """End one session of a user; say whether it was there."""
        held = await self._values.get(id)
        await self._end(id)
        await self._presence.leave(id, [self._channel(user)])
        return held is not None

    async def _end(self, id: str) -> None:
        # Behind a fence that nothing passes, whoever is about to write the session cannot bring it back.
        await self._values.delete(id, revision=HIGHEST_REVISION, fence_s=min(self._absolute_s, 600.0))

    def _channel(self, user: str) -> str:
        return f"{self._kind}@{user}"

    def _packed(self, session: Session) -> bytes:
        return packed(session, self._form.version)

    def _read(self, id: str, held: Held | None) -> Session | None:
        """Return what a value says; what is no session of ours, or too old, is none."""
        if held is None:
            return None
        copy = unpacked(held.value)
        if copy is None or copy.head.id or us_of(self._clock) // 1_000 >= copy.head.ends_ms:
            return None
        return self._form.session(id, copy, held.revision)
