"""What the environment says, in a variable or in a file that a variable names."""

from __future__ import annotations

from pathlib import Path

import pytest

import palaver
from palaver.entity import Entity
from palaver.environment import file_of, said_by, value_of
from palaver.errors import ConfigError
from palaver.keys import Key
from palaver.schema import Schema
from palaver.url import parse_url


class Note(Entity, table="notes"):
    id: str
    key = Key("id")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("PALAVER_URL", "PALAVER_URL_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "secret"


def test_a_variable_a_file_or_nothing(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (None, "", None) == (said_by("PALAVER_URL"), value_of("PALAVER_URL"), file_of("PALAVER_URL"))
    monkeypatch.setenv("PALAVER_URL", "bot.db")
    assert ("PALAVER_URL", "bot.db", None) == (said_by("PALAVER_URL"), value_of("PALAVER_URL"), file_of("PALAVER_URL"))
    monkeypatch.setenv("PALAVER_URL", "")
    clean.write_bytes(b"  memory:\r\n")
    monkeypatch.setenv("PALAVER_URL_FILE", str(clean))
    assert ("PALAVER_URL_FILE", "memory:", clean) == (said_by("PALAVER_URL"), value_of("PALAVER_URL"), file_of("PALAVER_URL"))
    assert "memory" == parse_url(value_of("PALAVER_URL")).scheme


def test_both_at_once_are_refused(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAVER_URL", "sqlite:///hidden.db")
    monkeypatch.setenv("PALAVER_URL_FILE", str(clean))
    with pytest.raises(ConfigError, match="are both set") as caught:
        value_of("PALAVER_URL")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "holds nothing"),
        (b" \n", "holds nothing"),
        (b"hidden\xff", "no UTF-8 text"),
        ("folder", "cannot be read"),
    ],
)
def test_a_file_that_cannot_serve_says_why(clean: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | str | None, words: str) -> None:
    if isinstance(content, bytes):
        clean.write_bytes(content)
    elif content == "folder":
        clean.mkdir()
    monkeypatch.setenv("PALAVER_URL_FILE", str(clean))
    with pytest.raises(ConfigError, match=words) as caught:
        value_of("PALAVER_URL")
    assert "hidden" not in f"{caught.value} {caught.value.__cause__}"


@pytest.fixture
def configured(clean: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "bot.db"
    clean.write_text(f"sqlite:///{file}\n")
    monkeypatch.setenv("PALAVER_URL_FILE", str(clean))
    return file


async def test_an_application_is_opened_with_the_url_in_a_file(configured: Path) -> None:
    schema = Schema("notes", [Note])
    async with palaver.open(schema=schema) as store:
        await store.create(Note(id="1"))
    async with palaver.open(str(configured), schema=schema) as store:
        assert "1" == (await store.get(Note.at("1"))).id
