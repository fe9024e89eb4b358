"""Entities with `History` keep an image of each write, in a table of their own."""

from __future__ import annotations

from typing import Any

import pytest

from palaver import ManualClock, Store, days
from palaver.errors import Duplicate
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
