"""Archives: whole, once a day, resumable, verifiable, in constant memory; and within reach of an erasure."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from palaver.clock import ManualClock
from palaver.errors import Corruption, NotFound, Validation
from palaver.lifecycle.archive import Archive
from palaver.lifecycle.erase import erase
from palaver.lifecycle.parts import manifest_of
from palaver.lifecycle.personal import Policy
from palaver.store import Store
from tests.lifecycle.app import ENTITIES, Counter, Feedback, Message, User
from tests.lifecycle.people import DOOMED, OTHER, write_both

DAY = date(2026, 3, 10)


async def rows(archive: Archive, entity: Any, day: date = DAY) -> list[dict[str, Any]]:
    return [record async for record in archive.records(day, entity)]


async def test_every_live_record_is_archived_without_secrets(store: Store) -> None:
    await write_both(store)
    await store.put(User(user_id="s", email="s@s", token="topsecret"))
    archive = Archive(store)
    manifest = await archive.run(DAY)
    assert {entity.__name__ for entity in ENTITIES} == set(manifest.entities)
    for entity in ENTITIES:
        assert manifest.entities[entity.__name__].records == len(await rows(archive, entity))
    assert 24 == manifest.entities["Message"].records
    assert ["token"] == manifest.entities["User"].left_out
    assert "token" not in (await rows(archive, User))[0]
    assert [] == await archive.verify(DAY)


@pytest.mark.parametrize("given", [datetime(2026, 3, 10, tzinfo=UTC), "2026-03-10"])
async def test_what_is_no_day_is_refused_before_anything_is_written(store: Store, given: Any) -> None:
    await write_both(store)
    with pytest.raises(Validation, match="day"):
        await Archive(store).run(given)
    assert [] == [info.key async for info in store.core.blobs.list("archive/")]


async def test_parts_lie_under_their_day_and_read_with_any_tool(store: Store) -> None:
    await write_both(store)
    manifest = await Archive(store).run(DAY)
    (part,) = manifest.entities["Counter"].parts
    assert part.key.startswith("archive/2026/03/10/Counter-00000-")
    assert part.key.endswith(".jsonl.gz")
    assert [{"name": "visits", "n": 7}] == [json.loads(line) for line in gzip.decompress(await store.core.blobs.get(part.key)).splitlines()]


async def value_of(archive: Archive, named: Any) -> Any:
    return json.loads(b"".join([piece async for piece in archive.value(DAY, named)]))


async def test_large_values_stay_as_long_as_their_archive(store: Store, clock: ManualClock) -> None:
    """The records are over and their objects with them: what was archived is whole by itself."""
    await write_both(store)
    kept = (await store.get(Message.at(f"{DOOMED}-c0", "1"))).context
    archive = Archive(store)
    manifest = await archive.run(DAY)
    clock.advance(timedelta(days=400))
    while (await store.sweep()).total:
        await store.settle(5)
        clock.advance(timedelta(days=31))
    assert [] == (await store.page(Message.by_user(DOOMED))).items
    assert [] == await archive.verify(DAY)
    found = [row["context"] for row in await rows(archive, Message) if row["context"]]
    assert found
    assert {f"objects/{digest}" for part in manifest.entities["Message"].parts for digest in part.objects} == {
        each["$object"] for each in found
    }
    assert kept in [await value_of(archive, each) for each in found]


async def test_an_erased_persons_large_values_leave_the_archive(store: Store) -> None:
    await write_both(store)
    archive = Archive(store, about={Feedback: ("owner_id",)})
    before = await archive.run(DAY)
    await erase(store, DOOMED, archive=archive)
    after = await archive.manifest(DAY)
    assert after is not None
    gone, left = ({d for part in each.entities["Message"].parts for d in part.objects} for each in (before, after))
    stored = {info.key.rpartition("/")[2] async for info in store.core.blobs.list(archive.folder(DAY) + "objects/")}
    assert left
    assert left < gone
    assert left == stored


async def test_a_value_that_is_damaged_in_an_archive_is_found(store: Store) -> None:
    await write_both(store)
    archive = Archive(store)
    manifest = await archive.run(DAY)
    digest = manifest.entities["Message"].parts[0].objects[0]
    await store.core.blobs.delete([f"{archive.folder(DAY)}objects/{digest}"])
    assert ["part 0 of Message: not_found"] == await archive.verify(DAY)


async def test_a_record_deleted_with_its_object_while_it_is_archived_is_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await write_both(store)
    at = Message.at(f"{DOOMED}-c0", "1")
    address = store.core.planner.address(at, None)
    (key,) = store.core.planner.codec(Message).references((await store.core.records.get((address,)))[0] or {})
    scan = store.core.records.scan

    async def late(table: str, **options: Any) -> Any:
        page = await scan(table, **options)
        if table == "messages" and await store.find(at) is not None:
            await store.delete(at)
            await store.core.blobs.delete([key])
        return page

    monkeypatch.setattr(store.core.records, "scan", late)
    archive = Archive(store)
    await archive.run(DAY)
    assert 23 == len(await rows(archive, Message))
    assert [] == await archive.verify(DAY)


async def test_an_object_that_is_missing_is_damage_and_no_gap_in_the_archive(store: Store) -> None:
    await write_both(store)
    address = store.core.planner.address(Message.at(f"{DOOMED}-c0", "1"), None)
    (key,) = store.core.planner.codec(Message).references((await store.core.records.get((address,)))[0] or {})
    await store.core.blobs.delete([key])
    with pytest.raises(Corruption):
        await Archive(store).run(DAY)
    assert await Archive(store).manifest(DAY) is None


async def test_a_day_is_archived_once(store: Store) -> None:
    await write_both(store)
    archive = Archive(store)
    first = await archive.run(DAY)
    keys = [info.key async for info in store.core.blobs.list("archive/")]
    await store.put(Counter(name="later"))
    assert first == await archive.run(DAY)
    assert keys == [info.key async for info in store.core.blobs.list("archive/")]
    assert 1 == len(await rows(archive, Counter))
    assert 2 == (await archive.run(DAY + timedelta(days=1))).entities["Counter"].records


async def test_a_cut_off_archive_goes_on_where_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.bulk(Counter(name=f"c{number:04d}", n=number) for number in range(2_600))
    archive = Archive(store, part_bytes=10_000)
    put = store.core.blobs.put
    written: list[str] = []

    async def failing(key: str, data: bytes) -> None:
        if len(written) == 5:
            raise RuntimeError("power cut")
        await put(key, data)
        written.append(key)

    with monkeypatch.context() as patched:
        patched.setattr(store.core.blobs, "put", failing)
        with pytest.raises(RuntimeError):
            await archive.run(DAY, [Counter])
    assert await archive.manifest(DAY) is None
    assert ["the archive has no manifest: it is missing, or not finished"] == await archive.verify(DAY)
    manifest = await archive.run(DAY, [Counter])
    assert set(range(2_600)) == {row["n"] for row in await rows(archive, Counter)}
    assert 2_600 == manifest.records
    assert written[0] == manifest.entities["Counter"].parts[0].key
    assert [] == await archive.verify(DAY)


async def test_nothing_a_manifest_does_not_name_stays(store: Store) -> None:
    await write_both(store)
    archive = Archive(store)
    await store.core.blobs.put("archive/2026/03/10/Counter-00007-dead.jsonl.gz", b"left by a crash")
    lost = sha256(b"left by a crash").hexdigest()
    await store.core.blobs.put(f"archive/2026/03/10/objects/{lost}", b"left by a crash")
    manifest = await archive.run(DAY)
    listed = {info.key async for info in store.core.blobs.list("archive/2026/03/10/")}
    parts = [part for archived in manifest.entities.values() for part in archived.parts]
    objects = {f"archive/2026/03/10/objects/{digest}" for part in parts for digest in part.objects}
    assert {*(part.key for part in parts), *(part.note for part in parts), *objects, "archive/2026/03/10/manifest-000000.json"} == listed


async def test_damage_is_found(store: Store) -> None:
    await write_both(store)
    archive = Archive(store)
    manifest = await archive.run(DAY)
    (part,) = manifest.entities["Counter"].parts
    await store.core.blobs.put(part.key, gzip.compress(b'{"name":"visits","n":8}\n'))
    assert ["part 0 of Counter: corruption"] == await archive.verify(DAY)
    with pytest.raises(Corruption):
        await rows(archive, Counter)
    await store.core.blobs.delete([part.key])
    assert ["part 0 of Counter: not_found"] == await archive.verify(DAY)


async def test_erasing_rewrites_only_parts_that_name_the_person(store: Store) -> None:
    await write_both(store)
    archive = Archive(store, about={Feedback: ("owner_id",)})
    before = await archive.run(DAY)
    await erase(store, DOOMED, archive=archive)
    after = await archive.manifest(DAY)
    assert after is not None
    assert 1 == after.generation
    assert before.entities["Counter"] == after.entities["Counter"]
    assert before.entities["User"].records - 1 == after.entities["User"].records
    assert [OTHER] == [row["user_id"] for row in await rows(archive, User)]
    assert 12 == len(await rows(archive, Message))
    assert [] == await archive.verify(DAY)


async def test_an_archive_of_a_person_alone_ends_with_no_part(store: Store) -> None:
    await store.create(User(user_id=DOOMED, email="x"))
    archive = Archive(store)
    await archive.run(DAY)
    assert 1 == await archive.count([DOOMED], Policy())
    await erase(store, DOOMED, archive=archive)
    assert [] == await rows(archive, User)
    assert [] == await archive.verify(DAY)


async def test_expired_records_are_not_archived(store: Store, clock: ManualClock) -> None:
    await write_both(store)
    clock.advance(timedelta(days=400))
    manifest = await Archive(store).run(DAY)
    assert 0 == manifest.entities["Message"].records


async def test_old_days_are_pruned(store: Store) -> None:
    archive = Archive(store)
    await store.put(Counter(name="x"))
    for number in range(5):
        await archive.run(DAY + timedelta(days=number))
    assert 3 == await archive.prune(DAY + timedelta(days=3))
    assert [DAY + timedelta(days=3), DAY + timedelta(days=4)] == await archive.days()
    with pytest.raises(NotFound):
        await rows(archive, Counter)


def test_a_manifest_of_a_later_format_is_refused() -> None:
    with pytest.raises(Corruption):
        manifest_of({"format": 99})


async def test_archiving_takes_constant_memory(opened: Any, stack: str, folder: Path) -> None:
    if stack == "memory":
        pytest.skip("the memory engine holds the records themselves")
    store = await opened()
    peaks = []
    for day, total in ((DAY, 2_000), (DAY + timedelta(days=1), 12_000)):
        await store.bulk(Counter(name=f"{'x' * 100}{number:06d}", n=number) for number in range(total))
        tracemalloc.start()
        await Archive(store, part_bytes=200_000).run(day, [Counter])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    print(f"peak of 2,000 records: {peaks[0]:,} bytes; of 12,000: {peaks[1]:,}")
    assert peaks[1] < peaks[0] + 1_000_000
