"""One tenant's part of a cache: every key, member list, window, limit and topic begins with the tenant, so none meets another's."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from hashlib import blake2b

from palaver.caching import CacheHealth, Heard, Held, Item, Limit, Missed, Present, Rebuild, Take, Taken
from palaver.ports import Bus, Cache, KeyValue, Limiter, Listening, Presence, Ready, Window


class ScopedCache:
    """`ports.Cache` for one tenant. Who owns the cache closes it."""

    def __init__(self, cache: Cache, tenant: str) -> None:
        # A hash, so that a long tenant leaves room for keys, and no tenant and key together read as another's.
        name = urlsafe_b64encode(blake2b(tenant.encode(), digest_size=16).digest()).decode().rstrip("=")
        self._cache, self._head = cache, f"{name}."
        self.limiter = _Limiter(cache.limiter, self._head)
        self.presence = _Presence(cache.presence, self._head)
        self.windows = _Window(cache.windows, self._head)
        self.bus = _Bus(cache.bus, self._head)

    def values(self, kind: str) -> KeyValue:
        return _Values(self._cache.values(kind), self._head)

    @property
    def made(self) -> int:
        return self._cache.made

    def health(self) -> CacheHealth:
        return self._cache.health()

    async def aclose(self) -> None:
        """Leave the cache open: it is the store's."""


class _Values:
    def __init__(self, values: KeyValue, head: str) -> None:
        self._values, self._head = values, head

    async def get(self, key: str, *, extend_s: float | None = None) -> Held | None:
        return await self._values.get(self._head + key, extend_s=extend_s)

    async def get_many(self, keys: Sequence[str]) -> list[Held | None]:
        return await self._values.get_many([self._head + key for key in keys])

    async def set(self, key: str, value: bytes, *, ttl_s: float, revision: int = 0, expected: int | None = None) -> bool:
        return await self._values.set(self._head + key, value, ttl_s=ttl_s, revision=revision, expected=expected)

    async def delete(self, key: str, *, revision: int = 0, fence_s: float = 60.0) -> None:
        await self._values.delete(self._head + key, revision=revision, fence_s=fence_s)


class _Limiter:
    def __init__(self, limiter: Limiter, head: str) -> None:
        self._limiter, self._head = limiter, head

    def _own(self, takes: Sequence[Take]) -> list[Take]:
        return [take._replace(key=self._head + take.key) for take in takes]

    async def take(self, *takes: Take, group: str = "", token: str = "") -> Taken:
        # A token is a request's, and two tenants may count their requests alike.
        return await self._limiter.take(*self._own(takes), group=self._head + group, token=token and self._head + token)

    def ready(self, limits: Sequence[Limit], *, group: str = "") -> Ready:
        take, head = self._limiter.ready(limits, group=self._head + group), self._head
        return lambda key: take(head + key)

    async def take_each(self, calls: Sequence[Sequence[Take]], *, group: str = "") -> list[Taken]:
        return await self._limiter.take_each([self._own(takes) for takes in calls], group=self._head + group)

    async def peek(self, *takes: Take, group: str = "") -> Taken:
        return await self._limiter.peek(*self._own(takes), group=self._head + group)

    async def reset(self, *takes: Take, group: str = "") -> None:
        await self._limiter.reset(*self._own(takes), group=self._head + group)


class _Presence:
    def __init__(self, presence: Presence, head: str) -> None:
        self._presence, self._head = presence, head

    def _own(self, channels: Sequence[str]) -> list[str]:
        return [self._head + channel for channel in channels]

    async def touch(self, member: str, channels: Sequence[str], *, ttl_s: float) -> None:
        await self._presence.touch(member, self._own(channels), ttl_s=ttl_s)

    async def leave(self, member: str, channels: Sequence[str]) -> None:
        await self._presence.leave(member, self._own(channels))

    async def present(self, channel: str, *, limit: int = 1_000) -> list[Present]:
        return await self._presence.present(self._head + channel, limit=limit)

    async def count(self, channels: Sequence[str]) -> list[int]:
        return await self._presence.count(self._own(channels))

    async def among(self, channel: str, members: Sequence[str]) -> list[bool]:
        return await self._presence.among(self._head + channel, members)

    async def last_seen(self, channel: str, members: Sequence[str]) -> list[datetime | None]:
        return await self._presence.last_seen(self._head + channel, members)


class _Window:
    def __init__(self, windows: Window, head: str) -> None:
        self._windows, self._head = windows, head

    async def read(self, key: str, *, limit: int, budget: int | None = None, holding: str | None = None) -> tuple[Item, ...] | None:
        return await self._windows.read(self._head + key, limit=limit, budget=budget, holding=holding)

    async def push(self, key: str, items: Sequence[Item], *, ttl_s: float) -> bool:
        return await self._windows.push(self._head + key, items, ttl_s=ttl_s)

    async def begin(self, key: str, *, ttl_s: float = 30.0) -> Rebuild:
        return await self._windows.begin(self._head + key, ttl_s=ttl_s)

    async def replace(self, key: str, items: Sequence[Item], *, ticket: str, keep: int, complete: bool, ttl_s: float) -> bool:
        return await self._windows.replace(self._head + key, items, ticket=ticket, keep=keep, complete=complete, ttl_s=ttl_s)

    async def delete(self, key: str) -> None:
        await self._windows.delete(self._head + key)


class _Bus:
    def __init__(self, bus: Bus, head: str) -> None:
        self._bus, self._head = bus, head

    async def publish(self, topic: str, data: bytes) -> None:
        await self._bus.publish(self._head + topic, data)

    def listen(self, *topics: str) -> Listening:
        return _Listening(self._bus.listen(*(self._head + topic for topic in topics)), self._head)


class _Listening:
    def __init__(self, listening: Listening, head: str) -> None:
        self._listening, self._head = listening, head

    async def __aenter__(self) -> AsyncIterator[Heard | Missed]:
        return self._unscoped(await self._listening.__aenter__())

    async def __aexit__(self, *exc: object) -> None:
        await self._listening.__aexit__(*exc)

    async def _unscoped(self, heard: AsyncIterator[Heard | Missed]) -> AsyncIterator[Heard | Missed]:
        async for entry in heard:
            yield entry._replace(topic=entry.topic.removeprefix(self._head)) if isinstance(entry, Heard) else entry
