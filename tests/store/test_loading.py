"""Loading many records: in chunks, several under way, whatever the source does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

import palaver
from palaver import Blob, Entity, Expires, Expiry, Key, LargeObject, ManualClock, Schema, Store, hours
from palaver.errors import PalaverError, Unavailable, Validation
from palaver.loading import CHUNK
from tests.store.conftest import Opener
from tests.store.world import Member, Team, User

MANY = 3 * CHUNK + 7


def members(count: int = MANY, team: str = "t") -> Iterator[Member]:
    return (Member(team_id=team, name=f"{n:05d}") for n in range(count))


async def names(store: Store, team: str = "t") -> list[str]:
    return [member.name async for member in store.query(Member.key(team))]


async def test_bulk_stores_many_and_again_changes_nothing(store: Store) -> None:
    members = [Member(team_id="t", name=f"{n:04d}") for n in range(1_000)]

    assert 1_000 == await store.bulk(members)
    assert 1_000 == await store.bulk(members)
    assert members == [member async for member in store.query(Member.key("t"))]


async def test_bulk_keeps_unique_sets(store: Store) -> None:
    assert 2 == await store.bulk([User(id="a", email="a"), User(id="b", email="b")])
    assert "b" == (await store.get(User.by_email("b"))).id


async def test_bulk_takes_an_asynchronous_source(store: Store) -> None:
    async def source() -> Any:
        for n in range(3):
            yield Team(id=str(n))

    assert 3 == await store.bulk(source())


async def test_entities_of_several_classes_are_loaded_together(store: Store) -> None:
    others = (User(id=f"{n}", email=f"{n}") if n % 50 == 0 else Team(id=f"{n}") for n in range(MANY))
    mixed = [entity for both in zip(members(), others, strict=True) for entity in both]
    assert 2 * MANY == await store.bulk(mixed)
    assert MANY == len(await names(store))
    assert "50" == (await store.get(User.by_email("50"))).id
    assert await store.find(Team.at("51")) is not None


@pytest.mark.parametrize("taken", [0, 3, CHUNK, CHUNK + 3])
async def test_what_was_taken_before_the_source_failed_is_stored(store: Store, taken: int) -> None:
    def source() -> Iterator[Member]:
        yield from members(taken)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.bulk(source())
    assert taken == len(await names(store))


async def test_what_was_taken_before_one_that_does_not_fit_is_stored(store: Store) -> None:
    good = list(members(5))
    with pytest.raises(Validation):
        await store.bulk([*good, good[0].model_copy(update={"name": 7}), Member(team_id="t", name="later")])
    assert [member.name for member in good] == await names(store)


async def test_an_error_of_the_engine_ends_the_load_and_leaves_no_task(store: Store) -> None:
    engine: Any = store.core.records
    load, calls = engine.load, 0

    async def failing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Unavailable("gone")
        return await load(*args)

    engine.load = failing
    with pytest.raises(PalaverError, match="gone"):
        await store.bulk(members(40 * CHUNK))
    engine.load = load
    assert calls < 40
    assert {asyncio.current_task()} == {task for task in asyncio.all_tasks() if "_write" in repr(task) or task is asyncio.current_task()}
    assert MANY == await store.bulk(members())


async def test_a_load_that_is_cancelled_leaves_no_task(store: Store) -> None:
    seen = asyncio.Event()

    async def source() -> AsyncIterator[Member]:
        for member in members(CHUNK + 1):
            yield member
        seen.set()
        await asyncio.sleep(60)

    loading = asyncio.create_task(store.bulk(source()))
    await seen.wait()
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert not [task for task in asyncio.all_tasks() if "_write" in repr(task)]
    assert CHUNK == len(await names(store))


class Reading(Entity, table="readings"):
    id: str
    value: int = 0
    key = Key("id")


@pytest.mark.parametrize("different", [1, 7, CHUNK + 44])
async def test_of_two_records_with_one_key_the_later_stays(opened: Opener, different: int) -> None:
    store = await opened(Schema("readings", [Reading]))
    count = 12 * CHUNK if different > CHUNK else 3 * CHUNK
    await store.bulk(Reading(id=f"{n % different:05d}", value=n) for n in range(count))
    for key in range(0, different, 50):
        last = max(range(key, count, different))
        assert last == (await store.get(Reading.at(f"{key:05d}"))).value


class Page(Entity, table="pages"):
    id: str
    text: Annotated[str, Blob("pages/{id}", inline=100)]
    key = Key("id")


async def test_of_two_records_with_one_key_the_later_stays_also_where_the_earlier_has_an_object(opened: Opener) -> None:
    store = await opened(Schema("pages", [Page]))
    await store.bulk(
        [Page(id="1", text="first"), Page(id="1", text="x" * 1_000), Page(id="1", text="last"), Page(id="2", text="y" * 1_000)]
    )
    assert "last" == (await store.get(Page.at("1"))).text
    assert "y" * 1_000 == (await store.get(Page.at("2"))).text


class Call(Entity, table="calls"):
    id: str
    audio: Annotated[LargeObject, Blob("calls/{id}")]
    key = Key("id")


async def test_a_large_object_is_stored_before_its_source_goes_on(tmp_path: Path) -> None:
    async def source() -> AsyncIterator[Call]:
        for n in range(3):
            async with LargeObject.staged([b"%d" % n]) as audio:
                yield Call(id=str(n), audio=audio)

    async with palaver.open(f"sqlite:///{tmp_path / 'calls.db'}", schema=Schema("calls", [Call])) as store:
        assert 3 == await store.bulk(source())
        call = await store.get(Call.at("2"))
        assert b"2" == b"".join([piece async for piece in store.stream(call.audio)])


class Ticket(Entity, table="tickets"):
    id: str
    expires: Annotated[Expiry | None, Expires(after=hours(1))] = None
    key = Key("id")


async def test_what_a_slow_source_gives_lives_from_when_it_came(opened: Opener, clock: ManualClock) -> None:
    store = await opened(Schema("tickets", [Ticket]))

    async def source() -> AsyncIterator[Ticket]:
        for n in range(3):
            yield Ticket(id=str(n))
            clock.advance(hours(1 / 3))

    assert 3 == await store.bulk(source())
    assert [False, True, True] == [await store.find(Ticket.at(str(n))) is not None for n in range(3)]
