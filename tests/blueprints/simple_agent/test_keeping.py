"""Channels and their secrets, reports, changes of all users, erasure, purge and retention: what the design promises over time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.blueprints.simple_agent import PROJECTIONS, SCHEMA, Retention, Settings, SimpleAgent, patterns
from palaver.blueprints.simple_agent.reports import Forecast
from palaver.blueprints.simple_agent.schema import ENTITIES, ChannelCredentials, DataMigration, RateLimits, User
from palaver.errors import NotFound, Unavailable, Validation
from palaver.lifecycle.retention import retention_plan
from palaver.store import Store
from tests.blueprints.simple_agent.conftest import Opened
from tests.blueprints.simple_agent.given import ask, found
from tests.lifecycle.people import found_in

CANARY = "kanarienvogel"
DAY, YEAR_END = date(2026, 1, 1), date(2026, 12, 31)


@pytest.fixture
async def agent(opened: Opened) -> AsyncIterator[SimpleAgent]:
    async with opened(projections=PROJECTIONS) as agent:
        yield agent


async def settled(agent: SimpleAgent) -> None:
    # What is counted is a change as well, which the second round sees.
    await agent.store.settle(20)
    await agent.store.settle(20)


# --- channels ---------------------------------------------------------------------------------------------------------


async def test_two_tenants_have_two_configurations_of_one_channel(agent: SimpleAgent) -> None:
    mine = await agent.channels.configure("discord", default_model="gpt-4", settings={"slash": True})
    other = SimpleAgent(agent.store, settings=Settings(tenant="other")).channels
    theirs = await other.configure("discord", default_model="claude", rate_limits=RateLimits(per_user=5))
    assert mine == await agent.channels.config("discord")
    assert theirs == await other.config("discord")
    assert await agent.channels.config("slack") is None
    assert ["gpt-4"] == [each.default_model for each in await agent.channels.all()]


async def test_a_channel_is_configured_in_part(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    with pytest.raises(Validation):
        await agent.channels.configure("discord", settings={"slash": True})
    first = await agent.channels.configure("discord", default_model="gpt-4", settings={"slash": True})
    clock.advance(palaver.hours(1))
    second = await agent.channels.configure("discord", default_model="claude")
    assert ("claude", {"slash": True}, first.created_at, clock.now()) == (
        second.default_model,
        second.settings,
        second.created_at,
        second.updated_at,
    )
    await agent.channels.remove("discord")
    assert await agent.channels.config("discord") is None


async def test_credentials_are_sealed_and_come_only_to_who_asks_for_them(agent: SimpleAgent, tmp_path: Path, stack: str) -> None:
    shown = await agent.channels.configure("discord", default_model="gpt-4", credentials={"bot_token": CANARY})
    assert CANARY not in repr(shown) + repr(await agent.channels.all())
    assert {"bot_token": CANARY} == await agent.channels.credentials("discord")
    [record] = (await agent.store.core.records.scan("channel_credentials", after=None, limit=10)).records
    assert CANARY not in repr(record)
    assert {} == found_in(tmp_path)
    assert CANARY not in repr(await agent.store.get(ChannelCredentials.at("main", "discord")))
    await agent.channels.configure("discord", credentials={"bot_token": "new"})
    assert {"bot_token": "new"} == await agent.channels.credentials("discord")
    await agent.channels.remove("discord")
    await agent.store.sweep()
    with pytest.raises(NotFound):
        await agent.channels.credentials("discord")


# --- reports ----------------------------------------------------------------------------------------------------------


async def week(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    """Two people talk on seven days: Ann on two linked channels, Bob once."""
    ann = (await ask(agent, model="gpt-4o")).user_id
    await agent.people.link(ann, "slack", "U1")
    for day in range(7):
        if day:
            await ask(agent, model="gpt-4o" if day % 2 else "unheard-of")
        await ask(agent, channel="slack", who="U1", model="gpt-4o")
        if day == 3:
            bob = await ask(agent, who="bob", model="gpt-4o")
            await agent.rate(bob.reply_id, user_id=bob.user_id, rating="negative")
            await agent.end(bob.conversation_id)
        clock.advance(palaver.days(1))
    liked = await ask(agent, model="gpt-4o")
    await agent.rate(liked.reply_id, user_id=ann, rating="positive")
    await settled(agent)


async def test_engagement_counts_each_person_once_however_many_channels(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    await week(agent, clock)
    report = await agent.reports.engagement(DAY, date(2026, 1, 7))
    assert (2, 2, 15) == (report.active_users, report.new_conversations, report.messages)
    assert {"2026-01-03": 1, "2026-01-04": 2} == {day: report.active_by_day[day] for day in ("2026-01-03", "2026-01-04")}
    assert {"discord": 8, "slack": 7} == report.channels
    assert (0, 1, 0.0, 7.5) == (report.positive, report.ratings, report.satisfaction, report.messages_per_user)
    assert {"gpt-4o": 0.5} == await agent.reports.satisfaction_by_model(DAY, YEAR_END)


async def test_costs_are_exact_and_what_has_no_price_is_said(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    await week(agent, clock)
    lines = {line.group: line.used for line in await agent.reports.models(DAY, date(2026, 1, 7))}
    # 1,000 tokens in and 500 out, at 2.50 and 10 dollars a million.
    assert Decimal("0.0075") * 12 == lines["openai", "gpt-4o"].cost
    assert (3, 3, Decimal(0)) == (
        lines["openai", "unheard-of"].calls,
        lines["openai", "unheard-of"].unpriced,
        lines["openai", "unheard-of"].cost,
    )
    by_channel = {line.group: line.used.calls for line in await agent.reports.models(DAY, YEAR_END, by=["channel"])}
    assert {("discord",): 9, ("slack",): 7} == by_channel
    assert [("slack",)] == [line.group for line in await agent.reports.models(DAY, YEAR_END, by=["channel"], channel="slack")]


async def test_a_forecast_is_the_month_so_far_and_the_rest_at_its_pace(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    await week(agent, clock)
    forecast = await agent.reports.forecast(date(2026, 1, 8))
    spent = Decimal("0.0075") * 13
    per_day = Decimal("0.0075") * 12 / 7
    assert Forecast(spent, per_day * 23, per_day, 7, 3, {"gpt-4o": spent, "unheard-of": Decimal(0)}) == forecast
    assert spent + per_day * 23 == forecast.whole
    nothing = await agent.reports.forecast(date(2025, 6, 1))
    assert (Decimal(0), Decimal(0), 0) == (nothing.spent, nothing.expected, nothing.days_looked_at)


async def test_patterns_say_when_people_write_and_how_long_conversations_are(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    clock.advance(palaver.hours(9))
    await week(agent, clock)
    report = await agent.reports.patterns(DAY, YEAR_END)
    assert {9: 16} == {hour: n for hour, n in report.by_hour.items() if n}
    assert (16, 3) == (sum(report.by_weekday.values()), report.by_weekday[4])
    assert (1, 2) == (report.messages.count, int(report.messages.total))
    assert 16 == report.reply_latency.count
    assert {9: 7} == {hour: n for hour, n in (await agent.reports.patterns(DAY, YEAR_END, channel="slack")).by_hour.items() if n}


async def test_reports_built_anew_say_the_same(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    await week(agent, clock)
    before = await agent.reports.engagement(DAY, YEAR_END), await agent.reports.models(DAY, YEAR_END)
    changes = (await agent.store.core.records.changes(None, 10_000)).changes
    for projection in ("metrics", "usage"):
        await agent.store.runner().projections[projection].apply(changes)
    assert before == (await agent.reports.engagement(DAY, YEAR_END), await agent.reports.models(DAY, YEAR_END))
    for projection in ("metrics", "usage"):
        await agent.store.rebuild(projection)
    await settled(agent)
    assert before == (await agent.reports.engagement(DAY, YEAR_END), await agent.reports.models(DAY, YEAR_END))
    assert 8 == len({row.day for row in await found(agent, patterns.usage_by_day())})


async def test_the_verdict_that_stands_counts_once_whoever_its_rater_turns_out_to_be(
    agent: SimpleAgent, clock: palaver.ManualClock
) -> None:
    ann = await ask(agent, model="gpt-4o")
    bob = await ask(agent, who="bob", model="claude")
    await agent.rate(ann.reply_id, user_id=ann.user_id, rating="positive")
    await agent.rate(bob.reply_id, user_id=bob.user_id, rating="positive")
    await settled(agent)
    clock.advance(palaver.days(1))
    await agent.rate(bob.reply_id, user_id=bob.user_id, rating="negative")
    await agent.people.merge(bob.user_id, into=ann.user_id)
    await settled(agent)

    async def reported() -> tuple[Any, ...]:
        days = [await agent.reports.engagement(day, day) for day in (DAY, date(2026, 1, 2))]
        return [(day.positive, day.ratings) for day in days], await agent.reports.satisfaction_by_model(DAY, YEAR_END)

    assert ([(1, 1), (0, 1)], {"gpt-4o": 1.0, "claude": 0.0}) == await reported()
    assert {"gpt-4o": 1.0, "claude": 0.0} == await agent.reports.satisfaction_by_model(date.min, date.max)
    await agent.store.rebuild("metrics")
    assert ([(1, 1), (0, 1)], {"gpt-4o": 1.0, "claude": 0.0}) == await reported()


async def test_only_answers_say_how_long_answers_take(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    async with agent.message("discord", "ann", "What is due today?") as turn:
        clock.advance(timedelta(seconds=2))
        await turn.reply("Two invoices.")
    with pytest.raises(ConnectionError):
        async with agent.message("discord", "ann", "And tomorrow?"):
            clock.advance(timedelta(minutes=1))
            raise ConnectionError
    async with agent.message("discord", "ann", "Never mind."):
        clock.advance(timedelta(minutes=1))
    await settled(agent)
    latency = (await agent.reports.patterns(DAY, YEAR_END)).reply_latency
    assert (1, Decimal(2_000)) == (latency.count, latency.total)


# --- changes of all users ---------------------------------------------------------------------------------------------


def zoned(user: User) -> dict[str, Any] | None:
    """Count how often a user was changed: a change that is made twice shows."""
    times: Any = user.metadata.get("times", 0)
    return None if user.metadata.get("left alone") else {"metadata": {**user.metadata, "times": times + 1}}


async def many(agent: SimpleAgent, n: int) -> list[User]:
    return [await agent.people.resolve("discord", f"{number}") for number in range(n)]


async def test_a_change_of_all_users_cut_off_after_any_write_is_finished_and_made_once(
    agent: SimpleAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = await many(agent, 25)
    await agent.people.change(users[7].user_id, metadata={"left alone": True})
    write, cuts = Store.write, 0

    async def cut(store: Store, batch: Any, **options: Any) -> Any:
        nonlocal cuts
        cuts += 1
        if cuts % 2:
            raise Unavailable("cut off before the write")
        await write(store, batch, **options)
        raise Unavailable("cut off after the write")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", cut)
        for _ in range(12):
            with pytest.raises(Unavailable):
                await agent.migrate_users("zones", zoned, batch_size=4)
    done = await agent.migrate_users("zones", zoned, batch_size=4)
    assert (25, 24, True) == (done.seen, done.changed, done.done)
    times = [user.metadata.get("times") for user in await found(agent, patterns.users_by_id())]
    assert ([1] * 7 + [None] + [1] * 17) == times
    assert done == await agent.migrate_users("zones", zoned)


async def test_a_user_changed_meanwhile_is_not_overwritten(agent: SimpleAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    users = await many(agent, 6)
    write = Store.write
    interfered: list[bool] = []

    async def meanwhile(store: Store, batch: Any, **options: Any) -> Any:
        if len(batch) > 2 and not interfered:
            interfered.append(True)
            await write(store, palaver.Batch().patch(users[2], set={"metadata": {"note": "theirs"}}))
        return await write(store, batch, **options)

    monkeypatch.setattr(Store, "write", meanwhile)
    done = await agent.migrate_users("zones", zoned, batch_size=4)
    changed = await found(agent, patterns.users_by_id())
    assert ([1] * 6, 6) == ([user.metadata["times"] for user in changed], done.changed)
    assert {"note": "theirs", "times": 1} == changed[2].metadata


async def test_two_processes_that_run_the_same_change_make_it_once(agent: SimpleAgent) -> None:
    await many(agent, 12)
    both = await asyncio.gather(*(agent.migrate_users("zones", zoned, batch_size=2) for _ in range(2)))
    assert [12, 12] == [each.changed for each in both]
    assert [1] * 12 == [user.metadata["times"] for user in await found(agent, patterns.users_by_id())]
    assert [True] == [(await agent.store.get(DataMigration.at("zones"))).done]
    with pytest.raises(Validation):
        await agent.migrate_users("zones", zoned, batch_size=100)


# --- forgetting -------------------------------------------------------------------------------------------------------


async def speak(agent: SimpleAgent, who: str, word: str) -> str:
    """Have somebody leave something of theirs in every record; return who they are."""
    async with agent.message("discord", who, f"{word} asks", username=f"{word}name", metadata={"note": f"{word}meta"}) as turn:
        await turn.intent("invoices", entities=[{"name": f"{word}entity"}])
        async with turn.api_call("/invoices", {"for": f"{word}parameter"}) as call:
            call.response(200, {"rows": [f"{word}row"]})
        async with turn.llm_call(provider="openai", model="gpt-4o", purpose="reply") as llm:
            llm.result("prompt", f"{word}reply", {"input_tokens": 1, "output_tokens": 1})
        await turn.reply(f"{word} answer")
    await agent.rate(turn.reply_id, user_id=turn.user_id, rating="positive", comment=f"{word}comment")
    await agent.people.change(turn.user_id, metadata={"address": f"{word}street"})
    return turn.user_id


@pytest.mark.parametrize("way", ["erase", "purge"])
async def test_no_canary_is_left_in_any_store(agent: SimpleAgent, tmp_path: Path, clock: palaver.ManualClock, way: str) -> None:
    doomed = await speak(agent, "doomed", CANARY)
    # Not the channel's identifier: as a part of a key it is in the change log, until that is trimmed.
    await agent.people.link(doomed, "slack", "U1", username=CANARY)
    clock.advance(palaver.days(100))
    other = await speak(agent, "other", "harmless")
    await settled(agent)
    assert 2 == len(await agent.search(CANARY))
    if way == "erase":
        dry = await agent.erase_user(doomed, dry_run=True)
        erased = await agent.erase_user(doomed)
    else:
        since = clock.now() - palaver.days(90)
        dry = (await agent.purge_inactive(since, dry_run=True)).erased
        purged = await agent.purge_inactive(since)
        assert 1 == purged.persons
        erased = purged.erased
    assert dry == erased
    assert {} == found_in(tmp_path)
    for entity in ENTITIES:
        table = entity.declared().table.name
        assert CANARY not in repr((await agent.store.core.records.scan(table, after=None, limit=1_000)).records), table
    assert [] == list(await agent.search(f"{CANARY}*"))
    assert 3 == len(await found(agent, patterns.messages_of_user(other)))
    # What was counted stays, because it says nothing about anybody.
    assert 2 == sum(line.used.calls for line in await agent.reports.models(DAY, YEAR_END))
    report = await agent.reports.engagement(DAY, YEAR_END)
    assert (2, 2) == (report.messages, report.new_conversations)
    # Who was there, and what they thought, goes with them; a purge leaves the verdict.
    assert (1, 1 if way == "erase" else 2) == (report.active_users, report.ratings)


async def test_what_is_kept_for_a_time_is_gone_after_it(opened: Opened, clock: palaver.ManualClock) -> None:
    async with opened(retention=Retention(conversations=palaver.days(30), messages=palaver.days(30))) as agent:
        old = await ask(agent)
        clock.advance(palaver.days(20))
        await ask(agent, "Still here?")
        clock.advance(palaver.days(11))
        assert ["Still here?", "Two invoices."] == [message.content for message in await agent.recent_messages(old.conversation_id)]
        clock.advance(palaver.days(20))
        assert [] == await agent.recent_messages(old.conversation_id)
        assert 1 == await agent.end_stale(clock.now() - palaver.days(1))
        assert [old.conversation_id] == [each.conversation_id for each in await found(agent, patterns.recent_conversations())]
        clock.advance(palaver.days(31))
        assert [] == await found(agent, patterns.recent_conversations())
        fresh = await ask(agent)
        await agent.store.sweep()
        for table, name in (("messages", "conversation_id"), ("conversations", "id")):
            stored = (await agent.store.core.records.scan(table, after=None, limit=100)).records
            assert {fresh.conversation_id} == {record[name] for record in stored}


def test_the_default_retention_keeps_conversations_and_forgets_calls() -> None:
    kept = {rule.entity: rule.after for rule in retention_plan(SCHEMA) if rule.what == "records"}
    assert (None, None) == (kept["Conversation"], kept["Message"])
    assert (palaver.days(90), palaver.days(400)) == (kept["ModelCall"], kept["UserDay"])
