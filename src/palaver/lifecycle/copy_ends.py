"""The two ends of a copy: a stack opened beside its store's machinery, who it is, and whether it can be copied from or into."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from palaver import config
from palaver.blob_ports import Provisions
from palaver.clock import Clock, SystemClock
from palaver.core import Core
from palaver.cursor import Signer
from palaver.errors import ConfigError, Conflict, Forbidden, NotProvisioned
from palaver.feed import Projection
from palaver.known_keys import known, remember_ids
from palaver.lifecycle.copy_pace import Pace
from palaver.migrating.opening import provision as provide
from palaver.migrating.run import Migrator
from palaver.ops import Table
from palaver.plan import Planner
from palaver.ports import ContinuesFeed, RecordEngine, Restores
from palaver.schema import Schema
from palaver.seal_keys import has_secrets, sealer_for
from palaver.sealing import VARIABLE
from palaver.searching import SearchProjection
from palaver.store import Store
from palaver.system import SYSTEM, system
from palaver.upkeep import Released
from palaver.url import parse_url
from palaver.values import KeyPart, Record

T = TypeVar("T")
INTO = system("copy", "into")
"""Where a target keeps which copy it is, and how far that has come."""

# What belongs to one database and its processes, not to what it holds: leases, positions, copies.
OWN = ("projection", "copy", "archive")
# What opening an empty database leaves in it, or migrating it.
FRESH = (*OWN, "schema", "key", "migration")
NAMES_A_DATABASE = ("schema", "endpoint")
SCAN = 500


@dataclass
class End:
    """One of the two stacks of a copy."""

    name: str
    core: Core
    embedded: bool
    pace: Pace = field(default_factory=Pace)

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Run a call that is harmless to repeat, when its turn comes, until it succeeds."""
        return await self.pace.run(call)

    @property
    def records(self) -> RecordEngine:
        return self.core.records

    @property
    def tables(self) -> Mapping[str, Table]:
        return self.core.planner.tables

    @staticmethod
    @asynccontextmanager
    async def open(
        url: str,
        schema: Schema,
        *,
        projections: Iterable[config.ProjectionFactory] = (),
        clock: Clock | None = None,
        read_only: bool = False,
    ) -> AsyncIterator[End]:
        """Open a stack without preparing, running or refusing anything; close it afterwards."""
        planner, clock, parsed = Planner(schema), clock or SystemClock(), parse_url(url)
        if read_only and parsed.scheme == "sqlite":
            parsed.options["read_only"] = "true"
        stack = await config.open_stack(parsed, tuple(planner.tables.values()), clock)
        core = Core(
            schema=schema,
            planner=planner,
            records=stack.records,
            blobs=stack.blobs,
            search=stack.search,
            clock=clock,
            # Nobody is given a cursor here.
            signer=Signer([b"no cursor is signed by a copy"]),
            closers=stack.closers,
            loop=asyncio.get_running_loop(),
            pid=os.getpid(),
        )
        store = Store(core)
        core.projections.extend(projections_of(store, projections))
        try:
            planner.seals_with(await sealer_for(schema, parsed, stack.records, required=False))
            config.refuse_incomplete(schema, stack, parsed)
            yield End(identity(url), core, stack.embedded)
        finally:
            await store.aclose()


def projections_of(store: Store, made: Iterable[config.ProjectionFactory]) -> list[Projection]:
    """Return the projections a store of this schema runs."""
    core = store.core
    found: list[Projection] = []
    if any(declared.blobs for declared in core.schema.entities.values()):
        found.append(Released(core))
    if core.schema.searches:
        found.append(SearchProjection(core))
    return [*found, *(make(store) for make in made)]


def identity(url: str) -> str:
    """Return what a URL names, without passwords and options: two URLs of one database should give the same text."""
    parts = urlsplit(url) if "://" in url or url.startswith("memory:") else None
    if parts is None or parts.scheme == "sqlite":
        path = url if parts is None else parse_url(url).path
        return f"sqlite:{Path(path).resolve()}"
    try:
        port = parts.port
    except ValueError:
        raise ConfigError("The port in the URL is no number.") from None
    where = f"{(parts.hostname or '')}:{port}" if port else (parts.hostname or "")
    options = "&".join(f"{name}={value}" for name, value in sorted(parse_qsl(parts.query)) if name in NAMES_A_DATABASE)
    return f"{parts.scheme}://{where}{parts.path}" + (f"?{options}" if options else "")


def fingerprint(name: str) -> str:
    return sha256(name.encode()).hexdigest()[:32]


async def exists_as_declared(end: End, *, provision: bool, what: str) -> None:
    """Refuse a database that lacks something of the schema; an empty target is given all of it, another where that is allowed."""
    planner, clock = end.core.planner, end.core.clock
    empty = not (await end.ask(end.records.describe)).tables
    if empty and what == "source":
        raise NotProvisioned("The source holds nothing of this schema.", hint="Check its URL.")
    migrator = Migrator(planner, end.records, clock)
    kept = await end.ask(migrator.kept)
    _same_version(end, kept, what)
    lacks = 0 if empty else len((await end.ask(partial(migrator.pending, parts=what == "target"))).actions)
    if lacks and kept and kept["version"] != end.core.schema.version:
        raise _other_version(end, kept, what)
    # What is there without a word of its schema was being made when a copy was cut off.
    unfinished = what == "target" and not kept
    if lacks and not provision and not unfinished:
        raise NotProvisioned(
            f"The {what} lacks {lacks} of the tables, columns and indexes of the schema.",
            hint="Run `palaver migrate apply` there" + (", or copy with --migrate." if what == "target" else "."),
        )
    if empty or lacks:
        await _make_place(end)
        await end.ask(lambda: provide(planner, end.records, clock, changing=True))


async def _make_place(end: End) -> None:
    """Make the bucket of a target that is made just now; where it may not be looked at, somebody else made it."""
    place, schema = end.core.blobs, end.core.schema
    if isinstance(place, Provisions) and any(declared.blobs for declared in schema.entities.values()):
        with suppress(Forbidden):
            for part in await end.ask(lambda: place.lacks(schema)):
                await end.ask(partial(place.prepare, schema, part))


def _same_version(end: End, kept: Mapping[str, Any], what: str) -> None:
    """Refuse another version; one before this, which a source may be of that lacks nothing of it, is looked at closely."""
    schema = end.core.schema
    if kept and (
        kept["name"] != schema.name or kept["version"] > schema.version or (what == "target" and kept["version"] < schema.version)
    ):
        raise _other_version(end, kept, what)


def _other_version(end: End, kept: Mapping[str, Any], what: str) -> NotProvisioned:
    schema = end.core.schema
    newer = kept["name"] == schema.name and kept["version"] > schema.version
    bring = "Bring both databases to one version with `palaver migrate apply` first."
    return NotProvisioned(
        f"The {what} was written with version {kept['version']} of schema {kept['name']};"
        f" this program has version {schema.version} of {schema.name}.",
        hint=f"Copy with the program of version {kept['version']}." if newer else bring,
    )


async def schema_kept(end: End) -> dict[str, Any]:
    """Return what a database says of the schema it was written with."""
    record = (await end.ask(lambda: end.records.get((system("schema", "current"),))))[0]
    body: Any = record["body"] if record else {}
    return dict(body)


def can_take_in(target: End) -> None:
    if not isinstance(target.records, Restores) or not isinstance(target.records, ContinuesFeed):
        raise ConfigError(f"{type(target.records).__name__} cannot take in what another database has.", hint="Copy into another stack.")


async def is_empty(target: End, source: End) -> bool:
    """Say whether nothing was ever written to a target but what opening it leaves."""
    if (await target.ask(lambda: target.records.changes(None, 0))).head:
        return False
    for name in target.tables:
        if name != SYSTEM.name and (await target.ask(partial(target.records.scan, name, after=None, limit=1))).records:
            return False
    async for page in pages(target, SYSTEM.name):
        if any(record["scope"] not in FRESH for record in page):
            return False
    async for info in target.core.blobs.list():
        # Both may keep their objects in one place; then there is nothing to copy, and nothing is strange there.
        return await source.ask(partial(source.core.blobs.head, info.key)) is not None
    return True


async def pages(
    end: End, table: str, *, segment: tuple[int, int] = (0, 1), after: tuple[KeyPart, ...] | None = None
) -> AsyncIterator[Sequence[Record]]:
    """Yield what is stored in a table, page by page."""
    while True:
        page = await end.ask(partial(end.records.scan, table, after=after, limit=SCAN, segment=segment))
        yield page.records
        if page.last is None:
            return
        after = page.last


def copied(table: str, records: Sequence[Record]) -> list[Record]:
    """Return the records that belong to what a database holds, not to the database itself."""
    if table != SYSTEM.name:
        return list(records)
    return [record for record in records if record["scope"] not in OWN]


def in_order(tables: Mapping[str, Table]) -> list[list[str]]:
    """Return table names in levels: what a foreign key points to is on an earlier level, as far as they form no circle."""
    left = dict(tables)
    levels: list[list[str]] = []
    while left:
        free = [name for name, table in left.items() if not any(belt.table in left and belt.table != name for belt in table.belts)]
        levels.append(free or list(left))
        for name in levels[-1]:
            del left[name]
    return levels


def is_followed(table: Table) -> bool:
    """Say whether writes to a table are in the feed; images and the system's own records are compared instead."""
    return table.feed


async def refuse_other_keys(source: End, target: End) -> None:
    """Refuse where the keys are here and the target could not open what the source sealed; secrets are copied as they are stored."""
    sealer = target.core.planner.sealer
    missing = [each for each in await source.ask(lambda: known(source.records)) if sealer is not None and each not in sealer.ids]
    if missing:
        raise ConfigError(
            f"The source holds secrets sealed with key {missing[0]}, which the target has not.",
            hint=f"Add that key to {VARIABLE}, or `palaver keys rotate` the source to a key that both have.",
        )


async def copy_known_keys(source: End, target: End) -> None:
    """Have the target remember the keys the source does, before it is given what is sealed with them."""
    if has_secrets(source.core.schema) and (ids := await source.ask(lambda: known(source.records))):
        await target.ask(lambda: remember_ids(target.records, target.core.now_us(), ids))


async def refuse_an_unfinished(source: End) -> None:
    record = (await source.ask(lambda: source.records.get((INTO,))))[0]
    body: Any = record["body"] if record else {}
    if body and body["state"] != "finished":
        raise Conflict("The source is an unfinished copy of another database.", hint="Let that copy end first.")
