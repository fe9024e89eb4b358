"""The feed copied out of streams: shards that split, several copiers, copies cut off, and what nobody wrote through us."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from palaver.clock import SystemClock
from palaver.errors import OutcomeUnknown, Trimmed, Unavailable
from palaver.expr import F
from palaver.feed import Runner
from palaver.ops import REVISION, Add, Cause, Change, CreateTable, Op, Put
from palaver.records.dynamo_requests import MAX_TRANSACTION
from palaver.records.dynamo_values import MAX_ITEM, item_size
from palaver.records.dynamodb import DynamoRecords
from palaver.records.dynamodb_streams import Batch
from palaver.system import SYSTEM, system
from palaver.testing.records.base import COUNTERS, NOTES, NOW, TABLES, all_changes, delete, loaded, put, put_note, update, written
from palaver.testing.records.feeding import by_record
from tests.engines.dynamo_clients import Between, Splitting, trimmed
from tests.engines.dynamodb import OTHERS, client_of, opened
from tests.servers import ministack


@pytest.fixture
async def engine() -> AsyncIterator[DynamoRecords]:
    async with opened(ministack().endpoint, TABLES) as engine:
        yield engine


async def beside(engine: DynamoRecords, wrapper: type[Any] = Between) -> tuple[DynamoRecords, Any]:
    """Give another engine over the same tables, with its client wrapped."""
    wrapped = wrapper(await client_of(ministack().endpoint))
    OTHERS.append(DynamoRecords(wrapped, TABLES, prefix=engine.prefix, pace_s=0.0))
    return OTHERS[-1], wrapped


async def test_shards_are_read_after_their_parents_and_nothing_is_lost_or_doubled(engine: DynamoRecords) -> None:
    copier, stream = await beside(engine, Splitting)
    copier._layouts = copier._feed._layouts = {NOTES.name: engine.layout(NOTES.name)}
    copies = random.Random(3)
    await written(engine, put_note("u", "0"))
    await copier.copy_feed()
    for n in range(40):
        await written(engine, put_note("u", f"{n % 7}", stamp=n))
        if n % 11 == 5:
            await stream.split()
        if copies.random() < 0.3:
            await copier.copy_feed()
    changes = await all_changes(copier)
    assert 41 == len(changes)
    assert 6 < len(stream._shards())
    for revisions in by_record(changes).values():
        assert sorted(revisions) == revisions


async def test_checkpoints_of_shards_that_are_gone_are_removed_when_no_child_needs_them(engine: DynamoRecords) -> None:
    copier, stream = await beside(engine, Splitting)
    copier._layouts = copier._feed._layouts = {NOTES.name: engine.layout(NOTES.name)}
    kept: list[set[int]] = []
    for n in range(5):
        for one in "abcd":
            await written(engine, put_note("u", f"{n}{one}"))
        await copier.copy_feed()
        await stream.split()
        await copier.copy_feed()
        # Nothing was written since: of the new shards nothing is stored, and that of their parents says that they begin there.
        stream.gone = n + 1
        # Another process, which knows only what is stored.
        copier._feed._streams.forget()
        await copier.copy_feed()
        checkpoints = await copier._feed._streams._checkpoints(NOTES.name)
        kept.append({int(id[:-1]) for shards in checkpoints.values() for id in shards})
    assert [{0}, {1}, {2}, {3}, {4}] == kept
    assert 20 == len(await all_changes(copier))


async def test_any_number_of_copiers_leave_every_change_once(engine: DynamoRecords) -> None:
    others = [(await beside(engine))[0] for _ in range(3)]

    async def write() -> None:
        for n in range(30):
            await written(engine, put_note("u", f"{n % 5}", stamp=n), update(COUNTERS, ("a",), Add(F("hits"), 1)))

    async def copy(each: DynamoRecords) -> None:
        while not done.is_set():
            await each.copy_feed()

    done = asyncio.Event()
    await written(engine, put(COUNTERS, {"name": "a"}))
    copying = [asyncio.create_task(copy(each)) for each in others]
    await write()
    done.set()
    await asyncio.gather(*copying)
    found = [await all_changes(each) for each in (engine, *others)]
    assert all(each == found[0] for each in found)
    assert 61 == len(found[0]) == len({(change.table, change.key, change.revision) for change in found[0]})


async def test_a_copier_that_was_overtaken_leaves_every_change_once(engine: DynamoRecords) -> None:
    """Between its look at the stream and the log another copies the same."""
    slow, _ = await beside(engine)
    append = slow._feed._append

    async def overtaken(batches: Any) -> None:
        slow._feed._append = append  # type: ignore[method-assign]
        await engine.copy_feed()
        await append(batches)

    slow._feed._append = overtaken  # type: ignore[method-assign]
    await written(engine, *(put_note("u", f"{n}") for n in range(5)))
    await slow.copy_feed()
    await written(engine, put_note("u", "later"))
    for each in (slow, engine):
        assert ["0", "1", "2", "3", "4", "later"] == [change.key[1] for change in await all_changes(each)]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_copy_that_is_cut_off_loses_nothing_and_doubles_nothing(engine: DynamoRecords, when: str) -> None:
    """Between the look at the stream and the log, and between the log and its answer, a copier may die."""
    dying, client = await beside(engine)
    await written(engine, *(put_note("u", f"{n}") for n in range(20)))

    def die(operation: str, *rest: Any) -> Any:
        if operation == "TransactWriteItems":
            raise OutcomeUnknown("killed here")
        return rest[-1]

    if when == "before":
        client.before = die
    else:
        client.after = die
    with pytest.raises(OutcomeUnknown):
        await dying.copy_feed()
    client.before, client.after = (lambda *_: None), (lambda *rest: rest[-1])
    # It may go on itself, or another may.
    both = await asyncio.gather(all_changes(dying), all_changes(engine))
    assert both[0] == both[1]
    assert {f"{n}" for n in range(20)} == {change.key[1] for change in both[0]}
    assert 20 == len(both[0])


def long_keys(count: int, length: int = 1_000) -> list[str]:
    """Return keys that compression makes hardly shorter."""
    rng = random.Random(length)
    return ["".join(chr(rng.randrange(33, 127)) for _ in range(length)) for _ in range(count)]


def sizes_sent(client: Between) -> list[tuple[int, int]]:
    """Note of each transaction how large it is, and its largest item."""
    sent: list[tuple[int, int]] = []

    def measure(operation: str, body: dict[str, Any]) -> None:
        if operation == "TransactWriteItems":
            sizes = [item_size(action["Put"]["Item"]) for action in body["TransactItems"]]
            sent.append((sum(sizes), max(sizes)))

    client.before = measure
    return sent


async def test_what_many_shards_told_of_long_keys_is_stored_in_items_and_transactions_that_fit(engine: DynamoRecords) -> None:
    copier, client = await beside(engine)
    await copier.copy_feed()
    sent = sizes_sent(client)
    keys = list(zip(long_keys(1_800, 2_000), long_keys(1_800), strict=True))
    images = [{"owner": {"S": owner}, "id": {"S": id}, REVISION: {"N": "1"}} for owner, id in keys]
    records = [{"eventName": "INSERT", "dynamodb": {"NewImage": image}} for image in images]
    await copier._feed._append([Batch(NOTES.name, f"shard-{at}", None, "1", True, records[at : at + 300]) for at in range(0, 1_800, 300)])
    assert max(most for _, most in sent) <= MAX_ITEM
    assert 2 <= len(sent)
    assert max(total for total, _ in sent) <= MAX_TRANSACTION
    assert keys == [change.key for change in await all_changes(engine)]


async def test_a_feed_with_long_keys_is_continued_in_transactions_that_fit(engine: DynamoRecords) -> None:
    target, client = await beside(engine)
    sent = sizes_sent(client)
    changes = [Change(n + 1, NOTES.name, (key, key), NOW, "created", Cause()) for n, key in enumerate(long_keys(5_200))]
    await target.continue_feed(changes, len(changes) + 7)
    assert max(most for _, most in sent) <= MAX_ITEM
    assert max(total for total, _ in sent) <= MAX_TRANSACTION
    found = await engine._feed.logged(0, 6_000)
    assert changes == found.changes
    assert len(changes) + 7 == found.head


async def test_a_copy_that_failed_is_made_up_for_by_the_next_question(engine: DynamoRecords) -> None:
    """However soon it comes: what this process wrote, it finds in its feed."""
    wrapped = Between(await client_of(ministack().endpoint))
    writer = DynamoRecords(cast("Any", wrapped), TABLES, prefix=engine.prefix, pace_s=0.2)
    OTHERS.append(writer)

    def fail(operation: str, body: dict[str, Any]) -> None:
        if operation == "DescribeStream":
            raise Unavailable("no stream now")

    await written(writer, put_note("u", "1"))
    wrapped.before = fail
    with pytest.raises(Unavailable):
        await writer.changes(None, 0)
    wrapped.before = lambda operation, body: None
    assert 1 == (await writer.changes(None, 0)).head


async def test_records_that_left_the_stream_uncopied_are_told_as_trimmed(engine: DynamoRecords) -> None:
    await written(engine, put_note("u", "1"))
    before = (await all_changes(engine))[-1].position
    late, client = await beside(engine)
    await written(engine, put_note("u", "2"))
    asked: list[str] = []

    def trim(operation: str, body: dict[str, Any]) -> None:
        if operation == "GetShardIterator" and "SequenceNumber" in body and not asked:
            asked.append(operation)
            raise trimmed()

    client.before = trim
    with pytest.raises(Trimmed):
        await late.changes(before, 10)
    assert asked
    # From the oldest kept a reader goes on, and later changes follow.
    start = await late.changes(None, 10)
    await written(engine, put_note("u", "3"))
    assert "3" in {change.key[1] for change in (await late.changes(start.last, 10)).changes}


@pytest.mark.parametrize("running", [True, False])
async def test_what_was_written_while_a_table_had_no_stream_is_told_as_trimmed(engine: DynamoRecords, running: bool) -> None:
    """Who switches a stream off and on again by hand has another one, which begins with what is written from then on."""
    name = engine.prefix + NOTES.name
    await written(engine, put_note("u", "before"))
    at = (await all_changes(engine))[-1].position
    await engine.client.call("UpdateTable", {"TableName": name, "StreamSpecification": {"StreamEnabled": False}})
    await written(engine, put_note("u", "untold"))
    on = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
    await engine.client.call("UpdateTable", {"TableName": name, "StreamSpecification": on})
    reader = engine if running else (await beside(engine))[0]
    await written(engine, put_note("u", "after"))
    with pytest.raises(Trimmed):
        await reader.changes(at, 10)
    start = (await reader.changes(None, 0)).head
    assert ["after"] == [change.key[1] for change in (await reader.changes(None, 10)).changes]
    await written(engine, put_note("u", "later"))
    assert ["later"] == [change.key[1] for change in (await reader.changes(start, 10)).changes]


async def test_what_is_changed_by_hand_is_a_change_too(engine: DynamoRecords) -> None:
    name = engine.prefix + NOTES.name
    await written(engine, put_note("u", "1"), put_note("u", "2"))
    await engine.client.call("DeleteItem", {"TableName": name, "Key": {"owner": {"S": "u"}, "id": {"S": "1"}}})
    await engine.client.call("PutItem", {"TableName": name, "Item": {"owner": {"S": "u"}, "id": {"S": "3"}, "text": {"S": "by hand"}}})
    edit = {
        "UpdateExpression": "SET #0 = :0",
        "ExpressionAttributeNames": {"#0": "text"},
        "ExpressionAttributeValues": {":0": {"S": "edited"}},
    }
    await engine.client.call("UpdateItem", {"TableName": name, "Key": {"owner": {"S": "u"}, "id": {"S": "2"}}, **edit})
    found = {key[1]: changes for (_, key), changes in by_record(await all_changes(engine)).items()}
    assert [(NOW, "created"), (NOW + 1, "deleted")] == found["1"]
    assert [(NOW, "created"), (NOW, "updated")] == found["2"]
    assert ["created"] == [kind for _, kind in found["3"]]
    # A record without a revision is written like any other.
    await written(engine, update(NOTES, ("u", "3"), Add(F("stamp"), 1)))
    assert (NOW, "updated") == by_record(await all_changes(engine))[NOTES.name, ("u", "3")][-1]


async def test_what_dynamodb_expires_by_itself_has_its_own_kind(engine: DynamoRecords) -> None:
    copier, client = await beside(engine)
    await written(engine, put_note("u", "1"))
    await engine.client.call("DeleteItem", {"TableName": engine.prefix + NOTES.name, "Key": {"owner": {"S": "u"}, "id": {"S": "1"}}})

    def by_the_service(operation: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        for record in answer.get("Records", ()) if operation == "GetRecords" else ():
            if record["eventName"] == "REMOVE":
                record["userIdentity"] = {"Type": "Service", "PrincipalId": "dynamodb.amazonaws.com"}
        return answer

    client.after = by_the_service
    changes = await all_changes(copier)
    assert [(NOW, "created"), (NOW + 1, "expired")] == [(change.revision, change.kind) for change in changes]


async def test_a_deletion_tells_its_reason_whoever_copies_it_and_when(engine: DynamoRecords) -> None:
    for n in range(3):
        await written(engine, put_note("u", "1", stamp=n), now_us=NOW + n)
        await written(engine, delete(NOTES, "u", "1", expired=n == 1), now_us=NOW + 100 + n)
    late, _ = await beside(engine)
    changes = await all_changes(late)
    assert ["created", "deleted", "created", "expired", "created", "deleted"] == [change.kind for change in changes]
    assert [NOW, NOW + 100, NOW + 1, NOW + 101, NOW + 2, NOW + 102] == [change.revision for change in changes]


async def test_a_projection_that_writes_a_record_for_each_change_takes_fewer_at_once(engine: DynamoRecords) -> None:
    await engine.apply(CreateTable(SYSTEM))

    class Copying:
        name = "copying"

        async def apply(self, changes: Sequence[Change]) -> Sequence[Op]:
            return [Put(system("copy", f"{change.position}"), {"scope": "copy", "name": f"{change.position}"}) for change in changes]

        async def rebuild(self) -> None:
            raise AssertionError("nothing was trimmed")

    await loaded(engine, *(put_note("u", f"{n:03}") for n in range(250)))
    runner = Runner(engine, [Copying()], SystemClock())
    await runner.settle(10)
    page = await engine.scan(SYSTEM.name, after=None, limit=1000)
    assert 250 == sum(record["scope"] == "copy" for record in page.records)
