"""Settings: who wins, which file counts, what is refused, and what is shown."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from palaver.cli.exits import Exit
from tests.cli.conftest import Palaver

SECRET = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE"
WAYS = ("flag", "environment", "palaver.toml", "pyproject.toml")


def rows(found: Any) -> dict[str, Any]:
    return {row["name"]: row for row in found.json["data"]}


@pytest.fixture
def say(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], list[str]]:
    """Set a setting in one of the ways, and return the flags of it."""

    def said(way: str, name: str, value: str) -> list[str]:
        match way:
            case "flag":
                return [f"--{name}", value]
            case "environment":
                monkeypatch.setenv(f"PALAVER_{name.upper()}", value)
            case "palaver.toml":
                (elsewhere / "palaver.toml").write_text(f'{name} = "{value}"\n')
            case _:
                (elsewhere / "pyproject.toml").write_text(f'[project]\nname = "mine"\n\n[tool.palaver]\n{name} = "{value}"\n')
        return []

    return said


@pytest.mark.parametrize("name", ["url", "schema", "blueprint", "tenant"])
@pytest.mark.parametrize("ways", [ways for count in (1, 2, 3, 4) for ways in combinations(WAYS, count)])
def test_the_strongest_source_wins(
    palaver: Palaver, say: Callable[[str, str, str], list[str]], elsewhere: Path, ways: tuple[str, ...], name: str
) -> None:
    flags = [flag for way in ways for flag in say(way, name, f"by-{way.partition('.')[0]}")]

    row = rows(palaver("config", "show", *flags))[name]

    assert (f"by-{ways[0].partition('.')[0]}", ways[0]) == (row["value"], row["source"])
    origins = (f"--{name}", f"PALAVER_{name.upper()}", str(elsewhere / "palaver.toml"), str(elsewhere / "pyproject.toml"))
    assert origins[WAYS.index(ways[0])] == row["origin"]


def test_both_files_of_a_folder_count_key_by_key(palaver: Palaver, say: Callable[[str, str, str], list[str]], elsewhere: Path) -> None:
    say("palaver.toml", "url", "bot.db")
    say("pyproject.toml", "blueprint", "baller")

    found = rows(palaver("config", "show"))

    assert ("bot.db", "palaver.toml") == (found["url"]["value"], found["url"]["source"])
    assert ("baller", "pyproject.toml") == (found["blueprint"]["value"], found["blueprint"]["source"])
    assert [str(elsewhere / name) for name in ("palaver.toml", "pyproject.toml")] == palaver("config", "path").json["files"]


def test_nothing_set_is_shown_as_well(palaver: Palaver) -> None:
    found = rows(palaver("config", "show"))

    assert ("palaver.db", "default") == (found["url"]["value"], found["url"]["source"])
    assert {"default"} == {row["source"] for row in found.values()}
    assert {"profile", "url", "schema", "blueprint", "tenant", "keys", "seal_keys"} == set(found)


def test_a_file_says_which_database_commands_read(palaver: Palaver, demo: Path, say: Callable[[str, str, str], list[str]]) -> None:
    demo.rename("mine.db")
    Path(f"{demo}.blobs").rename("mine.db.blobs") if Path(f"{demo}.blobs").exists() else None
    assert Exit.NOT_FOUND == palaver("query", "Message", "--limit", 1).code
    say("palaver.toml", "url", "mine.db")

    assert 1 == len(palaver("query", "Message", "--limit", 1).json["data"])


def test_a_file_of_a_parent_counts_within_a_repository_only(palaver: Palaver, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = demo.parent / "project" / "src"
    inner.mkdir(parents=True)
    (demo.parent / "palaver.toml").write_text('url = "palaver-demo.db"\nblueprint = "baller"\n')
    monkeypatch.chdir(inner)
    assert Exit.NOT_FOUND == palaver("query", "Message", "--limit", 1).code
    (demo.parent / "project" / ".git").mkdir()
    assert (Exit.NOT_FOUND, "no_config") == (palaver("config", "path").code, palaver("config", "path").problem["code"])
    (demo.parent / "project" / ".git").rmdir()
    (demo.parent / ".git").write_text("gitdir: elsewhere\n")

    # A path in a file begins in the file's folder, wherever the command is run.
    assert str(demo) == rows(palaver("config", "show"))["url"]["value"]
    assert 1 == len(palaver("query", "Message", "--limit", 1).json["data"])
    # The nearest folder counts alone; a pyproject.toml without the table does not.
    (inner / "pyproject.toml").write_text('[project]\nname = "palaver-bot"\n')
    assert str(demo) == rows(palaver("config", "show"))["url"]["value"]
    (inner / "palaver.toml").write_text('tenant = "acme"\n')
    found = rows(palaver("config", "show"))
    assert ("default", "acme") == (found["url"]["source"], found["tenant"]["value"])


def test_a_schema_in_a_file_is_found_from_the_files_folder(palaver: Palaver, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / ".git").mkdir()
    (elsewhere / "declared_here.py").write_text(
        'from palaver import Entity, Key, Schema\n\n\nclass Note(Entity, table="notes"):\n    id: str\n    key = Key("id")\n\n\n'
        'SCHEMA = Schema("notes", [Note])\n'
    )
    (elsewhere / "palaver.toml").write_text('schema = "declared_here:SCHEMA"\n')
    (elsewhere / "src").mkdir()
    monkeypatch.chdir(elsewhere / "src")
    monkeypatch.setattr("sys.path", [*__import__("sys").path])

    ran = palaver("schema", "check")

    assert Exit.OK == ran.code, ran.err


@pytest.mark.parametrize(
    ("weaker", "flag", "value"), [("schema", "--blueprint", "baller"), ("blueprint", "--schema", "palaver.blueprints.baller:SCHEMA")]
)
def test_schema_and_blueprint_overrule_each_other_by_their_source(
    palaver: Palaver, demo: Path, say: Callable[[str, str, str], list[str]], weaker: str, flag: str, value: str
) -> None:
    say("palaver.toml", weaker, "nowhere:SCHEMA" if weaker == "schema" else "simple_agent")

    assert Exit.OK == palaver("query", "Message", "--limit", 1, flag, value).code
    assert flag == rows(palaver("config", "show", flag, value))[weaker]["overruled_by"]
    if weaker == "schema":
        assert Exit.USAGE == palaver("query", "Message", "--limit", 1).code


# --- profiles ---------------------------------------------------------------------------------------------------------

PROFILES = """
url = "plain.db"
blueprint = "baller"

[profile.dev]
url = "dev.db"

[profile.prod]
url = "postgresql://bot:hidden@db.internal/chat"
schema = "myapp.data:SCHEMA"
tenant = "acme"
"""


def test_a_profile_goes_before_what_its_file_says_for_all(palaver: Palaver, elsewhere: Path) -> None:
    (elsewhere / "palaver.toml").write_text(PROFILES)

    found = rows(palaver("config", "show", "--profile", "prod"))

    assert ("postgresql://bot:***@db.internal/chat", "profile") == (found["url"]["value"], found["url"]["source"])
    assert f"{elsewhere / 'palaver.toml'} [profile.prod]" == found["url"]["origin"] == found["blueprint"]["overruled_by"]
    assert ("prod", "flag", "--profile") == tuple(found["profile"][name] for name in ("value", "source", "origin"))
    assert ["dev.db", "plain.db"] == [rows(palaver("config", "show", *tokens))["url"]["value"] for tokens in (("--profile", "dev"), ())]


def test_a_profile_named_by_a_flag_goes_before_the_environment_and_one_of_the_environment_behind_it(
    palaver: Palaver, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "palaver.toml").write_text(PROFILES)
    monkeypatch.setenv("PALAVER_PROFILE", "dev")

    def url(*tokens: str) -> tuple[str, str]:
        row = rows(palaver("config", "show", *tokens))["url"]
        return row["value"], row["source"]

    assert ("dev.db", "environment_profile") == url()
    monkeypatch.setenv("PALAVER_URL", "exported.db")
    assert ("exported.db", "environment") == url()
    assert ("dev.db", "profile") == url("--profile", "dev")
    assert ("given.db", "flag") == url("--profile", "dev", "-u", "given.db")


def test_a_profile_is_put_together_from_both_files_of_a_folder(palaver: Palaver, elsewhere: Path) -> None:
    (elsewhere / "palaver.toml").write_text('[profile.dev]\nurl = "own.db"\n')
    (elsewhere / "pyproject.toml").write_text('[tool.palaver.profile.dev]\nurl = "shared.db"\ntenant = "acme"\n')

    found = rows(palaver("config", "show", "--profile", "dev"))

    assert ("own.db", "acme") == (found["url"]["value"], found["tenant"]["value"])


def test_commands_read_the_database_of_a_profile(palaver: Palaver, demo: Path, elsewhere: Path) -> None:
    demo.rename(elsewhere / "dev.db")
    (elsewhere / "palaver.toml").write_text(PROFILES)

    assert Exit.OK == palaver("show", "talk-0007", "--profile", "dev").code
    assert Exit.NOT_FOUND == palaver("show", "talk-0007").code


@pytest.mark.parametrize(("name", "hint"), [("prd", "Did you mean prod?"), ("xyzzy", "There are: dev, prod.")])
def test_a_profile_there_is_not_is_answered_with_those_there_are(palaver: Palaver, elsewhere: Path, name: str, hint: str) -> None:
    (elsewhere / "palaver.toml").write_text(PROFILES)

    ran = palaver("health", "--profile", name)

    assert (Exit.USAGE, f"There is no profile {name}.", hint) == (ran.code, ran.problem["detail"], ran.problem["hint"])


def test_without_a_file_a_profile_is_refused_even_where_all_is_given(palaver: Palaver) -> None:
    ran = palaver("config", "show", "--profile", "dev", "-u", "a.db", "--schema", "a:B", "--tenant", "c")

    assert (Exit.USAGE, "Write it into palaver.toml: [profile.dev].") == (ran.code, ran.problem["hint"])


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "detail", "hint"),
    [
        ('ulr = "x.db"', "ulr", "Did you mean url?"),
        ('[profil.dev]\nurl = "x.db"', "profil", "Did you mean profile?"),
        ('[profile.dev]\nulr = "x.db"', "[profile.dev] has a setting ulr", "Did you mean url?"),
        ('[profile]\nurl = "x.db"', "no table of tables", "--profile"),
        ('profile = "dev"', "no table of tables", "--profile"),
        (f'[profile.dev]\nseal_keys = "{SECRET}"', "[profile.dev] holds seal_keys", "PALAVER_SEAL_KEYS_FILE"),
        ("url = 3", "url in", "url ="),
        ('url = "  "', "url in", "url ="),
        ('url = ["a"]', "url in", "url ="),
        (f'seal_keys = "{SECRET}"', "do not belong", "PALAVER_SEAL_KEYS_FILE"),
        (f'seal-keys = "{SECRET}"', "do not belong", "PALAVER_SEAL_KEYS_FILE"),
        (f'PALAVER_SEAL_KEYS = "{SECRET}"', "do not belong", "PALAVER_SEAL_KEYS_FILE"),
        (f'keys = "{SECRET}"', "do not belong", "PALAVER_KEYS_FILE"),
        ('seal_keys_file = "/run/secrets/keys"', "do not belong", "PALAVER_SEAL_KEYS_FILE"),
        ('url = "a.db"\ntenant = ', "line 2", "is written"),
        ('url = "a.db"\n\nurl = "b.db"\n', "line 3", "is written"),
        (f'tenant = "x"\nurl = "{SECRET}\n', "line 2", "is written"),
        ("\x00", "line 1", "is written"),
        ('url = "a.db"\n[unclosed', "line 2", "is written"),
    ],
)
@pytest.mark.parametrize("command", [("config", "show"), ("query", "Message"), ("schema", "check")])
def test_a_file_that_cannot_be_right_is_refused_with_its_place(
    palaver: Palaver, elsewhere: Path, command: tuple[str, ...], text: str, detail: str, hint: str
) -> None:
    (elsewhere / "palaver.toml").write_text(text)

    ran = palaver(*command)

    assert (Exit.USAGE, "config") == (ran.code, ran.problem["code"])
    assert detail in ran.problem["detail"]
    assert str(elsewhere / "palaver.toml") in ran.problem["detail"]
    assert hint in ran.problem["hint"]
    assert "Traceback" not in ran.err
    assert SECRET not in ran.err


def test_bytes_that_are_no_text_are_refused_with_their_line(palaver: Palaver, elsewhere: Path) -> None:
    (elsewhere / "palaver.toml").write_bytes(b'url = "a.db"\n# \xff\n')

    assert "line 2" in palaver("config", "show").problem["detail"]


def test_a_folder_of_that_name_is_refused(palaver: Palaver, elsewhere: Path) -> None:
    (elsewhere / "palaver.toml").mkdir()

    assert (Exit.USAGE, "config") == (palaver("config", "show").code, palaver("config", "show").problem["code"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[tool]\npalaver = "x"\n', "no table"),
        ('[tool.palaver]\nulr = "x"\n', "ulr"),
        ('[tool.palaver]\nurl = "x\n', "line 2"),
    ],
)
def test_a_wrong_table_in_a_shared_file_is_refused(palaver: Palaver, elsewhere: Path, text: str, words: str) -> None:
    (elsewhere / "pyproject.toml").write_text(text)

    assert words in palaver("config", "show").problem["detail"]


def test_a_broken_shared_file_that_is_not_about_us_stops_nobody(palaver: Palaver, elsewhere: Path) -> None:
    (elsewhere / "pyproject.toml").write_text("[project\n")

    assert Exit.OK == palaver("config", "show").code


def test_commands_that_need_no_setting_do_not_read_files(palaver: Palaver, elsewhere: Path) -> None:
    (elsewhere / "palaver.toml").write_text("[broken")

    for command in (("version",), ("--help",), ("keys", "new"), ("query", "--help")):
        assert Exit.OK == palaver(*command).code, command


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_what_is_secret_is_masked_and_its_source_named(palaver: Palaver, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "url").write_text("postgresql://bot:hunter2@db:5432/chat?cache=redis%3A%2F%2F%3Ahunter2%40redis%3A6379\n")
    monkeypatch.setenv("PALAVER_URL_FILE", str(elsewhere / "url"))
    monkeypatch.setenv("PALAVER_SEAL_KEYS", SECRET)
    monkeypatch.setenv("PALAVER_KEYS_FILE", "/run/secrets/never-read")

    for form in ("--json", "--human"):
        ran = palaver("config", "show", form)
        assert Exit.OK == ran.code
        assert "hunter2" not in ran.out + ran.err
        assert SECRET not in ran.out + ran.err
        assert all(name in ran.out for name in ("PALAVER_URL_FILE", "PALAVER_SEAL_KEYS", "PALAVER_KEYS_FILE", "bot:***@db:5432"))


def test_a_password_in_a_file_of_the_repository_is_spoken_of(palaver: Palaver, say: Callable[[str, str, str], list[str]]) -> None:
    say("palaver.toml", "url", "postgresql://bot:hunter2@db/chat")

    ran = palaver("config", "show")

    assert "holds a password; PALAVER_URL_FILE" in ran.err
    assert "hunter2" not in ran.out + ran.err


def test_a_variable_that_is_nearly_ours_is_spoken_of(palaver: Palaver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAVER_SEAL_KEY", SECRET)
    monkeypatch.setenv("PALAVER_TEST_POSTGRES_URL", "x")

    ran = palaver("config", "show")

    assert "PALAVER_SEAL_KEY is no setting; did you mean PALAVER_SEAL_KEYS?\n" in ran.err
    assert "PALAVER_TEST" not in ran.err


def test_a_variable_and_its_file_at_once_are_refused(palaver: Palaver, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAVER_TENANT", "a")
    monkeypatch.setenv("PALAVER_TENANT_FILE", str(elsewhere / "tenant"))

    assert (Exit.USAGE, "config") == (palaver("config", "show").code, palaver("query", "Message").problem["code"])
