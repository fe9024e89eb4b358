"""Entities with `History` keep an image of each write, in a table of their own."""

from __future__ import annotations

from typing import Annotated, Any

import pytest

from palaver import Entity, History, Index, Key, ManualClock, Schema, Store, Subject, days
from palaver.errors import Duplicate, KeyTooLong
from palaver.ops import Read
from tests.store.conftest import Opener
from tests.store.world import START, User


async def images(store: Store) -> list[dict[str, Any]]:
    return [dict(record) for record in (await store.core.records.scan("users-history", after=None, limit=100)).records]


async def test_every_write_leaves_an_image(store: Store) -> None:
    user = await store.create(User(id="u", email="a"))
    await store.patch(user, set={"plan": "paid"})
    await store.put(User(id="u", email="b"))
    await store.delete(user)

    kept = await images(store)

    assert ["created", "updated", "updated", "deleted"] == [image["kind"] for image in kept]
    assert ["a", "a", "b"] == [image["image"]["email"] for image in kept[:3]]
    assert "paid" == kept[1]["image"]["plan"]
    assert "image" not in kept[3]


async def test_an_image_has_the_revision_of_its_record(store: Store) -> None:
    user = await store.create(User(id="u", email="a"))
    after = await store.patch(user, set={"plan": "paid"})

    assert [user.revision, after.revision] == [image["revision"] for image in await images(store)]


async def test_a_refused_write_leaves_no_image(store: Store) -> None:
    await store.create(User(id="u", email="a"))
    with pytest.raises(Duplicate):
        await store.create(User(id="v", email="a"))

    assert 1 == len(await images(store))


async def test_images_go_after_their_time(store: Store, clock: ManualClock) -> None:
    await store.create(User(id="u", email="a"))
    clock.advance(days(20))
    await store.put(User(id="u", email="b"))
    clock.advance(days(16))

    await store.sweep()

    assert ["b"] == [image["image"]["email"] for image in await images(store)]


async def test_expiry_leaves_an_image(store: Store, clock: ManualClock) -> None:
    await store.create(User(id="u", email="a", expires=START + days(1)))
    clock.advance(days(2))

    swept = await store.sweep()

    assert {"User": 1} == {name: count for name, count in swept.expired.items() if name == "User"}
    assert ["created", "expired"] == [image["kind"] for image in await images(store)]


async def test_a_record_made_over_an_expired_one_is_created_not_updated(store: Store, clock: ManualClock) -> None:
    await store.create(User(id="u", email="a", expires=START + days(1)))
    clock.advance(days(2))
    await store.put(User(id="u", email="a"))

    assert ["created", "created"] == [image["kind"] for image in await images(store)]


class Log(Entity, table="logs"):
    id: str
    part: str
    who: Annotated[int, Subject()] = 1
    key = Key("id", sort="part")
    by_who = Index("who")
    history = History(days(35))


async def test_images_are_found_by_whom_they_are_about_whatever_names_people(opened: Opener) -> None:
    store = await opened(Schema("logs", [Log]))
    log = await store.create(Log(id="i", part="p", who=7))
    await store.patch(log, set={"who": 8})
    table = "logs-history"

    for who, expected in ((7, 1), (8, 1), (9, 0)):
        assert expected == len((await store.core.records.query(Read(table, "by_subject", (who,)))).records)


async def test_a_key_too_long_for_images_is_refused_alike(opened: Opener) -> None:
    """The key of a record is one part of the key of its images."""
    store = await opened(Schema("logs", [Log]))
    longest = "k" * (2_048 - len("1:p") - len("2040:"))
    await store.create(Log(id=longest, part="p"))

    with pytest.raises(KeyTooLong, match="of which images are kept"):
        await store.create(Log(id=longest + "k", part="p"))
    assert await store.find(Log.at(longest + "k", "p")) is None
