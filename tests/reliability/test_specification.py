"""The SQLite engine beside the memory engine, which is the specification, for a million steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from palaver.testing.machine import long_run, sqlite
from tests.reliability.results import publish

STEPS, SEED = 1_050_000, 20_261_121


@pytest.mark.soak
async def test_a_million_steps_beside_the_specification_show_no_difference(tmp_path: Path) -> None:
    divergences = await long_run(lambda: sqlite(tmp_path), SEED, STEPS)
    publish("specification", {"steps": STEPS, "divergences": divergences, "seed": SEED})
    assert 0 == divergences
