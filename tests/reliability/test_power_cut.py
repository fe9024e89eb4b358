"""What a power cut leaves: everything acknowledged, and with `sync=normal` a consistent state some commits earlier."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from palaver.errors import Corruption
from tests.reliability.disk import OPTIONS, Disk, Event, events
from tests.reliability.examine import Figures, Run, examine
from tests.reliability.results import publish
from tests.reliability.tracing import Victims, untraceable

pytestmark = pytest.mark.skipif(bool(untraceable()), reason=untraceable())


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    with Victims() as victims:
        yield victims


def recorded(victims: Victims, run: Run, folder: Path, options: str = "") -> list[Event]:
    """Let a workload run to its end and return every call it made."""
    (folder / "disk").mkdir(parents=True)
    log = folder / "log"
    ended = victims.run(run, f"sqlite:///{folder}/disk/a.db{options}", folder, ["-o", str(log), *OPTIONS])
    assert ended.status == 0, f"seed {run.seed}: {ended.errors}"
    return list(events(log))


def cut_all(run: Run, calls: list[Event], folder: Path, cuts: int, *, lossy: bool = False) -> Figures:
    """Cut the power at chosen moments of one recorded run and examine what is left each time."""
    figures = Figures()
    chance = random.Random(f"cuts of {run.seed}")
    moments = sorted(chance.sample(range(1, len(calls)), min(cuts, len(calls) - 1)))
    disk = Disk(folder / "disk", folder / "said")
    seen = 0
    for moment in moments:
        for event in calls[seen:moment]:
            disk.see(event)
        seen = moment
        left = folder / f"cut{moment}"
        disk.cut(random.Random(f"{run.seed}/{moment}"), left)
        try:
            figures += asyncio.run(examine(run, f"sqlite:///{left}/a.db", disk.heard, lossy=lossy))
        except Corruption:
            if not lossy:
                raise
            figures += Figures(points=1, missing_objects=1)
        except BaseException as error:
            error.add_note(f"seed {run.seed}, power cut after event {moment}")
            raise
        shutil.rmtree(left)
    return figures


def test_nothing_acknowledged_is_lost_to_a_power_cut(victims: Victims, tmp_path: Path) -> None:
    for seed in (1, 2):
        run = Run(seed)
        figures = cut_all(run, recorded(victims, run, tmp_path / str(seed)), tmp_path / str(seed), 20)
        assert figures.acked > 0
        assert figures.harm == 0, f"seed {seed}: {figures}"


def test_with_normal_a_power_cut_takes_the_last_commits_only(victims: Victims, tmp_path: Path) -> None:
    run = Run(3)
    figures = cut_all(run, recorded(victims, run, tmp_path / "3", "?sync=normal"), tmp_path / "3", 15, lossy=True)
    assert figures.lost > 0
    assert (0, 0) == (figures.half, figures.phantom), f"seed {run.seed}: {figures}"


@pytest.mark.soak
def test_nothing_acknowledged_is_lost_to_hundreds_of_power_cuts(victims: Victims, tmp_path: Path) -> None:
    figures = {"full": Figures(), "normal": Figures()}
    for seed in range(200, 208):
        for sync, found in figures.items():
            run, folder = Run(seed, count=16), tmp_path / f"{sync}{seed}"
            found += cut_all(run, recorded(victims, run, folder, f"?sync={sync}"), folder, 40, lossy=sync == "normal")
            shutil.rmtree(folder)
    assert figures["full"].points >= 300
    assert figures["full"].harm == 0, figures
    assert (0, 0) == (figures["normal"].half, figures["normal"].phantom), figures
    publish("power_cut", {sync: asdict(found) for sync, found in figures.items()})
