"""Feedback: one rating per person and answer, with the answer as it was."""

from __future__ import annotations

import pytest

import palaver
from palaver.blueprints.baller import PROJECTIONS, Baller, patterns
from palaver.blueprints.baller.schema import Sentiment
from palaver.errors import ConditionFailed, NotFound
from tests.blueprints.baller.conftest import Opened
from tests.blueprints.baller.given import ask, found


async def test_two_people_rate_one_answer(baller: Baller) -> None:
    _, answer = await ask(baller)
    await baller.give_feedback(answer, user_id="u1", rating="positive")
    await baller.give_feedback(answer, user_id="u2", rating="negative")
    rated = await found(baller, patterns.feedback_on_message(answer))
    assert [("u1", "positive"), ("u2", "negative")] == [(given.user_id, given.rating) for given in rated]


async def test_rating_again_replaces_ones_own_and_keeps_the_follow_up(baller: Baller, clock: palaver.ManualClock) -> None:
    _, answer = await ask(baller)
    await baller.give_feedback(answer, user_id="u2", rating="positive")
    await baller.add_follow_up(answer, user_id="u2", text="The date was missing.", sentiment=Sentiment(label="negative", score=-0.5))
    clock.advance(palaver.hours(1))
    await baller.give_feedback(answer, user_id="u2", rating="negative")
    [given] = await found(baller, patterns.feedback_of_user("u2"))
    assert given.sentiment is not None
    assert ("negative", "The date was missing.", "negative", clock.now()) == (
        given.rating,
        given.follow_up_feedback,
        given.sentiment.label,
        given.rating_timestamp,
    )


async def test_feedback_keeps_the_answer_its_intent_and_its_place(baller: Baller) -> None:
    _, answer = await ask(baller, app_mode="beta")
    given = await baller.give_feedback(answer, user_id="u2", rating="positive", follow_up="Fast!")
    assert ("Yes, 2–0.", "match_result", "beta", "s1", "u1", "Fast!") == (
        given.response_snapshot,
        given.intent_name,
        given.app_mode,
        given.server_id,
        given.owner_id,
        given.follow_up_feedback,
    )
    assert [given] == await found(baller, patterns.feedback_in_mode("beta"))
    assert [] == await found(baller, patterns.feedback_in_mode("production"))


async def test_nobody_rates_what_is_not_there(baller: Baller) -> None:
    with pytest.raises(NotFound):
        await baller.give_feedback("1", user_id="u", rating="positive")
    _, answer = await ask(baller)
    with pytest.raises(ConditionFailed):
        await baller.add_follow_up(answer, user_id="u", text="?")


async def test_feedback_outlives_the_conversation(baller: Baller, clock: palaver.ManualClock) -> None:
    _, answer = await ask(baller)
    await baller.give_feedback(answer, user_id="u2", rating="positive")
    clock.advance(palaver.days(400))
    await baller.store.sweep()
    [given] = await found(baller, patterns.feedback_on_message(answer))
    assert "Yes, 2–0." == given.response_snapshot
    assert "Late." == (await baller.add_follow_up(answer, user_id="u2", text="Late.")).follow_up_feedback


async def test_forgetting_a_person_takes_them_out_of_other_peoples_feedback(baller: Baller) -> None:
    _, answer = await ask(baller)
    await baller.give_feedback(answer, user_id="u1", rating="negative", follow_up="canary")
    await baller.give_feedback(answer, user_id="u2", rating="positive")
    await baller.set_preferences("u1", username="canary")
    removed = await baller.erase_user("u1")
    assert {"Feedback": 1} == removed.masked
    [given] = await found(baller, patterns.feedback_on_message(answer))
    assert ("u2", "positive", None, None) == (given.user_id, given.rating, given.response_snapshot, given.owner_id)
    assert await baller.preferences("u1") is None
    assert [] == await found(baller, patterns.conversations_of_user("u1"))
    assert [] == list(await baller.search("canary"))


async def test_ratings_are_counted_as_they_are_now(opened: Opened, clock: palaver.ManualClock) -> None:
    begun = clock.now()
    async with opened(projections=PROJECTIONS) as baller:
        answers = [(await ask(baller, app_mode=mode))[1] for mode in ("production", "production", "beta")]
        for answer in answers:
            await baller.give_feedback(answer, user_id="r", rating="positive")
        await baller.store.settle()
        clock.advance(palaver.days(2))
        await baller.give_feedback(answers[0], user_id="r", rating="negative")
        await baller.give_feedback(answers[0], user_id="s", rating="positive")
        rated = await baller.ratings_per_mode(begun, clock.now() + palaver.days(1))
        assert {"development": (0, 0), "beta": (1, 0), "production": (2, 1)} == {
            mode: (ratings.positive, ratings.negative) for mode, ratings in rated.items()
        }
        assert (2 / 3, None) == (rated["production"].share, rated["development"].share)
        # Who rates again is counted on the day they did.
        earlier = await baller.ratings_per_mode(begun, begun + palaver.days(1))
        assert (1, 0) == (earlier["production"].positive, earlier["production"].negative)
        day = clock.now().date()
        assert [] == await baller.metrics.read(begun.date(), day, category="feedback")


async def test_the_words_of_feedback_are_counted_once_a_person(baller: Baller, clock: palaver.ManualClock) -> None:
    begun = clock.now()
    _, answer = await ask(baller)
    _, other = await ask(baller, user_id="u2", app_mode="beta")
    await baller.give_feedback(answer, user_id="a", rating="negative", follow_up="Wrong DATE, wrong score!")
    await baller.give_feedback(other, user_id="b", rating="negative", follow_up="The date again")
    await baller.give_feedback(answer, user_id="c", rating="positive", follow_up="A date, thanks")
    await baller.give_feedback(answer, user_id="d", rating="negative")
    clock.advance(palaver.days(1))
    assert [("date", 2), ("again", 1), ("score", 1)] == await baller.feedback_words(begun, clock.now(), rating="negative", most=3)
    assert ("date", 3) == (await baller.feedback_words(begun, clock.now()))[0]
    assert [] == await baller.feedback_words(clock.now(), clock.now() + palaver.days(1))
