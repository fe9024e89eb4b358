"""Values kept in this process as well: Redis tracks what this connection read and says when any of it changes.

Replies and invalidations come in one stream, so what was read before a change is never kept after it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from palaver.cache.bounded import Bounded, Bounds
from palaver.connections.redis import RedisClient, encode
from palaver.connections.redis_options import RedisOptions

_FOR_EVER = 2**62
_NOTHING = b""
"""A miss is worth keeping as well: Redis says when the key comes to be."""


class Near:
    """The tracking connection of one cache and what it read. While it is away nothing is kept."""

    def __init__(self, options: RedisOptions) -> None:
        self._client = RedisClient(
            replace(options, pool=1),
            setup=[encode("CLIENT", "TRACKING", "ON")],
            on_push=self._pushed,
            on_change=self._changed,
            heartbeat=True,
        )
        self._shelves: dict[bytes, Bounded[bytes]] = {}
        self._reading: dict[bytes, int] = {}
        self._spoiled: set[bytes] = set()

    def shelf(self, head: bytes, bounds: Bounds) -> Bounded[bytes]:
        return self._shelves.setdefault(head, Bounded(bounds))

    def kept(self, shelf: Bounded[bytes], name: bytes) -> bytes | None:
        return shelf.get(name.decode(), _now())

    async def read(self, shelf: Bounded[bytes], name: bytes) -> bytes:
        """Read through the tracking connection, and keep what was read unless it changed meanwhile."""
        self._reading[name] = self._reading.get(name, 0) + 1
        try:
            now = _now()
            data, left = await self._client.read_each([encode("GET", name), encode("PTTL", name)])
            if name not in self._spoiled:
                # Redis tells of an expiry only when it comes across it, so the time is kept here as well.
                shelf.put(name.decode(), data or _NOTHING, len(data or _NOTHING), now + left if left >= 0 else _FOR_EVER, now)
            return data or _NOTHING
        finally:
            self._reading[name] -= 1
            if not self._reading[name]:
                del self._reading[name]
                self._spoiled.discard(name)

    def forget(self, name: bytes) -> None:
        """Drop a value, and do not keep what is being read of it now."""
        if name in self._reading:
            self._spoiled.add(name)
        text = name.decode()
        for shelf in self._shelves.values():
            shelf.pop(text)

    async def aclose(self) -> None:
        await self._client.aclose()

    def _pushed(self, push: list[Any]) -> None:
        match push:
            case [b"invalidate", None]:
                self._drop_all()
            case [b"invalidate", [*names]]:
                for name in names:
                    self.forget(name)

    def _changed(self, connected: bool) -> None:
        self._drop_all()

    def _drop_all(self) -> None:
        self._spoiled.update(self._reading)
        for shelf in self._shelves.values():
            shelf.clear()


def _now() -> int:
    return time.monotonic_ns() // 1_000_000
