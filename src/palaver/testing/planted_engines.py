"""Memory engines that each have one bug, for `planted`."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from palaver import ops
from palaver.ops import MARK, REVISION, Address, ChangePage, Check, Delete, Put, Read, RecordPage, Refused, Table, Update, WriteSet, Written
from palaver.records.memory import MemoryRecords, Shelf
from palaver.values import KeyPart, Record


class DropsConditions(MemoryRecords):
    async def write(self, writes: WriteSet) -> Written | Refused:
        kept = [op._replace(guards=tuple(guard for guard in op.guards if not isinstance(guard.when, ops.Holds))) for op in writes.ops]
        return await super().write(writes._replace(ops=kept))


class ChecksOnlyTheFirstGuard(MemoryRecords):
    async def write(self, writes: WriteSet) -> Written | Refused:
        return await super().write(writes._replace(ops=[op._replace(guards=op.guards[:1]) for op in writes.ops]))


class ForgetsChecks(MemoryRecords):
    async def write(self, writes: WriteSet) -> Written | Refused:
        ops_left = [op for op in writes.ops if not isinstance(op, Check)]
        return await super().write(writes._replace(ops=ops_left))


class StopsAtTheFirstFailure(MemoryRecords):
    def _failures(self, *args: Any) -> Any:
        return list(super()._failures(*args))[:1]


class WritesUpToTheFailure(MemoryRecords):
    """Each op of a batch in its own commit, as without a transaction."""

    async def write(self, writes: WriteSet) -> Written | Refused:
        revisions: list[int | None] = []
        updated: list[Record | None] = []
        for op in writes.ops:
            done = self._commit(writes._replace(ops=[op]))
            if isinstance(done, Refused):
                return done
            revisions += done.revisions
            updated += done.updated
        return Written(revisions, updated)


class JudgesGuardsDuringTheBatch(WritesUpToTheFailure):
    """Guards see what earlier ops of the batch wrote, although all of it is undone in the end."""

    async def write(self, writes: WriteSet) -> Written | Refused:
        shadow: Any = MemoryRecords([shelf.table for shelf in self._shelves.values()])
        for name, shelf in self._shelves.items():
            for record in shelf.by_key.records.values():
                shadow._shelves[name].by_key.move(None, record)
        done = await WritesUpToTheFailure.write(shadow, writes)
        if isinstance(done, Refused):
            return done
        return await MemoryRecords.write(self, writes._replace(ops=[op._replace(guards=()) for op in writes.ops]))


class MergesPuts(MemoryRecords):
    def _after(self, op: Any, table: Table, old: Record | None, now_us: int) -> Record | None:
        new = super()._after(op, table, old, now_us)
        return {**old, **new} if isinstance(op, Put) and old is not None and new is not None else new


class UpdatesCreate(MemoryRecords):
    def _after(self, op: Any, table: Table, old: Record | None, now_us: int) -> Record | None:
        if isinstance(op, Update) and old is None:
            old = {**dict(zip(table.key, op.at.key, strict=True)), REVISION: now_us}
        return super()._after(op, table, old, now_us)


class KeepsTheRevisionOfUpdates(MemoryRecords):
    def _after(self, op: Any, table: Table, old: Record | None, now_us: int) -> Record | None:
        new = super()._after(op, table, old, now_us)
        if isinstance(op, Update) and old is not None and new is not None:
            new[REVISION] = old[REVISION]
        return new


class LeavesIndexesOnUpdate(MemoryRecords):
    def _catch_up(self, *, wholly: bool = False) -> None:
        self._late = deque(late for late in self._late if late.before is None or late.after is None)
        super()._catch_up(wholly=wholly)


class IndexesKeepTheOldRecord(MemoryRecords):
    """An entry that stays where it is goes on showing the record as it was when it came in."""

    def _catch_up(self, *, wholly: bool = False) -> None:
        for late in self._late:
            for order in late.shelf.indexes.values():
                if order.place(late.before) != order.place(late.after):
                    order.move(late.before, late.after)
        self._late.clear()


class LeavesIndexesOnDelete(MemoryRecords):
    def _page(self, shelf: Shelf, index: str | None, records: Sequence[Record], limit: int) -> RecordPage:
        if index is not None and self.dead:
            records = [*records, *(record for record in self.dead if index in ("by_kind",) and record.get("kind") == "k")]
        return super()._page(shelf, index, records, limit)

    def __init__(self, tables: Sequence[Table]) -> None:
        super().__init__(tables)
        self.dead: list[Record] = []

    def _store(self, op: Any, shelf: Shelf, old: Record | None, new: Record | None, writes: WriteSet) -> None:
        if isinstance(op, Delete) and old is not None and "stamp" in old:
            self.dead.append(old)
        super()._store(op, shelf, old, new, writes)


class PublishesRefused(MemoryRecords):
    """The change is written beside the commit, not in it."""

    async def write(self, writes: WriteSet) -> Written | Refused:
        done = await super().write(writes)
        if isinstance(done, Refused):
            op = next((op for op in writes.ops if not isinstance(op, Check)), None)
            if isinstance(op, Put | Update | Delete):
                self._publish(op, None, {REVISION: writes.now_us}, writes)
        return done


class LosesChanges(MemoryRecords):
    """Of a batch only the first write is published."""

    def _publish(self, op: Any, old: Record | None, new: Record | None, writes: WriteSet) -> None:
        if op is writes.ops[0]:
            super()._publish(op, old, new, writes)  # type: ignore[arg-type]


class PublishesQuietTables(MemoryRecords):
    def __init__(self, tables: Sequence[Table]) -> None:
        super().__init__([replace(table, feed=True) for table in tables])


class PublishesEmptyDeletes(MemoryRecords):
    def _store(self, op: Any, shelf: Shelf, old: Record | None, new: Record | None, writes: WriteSet) -> None:
        super()._store(op, shelf, old, new, writes)
        if isinstance(op, Delete) and old is None:
            self._publish(op, {REVISION: writes.now_us}, None, writes)


class Alters(MemoryRecords):
    """Changes are published with something wrong about them."""

    def __init__(self, tables: Sequence[Table], **wrong: Any) -> None:
        super().__init__(tables)
        self.wrong = wrong

    def _publish(self, op: Any, old: Record | None, new: Record | None, writes: WriteSet) -> None:
        super()._publish(op, old, new, writes)
        self._feed[-1] = self._feed[-1]._replace(**{name: wrong(self._feed[-1], op) for name, wrong in self.wrong.items()})


class PagesWithoutTheKey(MemoryRecords):
    """The position in an index leaves the key out, so ties of the last record are skipped."""

    async def query(self, read: Read) -> RecordPage:
        if read.index is None or read.after is None:
            return await super().query(read)
        spec = self._shelf(read.table).table.index(read.index)
        shown = len(spec.partition + spec.sort)
        page = await super().query(read._replace(after=None, limit=10**6))
        places = [ops.position(self._shelf(read.table).table, read.index, record) for record in page.records]
        seen = [n for n, place in enumerate(places) if place[:shown] == read.after[:shown]]
        rest = page.records[seen[-1] + 1 if seen else 0 :]
        return self._page(self._shelf(read.table), read.index, rest, read.limit)


class PositionsFromTheNext(MemoryRecords):
    """Going on includes the record of the position once more."""

    async def query(self, read: Read) -> RecordPage:
        if read.after is None:
            return await super().query(read)
        whole = await super().query(read._replace(after=None, limit=10**6))
        table = self._shelf(read.table).table
        places = [ops.position(table, read.index, record) for record in whole.records]
        start = places.index(read.after) if read.after in places else 0
        return self._page(self._shelf(read.table), read.index, whole.records[start:], max(2, read.limit))


class PositionsByOffset(MemoryRecords):
    """Going on counts records instead of remembering a place."""

    def __init__(self, tables: Sequence[Table]) -> None:
        super().__init__(tables)
        self.given: dict[Any, int] = {}

    async def query(self, read: Read) -> RecordPage:
        start = self.given.get((read.table, read.index, read.descending, read.after), 0) if read.after else 0
        page = await super().query(read._replace(after=None, limit=10**6))
        taken = self._page(self._shelf(read.table), read.index, page.records[start:], read.limit)
        if taken.last is not None:
            self.given[read.table, read.index, read.descending, taken.last] = start + len(taken.records)
        return taken


class LimitsAfterHiding(MemoryRecords):
    def _page(self, shelf: Shelf, index: str | None, records: Sequence[Record], limit: int) -> RecordPage:
        return super()._page(shelf, index, [record for record in records if record.get(MARK) is None], limit)


class EndsAtAFullPage(MemoryRecords):
    async def query(self, read: Read) -> RecordPage:
        page = await super().query(read)
        return page._replace(last=None) if len(page.records) == read.limit > 3 else page


class ScansSegmentsTwice(MemoryRecords):
    async def scan(self, table: str, *, after: tuple[KeyPart, ...] | None, limit: int, segment: tuple[int, int] = (0, 1)) -> RecordPage:
        return await super().scan(table, after=after, limit=limit, segment=(segment[0], max(1, segment[1] - 1)))


class CountsHidden(MemoryRecords):
    async def count(self, read: Read, now_us: int) -> int:
        return len(self._order(self._shelf(read.table), read.index).chosen(read))


class CountsMarked(MemoryRecords):
    async def count(self, read: Read, now_us: int) -> int:
        found = self._order(self._shelf(read.table), read.index)
        table = self._shelf(read.table).table
        records = [{**found.records[place], MARK: None} for place in found.chosen(read)]
        return sum(ops.is_live(table, record, now_us) for record in records)


class CountsOnePage(MemoryRecords):
    async def count(self, read: Read, now_us: int) -> int:
        return min(await super().count(read, now_us), read.limit)


class TrimsSilently(MemoryRecords):
    async def changes(self, after: int | None, limit: int) -> ChangePage:
        return await super().changes(None if after is not None and after < self._trimmed else after, limit)


class TrimsTooMuch(MemoryRecords):
    async def trim(self, before: int) -> int:
        return await super().trim(before + 1)


class UsesPositionsAgain(MemoryRecords):
    async def trim(self, before: int) -> int:
        forgotten = await super().trim(before)
        if not self._feed:
            self._head = self._trimmed = 0
        return forgotten


class WakesNobody(MemoryRecords):
    async def wait_for_change(self, after: int, timeout: float) -> bool:
        if self._head > after:
            return True
        await asyncio.sleep(min(timeout, 0.05))
        return False


class HandsOutItsOwn(MemoryRecords):
    async def get(self, at: Sequence[Address], *, consistent: bool = True, snapshot: bool = False) -> list[Record | None]:
        return [self._shelf(table).stored(key) for table, key in at]


class AnswersWithoutTheMissing(MemoryRecords):
    async def get(self, at: Sequence[Address], *, consistent: bool = True, snapshot: bool = False) -> list[Record | None]:
        found = await super().get(at)
        return found if len(at) == 1 else [record for record in found if record is not None]


class ExpiredUnordered(MemoryRecords):
    async def expired(self, table: str, now_us: int, limit: int) -> list[Address]:
        return sorted(await super().expired(table, now_us, 10**6))[:limit]


class ForgetsBackfill(MemoryRecords):
    async def apply(self, step: Any) -> None:
        await super().apply(step)
        if isinstance(step, ops.CreateIndex):
            order = self._shelf(step.table.name).indexes[step.index.name]
            order.places.clear()
            order.records.clear()

    def _catch_up(self, *, wholly: bool = False) -> None:
        with contextlib.suppress(KeyError):
            super()._catch_up(wholly=wholly)
