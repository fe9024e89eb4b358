"""DynamoDB under load and half made: unprocessed items, throttling, conflicts, an index still building, answers that are lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from palaver.errors import Conflict, InProgress, NotProvisioned, OutcomeUnknown, Throttled
from palaver.expr import F
from palaver.ops import Absent, Add, Address, Alive, CreateIndex, DropIndex, Op, Put, Read, Set, WriteSet, Written
from palaver.records.dynamodb import DynamoRecords
from palaver.records.memory import MemoryRecords
from palaver.testing.records.base import (
    COUNTERS,
    INTS,
    NOTES,
    NOW,
    TABLES,
    all_changes,
    attempt,
    delete,
    ids,
    loaded,
    note,
    put,
    put_note,
    read_kind,
    stored,
    update,
    written,
)
from tests.engines.dynamo_clients import Between, Moody
from tests.engines.dynamodb import OTHERS, client_of, opened
from tests.servers import ministack


@pytest.fixture
async def engine() -> AsyncIterator[DynamoRecords]:
    async with opened(ministack().endpoint, TABLES) as engine:
        yield engine


async def through(engine: DynamoRecords, wrapped: Any) -> DynamoRecords:
    OTHERS.append(DynamoRecords(wrapped, TABLES, prefix=engine.prefix, pace_s=0.0))
    return OTHERS[-1]


async def test_items_left_unprocessed_land_once(engine: DynamoRecords) -> None:
    moody = Moody(await client_of(ministack().endpoint), 1)
    loader = await through(engine, moody)
    puts = [put_note("u", f"{n:03}", stamp=n) for n in range(200)]
    while True:
        try:
            await loaded(loader, *puts)
            break
        except Throttled:
            continue
    assert 100 < moody.unprocessed
    assert [f"{n:03}" for n in range(200)] == ids((await engine.query(Read(NOTES.name, None, ("u",), limit=500))).records)


async def test_a_throttled_write_is_not_written_and_says_so(engine: DynamoRecords) -> None:
    moody = Moody(await client_of(ministack().endpoint), 2)
    writer = await through(engine, moody)
    done: list[int] = []
    for n in range(60):
        try:
            await writer.write(WriteSet([put_note("u", f"{n:02}", Absent()), put(COUNTERS, {"name": f"{n}"})], NOW))
            done.append(n)
        except Throttled:
            assert await stored(engine, NOTES, "u", f"{n:02}") is None
    assert moody.throttled
    assert len(done) * 2 == len(await all_changes(engine))


async def test_a_transaction_that_is_still_at_work_is_in_progress_and_lands_once(engine: DynamoRecords) -> None:
    """The client sent it again after a lost answer, and DynamoDB said at each attempt that it had not ended."""
    between = Between(await client_of(ministack().endpoint))
    writer = await through(engine, between)
    both = [put_note("u", "a", Absent()), put(COUNTERS, {"name": "a"}, Absent())]

    def at_work(operation: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if operation == "TransactWriteItems":
            raise InProgress("The transaction has not ended for this token.")
        return answer

    between.after = at_work
    with pytest.raises(InProgress) as told:
        await writer.write(WriteSet(both, NOW))
    assert told.value.retryable
    between.after = lambda operation, body, answer: answer
    again = await attempt(writer, *both)
    assert not isinstance(again, Written)
    assert 2 == len(await all_changes(engine))


async def test_transfers_under_conflict_keep_the_sum(engine: DynamoRecords) -> None:
    names = [f"account {n}" for n in range(3)]
    await written(engine, *(put(COUNTERS, {"name": name, "hits": 100}) for name in names))
    refused = 0

    async def transfer(seed: int) -> None:
        nonlocal refused
        source, target = random.Random(seed).sample(names, 2)
        taking = update(COUNTERS, (source,), Add(F("hits"), -40), when=[F("hits") >= 40])
        done = await attempt(engine, taking, update(COUNTERS, (target,), Add(F("hits"), 40)))
        refused += not isinstance(done, Written)

    await asyncio.gather(*(transfer(n) for n in range(60)))
    found = await engine.get([Address(COUNTERS.name, (name,)) for name in names], snapshot=True)
    balances = [int(record["hits"]) for record in found if record]  # type: ignore[arg-type]
    assert 300 == sum(balances)
    assert all(balance >= 0 for balance in balances)
    changes = await all_changes(engine)
    assert 3 + 2 * (60 - refused) == len(changes)


async def test_writers_that_never_meet_a_quiet_moment_end_in_a_conflict(engine: DynamoRecords) -> None:
    """Between every read and its write another writer comes."""
    client = Between(await client_of(ministack().endpoint))
    writer = await through(engine, client)
    await written(engine, put(COUNTERS, {"name": "a", "data": {"n": 0}}))
    others = 0

    async def call(operation: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
        nonlocal others
        if operation == "PutItem":
            others += 1
            await written(engine, update(COUNTERS, ("a",), Add(F("hits"), 1)))
        return await client.client.call(operation, body, **options)

    client.call = call  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        await writer.write(WriteSet([update(COUNTERS, ("a",), Set(F("data.n"), 1))], NOW))
    assert 5 < others < 100
    found = await stored(engine, COUNTERS, "a")
    assert found is not None
    assert ({"n": 0}, others) == (found["data"], found["hits"])


async def test_a_hot_counter_is_counted_without_reading(engine: DynamoRecords) -> None:
    client = Between(await client_of(ministack().endpoint))
    writer = await through(engine, client)
    await written(engine, put(COUNTERS, {"name": "a"}))
    await asyncio.gather(*(written(writer, update(COUNTERS, ("a",), Add(F("hits"), 1))) for _ in range(100)))
    assert {"UpdateItem"} == set(client.calls)
    assert 200 >= len(client.calls)
    found = await stored(engine, COUNTERS, "a")
    assert found is not None
    assert 100 == found["hits"]


async def test_an_index_that_is_being_built_is_not_provisioned(engine: DynamoRecords) -> None:
    client = Between(await client_of(ministack().endpoint))
    reader = await through(engine, client)

    def building(operation: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if operation == "DescribeTable":
            for index in answer["Table"].get("GlobalSecondaryIndexes", ()):
                index["IndexStatus"] = "CREATING"
        return answer

    await engine.apply(DropIndex(NOTES, "by_kind"))
    client.after = building
    with pytest.raises(NotProvisioned, match="by_kind of Note is missing"):
        await reader.query(read_kind("k"))
    found = next(table for table in (await reader.describe()).tables if table.name == NOTES.name)
    assert () == found.indexes


async def test_an_index_whose_making_was_cut_off_is_made_by_the_next_who_asks(engine: DynamoRecords) -> None:
    client = Between(await client_of(ministack().endpoint))
    maker = await through(engine, client)
    await written(engine, put_note("u", "1", kind="k", stamp=1))
    await engine.apply(DropIndex(NOTES, "by_kind"))

    def die(operation: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if operation == "UpdateTable":
            raise OutcomeUnknown("killed here")
        return answer

    client.after = die
    with pytest.raises(OutcomeUnknown):
        await maker.apply(CreateIndex(NOTES, NOTES.index("by_kind")))
    await engine.apply(CreateIndex(NOTES, NOTES.index("by_kind")))
    assert ["1"] == ids((await engine.query(read_kind("k"))).records)


async def test_a_transaction_whose_answer_is_lost_is_repeated_with_its_token(engine: DynamoRecords) -> None:
    client = Between(await client_of(ministack().endpoint))
    writer = await through(engine, client)
    await written(engine, put(COUNTERS, {"name": "a", "hits": 0}))
    bodies: list[dict[str, Any]] = []

    async def call(operation: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
        answer = await client.client.call(operation, body, **options)
        if operation == "TransactWriteItems":
            assert options["idempotent"]
            bodies.append(body)
            # What the client does where no answer comes: the same request again.
            answer = await client.client.call(operation, body, **options)
        return answer

    client.call = call  # type: ignore[method-assign]
    for _ in range(5):
        await written(writer, update(COUNTERS, ("a",), Add(F("hits"), 1)), put_note("u", "1"))
    assert 5 <= len({body["ClientRequestToken"] for body in bodies})
    found = await stored(engine, COUNTERS, "a")
    assert found is not None
    assert 5 == found["hits"]
    assert 11 == len(await all_changes(engine))


async def test_a_single_write_whose_answer_is_lost_is_not_repeated_blindly(engine: DynamoRecords) -> None:
    client = Between(await client_of(ministack().endpoint))
    writer = await through(engine, client)
    await written(engine, put(COUNTERS, {"name": "a", "hits": 0}))
    sent: list[bool] = []

    async def call(operation: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
        answer = await client.client.call(operation, body, **options)
        sent.append(options.get("idempotent", True))
        if operation == "UpdateItem":
            raise OutcomeUnknown("the answer is lost")
        return answer

    client.call = call  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown):
        await writer.write(WriteSet([update(COUNTERS, ("a",), Add(F("hits"), 1))], NOW + 1))
    assert [False] == sent


async def test_every_refusal_of_a_batch_is_listed_when_some_ops_have_to_be_read(engine: DynamoRecords) -> None:
    """Conditions DynamoDB cannot judge are judged here, and the refusal names all the others too."""
    await written(engine, put_note("u", "1", data={"a": [1]}), put_note("u", "2"))
    ops: list[Op] = [
        put_note("u", "1", F("data.a[0]") == 2),
        put_note("u", "2", Absent()),
        delete(NOTES, "u", "3", when=[Alive()]),
        put_note("u", "4", Absent()),
    ]
    done = await engine.write(WriteSet(ops, NOW))
    assert not isinstance(done, Written)
    assert [0, 1, 2] == [failure.op for failure in done.failures]
    assert await stored(engine, NOTES, "u", "4") is None


async def test_a_record_with_the_longest_key_is_deleted_with_its_reason(engine: DynamoRecords) -> None:
    owner, id = "ö" * 1024, "i" * 1024
    await written(engine, put_note(owner, id))
    await written(engine, delete(NOTES, owner, id, expired=True))
    assert ["created", "expired"] == [change.kind for change in await all_changes(engine)]


async def test_pages_of_large_records_end_where_they_do_everywhere(engine: DynamoRecords) -> None:
    """DynamoDB counts revisions as well, so that its pages end earlier; nobody above may see that."""
    model = MemoryRecords(TABLES)
    ops = [
        put(INTS, {"bucket": 1, "n": n, "text": "x" * (size - 17)}) for n, size in enumerate([262_144] * 9 + [200_000] * 9 + [400_000] * 3)
    ]
    for each in (engine, model):
        for op in ops:
            await written(each, op)
    for limit, descending in ((100, False), (100, True), (3, False), (4, True)):
        read = Read(INTS.name, None, (1,), limit=limit, descending=descending)
        pages: list[list[list[Any]]] = []
        for each in (engine, model):
            pages.append([])
            asked = read
            while True:
                page = await each.query(asked)
                pages[-1].append([record["n"] for record in page.records])
                if page.last is None:
                    break
                asked = asked._replace(after=page.last)
        assert [page for page in pages[0] if page] == [page for page in pages[1] if page]


async def test_what_an_index_cannot_hold_is_set_aside_and_comes_back(engine: DynamoRecords) -> None:
    long = "x" * 3_000
    await written(engine, put_note("u", "1", kind="", text=long, stamp=1), put_note("u", "2", kind="k", text=long))
    assert note("u", "1", kind="", text=long, stamp=1, _revision=NOW) == await stored(engine, NOTES, "u", "1")
    assert [] == ids((await engine.query(Read(NOTES.name, "by_text", ("k",)))).records)
    await written(engine, update(NOTES, ("u", "2"), Set(F("text"), "short")))
    assert ["2"] == ids((await engine.query(Read(NOTES.name, "by_text", ("k",)))).records)
    done = await attempt(engine, Put(Address(NOTES.name, ("u", "1")), note("u", "1"), put_note("u", "1", F("kind") == "").guards))
    assert isinstance(done, Written)
