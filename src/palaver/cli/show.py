"""`palaver show`: a whole conversation, readable, with every step of every answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from palaver.cli.context import Here
from palaver.cli.exits import Exit
from palaver.cli.problems import Stop

if TYPE_CHECKING:
    from palaver.cli.output import Output
    from palaver.turns.transcripts import Said, Shown

BAR = 28


async def show(id: str, /, *, user: str | None = None, full: bool = False, md: bool = False, last: int | None = None, here: Here) -> int:
    """Print a whole conversation or message, with every step of every answer.

    Parameters
    ----------
    id
        A conversation, or a message of one.
    user
        Whose conversation it is, where the identifier alone does not say.
    full
        Print also what went into each step and what came out.
    md
        Write Markdown.
    last
        Only the last so many messages.
    """
    from palaver.cli.transcripts import place_of, transcripts_of

    async with here.open() as store:
        place = await place_of(store, id, user)
        transcripts = await transcripts_of(here, store, place.tenant)
        owner, conversation = place.owner, place.conversation
        said = [each async for each in transcripts.transcript(owner, conversation, last=last)]
    if place.message:
        said = _around(said, id)
    if not said:
        raise Stop(Exit.NOT_FOUND, "not_found", "The conversation has no such message any more.", hint="It may have expired.")
    if md:
        here.out.write(markdown(conversation, said, full=full))
    elif here.out.json:
        here.out.emit("transcript", {"user_id": owner, "conversation_id": conversation, "messages": [_plain(each) for each in said]})
    else:
        _print(here.out, owner, conversation, said, full or place.message)
    return Exit.OK


def _around(said: Sequence[Said], message_id: str) -> list[Said]:
    """Return the question a message belongs to, with everything until the next one."""
    turns: list[list[Said]] = []
    for each in said:
        if each.role == "user" or not turns:
            turns.append([])
        turns[-1].append(each)
    return next((turn for turn in turns if any(each.message_id == message_id for each in turn)), [])


def _plain(said: Said) -> dict[str, Any]:
    from pydantic_core import to_jsonable_python

    shown: dict[str, Any] = to_jsonable_python(asdict(said), fallback=str, inf_nan_mode="strings")
    return shown


# --- for people -----------------------------------------------------------------------------------------------------


def _print(out: Output, owner: str, conversation: str, said: Sequence[Said], full: bool) -> None:
    first, last = said[0].at, said[-1].at
    steps = sum(len(each.steps) for each in said)
    out.print(_bold(conversation), _dim(f"{owner} · {first:%Y-%m-%d %H:%M}–{last:%H:%M} UTC · {len(said)} messages · {steps} steps"))
    for each in said:
        out.print("")
        took = f"  {each.latency:,.0f} ms" if each.latency is not None and each.role == "user" else ""
        state = f"  {each.status}" if each.status in ("failed", "in_progress", "unanswered") else ""
        out.print(
            _bold(f"{'▸' if each.role == 'user' else '◂'} {each.role}", "cyan" if each.role == "user" else "green"),
            _dim(f"{each.at:%H:%M:%S}{took}"),
            _bold(state, "red"),
        )
        for line in each.content.split("\n"):
            out.print(f"  {line}")
        if each.steps:
            _print_steps(out, each, full)


def _print_steps(out: Output, said: Said, full: bool) -> None:
    rows = [_row(said, step) for step in said.steps]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for step, row in zip(said.steps, rows, strict=True):
        text = f"    {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {_bar(said, step)}  {row[3]}".rstrip()
        out.print(_dim(text) if step.success else _bold(text, "red"))
        if full:
            _print_detail(out, step)


def _row(said: Said, step: Shown) -> tuple[str, str, str, str]:
    took = f"{step.latency:,.0f} ms" if step.latency is not None else ""
    return step.kind, step.name, took, _note(step)


def _note(step: Shown) -> str:
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


def _bar(said: Said, step: Shown) -> str:
    """Draw when the step ran within the turn, where that is known."""
    whole = said.latency or 0
    if step.at is None or not step.latency or whole <= 0:
        return " " * BAR
    before = (step.at - said.at) / timedelta(milliseconds=1)
    start = min(BAR - 1, max(0, int(before / whole * BAR)))
    length = max(1, min(BAR - start, round(step.latency / whole * BAR)))
    return ("·" * start + "█" * length).ljust(BAR, "·")


def _print_detail(out: Output, step: Shown) -> None:
    from palaver.cli.output import plain_text

    for name, value in step.detail.items():
        if value is not None and value not in ({}, [], ""):
            text = plain_text(value)
            out.print(_dim(f"        {name}: {text if len(text) <= 2_000 else text[:2_000] + '…'}"))


def _bold(text: str, color: str = "") -> Any:
    from rich.text import Text

    from palaver.cli.output import harmless

    return Text(harmless(text), style=f"bold {color}".strip())


def _dim(text: str) -> Any:
    from rich.text import Text

    from palaver.cli.output import harmless

    return Text(harmless(text), style="dim")


# --- Markdown -------------------------------------------------------------------------------------------------------


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
            note = f": {_note(step)}" if _note(step) else ""
            lines.append(f"- {step.kind} `{step.name}`{took}{'' if step.success else ' **failed**'}{note}")
            if full and step.detail:
                from palaver.cli.output import plain_text

                lines += ["", "  ```json", f"  {plain_text(dict(step.detail))}", "  ```", ""]
    return "\n".join(lines)
