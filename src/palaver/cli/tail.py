"""`palaver tail`: what is written, as it is written."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from cyclopts import Parameter

from palaver.cli.amounts import Count
from palaver.cli.context import Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits

if TYPE_CHECKING:
    from palaver.cli.output import Output
    from palaver.entity import Entity
    from palaver.ops import Change
    from palaver.store import Store
    from palaver.values import KeyPart

    Changes: TypeAlias = AsyncIterator[tuple[Change, Entity | None]]

CHUNK, WAIT_S = 200, 1.0
SHOWN, REMEMBERED = 6, 10_000


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which changes, and how many: the options of the command."""

    from_start: bool = False
    """Begin with the oldest change that is kept, not with the next one."""
    updates: bool = False
    """Show also what is changed and deleted, not only what is new."""
    errors: bool = False
    """Show only calls and answers that failed, each once, when it is known."""
    once: bool = False
    """Print what is there and end."""
    max: Count | None = None
    """End after so many lines."""


NEW = Wanted()


@emits("change", stream=True)
async def tail(*entities: str, wanted: Wanted = NEW, here: Here) -> int:
    """Follow messages and calls as they are written, one line each; NDJSON where stdout is no terminal.

    Parameters
    ----------
    entities
        Which entities; every one that is about a person if none is named.
    """
    from palaver.cli.typed import entity_of

    async with here.open() as store:
        chosen = [entity_of(store.schema, name) for name in entities]
        tables = {declared.table.name for declared in chosen or store.schema.entities.values() if chosen or declared.subject is not None}
        start = 0 if wanted.from_start or wanted.once else (await store.core.records.changes(None, 0)).head
        changes = _followed(store, start, tables, wanted.updates or wanted.errors, wanted.once)
        shown = 0
        async for change, entity in _failures(changes) if wanted.errors else changes:
            _line(here.out, change, entity)
            shown += 1
            if shown == wanted.max:
                break
    if wanted.once:
        here.out.say(f"{shown:,} change{'s' if shown != 1 else ''}")
    return Exit.OK


async def _followed(store: Store, after: int, tables: set[str], updates: bool, once: bool) -> Changes:
    """Yield changes with their record as it is now; a record changed twice meanwhile is shown twice as it is now."""
    from palaver.errors import Trimmed
    from palaver.ports import Wakes

    records = store.core.records
    while True:
        try:
            page = await records.changes(after, CHUNK)
        except Trimmed:
            # What is asked for is no longer kept: begin with the oldest that is.
            page = await records.changes(None, CHUNK)
        wanted = [change for change in page.changes if change.table in tables and (updates or change.kind == "created")]
        for change, entity in zip(wanted, await _as_now(store, wanted), strict=True):
            if entity is not None or updates:
                yield change, entity
        after = page.last
        if page.changes:
            continue
        if once:
            return
        if isinstance(records, Wakes):
            await records.wait_for_change(after, WAIT_S)
        else:
            await asyncio.sleep(WAIT_S)


async def _failures(changes: Changes) -> Changes:
    """Yield what failed, each record once: most fail when they are changed, and are changed again afterwards."""
    from palaver.cli.scanned import failed

    known: OrderedDict[tuple[str, tuple[KeyPart, ...]], None] = OrderedDict()
    async for change, entity in changes:
        at = (change.table, change.key)
        if entity is None or not failed(entity) or at in known:
            continue
        known[at] = None
        if len(known) > REMEMBERED:
            known.popitem(last=False)
        yield change, entity


async def _as_now(store: Store, changes: Sequence[Change]) -> list[Entity | None]:
    from palaver.clock import to_us
    from palaver.ops import Address, is_live

    core = store.core
    found = await core.records.get([Address(change.table, change.key) for change in changes]) if changes else []
    now_us = to_us(store.clock.now())
    out: list[Entity | None] = []
    for change, record in zip(changes, found, strict=True):
        declared = core.schema.tables[change.table]
        live = record is not None and is_live(declared.table, record, now_us) and _own(store, declared, record)
        out.append(core.planner.codec(declared.entity).decode_sealed(record) if live and record is not None else None)
    return out


def _own(store: Store, declared: Any, record: Any) -> bool:
    return declared.tenant is None or store.tenant is None or record[declared.tenant.stored] == store.tenant


def _line(out: Output, change: Change, entity: Entity | None) -> None:
    from palaver.cli.plain import plain
    from palaver.clock import from_us

    at = from_us(change.revision)
    name = type(entity).__name__ if entity is not None else change.table
    if out.json:
        body = {"position": change.position, "at": at.isoformat(), "change": change.kind, "entity": name, "actor": change.cause.actor}
        out.emit("change", {**body, "record": None if entity is None else plain(entity)})
        return
    out.print(f"{at:%H:%M:%S}  {'' if change.kind == 'created' else change.kind + ' '}{name}  {_why(entity)}{_said(entity)}")


def _why(entity: Entity | None) -> str:
    """Say why it failed, where it did."""
    from palaver.cli.output import plain_text
    from palaver.cli.scanned import failed

    if entity is None or not failed(entity):
        return ""
    told = (getattr(getattr(entity, "processing_metadata", entity), name, None) for name in ("error_message", "error", "status"))
    return f"✗ {' '.join(plain_text(next(filter(None, told), '')).split())}  "


def _said(entity: Entity | None) -> str:
    """Say in one line what a record holds: its text where it has one, else its first figures and names."""
    from palaver.cli.output import plain_text

    if entity is None:
        return ""
    declared = type(entity).declared()
    for spec in declared.searchable:
        text = entity.__dict__[spec.name]
        if isinstance(text, str) and text:
            who = getattr(entity, "message_type", None) or (entity.__dict__[declared.subject.name] if declared.subject else "")
            return f"{who}: {' '.join(text.split())}"[:200]
    hidden = {part.path for part in declared.access["key"].parts} | {spec.name for spec in declared.fields.values() if spec.secret}
    scalars = {
        name: value
        for name, value in entity.__dict__.items()
        if name in declared.fields and name not in hidden and isinstance(value, str | int | float)
    }
    return "  ".join(f"{name}={plain_text(value)}" for name, value in list(scalars.items())[:SHOWN])
