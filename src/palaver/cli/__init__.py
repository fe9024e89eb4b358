"""The command line. What most people ask first, its help, is told without importing what the rest needs."""

from __future__ import annotations

import os
import sys

# A name that type checkers know, without the time that importing typing takes.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from palaver.cli.exits import Exit
    from palaver.cli.launching import app

__all__ = ["Exit", "app", "main", "run"]


def run(tokens: Sequence[str]) -> int:
    """Run one command line and return its exit code; failures are told on stderr."""
    try:
        if (told := _at_once(tokens)) is not None:
            sys.stdout.write(told)
            sys.stdout.flush()
            return 0
        from palaver.cli.launching import call

        return call(tokens)
    except KeyboardInterrupt:
        from palaver.cli.exits import Exit

        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read has seen enough.
        _to_nowhere()
        return 0
    except OSError as error:
        from palaver.cli.problems import report

        _to_nowhere()
        return report(error, as_json=False, debug="--debug" in tokens)


def _to_nowhere() -> None:
    """Have what stdout still holds go nowhere: the interpreter would complain when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _at_once(tokens: Sequence[str]) -> str | None:
    if list(tokens) in ([], ["--help"], ["-h"]):
        from palaver.cli.commands import help_text

        return help_text()
    if list(tokens) == ["--version"]:
        from palaver import __version__

        return f"{__version__}\n"
    return None


def main() -> int:
    """Run the command line of this process."""
    _reopen()
    # What the locale has no letter for is written out, as stderr does: a name must not end a command halfway.
    if sys.stdout.errors in ("strict", "surrogateescape") and (reconfigure := getattr(sys.stdout, "reconfigure", None)):
        reconfigure(errors="backslashreplace")
    return run([_typed(token) for token in sys.argv[1:]])


def _typed(token: str) -> str:
    """Return an argument as UTF-8 has it, where the locale could not read it."""
    return token if token.isprintable() else os.fsencode(token).decode("utf-8", "surrogateescape")


def _reopen() -> None:
    """Give the standard streams that came closed somewhere to go: a database must not be opened under the number of one."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one, because those below it are open by now.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for as long as the process lives


def __getattr__(name: str) -> Any:
    if name == "app":
        from palaver.cli.launching import app

        return app
    if name == "Exit":
        from palaver.cli.exits import Exit

        return Exit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
