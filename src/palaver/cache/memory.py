"""The cache of one process, for all its threads and event loops: the specification of the other engine, and its double."""

from __future__ import annotations

import bisect
import contextlib
import heapq
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_hex

from palaver.cache.bounded import Bounded, Bounds
from palaver.cache.checks import check_bounds, check_filling, check_items, check_listed, check_revision, check_text, checked_ms
from palaver.cache.hearing import Ear, Listener
from palaver.cache.memory_limits import MemoryLimiter, monotonic_ms
from palaver.cache.reading import newest
from palaver.caching import ABSENT, CacheHealth, Heard, Held, Item, Missed, Present, Rebuild, checked_name
from palaver.clock import Clock, SystemClock
from palaver.errors import ConfigError
from palaver.observing import Observed, Size

_SEEN_FOR = timedelta(days=30)
Milliseconds = Callable[[], int]


class MemoryCache:
    """`ports.Cache` in memory. `bounds` gives kinds of values (and "windows") bounds of their own; the others have `Bounds()` each.

    What one kind holds is never given up for another, so a flood of one does not push out sessions.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        bounds: Mapping[str, Bounds] | None = None,
        kind_bytes: int | None = None,
        states: int = 200_000,
    ) -> None:
        """`kind_bytes` is what a kind without bounds of its own may hold; `states` how many limits, and members of channels, are kept."""
        self._clock = clock or SystemClock()
        self._ms = monotonic_ms if type(self._clock) is SystemClock else self._clock_ms
        self._bounds = dict(bounds or {})
        self._default = Bounds() if kind_bytes is None else Bounds(bytes=kind_bytes)
        self._values: dict[str, MemoryValues] = {}
        self._lock = threading.Lock()
        self.limiter = MemoryLimiter(self._ms, states)
        self.presence = MemoryPresence(self._ms, self._clock.now, states)
        self.windows = MemoryWindows(self._ms, self._bounds.get("windows", self._default))
        self.bus = MemoryBus()

    def values(self, kind: str) -> MemoryValues:
        with self._lock:
            if kind not in self._values:
                self._values[checked_name(kind)] = MemoryValues(self._ms, self._bounds.get(kind, self._default))
            return self._values[kind]

    @property
    def made(self) -> int:
        return 0

    def health(self) -> CacheHealth:
        shelves = [values.shelf for values in self._values.values()]
        return CacheHealth(
            "closed",
            hits=sum(values.hits for values in self._values.values()),
            misses=sum(values.misses for values in self._values.values()),
            entries=sum(map(len, shelves)) + len(self.windows.shelf),
            bytes=sum(shelf.bytes for shelf in shelves) + self.windows.shelf.bytes,
            evicted=sum(shelf.evicted for shelf in shelves) + self.windows.shelf.evicted,
        )

    async def observe(self) -> Observed:
        health = self.health()
        asked = health.hits + health.misses
        figures: dict[str, int | float | str] = {
            "hits": health.hits,
            "misses": health.misses,
            "hit_share": round(health.hits / asked, 4) if asked else 0.0,
            "entries": health.entries,
            "used_bytes": health.bytes,
            "evicted": health.evicted,
        }
        kinds = [Size(name, len(each.shelf), each.shelf.bytes, each.hits + each.misses) for name, each in self._values.items()]
        kinds.append(Size("windows", len(self.windows.shelf), self.windows.shelf.bytes))
        tables = tuple(sorted(kinds, key=lambda size: (-(size.bytes or 0), size.name)))
        return Observed("memory", figures, tables, notes=("these are the figures of this process alone",))

    async def aclose(self) -> None:
        self.limiter.close()
        self.presence.closed = self.windows.closed = True
        for values in self._values.values():
            values.closed = True
        self.bus.close()

    def _clock_ms(self) -> int:
        # Rounded first: 3.75 s added up in steps may be a hair below.
        return round(self._clock.monotonic() * 1_000_000) // 1_000


def _check_open(closed: bool) -> None:
    if closed:
        raise ConfigError("The cache is closed.")


class MemoryValues:
    """`ports.KeyValue` for one kind. A fence is an entry whose value is None."""

    def __init__(self, milliseconds: Milliseconds, bounds: Bounds) -> None:
        self._ms = milliseconds
        self.shelf: Bounded[tuple[bytes | None, int]] = Bounded(bounds)
        self.hits = self.misses = 0
        self._lock = threading.Lock()
        self.closed = False

    async def get(self, key: str, *, extend_s: float | None = None) -> Held | None:
        _check_open(self.closed)
        check_text(key)
        extended, now = 0 if extend_s is None else checked_ms(extend_s), self._ms()
        with self._lock:
            entry = self.shelf.get(key, now)
            if entry is None or entry[0] is None:
                self.misses += 1
                return None
            if extended:
                self.shelf.extend(key, now + extended)
            self.hits += 1
        return Held(entry[0], entry[1])

    async def get_many(self, keys: Sequence[str]) -> list[Held | None]:
        return [await self.get(key) for key in keys]

    async def set(self, key: str, value: bytes, *, ttl_s: float, revision: int = 0, expected: int | None = None) -> bool:
        _check_open(self.closed)
        check_text(key)
        check_revision(revision, expected)
        expires_in, now = checked_ms(ttl_s), self._ms()
        with self._lock:
            entry = self.shelf.get(key, now)
            if entry is not None and revision and entry[1] > revision:
                return False
            if expected is not None:
                there = ABSENT if entry is None or entry[0] is None else entry[1]
                if there != expected:
                    return False
            return self.shelf.put(key, (value, revision), len(value), now + expires_in, now)

    async def delete(self, key: str, *, revision: int = 0, fence_s: float = 60.0) -> None:
        _check_open(self.closed)
        check_text(key)
        check_revision(revision)
        fenced_for, now = checked_ms(fence_s), self._ms()
        with self._lock:
            entry = self.shelf.get(key, now)
            if not revision:
                self.shelf.pop(key)
            elif entry is None or entry[1] < revision:
                self.shelf.put(key, (None, revision), 0, now + fenced_for, now)


class MemoryPresence:
    """`ports.Presence`. Over `most` members, those that were to be forgotten first are."""

    def __init__(self, milliseconds: Milliseconds, wall: Callable[[], datetime], most: int) -> None:
        self._ms, self._wall, self._most = milliseconds, wall, most
        self._channels: dict[str, dict[str, tuple[int, datetime]]] = {}
        self._count = 0
        self._lock = threading.Lock()
        self.closed = False

    async def touch(self, member: str, channels: Sequence[str], *, ttl_s: float) -> None:
        self._check(member, *channels)
        until, seen = self._ms() + checked_ms(ttl_s), self._wall()
        with self._lock:
            for channel in channels:
                members = self._channels.setdefault(channel, {})
                self._count += member not in members
                members[member] = (until, seen)
            if self._count > self._most:
                self._forget_some()

    async def leave(self, member: str, channels: Sequence[str]) -> None:
        self._check(member, *channels)
        with self._lock:
            for channel in channels:
                members = self._channels.get(channel, {})
                if member in members:
                    members[member] = (0, members[member][1])

    async def present(self, channel: str, *, limit: int = 1_000) -> list[Present]:
        self._check(channel)
        check_listed(limit)
        now = self._ms()
        with self._lock:
            found = [(until, member, seen) for member, (until, seen) in self._channels.get(channel, {}).items() if until > now]
        return [Present(member, seen) for _, member, seen in heapq.nlargest(limit, found)]

    async def count(self, channels: Sequence[str]) -> list[int]:
        self._check(*channels)
        now = self._ms()
        with self._lock:
            return [sum(until > now for until, _ in self._channels.get(channel, {}).values()) for channel in channels]

    async def among(self, channel: str, members: Sequence[str]) -> list[bool]:
        self._check(channel, *members)
        now = self._ms()
        with self._lock:
            known = self._channels.get(channel, {})
            return [member in known and known[member][0] > now for member in members]

    async def last_seen(self, channel: str, members: Sequence[str]) -> list[datetime | None]:
        self._check(channel, *members)
        oldest = self._wall() - _SEEN_FOR
        with self._lock:
            known = self._channels.get(channel, {})
            found = [known.get(member) for member in members]
        return [entry[1] if entry and entry[1] > oldest else None for entry in found]

    def _check(self, *texts: str) -> None:
        _check_open(self.closed)
        for text in texts:
            check_text(text)

    def _forget_some(self) -> None:
        """Make room for a tenth, so that this is rare."""
        all_of_them = [(until, channel, member) for channel, members in self._channels.items() for member, (until, _) in members.items()]
        for _, channel, member in heapq.nsmallest(self._count - self._most * 9 // 10, all_of_them):
            del self._channels[channel][member]
            if not self._channels[channel]:
                del self._channels[channel]
            self._count -= 1


@dataclass(slots=True)
class _Sequence:
    """A window, once it is `whole`; with a ticket one that is being filled. `order`: the ids of `items`, sorted."""

    items: dict[str, Item]
    order: list[str]
    keep: int = 0
    complete: bool = False
    whole: bool = False
    ticket: str = ""

    def add(self, items: Sequence[Item]) -> None:
        for item in items:
            if item.id not in self.items:
                self.items[item.id] = item
                bisect.insort(self.order, item.id)

    def trim(self) -> None:
        if len(self.order) > self.keep:
            for id in self.order[: -self.keep]:
                del self.items[id]
            del self.order[: -self.keep]
            self.complete = False

    def size(self) -> int:
        return sum(len(item.data) + len(item.id) + 100 for item in self.items.values())


class MemoryWindows:
    """`ports.Window`."""

    def __init__(self, milliseconds: Milliseconds, bounds: Bounds) -> None:
        self._ms = milliseconds
        self.shelf: Bounded[_Sequence] = Bounded(bounds)
        self._lock = threading.Lock()
        self.closed = False

    async def read(self, key: str, *, limit: int, budget: int | None = None, holding: str | None = None) -> tuple[Item, ...] | None:
        self._check(key)
        check_bounds(limit, budget)
        with self._lock:
            found = self.shelf.get(key, self._ms())
            if found is None or not found.whole or (holding is not None and holding not in found.items):
                return None
            items, complete = [found.items[id] for id in found.order], found.complete
        return newest(items, limit, budget, complete)

    async def push(self, key: str, items: Sequence[Item], *, ttl_s: float) -> bool:
        self._check(key)
        check_items(items)
        expires_in, now = checked_ms(ttl_s), self._ms()
        with self._lock:
            found = self.shelf.get(key, now)
            if found is None:
                return False
            found.add(items)
            expires = self.shelf.expires(key)
            if found.whole:
                found.trim()
                expires = now + expires_in
            return self.shelf.put(key, found, found.size(), expires, now)

    async def begin(self, key: str, *, ttl_s: float = 30.0) -> Rebuild:
        self._check(key)
        ends, now, ticket = checked_ms(ttl_s), self._ms(), token_hex(8)
        with self._lock:
            found = self.shelf.get(key, now)
            if found is None:
                self.shelf.put(key, _Sequence({}, [], ticket=ticket), 0, now + ends, now)
            elif found.ticket:
                return Rebuild(found.ticket, False)
            else:
                # It goes on serving those who ask for no more than it holds.
                found.ticket = ticket
                self.shelf.extend(key, max(self.shelf.expires(key), now + ends))
        return Rebuild(ticket, True)

    async def replace(self, key: str, items: Sequence[Item], *, ticket: str, keep: int, complete: bool, ttl_s: float) -> bool:
        self._check(key)
        check_items(items)
        check_filling(items, keep, complete)
        ends, now = checked_ms(ttl_s), self._ms()
        with self._lock:
            found = self.shelf.get(key, now)
            if found is None or not ticket or found.ticket != ticket:
                return False
            filled = _Sequence({}, [], keep, complete, whole=True)
            filled.add(items)
            filled.add(list(found.items.values()))
            filled.trim()
            return self.shelf.put(key, filled, filled.size(), now + ends, now)

    async def delete(self, key: str) -> None:
        self._check(key)
        with self._lock:
            self.shelf.pop(key)

    def _check(self, key: str) -> None:
        _check_open(self.closed)
        check_text(key)


class MemoryBus:
    """`ports.Bus` between the threads and event loops of this process."""

    def __init__(self) -> None:
        self._ears: dict[str, list[Ear]] = {}
        self._lock = threading.Lock()
        self._closed = False

    async def publish(self, topic: str, data: bytes) -> None:
        _check_open(self._closed)
        check_text(topic)
        with self._lock:
            ears = list(self._ears.get(topic, ()))
        for ear in ears:
            _pass_on(ear, Heard(topic, data))

    def listen(self, *topics: str) -> Listener:
        _check_open(self._closed)
        for topic in topics:
            check_text(topic)
        return Listener(self, topics)

    async def join(self, ear: Ear, topics: tuple[str, ...]) -> None:
        with self._lock:
            for topic in topics:
                self._ears.setdefault(topic, []).append(ear)

    async def part(self, ear: Ear, topics: tuple[str, ...]) -> None:
        with self._lock:
            for topic in topics:
                self._ears[topic].remove(ear)
                if not self._ears[topic]:
                    del self._ears[topic]

    def close(self) -> None:
        self._closed = True
        with self._lock:
            ears = {ear for ears in self._ears.values() for ear in ears}
        for ear in ears:
            with contextlib.suppress(RuntimeError):  # its event loop has ended already
                ear.loop.call_soon_threadsafe(ear.close)


def _pass_on(ear: Ear, message: Heard | Missed) -> None:
    try:
        ear.loop.call_soon_threadsafe(ear.hear, message)
    except RuntimeError:
        # Its event loop has ended in another thread, so nobody listens there any more.
        ear.close()
