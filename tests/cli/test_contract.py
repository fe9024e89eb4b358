"""The JSON contract: which fields every command gives, and of which type. Within one version fields are only added."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Palaver

pytestmark = pytest.mark.usefixtures("demo", "configured")


@pytest.fixture
def configured(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(elsewhere))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "BASH_COMPLETION_USER_DIR"):
        monkeypatch.delenv(name, raising=False)
    (elsewhere / "palaver.toml").write_text('url = "palaver-demo.db"\nblueprint = "baller"\n')


COMMANDS = {
    "query": ("query", "Message", "result", "--by", "by_intent", "--limit", "3"),
    "count": ("query", "Message", "result", "--by", "by_intent", "--count"),
    "explain": ("query", "Message", "result", "--by", "by_intent", "--explain"),
    "search": ("search", "dortmund", "--facets", "app_mode", "--limit", "3"),
    "transcript": ("show", "talk-0007"),
    "stats_usage": ("stats", "usage"),
    "stats_cost": ("stats", "cost", "--by", "model", "--by", "channel"),
    "figures_database": ("stats", "database"),
    "figures_cache": ("stats", "cache"),
    "stats_compared": ("stats", "feedback", "--since", "2d", "--compare", "prev"),
    "stats_calls": ("stats", "calls"),
    "stats_answers": ("stats", "answers"),
    "stats_feedback": ("stats", "feedback"),
    "stats_metrics": ("stats", "metrics"),
    "tail": ("tail", "--once", "--max", "1"),
    "export": ("export", "Feedback", "-o", "out"),
    "purge": ("purge", "201000000000000000", "--dry-run"),
    "schema": ("schema", "show", "Message"),
    "schema_check": ("schema", "check"),
    "migrate": ("migrate", "plan"),
    "migrate_status": ("migrate", "status"),
    "copy": ("copy", "palaver-demo.db", "copy.db", "--verify"),
    "doctor": ("doctor",),
    "health": ("health",),
    "sweep": ("sweep",),
    "work": ("work", "--once"),
    "version": ("version",),
    "describe": ("--describe", "tail"),
    "config": ("config", "show"),
    "config_path": ("config", "path"),
    "completion": ("completion", "install", "bash"),
    "demo": ("demo",),
}
OPEN = {
    "record",
    "detail",
    "expired",
    "deleted",
    "masked",
    "cascaded",
    "held",
    "images",
    "rows",
    "highlights",
    "facets",
    "projections",
    "figures",
}
OPEN_ROWS = {"query"}


def shape(value: Any, name: str = "") -> Any:
    """Return the types in place of the values; what depends on the schema is left open."""
    if isinstance(value, dict):
        return "{…}" if name in OPEN else {key: shape(inner, key) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0], name)] if value else []
    return {bool: "bool", int: "number", float: "number", str: "text", type(None): "null"}[type(value)]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_fields_of_a_command_are_those_promised(palaver: Palaver, golden: Callable[[str, str], None], name: str) -> None:
    ran = palaver(*COMMANDS[name])
    found = ran.json

    assert 0 == ran.code, ran.err
    assert 1 == found["version"]
    if found["kind"] in OPEN_ROWS:
        found["data"] = [{}]
    golden(f"cli/{name}.json", json.dumps(shape(found), indent=2, ensure_ascii=False) + "\n")


def test_the_fields_of_a_failure_are_those_promised(palaver: Palaver, golden: Callable[[str, str], None]) -> None:
    golden("cli/problem.json", json.dumps(shape(palaver("show", "nothing").problem), indent=2) + "\n")


def test_what_goes_into_a_pipe_is_one_object_a_line(palaver: Palaver) -> None:
    assert 1 == len(palaver("query", "Message").out.splitlines())
    assert 5 == len(palaver("tail", "--once", "--max", "5").out.splitlines())


def help_of(*tokens: str) -> str:
    """Return a help in a process of its own: one process keeps the width it first had."""
    command = [sys.executable, "-m", "palaver", *tokens, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "120"}).stdout


def test_the_help_is_as_it_was(golden: Callable[[str, str], None]) -> None:
    golden("cli/help.txt", help_of())


@pytest.mark.parametrize("name", ["flags", "limits", "sessions", "presence", "stats", "health", "doctor", "demo", "config", "completion"])
def test_the_help_of_a_command_is_as_it_was(golden: Callable[[str, str], None], name: str) -> None:
    golden(f"cli/help_{name}.txt", help_of(name))
