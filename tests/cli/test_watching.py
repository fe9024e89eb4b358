"""What goes wrong as it goes wrong: `tail --errors`, and `doctor --watch` until Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from palaver.cli.exits import Exit
from tests.cli.conftest import Palaver
from tests.cli.test_terminal import PALAVER

pytestmark = pytest.mark.usefixtures("demo")


def test_only_what_failed_is_followed_and_each_once(palaver: Palaver) -> None:
    found = palaver("tail", "--errors", "--once").lines
    counted = sum(
        row["failures"]
        for kind in ("usage", "calls", "answers")
        for row in palaver("stats", kind, "--since", "60d", "--where", "timestamp>=2000-01-01").json["data"]
    )
    keys = [json.dumps([line["entity"], line["record"].get("message_id"), line["record"].get("timestamp")]) for line in found]

    assert counted == len(found) > 0
    assert len(keys) == len(set(keys))
    assert {"ApiInteraction", "LlmInteraction", "Message"} == {line["entity"] for line in found}
    assert palaver("tail", "ApiInteraction", "--errors", "--once").lines == [line for line in found if line["entity"] == "ApiInteraction"]


def test_a_person_reads_why_it_failed(palaver: Palaver) -> None:
    assert "ApiInteraction  ✗ HTTP 429  conversation_id=" in palaver("tail", "--errors", "--once", "--human").out


def test_an_answer_that_fails_while_somebody_looks_is_shown(demo: Path) -> None:
    """A message is stored before it fails: what tells of it is either change of it, by what it is when it is read."""
    import palaver as library
    from palaver.blueprints.baller import SCHEMA, Baller

    async def fail() -> None:
        async with library.open(f"sqlite:///{demo}", schema=SCHEMA) as store:
            baller = Baller(store)
            async with baller.turn(user_id="2010", content="Who won?") as turn:
                await turn.relevance(is_relevant=True, confidence=0.9)
                raise ConnectionError

    import asyncio

    with subprocess.Popen([*PALAVER, "tail", "--errors", "--max", "1", "--timeout", "60"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        failures = 0
        while process.poll() is None and failures < 20:
            with pytest.raises(ConnectionError):
                asyncio.run(fail())
            failures += 1
            try:
                process.wait(1)
            except subprocess.TimeoutExpired:
                continue
        line = json.loads(process.stdout.readline())

    assert ("Message", "Who won?") == (line["entity"], line["record"]["content"])
    assert line["change"] in ("created", "updated")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_watching_takes_some_time(palaver: Palaver, seconds: str) -> None:
    assert Exit.USAGE == palaver("doctor", "--watch", seconds).code


def test_the_doctor_comes_again_until_ctrl_c_and_ends_as_the_last_time(demo: Path) -> None:
    with subprocess.Popen([*PALAVER, "doctor", "--quick", "--watch", "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        well = [json.loads(process.stdout.readline()) for _ in range(2)]
        demo.rename("gone.db")
        while True:
            last = json.loads(process.stdout.readline())
            if last["status"] != "ok":
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)

    assert ["ok", "ok"] == [each["status"] for each in well]
    assert ("fail", 2) == (last["status"], process.returncode)
    assert b"Traceback" not in err
