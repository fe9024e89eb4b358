"""The erasure ledger: that somebody was erased, when, and how much of each kind; never who.

It lies in the database and once more beside the objects, because restoring a backup brings the database of before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal

import orjson

from palaver.lifecycle.parts import root
from palaver.ops import Cause, Put, Read, WriteSet
from palaver.store import Store
from palaver.system import SYSTEM, system
from palaver.values import KeyPart

SCOPE = "erased"
ERASE = Cause("erase")


@dataclass(frozen=True, slots=True)
class Erasure:
    """One entry: whom, as a hash of tenant and subject; `done` is False while it runs, and after it was cut off."""

    who: str
    kind: Literal["erase", "purge"]
    at_us: int
    done: bool = False
    counts: Mapping[str, Any] = field(default_factory=dict)


class Ledger:
    """Writes and reads the ledger of one store."""

    def __init__(self, store: Store) -> None:
        self._store, self._core = store, store.core
        self._scope = f"{SCOPE}:{store.tenant}" if store.schema.tenanted else SCOPE

    def who(self, subject: str) -> str:
        """Return what stands for a person: the same for ever, and no name."""
        tenant = self._store.tenant if self._store.schema.tenanted else None
        return sha256(f"{tenant or ''}\x1f{subject}".encode()).hexdigest()

    async def begin(self, subject: str, kind: Literal["erase", "purge"]) -> Erasure:
        entry = Erasure(self.who(subject), kind, self._core.now_us())
        await self._save(entry)
        return entry

    async def end(self, entry: Erasure, counts: Mapping[str, Any]) -> None:
        await self._save(replace(entry, done=True, counts=counts))

    async def _save(self, entry: Erasure) -> None:
        body: Any = {"who": entry.who, "kind": entry.kind, "at_us": entry.at_us, "done": entry.done, "counts": dict(entry.counts)}
        # Both kinds are kept of one person: an erasure must not be forgotten for a later purge, which does less.
        name = f"{entry.kind}-{entry.who}"
        put = Put(system(self._scope, name), {"scope": self._scope, "name": name, "body": body})
        await self._core.records.write(WriteSet((put,), self._core.now_us(), ERASE))
        await self._core.blobs.put(f"{_folder(self._store)}{name}.json", orjson.dumps(body))

    async def entries(self) -> list[Erasure]:
        """Return what is known of erasures: from the database, and from the copies beside the objects."""
        found = {(entry.who, entry.kind): entry async for entry in self._copies()}
        after: tuple[KeyPart, ...] | None = None
        while True:
            page = await self._core.records.query(Read(SYSTEM.name, None, (self._scope,), limit=500, after=after))
            for record in page.records:
                body: Any = record["body"]
                entry = _entry(body)
                other = found.get((entry.who, entry.kind))
                if other is None or other.at_us <= entry.at_us:
                    found[entry.who, entry.kind] = entry
            if page.last is None:
                return sorted(found.values(), key=lambda entry: entry.at_us)
            after = page.last

    async def _copies(self) -> AsyncIterator[Erasure]:
        async for info in self._core.blobs.list(_folder(self._store)):
            yield _entry(orjson.loads(await self._core.blobs.get(info.key)))


def _folder(store: Store) -> str:
    return f"{root(store)}erasures/"


def _entry(body: Mapping[str, Any]) -> Erasure:
    return Erasure(body["who"], body["kind"], body["at_us"], body["done"], body["counts"])
