"""`--timeout` ends a command in time and says what it was doing; `--verbose` says it all along."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from palaver.cli import deadline
from palaver.cli.exits import Exit
from tests.cli.conftest import Palaver
from tests.cli.test_terminal import PALAVER, on_terminal

MINE = """
import time
from palaver import Entity, Key, Schema


class Note(Entity, table="notes"):
    id: str
    key = Key("id")


SCHEMA = Schema("mine", [Note])
"""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in this process: on a machine that is loaded it must not be ended for what takes long to be cancelled."""
    monkeypatch.setattr(deadline, "GRACE_S", 600.0)


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listening:
        yield f"postgresql://ana:secret@127.0.0.1:{listening.getsockname()[1]}/db"


def test_a_server_that_never_answers_takes_no_longer_than_allowed(palaver: Palaver, silent: str) -> None:
    began = time.monotonic()
    ran = palaver("stats", "usage", "-u", silent, "--timeout", "3")

    assert (Exit.UNAVAILABLE, "timeout", True) == (ran.code, ran.problem["code"], ran.problem["retryable"])
    assert "3 s" in ran.problem["detail"]
    assert "asking postgresql://ana:***@127.0.0.1" in ran.problem["detail"]
    assert "secret" not in ran.err
    assert time.monotonic() - began < 30


def test_a_command_that_is_in_time_is_as_without(palaver: Palaver, demo: Path) -> None:
    assert palaver("stats", "feedback").json["data"] == palaver("stats", "feedback", "--timeout", "60").json["data"]


def test_what_follows_for_ever_ends_then(palaver: Palaver, demo: Path) -> None:
    ran = palaver("tail", "--timeout", "5")

    assert (Exit.UNAVAILABLE, "timeout") == (ran.code, ran.problem["code"])
    assert "at work on palaver-demo.db" in ran.problem["detail"]


def test_code_that_blocks_is_ended_with_the_process(elsewhere: Path, demo: Path) -> None:
    (elsewhere / "slow.py").write_text(MINE + "time.sleep(120)\n")
    began = time.monotonic()
    command = [*PALAVER, "health", "--schema", "slow:SCHEMA", "--timeout", "0.5"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert Exit.UNAVAILABLE == ran.returncode
    assert "importing the schema, slow:SCHEMA" in json.loads(ran.stderr)["detail"]
    assert time.monotonic() - began < 60


def test_a_person_is_told_in_words(demo: Path) -> None:
    code, shown = on_terminal("tail", "--timeout", "0.5")

    assert Exit.UNAVAILABLE == code
    assert "error: The command took longer than 0.5 s; it was " in shown
    assert "palaver-demo.db" in shown
    assert "\n  try: Give it more with --timeout" in shown


def test_a_failure_before_the_time_is_over_is_told_as_it_is(palaver: Palaver, demo: Path) -> None:
    assert "not_found" == palaver("show", "nothing", "--timeout", "60").problem["code"]


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e300", "soon"])
def test_no_time_and_no_number_are_refused(palaver: Palaver, demo: Path, seconds: str) -> None:
    ran = palaver("health", "--timeout", seconds)

    assert (Exit.USAGE, "usage") == (ran.code, ran.problem["code"])


def test_what_is_done_is_told_with_the_time(palaver: Palaver, demo: Path) -> None:
    ran = palaver("stats", "feedback", "--verbose")
    told = [line.split(" s  ", 1) for line in ran.err.splitlines()]

    assert [
        "asking palaver-demo.db which schema it was written with",
        "opening palaver-demo.db",
        "at work on palaver-demo.db, schema baller version 1",
        "done",
    ] == [text for _, text in told if not text.startswith("since")]
    assert [float(at) for at, _ in told] == sorted(float(at) for at, _ in told)
    assert palaver("stats", "feedback").json["data"] == ran.json["data"]


def test_what_is_told_holds_no_password(palaver: Palaver, silent: str) -> None:
    ran = palaver("health", "-u", silent, "--verbose", "--timeout", "3")

    assert "postgresql://ana:***@127.0.0.1" in ran.err
    assert "secret" not in ran.err


def test_nobody_is_quiet_and_verbose(palaver: Palaver, demo: Path) -> None:
    assert Exit.USAGE == palaver("health", "-q", "-v").code
