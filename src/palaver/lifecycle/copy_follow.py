"""After the first pass: the source's feed is gone through, and what it names is brought over as it is then.

The target's feed goes on where the source's is: changes are appended at the positions they have, so that positions that
projections and rows of counts remember stay true, and nothing is counted twice or not at all.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from palaver.clock import to_ms
from palaver.errors import Conflict, Trimmed
from palaver.feed import Projection, Runner
from palaver.following import HELD_BACK_S, held_back, settled_head
from palaver.lifecycle.copy_blobs import Objects
from palaver.lifecycle.copy_ends import End, copy_known_keys, in_order, is_followed, schema_kept
from palaver.lifecycle.copy_progress import Progress
from palaver.lifecycle.copy_sums import differences, got, sums
from palaver.lifecycle.ledger import ERASE
from palaver.ops import Address, Change, Put, WriteSet, revision_of
from palaver.ports import Wakes
from palaver.searching import SearchProjection
from palaver.system import system
from palaver.values import KeyPart, Record

CHANGES = 2_000
IDLE_S = 1.0
AGAIN_S = 0.1


class Follower:
    """Brings a target up to its source, change by change."""

    def __init__(self, source: End, target: End, progress: Progress, objects: Objects | None = None) -> None:
        self._source, self._target, self._progress = source, target, progress
        self._engine: Any = target.records
        self._levels = [name for level in in_order(source.tables) for name in level]
        self._objects = objects
        self.applied = 0
        self.repaired = 0

    # --- the feed ---------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Note where the feed stands before anything is read, and from where on the target's own has to reach."""
        # Not the newest that is seen: what is committed later at a position before it would be taken for copied.
        head = await self._settled()
        page = await self._source.ask(lambda: self._source.records.changes(None, 1))
        oldest = page.changes[0].position - 1 if page.changes else page.last
        positions = [each for name, each in (await self.positions()).items() if name != SearchProjection.name]
        begins = min([head, *(oldest if each is None else max(each, oldest) for each in positions)])
        progress = self._progress
        progress.head, progress.begins, progress.seen = head, begins, begins
        progress.began_ms = self._heard(0)
        if not progress.into_existing:
            await self._target.ask(lambda: self._engine.continue_feed((), begins, gap=True))

    async def refuse_another(self) -> None:
        """Stop where the source is no longer what this copy was begun from: made anew under its URL, restored, or failed over."""
        progress, source = self._progress, self._source
        if (await source.ask(lambda: source.records.changes(None, 0))).head < max(progress.seen, progress.head):
            raise another()
        if progress.newest:
            with suppress(Trimmed):
                page = await source.ask(lambda: source.records.changes(progress.newest - 1, 1))
                if page.changes and (page.changes[0].position, page.changes[0].revision) != (progress.newest, progress.newest_us):
                    raise another()

    async def positions(self) -> dict[str, int | None]:
        """Return how far each projection of the source has come; None for one that never ran."""
        names = [projection.name for projection in self._target.core.projections]
        found = await self._source.ask(lambda: self._source.records.get([system("projection", name) for name in names])) if names else []
        bodies: list[Any] = [record["body"] if record else {} for record in found]
        return {name: body.get("position") for name, body in zip(names, bodies, strict=True)}

    async def catch_up(self, until: Callable[[], bool] = lambda: False) -> int:
        """Apply changes until the feed's end is reached, or what a running transaction keeps back; return how many there were."""
        moved = 0
        while not until():
            try:
                page = await self._source.ask(lambda: self._source.records.changes(self._progress.seen, CHANGES))
            except Trimmed:
                moved += await self._leap()
                continue
            if page.changes:
                await self._apply(page.changes)
            if page.changes or page.last > self._progress.seen:
                await self._append(page.changes, page.last)
            self._heard(page.head - page.last)
            moved += len(page.changes)
            if not page.changes or page.last >= page.head:
                return moved
        return moved

    async def catch_up_whole(self) -> int:
        """Apply every change that is there now. Raises Unavailable where a transaction keeps them back for a minute."""
        head = (await self._source.ask(lambda: self._source.records.changes(None, 0))).head
        until = asyncio.get_running_loop().time() + HELD_BACK_S
        moved = await self.catch_up()
        while self._progress.seen < head:
            if asyncio.get_running_loop().time() > until:
                raise held_back()
            moved += await self.catch_up()
        return moved

    async def _settled(self) -> int:
        """Return the feed's end, once nothing is committed before it any more."""
        until = asyncio.get_running_loop().time() + HELD_BACK_S
        while (head := await self._source.ask(lambda: settled_head(self._source.records))) is None:
            if asyncio.get_running_loop().time() > until:
                raise held_back()
            await asyncio.sleep(AGAIN_S)
        return head

    async def _append(self, changes: Sequence[Change], last: int) -> None:
        if not self._progress.into_existing:
            self._progress.check()
            await self._target.ask(lambda: self._engine.continue_feed(changes, last))
        self._progress.seen = last
        await self._progress.save_now_and_then()

    async def wait(self) -> None:
        """Return when something new may be there, after a second at most."""
        if isinstance(self._source.records, Wakes):
            engine = self._source.records
            await self._source.pace.patiently(lambda: engine.wait_for_change(self._progress.seen, IDLE_S))
        else:
            await asyncio.sleep(IDLE_S)

    async def lag(self) -> tuple[int, float]:
        """Return how many positions the target is behind, and how many seconds the newest change it has is old."""
        head = (await self._source.ask(lambda: self._source.records.changes(None, 0))).head
        if head < self._progress.seen:
            raise another()
        behind = head - self._progress.seen
        now_us, newest_us = self._heard(behind) * 1_000, self._progress.newest_us
        return behind, max(0, now_us - newest_us) / 1_000_000 if behind and newest_us else 0.0

    def _heard(self, ahead: int) -> int:
        """Note that the source answered now, and how far ahead it is; return the instant in milliseconds."""
        self._progress.heard_ms, self._progress.ahead = to_ms(self._source.core.clock.now()), max(0, ahead)
        return self._progress.heard_ms

    async def _apply(self, changes: Sequence[Change]) -> None:
        """Bring over what changes name, as it is now. What the first pass still had before it needs no second reading."""
        self._progress.newest, self._progress.newest_us = changes[-1].position, changes[-1].revision
        # Their images go after their records, and no feed shows that.
        self._progress.erased |= any(change.cause.actor == ERASE.actor for change in changes)
        named = (change for change in changes if change.position > self._progress.head and change.table in self._source.tables)
        addresses = list(dict.fromkeys(Address(change.table, change.key) for change in named))
        records = await got(self._source, addresses)
        present: dict[str, list[Record]] = defaultdict(list)
        absent: dict[str, list[tuple[KeyPart, ...]]] = defaultdict(list)
        for at, record in zip(addresses, records, strict=True):
            if record is None:
                absent[at.table].append(at.key)
            else:
                present[at.table].append(record)
        if self._progress.into_existing:
            absent = await self._older(absent, {Address(change.table, change.key): change.revision for change in changes})
        if addresses:
            await copy_known_keys(self._source, self._target)
        for table in self._levels:
            await self._bring(table, present.get(table, ()))
            await self._store(table, present.get(table, ()))
        for table in reversed(self._levels):
            await self._remove(table, absent.get(table, ()))
        if self._progress.searchable:
            for projection in self._target.core.projections:
                if isinstance(projection, SearchProjection):
                    await self._target.ask(partial(projection.apply, changes))
        self.applied += len(addresses)

    async def _bring(self, table: str, records: Sequence[Record]) -> None:
        """Bring the objects over that these records refer to, before them: whoever loses the source then has them."""
        declared = self._source.core.schema.tables.get(table)
        if self._objects is not None and declared is not None and declared.blobs:
            codec = self._source.core.planner.codec(declared.entity)
            await self._objects.bring([key for record in records for key in codec.references(record)])

    async def _store(self, table: str, records: Sequence[Record]) -> None:
        if not records:
            return
        stayed = await self._restore(table, records, over=False)
        if stayed and not self._progress.into_existing:
            # Nobody else writes here, so what is newer is from before the source's record was removed and made anew by a slow clock.
            now = await got(self._source, [Address(table, tuple(key)) for key in stayed])
            await self._restore(table, [record for record in now if record is not None], over=True)

    async def _remove(self, table: str, keys: Sequence[tuple[KeyPart, ...]]) -> None:
        if keys:
            self._progress.check()
            await self._target.ask(lambda: self._engine.restore(table, (), gone=keys))

    async def _restore(self, table: str, records: Sequence[Record], *, over: bool) -> list[tuple[KeyPart, ...]]:
        self._progress.check()
        done: list[tuple[KeyPart, ...]] = await self._target.ask(lambda: self._engine.restore(table, records, over=over))
        return done

    async def _older(
        self, absent: dict[str, list[tuple[KeyPart, ...]]], revisions: dict[Address, int]
    ) -> dict[str, list[tuple[KeyPart, ...]]]:
        """Return those keys whose records are not newer here than their removal there."""
        addresses = [Address(table, key) for table, keys in absent.items() for key in keys]
        out: dict[str, list[tuple[KeyPart, ...]]] = defaultdict(list)
        for at, record in zip(addresses, await got(self._target, addresses), strict=True):
            if record is not None and revision_of(record) <= revisions[at]:
                out[at.table].append(at.key)
        return out

    async def _leap(self) -> int:
        """The feed no longer reaches back: compare everything, and go on from the head noted before that."""
        head = await self._settled()
        for table in self._levels:
            await self.reconcile(table)
        self._progress.missed, self._progress.searchable = head, False
        if not self._progress.into_existing:
            await self._target.ask(lambda: self._engine.continue_feed((), head, gap=True))
        self._progress.seen = head
        await self._progress.save()
        return 1

    # --- what the feed does not show --------------------------------------------------------------------------------

    async def reconcile(self, table: str) -> int:
        """Make a table of the target equal to the source's; return how many records were brought over or removed."""
        mine, theirs = await asyncio.gather(sums(self._source, table), sums(self._target, table))
        if mine == theirs:
            return 0
        mended = 0
        async for page in differences(self._source, self._target, table):
            wanted = [Address(table, each.key) for each in page if each.kind != "extra"]
            now = await got(self._source, wanted)
            records = [record for record in now if record is not None]
            gone = [at.key for at, record in zip(wanted, now, strict=True) if record is None]
            gone += [each.key for each in page if each.kind == "extra"]
            if records:
                await self._restore(table, records, over=not self._progress.into_existing)
            if not self._progress.into_existing:
                await self._remove(table, gone)
            mended += len(page)
        self.repaired += mended
        return mended

    async def settle(self) -> None:
        """Reconcile the tables whose writes are in no feed: claims, tokens, jobs, marks of counting, images."""
        for table in self._levels:
            if not is_followed(self._source.tables[table]):
                await self.reconcile(table)

    # --- the end ----------------------------------------------------------------------------------------------------

    async def make_searchable(self) -> None:
        """Build the search indexes of the target; from then on they follow as the records do."""
        for projection in self._target.core.projections:
            if isinstance(projection, SearchProjection) and not self._progress.searchable:
                await self._rebuild(projection)
        self._progress.searchable = True
        await self._progress.save()

    async def _rebuild(self, projection: Projection) -> None:
        core = self._target.core
        if isinstance(projection, SearchProjection):
            await self._target.ask(projection.prepare)
        await self._target.ask(lambda: Runner(core.records, [projection], core.clock).rebuild(projection.name))

    async def position(self, positions: dict[str, int | None]) -> None:
        """Put each projection of the target where the source's is; rebuild one whose changes are not all there."""
        for projection in self._target.core.projections:
            name = projection.name
            if name == SearchProjection.name and not self._progress.into_existing:
                at: int | None = self._progress.seen
            else:
                at = positions.get(name)
            if self._progress.into_existing or (self._progress.missed and (at or 0) < self._progress.missed):
                await self._rebuild(projection)
            else:
                await self._place(name, at)

    async def _place(self, name: str, position: int | None) -> None:
        at = system("projection", name)
        old = (await self._target.ask(lambda: self._target.records.get((at,))))[0]
        stored: Any = old["body"] if old else {}
        body: Any = {"holder": "", "epoch": stored.get("epoch", 0) + 1, "until_ms": 0, "position": position}
        put = Put(at, {"scope": at.key[0], "name": name, "body": body})
        await self._target.ask(lambda: self._target.records.write(WriteSet((put,), self._target.core.now_us())))

    async def refuse_another_schema(self, begun: dict[str, Any]) -> None:
        """Stop where somebody migrated the source meanwhile: what is copied would be neither the old nor the new."""
        if await schema_kept(self._source) != begun:
            raise Conflict("The schema of the source changed while it was being copied.", hint="Empty the target and copy again.")


def another() -> Conflict:
    """Return the error for a source whose feed is not the one that was followed."""
    return Conflict(
        "The source is not as this copy left it: it was made anew, restored from a backup, or lost what it had last.",
        hint="Empty the target and copy again; `palaver copy FROM TO --promote` opens the target with what it has.",
    )
