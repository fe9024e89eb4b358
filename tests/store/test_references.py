"""A child needs its parent; a parent goes with its children, or not while it has any."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from palaver import Batch, F, ManualClock, Store, days, unchanged
from palaver.errors import BatchShape, ConditionFailed, Conflict, PalaverError, ReferenceBroken
from tests.store.conftest import Opener
from tests.store.world import CHAT, START, Conversation, Feedback, Member, Team, conversation, message


async def family(store: Store, messages: int = 3, id: str = "c") -> Conversation:
    made = await store.create(conversation(id))
    for n in range(messages):
        await store.create(message(n, id))
        await store.create(Feedback(conversation_id=id, id=str(n), rater="r"))
    return made


async def left(store: Store, id: str = "c") -> tuple[bool, int, int]:
    """Return what is stored, hidden or not: the parent, its children, their children."""
    records: list[Any] = []
    for table in ("conversations", "messages", "feedback"):
        page = await store.core.records.scan(table, after=None, limit=1000)
        records.append([record for record in page.records if id in (record.get("conversation_id"), record.get("id"))])
    return bool(records[0]), len(records[1]), len(records[2])


async def test_a_child_without_a_parent_is_refused(store: Store) -> None:
    for write in (store.create(Member(team_id="t", name="n")), store.put(Member(team_id="t", name="n"))):
        with pytest.raises(ReferenceBroken, match=r"Member\.team refers to a Team that does not exist"):
            await write


async def test_parent_and_child_may_come_in_one_batch_in_any_order(store: Store) -> None:
    await store.write(Batch().create(Member(team_id="t", name="n")).create(Team(id="t")))
    await store.write(Batch().put(Team(id="u")).put(Member(team_id="u", name="n")))
    await store.write(Batch().patch(Team.at("u"), set={"name": "x"}).put(Member(team_id="u", name="m")))

    assert 2 == await store.count(Member.key("u"))


async def test_an_expired_parent_takes_no_children(store: Store, clock: ManualClock) -> None:
    await store.create(conversation())
    clock.advance(days(30))

    with pytest.raises(ReferenceBroken):
        await store.create(message())


async def test_a_parent_and_its_new_child_cannot_go_and_come_in_one_batch(store: Store) -> None:
    await store.create(Team(id="t"))
    await store.create(conversation())

    with pytest.raises(BatchShape):
        await store.write(Batch().delete(Team.at("t")).create(Member(team_id="t", name="n")))
    with pytest.raises(BatchShape):
        await store.write(Batch().delete(Conversation.at("u", "c")).create(message()))
    assert await store.find(Team.at("t")) is not None


async def test_a_parent_with_holding_children_stays(store: Store) -> None:
    team = await store.create(Team(id="t", name="x"))
    await store.create(Member(team_id="t", name="n"))

    for write in (store.delete(team), store.write(Batch().delete(team)), store.write(Batch().delete(team).create(Team(id="u")))):
        with pytest.raises(ReferenceBroken, match=r"still referred to by Member\.team"):
            await write
    assert team == await store.get(team.address)
    assert await store.find(Member.at("t", "n")) is not None
    assert await store.find(Team.at("u")) is None


async def test_a_parent_goes_once_its_children_are_gone_or_go_along(store: Store) -> None:
    team = await store.create(Team(id="t"))
    await store.create(Member(team_id="t", name="n"))

    await store.write(Batch().delete(Member.at("t", "n")).delete(team))

    assert await store.find(team.address) is None
    assert {"cascade": 0, "blob": 0} == (await store.health())["waiting"]


async def test_conditions_hold_for_a_parent_that_children_may_hold_back(store: Store) -> None:
    team = await store.create(Team(id="t", name="x"))

    with pytest.raises(ConditionFailed):
        await store.delete(team, when=F("name") == "y")
    assert team.revision == (await store.get(team.address)).revision
    current = await store.patch(team, set={"name": "z"})
    with pytest.raises(ConditionFailed):
        await store.delete(current, when=unchanged(team))
    await store.delete(current, when=unchanged(current))
    assert await store.find(team.address) is None


async def test_children_racing_with_the_deletion_never_lose_their_parent(store: Store) -> None:
    async def join(n: int) -> bool:
        try:
            await store.create(Member(team_id="t", name=str(n)))
        except ReferenceBroken:
            return False
        return True

    async def leave() -> bool:
        await asyncio.sleep(0)
        try:
            await store.delete(Team.at("t"))
        except (ReferenceBroken, Conflict):
            return False
        return True

    for _ in range(10):
        await store.put(Team(id="t"))
        results = await asyncio.gather(leave(), *(join(n) for n in range(5)), leave())
        if await store.find(Team.at("t")) is None:
            assert 0 == await store.count(Member.key("t"))
        else:
            assert sum(results[1:-1]) == await store.count(Member.key("t"))
        for member in [each async for each in store.query(Member.key("t"))]:
            await store.delete(member)


async def test_a_parent_left_hidden_by_a_crash_comes_back(store: Store, clock: ManualClock) -> None:
    team = await store.create(Team(id="t"))
    core = store.core
    address = core.planner.address(team.address, None)
    record = (await core.records.get((address,)))[0]
    assert record is not None
    now_us = core.now_us()
    await core.records.write(core.planner.close(address, record, now_us, now_us // 1000 + 60_000))
    assert await store.find(team.address) is None
    await store.sweep()
    assert await store.find(team.address) is None
    clock.advance(days(1))

    await store.sweep()

    assert team == await store.find(team.address)


async def test_a_deleted_parent_takes_three_levels_with_it(store: Store) -> None:
    await family(store)
    await family(store, id="other")

    await store.delete(Conversation.at("u", "c"))
    swept = await store.sweep()

    assert 7 == swept.cascaded
    assert (False, 0, 0) == await left(store)
    assert (True, 3, 3) == await left(store, "other")
    assert {"cascade": 0, "blob": 0} == (await store.health())["waiting"]


async def test_while_a_cascade_waits_the_parent_is_gone_and_refuses_children(store: Store) -> None:
    parent = await family(store)
    await store.delete(parent)

    assert await store.find(parent.address) is None
    assert 0 == await store.count(Conversation.key("u"))
    assert [] == (await store.page(Conversation.by_activity("u"))).items
    with pytest.raises(ConditionFailed):
        await store.patch(parent, set={"title": "x"})
    with pytest.raises(ReferenceBroken):
        await store.create(message(99))
    for write in (store.create(conversation()), store.put(conversation())):
        with pytest.raises(Conflict):
            await write
    await store.delete(parent)
    await store.bulk([conversation("fresh")])
    assert (True, 3, 3) == await left(store)

    await store.sweep()
    assert (False, 0, 0) == await left(store)
    await store.create(conversation())


async def test_bulk_does_not_revive_what_is_being_deleted(store: Store) -> None:
    await store.delete(await family(store))

    with pytest.raises(Conflict):
        await store.bulk([conversation()])
    await store.sweep()

    assert (False, 0, 0) == await left(store)


async def test_a_cascade_that_stopped_anywhere_is_finished_by_another(opened: Opener, clock: ManualClock) -> None:
    for stop in range(12):
        store = await opened()
        await store.delete(await family(store))
        engine = store.core.records
        write, calls = engine.write, 0

        async def failing(writes: Any, write: Any = write, stop: int = stop) -> Any:
            nonlocal calls
            calls += 1
            if calls > stop:
                raise Conflict("stopped")
            return await write(writes)

        engine.write = failing  # type: ignore[method-assign]
        try:
            await store.sweep()
            stopped = False
        except PalaverError:
            stopped = True
        engine.write = write  # type: ignore[method-assign]

        await store.sweep()
        assert (False, 0, 0) == await left(store)
        assert {"cascade": 0, "blob": 0} == (await store.health())["waiting"]
        if not stopped:
            return
    pytest.fail("no run was long enough")


async def test_many_waiting_cascades_do_not_block_each_other(store: Store) -> None:
    for n in range(130):
        await store.create(conversation(str(n)))
        await store.create(message(1, str(n)))
        await store.create(Feedback(conversation_id=str(n), id="1", rater="r"))
        await store.delete(Conversation.at("u", str(n)))

    await store.sweep()

    assert 0 == (await store.health())["waiting"]["cascade"]
    assert 0 == len((await store.core.records.scan("feedback", after=None, limit=10)).records)


async def test_expired_parents_take_their_children_along(store: Store, clock: ManualClock) -> None:
    for n in range(120):
        await store.create(conversation(str(n)))
        await store.create(message(1, str(n)))
    clock.advance(days(30))

    swept = await store.sweep()

    assert 120 == swept.expired["Conversation"]
    assert 0 == len((await store.core.records.scan("messages", after=None, limit=10)).records)
    assert 0 == len((await store.core.records.scan("conversations", after=None, limit=10)).records)


@pytest.mark.parametrize("verb", ["create", "put"])
async def test_a_key_used_again_after_expiry_does_not_inherit_children(store: Store, clock: ManualClock, verb: str) -> None:
    await family(store)
    clock.advance(days(31))

    made = await getattr(store, verb)(conversation(last_active=START + days(31)))

    assert made == await store.get(made.address)
    assert (True, 0, 0) == await left(store)


async def test_an_expired_parent_whose_deletion_is_refused_is_not_lost(store: Store, clock: ManualClock) -> None:
    await store.create(conversation())
    clock.advance(days(29))
    await store.patch(Conversation.at("u", "c"), set={"last_active": START + days(29)})
    clock.advance(days(2))

    swept = await store.sweep()

    assert 0 == swept.total
    assert await store.find(Conversation.at("u", "c")) is not None


async def test_a_kept_child_may_be_patched_without_its_parent(opened: Opener) -> None:
    from palaver import Entity, Index, Key, Ref, Schema

    class Parent(Entity, table="parents"):
        id: str
        key = Key("id")

    class Child(Entity, table="children"):
        id: str
        parent_id: str | None = None
        name: str = ""
        other: str | None = None
        key = Key("id")
        by_other = Index("other", shards=2)
        parent = Ref("parent_id", to=Parent, on_delete="keep")

    store = await opened(Schema("keep", [Parent, Child]))
    await store.create(Parent(id="p"))
    child = await store.create(Child(id="c", parent_id="p"))
    await store.delete(Parent.at("p"))

    assert "x" == (await store.patch(child, set={"other": "x"})).other
    assert "y" == (await store.patch(child, set={"name": "y"})).name
    with pytest.raises(ReferenceBroken):
        await store.patch(child, set={"parent_id": "q"})
    assert (await store.patch(child, set={"parent_id": None})).parent_id is None


def test_the_chat_has_no_errors() -> None:
    assert [] == [found for found in CHAT.diagnostics if found.level == "error"]
