"""No two live records hold the same values of a `Unique`; whoever has them is found by them at once."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from pydantic import Field

from palaver import Batch, Entity, Key, ManualClock, Schema, Store, Unique, days, unchanged
from palaver.errors import BatchShape, ConditionFailed, Duplicate, NotFound, TransactionCancelled
from palaver.ops import Refused, WriteSet, Written
from tests.store.conftest import Opener
from tests.store.world import START, User


async def test_a_record_is_found_by_its_unique_values(store: Store) -> None:
    user = await store.create(User(id="u", email="a", handle="h"))

    assert user == await store.get(User.by_email("a"))
    assert user == await store.get(User.by_handle("h", "free"))
    assert await store.find(User.by_handle("h", "paid")) is None
    with pytest.raises(NotFound):
        await store.get(User.by_email("b"))


async def test_taken_values_are_refused_by_every_verb(store: Store) -> None:
    await store.create(User(id="u", email="a"))
    other = await store.create(User(id="v", email="b"))

    for write in (
        store.create(User(id="w", email="a")),
        store.put(User(id="w", email="a")),
        store.put(User(id="v", email="a")),
        store.patch(other, set={"email": "a"}),
    ):
        with pytest.raises(Duplicate, match="same by_email"):
            await write
    assert "u" == (await store.get(User.by_email("a"))).id
    assert other == await store.get(User.by_email("b"))


async def test_a_change_frees_the_old_value_and_takes_the_new(store: Store) -> None:
    user = await store.create(User(id="u", email="a"))
    await store.patch(user, set={"email": "b"})

    await store.create(User(id="v", email="a"))
    assert ("u", "v") == ((await store.get(User.by_email("b"))).id, (await store.get(User.by_email("a"))).id)


async def test_replacing_a_record_keeps_or_moves_its_claim(store: Store) -> None:
    await store.put(User(id="u", email="a"))
    await store.put(User(id="u", email="a", plan="x"))
    await store.put(User(id="u", email="b"))

    await store.create(User(id="v", email="a"))
    assert "u" == (await store.get(User.by_email("b"))).id


async def test_deleting_frees_the_values(store: Store) -> None:
    await store.delete(await store.create(User(id="u", email="a")))

    assert await store.find(User.by_email("a")) is None
    await store.create(User(id="v", email="a"))


async def test_records_swap_their_values_in_one_batch(store: Store) -> None:
    a = await store.create(User(id="u", email="a", handle="x"))
    b = await store.create(User(id="v", email="b", handle="y"))

    await store.write(Batch().patch(a, set={"email": "b", "handle": "y"}).patch(b, set={"email": "a", "handle": "x"}))

    assert ["v", "u"] == [(await store.get(User.by_email(email))).id for email in "ab"]
    assert ["v", "u"] == [(await store.get(User.by_handle(handle, "free"))).id for handle in "xy"]
    for email in "ab":
        with pytest.raises(Duplicate):
            await store.create(User(id="w", email=email))


async def test_a_value_goes_round_three_records_in_one_batch(store: Store) -> None:
    users = [await store.create(User(id=id, email=id)) for id in "uvw"]

    batch = Batch()
    for user, email in zip(users, "vwu", strict=True):
        batch = batch.put(User(id=user.id, email=email), when=unchanged(user))
    await store.write(batch)

    assert ["w", "u", "v"] == [(await store.get(User.by_email(email))).id for email in "uvw"]


@pytest.mark.parametrize("taken_first", [False, True])
async def test_a_value_given_up_is_taken_in_the_same_batch(store: Store, taken_first: bool) -> None:
    a = await store.create(User(id="u", email="a"))
    gives, takes = Batch().delete(a), Batch().create(User(id="v", email="a"))

    await store.write(takes + gives if taken_first else gives + takes)

    assert "v" == (await store.get(User.by_email("a"))).id
    await store.delete(User.at("v"))
    await store.create(User(id="w", email="a"))


async def test_a_value_is_not_taken_twice_nor_from_who_keeps_it(store: Store) -> None:
    a = await store.create(User(id="u", email="a"))
    b = await store.create(User(id="v", email="b"))

    with pytest.raises(BatchShape, match="email"):
        await store.write(Batch().create(User(id="w", email="c")).create(User(id="x", email="c")))
    with pytest.raises(BatchShape, match="email"):
        await store.write(Batch().delete(a).create(User(id="w", email="a")).create(User(id="x", email="a")))
    with pytest.raises(TransactionCancelled) as refused:
        await store.write(Batch().patch(a, set={"email": "b"}).patch(b, set={"plan": "gold"}))
    assert isinstance(refused.value.reasons[0], Duplicate)
    assert ["u", "v"] == [(await store.get(User.by_email(email))).id for email in "ab"]


async def test_who_took_a_value_meanwhile_is_not_robbed_by_a_swap(store: Store) -> None:
    """Between what a swap saw and its commit the value goes to somebody else: it is planned anew, and refused."""
    a = await store.create(User(id="u", email="a"))
    b = await store.create(User(id="v", email="b"))
    write, raced = store.core.records.write, False

    async def overtaken(writes: WriteSet) -> Written | Refused:
        nonlocal raced
        if not raced:
            raced = True
            await store.patch(b, set={"email": "c"})
            await store.create(User(id="w", email="b"))
        return await write(writes)

    store.core.records.write = overtaken  # type: ignore[method-assign]
    with pytest.raises(TransactionCancelled) as refused:
        await store.write(Batch().patch(a, set={"email": "b"}).patch(b, set={"email": "a"}))

    assert isinstance(refused.value.reasons[0], Duplicate)
    assert ["u", "w", "v"] == [(await store.get(User.by_email(email))).id for email in "abc"]


async def test_of_two_tasks_with_one_name_one_wins(store: Store) -> None:
    results = await asyncio.gather(*(store.create(User(id=str(n), email="a")) for n in range(16)), return_exceptions=True)

    assert 1 == sum(isinstance(result, User) for result in results)
    assert 15 == sum(isinstance(result, Duplicate) for result in results)


async def test_an_expired_holder_gives_its_value_up_at_once(store: Store, clock: ManualClock) -> None:
    await store.create(User(id="u", email="a", expires=START + days(1)))
    with pytest.raises(Duplicate):
        await store.create(User(id="v", email="a"))
    clock.advance(days(1))

    await store.create(User(id="v", email="a"))

    assert "v" == (await store.get(User.by_email("a"))).id


async def test_sweeping_an_expired_holder_leaves_the_claim_of_the_next(store: Store, clock: ManualClock) -> None:
    await store.create(User(id="u", email="a", expires=START + days(1)))
    clock.advance(days(1))
    await store.create(User(id="v", email="a"))

    await store.sweep()

    assert "v" == (await store.get(User.by_email("a"))).id
    with pytest.raises(Duplicate):
        await store.create(User(id="w", email="a"))


async def test_writing_over_an_expired_holder_leaves_the_claim_of_the_next(store: Store, clock: ManualClock) -> None:
    await store.create(User(id="u", email="a", expires=START + days(1)))
    clock.advance(days(1))
    await store.create(User(id="v", email="a"))

    with pytest.raises(Duplicate):
        await store.put(User(id="u", email="a"))
    await store.put(User(id="u", email="b"))
    await store.delete(User.at("u"))

    assert "v" == (await store.get(User.by_email("a"))).id
    with pytest.raises(Duplicate):
        await store.create(User(id="w", email="a"))


async def test_a_stale_claim_finds_nobody(store: Store, clock: ManualClock) -> None:
    await store.create(User(id="u", email="a", expires=START + days(1)))
    clock.advance(days(1))
    await store.create(User(id="u", email="b"))

    assert await store.find(User.by_email("a")) is None
    assert "u" == (await store.get(User.by_email("b"))).id


async def test_a_claim_lives_as_long_as_its_record(store: Store, clock: ManualClock) -> None:
    user = await store.create(User(id="u", email="a", expires=START + days(1)))
    await store.patch(user, set={"expires": START + days(9)})
    clock.advance(days(5))
    with pytest.raises(Duplicate):
        await store.create(User(id="v", email="a"))
    await store.patch(user, remove=["expires"])
    clock.advance(days(50))

    with pytest.raises(Duplicate):
        await store.create(User(id="v", email="a"))
    assert "u" == (await store.get(User.by_email("a"))).id


async def test_a_partial_set_binds_only_while_its_condition_holds(store: Store) -> None:
    first = await store.create(User(id="u", email="a", handle="h", active=False))
    second = await store.create(User(id="v", email="b", handle="h"))

    with pytest.raises(Duplicate, match="by_handle"):
        await store.patch(first, set={"active": True})
    await store.patch(second, set={"active": False})
    await store.patch(first, set={"active": True})

    assert "u" == (await store.get(User.by_handle("h", "free"))).id


async def test_records_without_a_value_share_its_absence(store: Store) -> None:
    await store.create(User(id="u", email="a"))
    await store.create(User(id="v", email="b"))

    await store.patch(User.at("u"), set={"handle": "h"})
    await store.patch(User.at("u"), set={"handle": None})
    await store.patch(User.at("v"), set={"handle": "h"})


async def test_a_refused_claim_writes_nothing(store: Store) -> None:
    await store.create(User(id="u", email="a", handle="h"))

    with pytest.raises(Duplicate):
        await store.create(User(id="v", email="b", handle="h"))

    await store.create(User(id="w", email="b"))


async def test_a_patch_of_a_record_made_anew_meanwhile_is_not_lost(store: Store) -> None:
    async def flicker() -> None:
        for _ in range(20):
            await store.delete(User.at("u"))
            await store.put(User(id="u", email="a"))

    async def rename(n: int) -> bool:
        try:
            done = await store.patch(User.at("u"), set={"email": f"{n}"})
        except ConditionFailed:
            return True
        return done.email == f"{n}"

    results = await asyncio.gather(flicker(), *(rename(n) for n in range(20)), return_exceptions=True)

    assert False not in results


class Key2(Entity, table="key2"):
    a: int
    b: bytes
    c: str
    key = Key("a", sort="b")
    one = Unique("c", "b", "a")


async def test_unique_values_of_several_kinds_never_collide(opened: Opener) -> None:
    store = await opened(Schema("k", [Key2]))
    made = [Key2(a=a, b=b, c=c) for a in (1, 11) for b in (b"1", b"11") for c in ("1", "11")]

    for each in {(entity.a, entity.b): entity for entity in made}.values():
        await store.create(each)

    assert b"1" == (await store.get(Key2.one("11", b"1", 1))).b


class Offer(Entity, table="offers"):
    id: str
    price: Decimal
    on: bool = True
    place: dict[str, str] = Field(default_factory=dict)
    key = Key("id")
    by_price = Unique("price", "on")


async def test_values_that_are_encoded_to_be_compared_are_unique_like_any_other(opened: Opener) -> None:
    store = await opened(Schema("offers", [Offer]))
    await store.create(Offer(id="a", price=Decimal("1.50")))
    with pytest.raises(Duplicate):
        await store.create(Offer(id="b", price=Decimal("1.5")))
    await store.create(Offer(id="b", price=Decimal("1.5"), on=False))
    assert "a" == (await store.get(Offer.by_price(Decimal("1.5"), True))).id
    with pytest.raises(Duplicate):
        await store.patch(Offer.at("b"), set={"on": True})
    await store.patch(Offer.at("a"), set={"price": Decimal(2)})
    await store.patch(Offer.at("b"), set={"on": True})
    assert "b" == (await store.get(Offer.by_price(Decimal("1.5"), True))).id
