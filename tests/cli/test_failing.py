"""What goes wrong, and what is said about it: one block, an exit code, no traceback, no stored value."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from palaver import errors
from palaver.cli.exits import Exit, exit_of
from palaver.cli.problems import problem_of
from palaver.errors import PalaverError
from tests.cli.conftest import Palaver


@pytest.mark.parametrize(
    ("tokens", "meant"),
    [
        (("serach", "x"), "search"),
        (("query", "Mesage"), "Message"),
        (("query", "Message", "x", "--by", "by_intnet"), "by_intent"),
        (("query", "Message", "x", "--where", "contents=1"), "content"),
        (("query", "Message", "x", "--where", "intent.confidense>1"), "confidence"),
        (("search", "x", "--index", "baller-conversation"), "baller-conversations"),
        (("search", "x", "--facets", "app_mod"), "app_mode"),
        (("stats", "usage", "--by", "providers"), "provider"),
        (("schema", "show", "Feedbak"), "Feedback"),
        (("query", "Message", "--blueprint", "ballet"), "baller"),
        (("health", "--qiet"), "--quiet"),
        (("--qiet", "health"), "--quiet"),
        (("--tenat=acme", "health"), "--tenant"),
        (("forget", "x"), "purge"),
        (("status",), "health"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_right_one(palaver: Palaver, demo: Path, tokens: tuple[str, ...], meant: str) -> None:
    ran = palaver(*tokens)

    assert Exit.USAGE == ran.code
    assert f"Did you mean {meant}?" == ran.problem["hint"]


@pytest.mark.parametrize(
    ("tokens", "code"),
    [
        (("query", "Message", "--limit", "0"), Exit.USAGE),
        (("query", "Message", "x", "--limit", "many"), Exit.USAGE),
        (("query", "Message", "x", "--where", "=="), Exit.USAGE),
        (("query", "Message", "x", "--where", "timestamp>soon"), Exit.USAGE),
        (("query", "Message", "x", "--where", "intent.confidence>high"), Exit.USAGE),
        (("query", "Message", "x", "--between", "1"), Exit.USAGE),
        (("query", "Message", "x", "y", "z"), Exit.USAGE),
        (("query", "Message", "x", "--cursor", "forged"), Exit.USAGE),
        (("query", "Message", "--count"), Exit.USAGE),
        (("stats", "usage", "--since", "yesterday"), Exit.USAGE),
        (("stats", "weather"), Exit.USAGE),
        (("show", "talk-9999"), Exit.NOT_FOUND),
        (("show",), Exit.USAGE),
        (("--json", "--human", "version"), Exit.USAGE),
        (("query", "Message", "--schema", "nowhere:SCHEMA"), Exit.USAGE),
        (("query", "Message", "--schema", "nowhere"), Exit.USAGE),
        (("query", "Message", "--schema", "json:SCHEMA"), Exit.USAGE),
        (("health", "-u", "oracle://x"), Exit.USAGE),
        (("health", "-u", "sqlite:///x?sink=1"), Exit.USAGE),
    ],
)
def test_a_request_that_cannot_work_says_so(palaver: Palaver, demo: Path, tokens: tuple[str, ...], code: Exit) -> None:
    ran = palaver(*tokens)

    assert code == ran.code == ran.problem["exit"]
    assert ran.problem["detail"]
    assert "Traceback" not in ran.err
    assert "" == ran.out


@pytest.mark.parametrize(
    ("tokens", "detail", "named"),
    [
        (("serve",), "There is no command serve.", "work"),
        (("--unheard-of",), "There is no option --unheard-of.", "--debug"),
        (("--ndjson", "health"), "There is no option --ndjson.", "--json"),
    ],
)
def test_what_is_like_nothing_there_is_answered_with_what_there_is(
    palaver: Palaver, tokens: tuple[str, ...], detail: str, named: str
) -> None:
    ran = palaver(*tokens)

    assert (Exit.USAGE, detail) == (ran.code, ran.problem["detail"])
    assert named in ran.problem["hint"]


@pytest.mark.parametrize("asked", [("--help",), ("-h",), ("--describe",), ()])
@pytest.mark.parametrize(
    ("tokens", "detail", "hint"),
    [
        (("unknowncommand",), "There is no command unknowncommand.", "There are: demo, show, "),
        (("-u", "x.db", "migrat"), "There is no command migrat.", "Did you mean migrate?"),
        (("forget",), "There is no command forget.", "Did you mean purge?"),
        (("migrate", "stats"), "There is no command migrate stats.", "Did you mean migrate status?"),
        (("flags", "delete"), "There is no command flags delete.", "There are: flags "),
    ],
)
def test_a_command_that_is_not_there_has_no_help(
    palaver: Palaver, elsewhere: Path, tokens: tuple[str, ...], detail: str, hint: str, asked: tuple[str, ...]
) -> None:
    ran = palaver(*tokens, *asked)

    assert (Exit.USAGE, "usage", detail, "") == (ran.code, ran.problem["code"], ran.problem["detail"], ran.out)
    assert ran.problem["hint"].startswith(hint)
    assert ran.err == palaver(*asked, *tokens).err


def test_a_database_that_is_not_there_is_not_made(palaver: Palaver, elsewhere: Path) -> None:
    for command in (("health",), ("query", "Message"), ("sweep",), ("work", "--once"), ("show", "x"), ("purge", "x")):
        ran = palaver(*command)
        assert (Exit.NOT_FOUND, "no_database") == (ran.code, ran.problem["code"])
    assert [] == list(elsewhere.iterdir())


def test_a_file_that_is_no_database_is_left_alone(palaver: Palaver, elsewhere: Path) -> None:
    for content in (b"these are notes, not a database" * 100, b"", b"SQLite format 3\0 and then nothing"):
        file = elsewhere / "notes.db"
        file.write_bytes(content)
        ran = palaver("health", "-u", "notes.db")
        assert ran.code in (Exit.FAILURE, Exit.DRIFT)
        assert ran.problem["hint"]
        assert content == file.read_bytes()


def test_the_database_of_another_program_is_left_alone(palaver: Palaver, elsewhere: Path) -> None:
    database = sqlite3.connect("other.db")
    database.execute("CREATE TABLE mine (a)")
    database.commit()
    database.close()
    before = (elsewhere / "other.db").read_bytes()

    ran = palaver("sweep", "-u", "other.db")

    assert (Exit.DRIFT, "no_schema") == (ran.code, ran.problem["code"])
    assert before == (elsewhere / "other.db").read_bytes()


def test_data_of_a_newer_program_is_read_and_never_migrated_back(palaver: Palaver, demo: Path) -> None:
    database = sqlite3.connect(demo)
    database.execute("UPDATE palaver_system SET body = json_set(body, '$.version', 99) WHERE scope = 'schema'")
    database.commit()
    database.close()

    assert Exit.OK == palaver("query", "Message", "--limit", 1).code
    for command in ("plan", "apply"):
        ran = palaver("migrate", command)
        assert (Exit.DRIFT, "not_provisioned") == (ran.code, ran.problem["code"]), command
    told = palaver("migrate", "status")
    assert (Exit.DRIFT, 99, []) == (told.code, told.json["stored_version"], told.json["pending"])


def test_a_file_of_a_newer_form_is_refused(palaver: Palaver, demo: Path) -> None:
    database = sqlite3.connect(demo)
    (form,) = database.execute("PRAGMA application_id").fetchone()
    database.execute(f"PRAGMA application_id = {form + 1}")
    database.commit()
    database.close()

    ran = palaver("health")

    assert (Exit.DRIFT, "not_provisioned") == (ran.code, ran.problem["code"])


def test_a_schema_that_is_no_blueprint_has_to_be_named(palaver: Palaver, demo: Path) -> None:
    database = sqlite3.connect(demo)
    database.execute("UPDATE palaver_system SET body = json_set(body, '$.name', 'mine') WHERE scope = 'schema'")
    database.commit()
    database.close()

    ran = palaver("health")

    assert (Exit.USAGE, "unknown_schema") == (ran.code, ran.problem["code"])
    assert Exit.OK == palaver("health", "--blueprint", "baller").code


HOLD = (
    "import sqlite3, sys; held = sqlite3.connect(sys.argv[1], isolation_level=None); held.execute('BEGIN IMMEDIATE');"
    "print('held', flush=True); sys.stdin.read(); held.close()"
)


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        ("class Note(Entity)\n    pass\n", "app_{n} cannot be imported: SyntaxError in app_{n}.py, line 1."),
        ("\nraise ValueError('hunter2')\n", "app_{n} cannot be imported: ValueError in app_{n}.py, line 2."),
        ("import json\n\n\njson.loads('hunter2')\n", "app_{n} cannot be imported: JSONDecodeError in app_{n}.py, line 4."),
        ("import no_such_thing\n", "There is no module no_such_thing."),
        ("SCHEMATA = 1\n", "app_{n} has no Schema called SCHEMA."),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_its_line(
    palaver: Palaver, elsewhere: Path, source: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Modules are kept by their names, so each has its own.
    name = f"app_{abs(hash(source))}"
    monkeypatch.syspath_prepend(str(elsewhere))
    (elsewhere / f"{name}.py").write_text(source, encoding="utf-8")

    ran, debugged = (
        palaver("schema", "check", "--schema", f"{name}:SCHEMA"),
        palaver("schema", "check", "--schema", f"{name}:SCHEMA", "--debug"),
    )

    assert (Exit.USAGE, detail.replace("app_{n}", name)) == (ran.code, ran.problem["detail"])
    assert "hunter2" not in ran.err
    assert "Traceback" in debugged.err


def test_a_locked_file_can_be_tried_again(palaver: Palaver, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palaver.connections import sqlite

    monkeypatch.setattr(sqlite.SqliteOptions, "__init__", _impatient(sqlite.SqliteOptions.__init__))
    # Another process, because locks of one process do not keep it from its own file.
    with subprocess.Popen([sys.executable, "-c", HOLD, demo], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        ran = palaver("purge", "201000000000000000", "--yes")
        holder.communicate(b"done")

    assert Exit.UNAVAILABLE == ran.code
    assert ran.problem["retryable"]


def _impatient(init: object) -> object:
    def made(self: object, *args: object, **options: object) -> None:
        init(self, *args, **{**options, "busy_timeout_s": 0.2})  # type: ignore[operator]

    return made


def test_a_folder_is_no_database(palaver: Palaver, elsewhere: Path) -> None:
    ran = palaver("health", "-u", str(elsewhere))

    assert (Exit.USAGE, "config") == (ran.code, ran.problem["code"])
    assert ran.problem["hint"].startswith("Name a file in it")


def test_a_server_that_is_away_is_an_answer_of_health_and_no_failure(palaver: Palaver) -> None:
    url = "postgresql://u:s3cret@127.0.0.1:1/db?connect_timeout=0.1"
    for tokens in (("--blueprint", "baller"), ()):
        ran = palaver("health", "--ready", *tokens, "-u", url)
        assert Exit.UNAVAILABLE == ran.code
        assert ("down", False) == (ran.json["status"], ran.json["ready"])
        assert ("down", "unavailable") == tuple(ran.json["components"]["records"][name] for name in ("state", "error"))
        assert "s3cret" not in ran.out + ran.err
    told, well = palaver("health", "--human", "-u", url), palaver("health", "--human", "-u", "memory:")
    assert "records: down" in told.out
    assert "`palaver doctor` says what to do\n" == told.err
    assert "doctor" not in well.err


def test_an_unexpected_failure_names_its_kind_and_no_value(palaver: Palaver, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palaver.store import Store

    async def broken(self: Store, timeout_s: float) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(Store, "health", broken)
    ran, debugged = palaver("health"), palaver("health", "--debug")

    assert (Exit.FAILURE, "unexpected") == (ran.code, ran.problem["code"])
    assert "hunter2" not in ran.err
    assert "RuntimeError" in ran.err
    assert "Traceback" in debugged.err


def test_people_read_what_why_and_what_to_try(palaver: Palaver) -> None:
    ran = palaver("health", "--human")

    assert ran.err.startswith("error: There is no database at palaver.db.\n  try: ")


@pytest.mark.parametrize("cls", [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PalaverError)])
def test_every_error_has_an_exit_code_a_hint_and_an_anchor(cls: type[PalaverError]) -> None:
    problem = problem_of(cls())

    assert exit_of(cls()) not in (Exit.OK, Exit.PARTIAL, Exit.INTERRUPTED)
    assert cls.retryable == (problem.exit is Exit.UNAVAILABLE)
    assert problem.hint
    assert problem.anchor.endswith(f"#{cls.code}")
    assert json.loads(problem.json())["code"] == cls.code


def test_hostile_arguments_are_answered_and_nothing_breaks(palaver: Palaver, demo: Path, shared_data: Path) -> None:
    lines = (shared_data / "hostile" / "naughty-strings.jsonl").read_text(encoding="utf-8").split("\n")
    texts = [json.loads(line)["text"] for line in lines[::13] if line]
    for number, text in enumerate(texts):
        for tokens in (
            ("search", "--", text),
            ("show", "--", text),
            ("query", "Message", f"--where=content={text}"),
            ("query", "--", text),
            ("query", "Message", "--by=by_intent", "--", text),
            ("purge", "--dry-run", "--", text),
        )[number % 2 :: 2]:
            ran = palaver(*tokens)
            assert ran.code in (Exit.OK, Exit.USAGE, Exit.NOT_FOUND), tokens
            if ran.code:
                assert "unexpected" != ran.problem["code"], tokens
