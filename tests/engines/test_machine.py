"""Short runs of the machines, and proof that they notice what they should."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from palaver.testing.machine import long_run, machine, main, memory, run, sqlite
from palaver.testing.planted import PLANTED, Planted
from palaver.testing.records.base import TABLES
from palaver.testing.steps import Divergence, Pair, alike

SHORT = settings(
    max_examples=15,
    stateful_step_count=20,
    deadline=None,
    derandomize="CI" in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
# What no answer shows to a single caller, or what no rule does: steps do not change structure, wait, or keep what they got.
UNSEEN = {
    "indexes keep deleted records",
    "positions are used again",
    "waiting never ends early",
    "reads hand out what is stored",
    "expired records come unordered",
    "a new index starts empty",
}
ANSWERS = [planted for planted in PLANTED if not planted.changes and planted.name not in UNSEEN]

TestMemoryMachine = machine(memory).TestCase
TestMemoryMachine.settings = SHORT
TestSqliteMachine = machine(sqlite).TestCase
TestSqliteMachine.settings = SHORT


async def test_a_seeded_run_of_sqlite_beside_memory_does_not_diverge() -> None:
    async with sqlite() as pair:
        await run(pair, 20260101, 1_000)
        await pair.compare_everything()
    assert pair.steps == 1_000
    assert pair.refused > 50
    assert pair.raised > 5


@pytest.mark.soak
async def test_a_long_run_of_sqlite_beside_memory_does_not_diverge() -> None:
    assert 0 == await long_run(sqlite, 1, 200_000)


async def test_one_seed_is_one_run() -> None:
    trails = []
    for _ in range(2):
        async with memory() as pair:
            await run(pair, 5, 300)
            trails.append((list(pair.trail), pair.refused, pair.raised, [await pair.model.changes(None, 10_000)]))
    assert trails[0] == trails[1]


@pytest.mark.parametrize("planted", ANSWERS, ids=lambda planted: planted.name)
async def test_a_machine_finds_what_was_planted(planted: Planted) -> None:
    with pytest.raises(Divergence):
        await run(Pair(planted.make(TABLES)), 1, 8_000)


async def test_a_divergence_shows_the_steps_before_it() -> None:
    planted = next(planted for planted in PLANTED if planted.name == "a put keeps old attributes")
    async with memory() as honest:
        honest.engine = planted.make(TABLES)
        with pytest.raises(Divergence) as caught:
            await run(honest, 3, 2_000)
    assert f"{honest.steps}: " in caught.value.__notes__[0]


def test_the_runner_prints_its_speed_and_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["--engine", "memory", "--steps", "300", "--seed", "9"])
    printed = capsys.readouterr().out
    assert "300 steps, 0 divergences" in printed
    assert "steps/s, seed 9" in printed


def test_answers_are_alike_only_with_every_type() -> None:
    assert alike({"a": [1, frozenset({"x"})]}, {"a": [1, frozenset({"x"})]})
    for other in ({"a": [1.0]}, {"a": [True]}, {"a": (1,)}, {"a": [1, 1]}, {}, {"b": [1]}, [1]):
        assert not alike({"a": [1]}, other)
