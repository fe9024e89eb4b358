"""Exports: any entity or query as JSON Lines or CSV, page by page, whole, with the number of records said first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from palaver.clock import to_us
from palaver.declared import Declared
from palaver.entity import Entity
from palaver.errors import Corruption, NotFound, Validation
from palaver.fields import stored_name
from palaver.large_object import LargeObject
from palaver.lifecycle.encoding import cell, columns, json_record, line
from palaver.lifecycle.parts import OBJECTS, named
from palaver.ops import is_live
from palaver.query import Query
from palaver.reading import fetch_blobs
from palaver.store import Store
from palaver.tenants import tenant_key
from palaver.values import KeyPart, Record

PAGE = 500
# Objects have any size; a page of them must not be held at once.
TOGETHER = 8
Format = Literal["jsonl", "csv"]


@dataclass
class Large:
    """The large objects that the records of an export name: how many, and how many bytes they have."""

    count: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Export:
    """An export that has not begun: how many records there are, and `async for` over its lines, each with its newline.

    `count` is of the moment the export was asked for; records written or deleted meanwhile may be in it or not. Large objects are
    written into the folder `objects`, below the folder given there, and named by their place in it; without one they stay where they
    are, and are named by the key under which the blob store has them. `large` counts them as the lines are read.
    """

    store: Store
    what: type[Entity] | Query[Any]
    format: Format
    count: int
    personal: bool = True
    objects: Path | None = None
    large: Large = field(default_factory=Large)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        declared = _declared(self.store, self.what)
        left_out = frozenset() if self.personal else frozenset(spec.name for spec in declared.personal)
        names = [name for name in columns(declared) if name not in _stored(declared, left_out)]
        if self.format == "csv":
            yield (",".join(cell(name) for name in names) + "\r\n").encode()
        async for entity in entities(self.store, self.what):
            record = await self._record(declared, entity, left_out)
            if record is None:
                continue
            yield line(record) if self.format == "jsonl" else (",".join(cell(record[name]) for name in names) + "\r\n").encode()

    async def write(self, file: Any) -> int:
        """Write all lines to a binary file; return how many records."""
        written = 0 if self.format == "jsonl" else -1
        async for text in self:
            file.write(text)
            written += 1
        return written

    async def _record(self, declared: Declared, entity: Any, left_out: frozenset[str]) -> dict[str, Any] | None:
        """Return the plain form of a record, its large objects written; None where it is gone meanwhile."""
        while True:
            try:
                return await self._form(declared, entity, left_out)
            except NotFound:
                # An object goes with a record that was changed or deleted since it was read.
                found: Any = await self.store.find(entity.address)
                if found is None:
                    return None
                if found.revision == entity.revision:
                    raise Corruption("A record refers to an object that is not there.", hint="`palaver doctor` says which.") from None
                entity = found

    async def _form(self, declared: Declared, entity: Any, left_out: frozenset[str]) -> dict[str, Any]:
        record, large = json_record(declared, entity, left_out), Large()
        for spec in declared.blobs:
            value, name = getattr(entity, spec.name), stored_name(spec.name, declared.entity.model_fields[spec.name])
            if isinstance(value, LargeObject) and name in record:
                if self.objects is not None:
                    await self._write_beside(self.objects / OBJECTS, value)
                    record[name] = named(value.sha256, value.size)
                large.count, large.bytes = large.count + 1, large.bytes + value.size
        self.large.count, self.large.bytes = self.large.count + large.count, self.large.bytes + large.bytes
        return record

    async def _write_beside(self, folder: Path, value: LargeObject) -> None:
        path = folder / value.sha256
        file = await asyncio.to_thread(_created, path)
        if file is None:
            return
        try:
            with file:
                async with aclosing(self.store.stream(value)) as pieces:
                    async for piece in pieces:
                        await asyncio.to_thread(file.write, piece)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _created(path: Path) -> BinaryIO | None:
    """Make a file, in a folder that is made if need be; None where it is there, from another record of the same bytes."""
    path.parent.mkdir(exist_ok=True)
    with suppress(FileExistsError):
        return path.open("xb")
    return None


async def export(
    store: Store, what: type[Entity] | Query[Any], *, format: Format = "jsonl", personal: bool = True, objects: Path | None = None
) -> Export:
    """Return an export of an entity or query. Nothing is cut off; `personal=False` leaves personal fields out.

    `objects` is a folder in which the large objects are to lie; one that is damaged raises Corruption.
    """
    if format not in ("jsonl", "csv"):
        raise Validation("An export is jsonl or csv.")
    return Export(store, what, format, await _count(store, what), personal, objects)


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
    tenant = tenant_key(declared, store.tenant)
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
    return {stored_name(name, declared.entity.model_fields[name]) for name in names}
