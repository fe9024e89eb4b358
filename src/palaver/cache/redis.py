"""The cache on Redis: what several processes share. One round trip for each call, and one write for the calls of one moment."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from palaver.cache import redis_figures
from palaver.cache.bounded import Bounds
from palaver.cache.checks import check_revision, checked_ms, checked_text
from palaver.cache.redis_bus import RedisBus
from palaver.cache.redis_limits import RedisLimiter
from palaver.cache.redis_near import Near
from palaver.cache.redis_presence import RedisPresence
from palaver.cache.redis_scripts import ALL, FENCE, HEAD, SET, WITHOUT_EXPECTATION
from palaver.cache.redis_windows import RedisWindows
from palaver.caching import ABSENT, HIGHEST_REVISION, CacheHealth, Held, checked_name
from palaver.clock import Clock
from palaver.connections.redis import RedisClient, encode, encoded_part
from palaver.connections.redis_cluster import Redis, RedisCluster
from palaver.connections.redis_options import RedisOptions, parse_redis_url
from palaver.errors import ConfigError
from palaver.observing import Finding, Observed

_UNREVISED = b"v" + b"0" * (HEAD - 1)


class RedisCache:
    """`ports.Cache` on Redis from 6.2 on, a server or a cluster, for one event loop; connects at the first call, and again by itself.

    `near` names kinds whose values are also kept in this process, within those bounds, and dropped when Redis says that they
    changed. With a `clock` its time counts in place of the server's: for tests.
    """

    def __init__(self, url: str | RedisOptions, *, near: Mapping[str, Bounds] | None = None, clock: Clock | None = None) -> None:
        """Read the URL; raises ConfigError. See `parse_redis_url` for what it may say."""
        self.options = parse_redis_url(url) if isinstance(url, str) else url
        clustered = self.options.via == "cluster"
        if clustered and near:
            raise ConfigError("Near values need a Redis that is no cluster.", hint="Leave near= out.")
        self.client: Redis = RedisCluster(self.options, scripts=ALL) if clustered else RedisClient(self.options, scripts=ALL)
        prefix = self.options.prefix
        self.limiter = RedisLimiter(self.client, prefix, clock)
        self.presence = RedisPresence(self.client, prefix, clock)
        self.windows = RedisWindows(self.client, prefix)
        self.bus = RedisBus(self.client, self.options)
        self._values: dict[str, RedisValues] = {}
        self._bounds = dict(near or {})
        self._near: Near | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"RedisCache({self.options.shown!r})"

    def values(self, kind: str) -> RedisValues:
        with self._lock:
            if kind not in self._values:
                head = f"{self.options.prefix}:v:{checked_name(kind)}:".encode()
                if kind in self._bounds:
                    self._near = self._near or Near(self.options)
                    self._values[kind] = NearValues(self.client, head, self._near, self._bounds[kind])
                else:
                    self._values[kind] = RedisValues(self.client, head)
            return self._values[kind]

    @property
    def made(self) -> int:
        return self.client.made

    def health(self) -> CacheHealth:
        client = self.client.health
        hits, misses = (sum(getattr(values, name) for values in self._values.values()) for name in ("hits", "misses"))
        return CacheHealth(client.breaker, client.error, client.connections, client.inflight, hits, misses, made=client.made)

    async def observe(self) -> Observed:
        health = self.health()
        return await redis_figures.observe(self.client, health.hits, health.misses)

    async def diagnose(self) -> list[Finding]:
        return await redis_figures.diagnose(self.client, self)

    async def aclose(self) -> None:
        await self.bus.aclose()
        if self._near is not None:
            await self._near.aclose()
        await self.client.aclose()


class RedisValues:
    """`ports.KeyValue`: a value with its revision, or a fence, under one key."""

    def __init__(self, client: Redis, head: bytes) -> None:
        self._client, self._head = client, head
        self.hits = self.misses = 0

    async def get(self, key: str, *, extend_s: float | None = None) -> Held | None:
        name = self._head + checked_text(key)
        if extend_s is None:
            data = await self._client.read(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name))
        else:
            ms = b"%d" % checked_ms(extend_s)
            data = await self._client.read(b"*4\r\n$5\r\nGETEX\r\n$%d\r\n%b\r\n$2\r\nPX\r\n$%d\r\n%b\r\n" % (len(name), name, len(ms), ms))
        return self._count(data)

    async def get_many(self, keys: Sequence[str]) -> list[Held | None]:
        if not keys:
            return []
        found = [read_value(data) for data in await self._client.get_many([self._head + checked_text(key) for key in keys])]
        misses = found.count(None)
        self.misses += misses
        self.hits += len(found) - misses
        return found

    async def set(self, key: str, value: bytes, *, ttl_s: float, revision: int = 0, expected: int | None = None) -> bool:
        name, ms = self._head + checked_text(key), checked_ms(ttl_s)
        if not revision and expected is None:
            await self._client.write(
                b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b%b\r\n$2\r\nPX\r\n%b"
                % (len(name), name, len(value) + HEAD, _UNREVISED, value, encoded_part(b"%d" % ms))
            )
            return True
        check_revision(revision, expected)
        data = b"v%016d%b" % (revision, value)
        wanted = WITHOUT_EXPECTATION if expected is None else expected
        parts = b"".join(map(encoded_part, (data, b"%d" % ms, b"%d" % revision, b"%d" % wanted)))
        # A value of the same revision over itself changes nothing; an expectation is met only once.
        return bool(await self._client.run(SET, (name,), parts, 4, again=expected is None))

    async def delete(self, key: str, *, revision: int = 0, fence_s: float = 60.0) -> None:
        name, ms = self._head + checked_text(key), checked_ms(fence_s)
        if not revision:
            await self._client.read(encode("DEL", name))
            return
        check_revision(revision)
        parts = b"".join(map(encoded_part, (b"f%016d" % revision, b"%d" % ms, b"%d" % revision)))
        await self._client.run(FENCE, (name,), parts, 3, again=True)

    def _count(self, data: Any) -> Held | None:
        held = read_value(data)
        if held is None:
            self.misses += 1
        else:
            self.hits += 1
        return held


def read_value(data: bytes | None) -> Held | None:
    """Return the value a stored text holds; a fence, and what another program put there, are misses."""
    if data is None or data[:1] != b"v":
        return None
    revision = data[1:HEAD]
    if not revision.isdigit() or len(data) < HEAD:
        return None
    # A third of what the constructor costs, and made for every read.
    return tuple.__new__(Held, (data[HEAD:], int(revision)))


class NearValues(RedisValues):
    """Values of which this process keeps those it read, until Redis says that they changed."""

    def __init__(self, client: Redis, head: bytes, near: Near, bounds: Bounds) -> None:
        super().__init__(client, head)
        self._near, self._shelf = near, near.shelf(head, bounds)

    async def get(self, key: str, *, extend_s: float | None = None) -> Held | None:
        if extend_s is not None:
            return await super().get(key, extend_s=extend_s)
        name = self._head + checked_text(key)
        if (data := self._near.kept(self._shelf, name)) is None:
            data = await self._near.read(self._shelf, name)
        return self._count(data)

    async def set(self, key: str, value: bytes, *, ttl_s: float, revision: int = 0, expected: int | None = None) -> bool:
        name = self._head + checked_text(key)
        self._near.forget(name)
        try:
            return await super().set(key, value, ttl_s=ttl_s, revision=revision, expected=expected)
        finally:
            self._near.forget(name)

    async def delete(self, key: str, *, revision: int = 0, fence_s: float = 60.0) -> None:
        name = self._head + checked_text(key)
        self._near.forget(name)
        try:
            await super().delete(key, revision=revision, fence_s=fence_s)
        finally:
            self._near.forget(name)


assert ABSENT > WITHOUT_EXPECTATION
assert len(str(HIGHEST_REVISION)) < HEAD
