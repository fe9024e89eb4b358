"""A cache that is dead, cold, poisoned, emptied, or back with an old memory: no answer is wrong, and the records are not overrun."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver import Entity, Key, Schema, Store, in_step
from palaver.cache.redis import RedisCache
from palaver.caching import HIGHEST_REVISION
from palaver.connections.redis import encode
from palaver.entity_cache import EntityCache
from palaver.errors import SettleTimeout
from palaver.lifecycle.erase import erase
from tests import servers
from tests.cache.histories import play, wrong
from tests.cache.people import PEOPLE, Plain, User, with_cache
from tests.engines.redis_servers import own, until
from tests.stacks import fresh

OPTIONS = "?timeout=0.3&connect=0.3"


@pytest.fixture
def server() -> Any:
    with own() as server:
        yield server


@pytest.fixture
def address(server: servers.Redis, tmp_path: Path) -> str:
    return with_cache(fresh("sqlite", tmp_path), server.url + OPTIONS)


@pytest.fixture
async def stores(address: str) -> AsyncIterator[tuple[Store, Store]]:
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(palaver.open(address, schema=PEOPLE, migrate=True, maintain=False)) for _ in range(2)]
        yield one, other


class Raw:
    """What lies in Redis, read and written behind everybody's back."""

    def __init__(self, server: servers.Redis) -> None:
        self.cache = RedisCache(server.url)

    async def everything(self) -> dict[bytes, bytes]:
        client = self.cache.client
        names = [bytes(name) for name in await client.read(encode("KEYS", "*entity.Plain*"))]
        return {name: bytes(value) for name in names if (value := await client.read(encode("GET", name))) is not None}

    async def put(self, everything: dict[bytes, bytes]) -> None:
        for name, value in everything.items():
            await self.cache.client.write(encode("SET", name, value))

    async def empty(self) -> None:
        await self.cache.client.write(encode("FLUSHALL"))


@pytest.fixture
async def raw(server: servers.Redis) -> AsyncIterator[Raw]:
    raw = Raw(server)
    yield raw
    await raw.cache.aclose()


async def in_use(store: Store) -> EntityCache[Plain]:
    plain = EntityCache(store, Plain)
    await plain.get(Plain.at("nothing"))
    await asyncio.wait_for(plain.ready(), 20)
    return plain


async def believed(plain: EntityCache[Plain]) -> bool:
    """Say whether a record that is asked for twice is kept."""
    before = plain.figures.hits
    await plain.get(Plain.at("asked twice"))
    await plain.get(Plain.at("asked twice"))
    return plain.figures.hits > before


async def noted(store: Store, *caches: EntityCache[Plain]) -> None:
    """Wait until these caches have noted of everything committed that the cache was told of it: no older memory is believed then."""
    head = (await store.core.records.changes(None, 0)).head

    async def all_noted() -> bool:
        return all(cache._shelf._in_step.believes and cache._shelf._in_step._floor > head for cache in caches)

    await until(all_noted)


async def number_of(plain: EntityCache[Plain], id: str) -> int | None:
    found = await plain.get(Plain.at(id))
    return found.number if found else None


async def test_what_is_written_while_it_is_dead_is_read_at_once_and_later(stores: tuple[Store, Store], server: servers.Redis) -> None:
    one, other = stores
    mine, theirs = await in_use(one), await in_use(other)
    await one.put(Plain(id="a", number=1))
    assert [1, 1] == [await number_of(mine, "a"), await number_of(theirs, "a")]
    server.kill_9()
    for number in range(2, 30):
        await one.put(Plain(id="a", number=number))
        assert number == await number_of(mine, "a")
    server.start()
    await until(lambda: believed(mine))
    await until(lambda: believed(theirs))
    assert [29, 29] == [await number_of(mine, "a"), await number_of(theirs, "a")]


async def test_who_died_before_telling_the_cache_leaves_nothing_stale(address: str, stores: tuple[Store, Store]) -> None:
    """A process commits and is killed before it tells Redis, and nobody else follows: the next one tells what was not told."""
    one, _ = stores
    mine = await in_use(one)
    await one.put(Plain(id="a", number=1))
    assert 1 == await number_of(mine, "a")
    await until(lambda: believed(mine))
    assert one.core.follower is not None
    await one.core.follower.stop()
    one.core.follower = None
    # As from a process that had no time: the change is in the feed, and Redis still has the old record.
    await one.put(Plain(id="a", number=2))
    async with palaver.open(address, schema=PEOPLE, maintain=False) as heir:
        theirs = await in_use(heir)
        assert [2, 2] == [await number_of(theirs, "a"), await number_of(theirs, "a")]
        assert await believed(theirs)


@pytest.mark.parametrize("why", ["it is told", "trimmed", "too many"])
async def test_one_that_was_not_told_for_long_is_told_or_begins_anew(
    stores: tuple[Store, Store], address: str, why: str, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = stores
    mine = await in_use(one)
    await one.put(Plain(id="a", number=1))
    assert 1 == await number_of(mine, "a")
    await one.core.follower.stop()  # type: ignore[union-attr]
    one.core.follower = None
    await one.put(Plain(id="a", number=2))
    await one.bulk([Plain(id=f"p{number}") for number in range(50)])
    before = {name.partition(b":@")[0]: value for name, value in (await raw.everything()).items() if b"@" in name}
    if why == "too many":
        monkeypatch.setattr(in_step, "FURTHEST_BEHIND", 10)
    if why == "trimmed":
        await one.core.records.trim((await one.core.records.changes(None, 0)).head)  # type: ignore[attr-defined]
    async with palaver.open(address, schema=PEOPLE, maintain=False) as heir:
        theirs = await in_use(heir)
        assert [2, 2] == [await number_of(theirs, "a"), await number_of(theirs, "a")]
        after = {name.partition(b":@")[0]: value for name, value in (await raw.everything()).items() if b"@" in name}
        # The generation stands behind the revision.
        assert (why == "it is told") == ([each[17:] for each in before.values()] == [each[17:] for each in after.values()])


async def test_an_old_memory_is_not_believed(stores: tuple[Store, Store], raw: Raw) -> None:
    """Redis has again what it had long before, as a replica that took over, or a snapshot; no connection need have broken."""
    one, other = stores
    mine, theirs = await in_use(one), await in_use(other)
    await one.put(Plain(id="a", number=1))
    await noted(one, mine, theirs)
    assert [1, 1, 1] == [await number_of(each, "a") for each in (mine, theirs, mine)]
    old = await raw.everything()
    assert len(old) >= 2
    await one.put(Plain(id="a", number=2))
    await noted(one, mine, theirs)
    assert [2, 2] == [await number_of(mine, "a"), await number_of(theirs, "a")]
    await raw.empty()
    await raw.put(old)
    assert [2, 2, 2] == [await number_of(each, "a") for each in (theirs, mine, mine)]
    await until(lambda: believed(mine))
    assert [2, 2] == [await number_of(mine, "a"), await number_of(theirs, "a")]


async def test_a_server_that_forgets_between_being_told_and_the_note_of_it_is_not_believed(
    stores: tuple[Store, Store], raw: Raw, server: servers.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both processes told the cache of a change, one noted how far; the server loses that, and then the other notes it too."""
    one, other = stores
    mine, theirs = await in_use(one), await in_use(other)
    await one.put(Plain(id="a", number=1))
    assert [1, 1, 1] == [await number_of(each, "a") for each in (mine, theirs, mine)]
    await noted(one, mine, theirs)
    note = theirs._shelf._in_step.reached
    entered, forgotten = asyncio.Event(), asyncio.Event()

    async def later(position: int) -> None:
        entered.set()
        await forgotten.wait()
        await note(position)

    old = await raw.everything()
    monkeypatch.setattr(theirs._shelf._in_step, "reached", later)
    await one.put(Plain(id="a", number=2))
    await one.core.follower.caught_up(20)  # type: ignore[union-attr]
    await entered.wait()
    server.kill_9()
    server.start()
    await raw.everything()  # over a connection of now
    await raw.put(old)
    forgotten.set()
    assert [2, 2] == [await number_of(mine, "a"), await number_of(theirs, "a")]
    await until(lambda: believed(mine))
    await until(lambda: believed(theirs))
    assert [2, 2] == [await number_of(mine, "a"), await number_of(theirs, "a")]


async def test_emptied_it_is_cold_and_filled_again(stores: tuple[Store, Store], raw: Raw) -> None:
    one, _ = stores
    mine = await in_use(one)
    await one.put(Plain(id="a", number=1))
    for _ in range(3):
        await raw.empty()
        assert 1 == await number_of(mine, "a")
        await until(lambda: believed(mine))


@pytest.mark.parametrize("poison", [b"", b"v", b"garbage", b"v0000000000000009+{}", b"v%016d+null" % HIGHEST_REVISION, "another"])
async def test_what_somebody_else_put_there_is_never_an_answer(stores: tuple[Store, Store], raw: Raw, poison: bytes | str) -> None:
    one, _ = stores
    mine = await in_use(one)
    for number in range(5):
        await one.put(Plain(id=f"p{number}", number=number))
        assert number == await number_of(mine, f"p{number}")
    stored = await raw.everything()
    records = {name: value for name, value in stored.items() if b"@" not in name}
    assert len(records) >= 5
    if poison == "another":
        shifted = [*list(records.values())[1:], next(iter(records.values()))]
        await raw.put(dict(zip(records, shifted, strict=True)))
    else:
        assert isinstance(poison, bytes)
        await raw.put(dict.fromkeys(records, poison))
    assert list(range(5)) == [await number_of(mine, f"p{number}") for number in range(5)]
    assert list(range(5)) == [found.number if found else None for found in await mine.get_many([Plain.at(f"p{n}") for n in range(5)])]


@pytest.mark.parametrize("poison", [b"", b"garbage", b"v0000000000000009other", b"v%016d" % HIGHEST_REVISION + b"other"])
async def test_a_poisoned_mark_is_replaced(stores: tuple[Store, Store], raw: Raw, poison: bytes) -> None:
    one, _ = stores
    mine = await in_use(one)
    await one.put(Plain(id="a", number=1))
    assert 1 == await number_of(mine, "a")
    marks = [name for name in await raw.everything() if b"@" in name]
    assert 1 == len(marks)
    await raw.put(dict.fromkeys(marks, poison))
    assert 1 == await number_of(mine, "a")
    await one.put(Plain(id="a", number=2))
    assert 2 == await number_of(mine, "a")
    await until(lambda: believed(mine))
    assert 2 == await number_of(mine, "a")


async def test_killed_again_and_again_no_answer_is_wrong(address: str, server: servers.Redis) -> None:
    """What a process wrote it reads at once, whatever Redis does; what others wrote it reads soon."""
    stop = asyncio.Event()

    async def killing() -> None:
        chance = random.Random(5)
        while not stop.is_set():
            await asyncio.sleep(chance.random() * 0.2)
            server.kill_9()
            await asyncio.sleep(chance.random() * 0.2)
            await asyncio.to_thread(server.start)

    async with palaver.open(address, schema=PEOPLE, migrate=True, maintain=False):
        killer = asyncio.create_task(killing())
        histories = await asyncio.gather(*(play(address, me, 3, f"store {me}", rounds=250, seed=3) for me in range(3)))
        stop.set()
        await killer
    events = [event for history in histories for event in history]
    assert len([event for event in events if event.kind == "read"]) > 2_000
    assert [] == wrong(events, shared=False, soon_s=3.0)


async def test_erasing_says_when_a_cache_that_is_away_cannot_forget(stores: tuple[Store, Store], server: servers.Redis) -> None:
    one, _ = stores
    users = EntityCache(one, User)
    await one.put(User(user_id="ann", name="Ann"))
    await users.get(User.at("ann"))
    await users.ready()
    assert await users.get(User.at("ann")) is not None
    server.kill_9()
    with pytest.raises(SettleTimeout):
        await erase(one, "ann", timeout=1.0)
    assert await users.get(User.at("ann")) is None
    server.start()
    await erase(one, "ann", timeout=20.0)
    assert await users.get(User.at("ann")) is None


async def test_cold_or_dead_it_lets_nobody_overrun_the_records(tmp_path: Path, server: servers.Redis) -> None:
    url = with_cache(fresh("postgresql", tmp_path), server.url + OPTIONS)
    async with palaver.open(url, schema=PEOPLE, migrate=True, maintain=False) as store:
        await store.bulk([Plain(id=f"p{number}", number=number) for number in range(50)])
        plain = EntityCache(store, Plain, at_most=8)
        await plain.get(Plain.at("x"))
        await asyncio.wait_for(plain.ready(), 20)
        statements, at_once, most = [0], [0], [0]
        read = store.core.records.get

        async def get(at: Any, **options: Any) -> Any:
            if at[0].table != "plain":
                return await read(at, **options)
            statements[0] += 1
            at_once[0] += len(at)
            most[0] = max(most[0], at_once[0])
            try:
                return await read(at, **options)
            finally:
                at_once[0] -= len(at)

        store.core.records.get = get  # type: ignore[method-assign]
        expected = [number % 50 for number in range(2_000)]

        async def everybody() -> list[int | None]:
            return list(await asyncio.gather(*(number_of(plain, f"p{number % 50}") for number in range(2_000))))

        assert expected == await everybody()
        cold = statements[0]
        assert cold <= 50
        assert most[0] <= 8
        assert expected == await everybody()
        assert cold == statements[0]
        server.kill_9()
        assert expected == await everybody()
        dead = statements[0] - cold
        assert dead <= 100
        assert most[0] <= 8
        server.start()
        await until(lambda: believed(plain))
        assert expected == await everybody()
        before = statements[0]
        assert expected == await everybody()
        assert before == statements[0]


async def test_databases_that_share_a_cache_do_not_share_records(tmp_path: Path, server: servers.Redis) -> None:
    numbers = (1, 2)
    async with AsyncExitStack() as stack:
        caches = []
        for number in numbers:
            url = with_cache(f"sqlite:///{tmp_path}/{number}.db?sync=normal", server.url + OPTIONS)
            store = await stack.enter_async_context(palaver.open(url, schema=PEOPLE, maintain=False))
            await store.put(Plain(id="a", number=number))
            caches.append(await in_use(store))
        for _ in range(3):
            assert list(numbers) == [await number_of(cache, "a") for cache in caches]


class Thing(Entity, table="things"):
    id: str
    key = Key("id")


class Newer:
    """The same entity in the next version of the program."""

    class Thing(Entity, table="things"):
        id: str
        color: str = ""
        key = Key("id")


async def test_an_older_program_keeps_nothing_that_a_newer_one_would_read(tmp_path: Path, server: servers.Redis) -> None:
    """It reads records without the fields it does not know."""
    url = with_cache(fresh("sqlite", tmp_path), server.url + OPTIONS)
    async with (
        palaver.open(url, schema=Schema("things", [Thing]), migrate=True, maintain=False) as older,
        palaver.open(url, schema=Schema("things", [Newer.Thing], version=2), migrate=True, maintain=False) as newer,
    ):
        await newer.put(Newer.Thing(id="a", color="red"))
        olds, news = EntityCache(older, Thing), EntityCache(newer, Newer.Thing)
        for _ in range(3):
            assert await olds.get(Thing.at("a")) is not None
            found = await news.get(Newer.Thing.at("a"))
            assert found is not None
            assert "red" == found.color
            await olds.ready()
            await news.ready()
