"""Users across channels: one history for linked identities, one user per identity, and merges that can be cut off anywhere."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

import palaver
from palaver.blueprints.simple_agent import Settings, SimpleAgent, patterns
from palaver.blueprints.simple_agent.people import Merged
from palaver.blueprints.simple_agent.schema import Exposure, FeatureFlag, Identity, User
from palaver.errors import Conflict, Duplicate, NotFound, Unavailable, Validation
from palaver.store import Store
from tests.blueprints.simple_agent.given import ask, found


async def said(agent: SimpleAgent, user_id: str) -> list[str]:
    return [message.content for message in (await agent.history(user_id)).items][::-1]


async def test_one_person_on_discord_and_slack_has_one_history(agent: SimpleAgent) -> None:
    discord = await ask(agent, "From Discord.", "Yes.")
    await agent.people.link(discord.user_id, "slack", "U1", username="Ann")
    slack = await ask(agent, "From Slack.", "Still you.", channel="slack", who="U1")
    assert discord.user_id == slack.user_id
    assert discord.conversation_id == slack.conversation_id
    assert ["From Discord.", "Yes.", "From Slack.", "Still you."] == await said(agent, discord.user_id)
    channels = [message.channel_type for message in await agent.recent_messages(discord.conversation_id)]
    assert ["discord", "discord", "slack", "slack"] == channels


async def test_eight_first_messages_at_once_make_one_user(agent: SimpleAgent) -> None:
    users = await asyncio.gather(*(agent.people.resolve("telegram", "7") for _ in range(8)))
    assert 1 == len({user.user_id for user in users})
    assert 1 == len(await found(agent, patterns.users_by_id()))


async def test_linking_twice_is_linking_once(agent: SimpleAgent) -> None:
    user = await agent.people.resolve("discord", "ann")
    linked = await agent.people.link(user.user_id, "slack", "U1")
    assert linked == await agent.people.link(user.user_id, "slack", "U1")
    assert 2 == len(await agent.people.identities(user.user_id))


async def test_somebody_elses_identity_is_not_taken(agent: SimpleAgent) -> None:
    ann, bob = await agent.people.resolve("discord", "ann"), await agent.people.resolve("slack", "bob")
    with pytest.raises(Duplicate):
        await agent.people.link(ann.user_id, "slack", "bob")
    assert bob.user_id == (await agent.people.resolve("slack", "bob")).user_id
    with pytest.raises(NotFound):
        await agent.people.link("nobody", "web", "1")


async def test_an_unlinked_channel_is_somebody_new_and_the_history_stays(agent: SimpleAgent) -> None:
    turn = await ask(agent)
    await agent.people.link(turn.user_id, "slack", "U1")
    await agent.people.unlink("slack", "U1")
    await agent.people.unlink("slack", "U1")
    assert turn.user_id != (await agent.people.resolve("slack", "U1")).user_id
    assert 2 == len(await said(agent, turn.user_id))


async def test_the_last_channel_is_not_unlinked_also_by_two_at_once(agent: SimpleAgent) -> None:
    user = await agent.people.resolve("discord", "ann")
    with pytest.raises(Validation):
        await agent.people.unlink("discord", "ann")
    await agent.people.link(user.user_id, "slack", "U1")
    both = await asyncio.gather(agent.people.unlink("discord", "ann"), agent.people.unlink("slack", "U1"), return_exceptions=True)
    assert [type(None), Validation] == sorted((type(each) for each in both), key=lambda kind: kind.__name__, reverse=False)
    assert 1 == len(await agent.people.identities(user.user_id))


async def test_tenants_have_users_of_their_own(agent: SimpleAgent) -> None:
    other = SimpleAgent(agent.store, settings=Settings(tenant="other"))
    mine, theirs = await ask(agent, "Mine."), await ask(other, "Theirs.")
    assert mine.user_id != theirs.user_id
    assert ["Mine.", "Two invoices."] == await said(agent, mine.user_id)
    with pytest.raises(NotFound):
        async with other.message("discord", "ann", "?", conversation_id=mine.conversation_id):
            pass


async def test_a_preference_is_set_and_taken_back(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    user = await agent.people.resolve("discord", "ann")
    clock.advance(palaver.hours(1))
    changed = await agent.people.prefer(user.user_id, "claude")
    assert ("claude", clock.now()) == (changed.preferred_model, changed.updated_at)
    assert (await agent.people.prefer(user.user_id, None)).preferred_model is None
    assert {"timezone": "UTC"} == (await agent.people.change(user.user_id, metadata={"timezone": "UTC"})).metadata
    with pytest.raises(NotFound):
        await agent.people.prefer("nobody", "claude")


# --- merging ----------------------------------------------------------------------------------------------------------


async def two(agent: SimpleAgent, clock: palaver.ManualClock) -> tuple[str, str]:
    """Make the same person twice, with something of every kind for both."""
    users = []
    for who in ("first", "second"):
        turn = await ask(agent, f"From {who}.", f"To {who}.", who=who)
        await agent.end(turn.conversation_id)
        turn = await ask(agent, f"Again from {who}.", None, who=who)
        await agent.give_feedback(
            (await agent.recent_messages(turn.conversation_id))[0].message_id, user_id=turn.user_id, rating="positive"
        )
        await agent.store.create(Exposure(user=turn.user_id, experiment="e", variant=who, exposed=clock.now()))
        users.append(turn.user_id)
        clock.advance(palaver.hours(25))
    await agent.store.create(
        FeatureFlag(namespace="flags", flag="a", scope="user", target=users[0], value=True, user=users[0], changed=clock.now())
    )
    await agent.people.prefer(users[0], "claude")
    return users[0], users[1]


async def held(agent: SimpleAgent, user_id: str) -> dict[str, Any]:
    """Everything that names a user."""
    return {
        "identities": sorted(each.channel_user_id for each in await found(agent, patterns.identities_of_user(user_id))),
        "conversations": len(await found(agent, patterns.conversations_of_user(user_id))),
        "active": len([each for each in await found(agent, patterns.conversations_of_user(user_id)) if each.is_active]),
        "said": sorted(await said(agent, user_id)),
        "turns": len(await found(agent, patterns.turns_of_user(user_id))),
        "calls": len(await found(agent, patterns.model_calls_of_user(user_id))),
        "ratings": len(await found(agent, patterns.feedback_of_user(user_id))),
        "days": [each.day for each in await found(agent, patterns.days_of_user(user_id))],
        "variants": [each.variant for each in await found(agent, patterns.exposures_of_user(user_id))],
        "flags": [each.target for each in await found(agent, patterns.flags_of_user(user_id))],
    }


WHOLE = {
    "identities": ["first", "second"],
    "conversations": 4,
    "active": 1,
    "said": sorted(["From first.", "To first.", "Again from first.", "From second.", "To second.", "Again from second."]),
    "turns": 4,
    "calls": 4,
    "ratings": 2,
    "days": ["2026-01-02", "2026-01-01"],
    "variants": ["second"],
}


async def test_a_merge_moves_everything_and_the_later_conversation_stays_active(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    gone, into = await two(agent, clock)
    later = (await agent.active_conversation(into)).conversation_id  # type: ignore[union-attr]
    merged = await agent.people.merge(gone, into=into)
    assert Merged(1, 2, 3, 2, 1, 1, 2, True) == merged
    assert {**WHOLE, "flags": [into]} == await held(agent, into)
    assert later == (await agent.active_conversation(into)).conversation_id  # type: ignore[union-attr]
    assert "claude" == (await agent.people.get(into)).preferred_model
    assert await agent.store.find(User.at(gone)) is None
    assert {"conversations": 0, "said": [], "identities": []} == {
        name: value for name, value in (await held(agent, gone)).items() if name in ("conversations", "said", "identities")
    }
    assert into == (await ask(agent, "Who am I?", who="first")).user_id
    assert Merged(finished=True) == await agent.people.merge(gone, into=into)


async def test_a_merge_keeps_what_either_row_said(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    older = await ask(agent, who="ann")
    clock.advance(palaver.days(1))
    newer = await ask(agent, channel="slack", who="U1")
    await agent.people.change(older.user_id, preferred_model="mine", metadata={"zone": "UTC", "pet": "cat"})
    await agent.people.change(newer.user_id, metadata={"zone": "CET", "plan": "pro"})
    gone, keep = await agent.people.get(older.user_id), await agent.people.get(newer.user_id)
    await agent.people.merge(gone.user_id, into=keep.user_id)
    one = await agent.people.get(keep.user_id)
    assert ("mine", {"zone": "CET", "pet": "cat", "plan": "pro"}) == (one.preferred_model, one.metadata)
    assert (gone.created_at, keep.last_seen) == (one.created_at, one.last_seen)
    clock.advance(palaver.days(1))
    later = await ask(agent, channel="web", who="ann again")
    await agent.people.merge(later.user_id, into=one.user_id)
    assert clock.now() == (await agent.people.get(one.user_id)).last_seen


async def test_being_there_is_noted_on_each_day_and_every_ten_minutes(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    clock.advance(timedelta(hours=23, minutes=57))
    ann = (await ask(agent)).user_id
    for minutes, noted in ((1, False), (3, True), (9, False), (1, True)):  # 23:58, 00:01, 00:10, 00:11
        clock.advance(timedelta(minutes=minutes))
        await ask(agent)
        assert noted == (clock.now() == (await agent.people.get(ann)).last_seen)
    assert ["2026-01-02", "2026-01-01"] == [each.day for each in await found(agent, patterns.days_of_user(ann))]


async def test_a_merge_into_the_older_keeps_the_later_conversation_active_too(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    into, gone = await two(agent, clock)
    later = (await agent.active_conversation(gone)).conversation_id  # type: ignore[union-attr]
    await agent.people.merge(gone, into=into)
    assert later == (await agent.active_conversation(into)).conversation_id  # type: ignore[union-attr]


async def test_a_merge_cut_off_after_any_write_is_finished_by_asking_again(
    agent: SimpleAgent, clock: palaver.ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, into = await two(agent, clock)
    write, left = Store.write, 0

    async def cut(store: Store, batch: Any, **options: Any) -> Any:
        nonlocal left
        if not left:
            raise Unavailable("cut off")
        written = await write(store, batch, **options)
        left -= 1
        return written

    cuts = 0
    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", cut)
        while cuts < 40:
            # The first write marks the user again, so each attempt gets one write further.
            left = 2
            try:
                merged = await agent.people.merge(gone, into=into)
            except Unavailable:
                cuts += 1
                continue
            assert merged.finished
            break
    assert 10 < cuts < 20
    assert {**WHOLE, "flags": [into]} == await held(agent, into)


async def test_a_turn_under_way_goes_over_with_its_conversation(agent: SimpleAgent) -> None:
    into = (await agent.people.resolve("slack", "U1")).user_id
    async with agent.message("discord", "ann", "A long question.") as turn:
        gone = turn.user_id
        await agent.people.merge(gone, into=into)
        async with turn.llm_call(provider="openai", model="gpt-4", purpose="reply") as llm:
            llm.result("A long question.", "An answer.", {"input_tokens": 10, "output_tokens": 3})
        await turn.reply("An answer.")
        assert into == turn.user_id
    assert ["A long question.", "An answer."] == await said(agent, into)
    assert [into] == [call.user_id for call in await found(agent, patterns.model_calls_of_user(into))]


async def test_nothing_begins_for_a_user_who_is_being_merged(agent: SimpleAgent) -> None:
    gone, into = await agent.people.resolve("discord", "ann"), await agent.people.resolve("slack", "U1")
    await agent.store.patch(gone, set={"merged_into": into.user_id})
    assert into.user_id == (await agent.people.resolve("discord", "ann")).user_id
    with pytest.raises(NotFound):
        await agent.people.link(gone.user_id, "web", "1")
    third = await agent.people.resolve("web", "3")
    with pytest.raises(Conflict):
        await agent.people.merge(gone.user_id, into=third.user_id)
    with pytest.raises(Conflict):
        await agent.people.merge(third.user_id, into=gone.user_id)
    with pytest.raises(Validation):
        await agent.people.merge(third.user_id, into=third.user_id)
    with pytest.raises(NotFound):
        await agent.people.merge(third.user_id, into="nobody")


async def test_a_conversation_that_was_about_to_begin_when_its_user_was_merged_is_the_other_users(
    agent: SimpleAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, into = await agent.people.resolve("discord", "ann"), await agent.people.resolve("slack", "U1")
    write = Store.write
    merged: list[bool] = []

    async def meanwhile(store: Store, batch: Any, **options: Any) -> Any:
        if not merged:
            merged.append(True)
            await write(store, palaver.Batch().patch(gone, set={"merged_into": into.user_id}))
        return await write(store, batch, **options)

    monkeypatch.setattr(Store, "write", meanwhile)
    turn = await ask(agent)
    assert into.user_id == turn.user_id
    assert [] == await found(agent, patterns.conversations_of_user(gone.user_id))


async def test_the_key_of_an_identity_allows_one_user(agent: SimpleAgent) -> None:
    user = await agent.people.resolve("discord", "ann")
    other = await agent.people.resolve("discord", "bob")
    with pytest.raises(palaver.errors.AlreadyExists):
        await agent.store.create(Identity(channel_type="discord", channel_user_id="ann", user_id=other.user_id))
    assert user.user_id == (await agent.people.resolve("discord", "ann")).user_id
