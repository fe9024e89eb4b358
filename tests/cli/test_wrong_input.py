"""What a newcomer gets wrong: numbers, names and places. Each is refused before anything is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from palaver.cli.exits import Exit
from tests.cli.conftest import Palaver

pytestmark = pytest.mark.usefixtures("demo")
ANA = "201000000000000000"


@pytest.mark.parametrize(
    "tokens",
    [
        ("query", "Message", "--limit", "0"),
        ("show", "talk-0007", "--last", "0"),
        ("tail", "--once", "--max", "-1"),
        ("doctor", "--processes", "0"),
        ("doctor", "--watch", "nan"),
        ("work", "--sweep-every", "0"),
        ("work", "--sweep-every", "nan"),
        ("sweep", "--limit", "-1"),
        ("health", "--wait", "0"),
        ("health", "--wait", "nan"),
        ("presence", "--limit", "0"),
    ],
)
def test_an_amount_is_more_than_nothing(palaver: Palaver, tokens: tuple[str, ...]) -> None:
    ran = palaver(*tokens, "--timeout", "20")

    assert (Exit.USAGE, "usage", "") == (ran.code, ran.problem["code"], ran.out)
    assert "more than 0" in ran.problem["detail"]


@pytest.mark.parametrize("option", ["--url", "--schema", "--blueprint", "--tenant", "--profile"])
def test_an_option_that_is_there_and_empty_is_no_default(palaver: Palaver, option: str) -> None:
    """A variable that is not set, in a script, must not have another database purged."""
    ran = palaver("purge", ANA, "--yes", option, "")

    assert (Exit.USAGE, "usage") == (ran.code, ran.problem["code"])
    assert option in ran.problem["detail"]
    assert Exit.OK == palaver("purge", ANA, "--dry-run").code


def test_a_folder_is_no_database_and_will_be_none_later(palaver: Palaver, elsewhere: Path) -> None:
    (elsewhere / "data").mkdir()
    for tokens in (("health",), ("query", "Message"), ("migrate", "plan")):
        ran = palaver(*tokens, "-u", "data")
        assert (Exit.USAGE, False) == (ran.code, ran.problem["retryable"])
        assert "folder" in ran.problem["detail"]


def test_nobody_is_erased_where_the_receipt_cannot_be_written(palaver: Palaver, elsewhere: Path) -> None:
    (elsewhere / "kept.json").write_text("an earlier receipt")
    nowhere = palaver("purge", ANA, "--yes", "--receipt", "nowhere/receipt.json")
    taken = palaver("purge", ANA, "--yes", "--receipt", "kept.json")

    assert Exit.FAILURE == nowhere.code
    assert (Exit.CONFLICT, "not_empty") == (taken.code, taken.problem["code"])
    assert "an earlier receipt" == (elsewhere / "kept.json").read_text()
    assert palaver("purge", ANA, "--dry-run").json["total"]


def test_a_purge_that_is_not_done_leaves_no_receipt(palaver: Palaver, elsewhere: Path) -> None:
    unconfirmed = palaver("purge", ANA, "--receipt", "receipt.json")
    nobody = palaver("purge", "nobody", "--yes", "--receipt", "receipt.json")

    assert (Exit.USAGE, Exit.NOT_FOUND) == (unconfirmed.code, nobody.code)
    assert not (elsewhere / "receipt.json").exists()
    assert (
        palaver("purge", ANA, "--yes", "--receipt", "receipt.json").json["total"]
        == json.loads((elsewhere / "receipt.json").read_text())["total"]
    )


def test_an_entity_named_twice_is_exported_once(palaver: Palaver, elsewhere: Path) -> None:
    found = palaver("export", "Feedback", "feedback", "Feedback", "-o", "out").json

    assert ["Feedback.jsonl"] == [row["file"] for row in found["files"]]
    assert palaver("export", "Feedback", "Feedback").out == (elsewhere / "out" / "Feedback.jsonl").read_text()


def test_a_period_that_reaches_before_time_is_refused(palaver: Palaver) -> None:
    ran = palaver("stats", "usage", "--since", "0001-01-02", "--compare", "prev")

    assert (Exit.USAGE, "moment") == (ran.code, ran.problem["code"])


def test_what_there_is_instead_is_named_as_people_name_it(palaver: Palaver) -> None:
    assert "There are: ApiInteraction, CachedEntity, " in palaver("query", "Zzzzz").problem["hint"]
    assert "baller-" not in palaver("query", "Zzzzz").problem["hint"]
    assert "Did you mean baller-messages?" == palaver("query", "baller-mesages").problem["hint"]
