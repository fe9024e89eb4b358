"""Surroundings other than those of whoever wrote the program: locales without the letters, arguments that are no text, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from palaver.cli.exits import Exit
from tests.cli.test_terminal import PALAVER

LATIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1:strict"}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def ran(*tokens: str | bytes, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*PALAVER, *tokens], capture_output=True, env={**os.environ, **(env or {})}, timeout=120, check=False)


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize("env", [LATIN, ASCII], ids=["latin", "ascii"])
@pytest.mark.parametrize(
    "tokens", [("show", "talk-0007"), ("health",), ("doctor", "--quick"), ("query", "Message"), ("search", "dortmund"), ("tail", "--once")]
)
def test_a_locale_without_the_letters_ends_nothing_halfway(tokens: tuple[str, ...], env: dict[str, str]) -> None:
    found = ran(*tokens, "--human", env=env)

    assert Exit.OK == found.returncode, found.stderr
    assert found.stdout


@pytest.mark.usefixtures("demo")
def test_json_is_utf_8_in_every_locale() -> None:
    assert ran("show", "talk-0007").stdout == ran("show", "talk-0007", env=ASCII).stdout


@pytest.mark.usefixtures("demo")
def test_what_is_typed_is_utf_8_in_every_locale() -> None:
    """An argument the locale cannot read would be words of nothing, which find everything."""
    typed = ("search", "Köln", "--limit", "1000")

    assert ran(*typed).stdout == ran(*typed, env=ASCII).stdout
    assert 0 == json.loads(ran("search", "東京", env=ASCII).stdout)["total"]


@pytest.mark.usefixtures("demo")
def test_an_argument_that_is_no_text_names_nothing() -> None:
    for tokens in (("show", b"\xff\xfe"), ("query", b"\xff"), ("query", "Message", b"\xff", "--by", "by_intent")):
        found = ran(*tokens)
        assert found.returncode in (Exit.NOT_FOUND, Exit.USAGE), found.stderr
        assert b"Traceback" not in found.stderr
        assert b'"unexpected"' not in found.stderr


def test_the_demonstration_is_made_in_every_locale(elsewhere: Path) -> None:
    found = ran("demo", "--human", env=ASCII)

    assert Exit.OK == found.returncode
    assert (elsewhere / "palaver-demo.db").exists()


@pytest.mark.usefixtures("demo")
def test_a_command_that_is_interrupted_leaves_a_database_that_is_well(elsewhere: Path) -> None:
    with subprocess.Popen([*PALAVER, "copy", "palaver-demo.db", "copy.db"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not (elsewhere / "copy.db").exists() and process.poll() is None:
            continue
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert process.returncode in (Exit.INTERRUPTED, Exit.OK)
    assert b"Traceback" not in err
    assert Exit.OK == ran("doctor").returncode
    assert json.loads(ran("copy", "palaver-demo.db", "copy.db", "--verify").stdout)["verified"]["same"]


@pytest.mark.usefixtures("demo")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize(
    "tokens", [("--help",), ("--version",), ("query", "--help"), ("version",), ("version", "--human"), ("--describe",)]
)
def test_a_full_disk_is_told_in_one_block(tokens: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        found = subprocess.run([*PALAVER, *tokens], stdout=full, stderr=subprocess.PIPE, timeout=120, check=False)

    assert Exit.FAILURE == found.returncode
    assert b"No space left on device" in found.stderr
    assert b"Traceback" not in found.stderr
    assert b"Exception ignored" not in found.stderr
