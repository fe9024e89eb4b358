"""Concurrent calls on one record in PostgreSQL are as if one came after the other, also where answers are lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

import palaver
from palaver.store import Store
from tests import servers
from tests.reliability.app import SCHEMA, Account
from tests.reliability.test_histories import history, lose_answers, wrong
from tests.stacks import SEAL_KEYS


@pytest.fixture
async def stores(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Store]]:
    """Two stores with pools of their own, as two processes would have them."""
    monkeypatch.setenv("PALAVER_SEAL_KEYS", SEAL_KEYS)
    server = servers.postgres18()
    name = server.create_database()
    async with AsyncExitStack() as stack:
        url = f"{server.url(name)}?pool=4&blobs=memory:"
        made = [await stack.enter_async_context(palaver.open(url, schema=SCHEMA, migrate=True, maintain=False)) for _ in range(2)]
        yield made
    server.drop_database(name)


@pytest.mark.parametrize("lossy", [False, True])
async def test_histories_are_linearizable(stores: list[Store], lossy: bool) -> None:
    if lossy:
        lose_answers(stores[0], 1)
    for seed in range(4):
        calls = await history(stores, seed, 8, 40)
        assert [] == wrong(calls), f"seed {seed}"
        # Each begins with nothing, as the checker takes for granted.
        for worker in calls:
            await stores[1].delete(Account.at(worker, "a"))
