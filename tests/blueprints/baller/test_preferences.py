"""Preferences per server and everywhere."""

from __future__ import annotations

import asyncio

import pytest

import palaver
from palaver.blueprints.baller import Baller, patterns
from palaver.blueprints.baller.schema import GLOBAL, NotificationSettings
from palaver.errors import PalaverError
from tests.blueprints.baller.given import found


async def test_direct_messages_have_preferences_that_no_servers_index_shows(baller: Baller) -> None:
    await baller.set_preferences("u", followed_teams=["Arsenal"])
    stored = await baller.preferences("u")
    assert stored is not None
    assert (GLOBAL, ["Arsenal"]) == (stored.server_id, stored.followed_teams)
    assert [] == await found(baller, patterns.preferences_of_server(GLOBAL))


async def test_a_servers_preferences_come_before_the_global_ones(baller: Baller) -> None:
    assert [] == (await baller.effective_preferences("u", "s")).followed_teams
    await baller.set_preferences("u", followed_teams=["Arsenal"])
    assert ["Arsenal"] == (await baller.effective_preferences("u", "s")).followed_teams
    await baller.set_preferences("u", "s", followed_teams=["Chelsea"])
    assert ["Chelsea"] == (await baller.effective_preferences("u", "s")).followed_teams
    assert {GLOBAL, "s"} == {held.server_id for held in await found(baller, patterns.preferences_of_user("u"))}


async def test_changing_one_field_keeps_the_others(baller: Baller, clock: palaver.ManualClock) -> None:
    made = await baller.set_preferences("u", "s", username="Ann", preferred_leagues=["en.1"])
    clock.advance(palaver.hours(1))
    changed = await baller.set_preferences("u", "s", notification_settings=NotificationSettings(score_updates=True))
    assert ("Ann", ["en.1"], made.created_at, clock.now()) == (
        changed.username,
        changed.preferred_leagues,
        changed.created_at,
        changed.last_updated,
    )


async def test_an_unknown_field_is_refused(baller: Baller) -> None:
    await baller.set_preferences("u", "s", username="Ann")
    with pytest.raises(PalaverError):
        await baller.set_preferences("u", "s", followed_team="Arsenal")


async def test_teams_followed_at_the_same_time_are_all_followed(baller: Baller) -> None:
    teams = [f"Team {number}" for number in range(8)]
    await asyncio.gather(*(baller.follow_team("u", team, "s") for team in teams))
    held = await baller.preferences("u", "s")
    assert held is not None
    assert sorted(teams) == sorted(held.followed_teams)
    await baller.follow_team("u", teams[0], "s")
    await asyncio.gather(*(baller.unfollow_team("u", team, "s") for team in teams[:4]))
    held = await baller.preferences("u", "s")
    assert held is not None
    assert sorted(teams[4:]) == sorted(held.followed_teams)


async def test_everybodys_preferences_of_one_server_are_listed_and_changed(baller: Baller, clock: palaver.ManualClock) -> None:
    for number in range(150):
        await baller.set_preferences(f"u{number:03}", "s", username=f"Fan {number}")
    await baller.set_preferences("u000", "other")
    clock.advance(palaver.hours(1))
    assert 150 == await baller.change_server_preferences("s", notification_settings=NotificationSettings(game_reminders=True))
    changed = await found(baller, patterns.preferences_of_server("s"))
    assert [True] * 150 == [held.notification_settings.game_reminders for held in changed]
    other = await baller.preferences("u000", "other")
    assert other is not None
    assert not other.notification_settings.game_reminders
