"""The structure of DynamoDB: tables made and changed step by step, each resumable, and read back with what the catalog says.

A step waits until DynamoDB has finished: an index that is being built is not there yet.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from palaver.connections.dynamodb import ConditionalCheckFailed, DynamoClient
from palaver.errors import ConfigError, Forbidden, NotProvisioned, Validation
from palaver.ops import (
    REVISION,
    AddColumn,
    CreateIndex,
    CreateTable,
    DropIndex,
    Physical,
    Step,
    Table,
)
from palaver.records import dynamo_tables as tables
from palaver.records.dynamo_items import pack_aside, read_aside, record_of
from palaver.records.dynamo_keys import ASIDE, DUE, EXPIRY, Layout, key_value
from palaver.records.dynamo_tables import CATALOG, OWN, TableOptions
from palaver.stored_json import dumps, loads
from palaver.structure import AlterColumn, DropColumn, DropTable, RenameColumn, RenameTable, SetExpiry, after_step

WAIT_S = 0.05
WAIT_MOST_S = 5.0
PATIENCE_S = 3_600.0
"""Building an index over many records takes long; a step that gave up is taken again where it stood."""
_STAMP = {"pk": {"S": CATALOG}, "sk": {"S": "#stamp"}}


class Structure:
    """Makes, changes and describes the tables of one prefix."""

    def __init__(self, client: DynamoClient, prefix: str, layouts: MutableMapping[str, Layout], options: TableOptions) -> None:
        self._client = client
        self._prefix = prefix
        self._layouts = layouts
        self._options = options
        self.own = prefix + OWN

    def layout(self, table: Table) -> Layout:
        feed = table.feed and self._options.feed
        return Layout(replace(table, feed=feed), self._prefix, expires_natively=self._options.native_expiry)

    # --- looking ----------------------------------------------------------------------------------------------------

    async def describe(self) -> Physical:
        """Return the tables of the catalog that exist, with the indexes that can be read, and the names of all others."""
        try:
            names = [name async for name in self._names()]
        except Forbidden:
            # No table can be named in the right to list them, so whoever has only the rights he needs lacks it.
            names = []
        catalog: dict[str, Table] = {}
        stamp: Mapping[str, Any] = {}
        if await self.description(self.own) is not None:
            catalog, stamp = await self._catalog()
        found = await asyncio.gather(*map(self._described, catalog.values()))
        known = {self.own, *(self._prefix + table.name for table in found if table is not None)}
        return Physical(
            tuple(sorted((table for table in found if table is not None), key=lambda table: table.name)),
            tuple(sorted(name.removeprefix(self._prefix) for name in names if name not in known)),
            int(stamp.get("version", 0)),
            str(stamp.get("fingerprint", "")),
        )

    async def _names(self) -> AsyncIterator[str]:
        """Yield the names of all tables with the prefix; DynamoDB lists names in order and begins after one."""
        body: dict[str, Any] = {}
        if len(self._prefix) > 3:
            body["ExclusiveStartTableName"] = self._prefix[:-1]
        while True:
            answer = await self._client.call("ListTables", body)
            for name in answer["TableNames"]:
                if name.startswith(self._prefix):
                    yield name
                elif name > self._prefix and self._prefix:
                    return
            if "LastEvaluatedTableName" not in answer:
                return
            body["ExclusiveStartTableName"] = answer["LastEvaluatedTableName"]

    async def _catalog(self) -> tuple[dict[str, Table], Mapping[str, Any]]:
        entries: dict[str, Table] = {}
        stamp: Mapping[str, Any] = {}
        body: dict[str, Any] = {
            "TableName": self.own,
            "KeyConditionExpression": "pk = :0",
            "ExpressionAttributeValues": {":0": {"S": CATALOG}},
            "ConsistentRead": True,
        }
        while True:
            answer = await self._client.call("Query", body)
            for item in answer["Items"]:
                if item["sk"]["S"] == "#stamp":
                    stamp = loads(item["entry"]["S"])
                else:
                    entries[item["sk"]["S"]] = tables.from_catalog(item["entry"]["S"])
            if "LastEvaluatedKey" not in answer:
                return entries, stamp
            body["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def _described(self, table: Table) -> Table | None:
        description = await self.description(self._prefix + table.name)
        if description is None or description["TableStatus"] == "DELETING":
            return None
        ready = {index["IndexName"] for index in description.get("GlobalSecondaryIndexes", ()) if index["IndexStatus"] == "ACTIVE"}
        wanted = self._layouts.get(table.name)
        if wanted is not None and wanted.sweeps and EXPIRY not in ready:
            # Something goes with its expired records now: setting the expiry makes the index that finds them.
            table = replace(table, expires=None)
        return replace(table, indexes=tuple(index for index in table.indexes if index.name in ready))

    async def description(self, name: str) -> dict[str, Any] | None:
        try:
            answer = await self._client.call("DescribeTable", {"TableName": name})
        except NotProvisioned:
            return None
        return answer["Table"]  # type: ignore[no-any-return]

    async def stamp(self, version: int, fingerprint: str) -> None:
        await self._own()
        await self._put({**_STAMP, "entry": {"S": dumps({"version": version, "fingerprint": fingerprint})}})

    # --- changing ---------------------------------------------------------------------------------------------------

    async def apply(self, step: Step) -> None:
        """Take one step; a step taken before is no error, and one that was interrupted is taken to its end."""
        match step:
            case CreateTable(table):
                await self._create(table)
                # Where it was there before, it stays what it is; other steps change it.
                await self._keep(await self._stored(table) or table)
            case DropTable(table):
                await self._drop(table.name)
            case RenameTable():
                raise ConfigError("DynamoDB cannot rename a table.", hint="Copy the records into a table of the new name.")
            case _:
                stored = await self._stored(step.table)
                if stored is None:
                    raise NotProvisioned(f"There is no table {step.table.name}.", table=step.table.name)
                await self._change(stored, step)
                await self._keep(after_step(stored, step))

    async def _stored(self, table: Table) -> Table | None:
        entry = await self._client.call(
            "GetItem", {"TableName": self.own, "Key": {"pk": {"S": CATALOG}, "sk": {"S": table.name}}, "ConsistentRead": True}
        )
        return tables.from_catalog(entry["Item"]["entry"]["S"]) if entry.get("Item") else None

    async def _change(self, stored: Table, step: Step) -> None:
        after = self.layout(after_step(stored, step))
        match step:
            case CreateIndex(_, index):
                await self._create_index(after, index.name)
            case DropIndex(_, name):
                await self._drop_index(after, name)
            case SetExpiry(_, None):
                await self._drop_index(after, EXPIRY)
                await self._expire_natively(after, stored.expires, enabled=False)
            case SetExpiry():
                await self._set_expiry(after, stored)
            case RenameColumn(_, old, new):
                await self._rewrite(self.layout(stored), lambda item: _renamed(item, old, new))
            case DropColumn(_, name):
                await self._rewrite(self.layout(stored), lambda item: _without(item, name))
            case AddColumn() | AlterColumn():
                # DynamoDB knows no columns and has one type of number: the catalog says how to read what is there.
                return

    async def _create(self, table: Table) -> None:
        await self._own()
        layout = self.layout(table)
        await self._make(tables.create(layout, self._options))
        # Where it was there, it may have been made up to here; other steps change its indexes.
        await self._expire_natively(layout, table.expires, enabled=not layout.sweeps)

    async def _own(self) -> None:
        """Make the engine's own table, if it is not there."""
        if await self.description(self.own) is None and await self._make(tables.own_table(self._prefix, self._options)):
            # Optional for what it does: a tombstone that stays costs a little space.
            await self._optional("UpdateTimeToLive", tables.native_expiry(self.own, "expires"))

    async def _make(self, body: dict[str, Any]) -> bool:
        """Create a table and wait for it; say whether it was not there."""
        name = body["TableName"]
        try:
            await self._client.call("CreateTable", body)
        except NotProvisioned:
            # Somebody else makes it or has made it.
            await self._until_active(name)
            return False
        await self._until_active(name)
        if self._options.point_in_time_recovery:
            await self._client.call("UpdateContinuousBackups", tables.backups(name))
        return True

    async def _set_expiry(self, layout: Layout, stored: Table) -> None:
        if layout.sweeps:
            await self._expire_natively(layout, stored.expires, enabled=False)
            await self._create_index(layout, EXPIRY)
        else:
            await self._drop_index(layout, EXPIRY)
            await self._expire_natively(layout, layout.table.expires, enabled=True)

    async def _expire_natively(self, layout: Layout, expires: str | None, *, enabled: bool) -> None:
        """Let DynamoDB remove expired records, or not; once an hour it can be told."""
        if expires is None:
            return
        try:
            told = await self._client.call("DescribeTimeToLive", {"TableName": layout.name})
        except ConfigError:
            return
        state = told.get("TimeToLiveDescription", {}).get("TimeToLiveStatus", "DISABLED")
        if (state in ("ENABLED", "ENABLING")) != enabled:
            await self._client.call("UpdateTimeToLive", tables.native_expiry(layout.name, expires, enabled=enabled))

    async def _optional(self, operation: str, body: dict[str, Any]) -> None:
        try:
            await self._client.call(operation, body)
        except (ConfigError, Validation):
            # A server without expiry of its own, or one that has it switched on already.
            return

    async def _until_active(self, name: str, index: str | None = None) -> None:
        """Wait until the table and all its indexes are active, or one named index is gone."""
        pause = WAIT_S
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            description = await self.description(name)
            states = {each["IndexName"]: each["IndexStatus"] for each in (description or {}).get("GlobalSecondaryIndexes", ())}
            is_ready = description is not None and description["TableStatus"] == "ACTIVE"
            if is_ready and set(states.values()) <= {"ACTIVE"} and (index is None or index not in states):
                return
            if asyncio.get_running_loop().time() > deadline:
                raise NotProvisioned(f"The table {name} is still being changed.", hint="Take the step again later.", table=name)
            await asyncio.sleep(pause)
            pause = min(WAIT_MOST_S, pause * 1.5)

    async def _create_index(self, layout: Layout, name: str) -> None:
        wanted = tables.create_index(layout, name)
        schema = wanted["GlobalSecondaryIndexUpdates"][0]["Create"]["KeySchema"]
        found = await self._index(layout, name)
        if found is not None and found["KeySchema"] != schema:
            await self._drop_index(layout, name)
            found = None
        if found is None:
            # What the index reads must be there before it is built, or old records would be missing from it.
            await self._rewrite(layout, lambda item: _shown(layout, item))
            await self._client.call("UpdateTable", wanted)
        await self._until_active(layout.name)

    async def _index(self, layout: Layout, name: str) -> dict[str, Any] | None:
        description = await self.description(layout.name) or {}
        return next((index for index in description.get("GlobalSecondaryIndexes", ()) if index["IndexName"] == name), None)

    async def _drop_index(self, layout: Layout, name: str) -> None:
        if await self._index(layout, name) is not None:
            await self._client.call("UpdateTable", tables.drop_index(layout, name))
        await self._until_active(layout.name, name)

    async def _drop(self, name: str) -> None:
        physical = self._prefix + name
        with contextlib.suppress(NotProvisioned):
            await self._client.call("DeleteTable", {"TableName": physical})
        pause = WAIT_S
        while await self.description(physical) is not None:
            await asyncio.sleep(pause)
            pause = min(WAIT_MOST_S, pause * 1.5)
        if await self.description(self.own) is not None:
            await self._client.call("DeleteItem", {"TableName": self.own, "Key": {"pk": {"S": CATALOG}, "sk": {"S": name}}})
        self._layouts.pop(name, None)

    async def _keep(self, table: Table) -> None:
        await self._put({"pk": {"S": CATALOG}, "sk": {"S": table.name}, "entry": {"S": tables.catalog_entry(table)}})
        self._layouts[table.name] = self.layout(table)

    async def _put(self, item: dict[str, Any]) -> None:
        await self._client.call("PutItem", {"TableName": self.own, "Item": item})

    # --- rewriting --------------------------------------------------------------------------------------------------

    async def _rewrite(self, layout: Layout, change: Callable[[Any], tuple[dict[str, Any], list[str]]]) -> None:
        """Set and remove attributes of every item that needs it; revisions stay, and the feed does not show it."""
        body: dict[str, Any] = {"TableName": layout.name, "ConsistentRead": True}
        while True:
            answer = await self._client.call("Scan", body)
            await asyncio.gather(*(self._rewrite_one(layout, item, change) for item in answer["Items"]))
            if "LastEvaluatedKey" not in answer:
                return
            body["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def _rewrite_one(self, layout: Layout, item: Any, change: Callable[[Any], tuple[dict[str, Any], list[str]]]) -> None:
        key = {half.attribute: item[half.attribute] for half in layout.halves}
        while item:
            sets, removes = change(item)
            if not sets and not removes:
                return
            try:
                await self._client.call("UpdateItem", tables.rewriting(layout, key, sets, removes, item.get(REVISION)), idempotent=False)
                return
            except ConditionalCheckFailed:
                answer = await self._client.call("GetItem", {"TableName": layout.name, "Key": key, "ConsistentRead": True})
                item = answer.get("Item")


def _shown(layout: Layout, item: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the composite attributes and the expiry's partition that an item lacks."""
    record = record_of(layout, item)
    sets: dict[str, Any] = {}
    for half in layout.composites.values():
        whole = half.of(record)
        if whole is not None and half.attribute not in item and half.fits(whole):
            sets[half.attribute] = key_value(whole)
    if layout.sweeps and DUE not in item:
        sets[DUE] = layout.due([record[name] for name in layout.table.key])  # type: ignore[misc]
    return sets, []


def _renamed(item: Any, old: str, new: str) -> tuple[dict[str, Any], list[str]]:
    aside = read_aside(item)
    if old in aside:
        return {ASIDE: pack_aside({new if name == old else name: value for name, value in aside.items()})}, []
    return ({new: item[old]}, [old]) if old in item else ({}, [])


def _without(item: Any, name: str) -> tuple[dict[str, Any], list[str]]:
    aside = read_aside(item)
    if name in aside:
        del aside[name]
        return ({ASIDE: pack_aside(aside)}, []) if aside else ({}, [ASIDE])
    return {}, [name] if name in item else []
