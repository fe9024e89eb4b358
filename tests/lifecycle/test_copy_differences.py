"""A copy into what is there, and how two stores are told apart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.clock import ManualClock
from palaver.errors import Conflict, Duplicate
from palaver.lifecycle.copy import Watch
from palaver.lifecycle.copy_clashes import Clash
from palaver.lifecycle.copy_ends import INTO
from palaver.lifecycle.copy_verify import Verified, verify
from palaver.ops import REVISION, Address
from palaver.store import Store
from tests.lifecycle.app import Conversation, Note, User
from tests.lifecycle.copying import BASE, Two, credentials, dump, files, message_of, stack, two

__all__ = ["credentials", "files", "stack", "two"]


# --- into what is there -----------------------------------------------------------------------------------------------


async def test_into_existing_keeps_what_is_newer_and_removes_nothing(two: Two) -> None:
    clock = ManualClock(two.source.core.clock.now())
    clock.advance(palaver.clock.days(1))
    two.target.core.clock = clock
    target = Store(two.target.core)
    await target.create(Note(note_id="u1-2", user_id="u", text="newer here"))
    await target.create(Note(note_id="mine", user_id="u", text="only here"))
    await two.target.core.blobs.put("only/here", b"1")
    await two.store.delete(Note.at("u1-5"))
    report = await two.copy(into_existing=True)
    assert report.finished
    assert ["newer here", "only here", "n"] == [(await target.get(Note.at(name))).text for name in ("u1-2", "mine", "u1-1")]
    assert b"1" == await two.target.core.blobs.get("only/here")
    assert 2 <= (await target.search("talk", "dortmund")).total
    found = await verify(two.source, two.target)
    notes = next(row for row in found.tables if row.entity == "Note")
    assert (0, 1, 1) == (notes.missing, notes.different, notes.extra)


async def test_unique_values_that_clash_are_named_before_anything_is_written(two: Two) -> None:
    target = Store(two.target.core)
    users = [user for n in range(30) if (user := await two.store.find(User.at(f"u1-{n}"))) is not None]
    for n in range(2):
        await target.create(User(user_id=f"there {n}", email=users[n].email, name="x"))
    # The same record on both sides is no clash, nor is a value its holder in the source gave up since.
    await target.create(User(user_id=users[2].user_id, email=users[2].email))
    before = await dump(two.target)
    named: list[Clash] = []

    class Told(Watch):
        def clash(self, clash: Clash) -> None:
            named.append(clash)

    with pytest.raises(Conflict, match=r"User\.by_email \(email\): 2\. Nothing was copied") as refused:
        await two.copy(into_existing=True, watch=Told())
    assert not any(user.email in f"{refused.value.message} {refused.value.hint}" for user in users)
    assert {((users[n].user_id,), (f"there {n}",)) for n in range(2)} == {(each.source, each.target) for each in named}
    assert before == await dump(two.target)
    assert (None,) == tuple(await two.target.records.get((INTO,)))

    for n in range(2):
        await target.delete(User.at(f"there {n}"))
    assert (await two.copy(into_existing=True)).finished
    with pytest.raises(Duplicate):
        await target.create(User(user_id="another", email=users[0].email))


async def test_a_value_whose_holder_here_is_newer_and_gave_it_up_is_no_clash(two: Two) -> None:
    clock = ManualClock(two.source.core.clock.now())
    clock.advance(palaver.clock.days(1))
    two.target.core.clock = clock
    target = Store(two.target.core)
    users = [user for n in range(30) if (user := await two.store.find(User.at(f"u1-{n}"))) is not None]
    # Here the first has another address by now, and somebody else the one it has there.
    await target.create(User(user_id=users[0].user_id, email="moved@example.org"))
    await target.create(User(user_id="heir", email=users[0].email))
    assert (await two.copy(into_existing=True)).finished
    with pytest.raises(Duplicate):
        await target.create(User(user_id="another", email=users[0].email))
    await target.delete(User.at("heir"))
    await target.create(User(user_id="next", email=users[0].email))


async def test_a_clash_that_writers_made_meanwhile_ends_it_unfinished(files: Two) -> None:
    await Store(files.target.core).create(User(user_id="there", email="late@example.org"))

    class Late(Watch):
        made = False

        def lag(self, positions: int, seconds: float) -> None:
            if not self.made:
                self.made = True
                tasks.append(asyncio.create_task(files.store.create(User(user_id="late", email="late@example.org"))))
            elif not positions and tasks[0].done():
                stop.set()

    tasks: list[asyncio.Task[User]] = []
    stop = asyncio.Event()
    await files.copy(into_existing=True, watch=Late(), follow=True, stop=stop)
    with pytest.raises(Conflict, match=r"While this was copied.*User\.by_email: 1") as refused:
        await files.copy(into_existing=True)
    assert "at the source" in refused.value.hint
    await files.store.delete(User.at("late"))
    assert (await files.copy(into_existing=True)).finished


# --- telling differences ----------------------------------------------------------------------------------------------


async def _verified(two: Two) -> Verified:
    return await verify(two.source, two.target)


async def test_every_kind_of_difference_is_counted_and_named(two: Two) -> None:
    await two.copy()
    engine: Any = two.target.records
    note = (await engine.get((Address("notes", ("u1-1",)),)))[0]
    await engine.restore("notes", [{**note, REVISION: note[REVISION] + 1}, {**note, "note_id": "extra"}], gone=[("u1-2",)])
    key = sorted([info.key async for info in two.target.core.blobs.list()])[3]
    await two.target.core.blobs.delete([key])
    await two.target.core.blobs.put("a/b", b"extra")
    named: list[tuple[str, str, str]] = []
    found = await verify(two.source, two.target, found=lambda each: named.append((each.table, str(each.key[0]), each.kind)))
    assert not found.same
    notes = next(row for row in found.tables if row.entity == "Note")
    assert (1, 1, 1) == (notes.missing, notes.different, notes.extra)
    assert (1, 0, 1) == (found.objects.missing, found.objects.different, found.objects.extra)
    assert {
        ("notes", "u1-1", "different"),
        ("notes", "u1-2", "missing"),
        ("notes", "extra", "extra"),
        ("(objects)", key, "missing"),
        ("(objects)", "a/b", "extra"),
    } == set(named)
    assert all(row.same for row in found.tables if row.entity != "Note")


async def test_an_object_with_other_bytes_is_different(files: Two, tmp_path: Path) -> None:
    await files.copy()
    file = next(path for path in sorted((tmp_path / "b.db.blobs").rglob("*")) if path.is_file())
    data = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert 1 == (await _verified(files)).objects.different


async def test_a_swap_of_two_values_is_a_difference(two: Two) -> None:
    await two.copy()
    engine: Any = two.target.records
    one, other = await engine.get((Address("notes", ("u1-1",)), Address("notes", ("u1-2",))))
    await engine.restore("notes", [{**one, "user_id": other["user_id"]}, {**other, "user_id": one["user_id"]}])
    notes = next(row for row in (await _verified(two)).tables if row.entity == "Note")
    assert 2 == notes.different


async def test_the_conversations_of_a_pending_cascade_go_in_the_target(files: Two) -> None:
    hidden = [n for n in range(30) if await files.store.find(Conversation.at(f"u1-{n}", f"c u1-{n}")) is None]
    assert hidden
    await files.copy()
    store = Store(files.target.core)
    await store.sweep()
    rows = (await dump(files.target))["conversations"]
    assert not {(f"u1-{n}", f"c u1-{n}") for n in hidden} & set(rows)
    assert await store.find(message_of(f"u1-{hidden[0]}", BASE + (1_000 + hidden[0]) * 10).address) is None
