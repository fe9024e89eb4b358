"""`palaver doctor`: examine a database and say what to do about what is found."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from palaver.cli.context import Context, Here

if TYPE_CHECKING:
    from palaver.store import Store

ROOM, LOG, LAG = 1 << 30, 256 << 20, 1_000
MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}


@dataclass(frozen=True)
class Finding:
    """One check: how it went, what was seen, and what to do."""

    check: str
    level: Literal["ok", "warn", "fail"]
    seen: str
    fix: str = ""


async def doctor(*, quick: bool = False, here: Here) -> int:
    """Examine the database: versions, paths, format, integrity, schema, projections, objects, disk and clock.

    Exits 0 when all is well, 1 when something deserves a look, 2 when something is broken.

    Parameters
    ----------
    quick
        Leave out what reads everything: the integrity check and the search for orphaned objects.
    """
    findings = [finding async for finding in _examine(here, quick)]
    worst = max((("ok", "warn", "fail").index(finding.level) for finding in findings), default=0)
    if here.out.json:
        here.out.emit("doctor", {"status": ("ok", "warn", "fail")[worst], "checks": [asdict(finding) for finding in findings]})
        return worst
    for finding in findings:
        here.out.print(f"{MARKS[finding.level]} {finding.check}: {finding.seen}")
        if finding.fix:
            here.out.print(f"    try: {finding.fix}")
    here.out.say(("all is well", "something deserves a look", "something is broken")[worst])
    return worst


async def _examine(here: Context, quick: bool) -> AsyncIterator[Finding]:
    from palaver.cli.problems import problem_of

    yield _versions()
    file = here.file
    if file is not None:
        on_disk = list(_on_disk(file))
        for finding in on_disk:
            yield finding
        if any(finding.level == "fail" for finding in on_disk):
            return
    try:
        async for finding in _inside(here, quick):
            yield finding
    except Exception as error:
        problem = problem_of(error)
        yield Finding("database", "fail", problem.detail, problem.hint or "Restore a backup, or report this.")


def _versions() -> Finding:
    from palaver.cli.version import versions

    return Finding("versions", "ok", ", ".join(f"{name} {number}" for name, number in versions().items()))


def _on_disk(file: Path) -> Iterator[Finding]:
    from palaver.config import beside

    if not file.exists():
        yield Finding("file", "fail", f"{file} does not exist", "Name another with -u, or run `palaver demo`.")
        return
    if file.is_dir():
        yield Finding("file", "fail", f"{file} is a folder", "Name the file in it.")
        return
    log = Path(f"{file}-wal")
    size, pending = file.stat().st_size, log.stat().st_size if log.exists() else 0
    yield Finding("file", "ok", f"{file}, {size:,} bytes")
    for path, what in ((file, "the file"), (file.parent, "its folder"), (beside(str(file)), "the folder of its objects")):
        if path.exists() and not os.access(path, os.W_OK):
            yield Finding("permissions", "warn", f"{what} cannot be written by this process", f"Allow it: chmod u+w {path}")
    if pending > LOG:
        yield Finding(
            "log", "warn", f"{pending:,} bytes wait in the log", "End readers that stay open for long; the log then empties itself."
        )
    free = shutil.disk_usage(file.parent).free
    if free < max(size // 10, 64 << 20):
        yield Finding("disk", "fail", f"{free:,} bytes are free", "Make room; writes fail when nothing is left.")
    elif free < max(size, ROOM):
        yield Finding("disk", "warn", f"{free:,} bytes are free, less than a copy of the file needs", "Make room, at least for a backup.")
    else:
        yield Finding("disk", "ok", f"{free:,} bytes are free")


async def _inside(here: Context, quick: bool) -> AsyncIterator[Finding]:
    if here.file is not None and not quick:
        yield await _integrity(here.file)
    schema = await here.schema()
    missing = await here.missing(schema)
    if missing:
        yield Finding(
            "schema",
            "warn",
            f"the database lacks {len(missing)}: {', '.join(missing[:5])}",
            "Run `palaver migrate apply`.",
        )
        return
    yield Finding("schema", "ok", f"{schema.name} version {schema.version}, fingerprint {schema.fingerprint}")
    async with here.open() as store:
        async for finding in _running(store):
            yield finding
        yield await _clock(store)
        if not quick:
            yield await _objects(here, store)


async def _integrity(file: Path) -> Finding:
    from palaver.connections.sqlite import Database, SqliteOptions

    database = await Database.open(file, options=SqliteOptions(create=False, read_only=True))
    try:
        found: list[str] = await database.read_pooled(_quick_check)
    finally:
        await database.aclose()
    if found == ["ok"]:
        return Finding("integrity", "ok", "every page of the file is sound")
    return Finding("integrity", "fail", f"{len(found)} damaged places", "Stop writing, keep the file, restore a backup.")


def _quick_check(connection: Any) -> list[str]:
    return [str(row[0]) for row in connection.execute("PRAGMA quick_check").fetchall()]


async def _running(store: Store) -> AsyncIterator[Finding]:
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
    if waiting >= 100:
        yield Finding("upkeep", "warn", f"{waiting:,} jobs wait", "Run `palaver sweep`.")


async def _clock(store: Store) -> Finding:
    """Compare the clock with the newest change: revisions never go back, so one far ahead was written by a wrong clock."""
    from palaver.clock import from_us

    head = (await store.core.records.changes(None, 0)).head
    newest = (await store.core.records.changes(max(0, head - 1), 1)).changes if head else ()
    now = store.clock.now()
    ahead = from_us(newest[-1].revision) - now if newest else timedelta(0)
    if ahead > timedelta(seconds=5):
        return Finding(
            "clock", "warn", f"the newest change is {ahead.total_seconds():,.0f} s in the future", "Set the clock; have it kept by NTP."
        )
    return Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC, after the newest change")


async def _objects(here: Context, store: Store) -> Finding:
    from palaver.blobs.orphans import orphans

    entities = [declared for declared in store.schema.entities.values() if declared.blobs]
    if not entities:
        return Finding("objects", "ok", "the schema keeps none")
    referenced: set[str] = set()
    with here.out.progress("records") as progress:
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
