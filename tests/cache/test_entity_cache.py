"""The entity cache on the four stacks with both engines: what it gives is what the records hold, and few of them are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest

import palaver
from palaver import Entity, Key, ManualClock, Schema, Secret, Store
from palaver.entity_cache import EntityCache
from palaver.errors import SchemaError, TenantMismatch, Unavailable, Validation
from palaver.lifecycle.erase import erase
from tests.cache.people import NOTES, PEOPLE, Device, Note, Plain, User, with_cache
from tests.engines.test_cache import url as redis_url

LARGE: dict[str, Any] = {"about": "x" * 5_000}


@pytest.fixture(params=["memory", "redis"])
def cached(request: pytest.FixtureRequest, url: str) -> str:
    """The URL of a stack with a cache."""
    return with_cache(url, "memory" if request.param == "memory" else redis_url())


@pytest.fixture
async def store(cached: str) -> AsyncIterator[Store]:
    async with palaver.open(cached, schema=PEOPLE, migrate=True, maintain=False) as store:
        yield store


@pytest.fixture
async def users(store: Store) -> EntityCache[User]:
    users = EntityCache(store, User)
    await users.get(User.at("nobody"))
    await users.ready()
    return users


async def test_what_is_asked_for_again_is_not_read_again(store: Store, users: EntityCache[User]) -> None:
    ann = await store.create(User(user_id="ann", email="ann@example.org", name="Ann", profile=LARGE))
    before = users.figures
    found = [await users.get(User.at("ann")) for _ in range(10)]
    assert [ann] * 10 == found
    assert {ann.revision} == {each.revision for each in found if each}
    after = users.figures
    assert (1, 9, 1) == (after.loads - before.loads, after.hits - before.hits, after.misses - before.misses)


async def test_what_this_process_wrote_is_read_at_once(store: Store, users: EntityCache[User]) -> None:
    at = User.at("ann")
    for number in range(10):
        assert await users.get(at) is None
        await store.create(User(user_id="ann", number=number))
        assert (await users.get(at) or User(user_id="")).number == number
        await store.patch(at, add={"number": 100})
        assert (await users.get(at) or User(user_id="")).number == 100 + number
        await store.put(User(user_id="ann", number=1_000))
        assert (await users.get(at) or User(user_id="")).number == 1_000
        await store.delete(at)
        assert await users.get(at) is None
        await store.sweep()
    plain = EntityCache(store, Plain)
    assert await plain.get(Plain.at("p")) is None
    for number in range(3):
        await store.bulk([Plain(id="p", number=number)])
        assert Plain(id="p", number=number) == await plain.get(Plain.at("p"))
        await store.delete(Plain.at("p"))
        assert await plain.get(Plain.at("p")) is None


async def test_what_another_process_wrote_is_read_soon(cached: str, store: Store, users: EntityCache[User]) -> None:
    if cached.startswith("memory"):
        pytest.skip("memory is of one process")
    at = User.at("ann")
    async with palaver.open(cached, schema=PEOPLE, maintain=False) as other:
        assert await users.get(at) is None
        await other.create(User(user_id="ann", name="1"))
        await until_it_is(users, "1")
        await other.patch(at, set={"name": "2"})
        await until_it_is(users, "2")
        await other.delete(at)
        await until_it_is(users, None)
        await other.sweep()
        await other.create(User(user_id="ann", name="3"))
        await until_it_is(users, "3")
        before = users.figures.loads
        assert [True] * 5 == [await users.get(at) is not None for _ in range(5)]
        # A fence that was set without knowing the revision may still keep it from being kept.
        assert users.figures.loads - before <= 10


async def until_it_is(users: EntityCache[User], name: str | None) -> None:
    for _ in range(1_000):
        found = await users.get(User.at("ann"))
        if (found.name if found else None) == name:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")


async def test_expired_deleted_and_marked_records_are_not_there(cached: str) -> None:
    clock = ManualClock()
    async with palaver.open(cached, schema=PEOPLE, migrate=True, maintain=False, clock=clock) as store:
        users = EntityCache(store, User)
        await users.get(User.at("x"))
        await users.ready()
        await store.create(User(user_id="ann", expires=clock.now() + timedelta(seconds=30)))
        assert [True, True] == [await users.get(User.at("ann")) is not None for _ in range(2)]
        clock.advance(timedelta(seconds=31))
        assert await users.get(User.at("ann")) is None
        await store.create(User(user_id="ben"))
        await store.create(Device(user_id="ben", device_id="1"))
        assert await users.get(User.at("ben")) is not None
        # Marked: its child goes first, with the sweep.
        await store.delete(User.at("ben"))
        assert await store.find(User.at("ben")) is None
        assert await users.get(User.at("ben")) is None
        assert await users.get(User.at("ben")) is None
        await store.sweep()
        assert await users.get(User.at("ben")) is None


async def test_large_values_come_back_whole(store: Store, users: EntityCache[User]) -> None:
    await store.create(User(user_id="ann", profile=LARGE))
    for _ in range(2):
        found = await users.get(User.at("ann"))
        assert found is not None
        assert LARGE == found.profile
    await store.patch(User.at("ann"), set={"profile": {"about": "y" * 5_000}})
    found = await users.get(User.at("ann"))
    assert found is not None
    assert {"about": "y" * 5_000} == found.profile


async def test_many_are_got_in_one_trip_and_what_is_missing_in_one_request(store: Store, users: EntityCache[User]) -> None:
    for number in range(20):
        await store.create(User(user_id=f"u{number}", number=number))
    requests: list[int] = []
    read = store.core.records.get

    async def get(at: Any, **options: Any) -> Any:
        # What watches the schema reads as well.
        if at[0].table == store.schema.of(User).table.name:
            requests.append(len(at))
        return await read(at, **options)

    store.core.records.get = get  # type: ignore[method-assign]
    wanted = [User.at(f"u{number}") for number in (3, 1, 99, 3, 0, *range(20))]
    expected = [3, 1, None, 3, 0, *range(20)]
    assert expected == [found.number if found else None for found in await users.get_many(wanted)]
    assert [21] == requests
    assert expected == [found.number if found else None for found in await users.get_many(wanted)]
    assert [21] == requests
    assert [] == await users.get_many([])
    store.core.records.get = read  # type: ignore[method-assign]


async def test_many_who_ask_at_once_cause_one_read(store: Store, users: EntityCache[User]) -> None:
    ann = await store.create(User(user_id="ann"))
    await store.core.follower.caught_up(20)  # type: ignore[union-attr]
    before = users.figures.loads
    assert [ann] * 300 == await asyncio.gather(*(users.get(User.at("ann")) for _ in range(300)))
    # What is heard of in the middle makes whoever comes later read again.
    assert 1 <= users.figures.loads - before <= 5


async def test_a_look_up_by_what_is_unique_is_kept_and_never_gives_another(store: Store, users: EntityCache[User]) -> None:
    by = User.by_email("a@example.org")
    assert await users.get(by) is None
    ann = await store.create(User(user_id="ann", email="a@example.org"))
    assert ann == await users.get(by)
    assert ann == await users.get(by)
    before = users.figures
    assert ann == await users.get(by)
    assert (before.loads, before.hits + 1) == (users.figures.loads, users.figures.hits)
    # She gives the address up, and somebody else takes it.
    ann = await store.patch(ann, set={"email": "ann@example.org"})
    assert await users.get(by) is None
    ben = await store.create(User(user_id="ben", email="a@example.org"))
    assert [ben, ben] == [await users.get(by), await users.get(by)]
    assert ann == await users.get(User.by_email("ann@example.org"))
    await store.delete(ben)
    assert await users.get(by) is None


async def test_who_is_erased_is_in_no_cache(cached: str, store: Store, users: EntityCache[User]) -> None:
    await store.create(User(user_id="ann", name="Ann Unforgettable"))
    await store.create(User(user_id="ben", name="Ben"))
    assert [True, True] == [found is not None for found in await users.get_many([User.at("ann"), User.at("ben")])]
    await erase(store, "ann")
    assert await users.get(User.at("ann")) is None
    assert not await kept(store, "Unforgettable")
    assert await users.get(User.at("ben")) is not None


async def kept(store: Store, text: str) -> bool:
    """Say whether a text lies anywhere in the values of users."""
    values: Any = store.core.cache.values("entity.User")
    if hasattr(values, "shelf"):
        return any(text.encode() in (entry[0][0] or b"") for entry in values.shelf._entries.values())
    client = values._client
    from palaver.connections.redis import encode

    names = await client.read(encode("KEYS", values._head + b"*"))
    found = [await client.read(encode("GET", bytes(name))) for name in names]
    assert not any(text.encode() in bytes(name) for name in names)
    return any(text.encode() in bytes(each or b"") for each in found)


async def test_keys_in_the_cache_name_nobody(store: Store, users: EntityCache[User]) -> None:
    await store.create(User(user_id="ann.unforgettable", email="ann@unforgettable.example"))
    await users.get(User.at("ann.unforgettable"))
    await users.get(User.by_email("ann@unforgettable.example"))
    values: Any = store.core.cache.values("entity.User")
    if hasattr(values, "shelf"):
        assert not [key for key in values.shelf._entries if "unforgettable" in key]
    else:
        assert await kept(store, "unforgettable")


class Vault(Entity, table="vaults"):
    id: str
    code: Annotated[str, Secret()]
    key = Key("id")


async def test_a_secret_lies_in_the_cache_as_it_lies_in_the_records(cached: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAVER_SEAL_KEYS", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE")
    async with palaver.open(cached, schema=Schema("vault", [Vault]), migrate=True, maintain=False) as store:
        vaults = EntityCache(store, Vault)
        await vaults.get(Vault.at("x"))
        await vaults.ready()
        stored = await store.create(Vault(id="x", code="open sesame"))
        for _ in range(2):
            found = await vaults.get(Vault.at("x"))
            assert found is not None
            assert (stored.code, "open sesame") == (found.code, found.code)
        values: Any = store.core.cache.values("entity.Vault")
        if hasattr(values, "shelf"):
            assert not any(b"sesame" in (entry[0][0] or b"") for entry in values.shelf._entries.values())


async def test_tenants_share_what_is_kept_and_see_their_own(cached: str) -> None:
    async with palaver.open(cached, schema=NOTES, migrate=True, maintain=False) as store:
        acme, zeta = store.for_tenant("acme"), store.for_tenant("zeta")
        await acme.put(Note(tenant="acme", id="1", text="acme's"))
        with pytest.raises(TenantMismatch):
            await EntityCache(store, Note).get(Note.at("1"))
        for _ in range(3):
            found = await EntityCache(acme, Note).get(Note.at("1"))
            assert found is not None
            assert "acme's" == found.text
            assert await EntityCache(zeta, Note).get(Note.at("1")) is None
            await EntityCache(acme, Note).ready()
        assert EntityCache(acme, Note).figures == EntityCache(zeta, Note).figures
        assert 1 == len(store.core.follower._subscriptions)  # type: ignore[union-attr]
        await zeta.put(Note(tenant="zeta", id="1", text="zeta's"))
        found = await EntityCache(zeta, Note).get(Note.at("1"))
        assert found is not None
        assert "zeta's" == found.text


async def test_what_is_no_such_record_is_refused(store: Store, users: EntityCache[User]) -> None:
    with pytest.raises(SchemaError):
        EntityCache(store, Note)
    with pytest.raises(Validation):
        EntityCache(store, User, ttl_s=0)
    with pytest.raises(Validation):
        await users.get(Plain.at("p"))  # type: ignore[arg-type]


async def test_an_error_of_the_records_is_the_callers(store: Store, users: EntityCache[User]) -> None:
    read = store.core.records.get

    async def get(at: Any, **options: Any) -> Any:
        raise Unavailable("The database is away.")

    store.core.records.get = get  # type: ignore[method-assign]
    found = await asyncio.gather(users.get(User.at("a")), users.get(User.at("b")), return_exceptions=True)
    assert [Unavailable] * 2 == list(map(type, found))
    store.core.records.get = read  # type: ignore[method-assign]
    assert await users.get(User.at("a")) is None


async def test_without_a_cache_the_records_answer_and_what_was_written_is_read(tmp_path: Path) -> None:
    async with palaver.open(f"sqlite:///{tmp_path}/a.db?sync=normal&cache=none", schema=PEOPLE, maintain=False) as store:
        users = EntityCache(store, User)
        await users.get(User.at("ann"))
        await users.ready()
        for number in range(20):
            await store.put(User(user_id="ann", number=number))
            found = await asyncio.gather(*(users.get(User.at("ann")) for _ in range(10)))
            assert [number] * 10 == [each.number for each in found if each]
        assert 0 == users.figures.hits
        assert users.figures.loads < 60
        assert users.figures.away >= 200


async def test_what_is_being_read_when_the_store_closes_does_no_harm(cached: str) -> None:
    async with palaver.open(cached, schema=PEOPLE, migrate=True, maintain=False) as store:
        users = EntityCache(store, User)
        asked = [asyncio.create_task(users.get(User.at(f"u{number}"))) for number in range(5)]
        await asyncio.sleep(0)
        for task in asked:
            task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("palaver")]
