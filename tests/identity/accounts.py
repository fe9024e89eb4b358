"""What the tests of sessions declare, and how they open it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from urllib.parse import quote

import palaver
from palaver import Entity, Key, Schema, Store, Subject, Tenant
from palaver.clock import Clock, SystemClock
from palaver.identity.sessions import SessionRecord, Sessions


class Login(SessionRecord, table="sessions"):
    pass


class User(Entity, table="users"):
    user: Annotated[str, Subject()]
    key = Key("user")


class OrgLogin(SessionRecord, table="org-sessions"):
    org: Annotated[str, Tenant()]


ACCOUNTS = Schema("accounts", [User, Login])
ORGS = Schema("orgs", [OrgLogin])


def with_cache(url: str, cache: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}cache={quote(cache, safe='')}"


@asynccontextmanager
async def process(url: str, cache: str = "memory", clock: Clock | None = None, **options: Any) -> AsyncIterator[tuple[Store, Sessions]]:
    """A process, as far as stores and caches can tell."""
    async with palaver.open(with_cache(url, cache), schema=ACCOUNTS, clock=clock or SystemClock(), migrate=True, maintain=False) as store:
        sessions = Sessions(store.cache, store=store, entity=Login, **options)
        await sessions.ready()
        yield store, sessions
        await sessions.aclose()


def cached(sessions: Sessions, id: str) -> str:
    """Return the key under which the cache has a session now."""
    kept = sessions._recorded
    assert kept is not None
    return kept._in_step._name(kept._key(id))


async def in_use(sessions: Sessions, token: str) -> bool:
    """Read a session twice; say whether the cache answered."""
    await sessions.read(token)
    hits = sessions.figures.hits
    await sessions.read(token)
    return sessions.figures.hits > hits
