"""One process at a time changes what is archived, and who reads records for an archive learns that persons were taken out meanwhile."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from palaver.clock import to_ms
from palaver.errors import Conflict, PalaverError
from palaver.lifecycle.parts import root
from palaver.ops import Cause, Guard, Origin, Put, Unchanged, WriteSet, Written, revision_of
from palaver.store import Store
from palaver.system import system

LEASE_MS = 120_000
WAIT_S = 600.0
POLL_S = 0.05

log = logging.getLogger("palaver.archive")


class ArchiveLock:
    """A lease on the archives of one store, taken once. `count`, of rewritings, grows before and after persons are taken out."""

    def __init__(self, store: Store) -> None:
        self._core = store.core
        self._at = system("archive", root(store))
        self._me = secrets.token_hex(8)
        self._revision: int | None = None
        self.count = 0

    async def rewritings(self) -> int:
        """Return how often persons were taken out; what was read before it grew may hold them still."""
        record = (await self._core.records.get((self._at,)))[0]
        body: Any = record["body"] if record else {}
        return int(body.get("rewritings", 0))

    @asynccontextmanager
    async def held(self, *, rewriting: bool = False) -> AsyncIterator[ArchiveLock]:
        await self.take(rewriting=rewriting)
        try:
            yield self
        finally:
            await self._release(rewriting)

    async def take(self, *, rewriting: bool = False) -> None:
        """Wait for the lease and take it; raise Conflict where somebody living keeps it for ten minutes."""
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while not await self._taken(rewriting):
            if asyncio.get_running_loop().time() >= deadline:
                raise Conflict("Another process keeps changing the archives.", hint="Try again when it has ended.")
            await asyncio.sleep(POLL_S)

    async def _taken(self, rewriting: bool) -> bool:
        record = (await self._core.records.get((self._at,)))[0]
        body: Any = record["body"] if record else {}
        now = to_ms(self._core.clock.now())
        # A lease that ends later than any that could be taken now was taken before the clock was put back.
        if now < body.get("until_ms", 0) <= now + LEASE_MS:
            return False
        self._revision = revision_of(record) if record else None
        self.count = int(body.get("rewritings", 0)) + rewriting
        return await self._saved(now + LEASE_MS)

    async def renew(self) -> None:
        """Keep the lease for as long again; raise Conflict where it ran out and another process has it."""
        if not await self._saved(to_ms(self._core.clock.now()) + LEASE_MS):
            raise Conflict("The archives were taken over by another process.", hint="Ask again; what was stored is gone on with.")

    async def _release(self, rewriting: bool) -> None:
        self.count += rewriting
        try:
            if not await self._saved(0):
                log.debug("the lease of the archives ran out before it was released")
        except PalaverError as error:
            log.debug("the lease of the archives was not released: %s", error.code)

    async def _saved(self, until_ms: int) -> bool:
        body: Any = {"holder": self._me, "until_ms": until_ms, "rewritings": self.count}
        record = {"scope": self._at.key[0], "name": self._at.key[1], "body": body}
        put = Put(self._at, record, (Guard(Unchanged(self._revision), Origin(0, "archive")),))
        result = await self._core.records.write(WriteSet((put,), self._core.now_us(), Cause("archive")))
        if not isinstance(result, Written):
            return False
        self._revision = result.revisions[0]
        return True
