"""The command line. Commands are named here and imported only when one is called."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter

from palaver import __version__
from palaver.cli.exits import Exit

__all__ = ["Exit", "app", "main", "run"]

LOOK, KEEP, TEND = Group("Look", sort_key=1), Group("Take and remove", sort_key=2), Group("Tend", sort_key=3)
GLOBAL = Group("Global options", sort_key=9)

app = App(
    name="palaver",
    help="Palaver, the data layer for conversational AI.",
    version=__version__,
    help_format="plaintext",
    help_formatter="plain",
    default_parameter=Parameter(negative=(), show_default=False),
)

_COMMANDS: tuple[tuple[str, Group, str], ...] = (
    ("demo", LOOK, "Make a database of real conversations to look at."),
    ("show", LOOK, "Print a whole conversation or message, with every step of every answer."),
    ("search", LOOK, "Search what was said."),
    ("query", LOOK, "Read records through a declared index."),
    ("stats", LOOK, "Sum up usage, cost, latency, feedback and metrics; show the servers' figures."),
    ("presence", LOOK, "Show who is active where."),
    ("tail", LOOK, "Follow messages and calls as they are written."),
    ("export", KEEP, "Write records to files, whole, with a manifest."),
    ("purge", KEEP, "Erase everything about a person, or about people long inactive."),
    ("schema", TEND, "Look at the schema and what is wrong with it."),
    ("migrate", TEND, "Plan and apply what a changed schema does to the database."),
    ("copy", TEND, "Copy a whole stack into another one, while the application goes on."),
    ("flags", TEND, "Look at and set the application's flags."),
    ("limits", TEND, "Look at rate limits, and what they leave whom."),
    ("sessions", TEND, "List and end the sessions of a user."),
    ("config", TEND, "Show every setting and what set it."),
    ("keys", TEND, "Make, count and rotate the keys secrets are sealed with."),
    ("doctor", TEND, "Examine the database and say what to do."),
    ("health", TEND, "Ask every part of the stack how it is."),
    ("sweep", TEND, "Delete expired records, finish cascades, remove released objects."),
    ("work", TEND, "Run projections and upkeep until stopped."),
    ("completion", TEND, "Have your shell complete commands and options."),
    ("version", TEND, "Print versions."),
)
_OPTIONS = ("--url", "--schema", "--blueprint", "--tenant", "--json", "--human", "--quiet", "--yes", "--no-color", "--debug", "--help")
_GROUPS = ("schema", "migrate", "keys", "flags", "limits", "sessions", "config", "completion")
for _name, _group, _help in _COMMANDS:
    app.command(f"palaver.cli.{_name}:{'app' if _name in _GROUPS else _name}", name=_name, group=_group, help=_help)


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    url: Annotated[str | None, Parameter(name=["--url", "-u"], group=GLOBAL)] = None,
    schema: Annotated[str | None, Parameter(group=GLOBAL)] = None,
    blueprint: Annotated[str | None, Parameter(group=GLOBAL)] = None,
    tenant: Annotated[str | None, Parameter(group=GLOBAL)] = None,
    json: Annotated[bool, Parameter(group=GLOBAL)] = False,
    human: Annotated[bool, Parameter(group=GLOBAL)] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], group=GLOBAL)] = False,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], group=GLOBAL)] = False,
    no_color: Annotated[bool, Parameter(group=GLOBAL)] = False,
    debug: Annotated[bool, Parameter(group=GLOBAL)] = False,
) -> int:
    """Parse the global options and run a command.

    Parameters
    ----------
    url
        The database; default PALAVER_URL, palaver.toml, ./palaver.db.
    schema
        Where the schema is declared: module:NAME.
    blueprint
        Use the schema of a shipped blueprint.
    tenant
        Whose data, where the schema has tenants.
    json
        Write JSON, as it does where stdout is no terminal.
    human
        Write for people everywhere.
    quiet
        Write data and errors only.
    yes
        Answer yes to every question.
    no_color
        Write without colours, as NO_COLOR does.
    debug
        Print the traceback of a failure.
    """
    from palaver.cli.context import Context
    from palaver.cli.output import Output, no_color as wants_no_color

    if json and human:
        raise CycloptsError(msg="--json and --human exclude each other.")
    command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
    out = Output(json=json or not (human or sys.stdout.isatty()), quiet=quiet, color=not (no_color or wants_no_color()))
    here = Context(out, url, schema, blueprint, tenant, yes)
    result: Any = command(*bound.args, **bound.kwargs, **dict.fromkeys(ignored, here))
    if inspect.iscoroutine(result):
        import asyncio

        result = asyncio.run(result)
    return int(result or Exit.OK)


def run(tokens: Sequence[str]) -> int:
    """Run one command line and return its exit code; failures are told on stderr."""
    debug = "--debug" in tokens
    try:
        code: Any = app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return int(code or 0)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read has seen enough. Without this the interpreter complains when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else Exit.FAILURE
    except Exception as error:
        from palaver.cli.problems import report, usage

        told = usage(error, [name for name, _, _ in _COMMANDS], _OPTIONS) if isinstance(error, CycloptsError) else error
        return report(told, as_json=_problems_as_json(tokens), debug=debug)


def _problems_as_json(tokens: Sequence[str]) -> bool:
    """Failures go out as JSON where it was asked for, or where neither stream has a person at its end."""
    if "--json" in tokens or "--human" in tokens:
        return "--json" in tokens
    return not (sys.stdout.isatty() or sys.stderr.isatty())


def main() -> int:
    """Run the command line of this process."""
    return run(sys.argv[1:])
