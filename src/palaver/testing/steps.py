"""One step after the other on an engine and on the memory engine, compared each time: the rules all machines share."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from itertools import pairwise
from random import Random
from typing import Any, TypeAlias, TypeVar

from palaver.errors import PalaverError
from palaver.ops import (  # fmt: skip
    Absent,
    Address,
    Alive,
    Cause,
    Change,
    Check,
    Delete,
    Guard,
    Holds,
    Op,
    Origin,
    Put,
    Read,
    RecordPage,
    Refused,
    Unchanged,
    Update,
    WriteSet,
    Written,
)
from palaver.ports import RecordEngine
from palaver.records.memory import MemoryRecords
from palaver.testing.draws import Draws
from palaver.testing.records.base import BY_NAME, NOTES, NOW, SECOND, TABLES
from palaver.values import KeyPart

T = TypeVar("T")
Reopen: TypeAlias = "Callable[[RecordEngine], Awaitable[RecordEngine]]"


class Divergence(AssertionError):
    """The two engines answered differently."""


def alike(a: Any, b: Any) -> bool:
    """Say whether two answers are equal in content and in every type: 1, 1.0 and True are three values."""
    kind = type(a)
    if kind is not type(b):
        return False
    if kind is dict:
        return len(a) == len(b) and all(name in b and alike(a[name], b[name]) for name in a)
    if kind is list or isinstance(a, tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if kind is frozenset:
        return bool(a == b) and {(type(each), each) for each in a} == {(type(each), each) for each in b}
    return bool(a == b)


def shape(answer: Any) -> Any:
    """Return an answer without what may differ: sequence types, conditions inside guards, positions."""
    match answer:
        case Refused(failures):
            return "refused", [(op, guard.origin, found) for op, guard, found in failures]
        case Written(revisions, updated):
            return "written", list(revisions), list(updated)
        case RecordPage(records, _):
            return list(records)
        case _:
            return answer


async def _as_asked(engine: RecordEngine, writes: WriteSet) -> Any:
    """Write; what updates made is left out where nobody asked for it, because an engine may tell all the same."""
    done = await engine.write(writes)
    return done._replace(updated=()) if isinstance(done, Written) and not writes.returning else done


class Pair:
    """An engine and its model, driven together; every rule draws what it does from the seed it is given.

    Raises Divergence where the answers differ. `steps` counts the rules that ran, `trail` the last of them.
    """

    def __init__(
        self, engine: RecordEngine, model: RecordEngine | None = None, *, reopen: Reopen | None = None, ordered: bool = True
    ) -> None:
        self.engine = engine
        # Whether the feed promises an order across records; otherwise only the order of one record's changes is compared.
        self.ordered = ordered
        self.model = model or MemoryRecords(TABLES)
        self.steps = 0
        self.refused = 0
        self.raised = 0
        self.texts: list[str] = []
        self.trail: deque[str] = deque(maxlen=12)
        self._reopen = reopen
        self._now_us = NOW
        self._reads: deque[Read] = deque(maxlen=8)
        self._positions: list[tuple[int, int]] = []
        self._after: tuple[int | None, int | None] = (None, None)

    async def step(self, seed: int) -> None:
        """Take the step a seed stands for."""
        draws = Draws(Random(seed), self.texts)
        rule = draws.one(WEIGHTED)
        self.steps += 1
        self.trail.append(f"{self.steps}: {rule.__name__} {seed}")
        if not self.ordered:
            # Such a feed knows a deletion by the revision it ended: a clock that stands still would give that twice.
            self._now_us += 1 + draws.below(997)
        try:
            await rule(self, draws)
        except Exception as error:
            error.add_note("the last steps:\n  " + "\n  ".join(self.trail))
            raise

    async def both(self, what: Any, ask: Callable[[RecordEngine], Awaitable[T]]) -> T | None:
        """Ask both; return the model's answer, None where both raised the same error."""
        expected, found = await _answer(self.model, ask), await _answer(self.engine, ask)
        if not alike(shape(expected), shape(found)):
            self.diverge(what, shape(expected), shape(found))
        if isinstance(expected, type):
            self.raised += 1
            return None
        return expected  # type: ignore[no-any-return]

    def diverge(self, what: Any, expected: Any, found: Any) -> None:
        answers = f" expected {str(expected)[:2000]}\n found    {str(found)[:2000]}"
        raise Divergence(f"at step {self.steps}, {str(what)[:2000]}\n{answers}")

    # --- rules ------------------------------------------------------------------------------------------------------

    async def write(self, draws: Draws) -> None:
        ops: dict[Address, Op] = {}
        for _ in range(draws.one((1, 1, 1, 1, 2, 2, 3, 5))):
            op = await self._op(draws, len(ops))
            ops.setdefault(op.at, op)
        cause = Cause(draws.one((None, "actor", "")), draws.one((None, "token")))
        writes = WriteSet(list(ops.values()), self._now_us, cause, returning=draws.chance(0.5))
        done = await self.both(writes, lambda engine: _as_asked(engine, writes))
        self.refused += isinstance(done, Refused)

    async def load(self, draws: Draws) -> None:
        table, now_us = draws.table(), self._now_us
        records = [draws.record(table, draws.key(table), now_us) for _ in range(1 + draws.below(6))]
        cause = Cause(draws.one((None, "actor")))
        await self.both((table.name, records), lambda engine: engine.load(table.name, records, now_us, cause))

    async def get(self, draws: Draws) -> None:
        at = [Address(table.name, draws.key(table)) for table in (draws.table() for _ in range(draws.below(5)))]
        snapshot = draws.chance(0.5)
        await self.both(at, lambda engine: engine.get(at, snapshot=snapshot))

    async def query(self, draws: Draws) -> None:
        await self._page(draws.read())

    async def go_on(self, draws: Draws) -> None:
        if self._reads:
            await self._page(self._reads.popleft())

    async def count(self, draws: Draws) -> None:
        read, now_us = draws.read(), self._now_us
        await self.both(read, lambda engine: engine.count(read, now_us))  # type: ignore[attr-defined]

    async def scan(self, draws: Draws) -> None:
        table, limit = draws.table().name, draws.one((3, 10, 100))
        segments = draws.one((1, 1, 2, 3))

        async def keys(engine: RecordEngine) -> list[Any]:
            found: list[Any] = []
            for segment in range(segments):
                found += await _scanned(engine, table, limit, (segment, segments))
            return sorted(found, key=lambda record: repr([record[name] for name in BY_NAME[table].key]))

        await self.both(("scan", table, limit, segments), keys)

    async def tick(self, draws: Draws) -> None:
        self._now_us += draws.one((1, 1000, SECOND, 2 * SECOND, 7 * SECOND, -SECOND, -1))

    async def sweep(self, draws: Draws) -> None:
        now_us = self._now_us
        due = await self.both("expired", lambda engine: _sorted(engine.expired(NOTES.name, now_us, 1000)))  # type: ignore[attr-defined]
        if due:
            ops = [Delete(at, expired=True) for at in due[: 1 + draws.below(20)]]
            await self.both(ops, lambda engine: engine.write(WriteSet(ops, now_us)))

    async def follow(self, draws: Draws) -> None:
        """Compare the changes since the last look, position by position but not the positions themselves."""
        limit = draws.one((1, 7, 100))
        if not self.ordered:
            await self._follow_each_record(limit)
            return
        expected = await _answer(self.model, lambda engine: engine.changes(self._after[0], limit))
        found = await _answer(self.engine, lambda engine: engine.changes(self._after[1], limit))
        if isinstance(expected, type) or isinstance(found, type):
            self.diverge("changes", expected, found)
            return
        if [_without_position(change) for change in expected.changes] != [_without_position(change) for change in found.changes]:
            self.diverge("changes", expected, found)
        pairs = [(one.position, other.position) for one, other in zip(expected.changes, found.changes, strict=True)]
        places = [self._after[1] or 0, *(place for _, place in pairs)]
        if any(place >= following for place, following in pairwise(places)):
            self.diverge("positions", "growing", pairs)
        self._positions += pairs
        self._after = (expected.last, found.last)

    async def _follow_each_record(self, limit: int) -> None:
        """Compare all changes since the last look record by record; both ends of the feed are then one position."""
        expected = await _answer(self.model, lambda engine: _rest(engine, self._after[0], limit))
        found = await _answer(self.engine, lambda engine: _rest(engine, self._after[1], limit))
        if isinstance(expected, type) or isinstance(found, type):
            self.diverge("changes", expected, found)
            return
        if _by_record(expected[0]) != _by_record(found[0]):
            self.diverge("changes", _by_record(expected[0]), _by_record(found[0]))
        places = [self._after[1] or 0, *(change.position for change in found[0])]
        if any(place >= following for place, following in pairwise(places)):
            self.diverge("positions", "growing", places)
        self._after = (expected[1], found[1])
        if expected[0]:
            self._positions.append((expected[1], found[1]))

    async def follow_again(self, draws: Draws) -> None:
        """Read from a position seen before, trimmed or not."""
        if self._positions and not self.ordered:
            place = draws.one(self._positions)
            both = [await _answer(self.model, lambda engine: _rest(engine, place[0], 100))]
            both.append(await _answer(self.engine, lambda engine: _rest(engine, place[1], 100)))
            whole = [each if isinstance(each, type) else _by_record(each[0]) for each in both]
            # What was written since the last look is seen by both as well.
            if whole[0] != whole[1]:
                self.diverge(("changes after", place), *whole)
        elif self._positions:
            place = draws.one(self._positions)
            expected = await _answer(self.model, lambda engine: engine.changes(place[0], 5))
            found = await _answer(self.engine, lambda engine: engine.changes(place[1], 5))
            if not alike(_changes(expected), _changes(found)):
                self.diverge(("changes after", place), expected, found)

    async def trim(self, draws: Draws) -> None:
        if not self.ordered:
            if len(self._positions) > 20:
                place = self._positions[draws.below(15)]
                expected, found = await self.model.trim(place[0] + 1), await self.engine.trim(place[1] + 1)  # type: ignore[attr-defined]
                if expected != found:
                    self.diverge("trim", expected, found)
                self._positions = self._positions[5:]
        elif len(self._positions) > 200:
            place = self._positions[draws.below(150)]
            expected, found = await self.model.trim(place[0]), await self.engine.trim(place[1])  # type: ignore[attr-defined]
            if expected != found:
                self.diverge("trim", expected, found)
            # Some of those just forgotten are kept, to be asked for.
            self._positions = self._positions[50:]

    async def reopen(self, draws: Draws) -> None:
        if self._reopen is not None and draws.chance(0.1):
            self.engine = await self._reopen(self.engine)

    async def compare_everything(self) -> None:
        """Compare every record, every partition of every index in both directions, and the whole rest of the feed."""
        while True:
            before = self._after
            await self.follow(Draws(Random(1)))
            if before == self._after:
                break
        for table in TABLES:
            records = await _scanned(self.model, table.name, 100, (0, 1))
            found = await _scanned(self.engine, table.name, 100, (0, 1))
            if len(records) != len(found):
                self.diverge(table.name, f"{len(records)} records", f"{len(found)} records")
            for index in (None, *(spec.name for spec in table.indexes)):
                names = table.partition if index is None else table.index(index).partition
                partitions = {tuple(record[name] for name in names): None for record in records if all(name in record for name in names)}
                for partition in partitions:
                    for descending in (False, True):
                        read = Read(table.name, index, partition, descending=descending, limit=50)
                        await self._whole(read)

    # --- words ------------------------------------------------------------------------------------------------------

    async def _op(self, draws: Draws, number: int) -> Op:
        table = draws.table()
        at = Address(table.name, draws.key(table))
        guards = await self._guards(draws, at, number)
        released = ("blob/1", "blob'2")[: draws.below(3)] if draws.chance(0.1) else ()
        pick = draws.random.random()
        if pick < 0.4:
            return Put(at, draws.record(table, at.key, self._now_us), guards, released)
        if pick < 0.75:
            return Update(at, draws.changes(table, self._now_us), guards, released)
        if pick < 0.92:
            return Delete(at, guards, released, expired=draws.chance(0.1))
        return Check(at, guards)

    async def _guards(self, draws: Draws, at: Address, number: int) -> tuple[Guard, ...]:
        whens: list[Any] = []
        for _ in range(draws.one((0, 0, 0, 1, 1, 2))):
            pick = draws.below(5)
            if pick == 0:
                whens.append(Absent())
            elif pick == 1:
                whens.append(Alive())
            elif pick == 2:
                stored = (await self.model.get([at]))[0]
                known: Any = stored["_revision"] if stored else None
                whens.append(Unchanged(known if draws.chance(0.8) else draws.one((None, NOW, 5))))
            else:
                whens.append(Holds(draws.condition(BY_NAME[at.table])))
        return tuple(Guard(when, Origin(number, f"guard {place}")) for place, when in enumerate(whens))

    async def _page(self, read: Read) -> RecordPage | None:
        """Compare one page, and where it ends: a last full page may say so or lead to an empty one."""
        expected = await self.both(read, lambda engine: engine.query(read))
        if expected is None:
            return None
        found = await _answer(self.engine, lambda engine: engine.query(read))
        if expected.last != found.last:
            ended = expected.last or found.last
            other = self.engine if found.last else self.model
            rest = await _answer(other, lambda engine: engine.query(read._replace(after=ended)))
            if (expected.last and found.last) or rest.records:
                self.diverge(read, expected.last, found.last)
        if expected.last is not None:
            self._reads.append(read._replace(after=expected.last))
        return expected

    async def _whole(self, read: Read) -> None:
        while True:
            page = await self._page(read)
            if page is None or page.last is None:
                return
            read = read._replace(after=page.last)


async def _answer(engine: RecordEngine, ask: Callable[[RecordEngine], Awaitable[Any]]) -> Any:
    try:
        return await ask(engine)
    except PalaverError as error:
        return type(error)
    except Exception as error:
        raise Divergence(f"{type(engine).__name__} raised what is no error of ours: {type(error).__name__}") from error


async def _scanned(engine: RecordEngine, table: str, limit: int, segment: tuple[int, int]) -> list[Any]:
    found: list[Any] = []
    after: tuple[KeyPart, ...] | None = None
    while True:
        page = await engine.scan(table, after=after, limit=limit, segment=segment)
        found += page.records
        after = page.last
        if after is None:
            return found


async def _sorted(addresses: Awaitable[list[Address]]) -> list[Address]:
    return sorted(await addresses)


async def _rest(engine: RecordEngine, after: int | None, limit: int) -> tuple[list[Change], int]:
    """Return all changes after a position, page by page, and where they end."""
    found: list[Change] = []
    while True:
        page = await engine.changes(after, limit)
        found += page.changes
        after = page.last
        if not page.changes:
            return found, page.last


def _by_record(changes: list[Change]) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for change in changes:
        found.setdefault((change.table, change.key), []).append(_without_position(change))
    return found


def _without_position(change: Change) -> tuple[Any, ...]:
    return change[1:]


def _changes(page: Any) -> Any:
    return page if isinstance(page, type) else [_without_position(change) for change in page.changes]


_RULES: dict[Callable[[Pair, Draws], Awaitable[None]], int] = {
    Pair.write: 45,
    Pair.load: 4,
    Pair.get: 8,
    Pair.query: 18,
    Pair.go_on: 6,
    Pair.count: 4,
    Pair.scan: 1,
    Pair.tick: 6,
    Pair.sweep: 2,
    Pair.follow: 5,
    Pair.follow_again: 3,
    Pair.trim: 1,
    Pair.reopen: 1,
}
WEIGHTED = tuple(rule for rule, weight in _RULES.items() for _ in range(weight))
