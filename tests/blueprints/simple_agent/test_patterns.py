"""Every access pattern and index of the design: what it finds, and the one statement it becomes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

import palaver
from palaver import Query
from palaver.blueprints.simple_agent import SCHEMA, SimpleAgent, patterns
from palaver.blueprints.simple_agent.channels import Channels
from palaver.blueprints.simple_agent.schema import Exposure, FeatureFlag, LoginSession, Metric
from tests.blueprints.asked import (
    Asked,
    explaining,
    test_a_pattern_is_one_request_that_is_known,
    test_every_key_and_index_is_asked_by_a_pattern,
    test_every_pattern_is_one_query_in_dynamodb,
    test_no_pattern_need_scan_or_sort_in_postgresql,
    test_no_pattern_scans_or_sorts_in_sqlite,
)
from tests.blueprints.simple_agent.given import ask, found

__all__ = [
    "explaining",
    "test_a_pattern_is_one_request_that_is_known",
    "test_every_key_and_index_is_asked_by_a_pattern",
    "test_every_pattern_is_one_query_in_dynamodb",
    "test_no_pattern_need_scan_or_sort_in_postgresql",
    "test_no_pattern_scans_or_sorts_in_sqlite",
]

SINCE, UNTIL = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)

PATTERNS: dict[str, Query[Any]] = {
    "identity.of_user": patterns.identities_of_user("u"),
    "user.by_id": patterns.users_by_id("u"),
    "user.inactive": patterns.users_inactive_since(SINCE),
    "user.seen": patterns.users_seen_since(SINCE),
    "user.active_on": patterns.users_active_on("2026-01-01"),
    "user.days": patterns.days_of_user("u", "2026-01-01", "2026-02-01"),
    "user.sessions": patterns.sessions_of_user("u"),
    "conversation.of_user": patterns.conversations_of_user("u", SINCE, UNTIL),
    "conversation.active": patterns.active_conversations(SINCE),
    "conversation.stale": patterns.stale_conversations(UNTIL),
    "conversation.recent": patterns.recent_conversations(SINCE, UNTIL),
    "message.of_conversation": patterns.messages_of_conversation("c"),
    "message.recent": patterns.recent_messages("c", 20),
    "message.by_id": patterns.message_by_id("m"),
    "message.of_user": patterns.messages_of_user("u", SINCE, UNTIL),
    "message.by_time": patterns.messages_by_time(SINCE, UNTIL),
    "turn.of_conversation": patterns.turns_of_conversation("c"),
    "turn.of_user": patterns.turns_of_user("u", SINCE, UNTIL),
    "call.of_conversation": patterns.model_calls_of_conversation("c"),
    "call.of_message": patterns.model_calls_of_message("c", "m"),
    "call.of_user": patterns.model_calls_of_user("u", SINCE, UNTIL),
    "call.of_provider": patterns.model_calls_of_provider("openai"),
    "call.of_model": patterns.model_calls_of_model("openai", "gpt-4", SINCE, UNTIL),
    "feedback.on_message": patterns.feedback_on_message("m"),
    "feedback.of_user": patterns.feedback_of_user("u", SINCE, UNTIL),
    "feedback.rated": patterns.feedback_rated("negative", SINCE, UNTIL),
    "channel.of_tenant": patterns.channels_of_tenant("main"),
    "flag.settings": patterns.settings_of_flags("flags"),
    "flag.of_user": patterns.flags_of_user("u"),
    "exposure.of_user": patterns.exposures_of_user("u"),
    "exposure.of_experiment": patterns.exposures_of_experiment("model_selection", SINCE, UNTIL),
    "metric.of_day": patterns.metrics_of_day("2026-01-01"),
    "metric.in_category": patterns.metrics_in_category("hour", "2026-01-01", "2026-02-01"),
    "metric.on_channel": patterns.metrics_on_channel("discord", "2026-01-01", "2026-02-01"),
    "usage.by_day": patterns.usage_by_day("2026-01-01", "2026-02-01"),
}


@pytest.fixture
def asked() -> Asked:
    return Asked(
        SCHEMA, PATTERNS, frozenset({"User", "Identity", "Conversation", "Metric", "ModelUsage", "DataMigration", "ChannelCredentials"})
    )


def conversations(found: Iterable[Any]) -> list[str]:
    return [each.conversation_id for each in found]


def messages(found: Iterable[Any]) -> list[str]:
    return [each.message_id for each in found]


@pytest.mark.parametrize("stack", ["postgresql"])
async def test_messages_lie_in_the_part_of_their_month_in_postgresql(explaining: palaver.Store) -> None:
    agent = SimpleAgent(explaining)
    turn = await ask(agent)
    pool = explaining.core.records.pool  # type: ignore[attr-defined]
    found = {str(row[0]) for row in await pool.read("SELECT DISTINCT tableoid::regclass::text FROM messages")}
    assert {f'"messages::{datetime.now(UTC):%Y-%m}"'} == found
    assert [turn.message_id, turn.reply_id] == messages(await agent.recent_messages(turn.conversation_id))


async def test_people_are_found_by_every_pattern(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    ann = (await ask(agent)).user_id
    clock.advance(palaver.days(1))
    bob = (await ask(agent, who="bob", channel="slack")).user_id
    await agent.people.link(ann, "telegram", "7", username="Ann")
    assert [("discord", "ann"), ("telegram", "7")] == [
        (each.channel_type, each.channel_user_id) for each in await found(agent, patterns.identities_of_user(ann))
    ]
    assert [ann, bob] == [user.user_id for user in await found(agent, patterns.users_by_id())]
    assert [bob] == [user.user_id for user in await found(agent, patterns.users_by_id(ann))]
    assert [ann] == [user.user_id for user in await found(agent, patterns.users_inactive_since(clock.now()))]
    assert [bob] == [user.user_id for user in await found(agent, patterns.users_seen_since(clock.now()))]
    assert [(ann, "discord")] == [(day.user_id, day.channel_type) for day in await found(agent, patterns.users_active_on("2026-01-01"))]
    assert ["2026-01-02"] == [day.day for day in await found(agent, patterns.days_of_user(bob))]
    assert [] == await found(agent, patterns.days_of_user(bob, "2026-01-03"))
    now = clock.now()
    await agent.store.create(LoginSession(user=bob, id="hash", started=now, ends=now + palaver.days(1), last_seen=now))
    assert ["hash"] == [session.id for session in await found(agent, patterns.sessions_of_user(bob))]


async def test_conversations_are_found_by_every_pattern(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    first = await ask(agent)
    clock.advance(palaver.hours(1))
    second = await ask(agent, who="bob")
    await agent.end(first.conversation_id)
    third = await ask(agent, "Again")
    assert [third.conversation_id, first.conversation_id] == conversations(
        await found(agent, patterns.conversations_of_user(first.user_id))
    )
    assert [first.conversation_id] == conversations(await found(agent, patterns.conversations_of_user(first.user_id, SINCE, clock.now())))
    assert {second.conversation_id, third.conversation_id} == set(conversations(await found(agent, patterns.active_conversations())))
    assert [] == await found(agent, patterns.active_conversations(UNTIL))
    assert [] == await found(agent, patterns.stale_conversations(clock.now()))
    clock.advance(palaver.hours(1))
    assert {second.conversation_id, third.conversation_id} == set(
        conversations(await found(agent, patterns.stale_conversations(clock.now())))
    )
    recent = conversations(await found(agent, patterns.recent_conversations(SINCE, UNTIL)))
    assert (first.conversation_id, 3) == (recent[-1], len(recent))


async def test_messages_are_found_by_every_pattern(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    turn = await ask(agent)
    clock.advance(palaver.hours(1))
    other = await ask(agent, "What else?", "Nothing.", who="bob")
    reply = turn.reply_id
    assert [turn.message_id, reply] == messages(await found(agent, patterns.messages_of_conversation(turn.conversation_id)))
    assert [reply] == messages(await found(agent, patterns.recent_messages(turn.conversation_id, 1)))
    assert [turn.message_id, reply] == messages(await agent.recent_messages(turn.conversation_id))
    assert ["Two invoices."] == [message.content for message in await found(agent, patterns.message_by_id(reply))]
    assert {turn.message_id, reply} == set(messages(await found(agent, patterns.messages_of_user(turn.user_id))))
    assert [] == await found(agent, patterns.messages_of_user(turn.user_id, clock.now()))
    assert {turn.message_id, reply} == set(messages(await found(agent, patterns.messages_by_time(SINCE, clock.now()))))
    assert other.message_id in messages(await found(agent, patterns.messages_by_time(clock.now())))


async def test_calls_and_ratings_are_found_by_every_pattern(agent: SimpleAgent) -> None:
    turn = await ask(agent, model="gpt-4o")
    await agent.give_feedback(turn.reply_id, user_id=turn.user_id, rating="negative")
    [call] = await found(agent, patterns.model_calls_of_message(turn.conversation_id, turn.message_id))
    assert [call] == await found(agent, patterns.model_calls_of_conversation(turn.conversation_id))
    [record] = await found(agent, patterns.turns_of_conversation(turn.conversation_id))
    assert [record] == await found(agent, patterns.turns_of_user(turn.user_id))
    assert [] == await found(agent, patterns.turns_of_user(turn.user_id, UNTIL))
    assert [call] == await found(agent, patterns.model_calls_of_user(turn.user_id))
    assert [] == await found(agent, patterns.model_calls_of_user(turn.user_id, UNTIL))
    assert [call] == await found(agent, patterns.model_calls_of_provider("openai"))
    assert [call] == await found(agent, patterns.model_calls_of_model("openai", "gpt-4o", SINCE, UNTIL))
    assert [] == await found(agent, patterns.model_calls_of_model("openai", "gpt-4"))
    [rating] = await found(agent, patterns.feedback_on_message(turn.reply_id))
    assert [rating] == await found(agent, patterns.feedback_of_user(turn.user_id))
    assert [rating] == await found(agent, patterns.feedback_rated("negative"))
    assert [] == await found(agent, patterns.feedback_rated("positive"))


async def test_channels_flags_and_figures_are_found_by_every_pattern(agent: SimpleAgent) -> None:
    store = agent.store
    await agent.channels.configure("discord", default_model="gpt-4")
    await Channels(store, tenant="other").configure("discord", default_model="claude")
    assert ["gpt-4"] == [each.default_model for each in await found(agent, patterns.channels_of_tenant("main"))]
    await store.create(FeatureFlag(namespace="flags", flag="a", scope="user", target="u", value=True, user="u"))
    await store.create(FeatureFlag(namespace="flags", flag="a", scope="everybody", target="*", value=False))
    assert 2 == len(await found(agent, patterns.settings_of_flags("flags")))
    assert ["u"] == [each.target for each in await found(agent, patterns.flags_of_user("u"))]
    await store.create(Exposure(user="u", experiment="model_selection", variant="a", exposed=SINCE))
    assert ["a"] == [each.variant for each in await found(agent, patterns.exposures_of_user("u"))]
    assert ["u"] == [each.user for each in await found(agent, patterns.exposures_of_experiment("model_selection", SINCE))]
    row = Metric(metric_date="2026-01-01", metric_id="m", metric_category="hour", metric_name="09", app_mode="discord")
    await store.create(row)
    assert [row] == await found(agent, patterns.metrics_of_day("2026-01-01"))
    assert [row] == await found(agent, patterns.metrics_in_category("hour"))
    assert [row] == await found(agent, patterns.metrics_on_channel("discord"))
    assert [] == await found(agent, patterns.metrics_on_channel("slack"))
    assert [] == await found(agent, patterns.usage_by_day())
