"""Baller's metrics, erasure, quarterly purge and daily archive: the design's promises about data over time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

import palaver
from palaver.blueprints.baller import ERASURE, PROJECTIONS, PURGE, SCHEMA, Baller, patterns
from palaver.blueprints.baller.keeping import archive_of
from palaver.blueprints.baller.schema import ENTITIES, Feedback, Metric, UserPreferences
from palaver.insight.histogram import Histogram
from palaver.insight.metrics import Period
from palaver.insight.usage import Used
from palaver.lifecycle.personal import mask_of
from palaver.lifecycle.retention import retention_plan
from tests.blueprints.baller.conftest import Opened
from tests.blueprints.baller.given import ask, found
from tests.lifecycle.people import found_in

CANARY = "kanarienvogel"
DAY = date(2026, 1, 1)
Numbers = dict[tuple[str, str, str], Histogram]


@pytest.fixture
async def baller(opened: Opened) -> AsyncIterator[Baller]:
    async with opened(projections=PROJECTIONS) as baller:
        yield baller


async def numbers(baller: Baller, by: Period = "all") -> Numbers:
    points = await baller.metrics.read(DAY, date(2026, 12, 31), by=by)
    return {(point.mode, point.category, point.name): point.values for point in points}


async def speak(baller: Baller, user: str, word: str) -> str:
    """Have a user leave something in every store; return the message's identifier."""
    async with baller.turn(user_id=user, server_id="s", content=f"{word}content asks") as turn:
        await turn.relevance(is_relevant=True, explanation=f"{word}why", raw_response=f"{word}raw" * 2_000)
        await turn.intent("match_result", entities=[{"name": "Arsenal"}])
        await turn.context({"history": [f"{word}context"] * 5_000})
        async with turn.api_call("/fixtures", {"a": 1}) as api:
            api.response(200, {"rows": [f"{word}api"] * 5_000})
        async with turn.llm_call(provider="openai", model="gpt-4o", purpose="main_response") as llm:
            llm.result(f"{word}prompt" * 5_000, f"{word}reply" * 5_000, {"input_tokens": 1_000, "output_tokens": 500})
        answer = await turn.reply(f"{word}answer")
    message = await baller.message(answer)
    await baller.summarise(user, message.conversation_id, f"{word}summary")
    await baller.set_preferences(user, "s", username=f"{word}name", followed_teams=["Arsenal"])
    await baller.give_feedback(answer, user_id=user, rating="positive", follow_up=f"{word}followup")
    await baller.give_feedback(answer, user_id="rater", rating="negative")
    return answer


async def test_two_modes_are_two_rows_of_every_metric(baller: Baller) -> None:
    await ask(baller, app_mode="production")
    await ask(baller, app_mode="development")
    await baller.store.settle()
    found = await numbers(baller)
    assert 1 == found["production", "success", "llm_call"].count == found["development", "success", "llm_call"].count
    assert 2 == len(await baller.metrics.compare(DAY, DAY, "latency", "response"))


async def test_metrics_counted_twice_are_the_same_numbers(baller: Baller) -> None:
    for number in range(5):
        await ask(baller, user_id=f"u{number}")
    await baller.store.settle()
    before = await numbers(baller)
    changes = (await baller.store.core.records.changes(None, 10_000)).changes
    await baller.store.runner().projections["metrics"].apply(changes)
    await baller.store.runner().projections["usage"].apply(changes)
    assert before == await numbers(baller)
    await baller.store.rebuild("metrics")
    await baller.store.rebuild("usage")
    await baller.store.settle()
    assert before == await numbers(baller)
    assert [5] == [line.used.calls for line in await baller.usage.report(DAY, DAY)]


async def test_the_usage_of_a_turn_is_priced(baller: Baller) -> None:
    await speak(baller, "u", "word")
    await baller.store.settle()
    (line,) = await baller.usage.report(DAY, DAY, by=("provider", "model", "purpose"))
    assert ("openai", "gpt-4o", "main_response") == line.group
    rows = await found(baller, patterns.usage_by_day("2026-01-01", "2026-12-31"))
    assert {("openai", "gpt-4o", 1)} == {(row.provider, row.model, row.calls) for row in rows}
    assert [] == await found(baller, patterns.usage_by_day("2027-01-01"))
    assert (1, 0, 1_500) == (line.used.calls, line.used.unpriced, line.used.total_tokens)
    assert Decimal("0.0075") == line.used.cost
    assert Used() == Used.sum([])


@pytest.mark.parametrize("way", ["erase", "purge"])
async def test_no_canary_is_left_in_any_store(baller: Baller, url: str, tmp_path: Path, clock: palaver.ManualClock, way: str) -> None:
    await speak(baller, "doomed", CANARY)
    await baller.archive(DAY)
    clock.advance(palaver.days(2))
    await speak(baller, "other", "harmless")
    await baller.store.settle()
    assert [] != list(await baller.search_conversations(CANARY + "content"))
    if way == "erase":
        dry = await baller.erase_user("doomed", dry_run=True)
        erased = await baller.erase_user("doomed")
    else:
        since = clock.now() - palaver.days(1)
        dry = (await baller.purge_inactive(since, dry_run=True)).erased
        purged = await baller.purge_inactive(since)
        assert 1 == purged.persons
        erased = purged.erased
    assert dry == erased
    assert (4, True) == (erased.objects, erased.archived >= 8)
    assert {} == found_in(tmp_path)
    for entity in ENTITIES:
        table = entity.declared().table.name
        assert CANARY not in repr((await baller.store.core.records.scan(table, after=None, limit=1_000)).records)
    assert [] == [info.key async for info in baller.store.core.blobs.list("-/doomed/")]
    for search in (baller.search_conversations, baller.search_feedback):
        assert 0 == len(await search(CANARY + "*"))
    assert 2 == len(await found(baller, patterns.messages_of_user("other")))
    assert [] == await archive_of(baller.store).verify(DAY)
    assert (await numbers(baller))["production", "success", "llm_call"].count == 2


async def test_a_purge_keeps_ratings_and_teams_without_names_and_words(baller: Baller, clock: palaver.ManualClock) -> None:
    answer = await speak(baller, "doomed", CANARY)
    clock.advance(palaver.days(100))
    await baller.purge_inactive(clock.now() - palaver.days(90))
    rated = await baller.store.get(Feedback.at(answer, "doomed"))
    assert ("positive", None, None) == (rated.rating, rated.follow_up_feedback, rated.response_snapshot)
    kept = await baller.store.get(UserPreferences.at("doomed", "s"))
    assert (None, ["Arsenal"]) == (kept.username, kept.followed_teams)
    assert [] == [user async for user in baller.inactive_users(clock.now())]
    other = await baller.store.get(Feedback.at(answer, "rater"))
    assert ("negative", None, None) == (other.rating, other.response_snapshot, other.owner_id)


async def test_a_month_of_metrics_is_kept_for_ever(baller: Baller, clock: palaver.ManualClock) -> None:
    await ask(baller)
    await baller.store.settle()
    before = await numbers(baller, by="month")
    clock.advance(palaver.days(35))
    await baller.archive(clock.now().date())
    assert before == await numbers(baller, by="month")
    month = [row async for row in baller.store.query(Metric.by_date("2026-01"))]
    assert len(before) == len(month)


def test_every_persons_records_are_found_without_a_scan() -> None:
    assert [] == [found for found in SCHEMA.diagnostics if found.code == "subject_unindexed"]


def test_every_personal_field_can_be_masked() -> None:
    for declared in SCHEMA.entities.values():
        if declared.personal and PURGE.of(declared) == "mask":
            assert mask_of(declared).patch()
    assert {ERASURE.of(declared) for declared in SCHEMA.entities.values()} == {"delete"}


def test_the_retention_plan_says_what_the_design_says() -> None:
    plan = {(kept.entity, kept.what, kept.name): kept for kept in retention_plan(SCHEMA)}
    assert palaver.days(30) == plan["Conversation", "records", "Conversation"].after
    assert palaver.days(7) == plan["ApiInteraction", "records", "ApiInteraction"].after
    assert palaver.days(7) == plan["LlmInteraction", "records", "LlmInteraction"].after
    assert palaver.days(30) == plan["LlmInteraction", "objects", "exchange"].after
    assert plan["Feedback", "records", "Feedback"].after is None
    assert "Conversation: records are kept 30 days after last_active." == plan["Conversation", "records", "Conversation"].sentence
    assert "Metric: records are kept until they are deleted." == plan["Metric", "records", "Metric"].sentence
