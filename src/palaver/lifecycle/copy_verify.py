"""Saying whether two stacks hold the same: every record and every object, counted and compared by checksum, both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from palaver.lifecycle.copy_blobs import ObjectsCompared, compare
from palaver.lifecycle.copy_ends import End
from palaver.lifecycle.copy_sums import Difference, differences, sums

OBJECTS = "(objects)"
"""What stands for a table's name where an object differs."""


@dataclass
class Compared:
    """One table on both sides."""

    entity: str
    table: str
    source: int
    target: int
    missing: int = 0
    different: int = 0
    extra: int = 0

    @property
    def same(self) -> bool:
        return not (self.missing or self.different or self.extra) and self.source == self.target


@dataclass
class Verified:
    """What was compared."""

    tables: list[Compared] = field(default_factory=list)
    objects: ObjectsCompared = field(default_factory=ObjectsCompared)

    @property
    def same(self) -> bool:
        return self.objects.same and all(table.same for table in self.tables)


async def verify(
    source: End,
    target: End,
    *,
    found: Callable[[Difference], None] = lambda difference: None,
    records: Callable[[int], None] = lambda count: None,
    objects: Callable[[int], None] = lambda count: None,
) -> Verified:
    """Compare two stacks; memory does not grow with them. Each difference is handed to `found`, which may write it down.

    Writers have to rest: what is written meanwhile may be told as a difference.
    """
    out = Verified()
    for name, spec in source.tables.items():
        mine, theirs = await asyncio.gather(sums(source, name, records), sums(target, name, records))
        compared = Compared(spec.entity, name, mine.records, theirs.records)
        if mine != theirs:
            async for page in differences(source, target, name):
                for each in page:
                    setattr(compared, each.kind, getattr(compared, each.kind) + 1)
                    found(each)
        out.tables.append(compared)
    out.objects = await compare(source, target, objects, lambda key, kind: found(Difference(OBJECTS, (key,), kind)))
    return out
