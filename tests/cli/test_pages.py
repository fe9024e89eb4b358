"""A conversation as a page: everything that was said is text in it, whatever it looks like."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from palaver.cli.exits import Exit
from palaver.cli.pages import html
from palaver.turns.transcripts import Said, Shown
from tests.cli.conftest import Palaver

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NASTY = (
    "<script>alert(1)</script>",
    "</p></article></html><img src=x onerror=alert(1)>",
    "\" onclick='alert(1)' `x`",
    "&lt;b&gt; &amp; <!-- -->",
    "\x00\x1b[2J\u202egnp.exe",
    "]]><![CDATA[",
)


class Read(HTMLParser):
    """Which elements and attributes a page has, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(text: str) -> str:
    step = Shown("llm_call", text, NOON, 12.0, success=False, error=text, detail={"prompt": text, text: 1})
    said = [Said("1", "user", text, NOON, "failed", 20.0, (step,)), Said("2", "assistant", text, NOON)]
    return html(text, said, full=True)


@pytest.mark.parametrize("text", NASTY)
def test_what_was_said_is_text_and_nothing_else(text: str) -> None:
    harmless, nasty = Read(page_of("harmless")), Read(page_of(text))

    assert harmless.tags == nasty.tags
    assert harmless.attributes == nasty.attributes
    assert not {"\x00", "\x1b", "\u202e"} & set(page_of(text))
    if text.isprintable():
        assert text in nasty.text


def test_a_page_asks_for_nothing() -> None:
    page = page_of("https://example.org/a.js")

    assert "default-src 'none'" in page
    assert not {"script", "link", "img", "iframe", "base", "form"} & set(Read(page).tags)
    assert not {"src", "href", "srcset", "action", "style"} & Read(page).attributes


def test_a_conversation_is_written_as_one_page(palaver: Palaver, demo: Path) -> None:
    whole = palaver("show", "talk-0007").json
    ran = palaver("show", "talk-0007", "--html")
    read = Read(ran.out)

    assert ran.out.startswith("<!doctype html>")
    assert all(message["content"] in read.text for message in whole["messages"])
    assert len(whole["messages"]) == read.tags.count("article")
    assert sum(len(message["steps"]) for message in whole["messages"]) == read.tags.count("li")
    assert len(palaver("show", "talk-0007", "--html", "--full").out) > len(ran.out)


def test_one_form_at_a_time(palaver: Palaver, demo: Path) -> None:
    assert Exit.USAGE == palaver("show", "talk-0007", "--html", "--md").code
