"""The two search indexes: what they find, what narrows them, and what they never hold."""

from __future__ import annotations

import palaver
from palaver import F
from palaver.blueprints.baller import Baller, Settings
from palaver.blueprints.baller.schema import Sentiment
from tests.blueprints.baller.conftest import Opened
from tests.blueprints.baller.given import ask


async def test_messages_and_summaries_are_found_by_their_words(baller: Baller) -> None:
    await ask(baller, "Did Arsenal win on Saturday?", conversation_id="c")
    await ask(baller, "When does Chelsea play?", "On Sunday.", user_id="u2", conversation_id="d")
    await baller.summarise("u1", "c", "A talk about Saturday's derby.")
    await baller.store.settle()
    found = await baller.search("saturday")
    assert {("c", None), ("c", "Did Arsenal win on Saturday?")} == {
        (hit.conversation_id, hit.content if hit.message_id else None) for hit in found
    }
    assert ["d"] == [hit.conversation_id for hit in await baller.search("sunday", user_id="u2")]
    assert [] == list(await baller.search("sunday", user_id="u1"))


async def test_messages_are_found_and_counted_by_entity_intent_and_time(baller: Baller) -> None:
    question, _ = await ask(baller, "Did the Gunners win?")
    await ask(baller, "And the other match?", user_id="u2", app_mode="beta")
    await baller.store.settle()
    hits = await baller.search_conversations("gunners", where=F("entities.normalized_name") == "arsenal")
    assert [question] == [getattr(hit.entity, "message_id", None) for hit in hits]
    counted = await baller.search_conversations(where=F("intent.name") == "match_result", facets=["app_mode", "entities.normalized_name"])
    assert {"production": 1, "beta": 1} == counted.facets["app_mode"]
    assert {"arsenal": 2} == counted.facets["entities.normalized_name"]
    assert 1 == (await baller.search_conversations(where=(F("intent.name") == "match_result") & (F("app_mode") == "beta"))).total


async def test_conversations_are_found_and_counted_by_every_plain_attribute(opened: Opened, clock: palaver.ManualClock) -> None:
    async with opened(settings=Settings("development", "development")) as baller:
        async with baller.turn(user_id="u1", content="?") as turn:
            async with turn.api_call("/fixtures") as call:
                call.response(503)
            await turn.reply("Later.")
        first = clock.now()
        clock.advance(palaver.days(1))
        await ask(baller, user_id="u2", app_mode="beta")
        await baller.store.settle()

        async def users(where: palaver.Condition) -> set[str]:
            return {getattr(hit.entity, "user_id", "") for hit in await baller.search_conversations(where=where)}

        assert {"u1"} == await users(F("created_at") <= first)
        assert {"u1"} == await users(F("metrics.error_count") > 0)
        assert {"u1", "u2"} == await users(F("metrics.message_count") == 2)
        counted = await baller.search_conversations(where=F("environment") == "development", facets=["app_mode"])
        assert {"development": 1, "beta": 1} == counted.facets["app_mode"]


async def test_feedback_is_found_with_what_it_is_about(baller: Baller) -> None:
    _, first = await ask(baller)
    _, second = await ask(baller, reply="I do not know.", user_id="u2")
    await baller.give_feedback(first, user_id="u1", rating="positive", follow_up="Very quick, thanks")
    await baller.give_feedback(second, user_id="u2", rating="negative", follow_up="Not helpful", sentiment=Sentiment(label="negative"))
    await baller.store.settle()
    [hit] = await baller.search_feedback("helpful", where=F("rating") == "negative")
    assert second == getattr(hit.entity, "message_id", None)
    every = await baller.search_feedback(facets=["rating", "intent_name", "sentiment.label"])
    assert {"positive": 1, "negative": 1} == every.facets["rating"]
    assert {"match_result": 2} == every.facets["intent_name"]
    assert {"negative": 1} == every.facets["sentiment.label"]


async def test_two_thousand_different_names_in_free_maps_are_all_accepted(baller: Baller) -> None:
    for number in range(20):
        async with baller.turn(user_id="u", content="canary", conversation_id="c") as turn:
            params = {f"parameter {number}.{n}": n if n % 2 else str(n) for n in range(100)}
            await turn.intent("standings", api_params=params)
            await turn.reply("…")
    await baller.store.settle()
    assert 20 == (await baller.search_conversations("canary", where=F("message_type") == "user")).total
    assert 0 == (await baller.search_conversations("parameter")).total


async def test_raw_responses_and_explanations_are_not_searched(baller: Baller) -> None:
    async with baller.turn(user_id="u", content="?") as turn:
        await turn.relevance(is_relevant=True, explanation="canary", raw_response="canary")
        await turn.context({"secret": "canary"})
        await turn.reply("…")
    await baller.store.settle()
    assert [] == list(await baller.search("canary"))
