"""What has to be done behind the writes: expired records, cascades, released objects. All resumable, all in batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from palaver.clock import to_us
from palaver.declared import Declared
from palaver.draft import Held, Plan, premise, release, was
from palaver.errors import Conflict, ReferenceBroken
from palaver.ops import (
    MARK,
    REVISION,
    Address,
    Bound,
    Cause,
    Change,
    Delete,
    Op,
    Put,
    Read,
    Refused,
    WriteSet,
    Written,
    is_live,
    position,
    revision_of,
)
from palaver.ports import FindsExpired, MakesParts, TrimsFeed
from palaver.refusal import moved
from palaver.schema import Reference
from palaver.streaming import upload
from palaver.system import SYSTEM, blob_address, job_address, key_from_plain, system
from palaver.values import KeyPart, Record

if TYPE_CHECKING:
    from palaver.core import Core

W = TypeVar("W", bound=Delete | Put)
BATCH = 100
HELD_US = 60_000_000
REMEMBERED_S = 3_600
# Records removed by one commit: 100 with their indexes held other writers up for 30 ms, 20 for less than 5 (two cores).
AT_ONCE = 20
ATTEMPTS = 5
CLOSED_MS = 60_000
SWEEP_EVERY_S = 60.0
SWEEP_AT_ONCE = 1_000
TRIM_PAGE = 1_000


@dataclass
class Swept:
    """What one sweep removed: expired records per entity, cascaded children, objects."""

    expired: dict[str, int] = field(default_factory=dict)
    cascaded: int = 0
    objects: int = 0

    @property
    def total(self) -> int:
        return sum(self.expired.values()) + self.cascaded + self.objects


class Upkeep:
    """Housekeeping over the ports, so that every engine has it alike."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._records = core.records
        self._planner = core.planner

    async def written(self, plan: Plan) -> Written | Refused:
        """Upload the objects of a plan and write it; where that is refused for good, what was uploaded is to be removed."""
        result = await self._records.write(await self._uploaded(plan))
        if isinstance(result, Refused) and not moved(result):
            await self._give_up(plan)
        return result

    async def _give_up(self, plan: Plan) -> None:
        """Leave the jobs that remove what a refused plan uploaded, unless a record refers to it: another write of the same."""
        now_us, uploaded = self._core.now_us(), {key for key, _ in plan.uploads}
        puts: dict[Address, Put] = {}
        for op in plan.writes.ops:
            declared = self._core.schema.tables.get(op.at.table)
            if isinstance(op, Put) and declared is not None:
                for key in uploaded.intersection(self._planner.codec(declared.entity).references(op.record)):
                    puts[blob_address(key)] = release(key, op.at, now_us // 1000)
        stored = await self._records.get(list(puts))
        await self._unmoved([_renewed(put, job) for put, job in zip(puts.values(), stored, strict=True)], now_us)
        if self._core.runner is not None:
            self._core.runner.poke()

    async def _uploaded(self, plan: Plan) -> WriteSet:
        """Upload the objects of a plan; its writes then hold only if the job of none of them moved meanwhile.

        A released object may be removed between its upload and the commit, and the job with it: nothing would be left to see.
        """
        jobs = [blob_address(key) for key, _ in plan.uploads]
        seen = dict(zip(jobs, await self._records.get(jobs), strict=True))
        await asyncio.gather(*(upload(self._core.blobs, key, data) for key, data in plan.uploads))
        ops = [op._replace(guards=(*op.guards, premise(0, seen[op.at]))) if op.at in seen else op for op in plan.writes.ops]
        return plan.writes._replace(ops=ops)

    async def work(self) -> int:
        """Finish waiting cascades and due objects, and now and then sweep a little; called by the runner between changes."""
        core = self._core
        if core.clock.monotonic() >= core.next_sweep:
            core.next_sweep = core.clock.monotonic() + SWEEP_EVERY_S
            await self.trim()
            swept = await self.sweep(SWEEP_AT_ONCE)
            if sum(swept.expired.values()) >= SWEEP_AT_ONCE:
                # More is waiting: what expires faster than this once a minute would never end otherwise.
                core.next_sweep = core.clock.monotonic()
            return swept.total
        return await self.cascade() + await self.collect()

    async def trim(self) -> int:
        """Forget changes that are older than the feed's retention and seen by every projection of this store; return how many."""
        if not isinstance(self._records, TrimsFeed):
            return 0
        oldest_us = self._core.now_us() - self._records.limits.feed_retention_s * 1_000_000
        runner = self._core.runner
        seen = min((await runner.positions()).values(), default=None) if runner is not None else None
        gone = 0
        after: int | None = None
        while True:
            page = await self._records.changes(after, TRIM_PAGE)
            # A revision is the instant of its write, or a little more where writes came faster than the clock.
            old = [change for change in page.changes if change.revision < oldest_us and (seen is None or change.position <= seen)]
            if not old:
                return gone
            after = old[-1].position
            gone += await self._records.trim(after + 1)
            if len(old) < len(page.changes):
                return gone

    async def sweep(self, limit: int | None = None) -> Swept:
        """Remove expired records of every table through their expiry index, then cascades and due objects."""
        self._planner.refuse()
        swept = Swept()
        if isinstance(self._records, MakesParts):
            await self._records.make_parts(self._core.now_us())
        left = limit
        for name, table in self._planner.tables.items():
            if table.expires is None or not isinstance(self._records, FindsExpired):
                continue
            while left is None or left > 0:
                now_us = self._core.now_us()
                found = await self._records.expired(name, now_us, AT_ONCE if left is None else min(AT_ONCE, left))
                if not found:
                    break
                removed = await self._expire(name, found, now_us)
                swept.expired[table.entity] = swept.expired.get(table.entity, 0) + removed
                # Marked parents stay expired, and first in line, until their children are gone.
                swept.cascaded += await self.cascade()
                left = None if left is None else left - len(found)
                if not removed:
                    break
        swept.cascaded += await self.cascade()
        swept.objects = await self.collect()
        return swept

    async def _expire(self, table: str, found: Sequence[Address], now_us: int) -> int:
        declared = self._core.schema.tables.get(table)
        if declared is None or self._is_plain(declared):
            return await self._expire_plain(table, found, now_us)
        writes = [
            self._records.write(self._planner.expire(declared, at, old, now_us).writes)
            for at, old in zip(found, await self._records.get(found), strict=True)
            if old is not None and old.get(MARK) is None and not is_live(declared.table, old, now_us)
        ]
        # Together, because an engine commits what is written at once at once; each stands or falls alone.
        return sum([not isinstance(result, Refused) for result in await asyncio.gather(*writes)])

    def _is_plain(self, declared: Declared) -> bool:
        return not self._core.schema.takes_along(declared)

    async def _expire_plain(self, table: str, found: Sequence[Address], now_us: int) -> int:
        """Delete in one batch, each guarded by the revision seen, so that a record extended meanwhile stays."""
        records = await self._records.get(found)
        ops = [
            Delete(at, (premise(0, old),), (), True)
            for at, old in zip(found, records, strict=True)
            if old is not None and not is_live(self._planner.tables[table], old, now_us)
        ]
        return len(await self._unmoved(ops, now_us))

    async def _unmoved(self, ops: Sequence[W], now_us: int) -> Sequence[W]:
        """Write those ops whose records are as they were seen; return them."""
        for _ in range(2):
            if not ops:
                return ops
            result = await self._records.write(WriteSet(ops, now_us, Cause("sweep")))
            if not isinstance(result, Refused):
                return ops
            lost = {failure.op for failure in result.failures}
            ops = [op for number, op in enumerate(ops) if number not in lost]
        return ()

    # --- cascades ---------------------------------------------------------------------------------------------------

    async def cascade(self) -> int:
        """Delete the children of marked records, then the records; return how many went. Stops when nothing moves."""
        gone = 0
        while True:
            moved = 0
            async for job in self._jobs("cascade", self._core.now_us() // 1000):
                removed, marked = await self._cascade(job)
                gone, moved = gone + removed, moved + removed + marked
            if not moved:
                return gone

    async def _cascade(self, job: Record) -> tuple[int, int]:
        """Go on with one job; return how many records are gone or as good as gone now, and how many marks came or went."""
        body: Any = job["body"]
        at = Address(str(body["table"]), key_from_plain(body["key"]))
        if body.get("reopen"):
            await self._reopen(at)
            return 0, 0
        declared = self._core.schema.tables.get(at.table)
        old = (await self._records.get((at,)))[0] if declared is not None else None
        if declared is None or old is None or old.get(MARK) is None:
            await self._records.write(WriteSet((Delete(system("cascade", str(job["name"]))),), self._core.now_us()))
            return 0, 0
        expired = bool(body.get("expired"))
        gone, marked, waiting = 0, 0, False
        for reference in self._planner.cascades(declared):
            removed, new, left = await self._delete_children(reference, at.key, expired)
            gone, marked, waiting = gone + removed, marked + new, waiting or left
        if waiting:
            return gone, marked
        plan = self._planner.remove_marked(declared, at, old, self._core.now_us(), expired=expired, written_us=body["written"])
        removed = not isinstance(await self._records.write(plan.writes), Refused)
        return gone + (removed and not body.get("counted")), marked + removed

    async def _delete_children(self, reference: Reference, parent: tuple[KeyPart, ...], expired: bool) -> tuple[int, int, bool]:
        """Delete one reference's children; those with children of their own are marked and make the parent wait."""
        child, gone, marked, waiting = reference.child, 0, 0, False
        async for page in self._children(reference, parent):
            now_us = self._core.now_us()
            fresh = [record for record in page if record.get(MARK) is None]
            waiting = waiting or len(fresh) < len(page)
            addresses = [Address(child.table.name, position(child.table, None, record)) for record in fresh]
            if self._is_plain(child):
                if addresses:
                    await self._records.write(WriteSet([Delete(at, (), (), expired) for at in addresses], now_us, Cause("cascade")))
                gone += len(addresses)
                continue
            for at, record in zip(addresses, fresh, strict=True):
                plan = self._planner.expire(child, at, record, now_us, expired=expired)
                written = not isinstance(await self._records.write(plan.writes._replace(cause=Cause("cascade"))), Refused)
                waiting = waiting or plan.jobs or not written
                gone, marked = gone + written, marked + (written and plan.jobs)
        return gone, marked, waiting

    async def _children(self, reference: Reference, parent: tuple[KeyPart, ...]) -> Any:
        """Yield pages of stored children, hidden ones included."""
        child = reference.child
        path = child.access[reference.through]
        own = parent[1:] if reference.parent.tenant else parent
        values = {child.fields[name].stored: value for name, value in zip(reference.ref.fields, own, strict=True)}
        by_path = dict(zip(reference.ref.fields, own, strict=True))
        partition = (parent[:1] if child.tenant else ()) + tuple(by_path[part.path] for part in path.partition)
        after: tuple[KeyPart, ...] | None = None
        while True:
            page = await self._records.query(Read(child.table.name, path.physical, partition, limit=AT_ONCE, after=after))
            matching = [record for record in page.records if all(record.get(name) == value for name, value in values.items())]
            if matching:
                yield matching
            if page.last is None:
                return
            after = page.last

    @asynccontextmanager
    async def closing(self, held: Sequence[Held], going: Collection[Address]) -> AsyncIterator[Collection[Address]]:
        """Hide parents while it is decided whether children hold them back, so that none can join meanwhile.

        Raises ReferenceBroken where a live child exists that is not among those `going` in the same batch.
        """
        closed: list[Address] = []
        try:
            for each in held:
                if not await self._is_there(each):
                    continue
                await self._refuse_referenced(each.declared, each.at, going)
                if await self._close(each):
                    closed.append(each.at)
                    await self._refuse_referenced(each.declared, each.at, going)
            yield closed
        finally:
            for at in closed:
                await self._reopen(at)

    async def _is_there(self, held: Held) -> bool:
        old = (await self._records.get((held.at,)))[0]
        return is_live(held.declared.table, old, to_us(self._core.clock.now()))

    async def _close(self, held: Held) -> bool:
        """Hide a record; leave one alone that is not there, or of which the condition is not true."""
        for _ in range(ATTEMPTS):
            old = (await self._records.get((held.at,)))[0]
            now_us = self._core.now_us()
            if old is None or not is_live(held.declared.table, old, now_us):
                return False
            if not was(held.declared, old, revision_of(old), held.when):
                return False
            writes = self._planner.close(held.at, old, now_us, now_us // 1000 + CLOSED_MS)
            if not isinstance(await self._records.write(writes), Refused):
                return True
        raise Conflict("Other writers kept changing the same record.", hint="Try again after a random pause.")

    async def _reopen(self, at: Address) -> None:
        """Show a record again that was hidden and is still there."""
        old, job = await self._records.get((at, job_address(at)))
        body: Any = job["body"] if job else {}
        if old is not None and old.get(MARK) is not None and body.get("reopen"):
            await self._records.write(self._planner.reopen(at, old, self._core.now_us()))

    async def _refuse_referenced(self, declared: Declared, at: Address, going: Collection[Address]) -> None:
        now_us = to_us(self._core.clock.now())
        for reference in self._planner.restricts(declared):
            table = reference.child.table
            async for page in self._children(reference, at.key):
                live = (record for record in page if is_live(table, record, now_us))
                if any(Address(table.name, position(table, None, record)) not in going for record in live):
                    raise ReferenceBroken(
                        f"This {declared.name} is still referred to by {reference.child.name}.{reference.ref.name}.",
                        hint=f"Delete its {reference.child.name} records first.",
                        entity=declared.name,
                    )

    async def clear(self, expired: Sequence[Address]) -> None:
        """Remove expired records whose keys are wanted again, children first."""
        for at, old in zip(expired, await self._records.get(expired), strict=True):
            declared = self._core.schema.tables[at.table]
            now_us = self._core.now_us()
            if old is not None and old.get(MARK) is None and not is_live(declared.table, old, now_us):
                await self._records.write(self._planner.expire(declared, at, old, now_us).writes)
        await self.cascade()

    # --- objects ----------------------------------------------------------------------------------------------------

    async def collect(self) -> int:
        """Delete released objects that are due; one that a record refers to again is left alone.

        A job is taken before its object is looked for: from then on no write can refer to the object anew. One that another
        process took is left to it for a minute: two at once could remove what was uploaded in between.
        """
        gone = 0
        now_us = self._core.now_us()
        due = [job async for job in self._jobs("blob", now_us // 1000) if not _is_held(job, now_us)]
        for start in range(0, len(due), BATCH):
            taken_us = self._core.now_us()
            taken = await self._unmoved([_taken(job, taken_us) for job in due[start : start + BATCH]], taken_us)
            keys = await self._unreferred(taken)
            if self._core.now_us() - taken_us >= HELD_US // 2:
                # Deleting takes a while too, and another process may soon take these.
                continue
            try:
                await self._core.blobs.delete(keys)
            except Exception:
                # Whoever asks next need not wait: nobody works on these any more.
                await self._done(taken, removed=False)
                raise
            await self._done(taken)
            gone += len(keys)
        return gone

    async def _unreferred(self, taken: Sequence[Put]) -> list[str]:
        """Return the objects of jobs that the record they were released by does not refer to, or not any more."""
        bodies: list[Any] = [op.record["body"] for op in taken]
        owners = [Address(str(body["table"]), key_from_plain(body["key"])) for body in bodies]
        known = list(dict.fromkeys(at for at in owners if at.table in self._core.schema.tables))
        records = dict(zip(known, await self._records.get(known), strict=True)) if known else {}
        return [
            str(body["blob"]) for body, at in zip(bodies, owners, strict=True) if not self._refers(at, records.get(at), str(body["blob"]))
        ]

    def _refers(self, at: Address, record: Record | None, blob: str) -> bool:
        return record is not None and blob in self._planner.codec(self._core.schema.tables[at.table].entity).references(record)

    async def _done(self, taken: Sequence[Put], *, removed: bool = True) -> None:
        """End jobs, or let go of what is not removed; one whose object was released once more meanwhile waits for its turn again.

        What is left of a job for an hour tells a write that uploaded the object before it was removed: it had seen no job.
        """
        stored = await self._records.get([op.at for op in taken])
        now_us = self._core.now_us()
        for op, job in zip(taken, stored, strict=True):
            body: Any = job["body"] if job else {}
            if job is not None and body.get("taken") == op.record["body"]["taken"]:  # type: ignore[call-overload, index]
                ending = _free(op._replace(record=_bare(job)))
                if removed and not body.get("again"):
                    # Nothing of the object or of whose it was stays, only that there was a job.
                    left: Record = {"scope": job["scope"], "name": job["name"], "body": {}}
                    ending = ending._replace(record={**left, "expires": now_us // 1_000_000 + REMEMBERED_S})
                await self._unmoved([ending._replace(guards=(premise(0, job),))], now_us)

    async def _jobs(self, scope: str, until_ms: int | None = None) -> AsyncIterator[Record]:
        """Yield the jobs that are due, or all; those added meanwhile may be among them."""
        bounds = () if until_ms is None else (Bound("<=", until_ms),)
        read = Read(SYSTEM.name, "palaver_due", (scope,), bounds=bounds, limit=BATCH, consistent=False)
        while True:
            page = await self._records.query(read)
            for job in page.records:
                yield job
            if page.last is None:
                return
            read = read._replace(after=page.last)

    async def waiting(self) -> dict[str, int]:
        """Return how many jobs wait, up to 100 of each kind."""
        waiting = {}
        for scope in ("cascade", "blob"):
            read = Read(SYSTEM.name, "palaver_due", (scope,), limit=BATCH, consistent=False)
            waiting[scope] = len((await self._records.query(read)).records)
        return waiting


def _taken(job: Record, now_us: int) -> Put:
    """Return the op that takes a job, if nobody else did since it was read."""
    body: Any = job["body"]
    return Put(system(str(job["scope"]), str(job["name"])), {**_bare(job), "body": {**body, "taken": now_us}}, (premise(0, job),))


def _bare(job: Record) -> Record:
    return {name: value for name, value in job.items() if name != REVISION}


def _free(taken: Put) -> Put:
    body: Any = taken.record["body"]
    return taken._replace(record={**taken.record, "body": {name: body[name] for name in body if name not in ("taken", "again")}}, guards=())


def _is_held(job: Record, now_us: int) -> bool:
    body: Any = job["body"]
    taken_us: int = body.get("taken", 0)
    return now_us - taken_us < HELD_US


def _renewed(put: Put, job: Record | None) -> Put:
    """Return the op that stores a job beside what is there: one that is being worked on stays taken.

    Otherwise a write could refer to the object again while it is being removed.
    """
    put = put._replace(guards=(premise(0, job),))
    body: Any = job["body"] if job else {}
    if "taken" not in body:
        return put
    renewed: Any = put.record["body"]
    return put._replace(record={**put.record, "body": {**renewed, "taken": body["taken"], "again": True}})


class Released:
    """The projection that turns released objects into jobs."""

    name = "objects"

    def __init__(self, core: Core) -> None:
        self._core = core

    async def apply(self, changes: Sequence[Change]) -> Sequence[Op]:
        now_ms = to_us(self._core.clock.now()) // 1000
        released = ((blob, change) for change in changes for blob in change.released)
        puts = {put.at: put for blob, change in released for put in [release(blob, Address(change.table, change.key), now_ms)]}
        stored = await self._core.records.get(list(puts))
        return [_renewed(put, job) for put, job in zip(puts.values(), stored, strict=True)]

    async def rebuild(self) -> None:
        """Nothing to build: objects nobody refers to are found by the orphan check."""
