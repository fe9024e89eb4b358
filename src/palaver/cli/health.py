"""`palaver health`: how each part of a stack is, for people and monitors."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter

from palaver.cli.amounts import Seconds
from palaver.cli.context import Context, Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits

MARKS = {"up": "✓", "degraded": "!", "down": "✗", "off": "-"}
_CODES = {"ok": Exit.OK, "degraded": Exit.PARTIAL, "down": Exit.UNAVAILABLE}


@emits("health")
async def health(*, ready: bool = False, wait: Annotated[Seconds, Parameter(show_default=True)] = 2.0, here: Here) -> int:
    """Ask every part of the stack how it is, and print the projections' lag, what waits, and the cache's figures.

    Exits 0 when all is well, 8 when something is away or failing that the application goes on without, 6 when the records
    do not answer. `palaver stats database` and `palaver stats cache` have the figures of the servers.

    Parameters
    ----------
    ready
        Exit 0 wherever the records answer: for a monitor that decides whether to send requests.
    wait
        Seconds to wait for each part.
    """
    found = await _found(here, wait)
    if here.out.json:
        here.out.emit("health", found)
    else:
        _tell(here, found)
    return Exit.OK if ready and found["ready"] else _CODES[found["status"]]


async def _found(here: Context, timeout_s: float) -> dict[str, Any]:
    """Ask the opened store; a database that cannot be opened because it is away is an answer as well, and no failure."""
    from palaver.cli.exits import exit_of
    from palaver.errors import PalaverError

    try:
        async with here.open() as store:
            return await store.health(timeout_s)
    except PalaverError as error:
        if exit_of(error) not in (Exit.UNAVAILABLE, Exit.AUTH):
            raise
        return _unopened(error.code, error.message)


def _unopened(code: str, message: str) -> dict[str, Any]:
    from palaver.health import Component

    records = asdict(Component("down", 0.0, code, message))
    return {
        "status": "down",
        "ready": False,
        "schema": "",
        "schema_version": 0,
        "fingerprint": "",
        "engine": "",
        "feed_head": None,
        "projections": {},
        "waiting": {},
        "components": {"records": records},
        "cache": {},
    }


def _tell(here: Context, found: dict[str, Any]) -> None:
    out = here.out
    schema = f": schema {found['schema']} version {found['schema_version']} on {found['engine']}" if found["engine"] else ""
    head = "" if found["feed_head"] is None else f", feed at {found['feed_head']:,}"
    out.print(f"{found['status']}{schema}{head}")
    for name, part in found["components"].items():
        error = f" ({part['error']}) {part['detail']}" if part["error"] else f" {part['detail']}" if part["detail"] else ""
        out.print(f"{MARKS[part['state']]} {name}: {part['state']}, {part['ms']:,.1f} ms{error}")
    if found["projections"]:
        rows = [(name, state["position"], state["lag"], state["error"]) for name, state in found["projections"].items()]
        out.table(("projection", "position", "behind by", "last error"), rows, right=("position", "behind by"))
    if found["waiting"]:
        out.print(", ".join(f"{count:,} {kind} jobs waiting" for kind, count in found["waiting"].items()))
    if found["cache"]:
        cache = found["cache"]
        out.print(f"cache: breaker {cache['breaker']}, {cache['hits']:,} hits and {cache['misses']:,} misses in this process")
    if found["status"] != "ok":
        out.say("`palaver doctor` says what to do")
