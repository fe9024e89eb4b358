"""Every command on PostgreSQL and on DynamoDB: what it answers there is what it answers of the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palaver.cli.exits import Exit
from tests.cli.conftest import Palaver, Ran
from tests.stacks import fresh


@pytest.fixture(scope="module", params=["postgresql", "dynamodb"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """A server that holds the demonstration: its URL, and what has to be in the environment."""
    from palaver.cli import run

    given: dict[str, str] = {}
    url = fresh(request.param, tmp_path_factory.mktemp("server"), given)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        assert 0 == run(["demo", "--url", url, "--quiet"])
    return url, given


@pytest.fixture
def there(palaver: Palaver, server: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Palaver:
    url, given = server
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return lambda *tokens: palaver(*tokens, "--url", url)


def said(ran: Ran) -> list[tuple[str, str, list[str]]]:
    return [(entry["role"], entry["content"], [step["kind"] for step in entry["steps"]]) for entry in ran.json["messages"]]


def hits(ran: Ran) -> tuple[int, Any, list[str]]:
    return ran.json["total"], ran.json["facets"], sorted(json.dumps(hit["highlights"]) for hit in ran.json["data"])


ALIKE: list[tuple[Callable[[Ran], Any], tuple[object, ...]]] = [
    (said, ("show", "talk-0007")),
    (said, ("show", "talk-0007", "--last", 2)),
    (hits, ("search", "dortmund", "--facets", "app_mode", "--facets", "intent.name", "--limit", 1_000)),
    (hits, ("search", '"borussia dortmund" -bayern', "--limit", 1_000)),
    (hits, ("search", "--where", "app_mode=beta", "--limit", 1_000)),
    (hits, ("search", "münch*", "--where", "timestamp>=7d", "--limit", 1_000)),
    (lambda ran: [one["conversation_id"] for one in ran.json["data"]], ("query", "Message", "talk-0007", "--limit", 3)),
    (lambda ran: ran.json, ("query", "Message", "talk-0007", "--count")),
    # Some prices depend on the hour of the call.
    (
        lambda ran: [line | {"cost_usd": 0} for line in ran.json["data"]],
        ("stats", "usage", "--by", "provider", "--by", "purpose", "--since", "30d"),
    ),
    (lambda ran: ran.json["data"], ("stats", "feedback", "--since", "30d")),
    (lambda ran: sorted(line["name"] for line in ran.lines), ("export", "CachedEntity")),
    (lambda ran: ran.json["total"], ("sweep",)),
    (lambda ran: {name: figures["error"] for name, figures in ran.json["projections"].items()}, ("health",)),
]


@pytest.mark.parametrize(("what", "asked"), ALIKE, ids=[" ".join(map(str, asked))[:30] for _, asked in ALIKE])
def test_a_command_answers_as_it_does_for_a_file(
    palaver: Palaver, there: Palaver, demo: Path, what: Callable[[Ran], Any], asked: tuple[object, ...]
) -> None:
    expected, got = palaver(*asked), there(*asked)

    assert (0, 0) == (expected.code, got.code), got.err
    assert what(expected) or asked == ("sweep",)
    assert what(expected) == what(got)


def test_everything_is_exported(there: Palaver, elsewhere: Path) -> None:
    told = there("export", "-o", "out").json

    assert told["files"]
    for file in told["files"]:
        assert file["records"] == file["counted"] == len((elsewhere / "out" / file["file"]).read_text(encoding="utf-8").splitlines())


def test_changes_are_followed_from_the_oldest(there: Palaver) -> None:
    lines = there("tail", "Message", "--from-start", "--once").lines

    assert len(there("query", "Message", "--limit", 1_000).json["data"]) == len(lines)


def test_the_database_is_fit(there: Palaver) -> None:
    found = there("doctor").json

    assert found["status"] in ("ok", "warn")
    assert [] == [check for check in found["checks"] if check["level"] == "fail"]


def test_a_wrong_address_is_no_traceback(palaver: Palaver, there: Palaver) -> None:
    for url in (
        "postgresql://u:secret@127.0.0.1:1/none?connect_timeout=0",
        "dynamodb://eu-central-1/x-?endpoint=http://127.0.0.1:1&timeout=1",
    ):
        ran = palaver("health", "--blueprint", "baller", "--url", url)
        assert ran.code != 0
        assert "Traceback" not in ran.err
        assert "secret" not in ran.err + ran.out


def test_a_person_is_purged(there: Palaver) -> None:
    """The last test of the module, since nothing brings the person back."""
    user = there("query", "Message", "talk-0007", "--limit", 1).json["data"][0]["user_id"]
    mine = [line for line in there("export", "Conversation").lines if line["user_id"] == user]
    counted, done = there("purge", user, "--dry-run").json, there("purge", user, "--yes").json

    assert mine
    assert counted["deleted"] == done["deleted"]
    assert Exit.NOT_FOUND == there("purge", user, "--dry-run").code
    assert [] == [line for line in there("export", "Conversation").lines if line["user_id"] == user]
