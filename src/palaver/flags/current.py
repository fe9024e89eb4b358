"""Keeps a snapshot of the flags current: told by the feed and the bus, looked after by a poll, read from the cache or the records."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from palaver.caching import Missed
from palaver.entity import Entity
from palaver.errors import PalaverError
from palaver.flags.declaring import FlagSet
from palaver.flags.records import ANY, HEAD, FlagRecord
from palaver.flags.snapshot import Snapshot, Stored, stored, unpacked
from palaver.following import Subscription
from palaver.ops import Change
from palaver.ports import Cache, ReadsLog
from palaver.store import Store

log = logging.getLogger("palaver.flags")

KIND = "flags"
CACHED_S = 90.0
"""How long a snapshot is kept for processes that start; whoever takes it checks its version with the records."""
WHOLE_S = 60.0
"""How often everything is read again, for what was written around the feed and around us."""
POLL_S, POLL_UNFED_S = 5.0, 0.5
"""How often the records are looked at, and how often where the feed comes late or not at all."""
CACHE_S = 0.25
"""How long a cache that falls silent may hold us up."""
CLOSE_S = 1.0
RETRY_S, SLOWEST_RETRY_S = 0.1, 0.5
LISTEN_AGAIN_S = 0.5

Source = Literal["records", "cache", "defaults"]
Watcher = Callable[[frozenset[str], bool], None]


@dataclass(frozen=True, slots=True)
class Seen:
    """How the snapshot stands: where it is from, when it was last known to be what the records say, and what is wrong if not."""

    source: Source
    checked_at: float | None
    error: str
    hearing: bool


class Current:
    """The snapshot of one set of flags in one process.

    It changes in one step and never goes back to before something this process set. Reading it never waits.
    """

    def __init__(self, store: Store, flags: FlagSet, entity: type[FlagRecord], *, cache: Cache, poll_s: float | None = None) -> None:
        fed_late = isinstance(store.core.records, ReadsLog)
        self._store, self._flags, self._entity, self._cache = store, flags, entity, cache
        self._poll_s = poll_s or (POLL_UNFED_S if fed_late else POLL_S)
        self._values, self._topic = cache.values(KIND), f"{KIND}:{flags.name}"
        self.snapshot: Snapshot | None = None
        self.watchers: list[Watcher] = []
        self._source: Source = "defaults"
        self._checked_at: float | None = None
        self._whole_at = 0.0
        self._error, self._hearing = "", False
        self._own = 0
        self._wanted = 0
        self._whole = False
        self._publish = False
        self._begun = False
        self._woken = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._subscription: Subscription | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read what can be read, and stay current from then on. Raises what no waiting mends, such as SchemaError."""
        # Listening comes first: what changes while we read is told.
        self._subscription = self._store.following.add(self)
        try:
            await self._attempt(self._first, starting=True)
        except BaseException:
            await self.aclose()
            raise
        self._tasks = [
            asyncio.create_task(self._stay_current(), name="palaver-flags"),
            asyncio.create_task(self._listen(), name="palaver-flags-bus"),
        ]

    async def aclose(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks and self._publish:
            # What was set just before is told by the feed as well, only not as soon.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._attempt(self._again)
        self._tasks = []

    def seen(self) -> Seen:
        return Seen(self._source, self._checked_at, self._error, self._hearing)

    @property
    def poll_s(self) -> float:
        return self._poll_s

    def monotonic(self) -> float:
        return self._store.clock.monotonic()

    # --- what tells us ------------------------------------------------------------------------------------------------

    @property
    def entities(self) -> Sequence[type[Entity]]:
        return (self._entity,)

    async def changed(self, changes: Sequence[Change]) -> None:
        """Take in what the feed says; what we know already costs nothing."""
        for change in changes:
            namespace, flag, scope, target = (str(part) for part in change.key[-4:])
            if namespace != self._flags.name:
                continue
            if scope == HEAD:
                self._told(change.revision)
            elif not self._knows((flag, scope, target), change):
                self._whole = True
                self._woken.set()

    async def missed(self) -> None:
        # The first time is the beginning, which has read everything, or taken what others had read just before.
        self._whole, self._begun = self._whole or self._begun, True
        self._woken.set()

    def _told(self, version: int) -> None:
        if self.snapshot is None or version > self.snapshot.version:
            self._wanted = max(self._wanted, version)
            self._woken.set()

    def _knows(self, place: tuple[str, str, str], change: Change) -> bool:
        if self.snapshot is None:
            return False
        known = self.snapshot.entries.get(place)
        return known is None if change.kind in ("deleted", "expired") else known is not None and known.revision >= change.revision

    async def _listen(self) -> None:
        """Hear what other processes publish; it makes nothing true, it only makes it sooner known."""
        while True:
            try:
                async with self._cache.bus.listen(self._topic) as heard:
                    self._hearing = True
                    async for message in heard:
                        if isinstance(message, Missed):
                            self._hearing = message.listening
                            self._woken.set()
                        elif message.data.isdigit() and len(message.data) < 20:
                            self._told(int(message.data))
            except PalaverError as error:
                log.debug("flags are not heard of through the cache: %s", error.code)
            self._hearing = False
            await asyncio.sleep(LISTEN_AGAIN_S)

    def merge(self, entry: Stored) -> None:
        """Take in what this process has just written, before anything else is read; others are told soon."""
        self._own += 1
        self._publish = True
        self._woken.set()
        if self.snapshot is not None:
            self._install(self.snapshot.with_entry(entry), self._source)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _stay_current(self) -> None:
        pause = RETRY_S
        while True:
            await self._due()
            self._woken.clear()
            if await self._attempt(self._again):
                pause = RETRY_S
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, SLOWEST_RETRY_S)
                self._woken.set()

    async def _due(self) -> None:
        """Return when something was told, or it is time to look: soon while the feed does not tell."""
        loop, share = asyncio.get_running_loop(), random.uniform(0.8, 1.0)
        looked = loop.time()
        while not self._woken.is_set():
            fed = self._subscription is not None and self._subscription.hears
            left = looked + share * (self._poll_s if fed else min(self._poll_s, POLL_UNFED_S)) - loop.time()
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                # Not wait_for, which may take a cancellation for an answer.
                async with asyncio.timeout(min(left, POLL_UNFED_S)):
                    await self._woken.wait()

    async def _attempt(self, read: Callable[[], Coroutine[Any, Any, None]], *, starting: bool = False) -> bool:
        """Read, and keep what went wrong for `health`: what was known stays as it is, and the next attempt follows."""
        try:
            await read()
        except Exception as error:
            if starting and not (isinstance(error, PalaverError) and error.retryable):
                raise
            self._failed(error.code if isinstance(error, PalaverError) else type(error).__name__)
            return False
        if self._error:
            self._error = ""
            self._tell(frozenset())
        return True

    def _failed(self, code: str) -> None:
        if self._error != code:
            log.warning("flags cannot be read: %s", code)
            self._error = code
            self._tell(frozenset())

    async def _first(self) -> None:
        """Begin with what another process has read, if the records say that it is what they hold."""
        self._whole, self._whole_at = True, self.monotonic()
        held = await self._cached()
        try:
            version = await self._head()
        except PalaverError:
            if held is not None:
                self._install(held, "cache")
            raise
        if held is not None and held.version == version:
            self._checked(held, "cache")
            self._whole = False
        else:
            await self._read_records()

    async def _again(self) -> None:
        """Do what is due: read everything, take what another process has read, or see whether anything changed."""
        wanted, whole, own = self._wanted, self._whole or self._publish, self._own
        self._wanted, self._whole = 0, False
        known = -1 if self.snapshot is None else self.snapshot.version
        try:
            held = await self._cached() if wanted > known and not whole else None
            if held is not None and held.version >= wanted and own == self._own:
                self._checked(held, "cache")
            elif whole or wanted > known or self.monotonic() - self._whole_at >= WHOLE_S or await self._head() != known:
                await self._read_records()
            elif self.snapshot is not None:
                self._checked(self.snapshot, self._source)
        except BaseException:
            self._wanted, self._whole = max(self._wanted, wanted), self._whole or whole
            raise
        if self._publish and self.snapshot is not None:
            self._publish = False
            with contextlib.suppress(PalaverError, TimeoutError):
                async with asyncio.timeout(CACHE_S):
                    await self._cache.bus.publish(self._topic, b"%d" % self.snapshot.version)

    async def _head(self) -> int:
        """Return the number that grows with everything that is set; 0 before the first time."""
        head = await self._store.find(self._entity.at(self._flags.name, ANY, HEAD, ANY))
        return 0 if head is None else head.revision

    async def _read_records(self) -> None:
        """Read everything that is set; the head first, so that what is read is never older than the version it is called."""
        while True:
            own, begun = self._own, self.monotonic()
            version = await self._head()
            entries = [stored(record) async for record in self._store.query(self._entity.key(self._flags.name))]
            if own == self._own:
                break
            # Something was set meanwhile, here, and may be missing from what was read.
        found = Snapshot(self._flags, entries, version)
        self._whole_at = begun
        self._checked(found, "records")
        with contextlib.suppress(PalaverError, TimeoutError):
            # Only a help for processes that start; how the cache does is in its own health.
            async with asyncio.timeout(CACHE_S):
                await self._values.set(self._flags.name, found.packed(), ttl_s=CACHED_S, revision=max(version, 1))

    async def _cached(self) -> Snapshot | None:
        try:
            async with asyncio.timeout(CACHE_S):
                held = await self._values.get(self._flags.name)
        except (PalaverError, TimeoutError):
            return None
        return None if held is None else unpacked(self._flags, held.value)

    def _checked(self, snapshot: Snapshot, source: Source) -> None:
        self._checked_at = self.monotonic()
        if snapshot is not self.snapshot:
            self._install(snapshot, source)

    def _install(self, snapshot: Snapshot, source: Source) -> None:
        changed = snapshot.differing(self.snapshot)
        first, self.snapshot, self._source = self.snapshot is None, snapshot, source
        if changed or first:
            self._tell(changed)

    def _tell(self, changed: frozenset[str]) -> None:
        for watcher in list(self.watchers):
            try:
                watcher(changed, not self._error)
            except Exception:
                log.exception("a watcher of flags failed")
