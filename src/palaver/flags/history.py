"""Who changed what of a flag, when and why: read from the images its records keep."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from palaver.clock import from_us
from palaver.flags.records import FlagRecord
from palaver.ops import Read
from palaver.store import Store
from palaver.system import HISTORY, key_text
from palaver.values import KeyPart

PAGE = 100


@dataclass(frozen=True, slots=True)
class Changed:
    """One change. `value` and `percent` are None where it was taken back, or erased with the user it was set for."""

    flag: str
    scope: str
    target: str
    value: Any
    percent: float | None
    by: str
    reason: str
    at: datetime
    revision: int


async def history_of(store: Store, entity: type[FlagRecord], namespace: str, flag: str) -> list[Changed]:
    """Return the changes of a flag, the newest first."""
    out: list[Changed] = []
    async for record in store.query(entity.key(namespace, flag)):
        out.extend(await _changes(store, record))
    return sorted(out, key=lambda change: (change.at, change.revision), reverse=True)


async def _changes(store: Store, record: FlagRecord) -> list[Changed]:
    planner, declared = store.core.planner, store.schema.of(type(record))
    address = planner.address(record.address, store.tenant)
    out: list[Changed] = []
    after: tuple[KeyPart, ...] | None = None
    while True:
        read = Read(f"{declared.table.name}{HISTORY}", None, (key_text(address.key),), limit=PAGE, after=after)
        page = await store.core.records.query(read)
        for image in page.records:
            revision: Any = image["revision"]
            body: Any = image.get("image")
            if body is None:
                out.append(Changed(record.flag, record.scope, record.target, None, None, "", "", from_us(revision), revision))
                continue
            said: Any = planner.codec(type(record)).decode({**body, "_revision": revision})
            percent = None if said.share is None else said.share / 100
            out.append(Changed(said.flag, said.scope, said.target, said.value, percent, said.by, said.reason, said.changed, revision))
        if page.last is None:
            return out
        after = page.last
