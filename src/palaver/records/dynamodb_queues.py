"""Writers of one process that met at a record take turns: whoever loses a condition again and again would give up in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from palaver.ops import Address


class Queues:
    """A queue for each record that writers met at; gone when the last of them is done."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Address, asyncio.Lock] = WeakValueDictionary()

    def among(self, addresses: Iterable[Address]) -> list[Address]:
        """Return the records that others queue for."""
        return [at for at in addresses if at in self._locks] if self._locks else []

    @asynccontextmanager
    async def turn(self, addresses: Iterable[Address]) -> AsyncIterator[None]:
        """Wait until nobody else of this process is at any of the records; always in one order, so that nobody waits in a circle."""
        async with AsyncExitStack() as held:
            for at in sorted(set(addresses)):
                lock = self._locks.get(at)
                if lock is None:
                    lock = self._locks[at] = asyncio.Lock()
                await held.enter_async_context(lock)
            yield
