"""From a query to engine reads and their merging, and from records that refer to objects to whole instances."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from palaver.blob_ports import BlobStore
from palaver.claims import claim_of, claim_to
from palaver.clock import to_us
from palaver.codec import BlobRef, EntityCodec
from palaver.entity import Entity
from palaver.errors import Corruption, NotFound
from palaver.ops import REVISION, Read, RecordPage, is_live, position
from palaver.plan import Planner
from palaver.ports import RecordEngine
from palaver.query import At, Query, UniqueAt
from palaver.system import key_from_plain
from palaver.tenants import tenant_key
from palaver.values import KeyPart, Record

if TYPE_CHECKING:
    from palaver.core import Core

T = TypeVar("T")
E = TypeVar("E", bound=Entity)
After = tuple[KeyPart, ...] | None


class Page(Generic[T]):
    """One slice of a query: `items`, and a `cursor` to go on with, None at the end.

    A page may hold fewer items than asked, even none, and still have a cursor: filtered and expired records count as read.
    """

    __slots__ = ("_make", "items")

    def __init__(self, items: list[T], make: Callable[[], str] | None) -> None:
        self.items = items
        self._make = make

    @property
    def cursor(self) -> str | None:
        return None if self._make is None else self._make()

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __repr__(self) -> str:
        return f"Page({len(self.items)} items, {'the last' if self._make is None else 'with a cursor'})"

    def __len__(self) -> int:
        return len(self.items)


def read_of(planner: Planner, query: Query[Any], tenant: str | None, limit: int, after: After, shard: tuple[int, ...] = ()) -> Read:
    """Return the read of one page of a query, of one shard where its index has shards."""
    declared = planner.codec(query.entity).declared
    own = tenant_key(declared, tenant)
    path = query.path
    return Read(
        declared.table.name,
        path.physical,
        own + query.partition + shard,
        query.fixed,
        query.bounds,
        query.descending,
        limit,
        after,
        path.physical is None,
    )


def reads_of(planner: Planner, query: Query[Any], tenant: str | None, limit: int, after: After) -> list[Read]:
    """Return the reads of one page of a query: one, or one a shard."""
    if not query.path.shards:
        return [read_of(planner, query, tenant, limit, after)]
    before = len(query.partition) + (1 if planner.codec(query.entity).declared.tenant else 0)
    return [
        read_of(planner, query, tenant, limit, after and (*after[:before], shard, *after[before + 1 :]), (shard,))
        for shard in range(query.path.shards)
    ]


async def merged(records: RecordEngine, planner: Planner, query: Query[Any], tenant: str | None, limit: int, after: After) -> RecordPage:
    """Read a page of every shard and merge them; a record's place is its sort values, then its key."""
    table = planner.codec(query.entity).declared.table
    pages = await asyncio.gather(*(records.query(read) for read in reads_of(planner, query, tenant, limit, after)))
    index = table.index(str(query.path.physical))
    order, backwards = index.sort + table.key, query.descending

    def place(record: Record) -> list[Any]:
        return _sortable([record[name] for name in order])

    together: Iterator[Record] = heapq.merge(*(page.records for page in pages), key=place, reverse=backwards)
    # Large records end a shard's page early, and what it has next comes before what others have beyond that.
    early = [page.last for page in pages if page.last is not None and len(page.records) < limit]
    end = (max if backwards else min)(early, key=lambda last: _sortable(last[len(index.partition) :]), default=None)
    if end is not None:
        least = _sortable(end[len(index.partition) :])
        together = takewhile(lambda record: place(record) >= least if backwards else place(record) <= least, together)
    taken = list(islice(together, limit))
    if all(page.last is None for page in pages) and sum(len(page.records) for page in pages) == len(taken):
        return RecordPage(taken, None)
    return RecordPage(taken, position(table, query.path.physical, taken[-1]) if taken else end)


def _sortable(values: Sequence[Any]) -> list[Any]:
    return [value.encode() if isinstance(value, str) else value for value in values]


async def claimed(records: RecordEngine, planner: Planner, target: UniqueAt[E], tenant: str | None) -> At[E] | None:
    """Return the address of the record that has the values of a unique set; None where none has."""
    declared = planner.codec(target.entity).declared
    record = (await records.get((claim_to(declared, declared.uniques[target.name], target.values, tenant),)))[0]
    if record is None:
        return None
    body: Any = record["body"]
    key = key_from_plain(body["key"])
    return At(target.entity, key[1:] if declared.tenant else key)


def claims(planner: Planner, target: UniqueAt[Any], record: Record, tenant: str | None) -> bool:
    """Say whether a record has the values it was looked up by: between the two reads, or once expired, it may not."""
    declared = planner.codec(target.entity).declared
    unique = declared.uniques[target.name]
    return claim_of(declared, unique, record, tenant) == claim_to(declared, unique, target.values, tenant)


async def fetch_blobs(blobs: BlobStore, codec: EntityCodec, entities: Sequence[Any]) -> None:
    """Put the values in that lie in objects. Raises Corruption where an object is missing."""
    wanted = [
        (entity, spec.name, entity.__dict__[spec.name])
        for entity in entities
        for spec in codec.declared.blobs
        if isinstance(entity.__dict__[spec.name], BlobRef)
    ]
    if not wanted:
        return
    found = await asyncio.gather(*(_fetch(blobs, codec, ref) for _, _, ref in wanted))
    for (entity, name, ref), data in zip(wanted, found, strict=True):
        entity.__dict__[name] = codec.unpack(name, ref, data)


async def filled(core: Core, tenant: str | None, codec: EntityCodec, entities: list[Any]) -> list[Any]:
    """Return records with the values that lie in objects; those deleted since they were read are left out.

    A record may be replaced between its reading and that of its object; it is then read again. Raises Corruption where
    the object of a record as it is now is missing.
    """
    try:
        await fetch_blobs(core.blobs, codec, entities)
        return entities
    except Corruption:
        found = [await _filled_again(core, tenant, codec, entity) for entity in entities]
        return [entity for entity in found if entity is not None]


async def _filled_again(core: Core, tenant: str | None, codec: EntityCodec, entity: Any) -> Any:
    table = codec.declared.table
    while True:
        try:
            await fetch_blobs(core.blobs, codec, [entity])
            return entity
        except Corruption:
            record = (await core.records.get((core.planner.address(entity.address, tenant),)))[0]
            if record is None or not is_live(table, record, to_us(core.clock.now())):
                return None
            if record[REVISION] == entity.revision:
                raise
            entity = codec.decode(record)


async def _fetch(blobs: BlobStore, codec: EntityCodec, ref: BlobRef) -> bytes:
    try:
        return await blobs.get(ref.key)
    except NotFound:
        raise Corruption(
            f"An object that a {codec.name} refers to is missing.",
            hint="Restore the blob folder or bucket; `palaver doctor` lists all.",
            entity=codec.name,
        ) from None
