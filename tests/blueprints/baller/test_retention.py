"""What is kept how long: rows, objects and search documents end together, and nothing ends too early."""

from __future__ import annotations

from typing import Any

import pytest

import palaver
from palaver.blueprints.baller import PROJECTIONS, Baller, Retention, patterns
from palaver.blueprints.baller.schema import ENTITIES, Conversation, Message
from palaver.errors import Validation
from tests.blueprints.baller.conftest import Opened
from tests.blueprints.baller.given import found

BIG = {"rows": ["x" * 1_000] * 50}


async def full_turn(baller: Baller, **where: Any) -> str:
    """Record a turn whose calls and context are all objects; return the message's identifier."""
    async with baller.turn(**{"user_id": "u", "server_id": "s", **where}, content="canary question") as turn:
        await turn.relevance(is_relevant=True, raw_response="r" * 20_000)
        await turn.intent("match_result", entities=[{"name": "Arsenal"}])
        await turn.context(BIG)
        async with turn.api_call("/fixtures", {"a": 1}) as api:
            api.response(200, BIG)
        async with turn.llm_call(provider="p", model="m", purpose="main_response") as llm:
            llm.result("p" * 50_000, "t" * 50_000)
        await turn.reply("canary answer")
        return turn.message_id


async def stored(baller: Baller) -> dict[str, int]:
    """Return how many records each table holds, hidden ones included, how many objects there are, and how many documents."""
    core = baller.store.core
    out = {}
    for name in core.schema.tables:
        count, after = 0, None
        while True:
            page = await core.records.scan(name, after=after, limit=500)
            count += len(page.records)
            after = page.last
            if after is None:
                break
        out[name] = count
    system = (await core.records.scan("palaver_system", after=None, limit=1_000)).records
    # The trace of a job that removed an object says of nobody anything, and goes within the hour.
    out["claims and jobs"] = len([row for row in system if row["scope"] in ("unique", "cascade", "blob", "token") and row["body"] != {}])
    out["objects"] = len([info async for info in core.blobs.list()])
    out["documents"] = len(await core.search.ids("baller-conversations", "", 100))
    return {name: count for name, count in out.items() if count}


async def upkeep(baller: Baller) -> None:
    await baller.store.sweep()
    await baller.store.settle()
    await baller.store.sweep()


async def test_after_31_days_there_are_zero_bytes_anywhere(baller: Baller, clock: palaver.ManualClock) -> None:
    for number in range(3):
        await full_turn(baller, user_id=f"u{number}")
    await baller.store.settle()
    assert {"baller-messages", "baller-conversations", "objects", "documents"} <= set(await stored(baller))
    clock.advance(palaver.days(31))
    await upkeep(baller)
    # Who was seen when outlives the conversations, so that the quarterly purge finds inactive users.
    assert {"baller-user-activity": 3} == await stored(baller)
    assert [] == list(await baller.search("canary"))


async def test_rows_of_calls_end_after_a_week_and_their_objects_after_a_month(baller: Baller, clock: palaver.ManualClock) -> None:
    message_id = await full_turn(baller)
    message = await baller.message(message_id)
    assert 4 == len(await baller.stored_objects(message))
    clock.advance(palaver.days(8))
    await upkeep(baller)
    assert [] == await found(baller, patterns.api_calls_of_message(message_id))
    assert [] == await found(baller, patterns.llm_calls_of_message(message_id))
    assert 4 == len(await baller.stored_objects(message))
    assert (1, 1) == (
        (await baller.message(message_id)).processing_metadata.api_calls,
        (await baller.message(message_id)).processing_metadata.llm_calls,
    )
    clock.advance(palaver.days(21.5))
    await upkeep(baller)
    assert 4 == len(await baller.stored_objects(message))
    clock.advance(palaver.days(1))
    await upkeep(baller)
    assert [] == await baller.stored_objects(message)


async def test_with_60_days_every_reference_resolves_to_the_end(opened: Opened, clock: palaver.ManualClock) -> None:
    days = palaver.days(60)
    keep = Retention(conversations=days, messages=days, api_interactions=days, llm_interactions=days)
    async with opened(retention=keep) as baller:
        message_id = await full_turn(baller)
        clock.advance(palaver.days(59))
        await upkeep(baller)
        message = await baller.message(message_id)
        [api] = await found(baller, patterns.api_calls_of_message(message_id))
        [llm] = await found(baller, patterns.llm_calls_of_message(message_id))
        assert (BIG, BIG) == (message.context, api.response)
        assert llm.exchange is not None
        assert "p" * 50_000 == llm.exchange.prompt
        clock.advance(palaver.days(2))
        await upkeep(baller)
        assert {"baller-user-activity": 1} == await stored(baller)


async def test_a_conversation_lives_as_long_as_it_goes_on_and_its_messages_their_own_time(
    baller: Baller, clock: palaver.ManualClock
) -> None:
    for _ in range(5):
        async with baller.turn(user_id="u", content="?", conversation_id="c") as turn:
            await turn.reply("!")
        clock.advance(palaver.days(20))
        await upkeep(baller)
    assert 10 == (await baller.conversation("u", "c")).metrics.message_count
    assert 2 == len(await found(baller, patterns.messages_of_conversation("c")))
    clock.advance(palaver.days(11))
    await upkeep(baller)
    assert {"baller-user-activity": 1} == await stored(baller)


async def test_an_expired_message_is_gone_for_every_verb_before_any_sweep(baller: Baller, clock: palaver.ManualClock) -> None:
    message_id = await full_turn(baller)
    await baller.store.settle()
    clock.advance(palaver.days(31))
    assert await baller.store.find(Message.by_platform_id(message_id)) is None
    assert [] == await found(baller, patterns.messages_of_user("u"))
    assert 0 == await baller.store.count(patterns.conversations_of_server("s"))
    assert [] == list(await baller.search("canary"))


async def test_deleting_a_conversation_leaves_no_orphan(baller: Baller) -> None:
    await full_turn(baller, conversation_id="c")
    await full_turn(baller, user_id="v", conversation_id="d")
    before = await stored(baller)
    await baller.delete_conversation("v", "d")
    await upkeep(baller)
    after = await stored(baller)
    assert {name: count // 2 for name, count in before.items() if name != "baller-user-activity"} == {
        name: count for name, count in after.items() if name not in ("baller-user-activity", "documents")
    }


async def test_no_expiry_is_more_than_ten_years_ahead(baller: Baller, clock: palaver.ManualClock) -> None:
    from datetime import timedelta

    late = clock.now() + timedelta(days=365 * 1_000)
    with pytest.raises(Validation):
        await baller.store.create(Conversation(user_id="u", conversation_id="c", expires=late))


async def test_what_expires_does_so_within_ten_years(baller: Baller, clock: palaver.ManualClock) -> None:
    message_id = await full_turn(baller)
    await baller.entities.put("team", "1", "One")
    ends = [(await baller.message(message_id)).expires]
    ends += [call.expires for call in await found(baller, patterns.api_calls_of_message(message_id))]
    ends += [team.expires for team in await found(baller, patterns.entities_of_type("team"))]
    assert all(end is not None and clock.now() < end < clock.now() + palaver.days(3_650) for end in ends)
    assert 3 == len(ends)


async def test_inactive_users_are_found_the_longest_away_first(baller: Baller, clock: palaver.ManualClock) -> None:
    for name in ("first", "second", "third"):
        await full_turn(baller, user_id=name)
        clock.advance(palaver.days(1))
    await full_turn(baller, user_id="first")
    assert ["second", "third"] == [name async for name in baller.inactive_users(clock.now())]


async def test_metrics_and_usage_outlive_what_they_count(opened: Opened, clock: palaver.ManualClock) -> None:
    day = clock.now().date()
    async with opened(projections=PROJECTIONS) as baller:
        for mode in ("production", "production", "beta"):
            await full_turn(baller, app_mode=mode)
        await baller.store.settle()
        for _ in range(2):
            points = await baller.metrics.read(day, day, category="intent")
            assert [("beta", "match_result", 1), ("production", "match_result", 2)] == [(p.mode, p.name, p.values.count) for p in points]
            [line] = await baller.usage.report(day, day, by=("provider", "model", "purpose"))
            assert (("p", "m", "main_response"), 3) == (line.group, line.used.calls)
            clock.advance(palaver.days(31))
            await upkeep(baller)
        assert 2 == len(await baller.metrics.read(day, day, category="success", name="api_call"))


async def test_counting_again_from_the_beginning_gives_the_same_numbers(opened: Opened, clock: palaver.ManualClock) -> None:
    day = clock.now().date()
    async with opened(projections=PROJECTIONS) as baller:
        for number in range(5):
            await full_turn(baller, user_id=f"{number}")
        await baller.store.settle()
        before = await baller.metrics.read(day, day)
        await baller.store.rebuild("metrics")
        assert before == await baller.metrics.read(day, day)


def test_every_kind_of_record_says_whose_it_is_or_holds_nothing_personal() -> None:
    for entity in ENTITIES:
        declared = entity.declared()
        assert declared.subject is not None or not declared.personal, entity.__name__


@pytest.mark.parametrize("does", ["follows", "sets", "rates", "follows up"])
async def test_who_only_follows_teams_or_rates_is_seen_too(baller: Baller, clock: palaver.ManualClock, does: str) -> None:
    answer = await full_turn(baller)
    if does == "follows up":
        await baller.give_feedback(answer, user_id="quiet", rating="positive")
    clock.advance(palaver.days(20))
    match does:
        case "follows":
            await baller.follow_team("quiet", "Arsenal")
        case "sets":
            await baller.set_preferences("quiet", username="Ann")
        case "rates":
            await baller.give_feedback(answer, user_id="quiet", rating="positive", follow_up="Thanks.")
        case _:
            await baller.add_follow_up(answer, user_id="quiet", text="Thanks.")
    assert "quiet" not in [name async for name in baller.inactive_users(clock.now())]
    assert "quiet" in [name async for name in baller.inactive_users(clock.now() + palaver.days(1))]
