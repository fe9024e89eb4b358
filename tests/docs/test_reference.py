"""The reference pages say what the code says, and leave nothing out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from palaver.cli import app
from palaver.errors import PalaverError
from tools import reference

ROOT = reference.ROOT


def tree(cls: type[PalaverError]) -> Iterator[type[PalaverError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from tree(child)


ERRORS = [cls for cls in tree(PalaverError) if cls.__module__ == "palaver.errors"]


def page(name: str) -> str:
    return (reference.DOCS / "reference" / name).read_text(encoding="utf-8")


def test_no_page_is_stale() -> None:
    # In a process of its own: the usage lines cyclopts writes depend on how the process was started.
    check = subprocess.run([sys.executable, "tools/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (0, "") == (check.returncode, check.stderr)


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_an_error_is_documented_with_its_reason_and_its_remedy(cls: type[PalaverError]) -> None:
    _, found, rest = page("errors.md").partition(f"\n## {cls.code}\n")
    section = rest.partition("\n## ")[0]

    assert found
    assert f"`{cls.__name__}`" in section
    assert f"HTTP {cls.status}" in section
    assert "**Why:**" in section
    assert "**What to do:**" in section


def test_no_two_errors_share_a_code() -> None:
    codes = [cls.code for cls in ERRORS]

    assert sorted(set(codes)) == sorted(codes)


def commands(app: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name in app:
        if not name.startswith("-") and app[name].show:
            yield (*path, name)
            yield from commands(app[name], (*path, name))


def test_every_command_is_documented() -> None:
    headings = {line.lstrip("# ") for line in page("cli.md").splitlines() if line.startswith("#")}
    there = {" ".join(path) for path in commands(app, ("palaver",))}

    assert "palaver migrate apply" in there
    assert set() == there - headings
