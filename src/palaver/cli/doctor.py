"""`palaver doctor`: examine a stack and say what to do about what is found.

What an engine knows of its server it says itself (`ports.Diagnoses`); what a file or an opened store shows is looked at here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from palaver.cli.amounts import Count, Seconds
from palaver.cli.context import Context, Here
from palaver.cli.output import emits
from palaver.cli.problems import Stop
from palaver.cli.stopping import stopping, unless
from palaver.observing import Diagnoses, Finding, Observes

if TYPE_CHECKING:
    from palaver.config import Stack
    from palaver.schema import Schema

MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}
LEVELS = ("ok", "warn", "fail")


@emits("doctor")
async def doctor(*, quick: bool = False, processes: Count | None = None, watch: Seconds | None = None, here: Here) -> int:
    """Examine the database: versions, server or file, rights, structure, schema, projections, objects, disk and clocks.

    Exits 0 when all is well, 1 when something deserves a look, 2 when something is broken.

    Parameters
    ----------
    quick
        Leave out what reads everything: the integrity check and the search for orphaned objects.
    processes
        How many processes of the application will run: whether their connections fit, and what they must share.
    watch
        Examine it again every so many seconds, until Ctrl-C; exits as the last examination says.
    """
    if watch is None:
        return await _examined(here, quick, processes)
    worst = await _examined(here, quick, processes)
    with stopping() as stop:
        while not stop.is_set():
            await unless(stop, asyncio.sleep(watch))
            if not here.out.json:
                here.out.say("")
            found = await unless(stop, _examined(here, quick, processes))
            worst = worst if found is None else found
    return worst


async def _examined(here: Context, quick: bool, processes: int | None) -> int:
    """Print what is found; return how bad it is."""
    findings = []
    async for finding in _examine(here, quick, processes):
        findings.append(finding)
        here.out.step(f"examining {here.shown}, after: {finding.check}")
    worst = max((LEVELS.index(finding.level) for finding in findings), default=0)
    if here.out.json:
        here.out.emit("doctor", {"status": LEVELS[worst], "checks": [asdict(finding) for finding in findings]})
        return worst
    for finding in findings:
        here.out.print(f"{MARKS[finding.level]} {finding.check}: {finding.seen}")
        if finding.fix:
            here.out.print(f"    try: {finding.fix}")
    here.out.say(("all is well", "something deserves a look", "something is broken")[worst])
    return worst


async def _examine(here: Context, quick: bool, processes: int | None) -> AsyncIterator[Finding]:
    from palaver.cli.doctor_file import on_disk
    from palaver.cli.problems import problem_of

    yield _versions()
    if here.file is not None:
        found = list(on_disk(here.file))
        for finding in found:
            yield finding
        if any(finding.level == "fail" for finding in found):
            return
    try:
        async for finding in _inside(here, quick, processes):
            yield finding
    except Exception as error:
        problem = problem_of(error)
        yield Finding("database", "fail", problem.detail, problem.hint or "Restore a backup, or report this.")


def _versions() -> Finding:
    from palaver.cli.version import versions

    return Finding("versions", "ok", ", ".join(f"{name} {number}" for name, number in versions().items()))


async def _inside(here: Context, quick: bool, processes: int | None) -> AsyncIterator[Finding]:
    from palaver.cli import doctor_cache, doctor_file, doctor_store

    if here.file is not None and not quick:
        yield await doctor_file.integrity(here.file)
    if here.file is None:
        # Before the schema is asked for: what is wrong with the server is often why that cannot be read.
        told = await _told(here, processes)
        for finding in told:
            yield finding
        if any(finding.level == "fail" for finding in told):
            return
    for finding in await doctor_cache.findings(here, processes):
        yield finding
    schema = await here.schema()
    missing = await here.missing(schema)
    if missing:
        seen = f"the database lacks {len(missing)}: {', '.join(missing[:5])}"
        yield Finding("schema", "warn", seen, "Run `palaver migrate apply`.")
        return
    yield Finding("schema", "ok", f"{schema.name} version {schema.version}, fingerprint {schema.fingerprint}")
    async with here.open() as store:
        async for finding in doctor_store.running(store):
            yield finding
        yield await doctor_store.clock(store)
        if not quick:
            yield await doctor_store.objects(here.out, store)


async def _told(here: Context, processes: int | None) -> list[Finding]:
    """Return what the engines of a stack say of themselves, each once."""
    from palaver import config
    from palaver.clock import SystemClock
    from palaver.plan import Planner
    from palaver.url import parse_url

    schema = await _schema_or_none(here)
    tables = tuple(Planner(schema).tables.values()) if schema is not None else ()
    stack: Stack = await config.open_stack(parse_url(here.where), tables, SystemClock())
    engines: Sequence[Any] = (stack.records, stack.blobs, stack.search)
    try:
        found = [finding for engine in engines if isinstance(engine, Diagnoses) for finding in await engine.diagnose()]
        if processes is not None and all(finding.level != "fail" for finding in found):
            found += await _budget(stack.records, processes)
    finally:
        await stack.aclose()
    found += [Finding(f"option {name}", "warn", f"the URL names no place for {name}", f"Add {name}=… to it.") for name in stack.missing]
    return found


async def _budget(engine: object, processes: int) -> list[Finding]:
    """Compare the connections that so many processes may open with those the server has, where an engine counts them."""
    if not isinstance(engine, Observes):
        return []
    figures = (await engine.observe()).figures
    if "pool_most" not in figures or "connections_most" not in figures:
        return []
    each, most = int(figures["pool_most"]), int(figures["connections_most"])
    others = int(figures["connections"]) - int(figures["connections_of_palaver"])
    text = f"{processes} processes with {each} each open up to {processes * each} of {most} connections; others use {others}"
    if processes * each + others > most:
        fits = max(1, (most - others) // processes)
        return [Finding("connection budget", "fail", text, f"Write pool={fits} in the URL, or raise max_connections, or use a pooler.")]
    return [Finding("connection budget", "ok", text)]


async def _schema_or_none(here: Context) -> Schema | None:
    """Return the schema in force; None where that cannot be read, which the engines then say better."""
    from palaver.errors import PalaverError

    try:
        return await here.schema()
    except (Stop, PalaverError):
        return None
