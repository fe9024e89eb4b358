"""A copy whose source is lost: what the target has is said, made whole as far as records tell, and opened."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.errors import ConfigError, Conflict, Duplicate, NotProvisioned, PalaverError, Unavailable
from palaver.lifecycle import copy_follow, copy_pace
from palaver.lifecycle.copy import Copy, Watch
from palaver.lifecycle.copy_ends import End, identity
from palaver.lifecycle.copy_promote import Promoted, in_words, promote
from palaver.lifecycle.erase import erase
from palaver.ops import MARK, REVISION, Address, ChangePage
from palaver.store import Store
from palaver.testing.faulty import Faults, Faulty
from tests.lifecycle.app import SCHEMA, Conversation, Message, Note, User
from tests.lifecycle.copying import BASE, Two, credentials, dump, files, fill, message_of, opened, sqlite, stack, two

__all__ = ["credentials", "files", "stack", "two"]


class Lost(Exception):
    """What ends a copy in the tests: its process, with the source."""


async def followed(two: Two, then: Any) -> None:
    """Copy, follow, do something at the source, and lose the source once it has arrived."""
    stop, did = asyncio.Event(), False

    class Once(Watch):
        def lag(self, positions: int, seconds: float) -> None:
            nonlocal did
            if not positions and not did:
                did = True
                task = asyncio.get_running_loop().create_task(then())
                task.add_done_callback(lambda task: two.done.append(task.result()))  # type: ignore[attr-defined]
            elif not positions and two.done:  # type: ignore[attr-defined]
                stop.set()

    two.done = []  # type: ignore[attr-defined]
    report = await Copy(two.source, two.target, watch=Once()).run(follow=True, stop=stop)
    assert not report.finished


async def promoted(two: Two, **options: Any) -> Promoted:
    return await promote(two.target, two.source.name, **options)


async def test_what_was_followed_is_there_whole_and_the_target_is_a_store_that_goes_on(two: Two) -> None:
    async def live() -> None:
        await two.store.create(User(user_id="late", email="late@example.org", name="n"))
        await two.store.create(Conversation(user_id="late", conversation_id="c late", title="t"))
        await two.store.create(message_of("late", BASE + 9_999, {"text": "x" * 4_000}))
        await two.store.delete(Note.at("u1-3"))

    await followed(two, live)
    before = await dump(two.source)
    report = await promoted(two)
    assert (0, 0, {}) == (report.behind, report.objects_missing, report.shared_values)
    assert report.whole_to_ms is not None
    assert report.whole_to_ms >= report.others_to_ms > 0
    after = await dump(two.target)
    kept = [name for name in before if not name.endswith("-history") and name != "palaver_system"]
    assert {name: before[name] for name in kept if name != "objects"} == {name: after[name] for name in kept if name != "objects"}
    assert set(before["objects"]) <= set(after["objects"])

    target = Store(two.target.core)
    with pytest.raises(Duplicate):
        await target.create(User(user_id="other", email="late@example.org", name="n"))
    assert "x" * 4_000 == (await target.get(Message.at("c late", str(BASE + 9_999)))).context["text"]  # type: ignore[index]
    await target.settle(20)
    assert (await target.search("talk", str(BASE + 9_999))).total == 1
    head = (await two.target.records.changes(None, 0)).head
    await target.create(Note(note_id="new", user_id="u", text="t"))
    (change,) = (await two.target.records.changes(head, 10)).changes
    assert change.position > 10**9


async def test_a_promoted_target_opens_and_is_no_target_any_more(tmp_path: Path, stack: AsyncExitStack) -> None:
    async with AsyncExitStack() as ends:
        two = Two(
            await ends.enter_async_context(opened(sqlite(tmp_path, "a"))), await ends.enter_async_context(opened(sqlite(tmp_path, "b")))
        )
        await fill(two.store, 5)

        async def nothing() -> None:
            return

        await followed(two, nothing)
        with pytest.raises(NotProvisioned, match="has not ended") as refused:
            await palaver.open(sqlite(tmp_path, "b"), schema=SCHEMA)
        assert "--promote" in refused.value.hint
        await promoted(two)
        for again in (promoted(two), two.copy()):
            with pytest.raises(Conflict, match="database of its own"):
                await again
    async with palaver.open(sqlite(tmp_path, "b"), schema=SCHEMA) as store:
        await store.create(Note(note_id="new", user_id="u", text="t"))


async def test_a_first_pass_that_never_ended_takes_a_name_for_each_loss(two: Two) -> None:
    seen = 0

    class Breaks(Watch):
        def records(self, table: str, count: int) -> None:
            nonlocal seen
            seen += count
            if seen > 60:
                raise Lost

    with pytest.raises(Lost):
        await Copy(two.source, two.target, watch=Breaks()).run()
    before = await dump(two.target)
    with pytest.raises(Conflict, match="unknown number of records of ") as refused:
        await promoted(two)
    names = re.findall(r"--allow-data-loss (\w+)", refused.value.hint)
    assert names
    with pytest.raises(Conflict):
        await promoted(two, allow=names[1:])
    with pytest.raises(ConfigError, match="Nothing of Nobody"):
        await promoted(two, allow=[*names, "Nobody"])
    assert before == await dump(two.target)
    report = await promoted(two, allow=names)
    assert (None, tuple(names)) == (report.whole_to_ms, report.incomplete)
    assert any(line == f"missing: records of {names[0]}, nobody knows how many" for line in in_words(report))
    await Store(two.target.core).create(Note(note_id="new", user_id="u", text="t"))


async def test_how_far_ahead_the_source_was_when_it_was_last_heard_of_is_told(files: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing() -> None:
        return

    await followed(files, nothing)
    for n in range(3):
        await files.store.create(Note(note_id=f"late {n}", user_id="u", text="t"))

    class Chunk(int):
        """What a follower asks for; others ask for one change as well."""

    class Goes(Faulty):
        left = 1

        async def changes(self, after: int | None, limit: int) -> ChangePage:
            if isinstance(limit, Chunk):
                self.left -= 1
                if self.left < 0:
                    raise Lost
            return await super().changes(after, limit)

    monkeypatch.setattr(copy_follow, "CHANGES", Chunk(1))
    files.source.core.records = Goes(files.source.records, 1)
    with pytest.raises(Lost):
        await files.copy(follow=True)
    report = await promoted(files)
    assert 2 == report.behind
    assert report.whole_to_ms is not None
    assert report.whole_to_ms <= report.heard_ms
    assert any("2 positions ahead" in line for line in in_words(report))
    target = Store(files.target.core)
    assert [True, False, False] == [await target.find(Note.at(f"late {n}")) is not None for n in range(3)]


async def test_an_object_that_is_missing_and_a_value_two_hold_are_counted(files: Two) -> None:
    async def nothing() -> None:
        return

    await followed(files, nothing)
    await files.target.core.blobs.delete([sorted([info.key async for info in files.target.core.blobs.list()])[3]])
    engine: Any = files.target.records
    one, other = [record for record in await engine.get([Address("users", (f"u1-{n}",)) for n in range(30)]) if record is not None][:2]
    await engine.restore("users", [{**one, "email": other["email"], REVISION: one[REVISION] + 1}])
    report = await promoted(files)
    assert (1, {"User.by_email": 1}) == (report.objects_missing, report.shared_values)
    assert other["email"] not in " ".join(in_words(report))


async def test_a_cascade_whose_job_came_too_late_is_finished(files: Two) -> None:
    live = next(iter([n for n in range(30) if await files.store.find(Conversation.at(f"u1-{n}", f"c u1-{n}")) is not None]))

    async def goes() -> None:
        await files.store.delete(Conversation.at(f"u1-{live}", f"c u1-{live}"))

    await followed(files, goes)
    (record,) = await files.target.records.get((Address("conversations", (f"u1-{live}", f"c u1-{live}")),))
    assert record is not None
    assert MARK in record
    report = await promoted(files)
    assert report.cascades_resumed >= 1
    store = Store(files.target.core)
    await store.sweep()
    assert (None,) == tuple(await files.target.records.get((Address("conversations", (f"u1-{live}", f"c u1-{live}")),)))
    assert await store.find(message_of(f"u1-{live}", BASE + (1_000 + live + 0) * 10).address) is None


async def test_a_target_nobody_copied_into_and_another_source_are_told(files: Two) -> None:
    with pytest.raises(ConfigError, match="Nothing was ever copied"):
        await promoted(files)

    async def nothing() -> None:
        return

    await followed(files, nothing)
    with pytest.raises(ConfigError, match="another source"):
        await promote(files.target, identity("other.db"))


async def test_a_source_that_stays_away_names_the_way_out(files: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    files.source.pace = copy_pace.Pace(patience_s=0.05)

    class Gone(Watch):
        def lag(self, positions: int, seconds: float) -> None:
            files.source.core.records = Faulty(files.source.records, 1, Faults(unavailable=1.0))

    with pytest.raises(Unavailable, match="source did not answer") as error:
        await asyncio.wait_for(Copy(files.source, files.target, watch=Gone()).run(follow=True), 60)
    assert "--promote" in error.value.hint
    assert isinstance(error.value.__cause__, PalaverError)


async def test_that_somebody_was_erased_meanwhile_is_told_because_images_of_theirs_may_be_here(tmp_path: Path) -> None:
    source, stop = sqlite(tmp_path, "a"), asyncio.Event()

    class Once(Watch):
        def lag(self, positions: int, seconds: float) -> None:
            if not positions:
                stop.set()

    async with palaver.open(source, schema=SCHEMA, migrate=True, maintain=False) as store:
        for user in ("ann", "bob"):
            await store.create(User(user_id=user, email=f"{user}@example.org", name="n"))
        async with End.open(source, SCHEMA) as one, opened(sqlite(tmp_path, "b")) as other:
            await Copy(one, other, watch=Once()).run(follow=True, stop=stop)
            await erase(store, "ann")
            stop.clear()
            await Copy(one, other, watch=Once()).run(follow=True, stop=stop)
            report = await promote(other, one.name)
            assert report.erased
            assert "to erase again" in "\n".join(in_words(report))
            copied = Store(other.core)
            assert await copied.find(User.at("ann")) is None
            assert {"User": 1} == (await erase(copied, "ann", scrub=False)).images
