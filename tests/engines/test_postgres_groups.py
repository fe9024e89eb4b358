"""Batches that share a look and a commit on PostgreSQL, and what a process remembers of rows it saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from palaver import loading
from palaver.connections.postgres import Pool
from palaver.connections.postgres_options import PostgresOptions
from palaver.expr import Append, F, Path
from palaver.ops import Absent, Add, Address, Alive, Check, Op, Refused, Set, Update, Written
from palaver.records import postgres_bulk, postgres_decision, postgres_groups, postgres_looking, postgres_statements, postgres_writes
from palaver.records.postgres import PostgresRecords
from palaver.records.postgres_sending import Senders
from palaver.testing.records.base import (
    COUNTERS,
    NOTES,
    TABLES,
    address,
    all_changes,
    attempt,
    delete,
    guards,
    put,
    put_note,
    refused,
    stored,
    update,
    written,
)
from tests.engines.test_postgres_records import engine, other, statements_of

__all__ = ["engine", "other"]


@pytest.fixture
async def second(url: str, engine: PostgresRecords) -> AsyncIterator[PostgresRecords]:
    """Another process on the same tables, as far as the engines know."""
    second = PostgresRecords(await Pool.open(url, PostgresOptions(schema="facts", size=4)), TABLES)
    yield second
    await second.aclose()


def appending(name: str, *when: Any) -> Update:
    """A write that takes a look: it appends inside a nested value."""
    return update(COUNTERS, (name,), Set(Path("data.list"), Append(Path("data.list"), (1,))), when=when)


async def listed(engine: PostgresRecords, name: str) -> int:
    found: Any = await stored(engine, COUNTERS, name)
    return len(found["data"]["list"])


async def counters(engine: PostgresRecords, *names: str) -> None:
    await written(engine, *(put(COUNTERS, {"name": name, "hits": 0, "data": {"list": []}}) for name in names))


# --- groups ---------------------------------------------------------------------------------------------------------


async def test_batches_that_take_a_look_share_it_and_a_commit(engine: PostgresRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{n}" for n in range(64)]
    await counters(engine, *names)
    engine._writes.remembered.clear()
    sent = statements_of(engine, monkeypatch)
    done = await asyncio.gather(*(written(engine, appending(name), put_note("u", name, Absent())) for name in names))
    assert len(sent) <= 16, "apart they would be at least 64"
    assert all({"list": [1]} == (each.updated[0] or {})["data"] for each in done)
    assert 64 + 128 == len(await all_changes(engine))


async def test_one_look_serves_every_table(engine: PostgresRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    await counters(engine, "a")
    await written(engine, put_note("u", "1", text="t", data={"x": [1]}, stamp=5))
    engine._writes.remembered.clear()
    sent = statements_of(engine, monkeypatch)
    await written(engine, appending("a"), put_note("u", "new", Absent()), Check(address(NOTES, "u", "1"), guards(F("text") == "t")))
    assert 2 == len(sent), sent
    await written(engine, appending("a"), Check(address(NOTES, "u", "1"), guards(F("text") == "t")))
    assert 3 == len(sent), "what was seen or written a moment ago is not looked for"
    both = await engine.get([address(COUNTERS, "a"), address(NOTES, "u", "1"), address(NOTES, "u", "none"), address(NOTES, "u", "1")])
    assert 4 == len(sent)
    assert [1, 1] == (both[0] or {})["data"]["list"]  # type: ignore[call-overload, index]
    assert {"x": [1]} == (both[1] or {})["data"]
    assert both[2] is None
    assert both[1] == both[3]
    assert both[1] is not both[3]


async def test_nobody_suffers_for_a_refused_neighbour(engine: PostgresRecords) -> None:
    await counters(engine, *map(str, range(20)))
    writes = [appending(f"{n}", F("hits") == (1 if n % 5 == 0 else 0)) for n in range(20)]
    taken: list[Op] = [put_note("u", "taken", Absent()), appending("7")]
    await written(engine, put_note("u", "taken"))
    done = await asyncio.gather(*(attempt(engine, each) for each in writes), attempt(engine, *taken), attempt(engine, *taken))
    assert [n % 5 == 0 for n in range(20)] == [isinstance(each, Refused) for each in done[:20]]
    assert [True, True] == [isinstance(each, Refused) for each in done[20:]]
    assert [0, 1, 1, 1, 1] * 4 == [await listed(engine, f"{n}") for n in range(20)]


async def test_nobody_waits_long_for_a_row_that_only_a_neighbour_needs(engine: PostgresRecords, other: Any) -> None:
    names = [f"{n}" for n in range(12)]
    await counters(engine, *names)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("UPDATE facts.\"suite-counters\" SET hits = 5 WHERE name = '3'")
    writes = {name: asyncio.create_task(written(engine, appending(name))) for name in names}
    async with asyncio.timeout(10):
        await asyncio.gather(*(write for name, write in writes.items() if name != "3"))
    assert not writes["3"].done()
    await transaction.commit()
    await writes["3"]
    found: Any = await stored(engine, COUNTERS, "3")
    assert (5, [1]) == (found["hits"], found["data"]["list"])


async def test_batches_of_one_record_follow_each_other(engine: PostgresRecords, second: PostgresRecords) -> None:
    await counters(engine, "a", "b")
    writes: list[Any] = []
    for one in (engine, second):
        writes += [written(one, appending("a"), appending("b")) for _ in range(15)]
        writes += [written(one, update(COUNTERS, ("a",), Add(F("hits"), 1))) for _ in range(15)]
        writes += [written(one, appending("b"), Check(Address(COUNTERS.name, ("a",)), guards(Alive()))) for _ in range(15)]
    await asyncio.gather(*writes)
    found: Any = await stored(engine, COUNTERS, "a")
    assert (30, 30) == (found["hits"], len(found["data"]["list"]))
    assert 60 == await listed(engine, "b")
    revisions = [change.revision for change in await all_changes(second) if change.key == ("a",)]
    assert 61 == len(revisions)
    assert sorted(set(revisions)) == revisions


async def test_who_gives_up_waiting_has_written_nothing_or_all(engine: PostgresRecords) -> None:
    await counters(engine, *map(str, range(40)))
    tasks = [asyncio.create_task(written(engine, appending(f"{n}"), put_note("u", f"{n}", Absent()))) for n in range(40)]
    await asyncio.sleep(0)
    for task in tasks[1::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for n in range(40):
        note = await stored(engine, NOTES, "u", f"{n}")
        assert (note is not None) == (await listed(engine, f"{n}") == 1)
        assert note is not None or n % 2


async def test_what_waits_is_sent_although_a_sender_has_just_ended() -> None:
    """Between the end of a task and the loop's notice of it, somebody may come to wait."""
    waiting, sent = ["first"], []

    async def send() -> None:
        while waiting:
            sent.append(waiting.pop())

    senders = Senders(1, send)

    def come() -> None:
        waiting.append("second")
        senders.start()

    senders.start()
    asyncio.get_running_loop().call_soon(come)
    for _ in range(5):
        await asyncio.sleep(0)
    assert ["first", "second"] == sent


# --- what is remembered ---------------------------------------------------------------------------------------------


_SAME_ROW = postgres_statements.SAME_ROW.format('"_revision"')


async def appended(engine: PostgresRecords, second: PostgresRecords) -> int:
    """Append by turns from two processes that each remember the row; return how many found their way into it."""
    await counters(engine, "a")
    for _ in range(5):
        await written(engine, appending("a"))
        await written(second, appending("a"))
    return await listed(engine, "a")


async def test_what_another_process_wrote_is_never_written_over(engine: PostgresRecords, second: PostgresRecords) -> None:
    assert 10 == await appended(engine, second)


async def test_without_the_version_what_is_remembered_would_be_written_over_others(
    engine: PostgresRecords, second: PostgresRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bug the version is for, planted: writing whatever was seen last."""
    right = postgres_statements.applied

    def wrong(parts: tuple[postgres_statements.Part, ...], *, feed: bool, patient: bool) -> str:
        text = right(parts, feed=feed, patient=patient)
        assert _SAME_ROW in text
        return text.replace(_SAME_ROW, "true")

    monkeypatch.setattr(postgres_decision, "applied", wrong)
    assert 10 > await appended(engine, second)


STALE: dict[str, tuple[Op, Op]] = {
    "a guard that holds by now": (update(COUNTERS, ("a",), Set(F("hits"), 7)), appending("a", F("hits") == 7)),
    "a record that is there by now": (
        put(COUNTERS, {"name": "new", "data": {"list": []}}),
        Check(address(COUNTERS, "new"), guards(F("data.list").exists())),
    ),
    "a place that is free by now": (delete(COUNTERS, "a"), put(COUNTERS, {"name": "a", "data": {"list": [1]}}, Absent())),
}


@pytest.mark.parametrize("what", STALE)
async def test_nothing_is_refused_for_what_is_only_remembered(engine: PostgresRecords, second: PostgresRecords, what: str) -> None:
    theirs, mine = STALE[what]
    await counters(engine, "a", "b")
    await engine.get([address(COUNTERS, "a"), address(COUNTERS, "new")])
    await written(second, theirs)
    assert isinstance(await attempt(engine, mine, appending("b")), Written)


async def test_a_refusal_tells_what_is_there_and_not_what_was(engine: PostgresRecords, second: PostgresRecords) -> None:
    await counters(engine, "a", "b")
    await written(second, update(COUNTERS, ("a",), Set(F("hits"), 3)))
    failed = await refused(engine, appending("a", F("hits") == 0), appending("b"))
    assert 3 == (failed.failures[0].found or {})["hits"]
    assert 0 == await listed(engine, "b")


async def test_a_record_remembered_as_absent_is_removed_where_it_is_there(engine: PostgresRecords, second: PostgresRecords) -> None:
    await engine.get([address(NOTES, "u", "1")])
    await written(second, put_note("u", "1"))
    await counters(engine, "a")
    await written(engine, delete(NOTES, "u", "1"), appending("a"))
    assert await stored(second, NOTES, "u", "1") is None


@pytest.mark.parametrize("what", [delete(NOTES, "u", "1"), update(NOTES, ("u", "1"), Set(F("kind"), "late"))])
async def test_what_was_made_after_the_look_is_not_passed_over(
    engine: PostgresRecords, second: PostgresRecords, monkeypatch: pytest.MonkeyPatch, what: Op
) -> None:
    """A batch is of one moment: nobody may see what it left alone beside what it wrote."""
    await counters(engine, "a")
    made: list[None] = []

    async def looked(*asked: Any) -> Any:
        found = await postgres_looking.looked(*asked)
        if not made:
            made.append(None)
            await written(second, put_note("u", "1"))
        return found

    monkeypatch.setattr(postgres_groups, "looked", looked)
    monkeypatch.setattr(postgres_writes, "looked", looked)
    await written(engine, what, appending("a"))
    assert made
    note = await stored(second, NOTES, "u", "1")
    assert note is None or "late" == note["kind"]


async def test_what_is_remembered_stays_small(engine: PostgresRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_looking, "KEPT", 10)
    remembered = engine._writes.remembered
    for n in range(30):
        await written(engine, put_note("u", f"{n}", Absent(), text="x" * (20_000 if n == 29 else 10)))
    assert 5 <= len(remembered) <= 10
    assert remembered.recall([update(NOTES, ("u", "28"), Set(F("kind"), "late"))]) is not None
    assert remembered.recall([update(NOTES, ("u", "29"), Set(F("kind"), "late"))]) is None
    assert remembered.recall([update(NOTES, ("u", "1"), Set(F("kind"), "late"))]) is None


# --- halves ---------------------------------------------------------------------------------------------------------


async def grouped(engine: PostgresRecords, monkeypatch: pytest.MonkeyPatch, callers: int) -> tuple[list[int], int]:
    """Let callers write twice each; return how many stood in each commit, and how many commits were under way at most."""
    sizes: list[int] = []
    under_way, most = 0, 0
    shared = engine._writes._shared
    store = shared.store

    async def counted(group: Any) -> None:
        nonlocal under_way, most
        sizes.append(len(group))
        under_way += 1
        most = max(most, under_way)
        try:
            await store(group)
        finally:
            under_way -= 1

    async def caller(number: int) -> None:
        for turn in range(2):
            await written(engine, put_note("u", f"{number}-{turn}", Absent()))

    # Once the table is known, nobody waits for anything before his first write.
    await written(engine, put_note("u", "first"))
    monkeypatch.setattr(shared, "store", counted)
    await asyncio.gather(*map(caller, range(callers)))
    assert callers * 2 + 1 == len(await all_changes(engine))
    return sizes, most


async def test_callers_of_one_commit_go_on_in_two_groups(engine: PostgresRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the records of one half are stored the other half prepares its own: neither side waits for the other all the time."""
    assert ([32, 16, 16], 2) == await grouped(engine, monkeypatch, 32)


async def test_a_few_callers_share_one_commit(engine: PostgresRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ([6, 6], 1) == await grouped(engine, monkeypatch, 6)


# --- loads ----------------------------------------------------------------------------------------------------------


def test_while_all_copies_are_under_way_as_many_rows_are_made_ready() -> None:
    """With half as many chunks at once every third commit held one of them, and a load of 20,000 took 20 commits instead of 12."""
    assert loading.UNDER_WAY * loading.CHUNK >= 2 * postgres_bulk.COPIES * postgres_bulk.MOST_ROWS
