"""Migrations for programs, and for the command line: what a database lacks, bringing it there, and where it stands.

Each reaches the database by itself: opening a store would refuse what does not fit, or change it already.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Set
from contextlib import asynccontextmanager
from dataclasses import replace

from palaver.clock import Clock, SystemClock
from palaver.config import open as open_store, open_stack, refuse_incomplete
from palaver.environment import value_of
from palaver.errors import ConfigError
from palaver.evolve import Migration
from palaver.migrating import MigrationStatus, Migrator, status_of
from palaver.migrating.noticing import NOTICE_S
from palaver.misuse import Need, check
from palaver.plan import Planner
from palaver.schema import Schema
from palaver.seal_keys import sealer_for
from palaver.url import parse_url

Progress = Callable[[str, int], None]
SCHEMA = Need((Schema,), "a schema", "Give the Schema(…) that the program declares.")
PLAN = Need((Migration,), "a plan", "Take one of palaver.migration(), or of a file: palaver.evolve.plan_of(json.loads(text)).")
LOSSES = Need((list, tuple, Set), "a list of what may be lost", 'Write allow_data_loss=["Message.title"].')


async def migration(
    url: str | None = None, *, schema: Schema, allow_data_loss: Collection[str] = (), undo: bool = False, clock: Clock | None = None
) -> Migration:
    """Return what the database lacks of the schema and what it would take, with what stored records do not fulfil; change nothing.

    `url` is what `palaver.open` takes. `allow_data_loss` names what may be dropped, as `Entity.field` or `Entity`: what `kept` lists.
    With `undo` it leads back from the last migration, to this schema. `palaver.evolve.plan_text` writes it to a file.
    Raises NotProvisioned where stored data would be stranded, where a newer program wrote it, and where another migration has not ended.
    """
    check(LOSSES, allow_data_loss)
    async with reached(url, schema=schema, clock=clock) as migrator:
        return await planned(migrator, allow_data_loss, undo=undo)


async def migrate(
    url: str | None = None,
    *,
    schema: Schema,
    plan: Migration | None = None,
    allow_data_loss: Collection[str] = (),
    undo: bool = False,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> Migration:
    """Bring the database to the schema and return what was done; with a `plan` exactly that, or nothing.

    One that was cut off, by kill -9 too, goes on where it was. `progress` is called with each action's words and 0 as it begins, and
    with words and how many records were visited since. Search indexes that are new or changed are filled before it returns.
    Raises NotProvisioned, before anything is changed, as `migration` does, where records do not fulfil what is declared, and where the
    database is no longer what was planned against; Conflict while another process migrates it.
    """
    check(LOSSES, allow_data_loss)
    if plan is not None:
        check(PLAN, plan)
    if plan is not None and (allow_data_loss or undo):
        raise ConfigError("A plan says itself what is lost, and where it leads.", hint="Leave allow_data_loss and undo away.")
    async with reached(url, schema=schema, clock=clock, changing=True) as migrator:
        if progress is not None:
            migrator.tell = progress
        found = plan or await _found(migrator, allow_data_loss, undo=undo)
        begun = await migrator.under_way()
        if found.actions or found.fingerprint != found.from_fingerprint:
            await migrator.apply(found)
    if found.actions:
        async with open_store(url, schema=schema, clock=clock, maintain=False, migrate=False, create=False):
            pass  # opening fills the search indexes
    return replace(found, under_way=None if begun is None else begun[1])


async def migration_status(url: str | None = None, *, schema: Schema, clock: Clock | None = None) -> MigrationStatus:
    """Return where the database stands: what was applied and is pending, what somebody else changed, and whose turn it is."""
    async with reached(url, schema=schema, clock=clock) as migrator:
        return await status_of(migrator, schema)


async def planned(migrator: Migrator, allow_data_loss: Collection[str] = (), *, undo: bool = False) -> Migration:
    """Return what a migrator finds to do, with what stored records do not fulfil of it."""
    found = await _found(migrator, allow_data_loss, undo=undo)
    return replace(found, unmet=tuple(await migrator.unmet(found)))


async def _found(migrator: Migrator, allow_data_loss: Collection[str], *, undo: bool) -> Migration:
    return await (migrator.undoing(allow_data_loss) if undo else migrator.pending(allow_data_loss))


@asynccontextmanager
async def reached(url: str | None = None, *, schema: Schema, clock: Clock | None = None, changing: bool = False) -> AsyncIterator[Migrator]:
    """Reach a database to look at its structure, or to change it; no file is made."""
    check(SCHEMA, schema)
    parsed, clock = parse_url(url or value_of("PALAVER_URL")), clock or SystemClock()
    if parsed.scheme == "memory":
        raise ConfigError("What is in memory is gone when it is closed, so there is nothing to migrate.", hint="Name another stack.")
    if parsed.scheme == "sqlite":
        parsed.options.update({"create": "false"} if changing else {"read_only": "true"})
    planner = Planner(schema)
    stack = await open_stack(parsed, tuple(planner.tables.values()), clock)
    try:
        if changing:
            # A store could not be opened afterwards, to fill what the migration made.
            refuse_incomplete(schema, stack, parsed)
        planner.seals_with(await sealer_for(schema, parsed, stack.records, required=changing, migrating=True))
        yield Migrator(planner, stack.records, clock, blobs=stack.blobs, notice_s=NOTICE_S if changing else 0.0)
    finally:
        await stack.aclose()
