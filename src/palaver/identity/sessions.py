"""Sessions: a secret that only its holder knows, and what is remembered for it until it is idle too long, too old or ended.

They live in the cache alone. What must outlive the cache belongs into records.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from palaver.caching import ABSENT, HIGHEST_REVISION, Held, checked_name
from palaver.clock import Clock, SystemClock, from_ms, to_ms
from palaver.errors import ConfigError, Conflict, NotFound, NotProvisioned, Validation
from palaver.ports import Cache

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_MOST = 1_000

Payload = Mapping[str, Any]
Upgrade = Callable[[int, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Session:
    """A session as it was read. `id` is the hash of its token: it names the session in lists and opens nothing."""

    id: str
    user: str
    started: datetime
    ends: datetime
    revision: int
    payload: Payload = field(repr=False)


class Started(NamedTuple):
    """A new session and its token, which is shown this once and kept nowhere."""

    token: str
    session: Session

    def __repr__(self) -> str:
        return f"Started(session={self.session!r})"


class Sessions:
    """Sessions of one kind. Times are the application's own: an idle one is forgotten by the cache, an old one refused here.

    `version` is the shape of the payloads this program writes; `upgrade(version, payload)` brings older ones into it. A payload
    of a newer program is NotProvisioned. With the cache away every method raises what it raises: nobody is let in on a guess.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        kind: str = "session",
        idle_s: float = 3_600.0,
        absolute_s: float = 86_400.0,
        version: int = 1,
        upgrade: Upgrade | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not 0 < idle_s <= absolute_s:
            raise ConfigError("A session may be idle for more than 0 seconds, and not for longer than it lives.")
        self._values, self._presence = cache.values(checked_name(kind)), cache.presence
        self._kind, self._idle_s, self._absolute_s = kind, idle_s, absolute_s
        self._version, self._upgrade, self._clock = version, upgrade, clock or SystemClock()

    async def start(self, user: str, payload: Payload | None = None) -> Started:
        """Begin a session and return its token. Raises Conflict when all of the user's sessions were ended meanwhile."""
        if not user:
            raise Validation("A session belongs to somebody.")
        token = secrets.token_urlsafe(32)
        now = to_ms(self._clock.now())
        session = Session(_id(token), user, from_ms(now), from_ms(now + int(self._absolute_s * 1_000)), 1, dict(payload or {}))
        data = self._packed(session)
        # Listed before it is there, so that whoever ends all of a user's sessions knows of it.
        await self._presence.touch(session.id, [self._channel(user)], ttl_s=self._absolute_s)
        if not await self._values.set(session.id, data, ttl_s=self._idle_s, revision=1, expected=ABSENT):
            raise Conflict("The sessions of this user were ended while this one began.")
        return Started(token, session)

    async def read(self, token: str) -> Session | None:
        """Return the session of a token and let it live on, in one round trip; None when it is unknown, idle too long, too old or ended."""
        if not _TOKEN.fullmatch(token):
            return None
        id = _id(token)
        return self._read(id, await self._values.get(id, extend_s=self._idle_s))

    async def update(self, session: Session, payload: Payload) -> Session:
        """Replace the payload of a session as it was read.

        Raises Conflict when somebody replaced it meanwhile: read it again; NotFound when it has ended.
        """
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
        session = await self.read(token)
        if session is None:
            return None
        started = await self.start(session.user, session.payload)
        await self.end(token)
        return started

    async def end(self, token: str) -> None:
        """End a session; nobody reads it any more when this returns."""
        if not _TOKEN.fullmatch(token):
            return
        id = _id(token)
        held = await self._values.get(id)
        await self._end(id)
        if held is not None and (head := _head(held)):
            await self._presence.leave(id, [self._channel(head.user)])

    async def of(self, user: str) -> list[Session]:
        """Return the sessions of a user, the newest first; a thousand at most."""
        ids = [present.member for present in await self._presence.present(self._channel(user), limit=_MOST)]
        read = [self._read(id, held) for id, held in zip(ids, await self._values.get_many(ids), strict=True)]
        return sorted((session for session in read if session and session.user == user), key=lambda session: session.started, reverse=True)

    async def end_all(self, user: str, *, besides: str = "") -> int:
        """End the sessions of a user, those just beginning included, `besides` the one of this token; return how many there were."""
        kept, ended = _id(besides) if besides else "", 0
        while ids := [
            present.member for present in await self._presence.present(self._channel(user), limit=_MOST) if present.member != kept
        ]:
            for id in ids:
                ended += await self._values.get(id) is not None
                await self._end(id)
                await self._presence.leave(id, [self._channel(user)])
        return ended

    async def _end(self, id: str) -> None:
        # Behind a fence that nothing passes, whoever is about to write the session cannot bring it back.
        await self._values.delete(id, revision=HIGHEST_REVISION, fence_s=min(self._absolute_s, 600.0))

    def _channel(self, user: str) -> str:
        return f"{self._kind}@{user}"

    def _packed(self, session: Session) -> bytes:
        try:
            payload = orjson.dumps(session.payload)
        except (TypeError, ValueError):
            raise Validation("The payload of a session is not JSON.") from None
        return orjson.dumps([*_Head(self._version, session.user, to_ms(session.started), to_ms(session.ends))]) + b"\n" + payload

    def _read(self, id: str, held: Held | None) -> Session | None:
        """Return what a value says; what is no session of ours, or too old, is none."""
        if held is None:
            return None
        head = _head(held)
        if head is None or to_ms(self._clock.now()) >= head.ends:
            return None
        if head.version > self._version:
            raise NotProvisioned("The session was written by a newer program.", hint="Update the program.")
        try:
            payload = orjson.loads(held.value.partition(b"\n")[2])
        except ValueError:
            return None
        if head.version < self._version and self._upgrade is not None:
            payload = self._upgrade(head.version, payload)
        return Session(id, head.user, from_ms(head.started), from_ms(head.ends), held.revision, payload)


class _Head(NamedTuple):
    """What a stored session begins with; the payload follows on a line of its own."""

    version: int
    user: str
    started: int
    ends: int


def _head(held: Held) -> _Head | None:
    """Return the head of a stored session; None for what another program put there."""
    try:
        match orjson.loads(held.value.partition(b"\n")[0]):
            case [int(version), str(user), int(started), int(ends)]:
                return _Head(version, user, started, ends)
    except ValueError:
        pass
    return None


def _id(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
