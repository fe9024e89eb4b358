"""The demonstration: real facts, our own words, offline, and never over somebody's file."""

from __future__ import annotations

import shutil
import socket
import sys
from pathlib import Path

import pytest

from palaver.blueprints.baller.facts import facts
from palaver.blueprints.baller.traffic import dialogues
from palaver.cli.exits import Exit
from tests.cli.conftest import Palaver
from tests.stacks import fresh


def test_the_facts_are_those_of_the_source() -> None:
    known = facts()

    assert (1_436, 61) == (known.matches, len(known.clubs))
    assert "CC0-1.0" == known.source["licence"]
    final = known.competitions["en.1/2023-24"].table(38)
    assert ["Manchester City FC", "Arsenal FC", "Liverpool FC"] == [row.club.name for row in final[:3]]
    assert [91, 89, 82] == [row.points for row in final[:3]]


def test_the_facts_are_small_enough_to_ship() -> None:
    from importlib import resources

    file = resources.files("palaver.blueprints.baller").joinpath("data/football.json")

    assert len(file.read_bytes()) <= 300_000


def test_the_same_size_gives_the_same_traffic() -> None:
    assert dialogues(facts(), "s") == dialogues(facts(), "s")


def test_the_traffic_has_everything_a_bot_meets() -> None:
    traffic = dialogues(facts(), "m")
    exchanges = [exchange for dialogue in traffic for exchange in dialogue.exchanges]

    assert {"production", "beta", "development"} == {dialogue.app_mode for dialogue in traffic}
    assert len({dialogue.place for dialogue in traffic}) > 3
    assert {"result", "fixtures", "form", "standings", "head_to_head", "venue"} == {each.intent.name for each in exchanges if each.intent}
    assert any(not each.relevant for each in exchanges)
    assert any(each.context for each in exchanges)
    assert any(each.reply is None for each in exchanges)
    assert {"positive", "negative"} <= {each.rating for each in exchanges}
    assert {200, 429, 503} <= {call.status for each in exchanges for call in each.calls}


def test_no_answer_has_a_hole_in_it() -> None:
    for dialogue in dialogues(facts(), "m"):
        for exchange in dialogue.exchanges:
            assert "{" not in exchange.question + (exchange.reply or "")
            assert exchange.question.strip()


def test_the_demo_needs_no_network(palaver: Palaver, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def refused(family: int = socket.AF_INET, *args: object, **options: object) -> socket.socket:
        assert family == socket.AF_UNIX, "the network was asked for"
        return real(family, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", refused)
    ran = palaver("demo")

    assert (0, "palaver-demo.db", False) == (ran.code, ran.json["path"], ran.json["replaced"])
    assert ran.json["messages"] > 200
    assert Exit.OK == palaver("doctor").code


def tries(out: str) -> list[list[str]]:
    """Return the commands a demonstration says to try, without the name of the program."""
    lines = [line.split() for line in out.partition("try next:")[2].splitlines() if line]
    return [words[next(at for at, word in enumerate(words) if word.endswith("palaver")) + 1 :] for words in lines]


def test_a_demonstration_is_replaced_by_another(palaver: Palaver, demo: Path) -> None:
    before = palaver("query", "Message", "--limit", 1000).json["data"]

    ran = palaver("demo", "--human")
    after = palaver("query", "Message", "--limit", 1000).json["data"]

    assert 0 == ran.code
    assert tries(ran.out)
    assert len(before) == len(after)


def test_what_the_demo_tells_people_to_try_works(palaver: Palaver, demo: Path) -> None:
    lines = tries(palaver("demo", "--human").out)

    assert len(lines) >= 4
    for tokens in lines:
        assert 0 == palaver(*tokens).code, tokens


@pytest.mark.parametrize("stack", ["postgresql", "dynamodb"])
def test_a_demonstration_fills_an_empty_server_and_no_other(
    palaver: Palaver, elsewhere: Path, stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, str] = {}
    url = fresh(stack, elsewhere, given)
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    ran, again = palaver("demo", "--url", url), palaver("demo", "--url", url)

    assert (0, "", False) == (ran.code, ran.json["path"], ran.json["replaced"])
    assert (Exit.CONFLICT, "not_empty") == (again.code, again.problem["code"])
    assert [] == [file for file in elsewhere.iterdir() if file.name.startswith("palaver-demo")]
    assert ran.json["messages"] == len(palaver("query", "Message", "--limit", 1000, "--url", url).json["data"])
    assert 0 == palaver("show", "talk-0001", "--url", url).code


def test_a_demonstration_goes_to_one_place(palaver: Palaver) -> None:
    ran = palaver("demo", "--path", "a.db", "--url", "b.db")

    assert (Exit.USAGE, "usage") == (ran.code, ran.problem["code"])


def test_a_url_of_a_file_is_the_file(palaver: Palaver, elsewhere: Path) -> None:
    assert 0 == palaver("demo", "--url", "sqlite:///mine.db").code
    assert (elsewhere / "mine.db").exists()


@pytest.mark.parametrize("content", [b"", b"my notes"])
def test_a_file_that_is_no_demonstration_is_never_replaced(palaver: Palaver, elsewhere: Path, content: bytes) -> None:
    (elsewhere / "mine.db").write_bytes(content)

    ran = palaver("demo", "--path", "mine.db")

    assert (Exit.CONFLICT, "not_a_demo") == (ran.code, ran.problem["code"])
    assert content == (elsewhere / "mine.db").read_bytes()


def test_a_real_database_is_never_replaced(palaver: Palaver, elsewhere: Path) -> None:
    from palaver import open_sync
    from palaver.blueprints.baller import SCHEMA

    with open_sync("palaver.db", schema=SCHEMA):
        pass

    assert Exit.CONFLICT == palaver("demo", "--path", "palaver.db").code


def test_a_missing_folder_is_named(palaver: Palaver) -> None:
    ran = palaver("demo", "--path", "no/such/folder/x.db")

    assert (Exit.NOT_FOUND, "no_folder") == (ran.code, ran.problem["code"])


def test_another_blueprint_plays_the_same_questions(palaver: Palaver, elsewhere: Path) -> None:
    told = palaver("demo", "--blueprint", "simple_agent").json

    assert (60, 11) == (told["conversations"], told["users"])
    shown = palaver("show", told["example"]).json
    assert {"user", "assistant"} <= {entry["role"] for entry in shown["messages"]}
    assert palaver("search", "dortmund").json["total"] > 5
    by_model = palaver("stats", "cost", "--by", "model", "--since", "30d").json["data"]
    assert sum(row["calls"] for row in by_model) == len(palaver("export", "ModelCall").lines)
    assert [row["cost_usd"] for row in by_model] == sorted((row["cost_usd"] for row in by_model), reverse=True)
    assert {"discord", "web"} <= {row["channel"] for row in palaver("stats", "usage", "--by", "channel").json["data"]}
    by_user = palaver("stats", "cost", "--by", "user", "--since", "30d").json["data"]
    assert 11 == len({row["user"] for row in by_user})
    assert sum(row["calls"] for row in by_model) == sum(row["calls"] for row in by_user)
    assert [] == [flag for flag in palaver("flags", "list").json["data"] if flag["settings"]]
    assert "ok" == palaver("health").json["status"]


def test_a_person_on_two_channels_is_one_user(palaver: Palaver, elsewhere: Path) -> None:
    palaver("demo", "--blueprint", "simple_agent")
    identities = palaver("export", "Identity").lines

    assert 11 == len({identity["user_id"] for identity in identities}) < len(identities)


def test_a_blueprint_that_is_none_is_refused(palaver: Palaver, elsewhere: Path) -> None:
    ran = palaver("demo", "--blueprint", "simple_agnet")

    assert Exit.USAGE == ran.code
    assert "simple_agent" in ran.problem["hint"]
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    ("found", "called", "said"),
    [
        ("/usr/bin/palaver", ".venv/bin/palaver", "palaver"),
        (None, ".venv/bin/palaver", ".venv/bin/palaver"),
        (None, "/x/__main__.py", "python -m palaver"),
    ],
)
def test_what_to_try_next_can_be_typed_as_it_is(
    palaver: Palaver, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, found: str | None, called: str, said: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: found)
    monkeypatch.setattr(sys, "argv", [called])

    told = palaver("demo", "--human").out.partition("try next:")[2].splitlines()[1:]

    assert told
    assert [] == [line for line in told if not line.startswith(f"  {said} ")]
