"""`palaver limits`: the application's rate limits, and what they leave whom."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from palaver.cli.context import Here
from palaver.cli.exits import Exit
from palaver.cli.problems import Stop

app = App(name="limits", help_format="plaintext", help_formatter="plain", default_parameter=Parameter(negative=(), show_default=False))
By = Annotated[list[str] | None, Parameter(name="--by", negative=())]


@app.command
async def show(operation: str = "", /, *, user: str | None = None, ip: str | None = None, by: By = None, here: Here) -> int:
    """Print the rules, and for a subject what each leaves now; nothing is charged.

    Parameters
    ----------
    operation
        Of one operation only.
    user
        Whose: a user.
    ip
        Whose: an address.
    by
        Whose, by any other name: --by account=acme.
    """
    subjects = _subjects(user, ip, by)
    async with here.running("limits") as (store, limits):
        if operation and operation not in limits.rules:
            there = f"There are: {', '.join(limits.rules)}."
            raise Stop(Exit.NOT_FOUND, "no_operation", f"No limits are declared for {operation[:60]}.", hint=there)
        rules = [
            {
                "operation": name,
                "rule": rule.name,
                "by": list(rule.by),
                "kind": rule.limit.kind,
                "amount": rule.limit.amount,
                "per_s": rule.limit.per_s,
                "away": rule.away,
            }
            for name, several in limits.rules.items()
            for rule in several
            if operation in ("", name)
        ]
        shared = here.warn_of_own_cache(store) if subjects else True
        enough = bool(subjects)
        left = [each._asdict() for each in await limits.show(operation, **subjects)] if enough else []
    if here.out.json:
        here.out.emit("limits", {"rules": rules, "left": [each | {"by": list(each["by"])} for each in left], "shared": shared})
        return Exit.OK
    columns = ("operation", "rule", "by", "amount", "per_s", "kind", "away")
    rows = [[", ".join(each[name]) if name == "by" else each[name] for name in columns] for each in rules]
    here.out.table(("operation", "rule", "by", "amount", "per s", "kind", "cache away"), rows, right=("amount", "per s"))
    if left:
        found = [(each["name"], ", ".join(each["by"]), each["remaining"], each["amount"], each["retry_after_s"]) for each in left]
        here.out.table(("rule", "by", "left", "of", "wait s"), found, right=("left", "of", "wait s"))
    elif subjects:
        here.out.say("no rule counts by these subjects alone")
    return Exit.OK


@app.command
async def reset(operation: str = "", /, *, user: str | None = None, ip: str | None = None, by: By = None, here: Here) -> int:
    """Forget what was charged to a subject.

    Parameters
    ----------
    operation
        Of one operation only.
    user
        Whose: a user.
    ip
        Whose: an address.
    by
        Whose, by any other name: --by account=acme.
    """
    subjects = _subjects(user, ip, by)
    if not subjects:
        raise Stop(Exit.USAGE, "usage", "Limits are forgotten for somebody.", hint="Say for whom: --user ana.")
    async with here.running("limits") as (store, limits):
        shared = here.warn_of_own_cache(store)
        await limits.reset(operation, **subjects)
    if here.out.json:
        here.out.emit("limits_reset", {"operation": operation, "shared": shared})
    else:
        here.out.print("forgotten")
    return Exit.OK


def _subjects(user: str | None, ip: str | None, by: list[str] | None) -> dict[str, str]:
    subjects = {name: value for name, value in (("user", user), ("ip", ip)) if value}
    for each in by or ():
        name, sign, value = each.partition("=")
        if not sign or not name.isidentifier() or not value:
            raise Stop(Exit.USAGE, "usage", "A subject is a name and who it is.", hint="Write --by account=acme.")
        subjects[name] = value
    return subjects
