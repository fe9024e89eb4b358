"""Commands as people and scripts start them: on a pseudo-terminal, in pipes, interrupted."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palaver.cli.exits import Exit

pytestmark = pytest.mark.usefixtures("demo")
# Who starts the tests in the background has Ctrl-C ignored, and children inherit that.
LISTENING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
PALAVER = [sys.executable, "-c", LISTENING + "import sys; from palaver.cli import main; sys.exit(main())"]
ANA = "201000000000000000"


def on_terminal(*tokens: str, typed: bytes = b"", env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its exit code and everything it showed."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*PALAVER, *tokens],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", **(env or {})},
    ) as process:
        os.close(follower)
        shown, sent = b"", False
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if typed and not sent and b"to go on: " in shown:
                os.write(leader, typed)
                sent = True
            ready, _, _ = select.select([leader], [], [], 0.1)
            try:
                data = os.read(leader, 65536) if ready else b"-"
            except OSError:
                # Linux says so when the last process has closed the terminal.
                break
            if not data:
                break
            shown += data if ready else b""
        code = process.wait(30)
    os.close(leader)
    return code, shown.decode().replace("\r\n", "\n")


def test_a_person_gets_colours_and_no_json() -> None:
    code, shown = on_terminal("show", "talk-0007")

    assert 0 == code
    assert "\x1b[1m" in shown
    assert '"version"' not in shown


@pytest.mark.parametrize("how", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, None])
def test_colours_can_be_refused(how: dict[str, str] | None) -> None:
    _, shown = on_terminal(*(() if how else ("--no-color",)), "stats", "feedback", env=how)

    assert "app mode" in shown
    assert "\x1b[3" not in shown


@pytest.mark.parametrize("columns", ["20", "50", "400"])
def test_no_figure_and_no_key_is_cut_however_narrow_the_terminal(columns: str) -> None:
    ran = subprocess.run([*PALAVER, "stats", "usage", "--json"], capture_output=True, check=True)
    figures = [f"{each['prompt_tokens']:,}" for each in json.loads(ran.stdout)["data"]]
    ran = subprocess.run([*PALAVER, "query", "Message", "--limit", "3", "--json"], capture_output=True, check=True)
    keys = [(each["conversation_id"], each["message_id"]) for each in json.loads(ran.stdout)["data"]]

    usage = on_terminal("stats", "usage", env={"COLUMNS": columns})[1].split()
    lines = [line.split() for line in on_terminal("query", "Message", "--limit", "3", env={"COLUMNS": columns})[1].splitlines()]

    assert figures
    assert [] == [figure for figure in figures if figure not in usage]
    assert set(keys) <= {tuple(line[:2]) for line in lines}


def test_a_person_can_ask_for_json() -> None:
    _, shown = on_terminal("version", "--json")

    assert shown.startswith('{\n  "version": 1,')


def test_a_person_types_the_name_of_what_is_erased() -> None:
    wrong = on_terminal("purge", ANA, typed=b"nobody\n")
    right = on_terminal("purge", ANA, typed=ANA.encode() + b"\n")
    again = on_terminal("purge", ANA)

    assert Exit.FAILURE == wrong[0]
    assert "Nothing was done" in wrong[1]
    assert Exit.OK == right[0]
    assert Exit.NOT_FOUND == again[0]


def test_a_failure_on_a_terminal_is_one_block() -> None:
    code, shown = on_terminal("show", "talk-9999")

    assert Exit.NOT_FOUND == code
    assert shown.startswith("error: ")
    assert "\n  try: " in shown
    assert "Traceback" not in shown


def test_ctrl_c_ends_a_command_quietly() -> None:
    with subprocess.Popen([*PALAVER, "tail"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)

    assert Exit.INTERRUPTED == process.returncode
    assert b"Traceback" not in err


def test_a_worker_stops_when_it_is_told_to() -> None:
    with subprocess.Popen([*PALAVER, "work"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"working on" in process.stderr.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)

    assert Exit.OK == process.returncode


def test_a_reader_that_has_seen_enough_is_no_failure(demo: Path) -> None:
    with (
        subprocess.Popen([*PALAVER, "export", "Message", "-q"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer,
        subprocess.Popen(["head", "-n", "1"], stdin=writer.stdout, stdout=subprocess.DEVNULL) as reader,
    ):
        assert writer.stdout is not None
        writer.stdout.close()
        reader.wait(30)
        err = writer.stderr.read() if writer.stderr else b""

    assert b"" == err
    assert Exit.OK == writer.returncode


def unread(*tokens: str) -> tuple[int, str]:
    """Run a command whose output nobody reads any more; return its exit code and what it said."""
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run([*PALAVER, *tokens], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    return ran.returncode, ran.stderr


@pytest.mark.parametrize(
    "tokens",
    [
        ("show", "talk-0007"),
        ("show", "talk-0007", "--human"),
        ("stats", "database", "--human"),
        ("schema", "show", "--human"),
        ("work", "--help"),
    ],
)
def test_nobody_reading_is_no_failure_in_any_form(tokens: tuple[str, ...]) -> None:
    assert (Exit.OK, "") == unread(*tokens)


def test_what_is_said_and_not_heard_stops_nothing(elsewhere: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run([*PALAVER, "export", "-o", "all"], stdout=subprocess.PIPE, stderr=writer, timeout=60, check=False)
    os.close(writer)

    assert Exit.OK == ran.returncode
    assert {"export"} == {json.loads(ran.stdout)["kind"]}
    assert (elsewhere / "all" / "manifest.json").exists()


def test_streams_that_came_closed_are_nobodys() -> None:
    """Without somewhere for them to go, the database would be opened under the number of stdout, and be written into."""
    command = shlex.join([*PALAVER, "health", "--human"])

    silent = subprocess.run(["bash", "-c", f"{command} >&-"], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    helped = subprocess.run(
        ["bash", "-c", f"{shlex.join([*PALAVER, '--help'])} >&-"], stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    alone = subprocess.run(["bash", "-c", f"{command} <&- >&- 2>&-"], timeout=60, check=False)
    deaf = subprocess.run(["bash", "-c", f"{shlex.join([*PALAVER, 'nonsense'])} 2>&-"], stdout=subprocess.PIPE, timeout=60, check=False)

    assert (Exit.OK, "") == (silent.returncode, silent.stderr)
    assert (Exit.OK, "") == (helped.returncode, helped.stderr)
    assert Exit.OK == alone.returncode
    assert (Exit.USAGE, b"") == (deaf.returncode, deaf.stdout)


@pytest.mark.parametrize("tokens", [[], ["--help"], ["-h"], ["--version"]])
def test_help_imports_next_to_nothing(tokens: list[str]) -> None:
    code = (
        f"import sys; from palaver.cli import run; run({tokens});"
        "print([name for name in ('cyclopts', 'rich', 'typing', 'inspect', 'pydantic', 'asyncio', 'tomllib') if name in sys.modules])"
    )

    # Without site, which imports what other packages ask it to.
    paths = [path for path in sys.path if path]
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": os.pathsep.join(paths)}
    )

    assert "[]" == ran.stdout.splitlines()[-1]
    assert 1 < len(ran.stdout.splitlines())


def test_the_help_told_at_once_is_that_of_the_command_line() -> None:
    from palaver.cli.commands import help_text

    code = "from palaver.cli.launching import call; call(['--help'])"
    wide = {**os.environ, "COLUMNS": "200"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=wide)

    assert ran.stdout.rstrip("\n") == help_text().rstrip("\n")


def test_no_command_imports_heavily_before_it_is_called() -> None:
    code = (
        "import sys; from importlib import import_module; from palaver.cli.commands import COMMANDS;"
        "[import_module(f'palaver.cli.{name}') for name, _, _ in COMMANDS];"
        "print([name for name in ('pydantic', 'apsw', 'orjson', 'palaver.store', 'rich.table', 'tomllib') if name in sys.modules])"
    )

    assert "[]\n" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_palaver_imports_nothing_heavy() -> None:
    code = "import sys, palaver; print([name for name in ('pydantic', 'asyncio') if name in sys.modules]); palaver.Entity"

    assert "[]\n" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
