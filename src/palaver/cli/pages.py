"""A conversation as a document: Markdown, or one HTML page that asks for nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from palaver.cli.output import harmless, plain_text

if TYPE_CHECKING:
    from palaver.turns.transcripts import Said, Shown

UNANSWERED = ("failed", "in_progress", "unanswered")
"""States of a message that are worth a word."""


def remark(step: Shown) -> str:
    """Say in a few words what matters about a step."""
    detail = step.detail
    notes = [str(step.error)] if step.error else []
    if isinstance(status := detail.get("status_code"), int) and step.error != f"HTTP {status}":
        notes.append(f"HTTP {status}")
    if isinstance(purpose := detail.get("purpose"), str):
        notes.append(purpose)
    if detail.get("total_tokens"):
        notes.append(f"{detail.get('prompt_tokens'):,}+{detail.get('completion_tokens'):,} tokens")
    if isinstance(sure := detail.get("confidence"), float):
        notes.append(f"{sure:.0%} sure")
    if isinstance(entities := detail.get("entities"), list) and entities:
        notes.append(", ".join(str(entity["name"]) for entity in entities if isinstance(entity, dict) and "name" in entity))
    return " · ".join(notes)


def markdown(conversation: str, said: Sequence[Said], *, full: bool) -> str:
    """Return a conversation as Markdown: what was said as quotes, the steps as lists."""
    lines = [f"# {conversation}"]
    for each in said:
        took = f" · {each.latency:,.0f} ms" if each.latency is not None else ""
        lines += ["", f"**{each.role}** · {each.at:%Y-%m-%d %H:%M:%S} UTC{took}", ""]
        lines += [f"> {line}" for line in each.content.split("\n")]
        if each.steps:
            lines.append("")
        for step in each.steps:
            took = f" {step.latency:,.0f} ms" if step.latency is not None else ""
            note = f": {remark(step)}" if remark(step) else ""
            lines.append(f"- {step.kind} `{step.name}`{took}{'' if step.success else ' **failed**'}{note}")
            if full and step.detail:
                lines += ["", "  ```json", f"  {plain_text(dict(step.detail))}", "  ```", ""]
    return "\n".join(lines)


STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
article { margin: 1.5rem 0; padding-left: 1rem; border-left: 3px solid #8888 }
article.user { border-color: #1f77b4 }
header { font-size: .85rem; opacity: .75 }
p, pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0 }
ol { font-size: .85rem; margin: .5rem 0 }
.failed { font-weight: bold; color: #d62728 }
"""


def html(conversation: str, said: Sequence[Said], *, full: bool) -> str:
    """Return a conversation as one HTML page. Everything that was said is text in it, whatever it looks like."""
    title = _text(conversation)
    return "\n".join(
        (
            '<!doctype html>\n<html lang="und">\n<meta charset="utf-8">',
            # Should anything ever get past the escaping, the page still fetches nothing and runs nothing.
            """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">""",
            '<meta name="viewport" content="width=device-width">',
            f"<title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>",
            *(_message(each, full) for each in said),
            "</html>",
        )
    )


def _message(said: Said, full: bool) -> str:
    asked = said.role == "user"
    head = f"<strong>{_text(said.role)}</strong> · <time>{said.at:%Y-%m-%d %H:%M:%S} UTC</time>{_took(said.latency if asked else None)}"
    state = f' <span class="failed">{_text(said.status)}</span>' if said.status in UNANSWERED else ""
    steps = f"<ol>\n{''.join(_step(step, full) for step in said.steps)}</ol>\n" if said.steps else ""
    content = f'<p dir="auto">{_text(said.content)}</p>'
    return f'<article class="{_text(said.role)}">\n<header>{head}{state}</header>\n{content}\n{steps}</article>'


def _step(step: Shown, full: bool) -> str:
    about = f": {_text(remark(step))}" if remark(step) else ""
    failed = "" if step.success else ' <span class="failed">failed</span>'
    detail = f"<pre>{_text(plain_text(dict(step.detail)))}</pre>" if full and step.detail else ""
    return f"<li>{_text(step.kind)} <code>{_text(step.name)}</code>{_took(step.latency)}{failed}{about}{detail}</li>\n"


def _took(latency: float | None) -> str:
    return "" if latency is None else f" · {latency:,.0f} ms"


def _text(value: str) -> str:
    return escape(harmless(value))
