"""Unique values of stored records: reserved for a set that is new, freed for one that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from palaver.claims import claim_of
from palaver.clock import Clock, to_us
from palaver.declared import Declared, UniqueSpec
from palaver.errors import Conflict, Duplicate
from palaver.migrating.demands import tenant_of
from palaver.migrating.filling import AT_ONCE, ATTEMPTS, MIGRATE, Keep, Sweep
from palaver.ops import Address, Check, Delete, Guard, Op, Origin, Put, Read, Refused, Unchanged, WriteSet, is_live, revision_of
from palaver.plan import Planner
from palaver.ports import RecordEngine
from palaver.system import SYSTEM, key_from_plain, plain_key
from palaver.values import Record

PAGE = 200
SCOPE = "unique"


class Claims:
    """The reservations of one unique set of one entity."""

    def __init__(
        self,
        planner: Planner,
        records: RecordEngine,
        clock: Clock,
        now_us: Callable[[], int],
        tell: Callable[[str, int], None],
        clash: Callable[[str], None] | None = None,
    ) -> None:
        """With `clash` a value two records hold stays the first one's, and is told."""
        self._planner, self._records, self._clock, self._now_us, self._tell = planner, records, clock, now_us, tell
        self._clash = clash

    async def reserve(self, declared: Declared, unique: UniqueSpec, state: dict[str, Any], keep: Keep) -> None:
        """Reserve what every live record holds, then free what none holds. Raises Duplicate where two hold one value."""

        async def visit(addresses: Sequence[Address], found: list[Record | None]) -> None:
            for at, record in await self._together(declared, unique, addresses, found):
                await self._reserve(declared, unique, at, record)

        words = f"reserve {declared.name}.{unique.name}"
        await Sweep(self._records, declared.table.name, declared.table.key, self._tell).run(words, state, keep, visit)
        await self.free(declared.name, unique.name, declared, unique)

    async def _together(
        self, declared: Declared, unique: UniqueSpec, addresses: Sequence[Address], found: list[Record | None]
    ) -> list[tuple[Address, Record | None]]:
        """Reserve values nobody holds, many in one commit; return the records that have to be looked at one by one."""
        now_us = self._now_us()
        wanted: dict[Address, tuple[Address, Record]] = {}
        alone: list[tuple[Address, Record | None]] = []
        for at, record in zip(addresses, found, strict=True):
            claim = None
            if record is not None and is_live(declared.table, record, now_us):
                claim = claim_of(declared, unique, record, tenant_of(declared, record))
            if claim is not None and record is not None:
                if claim in wanted:
                    alone.append((at, record))
                wanted.setdefault(claim, (at, record))
        held = dict(zip(wanted, await self._records.get(list(wanted)), strict=True)) if wanted else {}
        free = [(claim, at, record) for claim, (at, record) in wanted.items() if held[claim] is None]
        alone += [wanted[claim] for claim, each in held.items() if each is not None and not _says(each, *wanted[claim], declared)]
        groups = [free[start : start + AT_ONCE] for start in range(0, len(free), AT_ONCE)]
        written = await asyncio.gather(*(self._records.write(_reserving(some, declared, now_us)) for some in groups))
        for some, result in zip(groups, written, strict=True):
            if isinstance(result, Refused):
                alone += [(at, record) for _, at, record in some]
        return alone

    async def _reserve(self, declared: Declared, unique: UniqueSpec, at: Address, record: Record | None) -> None:
        for _ in range(ATTEMPTS):
            now_us = self._now_us()
            if record is None or not is_live(declared.table, record, now_us):
                return
            claim = claim_of(declared, unique, record, tenant_of(declared, record))
            if claim is None:
                return
            held = (await self._records.get((claim,)))[0]
            wanted = _reservation(claim, at, record, declared)
            if held is not None and _says(held, at, record, declared):
                return
            if held is not None and await self._holds(declared, unique, held, claim, at):
                if self._clash is not None:
                    return self._clash(f"{declared.name}.{unique.name}")
                raise Duplicate(
                    f"{declared.name}.{unique.name}: two stored records hold one value.",
                    hint="Change one of them, and apply the migration again.",
                    entity=declared.name,
                )
            origin = Origin(0, "claim")
            put = Put(claim, wanted, (Guard(Unchanged(revision_of(held) if held else None), origin),))
            check = Check(at, (Guard(Unchanged(revision_of(record)), origin),))
            if not isinstance(await self._records.write(WriteSet((put, check), now_us, MIGRATE)), Refused):
                return
            record = (await self._records.get((at,)))[0]
        raise Conflict(f"Other writers kept changing one {declared.name}.", hint="Apply the migration again.")

    async def _holds(self, declared: Declared, unique: UniqueSpec, held: Record, claim: Address, mine: Address) -> bool:
        """Say whether the record a reservation names is another one that lives and still holds the value."""
        if not is_live(SYSTEM, held, to_us(self._clock.now())):
            return False
        body: Any = held["body"]
        at = Address(declared.table.name, key_from_plain(body["key"]))
        if at == mine:
            return False
        record = (await self._records.get((at,)))[0]
        if record is None or not is_live(declared.table, record, to_us(self._clock.now())):
            return False
        return claim_of(declared, unique, record, tenant_of(declared, record)) == claim

    async def free(self, entity: str, name: str, declared: Declared | None = None, unique: UniqueSpec | None = None) -> None:
        """Remove reservations of a unique set: all, or those that the record they name does not hold any more."""
        read = Read(SYSTEM.name, None, (SCOPE,), limit=PAGE)
        while True:
            page = await self._records.query(read)
            mine = [held for held in page.records if str(held["name"]).rsplit("/", 3)[1:3] == [entity, name]]
            for held in await self._unheld(mine, declared, unique):
                guard = Guard(Unchanged(revision_of(held)), Origin(0, "claim"))
                delete = Delete(Address(SYSTEM.name, (SCOPE, str(held["name"]))), (guard,))
                await self._records.write(WriteSet((delete,), self._now_us(), MIGRATE))
            if page.last is None:
                return
            read = read._replace(after=page.last)

    async def _unheld(self, reservations: Sequence[Record], declared: Declared | None, unique: UniqueSpec | None) -> list[Record]:
        """Return the reservations whose value the record they name does not hold."""
        if declared is None or unique is None:
            return list(reservations)
        bodies: list[Any] = [held["body"] for held in reservations]
        found = await self._records.get([Address(declared.table.name, key_from_plain(body["key"])) for body in bodies]) if bodies else []
        out: list[Record] = []
        for held, body, record in zip(reservations, bodies, found, strict=True):
            claim = None
            if record is not None and body["table"] == declared.table.name:
                claim = claim_of(declared, unique, record, tenant_of(declared, record))
            if claim is None or claim.key[1] != held["name"]:
                out.append(held)
        return out


def _reserving(free: Sequence[tuple[Address, Address, Record]], declared: Declared, now_us: int) -> WriteSet:
    """Return the writes that reserve values nobody holds, if their records are as they were seen."""
    ops: list[Op] = []
    for claim, at, record in free:
        origin = Origin(len(ops), "claim")
        ops.append(Put(claim, _reservation(claim, at, record, declared), (Guard(Unchanged(None), origin),)))
        ops.append(Check(at, (Guard(Unchanged(revision_of(record)), origin),)))
    return WriteSet(ops, now_us, MIGRATE)


def _says(held: Record, at: Address, record: Record, declared: Declared) -> bool:
    """Say whether a reservation is this record's already, for as long as the record is there."""
    wanted = _reservation(Address(SYSTEM.name, (SCOPE, "")), at, record, declared)
    return held.get("body") == wanted["body"] and held.get("expires") == wanted.get("expires")


def _reservation(claim: Address, at: Address, record: Record, declared: Declared) -> Record:
    out: Record = {"scope": SCOPE, "name": claim.key[1], "body": {"table": at.table, "key": plain_key(at.key)}}
    expires = record.get(declared.expires.stored) if declared.expires else None
    return out if expires is None else {**out, "expires": expires}
