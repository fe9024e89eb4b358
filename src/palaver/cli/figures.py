"""`palaver stats database` and `palaver stats cache`: what the servers count of themselves."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from palaver.cli.exits import Exit
from palaver.cli.problems import Stop

if TYPE_CHECKING:
    from palaver.cli.context import Context
    from palaver.observing import Observed


async def figures(here: Context, of: str) -> int:
    """Print the figures of the database or of the cache; exits 1 where something in them should be changed."""
    from palaver.observing import Observes

    async with here.open() as store:
        engine: Any = store.core.records if of == "database" else store.core.cache
        if not isinstance(engine, Observes):
            raise Stop(Exit.USAGE, "no_figures", f"This {of} counts nothing of itself.", hint="Name a server in the URL.")
        found = await engine.observe()
    if here.out.json:
        sizes = {name: [each._asdict() for each in getattr(found, name)] for name in ("tables", "indexes", "slow")}
        here.out.emit("figures", {"of": of, **asdict(found), "figures": dict(found.figures), **sizes})
    else:
        _tell(here, found)
    return Exit.FAILURE if found.warnings else Exit.OK


def _tell(here: Context, found: Observed) -> None:
    out = here.out
    out.table(
        ("figure", "value"), [(name.replace("_", " "), _text(name, value)) for name, value in found.figures.items()], right=("value",)
    )
    for title, sizes in (("table", found.tables), ("index", found.indexes)):
        if sizes:
            rows = [(each.name, each.of, each.entries, each.bytes, each.reads) for each in sizes]
            out.print("")
            out.table((title, "of", "entries", "bytes", "reads"), rows, right=("entries", "bytes", "reads"))
    if found.slow:
        out.print("")
        out.table(("slow", "calls", "mean ms", "total ms"), found.slow, right=("calls", "mean ms", "total ms"))
    for text in found.warnings:
        out.print(f"! {text}")
    for text in found.notes:
        out.say(text)


def _text(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.1%}" if name.endswith("_share") else f"{value:,}"
