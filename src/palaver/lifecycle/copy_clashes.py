"""Unique values that two databases have given to different records, found before one is copied into the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from palaver.claims import claim_of
from palaver.declared import Declared, UniqueSpec
from palaver.errors import Conflict
from palaver.lifecycle.copy_ends import SCAN, End
from palaver.lifecycle.copy_sums import got
from palaver.migrating.claiming import SCOPE, Claims
from palaver.migrating.demands import tenant_of
from palaver.ops import Address, Read, is_live, revision_of
from palaver.system import SYSTEM, key_from_plain
from palaver.values import KeyPart, Record


@dataclass(frozen=True)
class Clash:
    """One value that a record of the source and another one of the target would both hold."""

    unique: str
    fields: tuple[str, ...]
    table: str
    source: tuple[KeyPart, ...]
    target: tuple[KeyPart, ...]


async def refuse_clashes(source: End, target: End, found: Callable[[Clash], None]) -> None:
    """Raise Conflict where unique values clash, with how many of each set; every clash is handed to `found`. Writes nothing."""
    counts: Counter[str] = Counter()
    async for clash in clashes(source, target):
        counts[f"{clash.unique} ({', '.join(clash.fields)})"] += 1
        found(clash)
    if counts:
        told = "; ".join(f"{name}: {count:,}" for name, count in sorted(counts.items()))
        raise Conflict(
            f"Source and target have given the same unique values to different records: {told}. Nothing was copied.",
            hint="Change or delete one record of each pair first; --differences FILE writes their keys down.",
        )


async def clashes(source: End, target: End) -> AsyncIterator[Clash]:
    """Yield every value that two records would hold were the newer one of each record on both sides kept."""
    read = Read(SYSTEM.name, None, (SCOPE,), limit=SCAN)
    while True:
        page = await source.ask(partial(source.records.query, read))
        theirs = await got(target, [Address(SYSTEM.name, (SCOPE, str(claim["name"]))) for claim in page.records])
        apart = [
            (mine, other) for mine, other in zip(page.records, theirs, strict=True) if other is not None and _holder(mine) != _holder(other)
        ]
        for clash in await _real(source, target, apart):
            yield clash
        if page.last is None:
            return
        read = read._replace(after=page.last)


def _holder(claim: Record) -> Address:
    body: Any = claim["body"]
    return Address(str(body["table"]), key_from_plain(body["key"]))


async def _real(source: End, target: End, apart: Sequence[tuple[Record, Record]]) -> list[Clash]:
    """Return those whose two records would both still be there, and hold the value."""
    out: list[Clash] = []
    for mine, other in apart:
        found = _unique(source, str(mine["name"]))
        if found is None or _holder(mine).table != _holder(other).table:
            continue
        declared, unique = found
        kept = [await _newer(source, target, _holder(claim), declared) for claim in (mine, other)]
        held = [None if each is None else claim_of(declared, unique, each, tenant_of(declared, each)) for each in kept]
        if all(claim is not None and claim.key[1] == mine["name"] for claim in held):
            fields = tuple(part.path for part in unique.parts)
            out.append(Clash(f"{declared.name}.{unique.name}", fields, declared.table.name, _holder(mine).key, _holder(other).key))
    return out


def _unique(end: End, name: str) -> tuple[Declared, UniqueSpec] | None:
    entity, unique = name.rsplit("/", 3)[1:3]
    declared = end.core.schema.entities.get(entity)
    return None if declared is None or unique not in declared.uniques else (declared, declared.uniques[unique])


async def _newer(source: End, target: End, at: Address, declared: Declared) -> Record | None:
    """Return the record a copy would leave at an address; None where that is none, or one that exists for nobody."""
    sides = [record for end in (source, target) for record in await got(end, [at]) if record is not None]
    newest = max(sides, key=revision_of, default=None)
    return newest if newest is not None and is_live(declared.table, newest, source.core.now_us()) else None


async def settle_claims(target: End) -> dict[str, int]:
    """Reserve the unique values of the records that are there, free the others; return how many records share a value, by set."""
    core, shared = target.core, Counter[str]()

    def clash(unique: str) -> None:
        shared[unique] += 1

    async def keep(state: dict[str, Any]) -> None:
        return

    claims = Claims(core.planner, target.records, core.clock, core.now_us, lambda words, count: None, clash=clash)
    for declared in core.schema.entities.values():
        for unique in declared.uniques.values():
            await target.ask(partial(claims.reserve, declared, unique, {}, keep))
    return dict(shared)
