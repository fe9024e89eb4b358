"""`palaver limits`: the application's rate limits, and what they leave whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cyclopts import App, Parameter

from palaver.cli.context import Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits
from palaver.cli.problems import Stop

if TYPE_CHECKING:
    from palaver.limits import Limits

app = App(name="limits", help_format="plaintext", help_formatter="plain", default_parameter=Parameter(negative=(), show_default=False))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Subject:
    """Who is limited: the options of both commands."""

    user: str | None = None
    """Whose: a user."""
    ip: str | None = None
    """Whose: an address."""
    by: list[str] | None = None
    """Whose, by any other name: --by account=acme."""

    def named(self) -> dict[str, str]:
        """Return every name of the subject that was given."""
        found = {name: value for name, value in (("user", self.user), ("ip", self.ip)) if value}
        for each in self.by or ():
            name, sign, value = each.partition("=")
            if not sign or not name.isidentifier() or not value:
                raise Stop(Exit.USAGE, "usage", "A subject is a name and who it is.", hint="Write --by account=acme.")
            found[name] = value
        return found


NOBODY = Subject()


@app.command
@emits("limits")
async def show(operation: str = "", /, *, subject: Subject = NOBODY, here: Here) -> int:
    """Print the rules, and for a subject what each leaves now; nothing is charged.

    Parameters
    ----------
    operation
        Of one operation only.
    """
    subjects = subject.named()
    async with here.running("limits") as (store, limits):
        if operation and operation not in limits.rules:
            there = f"There are: {', '.join(limits.rules)}."
            raise Stop(Exit.NOT_FOUND, "no_operation", f"No limits are declared for {operation[:60]}.", hint=there)
        rules = _rules(limits, operation)
        shared = here.warn_of_own_cache(store) if subjects else True
        left = [each._asdict() for each in await limits.show(operation, **subjects)] if subjects else []
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
@emits("limits_reset")
async def reset(operation: str = "", /, *, subject: Subject = NOBODY, here: Here) -> int:
    """Forget what was charged to a subject.

    Parameters
    ----------
    operation
        Of one operation only.
    """
    subjects = subject.named()
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


def _rules(limits: Limits, operation: str) -> list[dict[str, Any]]:
    """Return the rules of one operation, or of all."""
    return [
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
