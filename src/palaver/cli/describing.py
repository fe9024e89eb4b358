"""`palaver --describe`: the commands as JSON, told by the program itself and without running any of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from cyclopts import App, UnknownCommandError

from palaver.cli.commands import COMMANDS
from palaver.cli.exits import Exit
from palaver.cli.output import CONTRACT, Emits

if TYPE_CHECKING:
    from cyclopts.argument import Argument


def described(app: App, tokens: Sequence[str]) -> dict[str, Any]:
    """Return every command, or those that the tokens name, with what they take, what they give and how they end."""
    path, names = list(tokens), [name for name, _, _ in COMMANDS]
    chosen = app
    for depth, name in enumerate(path):
        if name.startswith("-") or name not in list(_names(chosen)):
            raise UnknownCommandError(unused_tokens=[name], command_chain=path[:depth], app=chosen)
        chosen = chosen[name]
    found = [_command(app, chosen, path)] if _runs(chosen) else list(_below(app, chosen, path))
    return {
        "program": "palaver",
        "program_version": str(app.version),
        "contract": CONTRACT,
        "commands": sorted(found, key=lambda each: (names.index(each["command"].split()[0]), each["command"])),
        "options": [_argument(each) for each in _shown(app.meta, app)],
        "exit_codes": [{"code": int(code), "name": code.name.lower(), "meaning": code.meaning} for code in Exit],
    }


def _names(app: App) -> Iterator[str]:
    return (name for name in app if not name.startswith("-"))


def _runs(app: App) -> bool:
    return app.default_command is not None


def _below(app: App, parent: App, path: list[str]) -> Iterator[dict[str, Any]]:
    for name in _names(parent):
        child = parent[name]
        if _runs(child):
            yield _command(app, child, [*path, name])
        else:
            yield from _below(app, child, [*path, name])


def _command(app: App, command: App, path: list[str]) -> dict[str, Any]:
    function: Any = command.default_command
    emits: Emits = getattr(function, "emits", Emits())
    return {
        "command": " ".join(path),
        "help": about(function),
        "parameters": [_argument(each) for each in _shown(command, app)],
        "emits": list(emits.kinds),
        "stream": emits.stream,
    }


def about(function: Any) -> str:
    """Return what a command says of itself: a line for each paragraph, since a terminal breaks lines where it ends."""
    told = (inspect.getdoc(function) or "").partition("\n\nParameters\n")[0]
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in told.split("\n\n"))


def _shown(command: App, app: App) -> Iterator[Argument]:
    for argument in command.assemble_argument_collection(default_parameter=app.default_parameter, parse_docstring=True):
        if argument.parameter.parse is not False and argument.show and argument.names != ("*",):
            yield argument


def _argument(argument: Argument) -> dict[str, Any]:
    hint, default = argument.hint, argument.field_info.default
    positional = argument.index is not None
    several = argument.field_info.kind is inspect.Parameter.VAR_POSITIONAL or list in (get_origin(each) for each in (hint, *get_args(hint)))
    return {
        "names": list(argument.names),
        "positional": positional,
        "required": bool(argument.required),
        "repeats": several,
        "type": _type(hint),
        "choices": list(argument.get_choices(force=True) or ()),
        "default": None if default is inspect.Parameter.empty else default,
        "help": argument.parameter.help or "",
    }


_TYPES = {str: "text", int: "integer", float: "number", bool: "flag", Path: "path"}


def _type(hint: Any) -> str:
    """Name what one value is: the type within what may be left out or repeated."""
    if hint in _TYPES:
        return _TYPES[hint]
    inner = [each for each in get_args(hint) if each not in (type(None), Ellipsis)]
    if not inner or not all(isinstance(each, type) or get_origin(each) for each in inner):
        # What is left is a Literal, and each value of it a text.
        return "text"
    if get_origin(hint) is tuple and len(inner) > 1:
        return " ".join(map(_type, inner))
    return _type(inner[0])
