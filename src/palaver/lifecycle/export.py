"""Exports: any entity or query as JSON Lines or CSV, page by page, whole, with the number of records said first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

from palaver.clock import to_us
from palaver.declared import Declared
from palaver.entity import Entity
from palaver.errors import Validation
from palaver.lifecycle.encoding import cell, columns, json_record, line
from palaver.ops import is_live
from palaver.query import Query
from palaver.reading import fetch_blobs
from palaver.store import Store
from palaver.values import KeyPart, Record

PAGE = 500
# Objects have any size; a page of them must not be held at once.
TOGETHER = 8
Format = Literal["jsonl", "csv"]


@dataclass(frozen=True)
class Export:
    """An export that has not begun: how many records there are, and `async for` over its lines, each with its newline.

    `count` is of the moment the export was asked for; records written or deleted meanwhile may be in it or not.
    """

    store: Store
    what: type[Entity] | Query[Any]
    format: Format
    count: int
    personal: bool = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        declared = _declared(self.store, self.what)
        left_out = frozenset() if self.personal else frozenset(spec.name for spec in declared.personal)
        names = [name for name in columns(declared) if name not in _stored(declared, left_out)]
        if self.format == "csv":
            yield (",".join(cell(name) for name in names) + "\r\n").encode()
        async for entity in entities(self.store, self.what):
            record = json_record(declared, entity, left_out)
            yield line(record) if self.format == "jsonl" else (",".join(cell(record[name]) for name in names) + "\r\n").encode()

    async def write(self, file: Any) -> int:
        """Write all lines to a binary file; return how many records."""
        written = 0 if self.format == "jsonl" else -1
        async for text in self:
            file.write(text)
            written += 1
        return written


async def export(store: Store, what: type[Entity] | Query[Any], *, format: Format = "jsonl", personal: bool = True) -> Export:
    """Return an export of an entity or query. Nothing is cut off; `personal=False` leaves personal fields out."""
    if format not in ("jsonl", "csv"):
        raise Validation("An export is jsonl or csv.")
    return Export(store, what, format, await _count(store, what), personal)


async def _count(store: Store, what: type[Entity] | Query[Any]) -> int:
    if isinstance(what, Query):
        return await store.count(what)
    return sum([len(page) async for page in live_pages(store, store.schema.of(what))])


async def entities(store: Store, what: type[Entity] | Query[Any], *, objects: bool = True) -> AsyncIterator[Any]:
    """Yield the live records of an entity or query, with their large values unless `objects` is False."""
    if isinstance(what, Query):
        async for entity in store.query(what):
            yield entity
        return
    declared = store.schema.of(what)
    codec = store.core.planner.codec(what)
    async for page in live_pages(store, declared):
        found: list[Any] = [codec.decode_sealed(record) for record in page]
        for start in range(0, len(found), TOGETHER):
            if declared.blobs and objects:
                await fetch_blobs(store.core.blobs, codec, found[start : start + TOGETHER])
            for number in range(start, min(start + TOGETHER, len(found))):
                yield found[number]
                found[number] = None


async def live_pages(
    store: Store, declared: Declared, *, after: tuple[KeyPart, ...] | None = None, limit: int = PAGE
) -> AsyncIterator[list[Record]]:
    """Yield the live records of an entity, of the store's tenant where it has tenants, in pages of the engine's order."""
    tenant = store.core.planner.tenant_key(declared, store._tenant) if declared.tenant else ()
    while True:
        page = await store.core.records.scan(declared.table.name, after=after, limit=limit)
        now_us = to_us(store.clock.now())
        yield [
            record
            for record in page.records
            if is_live(declared.table, record, now_us) and (not tenant or record[declared.table.key[0]] == tenant[0])
        ]
        if page.last is None:
            return
        after = page.last


def _declared(store: Store, what: type[Entity] | Query[Any]) -> Declared:
    return store.schema.of(what.entity if isinstance(what, Query) else what)


def _stored(declared: Declared, names: frozenset[str]) -> set[str]:
    from palaver.fields import stored_name

    return {stored_name(name, declared.entity.model_fields[name]) for name in names}
