"""What an excerpt leaves alone."""

from __future__ import annotations

from palaver.search.excerpt import highlight


def test_dashes_quotes_and_bullets_stay_in_an_excerpt() -> None:
    assert "**Arsenal** 2–0 “Chelsea” • 3—1" == highlight("Arsenal 2–0 “Chelsea” • 3—1", "arsenal")


def test_marks_of_direction_go_from_an_excerpt() -> None:
    assert "**Arsenal** won" == highlight("Arsenal \u202ewon\u202c\u2066", "arsenal")
