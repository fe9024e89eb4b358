"""Whether what a crash left is right: compares a reopened store with the model, the objects and the search index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import apsw

import palaver
from palaver.clock import Clock, SystemClock
from palaver.ops import REVISION, Address, is_live
from palaver.searching import document_id
from palaver.store import Store
from tests.reliability.app import SCHEMA, Note
from tests.reliability.workload import Step, everything, observed, perform, steps


class Later(SystemClock):
    """A clock some seconds ahead: the leases of a process that was killed are over by it."""

    def __init__(self, seconds: float = 15.0) -> None:
        self._ahead = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return super().now() + self._ahead


@dataclass
class Figures:
    """What many crashes came to."""

    points: int = 0
    acked: int = 0
    lost: int = 0
    half: int = 0
    phantom: int = 0
    unknown: int = 0
    missing_objects: int = 0

    def __iadd__(self, other: Figures) -> Figures:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self

    @property
    def harm(self) -> int:
        return self.lost + self.half + self.phantom + self.missing_objects


@dataclass(frozen=True)
class Run:
    """A workload as a whole; the same values give the same steps."""

    seed: int
    workers: int = 3
    count: int = 12
    maintain: bool = True

    def steps(self, worker: int) -> list[Step]:
        return steps(self.seed, worker, self.count)


def last_acked(run: Run, said: Sequence[Sequence[int]]) -> list[int]:
    """Return the number of the last acknowledged step of each worker, -1 for none."""
    found = [-1] * run.workers
    for worker, number in said:
        assert found[worker] + 1 == number, "a worker went on before its last step was acknowledged"
        found[worker] = number
    return found


async def examine(run: Run, url: str, said: Sequence[Sequence[int]], *, clock: Clock | None = None, lossy: bool = False) -> Figures:
    """Reopen and compare; repeat what was under way with its token; let projections settle and compare these too.

    `lossy`: acknowledged steps may be missing from the end, and are counted; without it a worker must be exactly after
    its last acknowledged step or the one under way.
    """
    acked = last_acked(run, said)
    figures = Figures(points=1, acked=sum(number + 1 for number in acked))
    async with palaver.open(url, schema=SCHEMA, clock=clock or Later(), maintain=False) as store:
        await store.sweep()
        for worker, state in enumerate(await observed(store, run.workers)):
            figures += judge(run.steps(worker), acked[worker], state, lossy=lossy)
        if not figures.harm:
            await repeat_unknown(run, store, acked)
            await settled(store)
            await objects_agree(store, run.workers)
    check_file(Path(url.removeprefix("sqlite:///").split("?")[0]))
    return figures


def judge(asked: Sequence[Step], acked: int, state: dict[str, Any], *, lossy: bool) -> Figures:
    """Return what is wrong with the state of one worker."""
    states: list[Any] = [{}, *(step.after for step in asked)]
    allowed = states[acked + 1 : acked + 3]
    if state in allowed:
        return Figures(unknown=int(state != allowed[0]))
    if lossy and state in states[: acked + 1]:
        newest = max(number for number in range(acked + 1) if states[number] == state)
        return Figures(lost=acked + 1 - newest)
    expected = states[acked + 1]
    halves = {name.split("/")[1] for name in state if name.startswith("left/")} ^ {
        name.split("/")[1] for name in state if name.startswith("right/")
    }
    half = len(halves) + (sum(value for name, value in state.items() if name.startswith("account/")) != 0)
    lost = sum(state.get(name) != value for name, value in expected.items())
    phantom = sum(name not in expected for name in state)
    return Figures(lost=lost, half=half, phantom=phantom if lost or half or phantom else 1)


async def repeat_unknown(run: Run, store: Store, acked: Sequence[int]) -> None:
    """Ask again for what was under way: with its token it is written once, whether or not it had been."""
    for worker in range(run.workers):
        number = acked[worker] + 1
        asked = run.steps(worker)
        if number >= len(asked) or asked[number].token is None:
            continue
        await perform(store, worker, number, asked[number])
        await perform(store, worker, number, asked[number])
        await store.sweep()
        assert asked[number].after == (await observed(store, run.workers))[worker], f"{asked[number].kind} repeated with its token"


async def settled(store: Store) -> None:
    """Let projections catch up, compare the search index with the records, and with itself built anew."""
    await store.settle(20)
    found = await indexed(store)
    assert await recomputed(store) == found, "the search index is not what the records say"
    await store.rebuild("search")
    assert found == await indexed(store), "the search index built anew is another one"


async def indexed(store: Store) -> dict[str, int]:
    found: dict[str, int] = {}
    after = ""
    while page := await store.core.search.ids("notes", after, 200):
        found.update(page)
        after = page[-1][0]
    return found


async def recomputed(store: Store) -> dict[str, int]:
    """Return what the search index should hold, straight from the records."""
    table = Note.declared().table
    now_us = store.core.now_us()
    found: dict[str, int] = {}
    after = None
    while True:
        page = await store.core.records.scan(table.name, after=after, limit=500)
        for record in page.records:
            if is_live(table, record, now_us):
                key: Any = tuple(record[name] for name in table.key)
                revision: Any = record[REVISION]
                found[document_id(Address(table.name, key))] = revision
        if page.last is None:
            return found
        after = page.last


async def objects_agree(store: Store, under_way: int) -> None:
    """Every object a record refers to is there, and no more are left over than uploads that were under way."""
    await store.sweep()
    referred: set[str] = set()
    for note in await everything(store, Note):
        record: Any = (await store.core.records.get([store.core.planner.address(note.address, None)]))[0]
        referred |= set(store.core.planner.codec(Note).references(record))
    there = {info.key async for info in store.core.blobs.list()}
    assert referred <= there, "an object that a record refers to is missing"
    assert len(there - referred) <= under_way, "released objects are left over"


def check_file(path: Path) -> None:
    """Ask SQLite itself whether the file and its full-text indexes are whole."""
    connection = apsw.Connection(str(path))
    try:
        assert [("ok",)] == connection.execute("PRAGMA integrity_check").fetchall()
        assert [] == connection.execute("PRAGMA foreign_key_check").fetchall()
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE sql LIKE '%USING fts5%'").fetchall()
        for (name,) in tables:
            connection.execute(f'INSERT INTO "{name}" ("{name}", rank) VALUES (\'integrity-check\', 1)')
    finally:
        connection.close()
