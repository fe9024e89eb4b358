"""The sweep: any number of expired records in constant memory, while readers and writers go on beside it."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

import pytest
from pydantic import Field

from palaver.clock import ManualClock, days, now
from palaver.entity import Entity
from palaver.insight.histogram import bucket, quantile
from palaver.keys import Index, Key, Unique
from palaver.markers import Expires, Expiry, InstantMs
from palaver.ops import Refused, WriteSet, Written
from palaver.schema import Schema
from palaver.store import Store
from palaver.upkeep import AT_ONCE
from tests.lifecycle.conftest import Opened
from tests.reliability.results import publish

LONGEST_WAIT_MS = 50


class Event(Entity, table="events"):
    """A record like a message: text, an index, an expiry."""

    room: str
    event_id: str
    text: str = "what somebody said, as long as such things are, give or take a few words of it"
    happened: InstantMs = Field(default_factory=now)
    expires: Annotated[Expiry | None, Expires(after=days(1), of="happened")] = None
    key = Key("room", sort="event_id")
    by_event = Index("event_id", sort="happened")


class Ticket(Entity, table="tickets"):
    """A record that is removed by a plan of its own, because it holds a claim."""

    ticket_id: str
    number: int
    opened: InstantMs = Field(default_factory=now)
    expires: Annotated[Expiry | None, Expires(after=days(1), of="opened")] = None
    key = Key("ticket_id")
    by_number = Unique("number")


class Live(Entity, table="live"):
    name: str
    n: int = 0
    key = Key("name")


SCHEMA = Schema("sweeping", [Event, Ticket, Live])


async def write_expired(store: Store, clock: ManualClock, total: int) -> None:
    at = clock.now()
    await store.bulk(Event(room=f"r{number % 997}", event_id=f"e{number}", happened=at) for number in range(total))
    clock.advance(timedelta(days=2))


class Beside:
    """Readers and writers that go on while something else happens, and how long each call took, in milliseconds."""

    def __init__(self) -> None:
        self.waits: dict[str, dict[str, int]] = {"read": {}, "write": {}, "event loop": {}}

    @asynccontextmanager
    async def running(self, store: Store) -> AsyncIterator[None]:
        for name in ("a", "b"):
            await store.put(Live(name=name))
        over = asyncio.Event()

        async def again(what: str, call: Callable[[], Awaitable[object]]) -> None:
            counts = self.waits[what]
            while not over.is_set():
                started = time.perf_counter()
                await call()
                # Counted, not listed: what is measured must not grow with how long it takes.
                name = bucket(1000 * (time.perf_counter() - started))
                counts[name] = counts.get(name, 0) + 1
                await asyncio.sleep(0.001)

        calls = [("read", lambda: store.get(Live.at("a"))), ("event loop", lambda: asyncio.sleep(0))]
        calls += [("write", lambda name=name: store.patch(Live.at(name), add={"n": 1})) for name in ("a", "b")]  # type: ignore[misc]
        tasks = [asyncio.create_task(again(*call)) for call in calls]
        try:
            yield
        finally:
            over.set()
            await asyncio.gather(*tasks)

    def calls(self, what: str) -> int:
        return sum(self.waits[what].values())

    def at(self, what: str, q: float) -> float:
        return quantile(self.waits[what], q) or 0.0

    def report(self) -> str:
        def line(what: str) -> str:
            p50, p99, most = (self.at(what, q) for q in (0.5, 0.99, 1))
            return f"{what}: {self.calls(what):,} calls, p50 {p50:.1f}, p99 {p99:.1f}, most {most:.1f} ms"

        return "; ".join(map(line, self.waits))


@dataclass
class Swept:
    """What a sweep took, and what it did to those beside it."""

    records: int
    seconds: float
    peak_bytes: int
    beside: Beside


async def swept(opened: Opened, clock: ManualClock, total: int) -> Swept:
    """Sweep that many records: the peak of memory is that of one half, the waits of others are those of the other."""
    store = await opened(schema=SCHEMA)
    await write_expired(store, clock, total)
    alone = Beside()
    async with alone.running(store):
        await asyncio.sleep(0.5)
    print(f"without a sweep: {alone.report()}")
    # Tracing makes every allocation slower, so it is not on while others are waiting.
    tracemalloc.start()
    traced = await store.sweep(limit=total // 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    beside = Beside()
    async with beside.running(store):
        started = time.perf_counter()
        removed = await store.sweep()
        took = time.perf_counter() - started
    assert total == traced.expired["Event"] + removed.expired["Event"]
    assert (await store.core.records.scan("events", after=None, limit=1)).records == []
    print(f"{removed.total:,} records in {took:.1f} s, peak {peak:,} bytes. {beside.report()}")
    return Swept(removed.total, took, peak, beside)


async def test_a_sweep_takes_constant_memory_and_others_have_their_turn_beside_it(opened: Opened, clock: ManualClock, stack: str) -> None:
    if stack == "memory":
        pytest.skip("the memory engine holds the records themselves")
    # An emulator of DynamoDB removes some fifty records a second, beside others.
    done = await swept(opened, clock, 1_000 if stack == "dynamodb" else 10_000)
    assert 5_000_000 > done.peak_bytes
    # How long each call waits depends on the machine, and the long run measures it; that others come in between does not.
    for what in done.beside.waits:
        assert done.beside.calls(what) > 50


@pytest.mark.soak
async def test_a_million_expired_records(opened: Opened, clock: ManualClock, stack: str) -> None:
    if stack == "memory":
        pytest.skip("the memory engine holds the records themselves")
    done = await swept(opened, clock, 1_000_000)
    assert 5_000_000 > done.peak_bytes
    # The most of a run belongs to whoever else uses the processor; what the sweep does, it does every time.
    for what in done.beside.waits:
        assert LONGEST_WAIT_MS > done.beside.at(what, 0.95)
    if stack == "sqlite":
        most = {what: round(done.beside.at(what, 1), 1) for what in done.beside.waits}
        publish("sweep", {"records": done.records, "seconds": round(done.seconds), "peak_bytes": done.peak_bytes, "most_ms": most})


async def test_no_commit_of_a_sweep_holds_others_up_for_more_than_a_few_records(
    opened: Opened, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a writer may have to wait for is one commit of the sweep: bounded in records, whatever the sweep finds."""
    store = await opened(schema=SCHEMA)
    await write_expired(store, clock, 310)
    records, sizes = store.core.records, list[int]()
    write = records.write

    async def noted(writes: WriteSet) -> Written | Refused:
        sizes.append(len(writes.ops))
        result: Written | Refused = await write(writes)
        return result

    monkeypatch.setattr(records, "write", noted)
    assert 310 == (await store.sweep()).total
    assert max(sizes) <= AT_ONCE
    assert 310 == sum(sizes)


async def test_a_sweep_can_be_bounded_and_goes_on_later(opened: Opened, clock: ManualClock) -> None:
    store = await opened(schema=SCHEMA)
    await write_expired(store, clock, 250)
    assert 100 == (await store.sweep(limit=100)).total
    assert 150 == (await store.sweep()).total
    assert 0 == (await store.sweep()).total


async def test_a_record_extended_while_it_is_swept_stays(opened: Opened, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(schema=SCHEMA)
    await write_expired(store, clock, 5)
    records = store.core.records
    get = records.get

    async def late(at: object, **options: object) -> object:
        found = await get(at, **options)
        if len(found) == 5:
            await store.put(Event(room="r3", event_id="e3", happened=clock.now()))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(records, "get", late)
        assert {"Event": 4} == (await store.sweep()).expired
    assert "e3" == (await store.get(Event.at("r3", "e3"))).event_id


async def test_a_sweep_gives_back_claims(opened: Opened, clock: ManualClock) -> None:
    store = await opened(schema=SCHEMA)
    for number in range(100):
        await store.create(Ticket(ticket_id=f"t{number}", number=number, opened=clock.now()))
    clock.advance(timedelta(days=2))
    assert 100 == (await store.sweep()).expired["Ticket"]
    await store.create(Ticket(ticket_id="again", number=7, opened=clock.now()))


async def test_the_background_sweep_goes_on_while_more_is_waiting(
    opened: Opened, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palaver.upkeep.SWEEP_AT_ONCE", 50)
    store = await opened(schema=SCHEMA)
    await write_expired(store, clock, 120)
    upkeep = store.core_upkeep()
    assert [50, 50, 20, 0] == [await upkeep.work() for _ in range(4)]
