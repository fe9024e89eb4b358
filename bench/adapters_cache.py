"""Palaver's cache as a peer in W3 of the comparison harness: limits and sessions, on Redis and in process.

`fixed` and `mem_fixed` are our token bucket, because there is no fixed window here: it lets twice the limit through at its edge.
A session is one value with its expiry, JSON in and out. In process a limit is checked as the other libraries there do it, by a
plain call, and, as "palaver-memory-await", through the port.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson

import palaver
from palaver import Schema
from palaver.cache.memory import MemoryCache
from palaver.cache.redis import RedisCache
from palaver.caching import Limit, Take
from palaver.identity.sessions import SessionRecord, Sessions
from palaver.limits import Limits, Rule

BUCKET = Limit("minute", 60, 60)
WINDOW = Limit("sliding", 60, 60, "window")
WINDOWS = (BUCKET, Limit("hour", 1_000, 3_600), Limit("day", 10_000, 86_400))


class RedisPalaver:
    name, aio = "palaver-redis", True
    notes = "palaver on Redis: token bucket, sliding window in 16 slices, three rules in one script; sessions as JSON with expiry"

    async def open(self, port: int) -> None:
        self.cache = RedisCache(f"redis://127.0.0.1:{port}")
        self.take = self.cache.limiter.take
        self.sessions = self.cache.values("session")

    async def fixed(self, user: str) -> bool:
        return (await self.take(Take(BUCKET, user))).allowed

    async def sliding(self, user: str) -> bool:
        return (await self.take(Take(WINDOW, user))).allowed

    async def three(self, user: str) -> bool:
        minute, hour, day = WINDOWS
        return (await self.take(Take(minute, user), Take(hour, user), Take(day, user))).allowed

    async def sess_set(self, sid: str, mapping: dict[str, str]) -> None:
        await self.sessions.set(sid, orjson.dumps(mapping), ttl_s=3_600)

    async def sess_get(self, sid: str) -> Any:
        held = await self.sessions.get(sid)
        return orjson.loads(held.value) if held else None

    async def sess_touch(self, sid: str) -> Any:
        held = await self.sessions.get(sid, extend_s=3_600)
        return orjson.loads(held.value) if held else None

    async def close(self) -> None:
        await self.cache.aclose()


RULES = {
    "fixed": [Rule(BUCKET)],
    "sliding": [Rule(WINDOW)],
    "three": [Rule(limit) for limit in WINDOWS],
}


class RedisLimits:
    name, aio = "palaver-limits", True
    notes = "palaver.limits on Redis: declared rules, subjects hashed, what is left and when to ask again in the answer"

    async def open(self, port: int) -> None:
        self.cache = RedisCache(f"redis://127.0.0.1:{port}")
        self.check = Limits(self.cache, RULES).check

    async def fixed(self, user: str) -> bool:
        return (await self.check("fixed", user=user)).allowed

    async def sliding(self, user: str) -> bool:
        return (await self.check("sliding", user=user)).allowed

    async def three(self, user: str) -> bool:
        return (await self.check("three", user=user)).allowed

    async def close(self) -> None:
        await self.cache.aclose()


class RedisSessions:
    name, aio = "palaver-sessions", True
    notes = "palaver.identity.sessions on Redis: hashed tokens, two timeouts; a read also lets the session live on"

    async def open(self, port: int) -> None:
        self.cache = RedisCache(f"redis://127.0.0.1:{port}")
        self.sessions = Sessions(self.cache)
        self.tokens: dict[str, str] = {}

    async def sess_set(self, sid: str, mapping: dict[str, str]) -> None:
        self.tokens[sid] = (await self.sessions.start(sid, mapping)).token

    async def sess_get(self, sid: str) -> Any:
        return await self.sessions.read(self.tokens[sid])

    sess_touch = sess_get

    async def close(self) -> None:
        await self.cache.aclose()


class Login(SessionRecord, table="sessions"):
    pass


class RecordedSessions(RedisSessions):
    name = "palaver-sessions-recorded"
    notes = "the same with records as the truth: a read is one trip to Redis, and compared with what this process knows of endings"

    async def open(self, port: int) -> None:
        url = quote(f"redis://127.0.0.1:{port}", safe="")
        self.store = await palaver.open(f"memory:?cache={url}", schema=Schema("bench", [Login]))
        self.sessions = Sessions(self.store.cache, store=self.store, entity=Login)
        self.tokens: dict[str, str] = {}

    async def close(self) -> None:
        await self.sessions.aclose()
        await self.store.aclose()


class MemoryLimits:
    name, aio = "palaver-limits-memory", True
    notes = "palaver.limits in process, awaited as with any engine"

    async def open(self, port: int) -> None:
        self.cache = MemoryCache()
        self.check = Limits(self.cache, RULES).check

    async def mem_fixed(self, user: str) -> bool:
        return (await self.check("fixed", user=user)).allowed

    async def mem_sliding(self, user: str) -> bool:
        return (await self.check("sliding", user=user)).allowed

    async def close(self) -> None:
        await self.cache.aclose()


class MemoryAwaited:
    name, aio = "palaver-memory-await", True
    notes = "palaver in process, through the port: what an application with any engine awaits"

    async def open(self, port: int) -> None:
        self.cache = MemoryCache()
        self.take = self.cache.limiter.take
        self.sessions = self.cache.values("session")

    async def mem_fixed(self, user: str) -> bool:
        return (await self.take(Take(BUCKET, user))).allowed

    async def mem_sliding(self, user: str) -> bool:
        return (await self.take(Take(WINDOW, user))).allowed

    async def mem_session(self, sid: str, mapping: dict[str, str]) -> Any:
        await self.sessions.set(sid, orjson.dumps(mapping), ttl_s=3_600)
        held = await self.sessions.get(sid)
        return orjson.loads(held.value) if held else None

    async def close(self) -> None:
        await self.cache.aclose()


class MemoryPalaver:
    name, aio = "palaver-memory", False
    notes = "palaver in process, plain calls: token bucket, sliding window in 16 slices; bounded, for all threads"

    async def open(self, port: int) -> None:
        self.cache = MemoryCache()
        self.fixed = self.cache.limiter.ready([BUCKET])
        self.sliding = self.cache.limiter.ready([WINDOW])

    def mem_fixed(self, user: str) -> bool:
        return self.fixed(user).allowed

    def mem_sliding(self, user: str) -> bool:
        return self.sliding(user).allowed

    async def close(self) -> None:
        await self.cache.aclose()
