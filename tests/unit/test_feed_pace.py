"""How long the runner of projections leaves the machine to those who write."""

from __future__ import annotations

from itertools import pairwise

from palaver.feed import GATHER_S, LAG_MOST, LONGEST_PAUSE_S, pause_after


def test_what_is_caught_up_waits_until_changes_can_be_taken_together() -> None:
    assert GATHER_S == pause_after(3, 3, 0, 0.001)
    assert 0.05 == pause_after(500, 500, 0, 0.05)


def test_what_is_behind_goes_on_at_once_when_nobody_writes() -> None:
    assert 0.0 == pause_after(500, 0, 7_000, 0.05)
    assert 0.0 == pause_after(500, 100, 7_000, 0.05)


def test_what_is_behind_works_the_smaller_part_of_the_time_while_others_write() -> None:
    assert 3 * 0.05 < pause_after(500, 2_000, 1_000, 0.05) < 4 * 0.05
    assert LONGEST_PAUSE_S == pause_after(500, 2_000, 1_000, 5.0)


def test_the_further_behind_the_shorter_the_pause() -> None:
    pauses = [pause_after(500, 2_000, lag, 0.05) for lag in range(1, 2 * LAG_MOST, 1_000)]
    assert all(first >= second for first, second in pairwise(pauses))
    assert GATHER_S == pauses[-1]
