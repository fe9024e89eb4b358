"""Read-through: what many ask for is read from the truth once, and kept while it is true; with the cache away the truth answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from palaver.caching import Held
from palaver.clock import Clock, SystemClock
from palaver.errors import ConfigError, PalaverError
from palaver.ports import KeyValue

Load = Callable[[str], Awaitable[Held | None]]
_THERE, _ABSENT = b"+", b"-"
_ATTEMPTS = 2
_OLDEST = 1
"""The revision of an absence: any fence and any value is newer."""


@dataclass(slots=True)
class Remembered:
    """What became of the calls: answered by the cache, by a load of another call, by a load of their own; and how often the
    cache did not answer, or did not take what was loaded."""

    hits: int = 0
    joined: int = 0
    loads: int = 0
    away: int = 0
    refused: int = 0


class Remember:
    """Values of one kind, read through the cache.

    Loads of one key at the same time are one, and at most `at_most` run at once, so a cache that is cold or away does not let
    everybody loose on the database. What is loaded is kept under its revision unless a newer change was told of meanwhile (then
    it is loaded again), or the load took so long that nobody can say. A value that is returned is never older than a change of
    which any process had told the cache before the call.
    """

    def __init__(
        self,
        values: KeyValue,
        load: Load,
        *,
        ttl_s: float,
        absent_ttl_s: float = 30.0,
        fence_s: float = 60.0,
        at_most: int = 32,
        clock: Clock | None = None,
    ) -> None:
        """`load` reads the truth, with the revision the record carries; None where there is none, which is remembered too."""
        if fence_s <= 0 or at_most < 1:
            raise ConfigError("A fence lasts more than 0 seconds, and at least one load runs at once.")
        self._values, self._load = values, load
        self._ttl_s, self._absent_ttl_s, self._fence_s = ttl_s, absent_ttl_s, fence_s
        self._clock = clock or SystemClock()
        self._turns = asyncio.Semaphore(at_most)
        # Those that have not looked yet, which may be joined, and what they have to find at least; of each key one looks.
        self._flights: dict[str, asyncio.Task[Held | None]] = {}
        self._at_least: dict[str, int] = {}
        self._looking: dict[str, asyncio.Task[Held | None]] = {}
        self._loading: set[asyncio.Task[Held | None]] = set()
        self.figures = Remembered()

    async def get(self, key: str, *, at_least: int = 0, extend_s: float | None = None) -> Held | None:
        """Return the value, None where the truth has none; raises only what `load` raises.

        Who knows that a revision exists names it in `at_least`, and gets nothing older that is kept or being loaded. `extend_s`:
        what is kept lives on for so long.
        """
        try:
            held = await self._values.get(key, extend_s=extend_s)
        except PalaverError:
            self.figures.away += 1
        else:
            kept, found = self._read(held, at_least)
            if kept:
                return found
        return await self._loaded(key, at_least)

    async def get_many(self, keys: Sequence[str]) -> list[Held | None]:
        """Return values in the order asked: those that are kept in one trip, and each of the others as `get` does."""
        kept = await self._kept_many(keys)
        missing = list(dict.fromkeys(key for key, (there, _) in zip(keys, kept, strict=True) if not there))
        loaded = dict(zip(missing, await asyncio.gather(*(self._loaded(key, 0) for key in missing)), strict=True))
        return [found if there else loaded[key] for key, (there, found) in zip(keys, kept, strict=True)]

    async def _loaded(self, key: str, at_least: int) -> Held | None:
        """Return the value as the truth has it after this call: from a load that has not looked yet, where one waits."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._begin(key)
        else:
            self.figures.joined += 1
        if at_least:
            self._at_least[key] = max(at_least, self._at_least.get(key, 0))
        return await asyncio.shield(flight)

    async def changed(self, key: str, revision: int) -> None:
        """Forget what is older than this revision, and keep no load that began before; raises what the cache raises.

        Repeat it until it succeeds: while the cache cannot be told, it may hold what is no longer true.
        """
        await self._values.delete(key, revision=revision, fence_s=self._fence_s)

    async def aclose(self) -> None:
        """Wait for loads whose callers have all gone."""
        while self._loading:
            await asyncio.wait(self._loading)

    async def _kept_many(self, keys: Sequence[str], at_least: int = 0) -> list[tuple[bool, Held | None]]:
        """Return for each whether the cache answers, and its answer."""
        try:
            found = await self._values.get_many(keys)
        except PalaverError:
            self.figures.away += 1
            return [(False, None)] * len(keys)
        return [self._read(held, at_least) for held in found]

    def _read(self, held: Held | None, at_least: int) -> tuple[bool, Held | None]:
        if held is None or held.revision < at_least:
            return False, None
        there = held.value[:1] == _THERE
        if not there and held.value != _ABSENT:
            return False, None
        self.figures.hits += 1
        # A third of what the constructor costs, and made for every read.
        return True, tuple.__new__(Held, (held.value[1:], held.revision)) if there else None

    def _begin(self, key: str) -> asyncio.Task[Held | None]:
        flight = asyncio.get_running_loop().create_task(self._fly(key), name="palaver-remember")
        self._flights[key] = flight
        self._loading.add(flight)
        flight.add_done_callback(lambda ended: self._ended(key, ended))
        return flight

    def _ended(self, key: str, flight: asyncio.Task[Held | None]) -> None:
        for flights in (self._flights, self._looking):
            if flights.get(key) is flight:
                del flights[key]
        self._loading.discard(flight)
        if not flight.cancelled():
            # Its callers may all have gone; who is still there gets the error from the flight itself.
            flight.exception()

    async def _fly(self, key: str) -> Held | None:
        again = False
        while earlier := self._looking.get(key):
            again = True
            await asyncio.wait([earlier])
        async with self._turns:
            # From here on nobody joins: who comes later may know of a change that this load does not.
            self._looking[key] = self._flights.pop(key)
            at_least = self._at_least.pop(key, 0)
            if again:
                # The load before this one has most likely kept it.
                ((kept, found),) = await self._kept_many([key], at_least)
                if kept:
                    return found
            for _ in range(_ATTEMPTS):
                self.figures.loads += 1
                begun = self._clock.monotonic()
                found = await self._load(key)
                # Past its time a fence no longer tells that what was read has changed since.
                if self._clock.monotonic() - begun >= self._fence_s / 2 or await self.keep(key, found):
                    break
        return found

    async def keep(self, key: str, found: Held | None) -> bool:
        """Store what was loaded or just written; return False where the cache knows of something newer: it is worth loading again."""
        if found is None:
            data, revision, ttl_s = _ABSENT, _OLDEST, self._absent_ttl_s
        else:
            data, revision, ttl_s = _THERE + found.value, max(found.revision, _OLDEST), self._ttl_s
        try:
            taken = await self._values.set(key, data, ttl_s=ttl_s, revision=revision)
        except PalaverError:
            self.figures.away += 1
            return True
        self.figures.refused += not taken
        return taken
