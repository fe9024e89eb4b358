"""`palaver stats --compare prev`: the period of the same length that went before, beside this one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from palaver.cli.counted import Period
from palaver.cli.exits import Exit
from tests.cli.conftest import Palaver

pytestmark = pytest.mark.usefixtures("demo")


@pytest.mark.parametrize("how", [(), ("--where", "prompt_tokens>=0")], ids=["counted", "scanned"])
def test_the_days_before_are_those_the_days_themselves_tell_of(palaver: Palaver, how: tuple[str, ...]) -> None:
    """The demonstration's six days end now: the three last ones, and the three before."""
    today = datetime.now(UTC).date()
    first, before = (f"{today - timedelta(days=days)}" for days in (2, 5))
    by_day = palaver("stats", "usage", "--by", "day", "--since", before, *how).json["data"]

    found = palaver("stats", "usage", "--by", "app_mode", "--since", first, "--compare", "prev", *how).json

    assert {"since": f"{before}T00:00:00+00:00", "until": f"{first}T00:00:00+00:00"} == found["previous"]
    for name in ("count", "prompt_tokens"):
        assert sum(row[name] for row in by_day if row["day"] >= first) == sum(row[name] for row in found["data"])
        assert sum(row[name] for row in by_day if row["day"] < first) == sum(
            row["previous"][name] for row in found["data"] if row["previous"]
        )
    assert any(row["previous"] for row in found["data"])


def test_who_is_only_in_one_period_is_shown_with_nothing_in_the_other(palaver: Palaver) -> None:
    nothing_before = palaver("stats", "feedback", "--since", "60d", "--compare", "prev").json["data"]
    by_user = palaver("stats", "feedback", "--since", "3d", "--by", "user", "--compare", "prev").json["data"]
    now_only = [row for row in by_user if row["previous"] is None]
    before_only = [row for row in by_user if not row["ratings"]]

    assert {None} == {row["previous"] for row in nothing_before}
    assert now_only
    assert before_only
    assert all(row["ratings"] for row in now_only)
    assert all(row["previous"]["ratings"] and row["share_positive"] is None for row in before_only)


def test_a_period_that_has_not_begun_is_refused(palaver: Palaver) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)

    assert Exit.USAGE == palaver("stats", "usage", "--since", f"{tomorrow:%Y-%m-%d}").code


def test_people_see_both_periods_one_below_the_other(palaver: Palaver) -> None:
    ran = palaver("stats", "usage", "--since", "2d", "--compare", "prev", "--human")
    lines = ran.out.splitlines()

    assert "period" in lines[0]
    assert len([line for line in lines if " now " in line]) == len([line for line in lines if " before " in line]) > 0
    assert "before: " in ran.err


@pytest.mark.parametrize("tokens", [("metrics",), ("database",), ("cache",), ("usage", "--by", "day")])
def test_what_has_nothing_before_it_is_not_compared(palaver: Palaver, tokens: tuple[str, ...]) -> None:
    ran = palaver("stats", *tokens, "--compare", "prev")

    assert (Exit.USAGE, "usage") == (ran.code, ran.problem["code"])


def test_a_period_before_is_as_long_in_whole_days_or_to_the_second() -> None:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    hours = Period(noon - timedelta(hours=12, minutes=30), noon)
    days = Period(noon - timedelta(days=2), noon).in_days()

    assert Period(noon - timedelta(hours=25), hours.start, over=True) == hours.before()
    assert (datetime(2026, 11, 15, tzinfo=UTC), datetime(2026, 11, 18, tzinfo=UTC)) == days.before()[:2]
    assert (days.start.date() - timedelta(days=3), days.start.date() - timedelta(days=1)) == days.before().days
