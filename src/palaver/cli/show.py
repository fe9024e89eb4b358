"""`palaver show`: a whole conversation, readable, with every step of every answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from palaver.cli.amounts import Count
from palaver.cli.context import Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits
from palaver.cli.pages import UNANSWERED, html, markdown, remark
from palaver.cli.problems import Stop

if TYPE_CHECKING:
    from palaver.cli.output import Output
    from palaver.turns.transcripts import Said, Shown

BAR = 28


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How much of a conversation, and in which form: the options of the command."""

    user: str | None = None
    """Whose conversation it is, where the identifier alone does not say."""
    full: bool = False
    """Print also what went into each step and what came out."""
    md: bool = False
    """Write Markdown."""
    html: bool = False
    """Write one HTML page that needs nothing else."""
    last: Count | None = None
    """Only the last so many messages."""


ALL = Wanted()


@emits("transcript")
async def show(id: str, /, *, wanted: Wanted = ALL, here: Here) -> int:
    """Print a whole conversation or message, with every step of every answer.

    Parameters
    ----------
    id
        A conversation, or a message of one.
    """
    from palaver.cli.transcripts import place_of, transcripts_of

    if wanted.md and wanted.html:
        raise Stop(Exit.USAGE, "usage", "--md and --html exclude each other.")
    async with here.open() as store:
        place = await place_of(store, id, wanted.user)
        transcripts = await transcripts_of(here, store, place.tenant)
        owner, conversation = place.owner, place.conversation
        said = [each async for each in transcripts.transcript(owner, conversation, last=wanted.last)]
    if place.message:
        said = _around(said, id)
    if not said:
        raise Stop(Exit.NOT_FOUND, "not_found", "The conversation has no such message any more.", hint="It may have expired.")
    if wanted.md or wanted.html:
        page = markdown if wanted.md else html
        here.out.write(page(conversation, said, full=wanted.full))
    elif here.out.json:
        here.out.emit("transcript", {"user_id": owner, "conversation_id": conversation, "messages": [_plain(each) for each in said]})
    else:
        _print(here.out, owner, conversation, said, wanted.full or place.message)
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
        state = f"  {each.status}" if each.status in UNANSWERED else ""
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
    rows = [_row(step) for step in said.steps]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for step, row in zip(said.steps, rows, strict=True):
        text = f"    {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {_bar(said, step)}  {row[3]}".rstrip()
        out.print(_dim(text) if step.success else _bold(text, "red"))
        if full:
            _print_detail(out, step)


def _row(step: Shown) -> tuple[str, str, str, str]:
    took = f"{step.latency:,.0f} ms" if step.latency is not None else ""
    return step.kind, step.name, took, remark(step)


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
