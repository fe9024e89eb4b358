"""Large objects: staged, stored in pieces with their record, read in pieces, and gone with it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

import palaver
from palaver import Batch, Blob, Entity, History, Key, LargeObject, Schema, Store, Subject, Tenant, open_sync
from palaver.errors import (
    AlreadyExists,
    Corruption,
    IdempotencyMismatch,
    NotFound,
    SchemaError,
    StorageFull,
    Validation,
)
from palaver.large_object import Source
from palaver.lifecycle.encoding import json_record

MB = 1024 * 1024
PIECES = [bytes([number]) * MB for number in range(20)]
WHOLE = b"".join(PIECES)


class Recording(Entity, table="recordings"):
    id: str
    owner: Annotated[str, Subject()] = "o"
    title: str = ""
    audio: Annotated[LargeObject | None, Blob("recordings/{id}/{title}")] = None
    key = Key("id")


class Call(Entity, table="calls"):
    tenant: Annotated[str, Tenant()]
    id: str
    audio: Annotated[LargeObject, Blob("calls/{id}")]
    history = History(timedelta(days=35))
    key = Key("id")


SCHEMA = Schema("recordings", [Recording])
CALLS = Schema("calls", [Call])


async def given() -> AsyncIterator[bytes]:
    for piece in PIECES:
        yield piece


async def read(store: Store, value: LargeObject | None, start: int = 0, length: int | None = None) -> bytes:
    assert value is not None
    return b"".join([piece async for piece in store.stream(value, start=start, length=length)])


def objects(folder: Path) -> list[Path]:
    return [path for path in (folder / "a.db.blobs").rglob("*") if path.is_file()]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA, maintain=False) as opened:
        yield opened


async def test_a_large_object_goes_in_and_out_in_pieces(store: Store, tmp_path: Path) -> None:
    async with LargeObject.staged(given()) as audio:
        made = await store.create(Recording(id="1", audio=audio))
    assert (len(WHOLE), hashlib.sha256(WHOLE).hexdigest()) == (audio.size, audio.sha256)
    for found in (made, await store.get(Recording.at("1")), (await store.page(Recording.key("1"))).items[0]):
        assert audio == found.audio
        assert WHOLE == await read(store, found.audio)
        assert WHOLE[MB - 1 : 9 * MB] == await read(store, found.audio, MB - 1, 8 * MB + 1)
    assert 1 == len(objects(tmp_path))


def a_file(folder: Path) -> Path:
    (folder / "given").write_bytes(WHOLE)
    return folder / "given"


@pytest.mark.parametrize("source", ["path", "file", "iterable", "bytes in a list"])
async def test_whatever_gives_bytes_can_be_staged(store: Store, tmp_path: Path, source: str) -> None:
    made: Any = {"path": a_file(tmp_path), "file": io.BytesIO(WHOLE), "iterable": iter(PIECES), "bytes in a list": [WHOLE]}[source]
    async with LargeObject.staged(made) as audio:
        await store.create(Recording(id="1", audio=audio))
    assert WHOLE == await read(store, (await store.get(Recording.at("1"))).audio)


def test_without_async(tmp_path: Path) -> None:
    with open_sync(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA) as store:
        with LargeObject.staged(a_file(tmp_path)) as audio:
            store.create(Recording(id="1", audio=audio))
        found = store.get(Recording.at("1")).audio
        assert found is not None
        assert WHOLE == b"".join(store.stream(found))
        assert WHOLE[5:9] == b"".join(store.stream(found, start=5, length=4))
        with pytest.raises(Validation, match="asynchronous"), LargeObject.staged(given()):
            pass


async def test_nothing_at_all_is_an_object_too(store: Store) -> None:
    async with LargeObject.staged([]) as audio:
        await store.create(Recording(id="1", audio=audio))
    found = await store.get(Recording.at("1"))
    assert found.audio == audio
    assert b"" == await read(store, found.audio)


async def test_a_record_keeps_its_object_when_it_is_changed_or_put_back(store: Store, tmp_path: Path) -> None:
    async with LargeObject.staged([b"first"]) as audio:
        await store.create(Recording(id="1", audio=audio))
    await store.patch(Recording.at("1"), set={"title": "new"})
    found = await store.get(Recording.at("1"))
    await store.put(found.model_copy(update={"title": "newer"}))
    found = await store.get(Recording.at("1"))
    assert ("newer", b"first") == (found.title, await read(store, found.audio))
    async with LargeObject.staged([b"second"]) as other:
        patched = await store.patch(Recording.at("1"), set={"audio": other})
    assert b"second" == await read(store, patched.audio)
    await store.settle()
    await store.sweep()
    assert [b"second"] == [path.read_bytes() for path in objects(tmp_path)]
    with pytest.raises(NotFound, match="read it again"):
        await read(store, found.audio)
    await store.delete(Recording.at("1"))
    await store.settle()
    await store.sweep()
    assert [] == objects(tmp_path)


async def test_an_object_of_one_record_is_never_referred_to_by_another(store: Store) -> None:
    async with LargeObject.staged([b"mine"]) as audio:
        first = await store.create(Recording(id="1", audio=audio))
    for attempt in (
        lambda: store.create(Recording(id="2", audio=first.audio)),
        lambda: store.put(Recording(id="2", audio=first.audio)),
        lambda: store.bulk([Recording(id="2", audio=first.audio)]),
    ):
        with pytest.raises(Validation, match="does not hold"):
            await attempt()
    await store.create(Recording(id="2"))
    with pytest.raises(Validation, match="does not hold"):
        await store.patch(Recording.at("2"), set={"audio": first.audio})
    await store.delete(Recording.at("1"))
    with pytest.raises(Validation, match="does not hold"):
        await store.create(first)  # its object is gone, or about to go
    assert first.audio is not None
    async with LargeObject.staged([b"mine"]) as again:
        await store.patch(Recording.at("2"), set={"audio": again})
    async with LargeObject.staged(store.stream((await store.get(Recording.at("2"))).audio)) as copied:  # type: ignore[arg-type]
        await store.create(Recording(id="3", audio=copied))
    assert b"mine" == await read(store, (await store.get(Recording.at("3"))).audio)


async def test_a_load_takes_large_objects(store: Store) -> None:
    async with LargeObject.staged([b"a"]) as a, LargeObject.staged([b"b"]) as b:
        assert 2 == await store.bulk([Recording(id="1", audio=a), Recording(id="2", audio=b)])
    assert [b"a", b"b"] == [await read(store, (await store.get(Recording.at(id))).audio) for id in ("1", "2")]


async def test_what_is_staged_ends_with_its_block(store: Store, tmp_path: Path) -> None:
    async with LargeObject.staged([b"x"]) as audio:
        with pytest.raises(Validation, match="only staged"):
            await read(store, audio)
    with pytest.raises(Validation, match="inside its `with` block"):
        await store.create(Recording(id="1", audio=audio))
    assert await store.find(Recording.at("1")) is None
    assert [] == objects(tmp_path)


async def test_a_write_that_is_refused_or_cancelled_leaves_the_record_as_it_was(store: Store, tmp_path: Path) -> None:
    await store.create(Recording(id="1"))
    async with LargeObject.staged(given()) as audio:
        with pytest.raises(AlreadyExists):
            await store.create(Recording(id="1", audio=audio))
        writing = asyncio.create_task(store.patch(Recording.at("1"), set={"audio": audio}))
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert (await store.get(Recording.at("1"))).audio is None
        await store.patch(Recording.at("1"), set={"audio": audio})
    assert WHOLE == await read(store, (await store.get(Recording.at("1"))).audio)


async def test_a_file_that_changes_while_it_is_stored_is_refused(store: Store, tmp_path: Path) -> None:
    file = a_file(tmp_path)
    async with LargeObject.staged(file) as audio:
        file.write_bytes(WHOLE[:-1] + b"?")
        with pytest.raises(Validation):
            await store.create(Recording(id="1", audio=audio))
    assert await store.find(Recording.at("1")) is None


async def test_a_damaged_object_is_corruption(store: Store, tmp_path: Path) -> None:
    async with LargeObject.staged(given()) as audio:
        made = await store.create(Recording(id="1", audio=audio))
    (file,) = objects(tmp_path)
    file.write_bytes(WHOLE[:-1] + b"?")
    with pytest.raises(Corruption):
        await read(store, made.audio)


async def test_a_reader_that_stops_leaves_nothing_open(store: Store) -> None:
    async with LargeObject.staged(given()) as audio:
        made = await store.create(Recording(id="1", audio=audio))
    assert made.audio is not None
    before = len(os.listdir("/proc/self/fd"))
    stream = store.stream(made.audio)
    async with aclosing(stream):
        assert await anext(stream)
        assert before < len(os.listdir("/proc/self/fd"))
    # At once: who closes its stream and then the store must not depend on when memory is tidied.
    assert before == len(os.listdir("/proc/self/fd"))


async def test_a_cancelled_staging_closes_no_file_that_is_being_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file could get its number meanwhile, and the bytes."""
    writes, go_on, wrote = threading.Event(), threading.Event(), threading.Event()
    happened: list[str] = []

    class Slow(io.BytesIO):
        def write(self, data: Any) -> int:
            writes.set()
            go_on.wait(10)
            happened.append("written")
            wrote.set()
            return len(data)

        def close(self) -> None:
            happened.append("closed")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Slow())

    async def stage() -> None:
        async with LargeObject.staged(given()):
            raise AssertionError

    staging = asyncio.create_task(stage())
    assert await asyncio.to_thread(writes.wait, 10)
    staging.cancel()
    threading.Timer(0.2, go_on.set).start()
    with pytest.raises(asyncio.CancelledError):
        await staging
    assert await asyncio.to_thread(wrote.wait, 10)
    assert ["written", "closed"] == happened[:2]


async def test_a_repeated_request_is_known_by_its_bytes(store: Store) -> None:
    for _ in range(2):
        async with LargeObject.staged([b"once"]) as audio:
            made = await store.create(Recording(id="1", audio=audio), token="t")
            assert b"once" == await read(store, made.audio)
    with pytest.raises(IdempotencyMismatch):
        async with LargeObject.staged([b"twice"]) as audio:
            await store.create(Recording(id="1", audio=audio), token="t")


async def test_tenants_do_not_reach_each_others_objects(tmp_path: Path) -> None:
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=CALLS, maintain=False) as store:
        mine, other = store.for_tenant("a"), store.for_tenant("a/b")
        async with LargeObject.staged([b"mine"]) as audio:
            made = await mine.create(Call(tenant="a", id="1", audio=audio))
        assert b"mine" == await read(mine, made.audio)
        for stranger in (other, store):
            with pytest.raises(Validation, match="another tenant"):
                await read(stranger, made.audio)
        with pytest.raises(Validation, match="does not hold"):
            await other.create(Call(tenant="a/b", id="1", audio=made.audio))


def test_no_value_from_outside_becomes_a_reference() -> None:
    for given_one in ({"size": 1, "sha256": "0" * 64}, {"$blob": "-/o/x", "size": 1, "codec": "bytes"}, "-/o/x", b"x"):
        with pytest.raises(ValidationError):
            Recording(id="1", audio=given_one)  # type: ignore[arg-type]


async def test_what_is_shown_of_it_names_nobody(store: Store) -> None:
    async with LargeObject.staged([b"secret"]) as audio:
        made = await store.create(Recording(id="1", owner="canary", audio=audio))
    shown = [repr(made.audio), made.model_dump_json(), json.dumps(TypeAdapter(Recording).json_schema(mode="serialization"))]
    assert not [text for text in shown if "canary" in text and text != shown[1]]
    assert {"size": 6, "sha256": audio.sha256} == json.loads(shown[1])["audio"]
    assert 6 == json_record(Recording.declared(), made)["audio"]["bytes"]


def test_a_large_object_needs_a_path() -> None:
    with pytest.raises(SchemaError, match="object by itself"):

        class Bare(Entity, table="bare"):
            id: str
            audio: LargeObject
            key = Key("id")


async def test_a_source_that_fails_goes_through_and_leaves_no_file_open() -> None:
    before = len(os.listdir("/proc/self/fd"))

    def breaking() -> Iterator[bytes]:
        yield b"x"
        raise KeyError("the caller's")

    for source in (breaking(), Path("/nowhere/at/all")):
        with pytest.raises((KeyError, FileNotFoundError)):
            async with LargeObject.staged(source):
                pass
    assert before == len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("source", [[b"x"], given()], ids=["plain", "asynchronous"])
async def test_no_room_to_stage_is_storage_full(monkeypatch: pytest.MonkeyPatch, source: Source) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115
    with pytest.raises(StorageFull):
        async with LargeObject.staged(source):
            pass


async def test_two_records_of_one_batch_share_what_was_staged(store: Store, tmp_path: Path) -> None:
    async with LargeObject.staged(given()) as audio:
        await store.write(Batch().create(Recording(id="1", audio=audio)).create(Recording(id="2", audio=audio)))
    assert 2 == len(objects(tmp_path))
    for id in ("1", "2"):
        assert WHOLE == await read(store, (await store.get(Recording.at(id))).audio)
