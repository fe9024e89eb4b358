"""Following the feed in every process: whoever keeps something of records in memory is told what changed, and when it must start anew.

One task a store, shared by all listeners, begun with the first and ended with the last. No lease: every process hears everything.
"""

from __future__ import annotations

import asyncio
import logging
import random
import traceback
from collections.abc import Awaitable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from palaver.clock import us_of
from palaver.entity import Entity
from palaver.errors import ConfigError, PalaverError, SettleTimeout, Trimmed, Unavailable
from palaver.ops import Absent, Address, Change, ChangePage, Delete, Put, Read, Unchanged, Update, WriteSet, Written
from palaver.ports import ReadsLog, RecordEngine, Wakes
from palaver.system import SYSTEM

if TYPE_CHECKING:
    from palaver.core import Core

log = logging.getLogger("palaver.following")

CHUNK = 500
IDLE_S = 1.0
# Changes of this long are told together.
GATHER_S = 0.02
RETRY_S = 0.1
SLOWEST_RETRY_S = 2.0
PATIENCE_S = 10.0
"""How long a listener may take, and how long it may fail before it is told to start anew."""
STOPPED_S = 60.0
HELD_BACK_S = 60.0
"""How long a transaction of others may keep the end of the feed from being read."""
NOTED_EVERY_S = 1.0
SLOW_S = 0.25
"""A page of the feed that takes longer waits for something."""
LOOK_S = 0.3
"""How often a feed that has to be copied first is looked at for what others copied."""
COPY_S = 2.0
"""How often it is copied by those who follow, where nobody runs projections, who does that all the time."""
COPY_OWN_S = 0.3


class Listener(Protocol):
    """Something that keeps what it read of `entities`, and has to know when that is no longer true."""

    @property
    def entities(self) -> Sequence[type[Entity]]: ...

    async def changed(self, changes: Sequence[Change]) -> None:
        """Take in what any process committed; again if it raised. Of several changes of one record only the last may come."""
        ...

    async def missed(self) -> None:
        """Drop everything: what changed before this call is not told any more. Comes first of all, and again if it raised."""
        ...


class Wrote(NamedTuple):
    """What this process wrote. `revision`: the record's new one, None where only the feed will know it.

    `created`: there was no such record before.
    """

    at: Address
    revision: int | None
    created: bool = False


@runtime_checkable
class HearsWrites(Protocol):
    """A listener that is told what this process's stores wrote before the write returns; it has to be quick, and raises nothing."""

    async def wrote(self, writes: Sequence[Wrote]) -> None: ...


@runtime_checkable
class NotesPlace(Protocol):
    """A listener that wants to know up to which position of the feed it was told everything: after changes, else about each second."""

    async def reached(self, position: int) -> None: ...


class Subscription:
    """One listener's place in the feed. `close` ends it; doing so twice is not an error."""

    def __init__(self, follower: Follower, listener: Listener, tenant: str | None) -> None:
        schema = follower.core.schema
        declared = [schema.of(entity) for entity in listener.entities]
        self.listener = listener
        self.tables = {each.table.name for each in declared}
        self._tenant = tenant
        self._tenanted = {each.table.name for each in declared if each.tenant is not None}
        self._follower = follower
        self.position: int | None = None
        self.error: str | None = None
        self.noted_at = 0.0
        self.retry_at = 0.0
        self._pause = RETRY_S
        self._failing_since: float | None = None
        self._begun, self._did_begin = asyncio.Event(), False

    @property
    def hears(self) -> bool:
        """Whether what is committed now is told soon: the feed is read to its end, and the listener took what it was told."""
        return self.position is not None and self.error is None and self._follower.reads_on

    def close(self) -> None:
        self._follower.part(self)

    def miss(self) -> None:
        """Have the listener start anew: it noticed by itself that it does not know what it should."""
        self.position = None
        self._follower.wake()

    async def ready(self) -> None:
        """Return when the listener has begun: it hears of everything that is committed from now on.

        Raises ConfigError where it ends before that.
        """
        await self._begun.wait()
        if not self._did_begin:
            raise ConfigError("This listener ended before it had begun.", hint="The store was closed, or its subscription.")

    def end(self) -> None:
        """Let nobody wait for a beginning any more."""
        self._begun.set()

    def concerns(self, at: Address) -> bool:
        return at.table in self.tables and (self._tenant is None or at.table not in self._tenanted or at.key[0] == self._tenant)

    async def begin(self, head: int, now: float) -> None:
        """Tell the listener to start anew, from a position of the feed."""
        # Before the call: a listener that misses something in it is not overruled.
        self.position = head
        if await self._told(self.listener.missed(), now):
            self._did_begin = True
            self._begun.set()
        else:
            self.position = None

    async def take(self, page: ChangePage, now: float) -> None:
        """Tell the listener what concerns it of a page that begins at or before its place."""
        place = self.position
        if place is None:
            # It noticed that it missed something while another listener was being told.
            return
        # The last change of each record, in the order of these.
        last: dict[Address, Change] = {}
        for change in page.changes:
            at = Address(change.table, change.key)
            if change.position > place and self.concerns(at):
                last.pop(at, None)
                last[at] = change
        if last and not await self._told(self.listener.changed(list(last.values())), now):
            if self._failing_since is not None and now - self._failing_since > PATIENCE_S:
                self.position = None
            return
        if self.position != place:
            return
        self.position = max(place, page.last)
        if isinstance(self.listener, NotesPlace) and self.position > place and (last or now >= self.noted_at + NOTED_EVERY_S):
            self.noted_at = now
            await self._told(self.listener.reached(self.position), now)

    async def _told(self, telling: Awaitable[None], now: float) -> bool:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await telling
        except Exception as error:
            described = _described(error)
            if described != self.error:
                log.warning("a listener to changes failed: %s", described)
            self.error = described
            self._failing_since = now if self._failing_since is None else self._failing_since
            self.retry_at, self._pause = now + self._pause, min(self._pause * 2, SLOWEST_RETRY_S)
            return False
        self.error, self._failing_since, self._pause, self.retry_at = None, None, RETRY_S, 0.0
        return True


class Following:
    """What a store shows of it: who listens hears of the store's tenant only, of everything where it has none."""

    def __init__(self, core: Core, tenant: str | None) -> None:
        self._core, self._tenant = core, tenant

    def add(self, listener: Listener) -> Subscription:
        """Tell a listener of every change, whichever process commits it, soon after: at least once, those of one record in order.

        It is told `missed` first. Everything that is committed after that call began is told by `changed`, or else by another
        `missed`: after a stop of over a minute, where the feed was trimmed, or where the listener kept failing for 10 seconds.
        """
        return self._join(listener, self._tenant)

    def add_for_all(self, listener: Listener) -> Subscription:
        """Do the same with changes of every tenant, for what all of a process's tenants share."""
        return self._join(listener, None)

    def _join(self, listener: Listener, tenant: str | None) -> Subscription:
        if self._core.follower is None:
            self._core.follower = Follower(self._core)
        return self._core.follower.join(listener, tenant)


class Follower:
    """The task of one store that reads the feed and tells the listeners."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._records = core.records
        self._subscriptions: list[Subscription] = []
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._waiting: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self._copy_at = 0.0
        self._held_back = False
        self._reads_since: float | None = None
        self.error: str | None = None

    @property
    def reads_on(self) -> bool:
        """Whether the feed is read, and nothing that was committed waits in it for a transaction that still runs."""
        return self.error is None and not self._held_back and (self._reads_since is None or _now() - self._reads_since < SLOW_S)

    # --- who listens ------------------------------------------------------------------------------------------------

    def join(self, listener: Listener, tenant: str | None) -> Subscription:
        subscription = Subscription(self, listener, tenant)
        self._subscriptions.append(subscription)
        if self._task is None:
            self._looked_at = _now()
            self._task = asyncio.create_task(self._forever(), name="palaver-following")
        self.wake()
        return subscription

    def part(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            subscription.end()
        if not self._subscriptions and self._task is not None:
            self._task.cancel()
            self._ending.add(self._task)
            self._task.add_done_callback(self._ending.discard)
            self._task = None

    def wake(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

    async def stop(self) -> None:
        """End the task; nobody is told anything any more."""
        for subscription in self._subscriptions:
            subscription.end()
        self._subscriptions.clear()
        if self._task is not None:
            self._task.cancel()
            self._ending.add(self._task)
            self._task = None
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def wrote(self, writes: WriteSet, written: Written) -> None:
        """Tell those who hear of this process's writes at once."""
        own = _stored(writes, written)
        await self.touched([Wrote(op.at, _revision(op, revision, writes.now_us), _creates(op)) for op, revision in own])

    async def replayed(self, at: Iterable[Address], found: Iterable[Entity | None]) -> None:
        """Tell of a repeated write: whoever wrote it may have been cut off before it could tell."""
        await self.touched([Wrote(each, now.revision if now else None) for each, now in zip(at, found, strict=True)])

    async def touched(self, writes: Sequence[Wrote]) -> None:
        self._copy_at = min(self._copy_at, _now() + COPY_OWN_S)
        for subscription in list(self._subscriptions):
            if isinstance(subscription.listener, HearsWrites) and (own := [each for each in writes if subscription.concerns(each.at)]):
                try:
                    await subscription.listener.wrote(own)
                except Exception as error:
                    # What was written is written, and the feed tells of it.
                    log.warning("a listener to writes failed: %s", _described(error))

    async def caught_up(self, timeout: float) -> None:
        """Return when every listener was told what is committed now; raise SettleTimeout where one does not follow."""
        head = (await self._records.changes(None, 0)).head
        until = _now() + timeout
        while behind := [each for each in self._subscriptions if each.position is None or each.position < head]:
            if _now() >= until:
                raise SettleTimeout(
                    f"A listener to changes did not catch up within {timeout:g} s.",
                    hint="A cache that is away cannot be told what to forget.",
                    error=next((each.error for each in behind if each.error), self.error),
                )
            await asyncio.sleep(0.005)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def _forever(self) -> None:
        while True:
            try:
                await self._begin()
                await (asyncio.sleep(GATHER_S) if await self._round() else self._idle())
                self.error = None
            except Exception as error:
                described = _described(error)
                if described != self.error:
                    log.warning("changes are not heard of: %s", described)
                self.error = described
                await asyncio.sleep(IDLE_S)

    async def _begin(self) -> None:
        """Let those begin who are new, or lost their place."""
        if _now() - self._looked_at > STOPPED_S:
            for subscription in self._subscriptions:
                subscription.position = None
        due = [each for each in self._subscriptions if each.position is None and each.retry_at <= _now()]
        head = await settled_head(self._records) if due else None
        for each in due if head is None else ():
            each.retry_at = _now() + RETRY_S
        if head is not None:
            await asyncio.gather(*(each.begin(head, _now()) for each in due))
        self._looked_at = _now()

    async def _round(self) -> bool:
        """Tell those who stand furthest back what comes next; return whether there was anything."""
        due = [each for each in self._subscriptions if each.position is not None and each.retry_at <= _now()]
        if not due:
            return False
        start = min(each.position for each in due if each.position is not None)
        self._reads_since = _now()
        try:
            page = await self._page(start)
        except Trimmed:
            for each in due:
                if each.position == start:
                    each.position = None
            return True
        finally:
            self._reads_since = None
        now = self._looked_at = _now()
        self._held_back = not page.changes and page.last < page.head
        # One that moved its place while the page was read is told by the next.
        ready = [each for each in due if each.position is not None and each.position >= start and each in self._subscriptions]
        await asyncio.gather(*(each.take(page, now) for each in ready))
        return bool(page.changes)

    async def _page(self, start: int) -> ChangePage:
        """Read on. A feed that has to be copied first is left to whoever runs projections, or copies more often than this."""
        records = self._records
        if not isinstance(records, ReadsLog):
            return await records.changes(start, CHUNK)
        if _now() < self._copy_at:
            page = await records.logged(start, CHUNK)
            if page.changes:
                self._copy_at = _now() + COPY_S * random.uniform(0.75, 1.25)
            return page
        self._copy_at = _now() + COPY_S * random.uniform(0.75, 1.25)
        return await (records.logged(start, CHUNK) if await self._is_copied() else records.changes(start, CHUNK))

    async def _is_copied(self) -> bool:
        """Say whether some process runs projections now."""
        leases = await self._records.query(Read(SYSTEM.name, None, ("projection",), limit=CHUNK, consistent=False))
        bodies: list[Any] = [lease["body"] for lease in leases.records]
        now_ms = us_of(self.core.clock) // 1_000
        return any(now_ms < body.get("until_ms", 0) for body in bodies)

    async def _idle(self) -> None:
        """Wait until there may be something new, or somebody joins."""
        retries = [each.retry_at - _now() for each in self._subscriptions if each.retry_at]
        seconds = max(0.0, min([IDLE_S, *retries]))
        positions = [each.position for each in self._subscriptions if each.position is not None and not each.retry_at]
        if any(each.position is None and not each.retry_at for each in self._subscriptions):
            return
        self._waiting = asyncio.create_task(self._wait(max(positions, default=None), seconds), name="palaver-following-waits")
        try:
            await asyncio.wait({self._waiting})
            if not self._waiting.cancelled():
                self._waiting.result()
        finally:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)
            self._waiting = None

    async def _wait(self, position: int | None, seconds: float) -> None:
        if isinstance(self._records, ReadsLog):
            await asyncio.sleep(min(seconds, LOOK_S))
        elif position is not None and isinstance(self._records, Wakes):
            await self._records.wait_for_change(position, seconds)
        else:
            await asyncio.sleep(min(seconds, LOOK_S))


async def settled_head(records: RecordEngine) -> int | None:
    """Return the feed's end once no change can appear before it any more, None while one can.

    Where positions are given before they are committed, the newest that is seen may still be followed by an older one. Who reads
    records after this, and the changes after the position, misses nothing.
    """
    head = (await records.changes(None, 0)).head
    if head == 0:
        return head
    try:
        page = await records.changes(head - 1, 1)
    except Trimmed:
        return head
    return head if page.last >= head else None


async def settled(records: RecordEngine) -> int:
    """Return what `settled_head` does, once there is one. Raises Unavailable where a transaction keeps it back for a minute."""
    until = _now() + HELD_BACK_S
    while (head := await settled_head(records)) is None:
        if _now() > until:
            raise held_back()
        await asyncio.sleep(RETRY_S)
    return head


def held_back() -> Unavailable:
    """Return the error for a feed whose end cannot be read for a minute."""
    return Unavailable(
        "A transaction on the server has not ended for a minute; what was committed after it began cannot be put in order yet.",
        hint="End it, such as one that is idle in pg_stat_activity, and run this again.",
    )


def _stored(writes: WriteSet, written: Written) -> list[tuple[Put | Update | Delete, int | None]]:
    pairs = zip(writes.ops, written.revisions, strict=True)
    return [(op, revision) for op, revision in pairs if isinstance(op, Put | Update | Delete)]


def _creates(op: Put | Update | Delete) -> bool:
    # Records that others hang on are guarded against what is left of a deleted one, too.
    return isinstance(op, Put) and any(isinstance(guard.when, Absent) or guard.when == Unchanged(None) for guard in op.guards)


def _revision(op: Put | Update | Delete, revision: int | None, now_us: int) -> int | None:
    """Return the revision a write made; that of a deletion is known where the one before was guarded."""
    if revision is not None or not isinstance(op, Delete):
        return revision
    before = next((guard.when.revision for guard in op.guards if isinstance(guard.when, Unchanged)), None)
    return None if before is None else max(now_us, before + 1)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _described(error: Exception) -> str:
    """Return what may be logged of an error: its code, or its type and where it happened; its text may hold stored values."""
    if isinstance(error, PalaverError):
        return error.code
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
