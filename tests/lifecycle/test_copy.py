"""A copy is the source under another URL: everything as it was stored, and only what may be copied into."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.errors import ConfigError, Conflict, Duplicate, NotProvisioned
from palaver.lifecycle.copy import Copy, Watch
from palaver.lifecycle.copy_ends import INTO, identity
from palaver.lifecycle.copy_progress import LEASE_MS, Progress
from palaver.ops import Put, WriteSet
from palaver.store import Store
from palaver.system import system
from tests.lifecycle.app import SCHEMA, Message, Note, User
from tests.lifecycle.copying import BASE, Two, credentials, dump, files, fill, opened, sqlite, stack, two

__all__ = ["credentials", "files", "stack", "two"]


# --- equal ------------------------------------------------------------------------------------------------------------


async def test_everything_is_there_as_it_was_stored(two: Two) -> None:
    report = await two.copy()
    assert report.finished
    assert report.settled
    assert not report.resumed
    await two.same()
    dumped = await dump(two.target)
    assert 30 < len(dumped["users-history"])
    assert len(dumped["objects"]) == report.objects > 40
    assert sum(report.records.values()) > 300


async def test_the_feed_goes_on_where_the_sources_is(two: Two) -> None:
    changes = list((await two.source.records.changes(None, 10_000)).changes)
    await two.copy()
    page = await two.target.records.changes(None, 10_000)
    # No projection ever ran here, so each has all of it before it.
    assert changes == list(page.changes)
    assert page.head == changes[-1].position
    await Store(two.target.core).create(Note(note_id="new", user_id="u", text="t"))
    after = await two.target.records.changes(page.head, 10)
    assert [("new",)] == [change.key for change in after.changes]


async def test_the_target_is_a_store_that_goes_on(two: Two) -> None:
    await two.copy()
    store = Store(two.target.core)
    with pytest.raises(Duplicate):
        await store.create(User(user_id="another", email=next(iter(await _emails(store)))))
    swept = await store.sweep()
    assert swept.cascaded or swept.objects
    await store.settle(20)


async def _emails(store: Store) -> list[str]:
    found: list[str] = []
    for n in range(30):
        user = await store.find(User.at(f"u1-{n}"))
        if user is not None:
            found.append(user.email)
    assert found
    return found


async def test_what_was_written_once_by_a_token_is_not_written_again(files: Two) -> None:
    kept = next(n for n, email in enumerate(await _emails(files.store)))
    user = f"u1-{kept}"
    asked = User(
        user_id=user, email=f"{user}@example.org", name="ÿ\U0001f600", balance=Decimal("1.50"), avatar=b"\0\xff", tags=frozenset({"a", "b"})
    )
    await files.copy()
    before = await dump(files.target)
    await Store(files.target.core).create(asked, token=f"token {user}")
    assert before == await dump(files.target)


async def test_a_search_of_the_target_finds_what_is_there(two: Two) -> None:
    await two.copy()
    found = await Store(two.target.core).search("talk", "dortmund", limit=1_000)
    core = Store(two.source.core)
    live = [n async for n in _live(core)]
    assert len(live) <= found.total


async def _live(store: Store) -> Any:
    for n in range(30):
        for m in range(4):
            message = await store.find(Message.at(f"c u1-{n}", str(BASE + (n + 1_000) * 10 + m)))
            if message is not None:
                yield message


# --- who may copy into what -------------------------------------------------------------------------------------------


async def test_a_target_that_holds_something_is_refused_and_left_alone(two: Two) -> None:
    await Store(two.target.core).create(Note(note_id="mine", user_id="u", text="t"))
    before = await dump(two.target)
    with pytest.raises(Conflict, match="not empty"):
        await two.copy()
    assert before == await dump(two.target)


async def test_a_target_whose_records_are_gone_again_has_been_used(two: Two) -> None:
    store = Store(two.target.core)
    await store.delete(await store.create(Note(note_id="mine", user_id="u", text="t")))
    with pytest.raises(Conflict, match="not empty"):
        await two.copy()


async def test_objects_of_others_in_the_target_are_refused_and_left_alone(two: Two) -> None:
    await two.target.core.blobs.put("somebody/else", b"1")
    with pytest.raises(Conflict, match="not empty"):
        await two.copy()
    assert b"1" == await two.target.core.blobs.get("somebody/else")


async def test_one_place_for_the_objects_of_both_keeps_them(tmp_path: Path, stack: AsyncExitStack) -> None:
    shared = f"&blobs=file:{tmp_path}/objects"
    made = Two(
        await stack.enter_async_context(opened(sqlite(tmp_path, "a") + shared)),
        await stack.enter_async_context(opened(sqlite(tmp_path, "b") + shared)),
    )
    await fill(made.store, 5)
    report = await made.copy()
    assert (0, 0) == (report.objects, report.removed_objects)
    await made.same()


async def test_one_database_under_two_names_is_refused(tmp_path: Path, stack: AsyncExitStack) -> None:
    one = await stack.enter_async_context(opened(sqlite(tmp_path, "a")))
    other = await stack.enter_async_context(opened(sqlite(tmp_path, "a")))
    await fill(Store(one.core), 3)
    with pytest.raises(ConfigError, match="same database"):
        await Copy(one, other).run()
    with pytest.raises(ConfigError, match="same database"):
        await Copy(one, replace(other, name="another name"), into_existing=True).run()
    assert (None,) == tuple(await one.records.get((INTO,)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.db", "sqlite:///a.db"),
        ("sqlite:///a.db?sync=normal", "sqlite:///./a.db"),
        ("postgresql://u:secret@Host:5432/db?pool=3", "postgresql://v:other@host:5432/db"),
        ("dynamodb://eu-west-1/p?search=x", "dynamodb://eu-west-1/p"),
    ],
)
def test_urls_of_one_database_are_seen_to_be_so(one: str, other: str) -> None:
    assert identity(one) == identity(other)
    assert "secret" not in identity(one)


def test_urls_of_two_databases_are_not_taken_for_one() -> None:
    urls = ("a.db", "b.db", "postgresql://h/a", "postgresql://h/b", "postgresql://h/a?schema=s", "dynamodb://eu/p", "dynamodb://us/p")
    assert len(urls) == len({identity(each) for each in urls})


async def test_a_symbolic_link_to_the_source_is_the_source(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    (tmp_path / "b.db").symlink_to(tmp_path / "a.db")
    assert identity(f"{tmp_path}/a.db") == identity(f"sqlite:///{tmp_path}/b.db")


async def test_another_version_of_the_schema_is_refused(files: Two, tmp_path: Path) -> None:
    newer = {"name": SCHEMA.name, "version": SCHEMA.version + 1, "fingerprint": "x"}
    put = Put(system("schema", "current"), {"scope": "schema", "name": "current", "body": newer})  # type: ignore[dict-item]
    await files.source.records.write(WriteSet((put,), 1))
    with pytest.raises(NotProvisioned, match=r"source was written with version .* Copy with the program of version \d+\.$"):
        await files.copy()


async def test_an_unfinished_copy_cannot_be_opened_and_a_finished_one_can(files: Two, tmp_path: Path) -> None:
    stop = asyncio.Event()
    stop.set()
    report = await files.copy(follow=True, stop=stop)
    assert not report.finished
    with pytest.raises(NotProvisioned, match="has not ended"):
        async with palaver.open(sqlite(tmp_path, "b"), schema=SCHEMA):
            pass
    assert (await files.copy()).finished
    async with palaver.open(sqlite(tmp_path, "b"), schema=SCHEMA) as store:
        assert await store.find(Note.at("u1-1")) is not None


async def test_an_unfinished_copy_is_no_source(files: Two, tmp_path: Path, stack: AsyncExitStack) -> None:
    stop = asyncio.Event()
    stop.set()
    await files.copy(follow=True, stop=stop)
    third = await stack.enter_async_context(opened(sqlite(tmp_path, "c")))
    with pytest.raises(Conflict, match="unfinished copy"):
        await Copy(files.target, third).run()


async def test_a_copy_of_another_source_is_refused_begun_and_ended(files: Two, tmp_path: Path, stack: AsyncExitStack) -> None:
    third = await stack.enter_async_context(opened(sqlite(tmp_path, "c")))
    stop = asyncio.Event()
    stop.set()
    await files.copy(follow=True, stop=stop)
    with pytest.raises(Conflict, match="another source"):
        await Copy(third, files.target).run()
    await files.copy()
    with pytest.raises(Conflict, match="not empty"):
        await Copy(third, files.target).run()


async def test_a_finished_copy_is_brought_up_to_date_until_it_is_used(two: Two) -> None:
    await two.copy()
    await fill(two.store, 5, seed=2)
    assert (await two.copy()).resumed
    await two.same()
    await Store(two.target.core).create(Note(note_id="mine", user_id="u", text="t"))
    with pytest.raises(Conflict, match="used since"):
        await two.copy()


async def test_two_copiers_at_once_are_one_too_many(files: Two) -> None:
    stop, begun = asyncio.Event(), asyncio.Event()

    class Begun(Watch):
        def records(self, table: str, count: int) -> None:
            begun.set()

    first = asyncio.create_task(files.copy(follow=True, stop=stop, watch=Begun()))
    await begun.wait()
    with pytest.raises(Conflict, match="Another process"):
        await files.copy()
    stop.set()
    await first
    assert (await files.copy()).finished


async def test_a_copier_that_was_taken_over_stops(files: Two) -> None:
    stop = asyncio.Event()
    stop.set()
    await files.copy(follow=True, stop=stop)
    old = await Progress.find(files.target)
    new = await Progress.find(files.target)
    assert old is not None
    assert new is not None
    async with new.held():
        with pytest.raises(palaver.errors.Fenced):
            async with old.held():
                raise AssertionError
    with pytest.raises(palaver.errors.Fenced):
        old.check()
    assert LEASE_MS > 0


async def test_a_schema_that_changes_meanwhile_ends_the_copy_unfinished(files: Two) -> None:
    stop = asyncio.Event()
    following = asyncio.create_task(files.copy(follow=True, until_caught_up=False, stop=stop))
    await asyncio.sleep(0.3)
    stop.set()
    await following
    progress = await Progress.find(files.target)
    assert progress is not None
    progress.schema = "another"
    async with progress.held():
        pass
    with pytest.raises(Conflict, match="schema changed"):
        await files.copy()
