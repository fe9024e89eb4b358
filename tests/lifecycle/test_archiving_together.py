"""Archives that are written, rewritten and removed at the same time, and attempts that were cut off: nobody erased stays in one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from palaver.clock import ManualClock
from palaver.entity import Entity
from palaver.errors import Conflict
from palaver.lifecycle import archive_lock
from palaver.lifecycle.archive import Archive
from palaver.lifecycle.archive_lock import ArchiveLock
from palaver.lifecycle.erase import erase
from palaver.store import Store
from tests.lifecycle.app import Counter, Feedback, Message, Note, User
from tests.lifecycle.people import DOOMED, OTHER, canary, found_in, write_both, write_person
from tests.lifecycle.test_erase import ALL

DAY = date(2026, 3, 10)
ABOUT: dict[type[Entity], tuple[str]] = {Feedback: ("owner_id",)}


def when_scanned(monkeypatch: pytest.MonkeyPatch, store: Store, table: str, do: Callable[[], Awaitable[Any]]) -> None:
    """Do something once, after a page of a table was read and before what is done with it."""
    scan, done = type(store.core.records).scan, list[str]()

    async def scanned(self: Any, name: str, **given: Any) -> Any:
        page = await scan(self, name, **given)
        if name == table and not done:
            done.append(name)
            await do()
        return page

    monkeypatch.setattr(type(store.core.records), "scan", scanned)


@pytest.mark.parametrize("table", ["messages", "notes", "counters"])
async def test_who_is_erased_while_an_archive_is_written_is_not_in_it(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """Read and not yet written, or written and not yet named by a manifest."""
    await write_both(store)
    archive = Archive(store, about=ABOUT)
    when_scanned(monkeypatch, store, table, lambda: erase(store, DOOMED, policy=ALL, archive=archive))
    manifest = await archive.run(DAY)
    assert {} == found_in(folder)
    assert [] == await archive.verify(DAY)
    assert 12 == manifest.entities["Message"].records == len([row async for row in archive.records(DAY, Message)])
    assert [OTHER] == [row["user_id"] async for row in archive.records(DAY, User)]
    assert manifest == await archive.manifest(DAY)


async def test_who_is_erased_after_an_attempt_was_cut_off_is_not_in_what_is_left_of_it(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_both(store)
    archive = Archive(store, about=ABOUT, part_bytes=500)

    async def cut_off() -> None:
        raise TimeoutError

    with monkeypatch.context() as patched, pytest.raises(TimeoutError):
        when_scanned(patched, store, "counters", cut_off)
        await archive.run(DAY)
    assert {} != found_in(folder)
    assert 0 < (await erase(store, DOOMED, policy=ALL, archive=archive)).archived
    assert {} == found_in(folder)
    manifest = await archive.run(DAY)
    assert [] == await archive.verify(DAY)
    assert 12 == manifest.entities["Message"].records
    assert [f"{OTHER}-{n}" for n in range(2)] == sorted([row["note_id"] async for row in archive.records(DAY, Note)])


async def test_a_rewriting_of_an_attempt_that_was_cut_off_leaves_no_line_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await write_both(store)
    archive = Archive(store, about=ABOUT)

    async def cut_off(*_: Any) -> None:
        raise TimeoutError

    with monkeypatch.context() as patched, pytest.raises(TimeoutError):
        when_scanned(patched, store, "counters", cut_off)
        await archive.run(DAY)
    with monkeypatch.context() as patched, pytest.raises(TimeoutError):
        patched.setattr(Archive, "keep_only", cut_off)
        await erase(store, DOOMED, policy=ALL, archive=archive)
    manifest = await archive.run(DAY)
    assert 1 == manifest.entities["User"].records
    await erase(store, DOOMED, policy=ALL, archive=archive)
    assert [OTHER] == [row["user_id"] async for row in archive.records(DAY, User)]
    assert [] == await archive.verify(DAY)


async def test_people_erased_at_the_same_time_are_all_gone_from_the_archives(store: Store, folder: Path) -> None:
    await write_both(store)
    people = [DOOMED, *(f"u-doomed-{n}" for n in range(3))]
    for person in people[1:]:
        await write_person(store, person, canary)
    days = [DAY - timedelta(days=n) for n in range(3)]
    for day in days:
        await Archive(store, about=ABOUT).run(day)
    await asyncio.gather(*(erase(store, person, policy=ALL, archive=Archive(store, about=ABOUT), scrub=False) for person in people))
    assert {} == {name: hits for name, hits in found_in(folder / "blobs").items() if "archive" in name}
    for day in days:
        assert [] == await Archive(store).verify(day)
        assert [OTHER] == [row["user_id"] async for row in Archive(store).records(day, User)]


async def test_two_who_archive_one_day_write_it_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await write_both(store)
    archive = Archive(store)
    when_scanned(monkeypatch, store, "counters", lambda: archive.run(DAY, [Counter]))
    manifest = await archive.run(DAY, [Counter, Note])
    assert ["Counter"] == list(manifest.entities)
    (part,) = manifest.entities["Counter"].parts
    named = {part.key, part.note, f"{archive.folder(DAY)}manifest-000000.json"}
    assert named == {info.key async for info in store.core.blobs.list(archive.folder(DAY))}


async def test_a_part_another_wrote_meanwhile_is_gone_on_from(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.bulk(Counter(name=f"c{number:04d}", n=number) for number in range(1_200))
    archive = Archive(store, part_bytes=10_000)

    async def another() -> None:
        await store.put(Counter(name="c0000", n=5_000))
        with monkeypatch.context() as patched, pytest.raises(TimeoutError):
            patched.setattr(Archive, "_finished", cut_off)
            await archive.run(DAY, [Counter])

    async def cut_off(*_: Any) -> None:
        raise TimeoutError

    when_scanned(monkeypatch, store, "counters", another)
    manifest = await archive.run(DAY, [Counter])
    assert 1_200 == manifest.records
    assert {*range(1, 1_200), 5_000} == {row["n"] async for row in archive.records(DAY, Counter)}


async def test_a_day_that_is_removed_does_not_come_back_by_a_rewriting(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await write_both(store)
    archive = Archive(store, about=ABOUT)
    await archive.run(DAY)
    lines, pruning = Archive.lines, list[asyncio.Task[int]]()

    async def meanwhile(self: Archive, part: Any) -> Any:
        found = await lines(self, part)
        if not pruning:
            pruning.append(asyncio.create_task(archive.prune(DAY + timedelta(days=1))))
            await asyncio.wait(pruning, timeout=0.3)
        return found

    monkeypatch.setattr(Archive, "lines", meanwhile)
    await archive.rewrite([DOOMED], ALL)
    assert [1] == await asyncio.gather(*pruning)
    assert [] == [info.key async for info in store.core.blobs.list(archive.folder(DAY))]


async def test_a_process_that_died_holds_archives_up_for_a_while_only(
    store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_both(store)
    monkeypatch.setattr(archive_lock, "WAIT_S", 0.05)
    dead = ArchiveLock(store)
    await dead.take()  # and never released
    with pytest.raises(Conflict, match="changing the archives"):
        await Archive(store).run(DAY, [Counter])
    clock.advance(timedelta(milliseconds=archive_lock.LEASE_MS))
    assert 1 == (await Archive(store).run(DAY, [Counter])).records
    with pytest.raises(Conflict, match="taken over"):
        await dead.renew()


async def test_an_erasure_opens_the_parts_that_name_the_person_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await write_both(store)
    archive = Archive(store, about=ABOUT)
    await archive.run(DAY)
    opened: list[str] = []
    lines = Archive.lines

    async def counted(self: Archive, part: Any) -> Any:
        opened.append(part.key)
        return await lines(self, part)

    monkeypatch.setattr(Archive, "lines", counted)
    dry = await erase(store, DOOMED, policy=ALL, archive=archive, dry_run=True)
    seen = len(opened)
    assert dry == await erase(store, DOOMED, policy=ALL, archive=archive)
    assert 2 * seen == len(opened)
    assert seen == len(set(opened))


async def test_a_rewriting_whose_lease_ran_out_changes_nothing(store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    await write_both(store)
    archive = Archive(store, about=ABOUT)
    before = await archive.run(DAY)
    lines = Archive.lines

    async def away(self: Archive, part: Any) -> Any:
        clock.advance(timedelta(milliseconds=archive_lock.LEASE_MS))
        await ArchiveLock(store).take()
        return await lines(self, part)

    with monkeypatch.context() as patched, pytest.raises(Conflict, match="taken over"):
        patched.setattr(Archive, "lines", away)
        await archive.rewrite([DOOMED], ALL)
    assert before == await archive.manifest(DAY)
    assert [] == await archive.verify(DAY)


def when_put(monkeypatch: pytest.MonkeyPatch, store: Store, ending: str, do: Callable[[], Awaitable[Any]], *, after: bool = False) -> None:
    """Do something once, before or after an object of an archive is stored."""
    put, done = type(store.core.blobs).put, list[str]()

    async def stored(self: Any, key: str, data: bytes) -> None:
        mine = key.startswith("archive/") and key.endswith(ending) and not done
        done.extend([key] * mine)
        if mine and not after:
            await do()
        await put(self, key, data)
        if mine and after:
            await do()

    monkeypatch.setattr(type(store.core.blobs), "put", stored)


@pytest.mark.parametrize(("ending", "after"), [(".gz", False), (".gz", True), ("manifest-000000.json", True)])
async def test_who_stores_longer_than_the_lease_lasts_keeps_nobody_who_was_erased_meanwhile(
    store: Store, clock: ManualClock, folder: Path, monkeypatch: pytest.MonkeyPatch, ending: str, after: bool
) -> None:
    await write_both(store)
    archive = Archive(store, about=ABOUT)

    async def erased() -> None:
        clock.advance(timedelta(milliseconds=archive_lock.LEASE_MS))
        await erase(store, DOOMED, policy=ALL, archive=archive)

    with monkeypatch.context() as patched, pytest.raises(Conflict, match="taken over"):
        when_put(patched, store, ending, erased, after=after)
        await archive.run(DAY)
    manifest = await archive.run(DAY)
    assert {} == found_in(folder)
    assert [] == await archive.verify(DAY)
    assert 12 == manifest.entities["Message"].records


@pytest.mark.parametrize("ending", [".gz", "manifest-000001.json"])
async def test_a_rewriting_that_was_overtaken_brings_nobody_back(
    store: Store, clock: ManualClock, folder: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    await write_both(store)
    archive = Archive(store, about=ABOUT)
    await archive.run(DAY)

    async def overtaken() -> None:
        clock.advance(timedelta(milliseconds=archive_lock.LEASE_MS))
        await archive.rewrite([DOOMED], ALL)

    with monkeypatch.context() as patched, pytest.raises(Conflict, match="taken over"):
        when_put(patched, store, ending, overtaken, after=True)
        await archive.rewrite([OTHER], ALL)
    await archive.rewrite([OTHER], ALL)
    assert [] == await archive.verify(DAY)
    assert [] == [row async for row in archive.records(DAY, User)]


async def test_who_was_overtaken_while_removing_a_day_leaves_what_others_stored(
    store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_both(store)
    archive = Archive(store, about=ABOUT)
    await archive.run(DAY)
    listed = type(store.core.blobs).list
    done: list[str] = []

    async def listing(self: Any, prefix: str = "") -> Any:
        async for info in listed(self, prefix):
            yield info
        if prefix == archive.folder(DAY) and not done:
            done.append(prefix)
            clock.advance(timedelta(milliseconds=archive_lock.LEASE_MS))
            await archive.rewrite([DOOMED], ALL)

    with monkeypatch.context() as patched, pytest.raises(Conflict, match="taken over"):
        patched.setattr(type(store.core.blobs), "list", listing)
        await archive.prune(DAY + timedelta(days=1))
    assert [] == await archive.verify(DAY)
    assert 1 == await archive.prune(DAY + timedelta(days=1))
    assert [] == [info.key async for info in store.core.blobs.list(archive.folder(DAY))]
