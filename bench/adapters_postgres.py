"""Palaver on PostgreSQL as a peer in the comparison harness, given to it with `--adapter`: W2 chat and W7 loading.

Stock server settings, the harness's own pool size, feed on, validated entities in, entities out.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import palaver
from bench.adapters import CHAT, ChatEmbedded

POOL = 16


class ChatPostgres(ChatEmbedded):
    name = "palaver-pg"
    notes = "palaver on PostgreSQL: one statement per pair, pairs that wait share a commit, feed on; entities validated in, built out"

    def __init__(self, where: Any) -> None:
        self.where = where

    async def open(self) -> None:
        at: Any = self.where
        server = f"{at['user']}@{quote(at['host'], safe='')}:{at['port']}"
        url = f"postgresql://{server}/{at['dbname']}?pool={POOL}"
        self.store = await palaver.open(url, schema=CHAT, migrate=True, maintain=False)

    async def preload(self, convs: dict[str, list[dict[str, Any]]]) -> None:
        await super().preload(convs)
        records: Any = self.store.core.records
        await records.pool.execute('ANALYZE "chat-messages"')
