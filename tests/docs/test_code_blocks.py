"""What a page shows as a program is run as a test, and the commands it shows are there with the options it gives them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from palaver.cli import app
from palaver.cli.describing import described
from tests.docs.test_figures import PAGES
from tools import reference

WRITTEN = [page for page in PAGES if page.parent.name != "reference"]
SHOWN = {"console", "sql", "text", "toml"}


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the language and the lines of each block of a page."""
    for found in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", page.read_text(encoding="utf-8"), re.MULTILINE):
        yield found[1], found[2]


def typed(page: Path) -> Iterator[list[str]]:
    """Yield the words of each call of palaver that a console shows."""
    for language, lines in blocks(page):
        for line in lines.splitlines() if language == "console" else ():
            for call in re.split(r" && | \|\| ", line.removeprefix("$ ")) if line.startswith("$ ") else ():
                words = shlex.split(call, comments=True)
                if words[:1] == ["palaver"]:
                    yield words[1:]


def taken(told: Mapping[str, Any]) -> set[str]:
    return {name for each in told["parameters"] for name in each["names"]}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(reference.ROOT)))
def test_a_block_says_its_language_so_that_none_in_python_escapes_the_tests(page: Path) -> None:
    assert [] == [language for language, _ in blocks(page) if language not in {*SHOWN, "python"}]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(reference.ROOT)))
def test_a_command_that_is_shown_is_there_with_its_options(page: Path) -> None:
    whole = described(app, ())
    commands = {each["command"]: taken(each) for each in whole["commands"]}
    everywhere = {name for each in whole["options"] for name in each["names"]}
    for words in typed(page):
        named = [" ".join(words[:length]) for length in (2, 1) if " ".join(words[:length]) in commands]
        options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert named or all(word.startswith("-") for word in words), words
        assert options <= everywhere | (commands[named[0]] if named else {"--help"}), words
