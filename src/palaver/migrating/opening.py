"""What opening a store does about its structure: make it, add to it, or say why it does not fit."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from palaver.clock import Clock, us_of
from palaver.errors import Conflict, Fenced, NotProvisioned
from palaver.evolve import Take, migration
from palaver.migrating.run import SCHEMA, Migrator, Outdated
from palaver.ops import Delete, Physical, Put, WriteSet
from palaver.plan import Planner
from palaver.ports import MakesParts, RecordEngine
from palaver.snapshot import table_of
from palaver.system import system

ATTEMPTS, PAUSE_S = 40, 0.25
"""How long an opening waits for another process that changes the same database."""


@dataclass(frozen=True)
class Provisioned:
    """What was found at opening: projections to build anew, and whether this program is older than the data."""

    rebuild: bool = False
    older: bool = False
    searches: bool = True
    fingerprint: str = ""
    """What the database says of its schema by now."""


async def provision(planner: Planner, records: RecordEngine, clock: Clock, *, changing: bool) -> Provisioned:
    """Make the database fit the schema, as far as opening may: what is new is made, what only adds is applied.

    Where several processes open a database at once, one makes what is new and the others go on with that.
    Raises NotProvisioned, before anything is changed, where stored data would be stranded, where more than adding is
    needed or `changing` is False, and where a newer program stores what this one cannot respect.
    """
    for _ in range(ATTEMPTS):
        try:
            return await _provision(planner, records, clock, changing=changing)
        except (Outdated, Conflict, Fenced):
            await asyncio.sleep(PAUSE_S)
    return await _provision(planner, records, clock, changing=changing)


async def _provision(planner: Planner, records: RecordEngine, clock: Clock, *, changing: bool) -> Provisioned:
    physical = await records.describe()
    migrator = Migrator(planner, records, clock)
    if not physical.tables:
        for action in migration(planner, physical).actions:
            if isinstance(action, Take):
                await records.apply(action.step)
        await _make_parts(records, clock)
        await _remember(migrator, records, clock)
        return Provisioned(fingerprint=planner.schema.fingerprint)
    kept, under_way = await migrator.kept(), await migrator.under_way()
    ours = bool(kept) and kept["name"] == planner.schema.name
    goes_on = under_way is not None and changing and under_way[0].automatic and under_way[0].fingerprint == planner.schema.fingerprint
    if under_way is not None and not goes_on:
        raise NotProvisioned("A migration was begun and has not ended.", hint="Run `palaver migrate apply` to end it.")
    if ours and kept["version"] > planner.schema.version:
        return replace(older(planner, physical, kept, joins_keys=records.limits.joins_keys), fingerprint=kept["fingerprint"])
    plan = await migrator.pending()
    if plan.actions and not changing:
        raise NotProvisioned(
            f"The database lacks {len(plan.actions)} of the tables, columns and indexes this schema needs.",
            hint="`palaver migrate plan` names them, `palaver migrate apply` makes them.",
        )
    if not plan.automatic:
        raise NotProvisioned("The schema changes more than is done by itself.", hint="Run `palaver migrate plan` to see it.")
    if plan.actions or (changing and ours and kept.get("fingerprint") != plan.fingerprint):
        await migrator.apply(plan)
    elif changing and not kept:
        await _remember(migrator, records, clock)
    if changing:
        await _make_parts(records, clock)
    found, schema = await records.get((system("rebuild", "search"), SCHEMA))
    body: Any = schema["body"] if schema else {}
    return Provisioned(rebuild=found is not None, fingerprint=str(body.get("fingerprint", "")))


async def _make_parts(records: RecordEngine, clock: Clock) -> None:
    if isinstance(records, MakesParts):
        await records.make_parts(us_of(clock))


async def rebuilt(records: RecordEngine, clock: Clock) -> None:
    """Note that the projections a migration wanted built anew are built."""
    await records.write(WriteSet((Delete(system("rebuild", "search")),), us_of(clock)))


async def _remember(migrator: Migrator, records: RecordEngine, clock: Clock) -> None:
    put = Put(SCHEMA, {"scope": "schema", "name": "current", "body": await migrator.remembered()})
    await records.write(WriteSet((put,), us_of(clock)))


def older(planner: Planner, physical: Physical, kept: Mapping[str, Any], *, joins_keys: bool) -> Provisioned:
    """Have the planner refuse what an older program may not do with what a newer one stores.

    It may patch and delete records of an entity that only has more, and read those that hold more beside the record.
    """
    schema = planner.schema
    refusal = NotProvisioned(
        f"The data was written with version {kept['version']} of schema {schema.name}; this program has {schema.version}.",
        hint="Update the program; older code could drop what it does not know.",
    )
    if not kept.get("snapshot"):
        raise refusal
    try:
        plan = migration(planner, physical)
    except NotProvisioned:
        raise refusal from None
    if any(isinstance(action, Take) and action.effect != "tidies" for action in plan.actions):
        raise refusal
    newer = {entity["name"]: entity for entity in kept["snapshot"]["entities"]}
    mine = schema.snapshot()
    behind: dict[str, str] = {}
    for entity in mine["entities"]:
        new = newer.get(entity["name"])
        if new is None:
            raise refusal
        if new != entity:
            same = all(new[part] == entity[part] for part in ("shadows", "uniques", "references", "history_s"))
            same = same and not (joins_keys and _joined(new) - _joined(entity))
            behind[entity["name"]] = "patch" if same and _reads_alike(entity, new) else "read"
    planner.behind.update(behind)
    planner.plain -= {schema.entities[name].entity for name in behind}
    return Provisioned(older=True, searches=mine["searches"] == kept["snapshot"]["searches"])


def _joined(entity: Mapping[str, Any]) -> set[tuple[str, ...]]:
    """Return the parts of indexes that are several, and lie in one place."""
    indexes = table_of(entity["table"]).indexes
    return {parts for index in indexes for parts in (index.partition, index.sort) if len(parts) > 1}


def _reads_alike(mine: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Say whether each field of the older declaration is stored as the newer one stores it."""
    fields = {field["stored"]: field["form"] for field in new["fields"].values()}
    return all(fields.get(field["stored"]) == field["form"] for field in mine["fields"].values())
