"""The feed: an ordered log of changes, copied out of the tables' streams by whoever asks for them.

A copy is one transaction: the next segment of the log, the new head, and the checkpoint of every shard that was read, each
conditioned on what it was before. So any number of copiers may work at once, or die at any point, and every change is in the
log once. Positions are given here, one after the other, and never again.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from palaver.connections.dynamodb import ConditionalCheckFailed, DynamoClient, TransactionCancelled
from palaver.errors import Conflict, NotProvisioned, Trimmed
from palaver.ops import REVISION, Cause, Change, ChangePage
from palaver.records import dynamo_requests as requests
from palaver.records.dynamo_items import QUIET, address_of, read_cause
from palaver.records.dynamo_keys import CAUSE, Layout
from palaver.records.dynamo_read_requests import MAX_GETS
from palaver.records.dynamo_values import Item
from palaver.records.dynamodb_segments import MOST, SENT_BYTES, Segment, segments, unpacked
from palaver.records.dynamodb_streams import Batch, Streams

AT_ONCE = 5_000
ACTIONS = 100
ATTEMPTS = 20
LOG = "log"
_HEAD: Item = {"pk": {"S": "feed"}, "sk": {"S": "head"}}
_SERVICE = "dynamodb.amazonaws.com"


class Head(NamedTuple):
    """The last position given, and the last one forgotten; not `stored` before the first."""

    position: int = 0
    trimmed: int = 0
    stored: bool = False


def _place(position: int) -> dict[str, str]:
    return {"S": f"{position:030d}"}


class Feed:
    """The log of one prefix. `pace_s` is the least time between two looks at the streams, for all that was written elsewhere."""

    def __init__(
        self, client: DynamoClient, own: str, layouts: Mapping[str, Layout], *, pace_s: float, sleep: Callable[[float], Awaitable[object]]
    ) -> None:
        self._client = client
        self._own = own
        self._layouts = layouts
        self._streams = Streams(client, own)
        self._pace_s = pace_s
        self._sleep = sleep
        self._pulling = asyncio.Lock()
        self._pulled_at = float("-inf")
        self._written = asyncio.Event()
        self._dirty = False

    def wrote(self) -> None:
        """Note that this process wrote something, which it wants to see in its feed at once."""
        self._dirty = True
        self._written.set()

    def forget(self, table: str) -> None:
        self._streams.forget(table)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def changes(self, after: int | None, limit: int) -> ChangePage:
        head = await self.head()
        start = head.trimmed if after is None else after
        if start + limit >= head.position or limit == 0:
            await self.pull()
            head = await self.head()
            start = head.trimmed if after is None else after
        if start < head.trimmed:
            raise Trimmed("The feed does not reach back to this position.")
        found = await self._log(start, limit) if limit and start < head.position else []
        last = found[-1].position if found else start
        if limit and len(found) < limit:
            # A head may hold no change: nothing up to it is left to be read.
            last = max(last, head.position)
        return ChangePage(found, last, max(head.position, last))

    async def logged(self, after: int, limit: int) -> ChangePage:
        """Return changes that are in the log already."""
        head = await self.head()
        if after < head.trimmed:
            raise Trimmed("The feed does not reach back to this position.")
        found = await self._log(after, limit) if after < head.position else []
        last = found[-1].position if len(found) == limit else max(after, head.position)
        return ChangePage(found, last, max(head.position, last))

    async def head(self) -> Head:
        try:
            answer = await self._client.call("GetItem", {"TableName": self._own, "Key": _HEAD, "ConsistentRead": True})
        except NotProvisioned:
            return Head()
        item = answer.get("Item")
        return Head(int(item["position"]["N"]), int(item["trimmed"]["N"]), True) if item else Head()

    async def _log(self, after: int, limit: int) -> list[Change]:
        found: list[Change] = []
        async for _, _, changes in self._segments(after, -(-limit // MOST) + 1):
            found += [change for change in changes if change.position > after]
            if len(found) >= limit:
                break
        return found[:limit]

    async def _segments(self, after: int, at_once: int) -> Any:
        """Yield segments that end after a position: where each begins, where it ends, and its changes."""
        body: dict[str, Any] = {
            "TableName": self._own,
            "KeyConditionExpression": "pk = :0 AND sk > :1",
            "ExpressionAttributeValues": {":0": {"S": LOG}, ":1": _place(after)},
            "ConsistentRead": True,
            "Limit": at_once,
        }
        while True:
            answer = await self._client.call("Query", body)
            for item in answer["Items"]:
                changes = unpacked(item["changes"]["B"])
                yield changes[0].position, int(item["sk"]["S"]), changes
            if "LastEvaluatedKey" not in answer:
                return
            body["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def wait_for_change(self, after: int, timeout: float) -> bool:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while True:
            self._written.clear()
            if (await self.head()).position > after:
                return True
            await self.pull()
            if (await self.head()).position > after:
                return True
            left = until - loop.time()
            if left <= 0:
                return False
            try:
                async with asyncio.timeout(min(left, max(self._pace_s, 0.05))):
                    await self._written.wait()
            except TimeoutError:
                continue

    # --- copying ----------------------------------------------------------------------------------------------------

    async def pull(self, *, at_once: bool = False) -> None:
        """Copy what the streams hold into the log, never more often than the pace.

        Called too early it waits where this process wrote, or `at_once` says so, and otherwise leaves it to the next call.
        """
        async with self._pulling:
            loop = asyncio.get_running_loop()
            early = self._pulled_at + self._pace_s - loop.time()
            if early > 0:
                if not (self._dirty or at_once):
                    return
                await self._sleep(early)
            self._dirty = False
            self._pulled_at = loop.time()
            names = {table: layout.name for table, layout in self._layouts.items() if layout.table.feed}
            try:
                await self._copied(names)
            except BaseException:
                # What this process wrote is still not in its feed.
                self._dirty = True
                raise

    async def _copied(self, names: Mapping[str, str]) -> None:
        for attempt in range(ATTEMPTS):
            try:
                return await self._copy(names)
            except (TransactionCancelled, ConditionalCheckFailed, Conflict):
                # Another copier was faster: go on from where it stands.
                self._streams.forget()
                await self._sleep(0.002 * attempt)
        raise Conflict("Other processes kept copying the feed.", hint="Try again after a random pause.")

    async def _copy(self, names: Mapping[str, str]) -> None:
        while batches := await self._streams.read(names):
            # What gave nothing has nothing for now; the others may have more.
            names = {batch.table: names[batch.table] for batch in batches}
            some: list[Batch] = []
            count = 0
            for batch in batches:
                if some and (count + len(batch.records) > AT_ONCE or len(some) >= 50):
                    await self._append(some)
                    some, count = [], 0
                some.append(batch)
                count += len(batch.records)
            await self._append(some)

    async def _append(self, batches: Sequence[Batch]) -> None:
        """Put batches into the log, with their checkpoints, in one transaction."""
        head = await self.head()
        position, trimmed, _ = head
        told = await self._tombstones([each for batch in batches for each in self._gone(batch)])
        changes: list[Change] = []
        for batch in batches:
            if batch.lost:
                # Whoever reads the feed must learn that something is missing: nobody is at or past this position yet.
                position += 1
                trimmed = position
                changes = []
                continue
            layout = self._layouts[batch.table]
            for record in batch.records:
                change = self._change(layout, record["eventName"], record, told)
                if change is not None:
                    position += 1
                    changes.append(change._replace(position=position))
        packed = segments(changes)
        if len(batches) > 1 and (len(batches) + 1 + len(packed) > ACTIONS or sum(each.size for each in packed) > SENT_BYTES):
            half = len(batches) // 2
            await self._append(batches[:half])
            return await self._append(batches[half:])
        actions = [self._checkpoint(batch) for batch in batches]
        if position > head.position:
            actions.append(self._move_head(head, Head(position, trimmed)))
            actions += map(self._segment, packed)
        await self._transact(actions)
        for batch in batches:
            self._streams.took(batch)

    def _checkpoint(self, batch: Batch) -> dict[str, Any]:
        item = self._streams.key(batch) | {"done": {"BOOL": batch.done}}
        if batch.upto is not None:
            item["sequence"] = {"S": batch.upto}
        body: dict[str, Any] = {"TableName": self._own, "Item": item}
        if batch.before is None:
            body["ConditionExpression"] = "attribute_not_exists(#0) AND (attribute_not_exists(done) OR done = :0)"
            body["ExpressionAttributeNames"] = {"#0": "sequence"}
            body["ExpressionAttributeValues"] = {":0": {"BOOL": False}}
        else:
            body["ConditionExpression"] = "#0 = :0 AND done = :1"
            body["ExpressionAttributeNames"] = {"#0": "sequence"}
            body["ExpressionAttributeValues"] = {":0": {"S": batch.before}, ":1": {"BOOL": False}}
        return {"Put": body}

    def _move_head(self, head: Head, to: Head) -> dict[str, Any]:
        item = _HEAD | {"position": {"N": str(to.position)}, "trimmed": {"N": str(to.trimmed)}}
        body: dict[str, Any] = {"TableName": self._own, "Item": item}
        if not head.stored:
            body["ConditionExpression"] = "attribute_not_exists(pk)"
        else:
            body["ConditionExpression"] = "#0 = :0 AND trimmed = :1"
            body["ExpressionAttributeNames"] = {"#0": "position"}
            body["ExpressionAttributeValues"] = {":0": {"N": str(head.position)}, ":1": {"N": str(head.trimmed)}}
        return {"Put": body}

    def _segment(self, segment: Segment) -> dict[str, Any]:
        item = {"pk": {"S": LOG}, "sk": _place(segment.last), "changes": {"B": segment.packed}}
        return {"Put": {"TableName": self._own, "Item": item, "ConditionExpression": "attribute_not_exists(pk)"}}

    # --- from stream records to changes -----------------------------------------------------------------------------

    def _gone(self, batch: Batch) -> list[Item]:
        """Return where the tombstones of a batch's deletions would lie."""
        layout = self._layouts[batch.table]
        removed = [record["dynamodb"]["OldImage"] for record in batch.records if record["eventName"] == "REMOVE" and not _is_expiry(record)]
        return [requests.gone_key(batch.table, address_of(layout, image).key, _revision(image)) for image in removed]

    async def _tombstones(self, keys: Sequence[Item]) -> dict[str, Item]:
        found: dict[str, Item] = {}
        for start in range(0, len(keys), MAX_GETS):
            some = {key["pk"]["S"] + key["sk"]["S"]: key for key in keys[start : start + MAX_GETS]}
            answer = await self._client.batch_get({self._own: {"Keys": list(some.values()), "ConsistentRead": True}})
            for item in answer.get(self._own, ()):
                found[item["pk"]["S"] + item["sk"]["S"]] = item
        return found

    def _change(self, layout: Layout, event: str, record: dict[str, Any], told: Mapping[str, Item]) -> Change | None:
        images = record["dynamodb"]
        if event == "REMOVE":
            return self._removal(layout, record, images["OldImage"], told)
        new, old = images["NewImage"], images.get("OldImage")
        why = new.get(CAUSE)
        if why and QUIET in why["M"] and (old is None or old.get(CAUSE) != why):
            return None
        cause, released = read_cause(why)
        at = address_of(layout, new)
        # Written by hand, without a revision: the instant is what a revision would be.
        revision = _revision(new) or int(float(images.get("ApproximateCreationDateTime", time.time())) * 1_000_000)
        return Change(0, at.table, at.key, revision, "created" if event == "INSERT" else "updated", cause, released)

    def _removal(self, layout: Layout, record: dict[str, Any], image: Item, told: Mapping[str, Item]) -> Change | None:
        at, revision = address_of(layout, image), _revision(image)
        if _is_expiry(record):
            return Change(0, at.table, at.key, revision + 1, "expired", Cause())
        key = requests.gone_key(at.table, at.key, revision)
        stone = told.get(key["pk"]["S"] + key["sk"]["S"])
        if stone is None:
            # Removed by hand.
            return Change(0, at.table, at.key, revision + 1, "deleted", Cause())
        if QUIET in stone:
            return None
        cause, released = read_cause(stone.get(CAUSE))
        kind: Any = stone["kind"]["S"]
        return Change(0, at.table, at.key, int(stone["revision"]["N"]), kind, cause, released)

    # --- from another database --------------------------------------------------------------------------------------

    async def continue_feed(self, changes: Sequence[Change], last: int, gap: bool) -> None:
        """Append changes at their own positions; a change at or below the head is there already."""
        lost = 0
        while lost < ATTEMPTS:
            head = await self.head()
            new = [change for change in changes if change.position > head.position and change.table in self._layouts]
            packed = _within(segments(new[:AT_ONCE]))
            is_rest = not packed or packed[-1].last == new[-1].position
            to = max(head.position, last, *(each.last for each in packed)) if is_rest else packed[-1].last
            begins = gap and last >= head.position
            if to == head.position and head.stored and (not begins or head.trimmed == to):
                return
            actions = [self._move_head(head, Head(to, to if begins else head.trimmed)), *map(self._segment, packed)]
            try:
                await self._transact(actions)
            except TransactionCancelled:
                await self._sleep(0.002 * lost)
                lost += 1
                continue
            if is_rest:
                return
        raise Conflict("Other processes kept writing the feed.", hint="Try again after a random pause.")

    async def _transact(self, actions: Sequence[dict[str, Any]]) -> None:
        await self._client.call("TransactWriteItems", {"TransactItems": actions, "ClientRequestToken": uuid.uuid4().hex})

    # --- forgetting -------------------------------------------------------------------------------------------------

    async def trim(self, before: int) -> int:
        """Forget changes below a position; return how many."""
        while True:
            head = await self.head()
            target = min(before - 1, head.position)
            if target <= head.trimmed:
                return 0
            ends: list[int] = []
            forgotten = 0
            async for first, last, changes in self._segments(head.trimmed, 10):
                if first > target:
                    break
                forgotten += sum(head.trimmed < change.position <= target for change in changes)
                ends += [last] if last <= target else []
            move = self._move_head(head, Head(head.position, target))["Put"]
            try:
                await self._client.call("PutItem", move, idempotent=False)
            except ConditionalCheckFailed:
                continue
            deletes = [(self._own, {"DeleteRequest": {"Key": {"pk": {"S": LOG}, "sk": _place(end)}}}) for end in ends]
            for batch in requests.batches(deletes):
                await self._client.batch_write(batch)
            return forgotten


def _within(packed: Sequence[Segment]) -> list[Segment]:
    """Return the first segments, as many as one transaction takes."""
    out: list[Segment] = []
    size = 0
    for segment in packed:
        size += segment.size
        if out and (size > SENT_BYTES or len(out) + 1 >= ACTIONS):
            break
        out.append(segment)
    return out


def _is_expiry(record: Mapping[str, Any]) -> bool:
    """Say whether DynamoDB itself removed the record, because its time was over."""
    who = record.get("userIdentity") or {}
    return str(who.get("PrincipalId") or who.get("principalId") or "") == _SERVICE


def _revision(image: Item) -> int:
    return int(image[REVISION]["N"]) if REVISION in image else 0
