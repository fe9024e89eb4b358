"""Large values lie in objects of their own, and go when nothing refers to them any more."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated, Any

import pytest
from pydantic import JsonValue

from palaver import Batch, Blob, Entity, Expires, Expiry, F, Key, ManualClock, Schema, Store, Subject, days
from palaver.errors import (
    AlreadyExists,
    ConditionFailed,
    Conflict,
    Corruption,
    ItemTooLarge,
    PalaverError,
    TransactionCancelled,
    Unavailable,
    Validation,
)
from tests.store.conftest import Opener
from tests.store.world import START, Conversation, Message, big, conversation, message


async def objects(store: Store) -> list[str]:
    return [info.key async for info in store.core.blobs.list()]


async def cleared(store: Store) -> list[str]:
    """Let everything that was released go, and return what is left."""
    for _ in range(2):
        # What a sweep removes releases objects, which the next one removes.
        await store.settle()
        await store.sweep()
    return await objects(store)


@pytest.fixture
async def parent(store: Store) -> Conversation:
    return await store.create(conversation())


async def test_a_value_over_the_threshold_lies_in_an_object(store: Store, parent: Conversation) -> None:
    small: dict[str, JsonValue] = {"a": "x" * 50}
    await store.create(message(1, context=small))
    assert [] == await objects(store)
    large = await store.create(message(2, context=big()))

    (key,) = await objects(store)
    assert key.startswith("-/u/c/2/context.json/")
    assert small == (await store.get(Message.at("c", "1"))).context
    assert large == await store.get(Message.at("c", "2"))
    assert [small, big()] == [each.context async for each in store.query(Message.key("c"))]
    assert [small, big()] == [each.context for each in await store.page(Message.by_user("u"))]


async def test_every_verb_answers_with_the_value(store: Store, parent: Conversation) -> None:
    made = await store.create(message(context=big()))
    assert big() == made.context
    assert big() == (await store.patch(made, set={"text": "x"})).context
    assert big("y") == (await store.patch(made, set={"context": big("y")})).context
    assert big("z") == (await store.put(message(context=big("z")))).context
    assert (await store.patch(made, set={"context": None})).context is None


async def test_what_an_error_found_is_whole(store: Store, parent: Conversation) -> None:
    made = await store.create(message(context=big()))

    with pytest.raises(AlreadyExists) as taken:
        await store.create(message())
    with pytest.raises(ConditionFailed) as failed:
        await store.patch(made, set={"text": "x"}, when=F("text") == "y")
    with pytest.raises(TransactionCancelled) as cancelled:
        await store.write(Batch().create(message()).create(conversation("d")))

    reason = cancelled.value.reasons[0]
    assert isinstance(reason, AlreadyExists)
    assert made == taken.value.found == failed.value.found == reason.found


async def test_a_released_object_goes_and_a_referred_one_stays(store: Store, parent: Conversation) -> None:
    first = await store.create(message(1, context=big("a")))
    await store.create(message(2, context=big("b")))
    await store.patch(first, set={"context": big("c")})
    assert 3 == len(await objects(store))

    assert 2 == len(await cleared(store))
    await store.put(message(1))
    assert 1 == len(await cleared(store))
    await store.delete(Message.at("c", "2"))
    assert [] == await cleared(store)
    assert {"cascade": 0, "blob": 0} == (await store.health())["waiting"]


async def test_the_same_value_put_again_keeps_its_object(store: Store, parent: Conversation) -> None:
    made = await store.create(message(context=big("a")))
    await store.put(message(context=big("a")))
    assert 1 == len(await cleared(store))
    await store.patch(made, set={"context": big("b")})
    await store.patch(made, set={"context": big("a")})

    assert 1 == len(await cleared(store))
    assert big("a") == (await store.get(made.address)).context


async def test_an_object_is_not_removed_under_a_write_that_refers_to_it_again(store: Store, parent: Conversation) -> None:
    made = await store.create(message(context=big("a")))
    await store.patch(made, set={"context": big("b")})
    await store.settle()
    blobs = store.core.blobs
    delete = blobs.delete

    async def late(keys: Any) -> None:
        with pytest.raises(Conflict):
            await store.patch(made, set={"context": big("a")})
        await delete(keys)

    blobs.delete = late  # type: ignore[method-assign]
    await store.sweep()
    blobs.delete = delete  # type: ignore[method-assign]

    await store.patch(made, set={"context": big("a")})
    await cleared(store)
    assert big("a") == (await store.get(made.address)).context


async def test_an_object_released_once_more_while_it_is_removed_stays_closed_to_writes(store: Store, parent: Conversation) -> None:
    made = await store.create(message(context=big("a")))
    await store.patch(made, set={"context": big("b")})
    await store.settle()
    await store.patch(made, set={"context": big("a")})
    await store.patch(made, set={"context": big("b")})
    blobs = store.core.blobs
    delete = blobs.delete

    async def late(keys: Any) -> None:
        await store.settle()
        with pytest.raises(Conflict):
            await store.patch(made, set={"context": big("a")})
        await delete(keys)

    blobs.delete = late  # type: ignore[method-assign]
    await store.sweep()
    blobs.delete = delete  # type: ignore[method-assign]

    await store.patch(made, set={"context": big("a")})
    assert 1 == len(await cleared(store))
    assert big("a") == (await store.get(made.address)).context


async def test_who_held_released_objects_too_long_removes_none_another_may_have(
    store: Store, parent: Conversation, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await store.create(message(context=big("a")))
    await store.patch(made, set={"context": big("b")})
    await store.settle()
    get, slept = type(store.core.records).get, list[str]()

    async def slow(self: Any, addresses: Any) -> Any:
        found = await get(self, addresses)
        if not slept and any(at.table == store.schema.of(Message).table.name for at in addresses):
            slept.append("")
            clock.advance(timedelta(seconds=61))
            assert 1 == await store.core_upkeep().collect()
            await store.patch(made, set={"context": big("a")})
        return found

    with monkeypatch.context() as patched:
        patched.setattr(type(store.core.records), "get", slow)
        assert 0 == await store.core_upkeep().collect()

    assert slept
    assert big("a") == (await store.get(made.address)).context
    assert 1 == len(await cleared(store))


async def test_released_objects_are_held_from_when_their_turn_comes(
    store: Store, parent: Conversation, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long those before them took."""
    for number in range(2):
        await store.create(message(number, context=big()))
        await store.put(message(number))
    await store.settle()
    blobs = store.core.blobs
    delete, seen = blobs.delete, list[int]()

    async def slow(keys: Any) -> None:
        if len(seen) < 3:
            seen.append(len(keys))
            seen.append(await store.core_upkeep().collect() if len(seen) > 1 else 0)
            clock.advance(timedelta(seconds=61))
        await delete(keys)

    monkeypatch.setattr("palaver.upkeep.BATCH", 1)
    blobs.delete = slow  # type: ignore[method-assign]
    await store.core_upkeep().collect()
    assert [1, 0, 1, 0] == seen
    blobs.delete = delete  # type: ignore[method-assign]
    assert [] == await cleared(store)


async def test_a_removal_that_fails_lets_go_of_its_own_only(store: Store, parent: Conversation, clock: ManualClock) -> None:
    await store.create(message(context=big()))
    await store.put(message())
    await store.settle()
    blobs = store.core.blobs
    delete = blobs.delete

    async def fails(keys: Any) -> None:
        blobs.delete = delete  # type: ignore[method-assign]
        clock.advance(timedelta(seconds=61))
        assert 1 == await store.core_upkeep().collect()
        raise Unavailable("The objects are away.")

    blobs.delete = fails  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await store.core_upkeep().collect()
    assert {"cascade": 0, "blob": 0} == (await store.health())["waiting"]


async def test_an_object_removed_between_its_upload_and_the_commit_is_uploaded_again(store: Store, parent: Conversation) -> None:
    made = await store.create(message(context=big("a")))
    await store.patch(made, set={"context": big("b")})
    blobs = store.core.blobs
    put = blobs.put
    calls: list[str] = []

    async def late(key: str, data: bytes) -> None:
        await put(key, data)
        calls.append(key)
        if len(calls) == 1:
            # The release is seen, and the object goes, after the write looked whether anybody was at it.
            await store.settle()
            await store.sweep()

    blobs.put = late  # type: ignore[method-assign]
    await store.patch(made, set={"context": big("a")})
    blobs.put = put  # type: ignore[method-assign]

    assert 2 == len(calls)
    assert big("a") == (await store.get(made.address)).context


async def test_writes_and_collection_at_once_never_lose_an_object(store: Store, parent: Conversation) -> None:
    made = await store.create(message(context=big("a")))

    async def flicker() -> None:
        for n in range(30):
            await patched(big("ab"[n % 2]))

    async def patched(context: Any) -> None:
        while True:
            try:
                await store.patch(made, set={"context": context})
            except Conflict:
                # The other came in between each time; the caller is told to try again.
                continue
            return

    async def collect() -> None:
        for _ in range(30):
            await store.settle()
            await store.sweep()

    await asyncio.gather(flicker(), collect())

    assert big("b") == (await store.get(made.address)).context
    assert 1 == len(await cleared(store))


async def test_a_cascade_takes_objects_along(store: Store, parent: Conversation) -> None:
    await store.create(message(1, context=big("a")))
    await store.create(message(2, context=big("b")))
    await store.delete(parent)
    await store.sweep()

    assert [] == await cleared(store)


async def test_an_object_that_is_missing_is_corruption(store: Store, parent: Conversation) -> None:
    made = await store.create(message(context=big()))
    await store.core.blobs.delete(await objects(store))

    with pytest.raises(Corruption, match="An object that a Message refers to is missing"):
        await store.get(made.address)
    with pytest.raises(Corruption):
        await store.page(Message.key("c"))


async def test_a_refused_write_harms_no_object_in_use(store: Store, parent: Conversation) -> None:
    made = await store.create(message(context=big("a")))
    with pytest.raises(AlreadyExists):
        await store.create(message(context=big("a")))

    await cleared(store)
    assert made == await store.get(made.address)


async def test_the_objects_of_a_refused_write_go(store: Store, parent: Conversation) -> None:
    """Who was erased while a step of theirs was under way has left nothing, whatever that step uploaded."""
    await store.create(message(1, context=big("kept")))
    with pytest.raises(AlreadyExists):
        await store.create(message(1, context=big("refused")))
    with pytest.raises(AlreadyExists):
        await store.create(message(1, context=big("kept")))
    await store.delete(parent)
    with pytest.raises(PalaverError):
        await store.create(message(2, context=big("late")))
    assert 3 == len(await objects(store))
    await store.core_upkeep().collect()
    assert 1 == len(await objects(store))
    assert [] == await cleared(store)


async def test_a_value_larger_than_any_record_is_created_and_patched(store: Store, parent: Conversation) -> None:
    huge = big("x", 600_000)
    made = await store.create(message(context=huge))
    patched = await store.patch(made, set={"context": big("y", 600_000)})

    assert big("y", 600_000) == patched.context == (await store.get(made.address)).context
    with pytest.raises(ItemTooLarge):
        await store.patch(made, set={"text": "x" * 409_600})


async def test_a_blob_is_only_set_whole(store: Store, parent: Conversation) -> None:
    made = await store.create(message(context=big()))

    for wrong in ({"context": 5}, {"context": F("text")}, {"context": F("context").if_absent({})}, {"text": F("context")}):
        with pytest.raises(Validation):
            await store.patch(made, set=wrong)
    assert made == await store.get(made.address)


class Report(Entity, table="reports"):
    person: Annotated[str, Subject()]
    id: str
    file: Annotated[bytes | None, Blob("{id}/file", inline=0, keep=days(30))] = None
    extra: Annotated[dict[str, JsonValue] | None, Blob("{id}/extra", inline=0)] = None
    expires: Annotated[Expiry | None, Expires()] = None
    key = Key("person", sort="id")


async def test_an_object_may_outlive_its_expired_record_and_not_its_deleted_one(opened: Opener, clock: ManualClock) -> None:
    store = await opened(Schema("reports", [Report]))
    for id, ends in (("expires", START + days(7)), ("deleted", None)):
        await store.create(Report(person="p", id=id, file=b"f", extra={"a": 1}, expires=ends))
    await store.delete(Report.at("p", "deleted"))
    assert 2 == len(await cleared(store))
    clock.advance(days(8))

    assert ["-/p/expires/file"] == [key.rsplit("/", 1)[0] for key in await cleared(store)]
    clock.advance(days(21))
    assert 1 == len(await cleared(store))
    clock.advance(days(1))
    assert [] == await cleared(store)


async def test_bytes_come_back_exactly(opened: Opener) -> None:
    store = await opened(Schema("reports", [Report]))
    content = bytes(range(256)) * 100
    await store.create(Report(person="p", id="1", file=content, extra={"$blob": "not a reference", "$n": "1"}))

    found = await store.get(Report.at("p", "1"))
    assert content == found.file
    assert {"$blob": "not a reference", "$n": "1"} == found.extra
