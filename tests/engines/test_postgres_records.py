"""Facts about records in PostgreSQL that no other engine shares: round trips, the fence of the feed, locks, stored forms, names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from palaver.connections.postgres import Pool
from palaver.connections.postgres_options import PostgresOptions
from palaver.errors import Duplicate, ReferenceBroken, Validation
from palaver.expr import Append, F, Path
from palaver.ops import (
    REVISION,
    Absent,
    Add,
    Address,
    Alive,
    Belt,
    Bound,
    Check,
    Column,
    CreateIndex,
    CreateTable,
    Delete,
    IndexSpec,
    Op,
    Put,
    Read,
    Refused,
    Set,
    Table,
    Unchanged,
    Update,
    WriteSet,
    Written,
)
from palaver.records import postgres_feed
from palaver.records.postgres import PostgresRecords
from palaver.records.postgres_names import identifier, short
from palaver.testing.records.base import (
    COUNTERS,
    NOTES,
    NOW,
    TABLES,
    WIDE,
    address,
    all_changes,
    attempt,
    delete,
    exact,
    guards,
    loaded,
    put,
    put_note,
    refused,
    stored,
    update,
    written,
)


@pytest.fixture
async def engine(url: str) -> AsyncIterator[PostgresRecords]:
    engine = PostgresRecords(await Pool.open(url, PostgresOptions(schema="facts", size=8)), TABLES)
    await engine.pool.execute("DROP SCHEMA IF EXISTS facts CASCADE")
    for table in TABLES:
        await engine.apply(CreateTable(table))
    yield engine
    await engine.aclose()


@pytest.fixture
async def other(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


# --- one statement, one round trip ----------------------------------------------------------------------------------


def statements_of(engine: PostgresRecords, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note every statement that is sent for a caller, transactions included."""
    sent: list[str] = []
    pool = engine.pool
    original, begin = pool._sent, pool.transaction

    async def noted(text: str, arguments: Any) -> Any:
        if "pg_notify" not in text:
            sent.append(text)
        return await original(text, arguments)

    def began(*arguments: Any, **options: Any) -> Any:
        sent.append("BEGIN")
        return begin(*arguments, **options)

    monkeypatch.setattr(pool, "_sent", noted)
    monkeypatch.setattr(pool, "transaction", began)
    return sent


ONE_TRIP: dict[str, list[Op]] = {
    "create": [put_note("u", "new", Absent(), data={"a": [1]})],
    "a pair": [put_note("u", "new", Absent()), put_note("u", "newer", Absent())],
    "put": [put_note("u", "1", text="over")],
    "put of an unchanged record": [put_note("u", "1", Unchanged(NOW), text="over")],
    "put of a live record": [put_note("u", "1", Alive(), text="over")],
    "patch": [update(NOTES, ("u", "1"), Set(F("text"), "b"), Add(F("stamp"), 2), when=[Alive()])],
    "patch of an unchanged record": [update(NOTES, ("u", "1"), Set(F("data"), {"n": 1}), when=[Unchanged(NOW)])],
    "delete": [delete(NOTES, "u", "1")],
    "delete of an unchanged record": [delete(NOTES, "u", "1", when=[Unchanged(NOW)])],
    "a message, its conversation and who wrote it": [
        put_note("u", "new", Absent()),
        update(COUNTERS, ("a",), Add(F("hits"), 1), when=[Alive()]),
        Check(address(NOTES, "u", "1"), guards(Alive())),
    ],
}


@pytest.mark.parametrize("what", ONE_TRIP)
async def test_a_common_write_is_one_statement_with_its_changes(
    engine: PostgresRecords, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    await written(engine, put_note("u", "1", text="a", stamp=1), put(COUNTERS, {"name": "a"}))
    before = len(await all_changes(engine))
    sent = statements_of(engine, monkeypatch)
    await written(engine, *ONE_TRIP[what])
    assert 1 == len(sent), sent
    changes = sum(not isinstance(op, Check) for op in ONE_TRIP[what])
    assert before + changes == len(await all_changes(engine))


async def test_a_read_is_one_statement_that_enters_its_index(engine: PostgresRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    await written(engine, *(put_note("u", f"{n:03}", kind="k", stamp=n) for n in range(60)))
    sent = statements_of(engine, monkeypatch)
    read = Read(NOTES.name, "by_kind", ("k",), bounds=(Bound(">=", 5),), descending=True, limit=20)
    assert 20 == len((await engine.query(read)).records)
    assert engine.explain_read(read) == sent
    plan = await engine.pool.read(f"EXPLAIN {sent[0].replace('$1', chr(39) + 'k' + chr(39)).replace('$2', '5').replace('$3', '20')}")
    assert "Index" in "".join(row[0] for row in plan)
    assert "Sort" not in "".join(row[0] for row in plan)


async def test_writes_that_wait_share_commits(engine: PostgresRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = statements_of(engine, monkeypatch)
    await asyncio.gather(*(written(engine, put_note("u", f"{n}", Absent())) for n in range(200)))
    assert len(sent) < 20


# --- the fence of the feed ------------------------------------------------------------------------------------------


async def two_that_commit_in_opposite_order(engine: PostgresRecords, other: Any) -> tuple[list[str], list[str]]:
    """Return what a reader who follows sees while the earlier position is uncommitted, and what after its commit."""
    names = engine.names
    await written(engine, put_note("u", "before"))
    page = await engine.changes(None, 10)
    seen = [str(change.key[1]) for change in page.changes]
    number = (await engine.pool.read(f"SELECT id FROM {names.names} WHERE name = $1", NOTES.name))[0][0]
    transaction = other.transaction()
    await transaction.start()
    await other.execute(
        f"INSERT INTO {names.changes} (position, entity, kind, revision, key) VALUES ({names.position}, $1, 0, 1, $2)",
        number,
        ["u", "slow"],
    )
    await written(engine, put_note("u", "fast"))
    early = await engine.changes(page.last, 10)
    await transaction.commit()
    late = await engine.changes(early.last, 10)
    return [*seen, *(str(change.key[1]) for change in early.changes)], [str(change.key[1]) for change in late.changes]


async def test_a_change_that_commits_late_is_not_passed_by(engine: PostgresRecords, other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_feed, "_FENCE_WAIT_S", 0.3)
    early, late = await two_that_commit_in_opposite_order(engine, other)
    assert ["before"] == early
    assert ["slow", "fast"] == late


async def test_without_the_fence_the_late_change_would_be_lost(
    engine: PostgresRecords, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bug the fence is for, planted: reading as far as anything is committed."""
    monkeypatch.setattr(postgres_feed.Fence, "asked", lambda self: (2**62, 0, 0, 0))
    early, late = await two_that_commit_in_opposite_order(engine, other)
    assert ["before", "fast"] == early
    assert [] == late


async def test_several_readers_and_writers_see_every_change_once_and_each_record_in_order(engine: PostgresRecords) -> None:
    over = asyncio.Event()

    async def reader() -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        last: int | None = None
        while True:
            done = over.is_set()
            page = await engine.changes(last, 7)
            found += [(str(change.key[0]), change.revision) for change in page.changes]
            last = page.last
            if done and not page.changes:
                return found

    readers = [asyncio.create_task(reader()) for _ in range(3)]

    async def writer(name: str) -> None:
        for _ in range(15):
            await written(engine, update(COUNTERS, (name,), Add(F("hits"), 1)), update(COUNTERS, ("shared",), Add(F("hits"), 1)))

    await written(engine, *(put(COUNTERS, {"name": name}) for name in ("a", "b", "c", "shared")))
    await asyncio.gather(*(writer(name) for name in ("a", "b", "c", "a", "b")))
    over.set()
    first, *others = await asyncio.gather(*readers)
    assert 4 + 2 * 75 == len(first)
    assert all(first == found for found in others)
    for name in ("a", "b", "c", "shared"):
        revisions = [revision for key, revision in first if key == name]
        assert sorted(revisions) == revisions
    assert 75 == (await stored(engine, COUNTERS, "shared") or {})["hits"]


async def test_another_process_is_woken(engine: PostgresRecords, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_feed, "_LISTENING_POLL_S", 60.0)
    listening = PostgresRecords(await Pool.open(url, PostgresOptions(schema="facts", size=1)), TABLES)
    last = (await listening.changes(None, 1)).head
    assert not await listening.wait_for_change(last, 0.05)
    waiting = asyncio.create_task(listening.wait_for_change(last, 30))
    await asyncio.sleep(0.1)
    began = asyncio.get_running_loop().time()
    await written(engine, put_note("u", "1"))
    assert await waiting
    assert asyncio.get_running_loop().time() - began < 20, "it was not only found by looking now and then"
    await listening.aclose()


# --- batches as if one after the other ------------------------------------------------------------------------------


async def test_two_batches_that_each_want_the_other_absent_do_not_both_win(engine: PostgresRecords) -> None:
    for number in range(25):
        one, two = f"one {number}", f"two {number}"

        def batch(mine: str, theirs: str) -> tuple[Op, ...]:
            return put_note("u", mine, Absent()), Check(address(NOTES, "u", theirs), guards(Absent()))

        done = await asyncio.gather(attempt(engine, *batch(one, two)), attempt(engine, *batch(two, one)))
        assert 1 >= sum(isinstance(each, Written) for each in done)


async def test_two_batches_that_each_check_what_the_other_writes_do_not_both_win(engine: PostgresRecords) -> None:
    for number in range(10):
        a, b = f"a {number}", f"b {number}"
        await written(engine, put(COUNTERS, {"name": a, "hits": 1}), put(COUNTERS, {"name": b, "hits": 1}))

        def batch(mine: str, theirs: str) -> tuple[Op, ...]:
            left = update(COUNTERS, (mine,), Set(F("hits"), 0))
            return left, Check(Address(COUNTERS.name, (theirs,)), guards(F("hits") == 1))

        done = await asyncio.gather(attempt(engine, *batch(a, b)), attempt(engine, *batch(b, a)))
        assert 1 == sum(isinstance(each, Written) for each in done)


async def appended(engine: PostgresRecords, tasks: int) -> int:
    """Let tasks append to one list, which takes a look and a write each; return how many found their way into it."""
    await written(engine, put(COUNTERS, {"name": "a", "data": {"list": []}}))
    change = Set(Path("data.list"), Append(Path("data.list"), (1,)))
    await asyncio.gather(*(written(engine, update(COUNTERS, ("a",), change)) for _ in range(tasks)))
    found: Any = await stored(engine, COUNTERS, "a")
    return len(found["data"]["list"])


async def test_writes_that_take_a_look_lose_nothing_to_each_other(engine: PostgresRecords) -> None:
    assert 20 == await appended(engine, 20)


async def test_a_held_place_leaves_nothing_behind(engine: PostgresRecords) -> None:
    await written(engine, put_note("u", "1"), Check(address(WIDE, "t", "g", 1, "o"), guards(Absent())))
    assert await stored(engine, WIDE, "t", "g", 1, "o") is None
    assert 1 == len(await all_changes(engine))


async def test_all_reasons_are_gathered_and_nothing_is_written(engine: PostgresRecords) -> None:
    await written(engine, put_note("u", "1"))
    failed = await refused(engine, put_note("u", "1", Absent()), put_note("u", "2"), delete(NOTES, "u", "3", when=[Alive()]))
    assert [0, 2] == [failure.op for failure in failed.failures]
    assert await stored(engine, NOTES, "u", "2") is None


# --- what is stored -------------------------------------------------------------------------------------------------


async def test_columns_have_types_of_their_own(engine: PostgresRecords, other: Any) -> None:
    record = {
        "owner": "u",
        "id": "1",
        "stamp": 2**62,
        "score": 0.1,
        "amount": Decimal("1.50"),
        "done": True,
        "raw": b"\0",
        "data": {"a": 1},
    }
    await written(engine, Put(address(NOTES, "u", "1"), record))  # type: ignore[arg-type]
    row = await other.fetchrow(f"SELECT *, pg_typeof(data)::text AS kind FROM {engine.names.within(NOTES.name)}")
    assert ("jsonb", True, b"\0", Decimal("1.5"), 2**62) == (row["kind"], row["done"], row["raw"], row["amount"], row["stamp"])
    found = await other.fetchval(f"SELECT count(*) FROM {engine.names.within(NOTES.name)} WHERE data @> '{{\"a\": 1}}'")
    assert 1 == found


@pytest.mark.parametrize(
    "value",
    [
        1e16,
        -1.5e22,
        1e-7,
        0.0,
        1.0,
        1,
        2**63,
        -(2**63),
        Decimal("9" * 38),
        Decimal("1E-20"),
        10**37,
        True,
        None,
        "e+9",
        ":1e16",
        {"$:float": "1"},
    ],
)
async def test_what_jsonb_would_change_comes_back_as_it_was(engine: PostgresRecords, value: Any) -> None:
    for data in ({"x": value}, [value, {"deep": [value]}]):
        await written(engine, put_note("u", "1", data=data))
        found = await stored(engine, NOTES, "u", "1")
        assert found is not None
        assert exact(data) == exact(found["data"])


LONG = Table(
    "a-very-long-table-name-that-says-everything-about-what-is-stored-" + "x" * 60,
    "Long",
    (
        Column("owner", "text", required=True),
        Column("a" * 70, "int"),
        Column("a" * 69 + "b", "int"),
        Column("grade", "text", check=("in", ("a", "b"))),
        Column("level", "int", check=("range", 1, 9)),
    ),
    ("owner",),
    (),
    (IndexSpec("by_first" + "y" * 60, ("a" * 70,), ()), IndexSpec("by_second" + "y" * 60, ("a" * 69 + "b",), (), unique=True)),
)


async def test_names_longer_than_the_server_keeps_are_shortened_and_read_back_whole(engine: PostgresRecords) -> None:
    await engine.apply(CreateTable(LONG))
    assert LONG in (await engine.describe()).tables
    await written(engine, put(LONG, {"owner": "u", "a" * 70: 1, "a" * 69 + "b": 2}))
    assert 1 == len((await engine.query(Read(LONG.name, LONG.indexes[0].name, (1,)))).records)
    with pytest.raises(Duplicate):
        await engine.write(WriteSet([put(LONG, {"owner": "v", "a" * 69 + "b": 2})], NOW))
    with pytest.raises(Validation):
        await engine.write(WriteSet([put(LONG, {"owner": "v", "level": 10})], NOW))


def test_short_names_differ_where_long_ones_do() -> None:
    names = ["x" * n for n in (62, 63, 64, 65)] + ["x" * 70 + "y", "ü" * 40, "ü" * 41]
    made = [short(name) for name in names]
    assert len(set(made)) == len(names)
    assert names[:2] == made[:2]
    assert all(len(name.encode()) <= 63 for name in made)
    assert '"a""b"' == identifier('a"b')


OWNERS = Table("belt-owners", "Owner", (Column("id", "text", required=True),), ("id",), ())
OWNED = replace(
    OWNERS,
    name="belt-owned",
    entity="Owned",
    columns=(Column("id", "text", required=True), Column("owner", "text", required=True)),
    belts=(Belt(("owner",), "belt-owners", ("id",)),),
)


async def test_a_foreign_key_is_checked_at_the_commit_and_never_cascades(engine: PostgresRecords) -> None:
    for table in (OWNERS, OWNED):
        await engine.apply(CreateTable(table))
    assert OWNED in (await engine.describe()).tables
    await written(engine, put(OWNED, {"id": "1", "owner": "o"}), put(OWNERS, {"id": "o"}))
    with pytest.raises(ReferenceBroken):
        await engine.write(WriteSet([put(OWNED, {"id": "2", "owner": "nobody"}, Absent())], NOW))
    with pytest.raises(ReferenceBroken):
        await engine.write(WriteSet([Delete(Address(OWNERS.name, ("o",)))], NOW))
    assert {"id": "1", "owner": "o"} == {k: v for k, v in (await stored(engine, OWNED, "1") or {}).items() if k != REVISION}


async def test_an_index_is_made_while_others_write(engine: PostgresRecords) -> None:
    await written(engine, *(put_note("u", f"{n}", score=float(n)) for n in range(50)))
    writing = [asyncio.create_task(written(engine, put_note("v", f"{n}", text="t"))) for n in range(20)]
    made = IndexSpec("by_text_only", ("text",), ())
    await engine.apply(CreateIndex(NOTES, made))
    await asyncio.gather(*writing)
    assert 20 == len((await engine.query(Read(NOTES.name, made.name, ("t",)))).records)


async def test_a_load_is_copied_and_leaves_its_changes(engine: PostgresRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    await loaded(engine, *(put_note("u", f"{n:04}", text="new") for n in range(2_500)))
    assert 2_500 == len(await engine.pool.read(f"SELECT 1 FROM {engine.names.changes}"))
    again = await loaded(engine, *(put_note("u", f"{n:04}", text="over") for n in range(0, 5_000, 2)))
    assert [NOW + 1] * 1_250 + [NOW] * 1_250 == again
    kinds = [change.kind for change in await all_changes(engine, limit=1_000)]
    assert (3_750, 1_250) == (kinds.count("created"), kinds.count("updated"))
    assert not isinstance(await attempt(engine, Update(address(NOTES, "u", "0001"), (Set(F("text"), "x"),))), Refused)
