"""`palaver migrate`: bring a database up to its schema, by steps that only add."""

from __future__ import annotations

from cyclopts import App, Parameter

from palaver.cli.context import Here
from palaver.cli.exits import Exit

app = App(name="migrate", help_format="plaintext", help_formatter="plain", default_parameter=Parameter(negative=(), show_default=False))


@app.command
async def plan(*, here: Here) -> int:
    """Print what the database lacks; exit with 7 where it lacks something."""
    here.must_exist()
    missing = await here.missing(await here.schema())
    _tell(here, missing, done=False)
    return Exit.DRIFT if missing else Exit.OK


@app.command
async def apply(*, here: Here) -> int:
    """Add the tables, columns and indexes the database lacks; nothing stored is changed or removed.

    Refuses, before the first step, what would strand stored data.
    """
    here.must_exist()
    missing = await here.missing(await here.schema())
    if missing:
        async with here.open(migrate=True):
            pass
    _tell(here, missing, done=True)
    return Exit.OK


def _tell(here: Here, missing: list[str], *, done: bool) -> None:
    if here.out.json:
        here.out.emit("migrate", {"steps": missing, "applied": done})
        return
    for step in missing:
        here.out.print(f"{'✓' if done else '+'} {step}")
    here.out.say(f"{len(missing)} step{'s' if len(missing) != 1 else ''}{' taken' if done else ''}")
