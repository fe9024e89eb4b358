"""How a failure is told: one block for people, one problem+json object for programs, and never a stored value."""

from __future__ import annotations

import inspect
import json
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches

from cyclopts import App, CycloptsError, UnknownCommandError, UnknownOptionError

from palaver.cli.exits import Exit, exit_of
from palaver.cli.output import CONTRACT, harmless
from palaver.cli.talking import talk
from palaver.errors import PalaverError

ANCHOR = "reference/errors.html#"


class Stop(Exception):
    """End the command with a problem of the command line itself."""

    def __init__(self, exit: Exit, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        status = {Exit.NOT_FOUND: 404, Exit.UNAVAILABLE: 504}.get(exit, 422)
        self.problem = Problem(exit, code, message, message, hint, status, retryable=exit is Exit.UNAVAILABLE)


@dataclass(frozen=True)
class Problem:
    """One failure, in the words of RFC 9457."""

    exit: Exit
    code: str
    title: str
    detail: str
    hint: str = ""
    status: int = 500
    retryable: bool = False
    anchor: str = ""

    def tell(self, *, as_json: bool) -> None:
        talk((self.json() if as_json else self.text()) + "\n")

    def json(self) -> str:
        body = {
            "version": CONTRACT,
            "kind": "problem",
            "type": self.anchor or "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "hint": self.hint,
            "retryable": self.retryable,
            "exit": int(self.exit),
        }
        return json.dumps(body, ensure_ascii=True)

    def text(self) -> str:
        lines = [f"error: {harmless(self.detail)}"]
        if self.hint:
            lines.append(f"  try: {harmless(self.hint)}")
        if self.anchor:
            lines.append(f"  docs: {self.anchor}")
        return "\n".join(lines)


def problem_of(error: BaseException) -> Problem:
    """Return what to tell about any exception. One that is not ours is named by its type: its text may hold stored values."""
    if isinstance(error, Stop):
        return error.problem
    if isinstance(error, PalaverError):
        hint = error.hint or remedy(type(error))
        return Problem(exit_of(error), error.code, error.title, error.message, hint, error.status, error.retryable, ANCHOR + error.code)
    if isinstance(error, ModuleNotFoundError):
        hint = "Install what provides it; the extras of Palaver are in its installation guide."
        return Problem(Exit.FAILURE, "missing_module", "A package is not installed", f"There is no module {error.name}.", hint)
    if isinstance(error, OSError):
        name = f" ({error.filename})" if isinstance(error.filename, str) else ""
        return Problem(
            Exit.FAILURE,
            "os",
            "The system refused",
            f"{error.strerror or type(error).__name__}{name}.",
            "Check the path and its permissions.",
        )
    return Problem(
        Exit.FAILURE,
        "unexpected",
        "Palaver failed in a way it does not know",
        f"Palaver failed in a way it does not know ({type(error).__name__}).",
        "Run it again with --debug and report what it prints.",
    )


def remedy(kind: type[PalaverError]) -> str:
    """Return what the reference says to do about an error."""
    told = " ".join(inspect.cleandoc(kind.__doc__ or "").partition("What to do:")[2].split())
    return told[:1].upper() + told[1:]


def report(error: BaseException, *, as_json: bool, debug: bool) -> Exit:
    """Tell about an exception and return the exit code."""
    if debug:
        traceback.print_exception(error)
    problem = problem_of(error)
    problem.tell(as_json=as_json)
    return problem.exit


def usage(error: CycloptsError, commands: Sequence[str], options: Sequence[str]) -> Stop:
    """Return the problem of a command line that could not be read."""
    if isinstance(error, UnknownCommandError):
        # Its own text would import every command to name those that exist.
        given = (error.unused_tokens or [""])[0]
        if given.startswith("-"):
            return _no_option(given.partition("=")[0], options)
        return _no_command_of(error.app, error.command_chain, given) if error.app and error.command_chain else _no_command(given, commands)
    if isinstance(error, UnknownOptionError):
        given = (error.token.keyword or error.token.value).partition("=")[0]
        return Stop(Exit.USAGE, "usage", f"There is no option {given[:40]}.", hint=_nearest_option(error, given, options))
    return Stop(Exit.USAGE, "usage", " ".join(str(error).split()), hint=_HELP)


def _no_command(given: str, commands: Sequence[str]) -> Stop:
    near = [_CALLED_OTHERWISE[given]] if given in _CALLED_OTHERWISE else get_close_matches(given, commands, n=1, cutoff=0.61)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(commands)}."
    return Stop(Exit.USAGE, "usage", f"There is no command {given[:40]}.", hint=hint)


def _no_command_of(family: App, path: Sequence[str], given: str) -> Stop:
    within = " ".join(path)
    known = [name for name in family if not name.startswith("-")]
    near = get_close_matches(given, known, n=1, cutoff=0.61)
    hint = f"Did you mean {within} {near[0]}?" if near else f"There are: {', '.join(f'{within} {name}' for name in known)}."
    return Stop(Exit.USAGE, "usage", f"There is no command {within} {given[:40]}.", hint=hint)


def _no_option(given: str, options: Sequence[str]) -> Stop:
    near = get_close_matches(given, options, n=1, cutoff=0.7)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(options)}."
    return Stop(Exit.USAGE, "usage", f"There is no option {given[:40]}.", hint=hint)


def _nearest_option(error: UnknownOptionError, given: str, options: Sequence[str]) -> str:
    """Return a hint: the option that is spelt most alike; of equals, and from afar, what the command itself takes."""
    taken = {name for each in error.argument_collection if each.parameter.parse is not False for name in each.names}
    own = sorted(name for name in taken if name.startswith("--") and name not in options)
    if given in _SAID_OTHERWISE and (said := _SAID_OTHERWISE[given]) in own:
        return f"Did you mean {said}?"
    near = get_close_matches(given, own, n=1, cutoff=0.6) + get_close_matches(given, options, n=1, cutoff=0.7)
    if near:
        return f"Did you mean {max(near, key=lambda name: SequenceMatcher(None, name, given).ratio())}?"
    return f"This command has {', '.join(own)}." if own else _HELP


_SAID_OTHERWISE = {"--for": "--target"}
"""What the tables call it is not always what the option is called."""
_CALLED_OTHERWISE = {
    "forget": "purge",
    "erase": "purge",
    "delete": "purge",
    "status": "health",
    "chat": "show",
    "find": "search",
    "logs": "tail",
    "backup": "copy",
}
"""What other tools call what a command does."""
_HELP = "Run `palaver --help`, or a command with --help."
