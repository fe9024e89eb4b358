"""What the store promises of records that are there and yet do not exist, and of cursors, in the shortest possible words."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest

import palaver
from palaver.batch import Batch
from palaver.clock import ManualClock, days
from palaver.entity import Entity
from palaver.errors import BadCursor, PalaverError
from palaver.keys import Key
from palaver.markers import Expires, Expiry
from palaver.schema import Schema
from palaver.store import Store
from tests.reliability.app import SCHEMA, Left, Note, Owner


class Short(Entity, table="shorts"):
    day: str
    number: int
    expires: Annotated[Expiry | None, Expires(after=days(1))] = None
    key = Key("day", sort="number")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=SCHEMA, maintain=False) as store:
        yield store


async def exists(store: Store, at: Any, query: Any) -> list[bool]:
    """Ask every verb that could tell whether a record exists."""
    found = [await store.find(at) is not None, bool([one async for one in store.query(query)])]
    found += [bool((await store.page(query)).items), bool(await store.count(query))]
    try:
        await store.write(Batch().check(at))
        return [*found, True]
    except PalaverError:
        return [*found, False]


async def test_an_expired_record_exists_for_no_verb(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with palaver.open(f"sqlite:///{tmp_path}/b.db", schema=Schema("s", [Short]), maintain=False, clock=clock) as store:
        short = await store.create(Short(day="d", number=1))
        assert [True] * 5 == await exists(store, short.address, Short.key("d"))
        clock.advance(days(2))
        assert [False] * 5 == await exists(store, short.address, Short.key("d"))
        assert 1 == (await store.sweep()).total


async def test_a_record_being_deleted_exists_for_no_verb(store: Store) -> None:
    owner = await store.create(Owner(worker=0, name="o", handle="h"))
    await store.create(Note(worker=0, owner="o", note_id="n"))
    await store.delete(owner)
    assert [False] * 5 == await exists(store, owner.address, Owner.key(0))
    with pytest.raises(PalaverError):
        await store.create(Note(worker=0, owner="o", note_id="late"))
    await store.sweep()
    assert [] == [note async for note in store.query(Note.key(0, "o"))]


async def test_a_cursor_that_was_changed_is_refused(store: Store) -> None:
    for number in range(10):
        await store.create(Left(worker=1, number=number))
    cursor = (await store.page(Left.key(1), limit=3)).cursor
    assert cursor is not None
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    for place in range(len(raw)):
        changed = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        with pytest.raises(BadCursor):
            await store.page(Left.key(1), limit=3, cursor=base64.urlsafe_b64encode(changed).decode().rstrip("="))
    assert [3, 4, 5] == [left.number for left in await store.page(Left.key(1), limit=3, cursor=cursor)]
