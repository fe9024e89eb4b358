"""The lifecycle schema, opened on each stack; the test runs projections by `settle`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.clock import ManualClock
from palaver.store import Store
from tests.lifecycle.app import SCHEMA
from tests.stacks import SEAL_KEYS, stack, url

__all__ = ["clock", "folder", "objects", "opened", "stack", "store", "url"]

Opened = Callable[..., Any]


@pytest.fixture(autouse=True)
def seal_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """One key for every stack, so that secrets copied from one to another open there."""
    monkeypatch.setenv("PALAVER_SEAL_KEYS", SEAL_KEYS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where every file of the store lies."""
    return tmp_path


@pytest.fixture
def objects(folder: Path) -> str:
    """Where objects are, in memory's stack too: tests look for what is left of them."""
    return f"file:{folder}/blobs"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 3, 10, 12, tzinfo=UTC))


@pytest.fixture
async def opened(url: str, clock: ManualClock) -> AsyncIterator[Opened]:
    async with AsyncExitStack() as stack:

        async def make(*projections: Any, schema: Any = SCHEMA, **options: Any) -> Store:
            opening = palaver.open(url, schema=schema, clock=clock, projections=projections, maintain=False, **options)
            return await stack.enter_async_context(opening)

        yield make


@pytest.fixture
async def store(opened: Opened) -> Store:
    made: Store = await opened()
    return made
