"""`--describe`: what a program needs to know of the command line, told by the command line itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import palaver.cli
from palaver.cli import app
from palaver.cli.commands import COMMANDS, FAMILIES, OPTIONS
from palaver.cli.exits import Exit
from palaver.cli.launching import call
from tests.cli.conftest import Palaver
from tests.cli.test_contract import COMMANDS as CALLS

SOURCE = Path(palaver.cli.__file__).parent


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    from palaver.cli.describing import described

    return described(app, [])


def test_every_command_is_described(told: dict[str, Any]) -> None:
    families = [f"{name} {own}" for name in FAMILIES for own in app[name] if not own.startswith("-")]
    plain = [name for name, _, _ in COMMANDS if name not in FAMILIES]

    assert sorted([*families, *plain]) == sorted(each["command"] for each in told["commands"])
    assert all(each["help"] for each in told["commands"])
    assert all(each["help"] for command in told["commands"] for each in command["parameters"])
    assert list(OPTIONS) == [each["names"][0].removeprefix("--").replace("-", "_") for each in told["options"]]
    assert [int(code) for code in Exit] == [each["code"] for each in told["exit_codes"]]


def test_what_a_command_takes_is_told_with_its_type_and_default(told: dict[str, Any]) -> None:
    taken = {(each["command"], taken["names"][0]): taken for each in told["commands"] for taken in each["parameters"]}

    assert ("integer", 20, False) == tuple(taken["query", "--limit"][key] for key in ("type", "default", "repeats"))
    assert ("text", None, True) == tuple(taken["query", "--where"][key] for key in ("type", "default", "repeats"))
    assert ("text text", False) == tuple(taken["query", "--between"][key] for key in ("type", "repeats"))
    assert (True, True, False) == tuple(taken["query", "ENTITY"][key] for key in ("positional", "required", "repeats"))
    assert (True, False, True) == tuple(taken["query", "VALUES"][key] for key in ("positional", "required", "repeats"))
    assert ("path", ["--output", "-o"]) == tuple(taken["export", "--output"][key] for key in ("type", "names"))
    assert (["s", "m", "l"], "s") == tuple(taken["demo", "--size"][key] for key in ("choices", "default"))
    assert ["bash", "zsh", "fish"] == taken["completion show", "SHELL"]["choices"]
    assert ("flag", False, ["--ready"]) == tuple(taken["health", "--ready"][key] for key in ("type", "default", "names"))
    assert ("number", 2.0) == tuple(taken["health", "--wait"][key] for key in ("type", "default"))
    assert {"text", "integer", "number", "flag", "path", "text text"} == {each["type"] for each in taken.values()}


def test_what_is_described_is_in_the_help_of_its_command(told: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    for command in told["commands"]:
        assert Exit.OK == call([*command["command"].split(), "--help"])
        shown = capfd.readouterr().out
        assert all(name in shown for each in command["parameters"] for name in each["names"]), command["command"]
        assert " ".join(command["help"].split()) in " ".join(shown.split())
        assert all("\n" not in paragraph for paragraph in command["help"].split("\n\n"))


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("describe", "completion", "config", "config_path")])
def test_a_command_writes_the_kind_it_tells_of(palaver: Palaver, told: dict[str, Any], name: str) -> None:
    call = CALLS[name]
    command = next(each for each in told["commands"] if call[: len(each["command"].split())] == tuple(each["command"].split()))

    assert {line["kind"] for line in palaver(*call).lines} <= set(command["emits"])


def test_every_kind_there_is_belongs_to_a_command(told: dict[str, Any]) -> None:
    written = {kind for file in SOURCE.glob("*.py") for kind in re.findall(r'\.emit\(\s*"(\w+)"', file.read_text(encoding="utf-8"))}

    assert written - {"describe"} == {kind for each in told["commands"] for kind in each["emits"]}


def test_one_command_or_family_can_be_asked_about(palaver: Palaver) -> None:
    one = palaver("query", "--describe").json
    family = palaver("--describe", "flags").json
    own = palaver("flags", "set", "--describe").json

    assert ["query"] == [each["command"] for each in one["commands"]]
    assert ["flags list", "flags set", "flags unset"] == [each["command"] for each in family["commands"]]
    assert ["flags set"] == [each["command"] for each in own["commands"]]


@pytest.mark.parametrize("tokens", [("serach",), ("flags", "sett"), ("query", "Message"), ("query", "--limit", "3")])
def test_what_is_no_command_cannot_be_described(palaver: Palaver, tokens: tuple[str, ...]) -> None:
    ran = palaver("--describe", *tokens)

    assert (Exit.USAGE, "usage", "") == (ran.code, ran.problem["code"], ran.out)


def test_describing_touches_no_database(palaver: Palaver, elsewhere: Path) -> None:
    assert Exit.OK == palaver("purge", "--describe", "-u", "postgresql://nowhere.invalid/x").code
    assert [] == list(elsewhere.iterdir())
