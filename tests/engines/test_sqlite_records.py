"""Facts about records in SQLite that no other engine shares: plans, stored forms, belts, what the file says about itself."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, strategies as st

from palaver.connections.sqlite import Database, SqliteOptions
from palaver.errors import Duplicate, NotProvisioned, NumberRange, ReferenceBroken, Trimmed, Validation
from palaver.expr import F
from palaver.ops import (
    Absent,
    AddColumn,
    Address,
    Belt,
    Bound,
    Cause,
    Column,
    CreateIndex,
    CreateTable,
    DropIndex,
    Guard,
    IndexSpec,
    Origin,
    Put,
    Read,
    Refused,
    Set,
    Table,
    Update,
    WriteSet,
    Written,
)
from palaver.records.sqlite import SqliteRecords
from palaver.records.sqlite_rows import Rows
from palaver.stored_json import dumps, loads
from palaver.testing.records.base import NOTES, NOW, NOW_S, TABLES, loaded, put_note

MESSAGES = Table(
    "chat-messages",
    "Message",
    (
        Column("conversation", "text", required=True),
        Column("id", "int", required=True),
        Column("user", "text", required=True),
        Column("at", "int", required=True),
        Column("model", "text"),
        Column("text", "text"),
    ),
    ("conversation",),
    ("id",),
    (IndexSpec("by_user", ("user",), ("at",)), IndexSpec("by_model", ("model", "user"), ("at", "text"))),
)


async def opened(path: Path, tables: Sequence[Table] = TABLES, **options: Any) -> SqliteRecords:
    engine = SqliteRecords(await Database.open(path, options=SqliteOptions(**options)), tables)
    for table in tables:
        await engine.apply(CreateTable(table))
    return engine


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[SqliteRecords]:
    engine = await opened(tmp_path / "a.db", (*TABLES, MESSAGES))
    yield engine
    await engine.aclose()


def put(table: Table, record: dict[str, Any], *, create: bool = False) -> Put:
    guards = (Guard(Absent(), Origin(0, "create")),) if create else ()
    return Put(Address(table.name, tuple(record[name] for name in table.key)), record, guards)


async def fetched(engine: SqliteRecords, text: str, parameters: Sequence[Any] = ()) -> list[Any]:
    def job(connection: apsw.Connection) -> list[Any]:
        return connection.execute(text, parameters).fetchall()

    return await engine.database.read(job)


# --- plans ----------------------------------------------------------------------------------------------------------

READS = [
    Read("chat-messages", None, ("c",)),
    Read("chat-messages", None, ("c",), descending=True, limit=20),
    Read("chat-messages", None, ("c",), bounds=(Bound(">=", 3), Bound("<", 9)), after=("c", 5)),
    Read("chat-messages", "by_user", ("u",), descending=True),
    Read("chat-messages", "by_user", ("u",), bounds=(Bound(">", 3),), after=("u", 4, "c", 5)),
    Read("chat-messages", "by_user", ("u",), bounds=(Bound("<=", 9),), descending=True, after=("u", 4, "c", 5)),
    Read("chat-messages", "by_model", ("m", "u")),
    Read("chat-messages", "by_model", ("m", "u"), fixed=(1,), bounds=(Bound("prefix", "ab"),)),
    Read("chat-messages", "by_model", ("m", "u"), fixed=(1,), bounds=(Bound("prefix", "ab"),), after=("m", "u", 1, "abc", "c", 5)),
]


@pytest.mark.parametrize("read", READS)
async def test_a_page_is_a_range_of_one_index_already_in_order(engine: SqliteRecords, read: Read) -> None:
    text, parameters = Rows(MESSAGES).page_of(read)
    plan = [row[3] for row in await fetched(engine, "EXPLAIN QUERY PLAN " + text, parameters)]
    assert 1 == len(plan), plan
    assert plan[0].startswith("SEARCH chat-messages USING INDEX"), plan
    # The range is entered at the position, not at the bound that lies before it.
    assert read.after is None or "(" in plan[0].split(" AND ")[-1] or ">(" in plan[0] or "<" in plan[0] or ">" in plan[0]


async def test_going_on_from_a_position_reads_only_what_follows(engine: SqliteRecords) -> None:
    made = [put(MESSAGES, {"conversation": "c", "id": n, "user": "u", "at": n}) for n in range(20_000)]
    await loaded(engine, *made)
    text, parameters = Rows(MESSAGES).page_of(
        Read("chat-messages", "by_user", ("u",), bounds=(Bound(">=", 1),), limit=10, after=("u", 19_980, "c", 19_980))
    )

    def job(connection: apsw.Connection) -> tuple[int, int]:
        steps: list[int] = []

        def note() -> bool:
            steps.append(1)
            return False

        connection.set_progress_handler(note, 100)
        try:
            return len(connection.execute(text, parameters).fetchall()), len(steps)
        finally:
            connection.set_progress_handler(None)

    found, hundreds = await engine.database.read_pooled(job)
    assert 10 == found
    assert hundreds < 20


async def test_expired_records_are_found_through_their_index(engine: SqliteRecords) -> None:
    plan = await fetched(engine, "EXPLAIN QUERY PLAN " + Rows(NOTES).expired(), (1, 1))
    assert ["SEARCH suite-notes USING COVERING INDEX suite-notes::expires (expires<?)"] == [row[3] for row in plan]


# --- stored forms ---------------------------------------------------------------------------------------------------

leaves = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**37), max_value=10**37)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**20), max_value=10**20)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    | st.sampled_from(["$:", "$:map", '"$:', '{"$:int":"1"}'])
    | st.binary()
    | st.frozensets(st.text(st.characters(exclude_categories=["Cs"])), min_size=1)
    | st.frozensets(st.integers(), min_size=1)
    | st.frozensets(st.binary(), min_size=1)
)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(["$:map", "$:int", "$:bytes", "$:", "$"])
nested = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12)


def typed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: typed(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    if isinstance(value, frozenset):
        return frozenset(map(typed, value))
    return type(value).__name__, value


@given(nested)
def test_nested_values_come_back_with_their_types(value: Any) -> None:
    assert typed(value) == typed(loads(dumps(value)))


def test_ordinary_values_are_plain_json() -> None:
    assert '{"a":[1,2.5,true,null,"x"],"b":{"c":"$5"}}' == dumps({"a": [1, 2.5, True, None, "x"], "b": {"c": "$5"}})
    assert '{"price":{"$:number":"1.5"}}' == dumps({"price": Decimal("1.5")})


async def test_a_change_of_a_chat_message_is_small(engine: SqliteRecords) -> None:
    conversation, start = "5f2b6c1e-9f0f-4c39-8a51-0f3f6d1c7e11", 1_157_442_765_409_226_752
    made = [put(MESSAGES, {"conversation": conversation, "id": start + n, "user": "u", "at": n}) for n in range(2_000)]
    await loaded(engine, *made)
    (used,) = (await fetched(engine, "SELECT sum(pgsize) FROM dbstat WHERE name = 'palaver_changes'"))[0]
    assert used / 2_000 <= 80


async def test_an_older_sqlite_opens_and_queries_the_file(engine: SqliteRecords) -> None:
    await engine.write(WriteSet([put_note("u", "1", data={"a": [1]}, done=True)], NOW, Cause("me")))
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        "print(c.execute('PRAGMA integrity_check').fetchone()[0],"
        " c.execute(\"SELECT data ->> '$.a[0]', done FROM 'suite-notes'\").fetchone(),"
        " c.execute(\"SELECT more ->> 'actor' FROM palaver_changes\").fetchone())"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script, str(engine.database.path)], capture_output=True, text=True, check=True
    )
    assert "ok (1, 1) ('me',)" == done.stdout.strip()


async def test_a_number_too_large_for_the_file_is_a_named_error_and_writes_nothing(engine: SqliteRecords) -> None:
    with pytest.raises(NumberRange):
        await engine.write(WriteSet([put_note("u", "1"), put_note("u", "2", stamp=2**63)], NOW))
    assert [None] == await engine.get([Address(NOTES.name, ("u", "1"))])


async def test_a_value_of_another_type_is_a_named_error(engine: SqliteRecords) -> None:
    await engine.write(WriteSet([put_note("u", "1", data={"a": 1})], NOW))
    with pytest.raises(Validation):
        await engine.write(WriteSet([Update(Address(NOTES.name, ("u", "1")), (Set(F("text"), F("data")),))], NOW))


# --- belts ----------------------------------------------------------------------------------------------------------

PARENTS = Table("parents", "Parent", (Column("id", "text", required=True),), ("id",), ())
CHILDREN = Table(
    "children",
    "Child",
    (
        Column("id", "text", required=True),
        Column("parent", "text"),
        Column("email", "text"),
        Column("rating", "int", check=("range", 1, 5)),
        Column("state", "text", check=("in", ("it's", "on"))),
    ),
    ("id",),
    (),
    (IndexSpec("email", ("email",), (), unique=True),),
    belts=(Belt(("parent",), "parents", ("id",)),),
)


async def test_belts_refuse_alone_and_leave_the_group_unharmed(tmp_path: Path) -> None:
    engine = await opened(tmp_path / "a.db", (PARENTS, CHILDREN))
    await engine.write(WriteSet([put(PARENTS, {"id": "p"}), put(CHILDREN, {"id": "c", "parent": "p", "email": "a@b"})], NOW))
    wanted: list[tuple[dict[str, Any], type | None]] = [
        ({"id": "1", "parent": "p", "state": "it's", "rating": 5}, None),
        ({"id": "2", "parent": "nobody"}, ReferenceBroken),
        ({"id": "3", "email": "a@b"}, Duplicate),
        ({"id": "4", "rating": 6}, Validation),
        ({"id": "5", "state": "other"}, Validation),
        ({"id": "6"}, None),
    ]
    done = await asyncio.gather(
        *(engine.write(WriteSet([put(CHILDREN, record, create=True)], NOW)) for record, _ in wanted), return_exceptions=True
    )
    assert [error or Written for _, error in wanted] == [type(found) for found in done]
    found = await engine.get([Address("children", (str(n),)) for n in range(1, 7)])
    assert [error is None for _, error in wanted] == [record is not None for record in found]
    await engine.aclose()


async def test_a_refused_batch_leaves_its_neighbours_in_the_group(engine: SqliteRecords) -> None:
    await engine.write(WriteSet([put_note("u", "taken")], NOW))
    batches = [[put_note("u", f"{n}", Absent()), put_note("u", "taken" if n % 2 else f"{n}+", Absent())] for n in range(20)]
    done = await asyncio.gather(*(engine.write(WriteSet(batch, NOW)) for batch in batches))
    assert [Refused if n % 2 else Written for n in range(20)] == [type(found) for found in done]
    assert 21 == len((await engine.query(Read(NOTES.name, None, ("u",)))).records)
    assert 21 == len((await engine.changes(None, 100)).changes)


async def test_a_bulk_load_lets_others_write_meanwhile(engine: SqliteRecords) -> None:
    made = [put(MESSAGES, {"conversation": "c", "id": n, "user": "u", "at": n}) for n in range(20_000)]
    load = asyncio.ensure_future(loaded(engine, *made))
    for n in range(5):
        await engine.write(WriteSet([put_note("u", f"{n}")], NOW))
    assert not load.done()
    assert [NOW] * 20_000 == await load


# --- the feed and the structure -------------------------------------------------------------------------------------


async def test_positions_are_not_used_again_after_trimming_everything(engine: SqliteRecords) -> None:
    for n in range(3):
        await engine.write(WriteSet([put_note("u", f"{n}")], NOW))
    assert 3 == await engine.trim(100)
    page = await engine.changes(None, 10)
    assert ([], 3, 3) == (list(page.changes), page.last, page.head)
    with pytest.raises(Trimmed):
        await engine.changes(2, 10)
    await engine.write(WriteSet([put_note("u", "9")], NOW))
    assert [4] == [change.position for change in (await engine.changes(3, 10)).changes]


async def test_the_file_describes_itself(tmp_path: Path) -> None:
    tables = (*TABLES, MESSAGES, PARENTS, CHILDREN)
    engine = await opened(tmp_path / "a.db", tables)
    await engine.database.write(lambda connection: connection.execute('CREATE TABLE "someone elses" (a)'))
    await engine.stamp(7, "abc")
    physical = await engine.describe()
    assert sorted(tables, key=lambda table: table.name) == list(physical.tables)
    assert (("someone elses",), 7, "abc") == (physical.unknown, physical.version, physical.fingerprint)
    await engine.aclose()


async def test_steps_change_a_table_with_records_in_it(tmp_path: Path) -> None:
    old = replace(MESSAGES, columns=MESSAGES.columns[:-2], indexes=MESSAGES.indexes[:1])
    engine = await opened(tmp_path / "a.db", (old,))
    await engine.write(WriteSet([put(old, {"conversation": "c", "id": 1, "user": "u", "at": 1})], NOW))
    for _ in range(2):
        for column in MESSAGES.columns[-2:]:
            await engine.apply(AddColumn(old, column))
        await engine.apply(CreateIndex(old, MESSAGES.indexes[1]))
    assert (MESSAGES,) == (await engine.describe()).tables
    await engine.write(WriteSet([put(MESSAGES, {"conversation": "c", "id": 2, "user": "u", "at": 1, "model": "m", "text": "t"})], NOW))
    assert [2] == [record["id"] for record in (await engine.query(Read("chat-messages", "by_model", ("m", "u")))).records]
    await engine.apply(DropIndex(MESSAGES, "by_model"))
    with pytest.raises(NotProvisioned):
        await engine.query(Read("chat-messages", "by_model", ("m", "u")))
    assert 2 == len((await engine.query(Read("chat-messages", "by_user", ("u",)))).records)
    await engine.aclose()


async def test_what_expired_is_not_counted(engine: SqliteRecords) -> None:
    await loaded(engine, *(put_note("u", f"{n}", expires=NOW_S + n) for n in range(-2, 3)))
    assert 2 == await engine.count(Read(NOTES.name, None, ("u",)), NOW)


@pytest.mark.parametrize("other", ["CREATE TABLE notes (x)", "CREATE VIEW NOTES AS SELECT 1 AS x"])
async def test_a_table_or_view_of_others_with_a_name_of_ours_is_refused_and_left_alone(tmp_path: Path, other: str) -> None:
    database = await Database.open(tmp_path / "theirs.db")
    await database.write(lambda connection: connection.execute(other).fetchall())
    engine = SqliteRecords(database, [NOTES])
    with pytest.raises(NotProvisioned, match="did not make"):
        await engine.apply(CreateTable(replace(NOTES, name="notes")))
    assert [(other,)] == await database.read(lambda connection: connection.execute("SELECT sql FROM sqlite_schema").fetchall())
    await engine.aclose()
