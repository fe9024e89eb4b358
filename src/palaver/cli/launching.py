"""From the tokens of a command line to the command that runs: commands are named, and imported only when one is called."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter, UnknownCommandError

from palaver import __version__
from palaver.cli.commands import ABOUT, COMMANDS, FAMILIES, FLAGS, GLOBAL, KEEP, LOOK, OPTIONS, TEND
from palaver.cli.deadline import Deadline
from palaver.cli.exits import Exit

GROUPS = {name: Group(name, sort_key=number) for number, name in enumerate((LOOK, KEEP, TEND, GLOBAL), 1)}

app = App(
    name="palaver",
    help=ABOUT,
    version=__version__,
    help_format="plaintext",
    help_formatter="plain",
    default_parameter=Parameter(negative=(), show_default=False),
)

for _name, _group, _help in COMMANDS:
    app.command(f"palaver.cli.{_name}:{'app' if _name in FAMILIES else _name}", name=_name, group=GROUPS[_group], help=_help)


def _global(name: str) -> Parameter:
    written, about = OPTIONS[name]
    return Parameter(name=[word.strip(",") for word in written.split() if word.startswith("-")], group=GROUPS[GLOBAL], help=about)


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    url: Annotated[str | None, _global("url")] = None,
    schema: Annotated[str | None, _global("schema")] = None,
    blueprint: Annotated[str | None, _global("blueprint")] = None,
    tenant: Annotated[str | None, _global("tenant")] = None,
    profile: Annotated[str | None, _global("profile")] = None,
    json: Annotated[bool, _global("json")] = False,
    human: Annotated[bool, _global("human")] = False,
    quiet: Annotated[bool, _global("quiet")] = False,
    yes: Annotated[bool, _global("yes")] = False,
    no_color: Annotated[bool, _global("no_color")] = False,
    verbose: Annotated[bool, _global("verbose")] = False,
    timeout: Annotated[float | None, _global("timeout")] = None,
    describe: Annotated[bool, _global("describe")] = False,
    debug: Annotated[bool, _global("debug")] = False,
) -> int:
    """Parse the global options and run a command."""
    from palaver.cli.context import Context
    from palaver.cli.output import Output, no_color as wants_no_color

    named = {"url": url, "schema": schema, "blueprint": blueprint, "tenant": tenant, "profile": profile}
    _must_fit(named, json and human, quiet and verbose)
    as_json, colors = json or not (human or sys.stdout.isatty()), not (no_color or wants_no_color())
    out = Output(json=as_json, quiet=quiet, verbose=verbose, color=colors)
    if describe:
        from palaver.cli.describing import described

        out.emit("describe", described(app, tokens))
        return Exit.OK
    here = Context(out, url, schema, blueprint, tenant, profile, yes)
    with Deadline(timeout, out, as_json=_problems_as_json(json, human)) as deadline:
        command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
        result: Any = command(*bound.args, **bound.kwargs, **dict.fromkeys(ignored, here))
        if inspect.iscoroutine(result):
            result = deadline.run(result)
    out.step("done")
    return int(result or Exit.OK)


def _must_fit(named: dict[str, str | None], both_forms: bool, silent_and_verbose: bool) -> None:
    """Refuse options that contradict each other, and one that a script's unset variable left empty."""
    if both_forms:
        raise CycloptsError(msg="--json and --human exclude each other.")
    if silent_and_verbose:
        raise CycloptsError(msg="--quiet and --verbose exclude each other.")
    for name, given in named.items():
        if given is not None and not given.strip():
            raise CycloptsError(msg=f"--{name} is empty.")


def call(tokens: Sequence[str]) -> int:
    """Run one command line and return its exit code; failures are told on stderr."""
    debug = "--debug" in tokens
    try:
        if set(app.help_flags) & set(tokens):
            _tell_in_full([token for token in tokens if token not in app.help_flags])
        code: Any = app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return int(code or 0)
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):
            # What rich prints for people ends so where nobody reads on.
            raise BrokenPipeError from None
        return ended.code if isinstance(ended.code, int) else Exit.FAILURE
    except Exception as error:
        from palaver.cli.problems import report, usage

        told = usage(error, [name for name, _, _ in COMMANDS], (*FLAGS, "--help")) if isinstance(error, CycloptsError) else error
        return report(told, as_json=_problems_as_json("--json" in tokens, "--human" in tokens), debug=debug)


def _tell_in_full(tokens: Sequence[str]) -> None:
    """Have the help of a command be all it says of itself: the line it is listed by was told before it was imported.

    Raises UnknownCommandError where there is no such command: the parser would tell the help of what it is looked for in.
    """
    from palaver.cli.describing import about

    path, found, rest = app.parse_commands(tokens)
    command = found[-1]
    if command.default_command is not None:
        command.help = about(command.default_command)
    elif rest and not rest[0].startswith("-"):
        raise UnknownCommandError(unused_tokens=rest[:1], command_chain=path, app=command)


def _problems_as_json(json: bool, human: bool) -> bool:
    """Failures go out as JSON where it was asked for, or where neither stream has a person at its end."""
    if json or human:
        return json
    return not (sys.stdout.isatty() or sys.stderr.isatty())
