"""A process killed at any call to the operating system loses nothing it acknowledged and leaves nothing half-written."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.reliability.app import CANARY
from tests.reliability.examine import Figures, Run, examine
from tests.reliability.results import publish
from tests.reliability.tracing import CALLS, Victims, counted, kill_at, untraceable

pytestmark = pytest.mark.skipif(bool(untraceable()), reason=untraceable())


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    with Victims() as victims:
        yield victims


def points(victims: Victims, run: Run, folder: Path, total: int) -> list[tuple[str, int]]:
    """Return points to kill at: of every kind of call the workload makes, and of common ones more."""
    folder.mkdir()
    log = folder / "log"
    ended = victims.run(run, f"sqlite:///{folder}/a.db", folder, ["-o", str(log), "-e", f"trace={','.join(CALLS)}"])
    assert ended.status == 0, f"seed {run.seed}: the workload does not end without a kill: {ended.errors}"
    calls = counted(log)
    chance = random.Random(run.seed)
    every = [(call, number) for call, most in calls.items() for number in range(1, most + 1)]
    rare = [(call, number) for call, number in every if calls[call] <= 60]
    chosen = chance.sample(rare, min(len(rare), total // 2))
    rest = sorted(set(every) - set(chosen))
    return chosen + chance.sample(rest, min(len(rest), total - len(chosen)))


def kill_all(victims: Victims, folder: Path, seeds: range, each: int, count: int = 12) -> Figures:
    figures = Figures()
    for seed in seeds:
        run = Run(seed, count=count)
        for call, number in points(victims, run, folder / f"whole{seed}", each):
            at = folder / f"{seed}-{call}-{number}"
            at.mkdir()
            url = f"sqlite:///{at}/a.db"
            ended = victims.run(run, url, at, kill_at(call, number))
            try:
                found = asyncio.run(examine(run, url, ended.acks))
            except BaseException as error:
                error.add_note(f"seed {seed}, killed at {call} number {number}")
                raise
            assert found.harm == 0, f"seed {seed}, killed at {call} number {number}: {found}"
            assert ended.errors == [], f"seed {seed}, killed at {call} number {number}"
            assert CANARY not in ended.log, f"seed {seed}: a log tells stored values"
            figures += found
            shutil.rmtree(at)
    return figures


def test_nothing_acknowledged_is_lost_to_a_kill(victims: Victims, tmp_path: Path) -> None:
    figures = kill_all(victims, tmp_path, range(1, 3), 15)
    assert figures.points >= 30
    assert figures.acked > 0


@pytest.mark.soak
def test_nothing_acknowledged_is_lost_to_hundreds_of_kills(victims: Victims, tmp_path: Path) -> None:
    figures = kill_all(victims, tmp_path, range(100, 108), 42, count=16)
    assert figures.points >= 300
    publish("kill", asdict(figures))
