"""A copy that follows its source: what is written meanwhile arrives, and the feed goes on where it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from palaver.errors import Conflict
from palaver.lifecycle.copy import Copy, Watch
from palaver.ops import REVISION, Address, Delete, Put, WriteSet, revision_of
from palaver.store import Store
from tests.lifecycle.app import Note
from tests.lifecycle.copying import Two, credentials, files, fill, opened, sqlite, stack, two

__all__ = ["credentials", "files", "stack", "two"]


async def test_what_is_written_and_removed_meanwhile_arrives(two: Two) -> None:
    stop = asyncio.Event()

    async def write() -> None:
        for seed in range(2, 8):
            await fill(two.store, 6, seed=seed)
            for n in range(6):
                await two.store.delete(Note.at(f"u{seed - 1}-{n}"))
            await asyncio.sleep(0.02)
        stop.set()

    await asyncio.gather(two.copy(follow=True, stop=stop), write())
    report = await two.copy(follow=True, until_caught_up=True)
    assert report.finished
    assert report.settled
    await two.same()


async def test_a_record_made_anew_by_a_slow_clock_replaces_the_one_it_had_copied(two: Two) -> None:
    stop = asyncio.Event()
    stop.set()
    await two.copy(follow=True, stop=stop)
    at = Address("notes", ("u1-3",))
    old = (await two.source.records.get((at,)))[0]
    assert old is not None
    await two.source.records.write(WriteSet((Delete(at),), 5))
    record = {name: value for name, value in old.items() if name != REVISION}
    await two.source.records.write(WriteSet((Put(at, {**record, "text": "anew"}),), 5))
    await two.copy()
    found = (await two.target.records.get((at,)))[0]
    assert found is not None
    assert (5, "anew") == (revision_of(found), found["text"])
    await two.same()


async def test_a_feed_that_no_longer_reaches_back_is_made_up_for(two: Two) -> None:
    stop = asyncio.Event()
    stop.set()
    await two.copy(follow=True, stop=stop)
    await fill(two.store, 8, seed=5)
    await two.store.delete(Note.at("u1-4"))
    head = (await two.source.records.changes(None, 0)).head
    await two.source.records.trim(head + 1)  # type: ignore[attr-defined]
    await two.copy()
    await two.same()
    assert head == (await two.target.records.changes(None, 0)).head
    await Store(two.target.core).settle(20)


async def test_the_lag_is_told(files: Two) -> None:
    seen: list[int] = []

    class Told(Watch):
        def lag(self, positions: int, seconds: float) -> None:
            seen.append(positions)

    await files.copy(follow=True, until_caught_up=True, watch=Told())
    assert 0 == seen[-1]


async def test_a_source_that_was_made_anew_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    """The URL is the same; what was copied of the one before would stay for ever."""
    stop = asyncio.Event()
    stop.set()
    async with opened(sqlite(tmp_path, "a")) as source, opened(sqlite(tmp_path, "b")) as target:
        await fill(Store(source.core), 10)
        await Copy(source, target).run(follow=True, stop=stop)
        await fill(Store(source.core), 2, seed=2)
        await Copy(source, target).run(follow=True, until_caught_up=True)
    for end in ("", "-wal", "-shm"):
        (tmp_path / f"a.db{end}").unlink(missing_ok=True)
    async with opened(sqlite(tmp_path, "a")) as source, opened(sqlite(tmp_path, "b")) as target:
        await fill(Store(source.core), 2, seed=9)
        with pytest.raises(Conflict, match="made anew"):
            await Copy(source, target).run()
        # It is no less another one where it has grown past the one before.
        await fill(Store(source.core), 12, seed=8)
        with pytest.raises(Conflict, match="made anew"):
            await Copy(source, target).run()


async def test_a_source_that_lost_its_end_while_it_is_followed_is_noticed(files: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a failover to a server that was behind."""
    engine: Any = files.source.records
    changes, lost = engine.changes, 0

    async def shorter(after: int | None, limit: int) -> Any:
        page = await changes(after, limit)
        return page._replace(head=page.head - lost) if after is None else page

    monkeypatch.setattr(engine, "changes", shorter)

    class Losing(Watch):
        def lag(self, positions: int, seconds: float) -> None:
            nonlocal lost
            lost = 1

    with pytest.raises(Conflict, match="lost what it had last"):
        await files.copy(follow=True, watch=Losing())
