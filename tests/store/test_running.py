"""The feed's runner, its leases, rebuilding, sweeping and clocks that jump."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from palaver import ManualClock, Store, days, hours
from palaver.errors import AlreadyExists, ConditionFailed, SettleTimeout, Validation
from palaver.expr import Path
from palaver.feed import LEASE_MS
from palaver.ops import Address, Change, Guard, Op, Origin, Put, Set, Unchanged, Update
from palaver.system import SYSTEM, system, token_address
from tests.store.conftest import Opener
from tests.store.world import CHAT, START, Conversation, Message, Team, User, conversation, message

LEASE = timedelta(milliseconds=LEASE_MS)


class Counting:
    """Counts changes in memory, and once each in the store itself."""

    name = "counting"

    def __init__(self, store: Store) -> None:
        self.store = store
        self.seen: list[Change] = []
        self.rebuilt = 0
        self.failing: Exception | None = None

    async def apply(self, changes: Sequence[Change]) -> Sequence[Op]:
        if self.failing is not None:
            raise self.failing
        self.seen += changes
        at = system("test", "count")
        old = (await self.store.core.records.get((at,)))[0]
        body: Any = old["body"] if old else {"n": 0}
        guard = Guard(Unchanged(old["_revision"] if old else None), Origin(1, "count"))  # type: ignore[arg-type]
        return [Put(at, {"scope": "test", "name": "count", "body": {"n": body["n"] + len(changes)}}, (guard,))]

    async def rebuild(self) -> None:
        self.rebuilt += 1


async def counted(store: Store) -> int:
    record = (await store.core.records.get((system("test", "count"),)))[0]
    body: Any = record["body"] if record else {"n": 0}
    return int(body["n"])


async def until(store: Store, count: int) -> None:
    while await counted(store) < count:  # noqa: ASYNC110 - what is waited for is in the database
        await asyncio.sleep(0.01)


class World:
    """Stores with a counting projection each."""

    def __init__(self, opened: Opener) -> None:
        self.opened = opened

    async def open(self, **options: Any) -> tuple[Store, Counting]:
        made: list[Counting] = []

        def counting(store: Store) -> Counting:
            made.append(Counting(store))
            return made[0]

        store = await self.opened(CHAT, projections=[counting], **options)
        return store, made[0]


@pytest.fixture
def world(opened: Opener) -> World:
    return World(opened)


@pytest.fixture
def file_url(url: str) -> str:
    if url == "memory:":
        pytest.skip("memory is one process")
    return url


async def test_settle_runs_what_waits_when_nobody_else_does(world: World) -> None:
    store, counting = await world.open()
    for n in range(3):
        await store.create(Team(id=str(n)))
    await store.settle()

    assert [("t", ("0",)), ("t", ("1",)), ("t", ("2",))] == [(change.table[0], change.key) for change in counting.seen]
    assert ["created"] * 3 == [change.kind for change in counting.seen]
    assert 3 == await counted(store)
    await store.settle()
    assert 3 == await counted(store)


async def test_the_actor_and_the_token_travel_with_the_change(world: World) -> None:
    store, counting = await world.open()
    await store.acting_as("me").create(Team(id="t"), token="x")
    await store.settle()

    assert ("me", token_address(None, "x").key[1]) == counting.seen[0].cause


async def test_a_background_runner_keeps_up_by_itself(world: World) -> None:
    store, _ = await world.open(maintain=True)
    await store.create(Team(id="t"))

    async with asyncio.timeout(5):
        await until(store, 1)


@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize("projecting", [True, False])
async def test_closing_just_as_the_runner_wakes_does_not_hang(opened: Opener, projecting: bool, steps: int) -> None:
    """The event it waits for and the cancellation come at once: the cancellation counts."""
    store = await opened(maintain=True, projections=[Counting] if projecting else [])
    await asyncio.sleep(0.05)
    if projecting:
        await store.create(Team(id="t"))
    store.runner().poke()
    for _ in range(steps):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await store.aclose()


async def test_a_failing_projection_is_named_and_stops_no_other(world: World, stack: str, caplog: pytest.LogCaptureFixture) -> None:
    store, counting = await world.open()
    counting.failing = ValueError("a secret value")
    await store.create(conversation())
    await store.create(message(text="findable"))

    with pytest.raises(SettleTimeout, match="projection counting did not catch up"):
        await store.settle(0.05 if stack in ("memory", "sqlite") else 2)  # long enough for the others

    health = await store.health()
    assert "ValueError" == health["projections"]["counting"]["error"]
    assert 1 == len(await store.search("messages", "findable"))
    assert "a secret value" not in caplog.text + str(health)
    counting.failing = None
    await store.settle()
    assert (await store.health())["projections"]["counting"]["error"] is None
    assert 2 == await counted(store)


async def test_a_failing_projection_is_tried_at_leisure(world: World) -> None:
    store, counting = await world.open(maintain=True)
    tries = 0

    class Broken(Exception):
        pass

    async def apply(changes: Sequence[Change]) -> Sequence[Op]:
        nonlocal tries
        tries += 1
        raise Broken

    counting.apply = apply  # type: ignore[method-assign]
    await store.create(Team(id="t"))
    async with asyncio.timeout(30):
        while not tries:  # noqa: ASYNC110 - the runner tries when it comes to it
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)

    assert tries <= 5


async def test_a_hanging_projection_does_not_hold_settle_beyond_its_time(world: World) -> None:
    store, counting = await world.open()
    await store.create(Team(id="t"))

    async def apply(changes: Sequence[Change]) -> Sequence[Op]:
        await asyncio.sleep(60)
        return ()

    counting.apply = apply  # type: ignore[method-assign]
    async with asyncio.timeout(5):
        with pytest.raises(SettleTimeout):
            await store.settle(0.1)


async def test_one_process_works_and_another_takes_over_after_its_lease(world: World, file_url: str, clock: ManualClock) -> None:
    first, one = await world.open()
    second, two = await world.open()
    await first.create(Team(id="a"))
    await first.settle()
    await second.create(Team(id="b"))
    with pytest.raises(SettleTimeout):
        await second.settle(0.05)
    assert (1, 0) == (len(one.seen), len(two.seen))
    clock.advance(LEASE)

    await second.settle()

    assert ["b"] == [change.key[0] for change in two.seen]
    assert 2 == await counted(second)
    await first.create(Team(id="c"))
    assert 0 == await first.runner().step()
    assert 1 == len(one.seen)


async def test_a_process_whose_lease_was_taken_is_fenced_and_counts_nothing_twice(world: World, file_url: str, clock: ManualClock) -> None:
    first, one = await world.open()
    second, two = await world.open()
    await first.runner().step()
    apply = one.apply

    async def slow(changes: Sequence[Change]) -> Sequence[Op]:
        ops = await apply(changes)
        clock.advance(LEASE + LEASE)
        await second.settle()
        return ops

    one.apply = slow  # type: ignore[method-assign]
    await first.create(Team(id="a"))
    await first.runner().step()

    assert (1, 1) == (len(one.seen), len(two.seen))
    assert 1 == await counted(first)


async def test_work_split_between_processes_counts_every_change_once(world: World, file_url: str, clock: ManualClock) -> None:
    stores = [await world.open() for _ in range(2)]

    async def write(store: Store, name: str) -> None:
        for n in range(20):
            await store.create(Team(id=f"{name}{n}"))

    async def run(store: Store) -> None:
        for _ in range(20):
            await store.runner().step()
            clock.advance(LEASE)

    await asyncio.gather(*(write(store, str(n)) for n, (store, _) in enumerate(stores)), *(run(store) for store, _ in stores))
    clock.advance(LEASE + LEASE)
    await stores[0][0].settle()

    assert 40 == await counted(stores[0][0])


async def test_a_closed_store_gives_its_leases_back(world: World, file_url: str) -> None:
    first, _ = await world.open()
    await first.create(Team(id="a"))
    await first.settle()
    await first.aclose()
    second, two = await world.open()
    await second.create(Team(id="b"))

    await second.settle(1)

    assert ["b"] == [change.key[0] for change in two.seen]


async def test_settle_waits_for_the_process_that_has_the_lease(world: World, file_url: str) -> None:
    first, _ = await world.open(maintain=True)
    await first.create(Team(id="a"))
    await first.settle()
    second, _ = await world.open()
    await second.create(Team(id="b"))

    await second.settle(5)

    assert 2 == await counted(second)


async def test_a_projection_is_rebuilt_on_demand_and_when_the_feed_was_trimmed(world: World) -> None:
    store, counting = await world.open()
    await store.create(Team(id="a"))
    await store.rebuild("counting")
    assert 1 == counting.rebuilt
    await store.settle()
    assert [] == counting.seen
    for n in range(5):
        await store.create(Team(id=str(n)))
    head = (await store.core.records.changes(None, 0)).head
    await store.core.records.trim(head)  # type: ignore[attr-defined]

    await store.settle()

    assert 2 == counting.rebuilt
    with pytest.raises(Validation, match="no projection"):
        await store.rebuild("nothing")


async def test_a_rebuilt_search_forgets_what_is_gone(store: Store) -> None:
    await store.create(conversation())
    for n in range(3):
        await store.create(message(n, text="word"))
    await store.settle()
    await store.core.search.delete("messages", [id for id, _ in await store.core.search.ids("messages", "", 1)])
    assert 2 == (await store.search("messages", "word")).total

    await store.rebuild("search")

    assert 3 == (await store.search("messages", "word")).total


async def test_a_hit_whose_record_is_gone_is_not_shown(store: Store, clock: ManualClock) -> None:
    await store.create(conversation())
    await store.create(message(1, text="word"))
    await store.create(message(2, text="word", expires=START + days(1)))
    await store.settle()
    await store.delete(Message.at("c", "1"))

    assert ["2"] == [hit.entity.id for hit in await store.search("messages", "word") if isinstance(hit.entity, Message)]
    clock.advance(days(1))
    assert 0 == len(await store.search("messages", "word"))


async def test_a_sweep_leaves_a_record_that_was_extended_meanwhile(store: Store, clock: ManualClock) -> None:
    for id in ("plain", "guarded"):
        await store.create(Team(id=id))
    await store.create(conversation())
    await store.create(message(expires=START + days(1)))
    await store.create(User(id="u", email="a", expires=START + days(1)))
    clock.advance(days(2))
    engine = store.core.records
    write = engine.write

    async def extending(writes: Any) -> Any:
        ops = [op for op in writes.ops if op.at.table in ("messages", "users")]
        for op in ops:
            change = Update(op.at, (Set(Path("expires"), 2_000_000_000),))
            await write(writes._replace(ops=(change,)))
        return await write(writes)

    engine.write = extending  # type: ignore[method-assign]
    swept = await store.sweep()
    engine.write = write  # type: ignore[method-assign]

    assert (0, 0) == (swept.expired["Message"], swept.expired["User"])
    assert await store.find(Message.at("c", "1")) is not None
    assert await store.find(User.at("u")) is not None


async def test_a_sweep_may_be_limited(store: Store, clock: ManualClock) -> None:
    await store.create(conversation())
    await store.bulk([message(n, expires=START + days(1)) for n in range(30)])
    clock.advance(days(2))

    assert 10 == (await store.sweep(limit=10)).total
    assert 20 == (await store.sweep()).total


async def test_swept_records_are_changes_of_their_own_kind(world: World, clock: ManualClock) -> None:
    store, counting = await world.open()
    await store.create(conversation())
    await store.create(message(expires=START + days(1)))
    clock.advance(days(2))
    await store.sweep()
    await store.settle()

    assert ["created", "created", "updated", "expired"] == [change.kind for change in counting.seen]


async def test_a_clock_put_back_loses_nothing_and_repeats_no_revision(store: Store, clock: ManualClock) -> None:
    first = await store.create(Team(id="t"))
    made = await store.create(conversation())
    clock.advance(timedelta(hours=-1))

    second = await store.patch(first, set={"name": "x"})
    third = await store.put(Team(id="t", name="y"))

    assert first.revision < second.revision < third.revision
    assert third == await store.get(first.address)
    assert made == await store.find(made.address)
    await store.settle()
    await store.sweep()


async def test_a_clock_put_forward_and_back_hides_and_shows_alike_for_reads_and_writes(store: Store, clock: ManualClock) -> None:
    made = await store.create(conversation(expires=START + hours(12)))
    clock.advance(days(1))
    assert await store.find(made.address) is None
    with pytest.raises(ConditionFailed):
        await store.patch(made, set={"title": "x"})
    clock.advance(-days(1))

    assert made == await store.find(made.address)
    assert "x" == (await store.patch(made, set={"title": "x"})).title
    with pytest.raises(AlreadyExists):
        await store.create(made)


async def test_a_lease_from_before_the_clock_was_put_back_holds_nobody_up(world: World, file_url: str, clock: ManualClock) -> None:
    first, _ = await world.open()
    clock.advance(days(1))
    await first.runner().step()
    clock.advance(-days(1))
    second, _ = await world.open()
    await second.create(Team(id="t"))

    await second.settle(1)

    assert 1 == await counted(second)


async def test_jobs_and_leases_are_no_changes(world: World) -> None:
    store, counting = await world.open()
    await store.create(conversation())
    await store.delete(Conversation.at("u", "c"))
    await store.sweep()
    await store.settle()
    await store.settle()

    assert {"conversations"} == {change.table for change in counting.seen}
    assert Address(SYSTEM.name, ("test", "count")) not in {Address(change.table, change.key) for change in counting.seen}
