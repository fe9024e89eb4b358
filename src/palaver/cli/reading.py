"""Reads that only a command line wants: records without an index, and a cursor after any record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from palaver.clock import to_us
from palaver.declared import Declared
from palaver.entity import Entity
from palaver.expr import Condition, evaluate
from palaver.ops import is_live, position
from palaver.query import Query
from palaver.reading import fetch_blobs
from palaver.store import Store
from palaver.tenants import tenant_key
from palaver.values import KeyPart

CHUNK = 200


async def scan(store: Store, declared: Declared, condition: Condition | None = None, *, objects: bool = True) -> AsyncIterator[Entity]:
    """Yield every live record of an entity, of the store's tenant, in no promised order.

    Without `objects`, large values are left where they are.
    """
    core = store.core
    codec = core.planner.codec(declared.entity)
    tenant = tenant_key(declared, store.tenant)
    bound = declared.entity.bind(condition) if condition is not None else None
    after: tuple[KeyPart, ...] | None = None
    while True:
        page = await core.records.scan(declared.table.name, after=after, limit=CHUNK)
        now_us = to_us(store.clock.now())
        found = [
            codec.decode_sealed(record)
            for record in page.records
            if is_live(declared.table, record, now_us)
            and (declared.tenant is None or record[declared.tenant.stored] == tenant[0])
            and (bound is None or evaluate(bound, record))
        ]
        if declared.blobs and objects:
            await fetch_blobs(core.blobs, codec, found)
        for entity in found:
            yield entity
        if page.last is None:
            return
        after = page.last


def cursor_after(store: Store, query: Query[Any], entity: Entity) -> str:
    """Return a cursor that goes on after one record of a query, wherever the page it came from ended."""
    core = store.core
    now_us = to_us(core.clock.now())
    codec = core.planner.codec(query.entity)
    record = codec.encode(entity, now_us, store.tenant).record
    at = position(codec.declared.table, query.path.physical, record)
    return core.signer.sign(query, store.tenant, at, now_us // 1000)
