"""A copy that is killed again and again, anywhere, ends with every byte of the source."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest

from palaver.evolve import Take, migration
from palaver.lifecycle.copy import Copy
from palaver.lifecycle.copy_ends import End
from palaver.lifecycle.copy_verify import verify
from palaver.store import Store
from tests.lifecycle.app import SCHEMA
from tests.lifecycle.copying import dump, fill, opened, sqlite, url_of

ROOT = Path(__file__).parents[2]
KILLS = 8


async def _killed_after(source: str, target: str, seconds: float | None) -> str:
    """Run a copier and kill it so long after it began to work; return what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.lifecycle.copier",
        source,
        target,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert b"ready\n" == await process.stdout.readline()
    if seconds is not None:
        await asyncio.sleep(seconds)
        if process.returncode is None:
            process.kill()
    out, err = await process.communicate()
    assert seconds is not None or not err, err.decode()
    return out.decode().strip()


@pytest.mark.parametrize(("kind", "seed"), [("sqlite", 1), ("postgres", 2)])
async def test_a_copy_killed_at_random_points_ends_equal_byte_for_byte(tmp_path: Path, kind: str, seed: int) -> None:
    rng = random.Random(seed)
    source, target = sqlite(tmp_path, "a"), url_of(kind, tmp_path, "b")
    async with opened(source) as end:
        for part in range(4):
            await fill(Store(end.core), 60, seed=part + 1)
    said = [await _killed_after(source, target, rng.uniform(0, 0.5)) for _ in range(KILLS)]
    assert "" in said, "it was never killed before its end"
    assert "finished" in await _killed_after(source, target, None)
    async with End.open(source, SCHEMA) as one, End.open(target, SCHEMA) as other:
        assert await dump(one) == await dump(other)
        assert (await verify(one, other)).same
        assert (await one.records.changes(None, 100_000)).changes == (await other.records.changes(None, 100_000)).changes
        await Store(other.core).settle(30)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_copy_cut_off_while_it_made_its_target_goes_on(tmp_path: Path, kind: str) -> None:
    source, target = sqlite(tmp_path, "a"), url_of(kind, tmp_path, "b")
    async with opened(source) as one, End.open(target, SCHEMA) as other:
        await fill(Store(one.core), 20)
        steps = [each.step for each in migration(other.core.planner, await other.records.describe()).actions if isinstance(each, Take)]
        for step in steps[: len(steps) // 2]:
            await other.records.apply(step)
        assert (await Copy(one, other).run()).finished
        assert await dump(one) == await dump(other)


async def test_writers_that_go_on_while_it_is_killed_lose_nothing(tmp_path: Path) -> None:
    rng = random.Random(7)
    source, target = sqlite(tmp_path, "a"), sqlite(tmp_path, "b")
    async with opened(source) as end:
        store = Store(end.core)
        await fill(store, 60)
        for round in range(8):
            await asyncio.gather(fill(store, 6, seed=round + 2), _killed_after(source, target, rng.uniform(0.05, 0.6)))
        assert "finished" in await _killed_after(source, target, None)
        async with End.open(target, SCHEMA) as other:
            assert await dump(end) == await dump(other)
