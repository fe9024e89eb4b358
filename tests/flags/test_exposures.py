"""Exposures: each user once, nothing lost on closing, joined to what users said afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
from hypothesis import given, strategies as st

import palaver
from palaver.clock import ManualClock
from palaver.errors import PalaverError, Unavailable, Validation
from palaver.flags import Experiment, Flags, FlagSet, Rating, exposures as module
from palaver.flags.report import interval
from palaver.store import Store
from palaver.testing.faulty import Faults, Faulty
from tests.engines.redis_servers import until
from tests.flags.app import FLAGS, MODEL, SCHEMA, Exposure, FeatureFlag, Feedback

AWAY, BACK = Faults(unavailable=1.0), Faults()


async def users(flags: Flags) -> int:
    return sum(one.users for one in (await flags.report(MODEL)).variants)


async def stored(store: Store) -> dict[str, str]:
    return {one.user: one.variant async for one in store.query(Exposure.by_experiment(MODEL.name))}


async def test_each_user_is_exposed_once_with_the_first_time(store: Store, flags: Flags, clock: ManualClock) -> None:
    first = clock.now()
    seen = {f"u{n}": flags.expose(MODEL, user=f"u{n}", channel="web") for n in range(150)}
    await flags.flush()
    clock.advance(timedelta(days=1))
    async with Flags.open(store, FLAGS, FeatureFlag, exposures=Exposure) as other:
        again = {f"u{n}": other.expose("model_selection", user=f"u{n}") for n in range(160)}
    assert seen == {user: variant for user, variant in again.items() if user in seen}
    assert again == await stored(store)
    assert {first: 150, clock.now(): 10} == {
        at: len([1 async for one in store.query(Exposure.by_experiment(MODEL.name)) if one.exposed == at]) for at in (first, clock.now())
    }


async def test_only_what_the_hash_decided_is_an_exposure(store: Store, flags: Flags) -> None:
    await flags.set(MODEL, "variant_b", user="tester")
    assert "variant_b" == flags.expose(MODEL, user="tester")
    assert "variant_a" == flags.expose(MODEL)
    assert flags.variant(MODEL, user="looked at only") in MODEL.variants
    await flags.roll_out(MODEL, 0)
    assert "variant_a" == flags.expose(MODEL, user="outside")
    await flags.flush()
    assert {} == await stored(store)
    with pytest.raises(Validation):
        flags.expose("greeting", user="ann")


async def test_nothing_is_stored_for_an_assignment(store: Store, flags: Flags) -> None:
    before = (await store.core.records.changes(None, 0)).head
    assert {"variant_a", "variant_b"} == {flags.variant(MODEL, user=f"u{n}") for n in range(1_000)}
    assert before == (await store.core.records.changes(None, 0)).head


async def test_closing_stores_what_waits(store: Store) -> None:
    flags = await Flags.open(store, FLAGS, FeatureFlag, exposures=Exposure)
    for n in range(250):
        flags.expose(MODEL, user=f"u{n}")
    assert 250 == flags.health().exposures_waiting
    await flags.aclose()
    assert 250 == len(await stored(store))
    await flags.aclose()
    flags.expose(MODEL, user="too late")
    assert (0, 1) == (flags.health().exposures_waiting, flags.health().exposures_dropped)


async def test_the_background_stores_by_itself(store: Store, flags: Flags) -> None:
    flags.expose(MODEL, user="ann")
    for _ in range(500):
        await asyncio.sleep(0.01)
        if not flags.health().exposures_waiting:
            break
    assert ["ann"] == list(await stored(store))


async def test_any_thread_may_note_an_exposure(store: Store, flags: Flags) -> None:
    found = await asyncio.gather(*(asyncio.to_thread(flags.expose, MODEL, user=f"u{n % 20}") for n in range(60)))
    await asyncio.sleep(0)
    await flags.flush()
    assert {f"u{n}": found[n] for n in range(20)} == await stored(store)


# --- with the records away -------------------------------------------------------------------------------------------


@pytest.fixture
async def away() -> AsyncIterator[tuple[Store, Faulty]]:
    async with palaver.open("memory:", schema=SCHEMA) as opened:
        faulty = Faulty(opened.core.records, 1)
        opened.core.records = faulty
        yield Store(opened.core), faulty
        faulty.faults = BACK


async def test_what_could_not_be_stored_waits_and_is_stored_later(away: tuple[Store, Faulty], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.02)
    store, faulty = away
    async with Flags.open(store, FLAGS, FeatureFlag, exposures=Exposure) as flags:
        faulty.faults = AWAY
        for n in range(150):
            flags.expose(MODEL, user=f"u{n}")
        await until(lambda: asyncio.sleep(0, flags.health().exposures_error))
        health = flags.health()
        assert (150, 0, "unavailable") == (health.exposures_waiting, health.exposures_dropped, health.exposures_error)
        with pytest.raises(Unavailable):
            await flags.flush()
        faulty.faults = BACK
        await flags.flush()
        assert (0, "") == (flags.health().exposures_waiting, flags.health().exposures_error)
    assert 150 == len(await stored(store))


async def test_an_answer_that_was_lost_does_not_store_twice(away: tuple[Store, Faulty]) -> None:
    store, faulty = away
    async with Flags.open(store, FLAGS, FeatureFlag, exposures=Exposure) as flags:
        faulty.faults = Faults(outcome_unknown=0.3, unavailable=0.2, throttled=0.2)
        for n in range(100):
            flags.expose(MODEL, user=f"u{n}")
        for _ in range(200):
            try:
                await flags.flush()
                break
            except PalaverError:
                continue
        faulty.faults = BACK
    assert 100 == len(await stored(store))


async def test_closing_that_could_not_store_says_so(away: tuple[Store, Faulty]) -> None:
    store, faulty = away
    flags = await Flags.open(store, FLAGS, FeatureFlag, exposures=Exposure)
    flags.expose(MODEL, user="ann")
    faulty.faults = AWAY
    with pytest.raises(Unavailable):
        await flags.aclose()
    assert 1 == flags.health().exposures_waiting


async def test_what_waits_has_a_bound_and_what_is_over_it_is_counted(away: tuple[Store, Faulty], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 50)
    store, faulty = away
    async with Flags.open(store, FLAGS, FeatureFlag, exposures=Exposure) as flags:
        faulty.faults = AWAY
        for n in range(80):
            flags.expose(MODEL, user=f"u{n}")
        assert (50, 30) == (flags.health().exposures_waiting, flags.health().exposures_dropped)
        faulty.faults = BACK
        await flags.flush()
        for n in range(80):
            flags.expose(MODEL, user=f"u{n}")
    assert 80 == len(await stored(store))


async def test_a_user_no_record_can_hold_does_not_stop_the_others(away: tuple[Store, Faulty]) -> None:
    store, _ = away
    async with Flags.open(store, FLAGS, FeatureFlag, exposures=Exposure) as flags:
        for user in ("ann", "x" * 3_000, "\0", "ben"):
            flags.expose(MODEL, user=user)
        await flags.flush()
        assert 2 == flags.health().exposures_dropped
    assert {"ann", "ben"} == set(await stored(store))


# --- the report ------------------------------------------------------------------------------------------------------


async def test_the_report_joins_what_users_said_after_they_were_exposed(store: Store, flags: Flags, clock: ManualClock) -> None:
    names = [f"u{n}" for n in range(40)]
    early = [Feedback(feedback_id=f"e{name}", user_id=name, rating="down", given=clock.now()) for name in names]
    clock.advance(timedelta(hours=1))
    exposed = clock.now()
    variants = {name: flags.expose(MODEL, user=name) for name in names}
    clock.advance(timedelta(hours=1))
    # Of variant_a everybody is glad; of variant_b half say yes and no, and one of them says it a hundred times.
    later = [
        Feedback(feedback_id=f"{rating}-{name}-{k}", user_id=name, rating=rating, given=clock.now())
        for n, name in enumerate(names[:30])
        for rating in ("up", "down")
        if rating == "up" or variants[name] == "variant_b"
        for k in range(100 if n == 0 else 1)
    ]
    stranger = Feedback(feedback_id="s", user_id="stranger", rating="up", given=clock.now())
    await store.bulk([*early, *later, stranger])
    asked: list[datetime] = []

    async def ratings(since: datetime) -> AsyncIterator[Rating]:
        asked.append(since)
        for rating in ("up", "down"):
            async for one in store.query(Feedback.by_rating(rating)):
                yield Rating(one.user_id, rating == "up", one.given)

    report = await flags.report(MODEL, ratings)
    a, b = report.variants
    assert ([exposed], exposed) == (asked, report.since)
    assert ("variant_a", 50.0, sum(v == "variant_a" for v in variants.values())) == (a.variant, a.weight, a.users)
    assert 40 == a.users + b.users
    assert 30 == a.rated + b.rated
    assert (1.0, 0.5) == (a.positive, b.positive)
    assert a.low is not None
    assert b.low is not None
    assert b.high is not None
    assert a.low < 1.0
    assert 0 < b.low < 0.5 < b.high < 1
    narrow = await flags.report(MODEL, ratings, until=exposed)
    assert (40, 0) == (sum(one.users for one in narrow.variants), sum(one.rated for one in narrow.variants))
    nobody = await flags.report(MODEL, ratings, since=clock.now())
    assert [(0, 0, None, None, None)] * 2 == [(one.users, one.rated, one.positive, one.low, one.high) for one in nobody.variants]


async def test_a_variant_that_is_no_longer_declared_stays_in_the_report(store: Store, flags: Flags) -> None:
    for n in range(20):
        flags.expose(MODEL, user=f"u{n}")
    await flags.flush()
    now = FlagSet(Experiment("model_selection", variants={"variant_b": 60, "variant_c": 40}, default="variant_b"))
    async with Flags.open(store, now, FeatureFlag, exposures=Exposure) as later:
        found = (await later.report("model_selection")).variants
    assert ["variant_b", "variant_c", "variant_a"] == [one.variant for one in found]
    assert 0.0 == found[2].weight
    assert 20 == sum(one.users for one in found)


async def test_a_rating_outside_its_range_is_refused(flags: Flags) -> None:
    flags.expose(MODEL, user="ann")

    async def ratings(since: datetime) -> AsyncIterator[Rating]:
        yield Rating("ann", 5, since)

    with pytest.raises(Validation):
        await flags.report(MODEL, ratings)


@pytest.mark.parametrize(
    ("positive", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)]
)
def test_the_interval_is_wilsons(positive: float, n: int, low: float, high: float) -> None:
    found = interval(positive, n)
    assert found == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_interval_holds_the_share(n: int, share: float) -> None:
    low, high = interval(share * n, n)
    assert -1e-9 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1 + 1e-9
