"""What commands say: data on stdout, talk on stderr; for people on a terminal, as JSON anywhere else."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from palaver.cli.talking import talk

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from palaver.cli.progress import Progress

F = TypeVar("F", bound=Callable[..., Any])
CONTRACT = 1
"""The version every JSON object carries. Within one version fields are only added."""


@dataclass(frozen=True)
class Emits:
    """Which kinds of JSON object a command writes; `stream`: one a line, as many as there are."""

    kinds: tuple[str, ...] = ()
    stream: bool = False


def emits(*kinds: str, stream: bool = False) -> Callable[[F], F]:
    """Declare what a command writes, beside the command: `palaver --describe` tells it."""

    def declare(command: F) -> F:
        command.emits = Emits(kinds, stream)  # type: ignore[attr-defined]
        return command

    return declare


GAP, FOLDED = 2, 12
"""Between the columns of a table, and how narrow one may become that is folded."""

_SHOWN = frozenset("\n\t")
_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def harmless(text: str) -> str:
    """Return the text with characters that steer a terminal, or turn a line around, written out."""
    if text.isprintable():
        return text
    return "".join(char if char in _SHOWN or not _steers(char) else f"\\x{ord(char):02x}" for char in text)


def _steers(char: str) -> bool:
    return char < " " or "\x7f" <= char <= "\x9f" or char in _DIRECTION


class Output:
    """Where one command writes to, and in which form."""

    def __init__(self, *, json: bool, quiet: bool = False, verbose: bool = False, color: bool = True) -> None:
        self.json, self.quiet, self.verbose, self.color = json, quiet, verbose, color
        self._began, self._step = time.monotonic(), "starting"
        self._progress: Progress | None = None

    # --- data -------------------------------------------------------------------------------------------------------

    def emit(self, kind: str, body: Mapping[str, Any]) -> None:
        """Write one JSON object: indented on a terminal, on one line elsewhere, so that a stream of them is NDJSON."""
        shape: dict[str, Any] = {"version": CONTRACT, "kind": kind, **body}
        self.write(json.dumps(shape, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None, default=str))

    def write(self, text: str) -> None:
        """Write a line to stdout as UTF-8, whatever the locale says."""
        buffer = getattr(sys.stdout, "buffer", None)
        if buffer is None:
            sys.stdout.write(text + "\n")
        else:
            sys.stdout.flush()
            buffer.write(text.encode("utf-8", "backslashreplace") + b"\n")
            buffer.flush()

    @cached_property
    def console(self) -> Console:
        """The console for people; only ever asked for when the output is not JSON."""
        return self._console(None if sys.stdout.isatty() else 120)

    def _console(self, width: int | None) -> Console:
        from rich.console import Console

        terminal = sys.stdout.isatty()
        color = self.color and terminal
        return Console(
            file=sys.stdout,
            force_terminal=terminal,
            no_color=not color,
            color_system="auto" if color else None,
            highlight=False,
            markup=False,
            emoji=False,
            width=width,
        )

    def print(self, *parts: Any) -> None:
        """Print for people: texts are made harmless, anything else is a rich renderable."""
        self.console.print(
            *(harmless(part) if isinstance(part, str) else part for part in parts), soft_wrap=all(isinstance(p, str) for p in parts)
        )

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Collection[str] = (), one_line: bool = False
    ) -> None:
        """Print rows under headings; columns named in `right` hold figures; `one_line` keeps each row on its line.

        Neither is ever cut: where the terminal has no room, its lines run over.
        """
        from rich.table import Table

        shown = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True, padding=(0, GAP, 0, 0))
        whole = frozenset(columns if one_line else right)
        for name in columns:
            shown.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=name in whole)
        cells = [[cell(value) for value in row] for row in rows]
        for row in cells:
            shown.add_row(*row)
        least = _least(columns, cells, whole)
        (self.console if least <= self.console.width else self._console(least)).print(shown, crop=False)

    # --- talk -------------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Tell people something beside the data; silent with --quiet."""
        if not self.quiet:
            talk(harmless(text) + "\n")

    def step(self, text: str) -> None:
        """Note what is being done now, such as "opening bot.db"; told with --verbose, and when there was no time for it."""
        self._step, self._progress = text, None
        if self.verbose:
            talk(f"{time.monotonic() - self._began:9.3f} s  {harmless(text)}\n")

    @property
    def doing(self) -> str:
        """What is being done, and how far that is."""
        return self._step if self._progress is None else f"{self._step}, at {self._progress}"

    def progress(self, what: str, total: int | None = None) -> Progress:
        from palaver.cli.progress import Progress

        self._progress = Progress(what, total, quiet=self.quiet)
        return self._progress


def _least(columns: Sequence[str], rows: Sequence[Sequence[Text]], whole: Set[str]) -> int:
    """Return how wide a table has to be for the columns that are not to be cut; the others are folded down to a few letters."""
    widths = [max([len(name), *(row[number].cell_len for row in rows)]) for number, name in enumerate(columns)]
    return sum(width if name in whole else min(width, FOLDED) for name, width in zip(columns, widths, strict=True)) + GAP * (
        len(columns) - 1
    )


def cell(value: object) -> Text:
    """Return a value as one table cell."""
    from rich.text import Text

    return Text(harmless(plain_text(value)))


def plain_text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.1f}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"
        case dict() | list():
            return json.dumps(value, ensure_ascii=False, default=str)
        case _:
            return str(value)


def no_color() -> bool:
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
