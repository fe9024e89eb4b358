"""What tests of windows share: counting what is asked of the records, and waiting until windows listen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from palaver import Store
from palaver.context import ContextWindow
from palaver.ops import Read, RecordPage


class Queries:
    """Counts the queries of a store's messages, and lets a test do something between one and its answer."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.at_once = self.most = 0
        self.meanwhile: Callable[[], Any] | None = None
        self._query = store.core.records.query
        monkeypatch.setattr(store.core.records, "query", self.query)

    async def query(self, read: Read) -> RecordPage:
        if read.table not in ("messages", "posts"):
            # What listens to the feed asks as well.
            return await self._query(read)
        self.count += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            page = await self._query(read)
            if self.meanwhile is not None:
                await self.meanwhile()
            return page
        finally:
            self.at_once -= 1


@pytest.fixture
def queries(store: Store, monkeypatch: pytest.MonkeyPatch) -> Queries:
    return Queries(store, monkeypatch)


async def listening(*contexts: ContextWindow[Any]) -> None:
    """Return when windows hear of what others do; until then they begin anew when they do."""
    for context in contexts:
        await context._subscription.ready()
