"""No page boasts: how fast something is, is said in figures that were measured, or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import reference

BOASTS = re.compile(
    r"\bO\((?:1|n|log n)\)|sub-?millisecond|\bblazing|\blightning|\binstant(?:ly|aneous\w*)"
    r"|\binstant (?:access|answer|look-?up|response|result)"
    r"|\b(?:ultra|super|extremely|incredibly|very)[- ]?(?:fast|quick|low)|\bzero[- ](?:latency|overhead)|\breal[- ]time"
    r"|\binfinite(?:ly)? scal|\bseamless|\bhigh[- ]performance|\bconstant[- ]time|\bmillions of",
    re.IGNORECASE,
)
PAGES = [reference.ROOT / "README.md", *sorted(reference.DOCS.rglob("*.md"))]


def ours(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are this project's own words: not what a design says, which its page quotes to answer it."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(("**The design:**", "Of `")):
            continue
        # The first cell of a row is what is answered, the others answer it.
        said = line.split("|", 2)[2] if re.match(r"\| [^|]+ \|.*\|", line) else line
        yield number, re.sub(r"\bno [\w-]+ is O\(1\)", "", said)


def boasts(text: str) -> list[tuple[int, str]]:
    return [(number, found.group()) for number, line in ours(text) for found in BOASTS.finditer(line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(reference.ROOT)))
def test_a_page_says_nothing_of_speed_that_is_no_figure(page: Path) -> None:
    assert [] == boasts(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("People are found in O(1).", ["O(1)"]),
        ("| look-up | It is O(1), and answers instantly. |", ["O(1)", "instantly"]),
        ("Blazing reads, in sub-millisecond time.", ["Blazing", "sub-millisecond"]),
        ("Why: It is O(1).", ["O(1)"]),
        ("| O(1) user lookup | It is one read by the key. |", []),
        ("**The design:** A look-up in O(1).", []),
        ("**Why:** Every write pays for it, and no B-tree is O(1).", []),
        ("An instant is kept in milliseconds.", []),
    ],
)
def test_a_boast_is_found_and_a_quotation_is_not(line: str, found: list[str]) -> None:
    assert found == [boast for _, boast in boasts(line)]
