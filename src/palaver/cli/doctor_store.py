"""What `palaver doctor` sees of an opened store: projections, jobs, the clock its records were written by, objects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from palaver.observing import Finding

if TYPE_CHECKING:
    from palaver.cli.output import Output
    from palaver.store import Store

LAG, JOBS, AHEAD = 1_000, 100, timedelta(seconds=5)


async def running(store: Store) -> AsyncIterator[Finding]:
    """Look at projections and at the jobs that wait."""
    health = await store.health()
    for name, state in health["projections"].items():
        if state["error"]:
            yield Finding("projection", "warn", f"{name} fails: {state['error']}", "Look at the log of the process that runs it.")
        elif state["lag"] > LAG:
            yield Finding(
                "projection",
                "warn",
                f"{name} is {state['lag']:,} changes behind",
                "Run `palaver work --once`, or keep `palaver work` running.",
            )
        else:
            yield Finding("projection", "ok", f"{name} is {state['lag']:,} changes behind")
    waiting = sum(health["waiting"].values())
    if waiting >= JOBS:
        yield Finding("upkeep", "warn", f"{waiting:,} jobs wait", "Run `palaver sweep`.")


async def clock(store: Store) -> Finding:
    """Compare the clock with the newest change: revisions never go back, so one far ahead was written by a wrong clock."""
    from palaver.clock import from_us
    from palaver.errors import Trimmed

    records = store.core.records
    head = (await records.changes(None, 0)).head
    try:
        newest = (await records.changes(max(0, head - 1), 1)).changes if head else ()
    except Trimmed:
        # The last change was forgotten, or it is another database's of which this is a copy.
        newest = ()
    now = store.clock.now()
    ahead = from_us(newest[-1].revision) - now if newest else timedelta(0)
    if ahead > AHEAD:
        return Finding(
            "clock", "warn", f"the newest change is {ahead.total_seconds():,.0f} s in the future", "Set the clock; have it kept by NTP."
        )
    return Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC, after the newest change")


async def objects(out: Output, store: Store) -> Finding:
    """Compare the objects that are stored with those that records refer to."""
    from palaver.blobs.orphans import orphans

    entities = [declared for declared in store.schema.entities.values() if declared.blobs]
    if not entities:
        return Finding("objects", "ok", "the schema keeps none")
    referenced: set[str] = set()
    with out.progress("records") as progress:
        for declared in entities:
            async for keys in _references(store, declared):
                referenced.update(keys)
                progress.advance()
    stored = {info.key async for info in store.core.blobs.list()}
    missing = len(referenced - stored)
    if missing:
        return Finding("objects", "fail", f"{missing:,} objects that records refer to are missing", "Restore the objects from a backup.")
    lost = [info async for info in orphans(store.core.blobs, referenced)]
    if lost:
        size = sum(info.size for info in lost)
        return Finding(
            "objects",
            "warn",
            f"{len(lost):,} objects ({size:,} bytes) belong to no record",
            "Run `palaver sweep`; what then remains can be deleted.",
        )
    return Finding("objects", "ok", f"{len(stored):,} objects, each with its record")


async def _references(store: Store, declared: Any) -> AsyncIterator[list[str]]:
    """Yield the keys each stored record refers to, hidden records included: their objects are not orphans yet."""
    codec = store.core.planner.codec(declared.entity)
    after = None
    while True:
        page = await store.core.records.scan(declared.table.name, after=after, limit=500)
        for record in page.records:
            yield list(codec.references(record))
        if page.last is None:
            return
        after = page.last
