"""`palaver copy` as a person runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.cli.conftest import Palaver

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("demo")


def counts(found: Any) -> dict[str, int]:
    return {row["table"]: row["records"] for row in found["copied"]["records"]}


def test_a_copy_holds_the_same_and_answers_the_same(palaver: Palaver) -> None:
    ran = palaver("copy", "palaver-demo.db", "b.db", "--verify")
    assert 0 == ran.code, ran.err
    found = ran.json
    assert found["copied"]["finished"]
    assert found["verified"]["same"]
    assert {row["entity"]: row["source"] for row in found["verified"]["entities"]}["Message"] == counts(found)["baller-messages"] > 100
    for command in (("search", "dortmund", "--limit", "5"), ("stats", "usage"), ("show", "talk-0007"), ("query", "Message", "--count")):
        assert palaver(*command, "-u", "palaver-demo.db").out == palaver(*command, "-u", "b.db").out, command
    assert 0 == palaver("doctor", "-u", "b.db").code


def test_a_copy_on_a_server_answers_as_the_file_did(palaver: Palaver, elsewhere: Path) -> None:
    server = servers.postgres18()
    url = f"{server.url(server.create_database())}?blobs=file:{elsewhere}/objects"
    ran = palaver("copy", "palaver-demo.db", url, "--verify")
    assert 0 == ran.code, ran.err
    assert ran.json["verified"]["same"]
    assert palaver("search", "dortmund", "-u", "palaver-demo.db").json["total"] == palaver("search", "dortmund", "-u", url).json["total"]
    for command in (("stats", "usage"), ("show", "talk-0007"), ("query", "Message", "result", "--by", "by_intent")):
        # JSONB has its own order of names in a map, which is none.
        mine, theirs = ({**palaver(*command, "-u", each).json, "next_cursor": None} for each in ("palaver-demo.db", url))
        assert mine == theirs, command
    doctor = palaver("doctor", "-u", url)
    assert 0 == doctor.code, doctor.out
    back = palaver("copy", url, "back.db", "--verify")
    assert 0 == back.code, back.err
    assert 0 == palaver("copy", "palaver-demo.db", "back.db", "--verify-only").code


def test_people_read_a_table_and_what_was_done(palaver: Palaver) -> None:
    ran = palaver("copy", "palaver-demo.db", "b.db", "--verify", "--human")
    assert "baller-messages" in ran.out
    assert "both sides hold the same" in ran.err


def test_a_difference_is_an_exit_code_and_its_keys_are_written_down_only_when_asked(palaver: Palaver, elsewhere: Path) -> None:
    assert 0 == palaver("copy", "palaver-demo.db", "b.db").code
    assert 0 == palaver("purge", "201000000000000000", "-u", "b.db", "--yes").code
    ran = palaver("copy", "palaver-demo.db", "b.db", "--verify-only", "--human")
    assert 1 == ran.code
    assert "201000000000000000" not in ran.out + ran.err
    ran = palaver("copy", "palaver-demo.db", "b.db", "--verify-only", "--differences", "keys.jsonl")
    assert 1 == ran.code
    lines = [json.loads(line) for line in (elsewhere / "keys.jsonl").read_text().splitlines()]
    assert {"table": "baller-preferences", "kind": "missing"}.items() <= next(
        line for line in lines if line["table"] == "baller-preferences"
    ).items()
    total = sum(row["missing"] + row["different"] + row["extra"] for row in ran.json["verified"]["entities"])
    objects = ran.json["verified"]["objects"]
    assert total + objects["missing"] + objects["different"] + objects["extra"] == len(lines)
    assert 0o600 == (elsewhere / "keys.jsonl").stat().st_mode & 0o777
    again = palaver("copy", "palaver-demo.db", "b.db", "--verify-only", "--differences", "keys.jsonl")
    assert ("os", 1) == (again.problem["code"], again.code)


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (("palaver-demo.db", "palaver-demo.db"), 2, "same_database"),
        (("palaver-demo.db", "sqlite:///./palaver-demo.db"), 2, "same_database"),
        (("nothing.db", "b.db"), 3, "no_database"),
        (("palaver-demo.db", "nosuch://b"), 2, "config"),
        (("palaver-demo.db", "sqlite:///b.db?nonsense=1"), 2, "config"),
        (("palaver-demo.db",), 2, "usage"),
        (("palaver-demo.db", "b.db", "--differences", "x"), 2, "usage"),
        (("palaver-demo.db", "b.db", "--follow", "--verify"), 2, "usage"),
    ],
)
def test_what_cannot_work_is_a_problem(palaver: Palaver, elsewhere: Path, words: tuple[str, ...], code: int, problem: str) -> None:
    ran = palaver("copy", *words)
    assert (code, problem) == (ran.code, ran.problem["code"]), ran.err
    assert not (elsewhere / "nothing.db").exists()


def test_a_target_that_holds_something_is_a_conflict(palaver: Palaver) -> None:
    assert 0 == palaver("demo", "--path", "b.db").code
    ran = palaver("copy", "palaver-demo.db", "b.db")
    assert (4, "conflict") == (ran.code, ran.problem["code"]) or (6, "conflict") == (ran.code, ran.problem["code"])
    assert "not empty" in ran.problem["detail"]


def test_a_source_that_lacks_tables_of_the_schema_is_drift(palaver: Palaver, elsewhere: Path) -> None:
    ran = palaver("copy", "palaver-demo.db", "b.db", "--schema", "tests.lifecycle.app:SCHEMA")
    assert 7 == ran.code


# Who starts the tests in the background has Ctrl-C ignored, and children inherit that.
LISTENING = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
PALAVER = [sys.executable, "-c", f"{LISTENING}; from palaver.cli import main; sys.exit(main())"]


def follow(target: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PALAVER, "copy", "palaver-demo.db", target, "--follow", "--human", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str], text: str, times: int = 1) -> None:
    """Return when the process has said something so often."""
    assert process.stderr is not None
    for line in process.stderr:
        times -= text in line
        if not times:
            return
    raise AssertionError(f"it never said {text}")


def test_following_shows_its_lag_stops_on_ctrl_c_and_ends_at_the_cut_over(palaver: Palaver) -> None:
    process = follow("b.db")
    said(process, "lag 0")
    assert 0 == palaver("purge", "201000000000000001", "-u", "palaver-demo.db", "--yes").code
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=30)[1]
    assert 0 == process.returncode, err
    assert "not finished" in err
    refused = palaver("query", "Message", "--count", "-u", "b.db")
    assert (7, "not_provisioned") == (refused.code, refused.problem["code"])
    ended = palaver("copy", "palaver-demo.db", "b.db", "--until-caught-up", "--verify")
    assert 0 == ended.code, ended.err
    assert ended.json["copied"]["resumed"]
    assert ended.json["copied"]["finished"]
    preferences = next(row for row in ended.json["verified"]["entities"] if row["entity"] == "UserPreferences")
    assert 10 == preferences["source"] == preferences["target"]


def test_a_target_whose_source_is_lost_is_opened_with_what_it_has(palaver: Palaver, elsewhere: Path) -> None:
    following = follow("b.db")
    said(following, "lag 0")
    following.kill()
    following.communicate()
    for file in elsewhere.glob("palaver-demo.db*"):
        if file.is_file():
            file.unlink()
    again = palaver("copy", "palaver-demo.db", "b.db")
    assert (3, "no_database") == (again.code, again.problem["code"])
    assert "--promote" in again.problem["hint"]
    assert 7 == palaver("show", "talk-0007", "-u", "b.db").code

    for words in (("--promote", "--follow"), ("--allow-data-loss", "Message")):
        assert (2, "usage") == ((wrong := palaver("copy", "palaver-demo.db", "b.db", *words)).code, wrong.problem["code"])
    assert "another source" in palaver("copy", "elsewhere.db", "b.db", "--promote").problem["detail"]
    assert 3 == palaver("copy", "palaver-demo.db", "nowhere.db", "--promote").code
    done = palaver("copy", "palaver-demo.db", "b.db", "--promote", "--human")
    assert 0 == done.code, done.err
    assert "carried over: every write up to " in done.out
    assert 0 == palaver("show", "talk-0007", "-u", "b.db").code
    assert 0 == palaver("doctor", "-u", "b.db").code
    assert "database of its own" in palaver("copy", "palaver-demo.db", "b.db", "--promote").problem["detail"]
