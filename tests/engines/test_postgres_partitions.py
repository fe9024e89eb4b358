"""Tables kept in parts by month: made ahead, nothing refused, and only the parts of a span are read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from types import new_class
from typing import Any
from urllib.parse import urlencode

import asyncpg
import pytest
from pydantic import Field

import palaver
from palaver import (
    Entity,
    Expiry,
    Index,
    InstantMs,
    InstantText,
    Key,
    ManualClock,
    Partitioned,
    Ref,
    Schema,
    Snowflake,
    Unique,
    new_id,
)
from palaver.clock import to_us
from palaver.connections.postgres import Pool
from palaver.connections.postgres_options import PostgresOptions
from palaver.errors import NotProvisioned, SchemaError
from palaver.ids import Ids, use
from palaver.lifecycle.copy import Copy
from palaver.lifecycle.copy_ends import End
from palaver.lifecycle.copy_verify import verify
from palaver.ops import CreateIndex, IndexSpec
from palaver.records import postgres_partitions as partitions
from palaver.records.postgres import PostgresRecords
from palaver.snapshot import plain_table, table_of
from tests import servers


class Talk(Entity, table="talks"):
    talk_id: str = Field(default_factory=new_id)
    key = Key("talk_id")


class Message(Entity, table="messages"):
    talk_id: str
    message_id: str = Field(default_factory=new_id)
    sender: str = "u"
    content: str = ""
    said: InstantMs = Field(default_factory=palaver.now)

    key = Key("talk_id", sort="message_id")
    by_sender = Index("sender", sort="message_id")
    of_talk = Ref("talk_id", to=Talk, on_delete="cascade")
    once = Unique("talk_id", "content")
    months = Partitioned("message_id", every="month")


SCHEMA = Schema("parts", entities=[Talk, Message])
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture(scope="module", params=["postgres18", "postgres15"])
def server(request: pytest.FixtureRequest) -> Any:
    return getattr(servers, request.param)()


@pytest.fixture
def address(server: Any) -> Iterator[str]:
    name = server.create_database()
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
def url(address: str) -> str:
    return f"{address}?{urlencode({'schema': 'bot', 'pool': '3', 'blobs': 'memory:'})}"


@pytest.fixture
async def direct(address: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(address)
    yield connection
    await connection.close()


async def parts(direct: Any) -> dict[str, int]:
    """Return how many records each part holds."""
    found = await direct.fetch("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'bot.messages'::regclass ORDER BY 1")
    return {name.split("::")[1].rstrip('"'): await direct.fetchval(f"SELECT count(*) FROM {name}") for (name,) in found}


async def test_this_month_and_the_next_three_are_made_and_records_go_there(url: str, direct: Any) -> None:
    clock = ManualClock(NOW)
    with use(Ids(clock)):
        async with palaver.open(url, schema=SCHEMA, clock=clock, migrate=True, maintain=False) as store:
            talk = await store.create(Talk())
            for month in range(6):
                await store.create(Message(talk_id=talk.talk_id, content=f"{month}"))
                if month < 5:
                    clock.advance(timedelta(days=31))
            assert {"2026-11": 1, "2026-12": 1, "2027-01": 1, "2027-02": 1, "rest": 2} == await parts(direct)
            # Upkeep makes what is missing by now, and takes along what waited in the rest.
            await store.sweep()
            made = await parts(direct)
            assert (1, 1, 0) == (made["2027-04"], made["2027-07"] + 1, made["rest"] - 1)
            found = [message.content async for message in store.query(Message.key(talk.talk_id))]
            assert list("012345") == found
            assert ["5", "4"] == [m.content async for m in store.query(Message.by_sender("u").newest_first().limit(2))]


async def test_what_is_moved_from_the_rest_keeps_its_revision_and_leaves_no_change(url: str, direct: Any) -> None:
    clock = ManualClock(NOW)
    with use(Ids(clock)):
        async with palaver.open(url, schema=SCHEMA, clock=clock, migrate=True, maintain=False) as store:
            clock.advance(timedelta(days=200))
            talk = await store.create(Talk())
            late = await store.create(Message(talk_id=talk.talk_id, content="late"))
            head = (await store.core.records.changes(None, 0)).head
            assert 1 == (await parts(direct))["rest"]
            await store.sweep()
            assert (0, 1) == ((await parts(direct))["rest"], (await parts(direct))["2027-06"])
            assert head == (await store.core.records.changes(None, 0)).head
            assert late.revision == (await store.get(late.address)).revision
            # What was seen before the move is known to be another version.
            patched = await store.patch(late, set={"content": "later"})
            assert "later" == patched.content
            await store.delete(talk)
            await store.sweep()
            assert 0 == await store.count(Message.key(talk.talk_id))


async def test_a_span_of_time_reads_only_its_parts(url: str, direct: Any) -> None:
    clock = ManualClock(NOW)
    with use(Ids(clock)):
        async with palaver.open(url, schema=SCHEMA, clock=clock, migrate=True, maintain=False) as store:
            first = new_id()
            clock.advance(timedelta(hours=1))
            last = new_id()
            query = Message.by_sender("u").between(first, last)
            await store.create(Talk(talk_id="t"))
            text = (await store.explain(query)).requests[0]
    assert "messages" in str(text)
    plan = await direct.fetch(
        f"EXPLAIN SELECT * FROM bot.messages WHERE sender = 'u' AND message_id BETWEEN '{first}' AND '{last}' ORDER BY message_id LIMIT 20"
    )
    scanned = {part for (line,) in plan for part in ("2026-11", "2026-12", "2027-01", "rest") if f"::{part}" in line}
    assert {"2026-11"} <= scanned <= {"2026-11", "rest"}
    one = await direct.fetch(f"EXPLAIN SELECT * FROM bot.messages WHERE talk_id = 't' AND message_id = '{first}'")
    assert 1 == sum("::" in line and "Scan" in line for (line,) in one)


def bound_of(field: str, value: Any, **options: Any) -> tuple[str, str]:
    body = {"__annotations__": {"a": str, field: value}, "key": Key("a", sort=field), "p": Partitioned(field), **options}
    made: Any = new_class("Made", (Entity,), {"table": "made"}, lambda names: names.update(body))
    ranges = made.declared().table.ranges
    assert ranges is not None
    return partitions.bound(ranges, datetime(2026, 11, 1, tzinfo=UTC)), ranges.form


def test_every_key_that_tells_a_time_has_bounds() -> None:
    assert ("1793491200000", "ms") == bound_of("said", InstantMs)
    assert ("1793491200", "s") == bound_of("said", Expiry)
    assert ("'2026-11-01T00:00:00.000000Z'", "text") == bound_of("said", InstantText)
    assert ("'01566240355123200000'", "snowflake") == bound_of("said", Snowflake)
    with use(Ids(ManualClock(datetime(2026, 11, 1, tzinfo=UTC)))):
        first = new_id()
    (bound, form) = bound_of("said", str, said=Field(default_factory=new_id))
    assert "uuid7" == form
    assert bound.strip("'") <= first
    with use(Ids(ManualClock(datetime(2026, 10, 31, 23, 59, 59, 999_000, tzinfo=UTC)))):
        assert new_id() < bound.strip("'")


def test_months_follow_each_other_over_the_year() -> None:
    made = partitions.months(to_us(NOW))
    assert [(2026, 11), (2026, 12), (2027, 1), (2027, 2)] == [(month.year, month.month) for month in made]
    assert made[1:] == [partitions.following(month) for month in made[:-1]]


def test_the_linter_says_why_records_cannot_be_kept_in_parts() -> None:
    class Timeless(Entity, table="timeless"):
        a: str
        b: str
        key = Key("a", sort="b")
        months = Partitioned("b")

    class Keyless(Entity, table="keyless"):
        a: str
        said: InstantMs
        key = Key("a")
        months = Partitioned("said")

    for entity, code in ((Timeless, "partition_not_time"), (Keyless, "partition_not_key")):
        with pytest.raises(SchemaError) as caught:
            Schema("s", entities=[entity])
        assert code in str(caught.value) or code in str(caught.value.context)


def test_the_snapshot_says_it_and_is_as_before_where_nothing_is_asked() -> None:
    table = Message.declared().table
    assert table.ranges == table_of(plain_table(table)).ranges
    assert "ranges" not in plain_table(Talk.declared().table)


async def test_a_table_that_is_stored_whole_stays_so_and_the_migration_says_what_to_do(url: str, direct: Any) -> None:
    def letter(**more: Any) -> Any:
        body = {"__annotations__": {"talk_id": str, "message_id": str}, "message_id": Field(default_factory=new_id), **more}
        return type("Letter", (Entity,), {"__module__": __name__, "key": Key("talk_id", sort="message_id"), **body}, table="messages")

    Whole, Parted = letter(), letter(months=Partitioned("message_id"))
    async with palaver.open(url, schema=Schema("s", entities=[Whole]), migrate=True, maintain=False) as store:
        await store.create(Whole(talk_id="t"))
    with pytest.raises(NotProvisioned, match="palaver copy"):
        async with palaver.open(url, schema=Schema("s", entities=[Parted]), migrate=True, maintain=False):
            raise AssertionError
    assert 1 == await direct.fetchval("SELECT count(*) FROM bot.messages")
    # What it says to do works, with a version that says so: the copy reads what is stored whole, and the target is made in parts.
    parted, there = Schema("s", entities=[Parted], version=2), url.replace("schema=bot", "schema=parted")
    async with End.open(url, parted, read_only=True) as source, End.open(there, parted) as target:
        copied = await Copy(source, target).run()
        assert copied.finished
        assert (await verify(source, target)).same
    async with palaver.open(there, schema=parted, maintain=False) as store:
        await store.create(Parted(talk_id="t"))
    assert 2 == await direct.fetchval("SELECT count(*) FROM parted.messages")
    assert "p" == (await direct.fetchval("SELECT relkind FROM pg_class WHERE oid = 'parted.messages'::regclass")).decode()


async def test_an_index_asked_for_later_is_made_part_by_part(url: str, address: str, direct: Any) -> None:
    async with palaver.open(url, schema=SCHEMA, clock=ManualClock(NOW), migrate=True, maintain=False) as store:
        await store.create(Talk(talk_id="t"))
        table = Message.declared().table
        engine = store.core.records
        index = IndexSpec("by_content", ("content",), ("message_id",))
        for _ in range(2):
            await engine.apply(CreateIndex(table, index))
        described = next(each for each in (await engine.describe()).tables if each.name == "messages")
    assert index in described.indexes
    assert table.ranges == described.ranges
    valid = await direct.fetch(
        "SELECT i.indisvalid, count(*) OVER () FROM pg_inherits h JOIN pg_index i ON i.indexrelid = h.inhrelid"
        " WHERE h.inhparent = 'bot.\"messages:by_content\"'::regclass"
    )
    assert [(True, 5)] * 5 == [tuple(row) for row in valid]


async def test_a_part_named_by_itself_is_closed_to_other_roles(address: str, direct: Any) -> None:
    url = f"{address}?{urlencode({'schema': 'bot', 'pool': '3', 'blobs': 'memory:', 'rls': 'on'})}"
    for now in (NOW, NOW + timedelta(days=62)):
        async with palaver.open(url, schema=SCHEMA, clock=ManualClock(now), migrate=True, maintain=False) as store:
            await store.sweep()
    secured = await direct.fetch("SELECT relname, relrowsecurity FROM pg_class WHERE relname LIKE 'messages%' AND relkind IN ('r', 'p')")
    assert 8 == len(secured)
    assert all(on for _, on in secured)


async def test_the_doctor_names_the_month_that_is_missing(url: str, address: str, direct: Any) -> None:
    async with palaver.open(url, schema=SCHEMA, migrate=True, maintain=False):
        pass
    engine = PostgresRecords(await Pool.open(address, PostgresOptions(schema="bot")), [Message.declared().table])
    try:
        found = {finding.check: finding for finding in await engine.diagnose()}
        assert "ok" == found["parts"].level, found["parts"]
        months = await direct.fetch(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhrelid::regclass::text LIKE '%messages::2%'"
            " AND inhparent = 'bot.messages'::regclass"
        )
        for (name,) in months[:2]:
            await direct.execute(f"DROP TABLE {name}")
        found = {finding.check: finding for finding in await engine.diagnose()}
        assert "warn" == found["parts"].level
        assert "messages" in found["parts"].seen
    finally:
        await engine.aclose()


async def test_without_the_move_making_a_part_would_fail(url: str, direct: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step that is easily forgotten, left out: what waits in the rest is in the way of its part."""

    async def forgotten(connection: Any, names: Any, table: Any, part: str, low: str, high: str) -> None:
        await connection.execute(f"CREATE TABLE {part} (LIKE {names.within(table.name)} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")

    clock = ManualClock(NOW)
    with use(Ids(clock)):
        async with palaver.open(url, schema=SCHEMA, clock=clock, migrate=True, maintain=False) as store:
            clock.advance(timedelta(days=200))
            await store.create(Talk(talk_id="t"))
            await store.create(Message(talk_id="t"))
            monkeypatch.setattr(partitions, "_move", forgotten)
            with pytest.raises(palaver.PalaverError):
                await store.sweep()
            monkeypatch.undo()
            await store.sweep()
            assert 0 == (await parts(direct))["rest"]
