"""The feed's runner: projections built from changes, each under a lease, resumable from a stored position.

At least once, changes of one record in revision order; no order across records is promised. A projection's position is
stored in the same commit as the ops it returns, so those happen exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from palaver.clock import Clock, to_ms, to_us
from palaver.errors import BatchShape, Conflict, Fenced, PalaverError, SettleTimeout, Trimmed, Validation
from palaver.following import settled_head
from palaver.misuse import wrong
from palaver.ops import Change, Guard, Op, Origin, Put, Unchanged, WriteSet, Written
from palaver.ports import RecordEngine, Wakes
from palaver.query import check_seconds
from palaver.system import system
from palaver.values import Record

log = logging.getLogger("palaver.feed")
T = TypeVar("T")

LEASE_MS = 10_000
CHUNK = 500
IDLE_S = 1.0
# Changes of this long are taken together: a position is a durable write, and one for each change would double them.
GATHER_S = 0.02
# While others write, a projection works a fifth of the time, and more the further it falls behind.
GIVES_WAY = 4.0
LAG_MOST = 20_000
LONGEST_PAUSE_S = 0.25
RETRY_S = 0.1


class Projection(Protocol):
    """Something built from the records, that can be dropped and built anew, and never decides whether a write succeeds."""

    name: str

    async def apply(self, changes: Sequence[Change]) -> Sequence[Op]:
        """Take changes in, again if asked again; read records as they are now. Ops returned are committed with the position."""
        ...

    async def rebuild(self) -> None:
        """Build everything anew from the records."""
        ...


@runtime_checkable
class Restarting(Protocol):
    """A projection that can be emptied, so that building it anew does not trust what is there."""

    async def restart(self) -> None: ...


def pause_after(moved: int, arrived: int, lag: int, took: float) -> float:
    """Return for how long, after so many changes were taken in, those who write and read come first.

    What waits is caught up when nobody writes, at once, or when it becomes much.
    """
    if not lag:
        return max(took, GATHER_S)
    if arrived < moved // 4:
        return 0.0
    return min(LONGEST_PAUSE_S, max(GATHER_S, took * GIVES_WAY * (1 - lag / LAG_MOST)))


@dataclass(slots=True)
class _Lease:
    """One process's right to run one projection; the epoch fences those that had it before."""

    epoch: int
    until_ms: int
    position: int | None
    revision: int


class Runner:
    """Runs projections and the upkeep beside them, in this process, while it holds their leases."""

    def __init__(
        self, records: RecordEngine, projections: Sequence[Projection], clock: Clock, upkeep: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        self._records, self._clock, self._upkeep = records, clock, upkeep
        self.projections = {projection.name: projection for projection in projections}
        self._me = secrets.token_hex(8)
        self._leases: dict[str, _Lease] = {}
        self._errors: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._running = asyncio.Lock()
        self._woken = asyncio.Event()
        self._upkeep_at = 0.0
        self._head = self._lag = self._arrived = 0

    # --- running ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run in the background until `stop`."""
        if self._task is None:
            self._task = asyncio.create_task(self._forever(), name="palaver-feed")

    @property
    def running(self) -> bool:
        return self._task is not None

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._release_all()

    async def let_go(self) -> bool:
        """Release every lease; say whether changes came meanwhile: who found a lease taken has left them to this process."""
        held = [name for name in self._leases if name not in self._errors]
        await self._release_all()
        if not held:
            return False
        head, positions = (await self._records.changes(None, 0)).head, await self.positions()
        return any(positions[name] < head for name in held)

    async def _forever(self) -> None:
        while True:
            try:
                began = asyncio.get_running_loop().time()
                moved = await self.step()
                took = asyncio.get_running_loop().time() - began
                await self._keep_up()
                if not moved:
                    await self._idle()
                else:
                    await asyncio.sleep(pause_after(moved, self._arrived, self._lag, took))
            except Exception as error:
                log.warning("projections wait: %s", _described(error))
                await asyncio.sleep(IDLE_S)

    def poke(self) -> None:
        """Let upkeep run at once: a write left something to finish."""
        self._upkeep_at = 0.0
        self._woken.set()

    async def _keep_up(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._upkeep is not None and now >= self._upkeep_at:
            self._upkeep_at = now + IDLE_S
            await self._upkeep()

    async def _idle(self) -> None:
        self._woken.clear()
        if self._errors:
            # What failed is behind the head, so waiting for the head to move would not wait at all.
            await asyncio.sleep(IDLE_S)
        elif isinstance(self._records, Wakes) and self.projections and self._upkeep_at:
            # From the head, not from a position: a projection another process runs would make this spin.
            head = (await self._records.changes(None, 0)).head
            if all((lease.position or 0) >= head for lease in self._leases.values()):
                await self._records.wait_for_change(head, IDLE_S)
        elif self._upkeep_at:
            with contextlib.suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it loses a cancellation that comes with the event, and nobody stops us then.
                async with asyncio.timeout(IDLE_S):
                    await self._woken.wait()

    async def step(self) -> int:
        """Run every projection whose lease can be had over one chunk of changes; return how many changes moved."""
        async with self._running:
            moved, before, self._lag = 0, self._head, 0
            for name in self.projections:
                try:
                    moved += await self._step(name)
                    self._errors.pop(name, None)
                except (Fenced, Conflict):
                    self._leases.pop(name, None)
                except Exception as error:
                    # A mistake in one projection, ours or the application's, must not stop the others.
                    known = self._errors.get(name)
                    self._errors[name] = error.code if isinstance(error, PalaverError) else type(error).__name__
                    if known != self._errors[name]:
                        log.warning("projection %s failed: %s", name, _described(error))
            self._arrived = self._head - before
            return moved

    async def _step(self, name: str) -> int:
        lease = await self._hold(name)
        if lease is None:
            return 0
        try:
            page = await self._records.changes(lease.position, CHUNK)
        except Trimmed:
            log.warning("projection %s is rebuilt: the feed no longer reaches back to it", name)
            await self._rebuild(name, lease)
            return 1
        self._head = max(self._head, page.head)
        if page.changes:
            self._lag = max(self._lag, page.head - page.last)
            return await self._advance(name, lease, page.changes, page.last)
        if lease.position is None or page.last > lease.position:
            await self._save(name, lease, page.last, ())
        return 0

    async def _advance(self, name: str, lease: _Lease, changes: Sequence[Change], last: int) -> int:
        """Let a projection take changes in, fewer at once where what it commits for them is more than the engine takes."""
        while True:
            try:
                ops = await self._renewing(name, lease, self.projections[name].apply(changes))
                await self._save(name, lease, last, ops)
                return len(changes)
            except BatchShape:
                if len(changes) == 1:
                    raise
                changes = changes[: len(changes) // 2]
                last = changes[-1].position

    async def rebuild(self, name: str) -> None:
        """Empty one projection, build it anew and put its position at the head it was built from."""
        if not isinstance(name, str):
            raise wrong("the name of a projection", name, f"There are: {', '.join(sorted(self.projections))}.")
        if name not in self.projections:
            raise Validation(f"There is no projection {name}.", hint=f"There are: {', '.join(sorted(self.projections))}.")
        async with self._running:
            lease = await self._hold(name, steal=True)
            assert lease is not None
            projection = self.projections[name]
            if isinstance(projection, Restarting):
                await projection.restart()
            await self._rebuild(name, lease)

    async def _rebuild(self, name: str, lease: _Lease) -> None:
        head = await self._renewing(name, lease, self._settled_head())
        await self._renewing(name, lease, self.projections[name].rebuild())
        await self._save(name, lease, head, ())

    async def _renewing(self, name: str, lease: _Lease, doing: Coroutine[Any, Any, T]) -> T:
        """Do something that may take longer than a lease lasts, and must not be taken over in the middle."""
        work = asyncio.ensure_future(doing)
        try:
            while not (await asyncio.wait({work}, timeout=LEASE_MS / 3_000))[0]:
                until = to_ms(self._clock.now()) + LEASE_MS
                await self._store(name, lease, lease.position, until, expected=lease.revision)
                lease.until_ms = until
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        return work.result()

    async def _settled_head(self) -> int:
        while True:
            head = await settled_head(self._records)
            if head is not None:
                return head
            await asyncio.sleep(RETRY_S)

    # --- leases and positions ---------------------------------------------------------------------------------------

    async def _hold(self, name: str, *, steal: bool = False) -> _Lease | None:
        """Return this process's lease, taking or renewing it; None while another live process has it."""
        now = to_ms(self._clock.now())
        lease = self._leases.get(name)
        if lease is not None and lease.until_ms - now > LEASE_MS // 2:
            return lease
        at = system("projection", name)
        record = (await self._records.get((at,)))[0]
        body: Any = record["body"] if record else {}
        mine = body.get("holder") == self._me
        # A lease that ends later than any that could be taken now was taken before the clock was put back.
        if record is not None and not mine and not steal and now < body.get("until_ms", 0) <= now + 2 * LEASE_MS:
            self._leases.pop(name, None)
            return None
        epoch = body.get("epoch", 0) + (0 if mine else 1)
        lease = _Lease(epoch, now + LEASE_MS, body.get("position"), record["_revision"] if record else 0)  # type: ignore[arg-type]
        await self._store(name, lease, lease.position, lease.until_ms, expected=lease.revision or None)
        self._leases[name] = lease
        return lease

    async def _save(self, name: str, lease: _Lease, position: int, ops: Sequence[Op]) -> None:
        until = to_ms(self._clock.now()) + LEASE_MS
        await self._store(name, lease, position, until, expected=lease.revision, ops=ops)
        lease.position, lease.until_ms = position, until

    async def _store(
        self, name: str, lease: _Lease, position: int | None, until_ms: int, *, expected: int | None, ops: Sequence[Op] = ()
    ) -> None:
        body = {"holder": self._me, "epoch": lease.epoch, "until_ms": until_ms, "position": position}
        record: Record = {"scope": "projection", "name": name, "body": body}  # type: ignore[dict-item]
        put = Put(system("projection", name), record, (Guard(Unchanged(expected), Origin(0, "lease")),))
        now_us = max(to_us(self._clock.now()), lease.revision + 1)
        result = await self._records.write(WriteSet((put, *ops), now_us))
        if isinstance(result, Written):
            lease.revision = result.revisions[0] or 0
            return
        if any(failure.op == 0 for failure in result.failures):
            raise Fenced(f"Another process runs the projection {name}.", projection=name)
        raise Conflict(f"What the projection {name} writes was changed by others.", projection=name)

    async def _release_all(self) -> None:
        for name in list(self._leases):
            await self._release(name)

    async def _release(self, name: str) -> None:
        lease = self._leases.pop(name)
        try:
            await self._store(name, lease, lease.position, 0, expected=lease.revision)
        except PalaverError as error:
            log.debug("lease of %s was not released: %s", name, error.code)

    # --- looking ----------------------------------------------------------------------------------------------------

    async def positions(self) -> dict[str, int]:
        """Return the stored position of every projection, whichever process runs it."""
        names = list(self.projections)
        found = await self._records.get([system("projection", name) for name in names])
        out: dict[str, int] = {}
        for name, record in zip(names, found, strict=True):
            body: Any = record["body"] if record else {}
            out[name] = body.get("position") or 0
        return out

    async def state(self, head: int) -> dict[str, dict[str, Any]]:
        return {
            name: {"position": position, "lag": max(0, head - position), "error": self._errors.get(name)}
            for name, position in (await self.positions()).items()
        }

    async def settle(self, timeout: float) -> None:
        """Wait until every projection has stored a position at or past the present head."""
        check_seconds(timeout)
        if not self.projections:
            return
        head = (await self._records.changes(None, 0)).head
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            behind = [name for name, position in (await self.positions()).items() if position < head]
            if not behind:
                return
            if asyncio.get_running_loop().time() >= deadline:
                raise SettleTimeout(
                    f"The projection {behind[0]} did not catch up within {timeout:g} s.",
                    hint="`health` shows its lag and last error.",
                    projection=behind[0],
                    error=self._errors.get(behind[0]),
                )
            moved = 0
            # A projection may hang, here or in the background; the time that was asked for still holds.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    moved = await self.step()
            if not moved:
                await asyncio.sleep(RETRY_S if self._errors else 0.005)


def _described(error: Exception) -> str:
    """Return what may be logged of an error: its code, or its type and where it happened; its text may hold stored values."""
    if isinstance(error, PalaverError):
        return error.code
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
