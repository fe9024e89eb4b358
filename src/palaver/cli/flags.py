"""`palaver flags`: what is set for the application's flags, by whom, and setting it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from palaver.cli.context import Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits
from palaver.cli.problems import Stop

if TYPE_CHECKING:
    from palaver.flags import Flags

app = App(name="flags", help_format="plaintext", help_formatter="plain", default_parameter=Parameter(negative=(), show_default=False))
_TYPES: dict[str, type] = {"bool": bool, "int": int, "float": float, "list": list, "dict": dict}
_TAKES = {"bool": "true or false", "int": "a whole number", "float": "a number", "list": "a list in JSON", "dict": "an object in JSON"}
_WRITE = {
    "bool": "Write `palaver flags set {flag} true`, or false.",
    "int": "Write `palaver flags set {flag} 20`.",
    "float": "Write `palaver flags set {flag} 0.5`.",
    "list": "Write `palaver flags set {flag} '[1, 2]'`.",
    "dict": "Write `palaver flags set {flag} '{{\"steps\": 3}}'`.",
}
_READ_AS = {bool: "true or false", int: "a whole number", str: "a text", dict: "an object", list: "a list", type(None): "null"}
SCOPES = {"everybody": "everybody", "rollout": "a share of the users"}


@app.command(name="list")
@emits("flags")
async def list_(*, here: Here) -> int:
    """Print every flag with its default, and what is set for whom, by whom and when."""
    async with here.running("flags") as (_, flags):
        found = flags.all()
    if here.out.json:
        here.out.emit("flags", {"data": [asdict(state) for state in found]})
        return Exit.OK
    rows: list[tuple[object, ...]] = []
    for state in found:
        shares = "".join(f" {name} {share:g} %" for name, share in state.variants)
        rows.append((state.name, "" if state.declared else "not declared", f"default{shares}", _text(state.default), "", ""))
        for each in state.settings:
            fits = "" if each.fits else " (of another type: not used)"
            rows.append(("", "", _whom(each), _text(each.value) + fits, each.by, each.changed))
    here.out.table(("flag", "", "for", "value", "set by", "changed"), rows)
    return Exit.OK


@app.command(name="set")
@emits("flag_set")
async def set_(
    flag: str,
    value: str | None = None,
    /,
    *,
    target: str | None = None,
    percent: float | None = None,
    reason: str = "",
    here: Here,
) -> int:
    """Set a flag for everybody, for one target, or for a share of the users; every process has it within a second.

    Parameters
    ----------
    flag
        Its name.
    value
        true, 20, a text, or JSON for a list or an object.
    target
        For one only: user=ana, channel=discord.
    percent
        For so many of 100 users, always the same ones; of an experiment those who take part.
    reason
        Kept beside it, for whoever asks later.
    """
    if target and percent is not None:
        raise Stop(Exit.USAGE, "usage", "A share is of all users.", hint="Give --target or --percent.")
    async with here.running("flags") as (_, flags):
        whom = _target(flags, target)
        if percent is not None:
            setting = await flags.roll_out(flag, percent, value=None if value is None else _value(flags, flag, value), reason=reason)
        elif value is None:
            raise Stop(Exit.USAGE, "usage", "There is no value to set.", hint=f"Write `palaver flags set {flag} VALUE`.")
        else:
            setting = await flags.set(flag, _value(flags, flag, value), reason=reason, **whom)
    if here.out.json:
        here.out.emit("flag_set", {"flag": flag, "setting": asdict(setting)})
    else:
        here.out.print(f"{flag} is {_text(setting.value)} for {_whom(setting)}")
    return Exit.OK


@app.command
@emits("flag_unset")
async def unset(
    flag: str,
    /,
    *,
    target: str | None = None,
    rollout: Annotated[bool, Parameter(negative=())] = False,
    reason: str = "",
    here: Here,
) -> int:
    """Take back what is set for everybody, for one target, or with --rollout for a share of the users.

    Parameters
    ----------
    flag
        Its name; one that is no longer declared as well.
    target
        For one only: user=ana, channel=discord.
    rollout
        What was given to a share of the users.
    reason
        Kept beside it, for whoever asks later.
    """
    if target and rollout:
        raise Stop(Exit.USAGE, "usage", "A share is of all users.", hint="Give --target or --rollout.")
    async with here.running("flags") as (_, flags):
        whom = _target(flags, target)
        if rollout:
            await flags.end_roll_out(flag, reason=reason)
        else:
            await flags.unset(flag, reason=reason, **whom)
    if here.out.json:
        here.out.emit("flag_unset", {"flag": flag, "scope": "rollout" if rollout else next(iter(whom), "everybody")})
    else:
        here.out.print(f"{flag} is no longer set there")
    return Exit.OK


def _target(flags: Flags, target: str | None) -> dict[str, str]:
    if target is None:
        return {}
    scope, sign, who = target.partition("=")
    if not sign or scope not in flags.declared.targets:
        raise Stop(Exit.USAGE, "usage", "A target is a name and who it is.", hint=f"One of {', '.join(flags.declared.targets)}: user=ana.")
    return {scope: who}


def _value(flags: Flags, flag: str, text: str) -> Any:
    """Read a value as the flag is typed."""
    kind = flags.declared[flag].kind
    if kind == "str":
        return text
    try:
        value = json.loads(text.lower() if kind == "bool" else text)
    except ValueError:
        raise _unfit(flag, kind, "a text") from None
    if type(value) is not _TYPES[kind] and not (kind == "float" and type(value) is int):
        raise _unfit(flag, kind, _READ_AS.get(type(value), "a number with a fraction"))
    return float(text) if kind == "float" else value


def _unfit(flag: str, kind: str, read_as: str) -> Stop:
    return Stop(Exit.USAGE, "usage", f"{flag} takes {_TAKES[kind]}; this was read as {read_as}.", hint=_WRITE[kind].format(flag=flag))


def _whom(setting: Any) -> str:
    share = f" ({setting.percent:g} %)" if setting.percent is not None else ""
    return SCOPES.get(setting.scope, f"{setting.scope} {setting.target}") + share


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
