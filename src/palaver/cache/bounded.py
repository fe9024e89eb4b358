"""Dictionaries with bounds: within a number of entries and bytes, and with an expiry for each; or within a number alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_OVERHEAD = 200
_SWEEP_EVERY_MS = 1_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one kind may hold in memory."""

    entries: int = 100_000
    bytes: int = 32 * 1024 * 1024


class Newest(OrderedDict[K, V]):
    """Forgets what was set longest ago."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._most:
            self.popitem(last=False)


class Bounded(Generic[V]):
    """Forgets what was used least lately. Not safe for threads by itself: its owner holds a lock."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.bytes = self.evicted = 0
        self._entries: OrderedDict[str, tuple[V, int, int]] = OrderedDict()
        self._swept = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, now: int) -> V | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[1] <= now:
            self.pop(key)
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def expires(self, key: str) -> int:
        return self._entries[key][1]

    def put(self, key: str, value: V, size: int, expires: int, now: int) -> bool:
        """Store an entry in place of any other; return False, and hold none, where it alone is over the bounds."""
        self.pop(key)
        size += len(key) + _OVERHEAD
        if size > self.bounds.bytes:
            return False
        self._entries[key] = (value, expires, size)
        self.bytes += size
        if self.bytes > self.bounds.bytes or len(self._entries) > self.bounds.entries:
            self._shrink(now)
        return True

    def extend(self, key: str, expires: int) -> None:
        value, _, size = self._entries[key]
        self._entries[key] = (value, expires, size)

    def pop(self, key: str) -> V | None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self.bytes -= entry[2]
        return entry[0]

    def clear(self) -> None:
        self._entries.clear()
        self.bytes = 0

    def _shrink(self, now: int) -> None:
        if now - self._swept >= _SWEEP_EVERY_MS:
            self._swept = now
            for key in [key for key, entry in self._entries.items() if entry[1] <= now]:
                self.pop(key)
        while self.bytes > self.bounds.bytes or len(self._entries) > self.bounds.entries:
            _, (_, expires, size) = self._entries.popitem(last=False)
            self.bytes -= size
            self.evicted += expires > now
