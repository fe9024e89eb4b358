"""The page of figures says what was measured, and whether each row is what it must be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import musts, peers
from bench.__main__ import PAGE, RESULTS, _with, page
from bench.adapters import ChatShort, ChatSmall


def test_the_page_is_what_is_made_of_the_results() -> None:
    assert page(json.loads(RESULTS.read_text())) == PAGE.read_text(), "python -m bench writes it; nobody edits it"


def test_every_row_that_must_be_reached_is_of_a_run_there_is() -> None:
    labels = {run.label for run in peers.RUNS}
    assert labels == {run.label for run in peers.chosen([])}
    assert len(labels) == len(peers.RUNS)
    for must in musts.MUSTS:
        assert must.run in labels
        assert not must.per or must.per in {ChatSmall.name, ChatShort.name}
        assert must.aim <= must.must if must.lower else must.aim >= must.must


def test_runs_are_chosen_by_how_their_names_begin() -> None:
    assert {"w3 cache", "w3 limits", "w3 sessions", "w3 in process"} == {run.label for run in peers.chosen(["w3"])}
    assert ["w1 fsync 2 ms"] == [run.label for run in peers.chosen(["w1 fsync"])]
    assert [] == peers.chosen(["w"])


def row(run: str, name: str, **figures: Any) -> dict[str, Any]:
    return {"run": run, "phase": "read@1", "name": name, "date": "2026-01-01", **figures}


@pytest.mark.parametrize(
    ("ratio", "beside", "said"),
    [
        (0.5, 0.2, "0.50 | agents-sqlite 0.20 | met"),
        (0.499, 0.6, "0.50 | agents-sqlite 0.60 | **missed**"),
        (None, None, " |  | not measured"),
    ],
)
def test_a_row_is_met_from_its_must_on(ratio: float | None, beside: float | None, said: str) -> None:
    rows = [row("w1 chat", "palaver", **{"x_raw-wal-full": ratio})] if ratio is not None else []
    if beside is not None:
        rows += [
            row("w1 agents-sqlite", "agents-sqlite", **{"x_raw-wal-full": beside}),
            row("w1 chat", "raw-group", **{"x_raw-wal-full": 2}),
        ]
    [line] = [line for line in musts.table(rows) if line.startswith("| w1 chat `read@1` |")]
    assert said in line


def test_a_bound_is_met_up_to_its_must_and_may_be_over_another_of_the_same_run() -> None:
    rows = [row("w1 chat", "palaver", p50_us=50.0)]
    for run, name, p50_us in (("w1 store of 100k", "palaver-small", 130.0), ("w1 histories of 1000", "palaver-short", 131.0)):
        rows += [row(run, "palaver", p50_us=p50_us), row(run, name, p50_us=100.0)]
    lines = [line for line in musts.table(rows) if "`read@1`, p50" in line]
    assert ["1.30 |  | met", "1.31 |  | **missed**"] == [line.partition("≤ 1.10 | ")[2].rpartition(" | ")[0] for line in lines]


def test_a_run_made_again_replaces_its_own_rows_alone() -> None:
    before = {"harness": [row("w3 cache", "a"), row("w1 chat", "b"), row("gone", "c")]}
    after = _with("w1 chat", [row("w1 chat", "d")], before)["harness"]
    assert [("w1 chat", "d"), ("w3 cache", "a")] == [(each["run"], each["name"]) for each in after]
