"""Answers and feedback of a blueprint that keeps turns beside messages, and whose ratings have a plain time."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import Palaver

pytestmark = pytest.mark.usefixtures("agent")
ANY = ("--where", "timestamp>=2000-01-01")


def stored(query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect("palaver-demo.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--by", "day"),
        ("--by", "channel"),
        ("--where", "channel_type=web"),
        ("--where", "channel_type=web", "--by", "day"),
    ],
)
def test_answers_counted_per_day_equal_what_a_scan_adds_up(
    palaver: Palaver, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    from palaver.cli import reading

    scanned = palaver("stats", "answers", *options, *ANY, "--since", "60d").json["data"]

    monkeypatch.setattr(reading, "scan", None)
    assert scanned
    assert scanned == palaver("stats", "answers", *options, "--since", "60d").json["data"]


@pytest.mark.parametrize("how", [(), ANY])
def test_a_turn_that_has_not_ended_is_no_answer(palaver: Palaver, how: tuple[str, ...]) -> None:
    ended = stored(
        "SELECT channel_type, count(*), sum(status != 'answered') FROM turns "
        "WHERE status IN ('answered', 'unanswered', 'failed') GROUP BY 1 ORDER BY 1"
    )
    rows = palaver("stats", "answers", *how, "--since", "60d").json["data"]

    assert ended == [(row["channel_type"], row["count"], row["failures"]) for row in rows]
    assert 0 < sum(row["failures"] for row in rows)


def test_a_turn_cut_off_is_left_out_by_a_scan(palaver: Palaver, agent: Path) -> None:
    before = sum(row["count"] for row in palaver("stats", "answers", *ANY, "--since", "60d").json["data"])
    connection = sqlite3.connect(agent)
    connection.execute("UPDATE turns SET status = 'in_progress' WHERE rowid = (SELECT min(rowid) FROM turns WHERE status = 'answered')")
    connection.commit()
    connection.close()

    assert before - 1 == sum(row["count"] for row in palaver("stats", "answers", *ANY, "--since", "60d").json["data"])


def test_feedback_is_read_through_the_index_of_ratings(palaver: Palaver, monkeypatch: pytest.MonkeyPatch) -> None:
    from palaver.cli import reading

    monkeypatch.setattr(reading, "scan", None)
    by_rating = palaver("stats", "feedback", "--since", "60d", "--by", "rating").json["data"]
    by_channel = palaver("stats", "feedback", "--since", "60d").json["data"]

    assert stored("SELECT rating, count(*) FROM feedback GROUP BY 1 ORDER BY 1") == [(row["rating"], row["ratings"]) for row in by_rating]
    liked = "SELECT channel_type, count(*), sum(rating = 'positive'), sum(rating = 'negative') FROM feedback GROUP BY 1 ORDER BY 1"
    assert stored(liked) == [(row["channel_type"], row["ratings"], row["positive"], row["negative"]) for row in by_channel]


def test_what_a_schema_has_no_records_of_is_said(palaver: Palaver) -> None:
    ran = palaver("stats", "calls")

    assert (2, "stats") == (ran.code, ran.problem["code"])
    assert "endpoint_template" in ran.problem["hint"]
