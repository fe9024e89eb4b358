"""What a write set does to DynamoDB: one conditional request or one transaction, and a second look where a condition failed.

First it is tried unseen, with the guards as conditions. What DynamoDB cannot judge is read, judged by the same functions as
in memory and written on the revision read. A failed condition brings the record that failed it, so the second try knows it.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from palaver.connections.dynamodb import ConditionalCheckFailed, DynamoClient, TransactionCancelled
from palaver.errors import BatchShape, Conflict, NotProvisioned, Validation
from palaver.ops import (
    Address,
    Cause,
    Check,
    Delete,
    Failure,
    Op,
    Put,
    Refused,
    Update,
    WriteSet,
    Written,
    holds,
    revision_of,
)
from palaver.records import dynamo_requests as requests
from palaver.records.dynamo_conditions import NotNative
from palaver.records.dynamo_items import cause_of, item_of, record_of
from palaver.records.dynamo_keys import Layout, key_of
from palaver.records.dynamo_read_requests import gets
from palaver.records.dynamo_requests import UNSEEN, Action, Writing
from palaver.records.dynamo_values import MAX_ITEM, Item
from palaver.records.dynamodb_queues import Queues
from palaver.values import KeyPart, Record

ATTEMPTS = 25
PAUSE_S = 0.002
PAUSE_MOST_S = 0.1
TOMBSTONE_S = 2 * 86_400
"""A stream keeps its records for a day; what they need to be read is kept for two."""
IN_FLIGHT = 16
DELETES_AT_ONCE = 50
Batch: TypeAlias = "dict[str, list[dict[str, Any]]]"
Fetch: TypeAlias = "Callable[[Sequence[Address]], Awaitable[list[Record | None]]]"
Revisions: TypeAlias = "Callable[[Sequence[Address]], Awaitable[Mapping[Address, int]]]"


class Writes:
    """Turns write sets into requests, for as many tables as are known at the time."""

    def __init__(self, client: DynamoClient, layouts: Mapping[str, Layout], own: str, fetch: Fetch, revisions: Revisions) -> None:
        self.client = client
        self.fetch = fetch
        self._layouts = layouts
        self._own = own
        self._revisions = revisions
        self.queues = Queues()
        self._flights = asyncio.Semaphore(IN_FLIGHT)

    def layout(self, table: str) -> Layout:
        found = self._layouts.get(table)
        if found is None:
            raise NotProvisioned(f"There is no table {table}.", table=table)
        return found

    def writing(self, writes: WriteSet) -> Writing:
        # The service's own clock removes tombstones, so the system's time counts and not an injected one.
        return Writing(writes.now_us, writes.cause, self._own, int(time.time()) + TOMBSTONE_S)

    async def write(self, writes: WriteSet) -> Written | Refused:
        layouts = [self.layout(op.at.table) for op in writes.ops]
        if not writes.ops:
            return Written((), ())
        for layout, op in zip(layouts, writes.ops, strict=True):
            layout.check_key(op.at.key)
        return await _Commit(self, writes.ops, layouts, self.writing(writes), returning=writes.returning).run()

    def explain(self, writes: WriteSet) -> list[tuple[str, dict[str, Any]]]:
        """Return what is sent first for a write set: the reads it needs, or its requests."""
        layouts = [self.layout(op.at.table) for op in writes.ops]
        return _Commit(self, writes.ops, layouts, self.writing(writes), returning=writes.returning).explain()

    # --- loading ----------------------------------------------------------------------------------------------------

    async def load(self, table: str, records: Sequence[Record], now_us: int, cause: Cause) -> list[int]:
        """Put each record by itself; two of one key one after the other."""
        layout = self.layout(table)
        keys = [key_of(layout, record) for record in records]
        for key in keys:
            layout.check_key(key)
        revisions: list[int] = []
        wave: dict[Address, Record] = {}
        for key, record in zip(keys, records, strict=True):
            at = Address(table, key)
            if at in wave:
                revisions += await self._put_all(layout, wave, now_us, cause)
                wave = {}
            wave[at] = record
        return revisions + await self._put_all(layout, wave, now_us, cause)

    async def _put_all(self, layout: Layout, records: Mapping[Address, Record], now_us: int, cause: Cause) -> list[int]:
        """Put in batches of 25. A batch takes no condition, so the revisions to be replaced are read first."""
        if not records:
            return []
        known = await self._revisions(list(records))
        puts: list[tuple[Record, int]] = []
        for at, record in records.items():
            old = known.get(at) if known else None
            puts.append((record, now_us if old is None or old < now_us else old + 1))
        chunks = [puts[start : start + requests.MAX_WRITES] for start in range(0, len(puts), requests.MAX_WRITES)]
        # Whatever cannot be sent is found before anything is.
        batches = [self._batch(layout, chunk, cause) for chunk in chunks]
        if len(batches) == 1:
            await self._send_batch(*batches[0])
        else:
            await asyncio.gather(*(self._send_batch(*batch) for batch in batches))
        return [revision for _, revision in puts]

    def _batch(self, layout: Layout, puts: Sequence[tuple[Record, int]], cause: Cause) -> tuple[Batch, bytes]:
        """Return at most 25 puts as one request, and its text."""
        batch = self._puts(layout, puts, cause, fits=True)
        payload = self.client.encoded_batch(batch)
        if len(payload) > MAX_ITEM:
            # Only then can one of its items be too large.
            batch = self._puts(layout, puts, cause, fits=False)
            payload = self.client.encoded_batch(batch)
        return batch, payload

    def _puts(self, layout: Layout, puts: Sequence[tuple[Record, int]], cause: Cause, *, fits: bool) -> Batch:
        about = cause_of(cause) if layout.table.feed else None
        items = [item_of(layout, record, revision, about, fits=fits) for record, revision in puts]
        return {layout.name: [{"PutRequest": {"Item": item}} for item in items]}

    # --- from another database --------------------------------------------------------------------------------------

    async def restore(
        self, table: str, records: Sequence[Record], gone: Sequence[tuple[KeyPart, ...]], over: bool
    ) -> list[tuple[KeyPart, ...]]:
        """Store and remove without a change in the feed; return the keys whose stored records are newer."""
        layout = self.layout(table)
        quiet = uuid.uuid4().hex
        bodies = [requests.restored(layout, record, quiet, over=over) for record in records]
        if over:
            wanted = [(layout.name, {"PutRequest": {"Item": body["Item"]}}) for body in bodies]
            await asyncio.gather(*map(self._send_batch, requests.batches(wanted)))
            stayed: list[tuple[KeyPart, ...]] = []
        else:
            newer = await asyncio.gather(*map(self._stays, bodies))
            stayed = [key_of(layout, record) for record, stays in zip(records, newer, strict=True) if stays]
        if not layout.table.feed:
            keys = [(layout.name, {"DeleteRequest": {"Key": layout.key(key)}}) for key in gone]
            await asyncio.gather(*map(self._send_batch, requests.batches(keys)))
            return stayed
        deletes = [Delete(Address(table, key)) for key in gone]
        writing = self.writing(WriteSet(deletes, 0))._replace(quiet=quiet)
        groups = [deletes[start : start + DELETES_AT_ONCE] for start in range(0, len(deletes), DELETES_AT_ONCE)]
        await asyncio.gather(*(self._remove(layout, each, writing) for each in groups))
        return stayed

    async def _stays(self, body: dict[str, Any]) -> bool:
        async with self._flights:
            try:
                # Storing the same once more is harmless: its revision is not lower than its own.
                await self.client.call("PutItem", body, idempotent=True)
            except ConditionalCheckFailed:
                return True
        return False

    async def _remove(self, layout: Layout, deletes: Sequence[Delete], writing: Writing) -> None:
        async with self._flights:
            await _Commit(self, deletes, [layout] * len(deletes), writing).run()

    async def _send_batch(self, batch: Batch, payload: bytes | None = None) -> None:
        async with self._flights:
            await self.client.batch_write(batch, payload=payload)


class _Commit:
    """One write set on its way: what is known of its records, and what is tried next."""

    def __init__(self, writes: Writes, ops: Sequence[Op], layouts: Sequence[Layout], writing: Writing, *, returning: bool = True) -> None:
        self._writes = writes
        self._returning = returning
        self._ops = ops
        self._layouts = layouts
        self._writing = writing
        self._alone = len(ops) == 1
        # What is stored, where it was read; an update may go on unseen although the record is known.
        self._found: dict[int, Record | None] = {}
        self._blind: set[int] = set(range(len(ops)))
        self._cleared: set[int] = set()
        self._unseen: dict[int, list[Action]] = {}
        self._ahead = False
        self._actions: list[list[Action]] = []
        # DynamoDB takes one action on an item: of several ops on a record all are judged here, and only a write is sent.
        self._shared: dict[Address, list[int]] = {ops[0].at: [0]} if self._alone else {}
        if not self._alone:
            for number, op in enumerate(ops):
                self._shared.setdefault(op.at, []).append(number)

    async def run(self) -> Written | Refused:
        """Try once; where others were faster, wait for a turn among those of this process, and go on against those of others."""
        queues = self._writes.queues
        if crowded := queues.among(self._shared):
            async with queues.turn(crowded):
                done = await self._try()
        else:
            done = await self._try()
        if done is not None:
            return done
        async with queues.turn(self._shared):
            for attempt in range(1, ATTEMPTS):
                await asyncio.sleep(random.random() * min(PAUSE_MOST_S, PAUSE_S * 2**attempt))
                done = await self._try()
                if done is not None:
                    return done
        raise Conflict("Other writers kept changing the same records.", hint="Try again after a random pause.")

    async def _try(self) -> Written | Refused | None:
        missing = self._plan()
        if missing and (refused := await self._prepare(missing)) is not None:
            return refused
        answer = await self._send()
        if answer is not None:
            return self._written(answer)
        return await self._refusal()

    def explain(self) -> list[tuple[str, dict[str, Any]]]:
        missing = self._plan()
        if missing:
            asked = ((self._layouts[number], self._ops[number].at.key) for number in missing)
            return [("BatchGetItem", {"RequestItems": body}) for body in gets(asked, True)]
        flat = [action for actions in self._actions for action in actions]
        if len(flat) == 1 and flat[0].kind != "ConditionCheck":
            return [requests.single(flat[0])]
        return [("TransactWriteItems", requests.transaction(flat, ""))]

    # --- deciding ---------------------------------------------------------------------------------------------------

    async def _prepare(self, missing: list[int]) -> Refused | None:
        """Read and judge what DynamoDB cannot judge, until all actions are made."""
        while missing:
            await self._look(missing)
            refused = await self._refusal()
            if refused is not None:
                return refused
            missing = self._plan()
        return None

    def _plan(self) -> list[int]:
        """Fill in the actions of every op; return those whose record has to be read first."""
        self._actions = []
        missing: list[int] = []
        for number in range(len(self._ops)):
            try:
                self._actions.append(self._actions_of(number))
            except NotNative:
                self._actions.append([])
                missing.append(number)
            except Validation:
                if not self._blind - self._cleared:
                    raise
                # A refusal comes before an error: whether another op is refused must be known first.
                return sorted(self._blind)
        return missing

    def _actions_of(self, number: int) -> list[Action]:
        op, layout, writing = self._ops[number], self._layouts[number], self._writing
        seen = UNSEEN if number in self._blind else self._found[number]
        sharing = self._shared[op.at]
        if len(sharing) > 1:
            if seen is UNSEEN:
                raise NotNative
            writers = [each for each in sharing if not isinstance(self._ops[each], Check)]
            if len(writers) > 1:
                raise BatchShape("A batch writes one record twice.", hint="Make it one write, or two batches.")
            if number != (writers or sharing)[0]:
                return []
        match op:
            case Put() if seen is UNSEEN:
                # Asked for again after others were read, it is the same.
                if number not in self._unseen:
                    self._unseen[number] = [requests.put(layout, op, writing)]
                return self._unseen[number]
            case Put():
                return [requests.put(layout, op, writing, seen)]
            case Update() if seen is UNSEEN:
                if self._returning and not self._alone:
                    raise NotNative  # a transaction does not say what an update made of a record
                return [requests.update(layout, op, writing, ahead=self._ahead)]
            case Update() if seen is not None:
                return [requests.updated(layout, op, writing, seen)]
            case Delete() if seen is not None:
                return requests.delete(layout, op, writing, seen)
            case Check() if not self._alone:
                return [requests.check(layout, op, writing, seen)]
            case _ if seen is UNSEEN:
                raise NotNative
        # Nothing to do alone; beside other ops, nothing may come to be there meanwhile.
        return [] if self._alone else [requests.check(layout, Check(op.at, ()), writing, None)]

    async def _look(self, numbers: Sequence[int]) -> None:
        records = await self._writes.fetch([self._ops[number].at for number in numbers])
        self._found.update(zip(numbers, records, strict=True))
        self._blind.difference_update(numbers)

    async def _refusal(self) -> Refused | None:
        """Judge what is known; where something fails, judge everything, because every failure is listed."""
        if not self._failures():
            return None
        unknown = [n for n, op in enumerate(self._ops) if op.guards and n not in self._found and n not in self._cleared]
        if unknown:
            await self._look(unknown)
        return Refused(self._failures())

    def _failures(self) -> list[Failure]:
        failures = []
        for number in sorted(self._found):
            record = self._found[number]
            for guard in self._ops[number].guards:
                if not holds(guard, self._layouts[number].table, record, self._writing.now_us):
                    failures.append(Failure(number, guard, record))
                    break
        return failures

    # --- sending ----------------------------------------------------------------------------------------------------

    async def _send(self) -> dict[str, Any] | None:
        """Send the actions and return the answer; None where a condition failed, with what was found noted."""
        flat = self._actions[0] if self._alone else [action for actions in self._actions for action in actions]
        if not flat:
            return {}
        self._cleared = set()
        lost: list[int] = []
        client = self._writes.client
        try:
            if len(flat) == 1 and flat[0].kind != "ConditionCheck":
                return await client.call(*requests.single(flat[0]), idempotent=False)
            body = requests.transaction(flat, os.urandom(16).hex())
            return await client.call("TransactWriteItems", body, idempotent=True)
        except ConditionalCheckFailed as failed:
            self._note(0, failed.item, lost)
        except TransactionCancelled as cancelled:
            owners = [number for number, actions in enumerate(self._actions) for _ in actions]
            for owner, reason in zip(owners, cancelled.reasons, strict=True):
                if reason.code == "ConditionalCheckFailed":
                    self._note(owner, reason.item, lost)
            # What is not named had its condition fulfilled, and a condition is never laxer than its guards.
            self._cleared = {owner for owner, reason in zip(owners, cancelled.reasons, strict=True) if reason.code == "None"}
        except BatchShape:
            raise
        except Validation:
            if not self._blind:
                raise
            # Done here it either works or says precisely why it cannot.
            lost = sorted(self._blind)
        if lost:
            await self._look(lost)
        return None

    def _note(self, number: int, item: Item | None, lost: list[int]) -> None:
        """Keep the record that failed a condition. None may also mean that the server does not tell."""
        if item is None:
            lost.append(number)
            return
        record = record_of(self._layouts[number], item)
        for each in self._shared[self._ops[number].at]:
            self._found[each] = record
        is_blind_update = isinstance(self._ops[number], Update) and self._alone and number in self._blind
        if is_blind_update and not self._ahead and revision_of(record) >= self._writing.now_us:
            self._ahead = True
        else:
            self._blind.discard(number)

    def _written(self, answer: Mapping[str, Any]) -> Written:
        revisions: list[int | None] = []
        updated: list[Record | None] = []
        for number, actions in enumerate(self._actions):
            op = self._ops[number]
            revision, after = (actions[0].revision, actions[0].after) if actions else (None, None)
            if isinstance(op, Update):
                if after is None and "Attributes" in answer:
                    after = record_of(self._layouts[number], answer["Attributes"])
                    revision = revision_of(after)
                updated.append(after)
            else:
                updated.append(None)
                if not isinstance(op, Put):
                    revision = None
            revisions.append(revision)
        return Written(revisions, updated)
