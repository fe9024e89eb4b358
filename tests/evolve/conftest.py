"""An empty database of each engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from palaver import ManualClock
from tests.evolve.beds import ENGINES, Bed, bed
from tests.evolve.cases import NOW


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def place(engine: str, tmp_path: Path) -> AsyncIterator[Bed]:
    async with bed(engine, tmp_path, ManualClock(NOW)) as made:
        yield made
