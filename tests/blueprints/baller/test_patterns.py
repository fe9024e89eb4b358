"""Every access pattern and index of the design: what it finds, and the one statement it becomes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import palaver
from palaver import Query
from palaver.blueprints.baller import SCHEMA, Baller, patterns
from palaver.blueprints.baller.names import normalized
from palaver.blueprints.baller.schema import Metric
from palaver.ops import Read
from tests.blueprints.asked import (
    Asked,
    explaining,
    test_a_pattern_is_one_request_that_is_known,
    test_every_key_and_index_is_asked_by_a_pattern,
    test_every_pattern_is_one_query_in_dynamodb,
    test_no_pattern_need_scan_or_sort_in_postgresql,
    test_no_pattern_scans_or_sorts_in_sqlite,
)
from tests.blueprints.baller.given import ask, found

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
    "conversation.of_user": patterns.conversations_of_user("u"),
    "conversation.of_server": patterns.conversations_of_server("s", SINCE, UNTIL),
    "conversation.started": patterns.conversations_started("production", SINCE, UNTIL),
    "message.of_conversation": patterns.messages_of_conversation("c"),
    "message.recent": patterns.recent_messages("c", 10),
    "message.of_user": patterns.messages_of_user("u", SINCE, UNTIL),
    "message.with_intent": patterns.messages_with_intent("match_result", SINCE, UNTIL),
    "preferences.of_user": patterns.preferences_of_user("u"),
    "preferences.of_server": patterns.preferences_of_server("s"),
    "api.of_message": patterns.api_calls_of_message("1"),
    "api.of_user": patterns.api_calls_of_user("u", SINCE, UNTIL),
    "api.of_endpoint": patterns.api_calls_of_endpoint("/fixtures/7?live=1", SINCE, UNTIL),
    "llm.of_message": patterns.llm_calls_of_message("1"),
    "llm.of_user": patterns.llm_calls_of_user("u", SINCE, UNTIL),
    "llm.of_provider": patterns.llm_calls_of_provider("anthropic"),
    "llm.of_model": patterns.llm_calls_of_model("anthropic", "m", SINCE, UNTIL),
    "llm.for_purpose": patterns.llm_calls_for_purpose("main_response", SINCE, UNTIL),
    "feedback.on_message": patterns.feedback_on_message("1"),
    "feedback.of_user": patterns.feedback_of_user("u", SINCE, UNTIL),
    "feedback.in_mode": patterns.feedback_in_mode("production", SINCE, UNTIL),
    "feedback.about": patterns.feedback_about("u"),
    "entity.named": patterns.entities_named("team", "Arsenal"),
    "entity.names": patterns.names_of("team", "Arsenal"),
    "entity.aliases": patterns.aliases_of("42", "team"),
    "entity.of_type": patterns.entities_of_type("team"),
    "metric.of_day": patterns.metrics_of_day("2026-01-01"),
    "metric.in_category": patterns.metrics_in_category("latency", "2026-01-01", "2026-02-01"),
    "metric.in_mode": patterns.metrics_in_mode("production", "2026-01-01", "2026-02-01"),
    "usage.by_day": patterns.usage_by_day("2026-01-01", "2026-02-01"),
    "user.inactive": patterns.users_inactive_since(SINCE),
}


@pytest.fixture
def asked() -> Asked:
    return Asked(SCHEMA, PATTERNS, frozenset({"CachedEntity", "Metric", "ModelUsage", "UserActivity"}))


async def test_a_range_of_one_model_reads_only_that_range(
    baller: Baller, clock: palaver.ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for month in range(3):
        for model in ("m-1", "m-2"):
            async with (
                baller.turn(user_id=f"{month}", content="?") as turn,
                turn.llm_call(provider="p", model=model, purpose="evaluation") as call,
            ):
                call.result("a", "b")
        clock.advance(palaver.days(2))
    handed: list[int] = []
    query = type(baller.store.core.records).query

    async def counted(self: Any, read: Read) -> Any:
        page = await query(self, read)
        handed.append(len(page.records))
        return page

    monkeypatch.setattr(type(baller.store.core.records), "query", counted)
    start = datetime(2026, 1, 3, tzinfo=UTC)
    calls = await found(baller, patterns.llm_calls_of_model("p", "m-1", start, start + palaver.days(1)))
    assert ["m-1"] == [call.model for call in calls]
    assert 1 == sum(handed)


async def test_conversations_and_messages_are_found_by_every_pattern(baller: Baller, clock: palaver.ManualClock) -> None:
    question, answer = await ask(baller)
    clock.advance(palaver.days(1))
    later, _ = await ask(baller, user_id="u2", app_mode="beta")
    conversation = (await baller.message(question)).conversation_id
    other = (await baller.message(later)).conversation_id
    store = baller.store
    assert [conversation] == [c.conversation_id for c in await found(baller, patterns.conversations_of_user("u1"))]
    assert [other, conversation] == [c.conversation_id for c in await found(baller, patterns.conversations_of_server("s1"))]
    assert [other] == [c.conversation_id for c in await found(baller, patterns.conversations_of_server("s1", clock.now()))]
    assert [conversation] == [c.conversation_id for c in await found(baller, patterns.conversations_started("production"))]
    assert {"development": 0, "beta": 1, "production": 1} == await baller.conversations_per_mode(SINCE, UNTIL)
    assert [question, answer] == [m.message_id for m in await found(baller, patterns.messages_of_conversation(conversation))]
    assert [answer] == [m.message_id for m in await found(baller, patterns.recent_messages(conversation, 1))]
    assert [question, answer] == [m.message_id for m in await baller.recent_messages("u1", conversation)]
    assert {question, answer} == {m.message_id for m in await found(baller, patterns.messages_of_user("u1"))}
    assert [] == await found(baller, patterns.messages_of_user("u1", clock.now()))
    assert [later, question] == [m.message_id for m in await found(baller, patterns.messages_with_intent("match_result"))]
    assert 0 == await store.count(patterns.messages_with_intent("standings"))


async def test_calls_are_found_by_every_pattern(baller: Baller) -> None:
    question, _ = await ask(baller)
    [api] = await found(baller, patterns.api_calls_of_message(question))
    assert [api] == await found(baller, patterns.api_calls_of_user("u1"))
    assert [] == await found(baller, patterns.api_calls_of_user("u1", UNTIL))
    assert [api] == await found(baller, patterns.api_calls_of_endpoint("/fixtures"))
    assert [] == await found(baller, patterns.api_calls_of_endpoint("/standings"))
    [llm] = await found(baller, patterns.llm_calls_of_message(question))
    assert [llm] == await found(baller, patterns.llm_calls_of_user("u1"))
    assert [] == await found(baller, patterns.llm_calls_of_user("u2"))
    assert [llm] == await found(baller, patterns.llm_calls_of_provider("anthropic"))
    assert [llm] == await found(baller, patterns.llm_calls_of_model("anthropic", "m-1"))
    assert [llm] == await found(baller, patterns.llm_calls_for_purpose("main_response"))
    assert (12, 3, 15) == (llm.prompt_tokens, llm.completion_tokens, llm.total_tokens)


async def test_ratings_are_found_by_whose_conversation_they_quote(baller: Baller) -> None:
    _, answer = await ask(baller)
    await ask(baller, user_id="u2")
    await baller.give_feedback(answer, user_id="rater", rating="negative")
    assert ["rater"] == [rating.user_id for rating in await found(baller, patterns.feedback_about("u1"))]
    assert [] == await found(baller, patterns.feedback_about("u2"))


async def test_metrics_of_two_modes_are_two_rows_found_by_every_pattern(baller: Baller) -> None:
    rows = [
        Metric(
            metric_date="2026-01-01", metric_id=f"{mode}:latency:api", metric_category="latency", metric_name="api", app_mode=mode, count=1
        )
        for mode in ("development", "production")
    ]
    for row in rows:
        await baller.store.create(row)
    assert rows == await found(baller, patterns.metrics_of_day("2026-01-01"))
    assert rows == sorted(await found(baller, patterns.metrics_in_category("latency")), key=lambda row: row.metric_id)
    assert rows[1:] == await found(baller, patterns.metrics_in_mode("production", "2026-01-01", "2026-01-02"))
    assert [] == await found(baller, patterns.metrics_in_mode("production", "2026-01-02"))


def test_names_are_looked_up_in_one_form() -> None:
    forms = {
        normalized(name)
        for name in ("FC Bayern München", "ＦＣ ＢＡＹＥＲＮ ＭÜＮＣＨＥＮ", "fc  bayern-munchen", "F.C. Bayern Mu\u0308nchen")
    }
    assert {"fc bayern munchen"} == forms
    assert "brondby if" == normalized("Brøndby IF")
    assert "!?" == normalized("!?")
    assert 217 == len(normalized("x" * 5_000))
