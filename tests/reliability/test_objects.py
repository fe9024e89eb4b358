"""Objects and the records that refer to them stay together, whoever writes, reads and collects meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.errors import Conflict, OutcomeUnknown, Unavailable
from palaver.store import Store
from tests.reliability.app import SCHEMA, Note, Owner
from tests.reliability.examine import Later, objects_agree

AT = Note.at(0, "o", "n")
LONG, OTHER = {"body": "a" * 200}, {"body": "b" * 300}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA, maintain=False) as store:
        await store.create(Owner(worker=0, name="o", handle="h"))
        await store.create(Note(worker=0, owner="o", note_id="n", payload=LONG))
        yield store


def first(holder: Any, name: str, meanwhile: Callable[[], Awaitable[object]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen right before the next call of a method."""
    method = getattr(holder, name)

    async def called(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(holder, name, method)
        await meanwhile()
        return await method(*args, **options)

    monkeypatch.setattr(holder, name, called)


async def test_collecting_spares_an_object_that_is_referred_to_again(store: Store) -> None:
    for payload in (OTHER, LONG):
        await store.patch(AT, set={"payload": payload})
    await store.settle()
    await store.sweep()
    assert LONG == (await store.get(AT)).payload
    await objects_agree(store, 0)


@pytest.mark.parametrize("again", ["patch", "create", "bulk"])
async def test_an_object_that_is_referred_to_again_while_it_is_collected_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    await (store.delete(AT) if again != "patch" else store.patch(AT, set={"payload": OTHER}))
    await store.settle()
    writing: list[asyncio.Task[Any]] = []

    async def refer() -> None:
        note = Note(worker=0, owner="o", note_id="n", payload=LONG)
        ways: dict[str, Callable[[], Any]] = {
            "patch": lambda: store.patch(AT, set={"payload": LONG}),
            "create": lambda: store.create(note),
            "bulk": lambda: store.bulk([note]),
        }
        writing.append(asyncio.ensure_future(ways[again]()))
        await asyncio.wait(writing, timeout=0.02)

    first(store.core.blobs, "delete", refer, monkeypatch)
    await store.sweep()
    await asyncio.gather(*writing)
    assert LONG == (await store.get(AT)).payload
    await store.settle()
    await objects_agree(store, 0)
    assert LONG == (await store.get(AT)).payload


@pytest.mark.parametrize("again", ["patch", "create", "bulk"])
async def test_an_object_that_is_collected_between_its_upload_and_the_commit_is_uploaded_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    await (store.delete(AT) if again != "patch" else store.patch(AT, set={"payload": OTHER}))
    await store.settle()
    first(store.core.records, "write", store.sweep, monkeypatch)
    if again == "patch":
        await store.patch(AT, set={"payload": LONG})
    else:
        note = Note(worker=0, owner="o", note_id="n", payload=LONG)
        await (store.create(note) if again == "create" else store.bulk([note]))
    assert LONG == (await store.get(AT)).payload


async def test_collecting_goes_on_where_a_killed_process_left_it(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.patch(AT, set={"payload": OTHER})
    await store.settle()

    async def killed() -> None:
        raise asyncio.CancelledError

    first(store.core.blobs, "delete", killed, monkeypatch)
    with pytest.raises(asyncio.CancelledError):
        await store.sweep()
    with pytest.raises(Conflict):
        await store.patch(AT, set={"payload": LONG})
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA, maintain=False, clock=Later(90)) as other:
        assert 1 == (await other.sweep()).objects
        await other.patch(AT, set={"payload": LONG})
        await other.settle()
        await objects_agree(other, 0)
        assert LONG == (await other.get(AT)).payload


async def test_a_job_another_process_works_on_is_left_to_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow one and a quick one at once: the slow one would remove what was uploaded after the quick one's end."""
    await store.patch(AT, set={"payload": OTHER})
    await store.settle()

    async def quick() -> None:
        assert 0 == (await store.sweep()).objects

    first(store.core.blobs, "delete", quick, monkeypatch)
    assert 1 == (await store.sweep()).objects


async def test_a_record_read_while_its_object_is_replaced_is_read_as_it_is_then(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def replace() -> None:
        await store.patch(AT, set={"payload": OTHER})
        await store.settle()
        await store.sweep()

    first(store.core.blobs, "get", replace, monkeypatch)
    assert OTHER == (await store.get(AT)).payload
    await store.patch(AT, set={"payload": LONG})
    first(store.core.blobs, "get", replace, monkeypatch)
    assert [OTHER] == [note.payload async for note in store.query(Note.key(0, "o"))]


async def test_a_record_deleted_while_it_is_read_is_not_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def remove() -> None:
        await store.delete(AT)
        await store.settle()
        await store.sweep()

    first(store.core.blobs, "get", remove, monkeypatch)
    assert await store.find(AT) is None
    await store.create(Note(worker=0, owner="o", note_id="n", payload=LONG))
    first(store.core.blobs, "get", remove, monkeypatch)
    assert [] == [note async for note in store.query(Note.key(0, "o"))]


async def test_a_write_whose_object_cannot_be_read_back_is_not_said_to_have_failed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unavailable means that nothing was written, and whoever hears it writes again."""

    async def fails() -> None:
        raise Unavailable

    first(store.core.blobs, "get", fails, monkeypatch)
    with pytest.raises(OutcomeUnknown):
        await store.patch(AT, add={"n": 1})
    assert 1 == (await store.get(AT)).n
