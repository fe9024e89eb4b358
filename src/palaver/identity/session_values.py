"""A session as its holders see it, and its form in the cache."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeGuard

import orjson

from palaver.clock import from_ms, to_ms
from palaver.errors import NotProvisioned, Validation

Payload = Mapping[str, Any]
Upgrade = Callable[[int, dict[str, Any]], dict[str, Any]]
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


class Session(NamedTuple):
    """A session as it was read. `id` is the hash of its token: it names the session in lists and opens nothing."""

    id: str
    user: str
    started: datetime
    ends: datetime
    revision: int
    payload: Payload

    def __repr__(self) -> str:
        return f"Session(id={self.id!r}, user={self.user!r}, started={self.started!r}, ends={self.ends!r}, revision={self.revision})"


class Started(NamedTuple):
    """A new session and its token, which is shown this once and kept nowhere."""

    token: str
    session: Session

    def __repr__(self) -> str:
        return f"Started(session={self.session!r})"


class Head(NamedTuple):
    """What a copy in the cache begins with; instants in milliseconds too, as they are stored.

    That of a session with a record says also which edition it is, when the record was last seen, and whose copy it is.
    """

    version: int
    user: str
    started: datetime
    ends: datetime
    ends_ms: int
    edition: int
    seen: int
    id: str


class Copy(NamedTuple):
    """What the cache has of a session."""

    head: Head
    payload: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """The shape of the payloads this program writes, and how older ones are brought into it."""

    version: int
    upgrade: Upgrade | None

    def session(self, id: str, copy: Copy, edition: int) -> Session | None:
        """Return the session of a copy, None where its payload is none of ours; raises NotProvisioned for that of a newer program."""
        try:
            payload = orjson.loads(copy.payload)
        except ValueError:
            return None
        head = copy.head
        if head.version != self.version:
            payload = self.current(head.version, payload)
        # A third of what the constructor costs, and made for every read.
        return tuple.__new__(Session, (id, head.user, head.started, head.ends, edition, payload))

    def current(self, version: int, payload: dict[str, Any]) -> dict[str, Any]:
        if version > self.version:
            raise NotProvisioned("The session was written by a newer program.", hint="Update the program.")
        return self.upgrade(version, payload) if version < self.version and self.upgrade is not None else payload


def new_token() -> str:
    return secrets.token_urlsafe(32)


def is_token(token: object) -> TypeGuard[str]:
    """Say whether it looks like one; what a request lacks, or holds as another type, does not."""
    return isinstance(token, str) and _TOKEN.fullmatch(token) is not None


def id_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def plain_payload(payload: Payload) -> bytes:
    try:
        return orjson.dumps(payload)
    except (TypeError, ValueError):
        raise Validation("The payload of a session is not JSON.") from None


def packed(session: Session, version: int) -> bytes:
    """Return the form of a session that is in the cache alone."""
    payload = plain_payload(session.payload)
    return orjson.dumps([version, session.user, to_ms(session.started), to_ms(session.ends)]) + b"\n" + payload


def packed_copy(session: Session, version: int, seen: datetime) -> bytes:
    """Return the form of a session that has a record."""
    head = [version, session.user, to_ms(session.started), to_ms(session.ends), session.revision, to_ms(seen), session.id]
    return orjson.dumps(head) + b"\n" + plain_payload(session.payload)


def unpacked(value: bytes) -> Copy | None:
    """Return what a value says; None for what another program put there."""
    text, _, payload = value.partition(b"\n")
    head = _head(text)
    return None if head is None else tuple.__new__(Copy, (head, payload))


@lru_cache(maxsize=10_000)
def _head(text: bytes) -> Head | None:
    """Return what a head says. A session in use is read again and again, and its head stays the same for minutes."""
    try:
        match orjson.loads(text):
            case [int(version), str(user), int(started), int(ends)]:
                return Head(version, user, from_ms(started), from_ms(ends), ends, 0, 0, "")
            case [int(version), str(user), int(started), int(ends), int(edition), int(seen), str(id)]:
                return Head(version, user, from_ms(started), from_ms(ends), ends, edition, seen, id)
    except (ValueError, OverflowError):
        pass
    return None
