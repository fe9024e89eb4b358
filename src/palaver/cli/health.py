"""`palaver health`: figures for people and monitors."""

from __future__ import annotations

from palaver.cli.context import Here
from palaver.cli.exits import Exit


async def health(*, here: Here) -> int:
    """Print the engine, the feed's head, the lag and last error of each projection, and what waits."""
    async with here.open() as store:
        found = await store.health()
    if here.out.json:
        here.out.emit("health", found)
        return Exit.OK
    out = here.out
    schema = f"schema {found['schema']} version {found['schema_version']}"
    out.print(f"{found['status']}: {schema} on {found['engine']}, feed at {found['feed_head']:,}")
    rows = [(name, state["position"], state["lag"], state["error"]) for name, state in found["projections"].items()]
    out.table(("projection", "position", "behind by", "last error"), rows, right=("position", "behind by"))
    out.print(", ".join(f"{count:,} {kind} jobs waiting" for kind, count in found["waiting"].items()))
    return Exit.OK
