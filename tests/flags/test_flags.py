"""Flags on every stack: set, taken back, rolled out, looked at, told apart by tenants, forgotten with a person."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from palaver.cache.none import NoCache
from palaver.clock import ManualClock
from palaver.entity import Entity
from palaver.errors import ConfigError, SchemaError, TenantMismatch, Validation
from palaver.flags import Flags, FlagSet
from palaver.lifecycle.erase import erase
from palaver.store import Store
from tests.engines.redis_servers import until
from tests.flags.app import (
    FLAGS,
    GREETING,
    MCP,
    MODEL,
    MODELS,
    NEW_PROMPT,
    SLASH,
    TEMPERATURE,
    TENANTS,
    Exposure,
    FeatureFlag,
    Feedback,
    TenantExposure,
    TenantFlag,
)
from tests.flags.conftest import Opened


@pytest.fixture
async def other(store: Store) -> AsyncIterator[Flags]:
    """The flags of somebody else, who is told by nobody but the records."""
    async with Flags.open(store, FLAGS, FeatureFlag) as other:
        yield other


async def test_what_is_set_holds_here_at_once_and_elsewhere_soon(flags: Flags, other: Flags) -> None:
    assert not flags.value(SLASH, channel="discord")
    made = await flags.set(SLASH, True, channel="discord", by="ann", reason="asked for")
    assert (("channel", "discord"), True, "ann", "asked for") == ((made.scope, made.target), made.value, made.by, made.reason)
    assert [True, False, False] == [flags.value(SLASH, channel=one) for one in ("discord", "web", None)]
    await until(lambda: asyncio.sleep(0, other.value(SLASH, channel="discord")), 5)
    await other.unset("enable_slash_commands", channel="discord", by="ben")
    assert not other.value(SLASH, channel="discord")
    await until(lambda: asyncio.sleep(0, not flags.value(SLASH, channel="discord")), 5)
    assert "ok" == flags.health().status == other.health().status


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        (MCP, False),
        ("max_conversation_length", 2**53 - 1),
        (TEMPERATURE, 0.1),
        (TEMPERATURE, 3.0),
        (GREETING, "Grüß dich \N{GRINNING FACE}"),
        (GREETING, ""),
        (MODELS, {"answer": ["a", None, 0.5, {"b": True}], "": {}}),
        ("routes", []),
        (MODEL, "variant_b"),
    ],
)
async def test_a_value_comes_back_as_it_was_set(store: Store, flags: Flags, flag: Any, value: Any) -> None:
    await flags.set(flag, value)
    async with Flags.open(store, FLAGS, FeatureFlag) as fresh:
        found = fresh.evaluate(flag, user="ann")
    assert (value, type(value), "everybody") == (found.value, type(found.value), found.reason)


async def test_a_share_of_the_users_grows(flags: Flags) -> None:
    users = [f"user{number}" for number in range(2_000)]
    before: set[str] = set()
    for percent in (0, 0.5, 10, 50, 100):
        made = await flags.roll_out(NEW_PROMPT, percent, by="ann")
        assert (True, float(percent)) == (made.value, made.percent)
        now = {user for user in users if flags.value(NEW_PROMPT, user=user)}
        assert before <= now
        assert abs(len(now) / len(users) - percent / 100) < 0.03
        before = now
    await flags.set(NEW_PROMPT, False, user="user7")
    assert not flags.value(NEW_PROMPT, user="user7")
    await flags.end_roll_out(NEW_PROMPT)
    assert not any(flags.value(NEW_PROMPT, user=user) for user in users)
    assert not (await flags.roll_out(MCP, 100)).value
    assert "Hi" == (await flags.roll_out(GREETING, 100, value="Hi")).value
    assert "Hi" == flags.value(GREETING, user="anybody")


async def test_what_makes_no_sense_is_refused_and_changes_nothing(flags: Flags) -> None:
    for refused in (
        flags.set("enable_slash_comands", True),
        flags.set(SLASH, "yes"),
        flags.set(SLASH, True, usr="ann"),
        flags.set(SLASH, True, user="ann", channel="web"),
        flags.set(SLASH, True, user=""),
        flags.set(MODEL, "variant_c"),
        flags.roll_out(SLASH, 101),
        flags.roll_out(SLASH, 0.001),
        flags.roll_out(SLASH, True),
        flags.roll_out(SLASH, "10"),  # type: ignore[arg-type]
        flags.roll_out(SLASH, None),  # type: ignore[arg-type]
        flags.set(SLASH, True, user=True),
        flags.set(SLASH, True, user=["ann"]),  # type: ignore[arg-type]
        flags.roll_out(GREETING, 5),
        flags.roll_out(MODEL, 5, value="variant_a"),
        flags.unset("never_declared"),
        flags.end_roll_out("never_declared"),
    ):
        with pytest.raises(Validation):
            await refused
    for ask in (lambda: flags.value("enable_slash_comands"), lambda: flags.value(SLASH, usr="ann"), lambda: flags.variant("greeting")):
        with pytest.raises(Validation):
            ask()
    assert not any(state.settings for state in flags.all())


async def test_all_says_what_is_declared_and_what_is_set_by_whom_and_when(store: Store, flags: Flags, clock: ManualClock) -> None:
    first = clock.now()
    await flags.set(SLASH, True, by="ann", reason="launch")
    clock.advance(timedelta(minutes=1))
    ben = Flags.open(store.acting_as("ben"), FLAGS, FeatureFlag)
    async with ben as theirs:
        await theirs.set(SLASH, False, user="eve")
        await theirs.set(SLASH, True, channel="web", by="carl")
        await theirs.roll_out(SLASH, 12.34)
        states = {state.name: state for state in theirs.all()}
    assert sorted(FLAGS.flags) == sorted(states)
    assert [
        ("everybody", "*", True, None, "ann", "launch", first),
        ("rollout", "*", True, 12.34, "ben", "", clock.now()),
        ("channel", "web", True, None, "carl", "", clock.now()),
        ("user", "eve", False, None, "ben", "", clock.now()),
    ] == [
        (one.scope, one.target, one.value, one.percent, one.by, one.reason, one.changed) for one in states["enable_slash_commands"].settings
    ]
    model = states["model_selection"]
    assert ((("variant_a", 50.0), ("variant_b", 50.0)), "str", True, ()) == (model.variants, model.kind, model.declared, model.settings)


async def test_a_flag_that_is_no_longer_declared_is_shown_and_can_be_taken_back(store: Store, flags: Flags) -> None:
    await flags.set(GREETING, "Hi")
    async with Flags.open(store, FlagSet(MCP), FeatureFlag) as fewer:
        (old,) = [state for state in fewer.all() if not state.declared]
        assert ("greeting", ["Hi"]) == (old.name, [one.value for one in old.settings])
        assert ["undeclared"] == [problem.what for problem in fewer.health().problems]
        await fewer.unset("greeting")
        await flags.roll_out(GREETING, 5, value="Hey")
        await until(lambda: asyncio.sleep(0, len(fewer.all()) == 2), 5)
        await fewer.end_roll_out("greeting")
        assert ["enable_mcp_security"] == [state.name for state in fewer.all()]


async def test_history_says_who_changed_what_when_and_why(store: Store, flags: Flags, clock: ManualClock) -> None:
    await flags.set(SLASH, True, by="ann", reason="launch")
    clock.advance(timedelta(minutes=1))
    await flags.set(SLASH, True, channel="web", by="ben")
    clock.advance(timedelta(minutes=1))
    await flags.set(SLASH, False, by="carl", reason="too soon")
    clock.advance(timedelta(minutes=1))
    await flags.unset(SLASH, by="dora", reason="done")
    await flags.set(GREETING, "Hi")
    assert [
        ("everybody", None, "dora", "done"),
        ("everybody", False, "carl", "too soon"),
        ("channel", True, "ben", ""),
        ("everybody", True, "ann", "launch"),
    ] == [(one.scope, one.value, one.by, one.reason) for one in await flags.history(SLASH)]


async def test_the_history_of_a_flag_there_never_was_is_refused(store: Store, flags: Flags) -> None:
    assert [] == await flags.history(SLASH)
    with pytest.raises(Validation, match="Did you mean enable_slash_commands"):
        await flags.history("enable_slash_command")
    await flags.set(GREETING, "Hi", by="ann")
    async with Flags.open(store, FlagSet(SLASH), FeatureFlag) as fewer:
        assert ["ann"] == [one.by for one in await fewer.history("greeting")]


async def test_two_who_change_different_things_at_once_undo_nothing(store: Store, flags: Flags, other: Flags) -> None:
    sets = [one.set(SLASH, True, user=f"{name}{n}") for n in range(8) for name, one in (("a", flags), ("b", other))]
    await asyncio.gather(*sets)
    async with Flags.open(store, FLAGS, FeatureFlag) as fresh:
        assert all(fresh.value(SLASH, user=f"{name}{n}") for name in "ab" for n in range(8))


async def test_whoever_sets_whatever_at_once_all_end_alike(opened: Opened, stack: str, clock: ManualClock) -> None:
    """Three sets of flags, set at random and at once: soon after the last change all three serve what the records say."""
    rng = random.Random(7)
    stores = [await opened() for _ in range(1 if stack == "memory" else 3)] * (3 if stack == "memory" else 1)
    async with AsyncExitStack() as closing:
        several = [await closing.enter_async_context(Flags.open(store, FLAGS, FeatureFlag)) for store in stores]

        async def changes(flags: Flags, seed: int) -> None:
            mine = random.Random(seed)
            for _ in range(15):
                user = f"u{mine.randrange(4)}"
                match mine.randrange(4):
                    case 0:
                        await flags.unset(SLASH, user=user)
                    case 1:
                        await flags.roll_out(NEW_PROMPT, mine.randrange(100))
                    case 2:
                        await flags.set(GREETING, f"{seed}{mine.random()}", user=user)
                    case _:
                        await flags.set(SLASH, mine.random() < 0.5, user=user)
                await asyncio.sleep(mine.random() * 0.01)

        await asyncio.gather(*(changes(flags, rng.randrange(1_000)) for flags in several))

        async def alike() -> bool:
            async with Flags.open(stores[0], FLAGS, FeatureFlag, cache=NoCache()) as truth:
                return all(flags.all() == truth.all() for flags in several)

        await until(alike, 5)


async def test_more_settings_than_fit_on_a_page_are_all_there(store: Store, flags: Flags) -> None:
    records: list[Entity] = [
        FeatureFlag(namespace="flags", flag="enable_slash_commands", scope="user", target=f"u{n:03}", value=True, user=f"u{n:03}")
        for n in range(250)
    ]
    await store.bulk(records)
    await flags.set(GREETING, "Hi")
    async with Flags.open(store, FLAGS, FeatureFlag) as fresh:
        assert all(fresh.value(SLASH, user=f"u{n:03}") for n in range(250))
        assert "Hi" == fresh.value(GREETING)


async def test_two_sets_of_flags_do_not_meet(store: Store, flags: Flags) -> None:
    await flags.set(SLASH, True)
    async with Flags.open(store, FlagSet(SLASH, name="worker"), FeatureFlag) as worker:
        assert not worker.value(SLASH)
        await worker.set(SLASH, False)
    assert flags.value(SLASH)


async def test_each_tenant_has_flags_of_its_own(opened: Opened) -> None:
    store: Store = await opened(TENANTS)
    with pytest.raises(TenantMismatch):
        async with Flags.open(store, FLAGS, TenantFlag):
            pass
    one, two = (Flags.open(store.for_tenant(org), FLAGS, TenantFlag, exposures=TenantExposure) for org in ("acme", "beta"))
    async with one as acme, two as beta:
        await acme.set(SLASH, True, user="ann", by="eve")
        await acme.set(GREETING, "Hi")
        await beta.set(GREETING, "Howdy")
        await asyncio.sleep(0.1)
        assert [True, False] == [each.value(SLASH, user="ann") for each in (acme, beta)]
        assert ["Hi", "Howdy"] == [each.value(GREETING) for each in (acme, beta)]
        assert [1, 0] == [len(await each.history(SLASH)) for each in (acme, beta)]
        acme.expose(MODEL, user="ann")
        assert [1, 0] == [sum(one.users for one in (await each.report(MODEL)).variants) for each in (acme, beta)]
    async with Flags.open(store.for_tenant("acme"), FLAGS, TenantFlag) as again:
        assert again.value(SLASH, user="ann")


async def test_erasing_a_person_takes_what_was_set_for_them_along(store: Store, flags: Flags) -> None:
    await flags.set(SLASH, True, user="ann")
    await flags.set(SLASH, True, user="ben")
    flags.expose(MODEL, user="ann")
    flags.expose(MODEL, user="ben")
    await flags.flush()
    erased = await erase(store, "ann", dry_run=False)
    assert (1, 1, 1) == (erased.deleted["FeatureFlag"], erased.deleted["Exposure"], erased.images["FeatureFlag"])
    await until(lambda: asyncio.sleep(0, not flags.value(SLASH, user="ann")), 8)
    assert flags.value(SLASH, user="ben")
    assert 1 == sum(one.users for one in (await flags.report(MODEL)).variants)
    assert {"ben"} == {one.target for one in await flags.history(SLASH)}


async def test_what_is_written_around_us_is_seen_as_well(store: Store, flags: Flags) -> None:
    await store.put(FeatureFlag(namespace="flags", flag="greeting", scope="everybody", target="*", value="Hi"))
    await until(lambda: asyncio.sleep(0, "Hi" == flags.value(GREETING)), 8)


async def test_an_entity_that_is_no_flag_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError):
        Flags.open(store, FLAGS, Feedback)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        Flags.open(store, FLAGS, FeatureFlag, exposures=Feedback)  # type: ignore[arg-type]
    with pytest.raises(SchemaError):
        Flags.open(store, FLAGS, TenantFlag)
    async with Flags.open(store, FLAGS, FeatureFlag) as flags:
        with pytest.raises(ConfigError):
            flags.expose(MODEL, user="ann")
        with pytest.raises(ConfigError):
            await flags.report(MODEL)


async def test_watchers_are_told_which_flags_changed(store: Store, flags: Flags) -> None:
    told: list[tuple[frozenset[str], bool]] = []
    end = flags.watch(lambda names, ok: told.append((names, ok)))
    await flags.set(SLASH, True)
    await flags.set(GREETING, "Hi", user="ann")
    assert [(frozenset({"enable_slash_commands"}), True), (frozenset({"greeting"}), True)] == told
    end()
    end()
    await flags.set(SLASH, False)
    assert 2 == len(told)


def test_the_parts_of_a_schema_are_found_by_their_subjects() -> None:
    assert all(entity.declared().subject is not None for entity in (FeatureFlag, Exposure))
