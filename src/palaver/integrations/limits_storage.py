"""Storages for the `limits` library over the cache, so that Flask-Limiter, slowapi and whatever else is built on it count where we do.

Importing this module registers the schemes `palaver+redis`, `palaver+rediss`, `palaver+redis+unix` and `palaver+memory`, each with
`async+` before it as well; what follows `palaver+` is what the option `cache` of a store's URL takes. `palaver://` with `cache=…`
uses a cache that is there.

Moving and sliding windows are our sliding window in both cases: one atomic step, one trip, never more than the limit in any span,
and what is refused is not counted. A fixed window is read and written back by comparing, in two trips, and goes by the clocks of
the processes; it lets twice the limit through at its edge, as everywhere.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Coroutine
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from palaver.cache.memory import MemoryCache
from palaver.cache.opening import open_cache
from palaver.caching import ABSENT, HIGHEST_REVISION, Limit, Take
from palaver.clock import Clock, SystemClock, to_ms
from palaver.errors import ConfigError, OutcomeUnknown, PalaverError
from palaver.extras import named_extras
from palaver.ports import Cache
from palaver.process import process_id

with named_extras():
    from limits.aio.storage.base import (
        MovingWindowSupport as AsyncMovingWindow,
        SlidingWindowCounterSupport as AsyncSlidingWindow,
        Storage as AsyncLimitsStorage,
    )
    from limits.limits import GRANULARITIES
    from limits.storage.base import MovingWindowSupport, SlidingWindowCounterSupport, Storage

T = TypeVar("T")
_SCHEMES = ["palaver", "palaver+memory", "palaver+redis", "palaver+rediss", "palaver+redis+unix"]
_COUNTER = struct.Struct("<qq")
_MANY = HIGHEST_REVISION // 8
_MOST_LIMITS = 1_000


class _Counter(NamedTuple):
    hits: int
    ends_ms: int
    revision: int


class _Counting:
    """What both storages do, over one cache."""

    def __init__(self, cache: Cache, clock: Clock) -> None:
        self.cache, self._clock = cache, clock
        self._values, self._limiter = cache.values("limits"), cache.limiter
        self._limits: dict[tuple[str, int, int], Limit] = {}
        # In memory nothing is awaited, so callers of one key do not meet; elsewhere they would go on refusing each other.
        self._turns: WeakValueDictionary[str, asyncio.Lock] | None = None if isinstance(cache, MemoryCache) else WeakValueDictionary()

    # --- fixed windows ----------------------------------------------------------------------------------------------

    async def incr(self, key: str, expiry: int, amount: int) -> int:
        name = _hashed(key)
        if self._turns is None:
            return await self._incr(name, expiry, amount)
        turn = self._turns.get(name)
        if turn is None:
            turn = self._turns[name] = asyncio.Lock()
        async with turn:
            return await self._incr(name, expiry, amount)

    async def _incr(self, name: str, expiry: int, amount: int) -> int:
        while True:
            now, found = self._now(), await self._counter(name)
            # A window never ends later than it may, whatever the clock of the process that began it said.
            ends = now + expiry * 1_000 if found.ends_ms <= now else min(found.ends_ms, now + expiry * 1_000)
            count = amount if found.ends_ms <= now else found.hits + amount
            data = _COUNTER.pack(count, ends)
            try:
                if await self._values.set(
                    name, data, ttl_s=(ends - now) / 1_000, revision=max(found.revision, 0) + 1, expected=found.revision
                ):
                    return count
            except OutcomeUnknown:
                # It may have been counted; counting it again lets nobody through who should not be.
                continue

    async def get(self, key: str) -> int:
        found = await self._counter(_hashed(key))
        return found.hits if found.ends_ms > self._now() else 0

    async def expiry(self, key: str) -> float:
        return max((await self._counter(_hashed(key))).ends_ms, self._now()) / 1_000

    async def _counter(self, name: str) -> _Counter:
        held = await self._values.get(name)
        if held is None:
            return _Counter(0, 0, ABSENT)
        if len(held.value) != _COUNTER.size:
            return _Counter(0, 0, held.revision)
        hits, ends_ms = _COUNTER.unpack(held.value)
        return _Counter(hits, ends_ms, held.revision)

    # --- windows that move ------------------------------------------------------------------------------------------

    async def acquire(self, kind: str, key: str, limit: int, expiry: int, amount: int) -> bool:
        if amount > limit:
            return False
        if amount < 1:
            return True
        return (await self._limiter.take(Take(self._limit(kind, limit, expiry), _hashed(key), amount))).allowed

    async def used(self, kind: str, key: str, expiry: int) -> tuple[int, float]:
        """Return how much of a window is used, and in how many seconds the oldest of it no longer counts."""
        limit, name = self._limit(kind, _MANY, expiry), _hashed(key)
        [verdict] = (await self._limiter.peek(Take(limit, name))).verdicts
        if verdict.remaining == _MANY:
            return 0, 0.0
        [oldest] = (await self._limiter.peek(Take(limit, name, verdict.remaining + 1))).verdicts
        return _MANY - verdict.remaining, min(oldest.retry_after_s, float(expiry))

    async def forget(self, kind: str, key: str, expiry: int) -> None:
        await self._limiter.reset(Take(self._limit(kind, 1, expiry), _hashed(key)))

    async def clear(self, key: str) -> None:
        await self._values.delete(_hashed(key))
        if expiry := _expiry_of(key):
            await self.forget("moving", key, expiry)
            await self.forget("sliding", key, expiry)

    async def check(self) -> bool:
        try:
            await self._values.get("check")
        except ConfigError:
            raise
        except PalaverError:
            return False
        return True

    async def moving(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        used, frees_in = await self.used("moving", key, expiry)
        now = self._now() / 1_000
        return (now + frees_in - expiry if used else now), min(used, limit)

    async def sliding(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        used, frees_in = await self.used("sliding", key, expiry)
        # A whole span reads as none there.
        return 0, 0.0, used, min(frees_in, expiry - 0.001)

    def _limit(self, kind: str, limit: int, expiry: int) -> Limit:
        found = self._limits.get((kind, limit, expiry))
        if found is None:
            if len(self._limits) >= _MOST_LIMITS:
                self._limits.clear()
            found = self._limits[kind, limit, expiry] = Limit(f"limits.{kind}", limit, expiry, "window")
        return found

    def _now(self) -> int:
        return to_ms(self._clock.now())


class AsyncPalaverStorage(AsyncLimitsStorage, AsyncMovingWindow, AsyncSlidingWindow):
    """Storage for `limits.aio` over a cache; it belongs to the event loop that uses it first.

    Raises errors of ours, or StorageError with `wrap_exceptions`. A cache that is handed over stays its owner's to close.
    """

    STORAGE_SCHEME = ["async+" + scheme for scheme in _SCHEMES]  # noqa: RUF012 - as the base class declares it

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        *,
        cache: Cache | None = None,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        super().__init__(uri, wrap_exceptions, **options)
        self._own = cache is None
        self._counting = _Counting(cache or open_cache(_where(uri), clock or SystemClock()), clock or SystemClock())

    @property
    def base_exceptions(self) -> type[Exception]:
        return PalaverError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return await self._counting.incr(key, expiry, amount)

    async def get(self, key: str) -> int:
        return await self._counting.get(key)

    async def get_expiry(self, key: str) -> float:
        return await self._counting.expiry(key)

    async def check(self) -> bool:
        return await self._counting.check()

    async def reset(self) -> int | None:
        """Refuse: a cache shared with others is not emptied, and keys are not listed."""
        raise NotImplementedError("The limits of a cache are reset key by key.")

    async def clear(self, key: str) -> None:
        await self._counting.clear(key)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return await self._counting.acquire("moving", key, limit, expiry, amount)

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        return await self._counting.moving(key, limit, expiry)

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return await self._counting.acquire("sliding", key, limit, expiry, amount)

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        return await self._counting.sliding(key, expiry)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        await self._counting.forget("sliding", key, expiry)

    async def aclose(self) -> None:
        """Close the cache, if it was made here."""
        if self._own:
            await self._counting.cache.aclose()


class PalaverStorage(Storage, MovingWindowSupport, SlidingWindowCounterSupport):
    """Storage for `limits` without asyncio, for any number of threads; a forked child begins with connections of its own.

    In memory calls are plain calls; on Redis they run on an event loop of the storage's own thread. Close it, or end the process.
    """

    STORAGE_SCHEME = _SCHEMES

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        *,
        cache: MemoryCache | None = None,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        super().__init__(uri, wrap_exceptions, **options)
        self._where, self._clock = _where(uri), clock or SystemClock()
        self._thread: _Thread | None = None
        self._starting = threading.Lock()
        if cache is not None and not isinstance(cache, MemoryCache):
            raise ConfigError("A cache that belongs to an event loop is not used from threads.", hint="Name it by its URL.")
        made = cache or open_cache(self._where, self._clock)
        self._own = cache is None
        self._counting = _Counting(made, self._clock)
        self._plain = isinstance(made, MemoryCache)

    @property
    def base_exceptions(self) -> type[Exception]:
        return PalaverError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return self._run("incr", key, expiry, amount)  # type: ignore[no-any-return]

    def get(self, key: str) -> int:
        return self._run("get", key)  # type: ignore[no-any-return]

    def get_expiry(self, key: str) -> float:
        return self._run("expiry", key)  # type: ignore[no-any-return]

    def check(self) -> bool:
        return self._run("check")  # type: ignore[no-any-return]

    def reset(self) -> int | None:
        """Refuse: a cache shared with others is not emptied, and keys are not listed."""
        raise NotImplementedError("The limits of a cache are reset key by key.")

    def clear(self, key: str) -> None:
        self._run("clear", key)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return self._run("acquire", "moving", key, limit, expiry, amount)  # type: ignore[no-any-return]

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        return self._run("moving", key, limit, expiry)  # type: ignore[no-any-return]

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return self._run("acquire", "sliding", key, limit, expiry, amount)  # type: ignore[no-any-return]

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        return self._run("sliding", key, expiry)  # type: ignore[no-any-return]

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        self._run("forget", "sliding", key, expiry)

    def close(self) -> None:
        """Close the cache, if it was made here, and end the thread."""
        if self._plain:
            if self._own:
                _at_once(self._counting.cache.aclose())
            return
        with self._starting:
            if self._thread is not None and self._thread.process == process_id():
                self._thread.run(self._counting.cache.aclose())
                self._thread.end()
            self._thread = None

    def _run(self, name: str, *asked: Any) -> Any:
        if self._plain:
            return _at_once(getattr(self._counting, name)(*asked))
        thread = self._thread
        if thread is None or thread.process != process_id():
            thread = self._begun()
        return thread.run(getattr(self._counting, name)(*asked))

    def _begun(self) -> _Thread:
        with self._starting:
            if self._thread is None or self._thread.process != process_id():
                if self._thread is not None:
                    # The parent's connections are the parent's.
                    self._counting = _Counting(open_cache(self._where, self._clock), self._clock)
                self._thread = _Thread()
            return self._thread


class _Thread:
    """An event loop in a thread of its own, which does not keep the process from ending."""

    def __init__(self) -> None:
        self.process = process_id()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="palaver-limits", daemon=True)
        self._thread.start()

    def run(self, asked: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _at_once(asked: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine gives that awaits nothing."""
    try:
        asked.send(None)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]
    asked.close()
    raise ConfigError("The cache of this storage waits for something.", hint="Name it by its URL.")


def _where(uri: str | None) -> str:
    """Return what of a storage's URL names the cache."""
    scheme, colon, rest = (uri or "").partition(":")
    name = scheme.removeprefix("async+").removeprefix("palaver").removeprefix("+")
    return f"{name}:{rest}" if colon and name.startswith("redis") else "memory"


def _hashed(key: str) -> str:
    # Keys hold addresses and users, and may be of any length.
    return blake2b(key.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _expiry_of(key: str) -> int:
    """Return the seconds of the limit a key was made for, which are its last two parts; 0 for another kind of key."""
    *_, multiples, name = key.rsplit("/", 2) if key.count("/") >= 2 else ("", "", "")
    granularity = GRANULARITIES.get(name)
    return granularity.GRANULARITY.seconds * int(multiples) if granularity is not None and multiples.isdecimal() else 0
