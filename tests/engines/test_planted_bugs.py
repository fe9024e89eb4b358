"""The suite finds every bug that was planted, by the fact named for it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from palaver.errors import PalaverError
from palaver.ops import Table
from palaver.ports import RecordEngine
from palaver.records.memory import MemoryRecords
from palaver.testing import RecordEngineTests
from palaver.testing.planted import PLANTED, Make, Planted
from palaver.testing.records.base import TABLES
from tests.engines.test_memory import TestMemory as MemoryFacts


class Facts(MemoryFacts):
    def __init__(self, make: Make) -> None:
        self.engine_of = make

    @asynccontextmanager
    async def make(self, tables: Sequence[Table]) -> AsyncIterator[RecordEngine]:
        yield self.engine_of(tables)


def cases(fact: Any) -> list[dict[str, Any]]:
    """Return the arguments of every case of a fact but the engine."""
    found: list[dict[str, Any]] = [{}]
    for mark in getattr(fact, "pytestmark", ()):
        if mark.name == "parametrize":
            name, values = mark.args
            found = [{**case, name: value} for case in found for value in values]
    return found


async def failures(name: str, make: Make) -> list[str]:
    """Return the cases of one fact that an engine does not fulfil."""
    suite = Facts(make)
    fact = getattr(suite, name)
    failed = []
    for case in cases(fact):
        async with suite.make(TABLES) as engine:
            given = {"engine": engine} if "engine" in inspect.signature(fact).parameters else {}
            try:
                await asyncio.wait_for(fact(**given, **case), 10)
            # Anything else would be a slip of the planted code itself, not a fact that does not hold.
            except (AssertionError, PalaverError, TimeoutError, pytest.fail.Exception) as error:
                failed.append(f"{case}: {type(error).__name__}")
    return failed


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
async def test_a_planted_bug_is_found(planted: Planted) -> None:
    assert [] == await failures(planted.caught_by, MemoryRecords), "the fact fails without the bug"
    with planted.installed():
        assert await failures(planted.caught_by, planted.make), f"{planted.caught_by} does not notice"


def test_every_bug_has_its_own_name_and_a_fact_of_the_suite() -> None:
    names = [planted.name for planted in PLANTED]
    assert len(names) == len(set(names))
    assert all(hasattr(RecordEngineTests, planted.caught_by) for planted in PLANTED)
