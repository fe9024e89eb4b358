"""A transaction of the source that still runs while a copy begins, or ends: what it commits arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from palaver.errors import Unavailable
from palaver.lifecycle.copy import Copy
from palaver.lifecycle.copy_ends import End
from palaver.lifecycle.copy_verify import verify
from palaver.store import Store
from tests.lifecycle.app import Note
from tests.lifecycle.copying import opened, sqlite, url_of
from tests.under_way import under_way


@pytest.fixture
async def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[End, End, str]]:
    # How long a reader of the feed waits by itself.
    monkeypatch.setattr("palaver.records.postgres_feed._FENCE_WAIT_S", 0.02)
    url = url_of("postgres", tmp_path, "a")
    async with opened(url) as source, opened(sqlite(tmp_path, "b")) as target:
        await Store(source.core).create(Note(note_id="first", user_id="u", text="t"))
        yield source, target, url.partition("?")[0]


async def test_what_was_drawn_before_the_copy_began_and_committed_after_its_first_pass_arrives(ends: tuple[End, End, str]) -> None:
    source, target, url = ends
    async with under_way(url, "notes", "note_id", "first"):
        # It has the position after, and is there already.
        await Store(source.core).create(Note(note_id="second", user_id="u", text="t"))
        copying = asyncio.create_task(Copy(source, target).run())
        await asyncio.sleep(1.5)
    assert (await copying).finished
    found = await verify(source, target)
    assert found.same, found


async def test_a_copy_does_not_end_before_what_a_running_transaction_keeps_back(ends: tuple[End, End, str]) -> None:
    source, target, url = ends
    stop = asyncio.Event()
    stop.set()
    await Copy(source, target).run(follow=True, stop=stop)
    async with under_way(url, "notes", "note_id", "first"):
        await Store(source.core).create(Note(note_id="second", user_id="u", text="t"))
        copying = asyncio.create_task(Copy(source, target).run())
        await asyncio.sleep(1.5)
        assert not copying.done()
    assert (await copying).finished
    assert (await verify(source, target)).same


async def test_a_transaction_that_does_not_end_is_named_and_the_copy_goes_on_later(
    ends: tuple[End, End, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, url = ends
    monkeypatch.setattr("palaver.lifecycle.copy_follow.HELD_BACK_S", 0.1)
    async with under_way(url, "notes", "note_id", "first"):
        await Store(source.core).create(Note(note_id="second", user_id="u", text="t"))
        with pytest.raises(Unavailable, match="transaction"):
            await Copy(source, target).run()
    assert (await Copy(source, target).run()).finished
    assert (await verify(source, target)).same
