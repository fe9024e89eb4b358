"""What can be wrong with DynamoDB tables, their indexes, streams and rights, and how to mend it: one function for each check."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from palaver.connections.dynamodb import ConditionalCheckFailed, DynamoClient, TransactionCancelled
from palaver.errors import ConfigError, Forbidden, NotProvisioned, PalaverError, Unauthenticated, Validation
from palaver.observing import Finding
from palaver.records.dynamo_keys import Layout

SKEW_S = 5.0
_NOBODY: Mapping[str, Any] = {"pk": {"S": "palaver-doctor"}, "sk": {"S": "nobody"}}
_NEVER = {"ConditionExpression": "attribute_exists(pk) AND attribute_not_exists(pk)"}


class Doctor:
    """Looks at the tables of one prefix in one region. It writes nothing: what would be written has a condition that never holds."""

    def __init__(self, client: DynamoClient, own: str, layouts: Mapping[str, Layout]) -> None:
        self._client, self._own, self._layouts = client, own, layouts
        self._told: dict[str, dict[str, Any]] = {}

    async def diagnose(self) -> list[Finding]:
        reached = await self._reached()
        if reached.level == "fail":
            return [reached]
        checks: Sequence[tuple[str, Callable[[], Awaitable[list[Finding]]]]] = (
            ("tables", self._tables),
            ("indexes", self._indexes),
            ("streams", self._streams),
            ("expiry", self._expiry),
            ("recovery", self._recovery),
            ("billing", self._billing),
            ("rights", self._rights),
            ("server clock", self._clock),
        )
        return [reached, *[finding for name, check in checks for finding in await self._seen(name, check)]]

    async def _seen(self, name: str, check: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
        try:
            return await check()
        except ConfigError as error:
            return [Finding(name, "ok", f"this endpoint cannot say: {error.message}")]
        except PalaverError as error:
            return [Finding(name, "warn", f"this could not be looked at: {error.message}", error.hint)]

    # --- reaching it ------------------------------------------------------------------------------------------------

    async def _reached(self) -> Finding:
        try:
            self._told[self._own] = await self._describe(self._own)
        except NotProvisioned:
            return Finding("service", "warn", "reached, and no table of this prefix is there", "Run `palaver migrate apply`.")
        except Unauthenticated as error:
            return Finding("service", "fail", "the credentials are missing or were refused", error.hint or "Set AWS_PROFILE, or the keys.")
        except Forbidden as error:
            return Finding("service", "fail", "these credentials may not describe tables", error.hint or "Allow dynamodb:DescribeTable.")
        except PalaverError as error:
            return Finding("service", "fail", error.message, error.hint or "Check region and endpoint in the URL.")
        return Finding("service", "ok", "reached, with credentials it accepts")

    async def _describe(self, name: str) -> dict[str, Any]:
        answer = await self._client.call("DescribeTable", {"TableName": name})
        table: dict[str, Any] = answer["Table"]
        return table

    async def _table(self, layout: Layout) -> dict[str, Any] | None:
        if layout.name not in self._told:
            try:
                self._told[layout.name] = await self._describe(layout.name)
            except NotProvisioned:
                return None
        return self._told[layout.name]

    async def _there(self) -> list[tuple[Layout, dict[str, Any]]]:
        found = [(layout, await self._table(layout)) for layout in self._layouts.values()]
        return [(layout, table) for layout, table in found if table is not None]

    # --- tables -----------------------------------------------------------------------------------------------------

    async def _tables(self) -> list[Finding]:
        there = await self._there()
        missing = sorted(set(self._layouts) - {layout.table.name for layout, _ in there})
        busy = [layout.name for layout, table in there if table.get("TableStatus") not in ("ACTIVE", "UPDATING")]
        if busy:
            return [Finding("tables", "fail", f"{len(busy)} are not active: {busy[0]}", "Wait; AWS says so when they are ready.")]
        if missing:
            return [Finding("tables", "fail", f"{len(missing)} are missing: {missing[0]}", "Run `palaver migrate apply`.")]
        return [Finding("tables", "ok", f"{len(there)} are active")]

    async def _indexes(self) -> list[Finding]:
        found = [index for _, table in await self._there() for index in table.get("GlobalSecondaryIndexes") or ()]
        busy = [str(index["IndexName"]) for index in found if index.get("IndexStatus", "ACTIVE") != "ACTIVE"]
        if busy:
            return [
                Finding("indexes", "warn", f"{len(busy)} are still being built: {busy[0]}", "Wait: reads of them are refused until then.")
            ]
        return [Finding("indexes", "ok", f"{len(found)} are active")]

    async def _streams(self) -> list[Finding]:
        followed = [(layout, table) for layout, table in await self._there() if layout.table.feed]
        off = [layout.name for layout, table in followed if not _streams_both(table)]
        if off:
            return [
                Finding(
                    "streams",
                    "fail",
                    f"{len(off)} tables have no stream of new and old images: {off[0]}",
                    "Turn it on (NEW_AND_OLD_IMAGES): the feed, and with it search and counts, is read from there.",
                )
            ]
        return [Finding("streams", "ok", f"{len(followed)} tables have theirs")]

    async def _expiry(self) -> list[Finding]:
        """Expired records are removed by sweeps, whose changes say so; DynamoDB itself clears what the engine set aside."""
        answer = await self._client.call("DescribeTimeToLive", {"TableName": self._own})
        told = answer.get("TimeToLiveDescription") or {}
        if told.get("TimeToLiveStatus") not in ("ENABLED", "ENABLING"):
            fix = "Turn time to live on, for the attribute expires."
            return [Finding("expiry", "warn", f"nothing removes old tombstones from {self._own}", fix)]
        return [Finding("expiry", "ok", "sweeps remove records; DynamoDB removes old tombstones")]

    async def _recovery(self) -> list[Finding]:
        off: list[str] = []
        there = await self._there()
        for layout, _ in there:
            answer = await self._client.call("DescribeContinuousBackups", {"TableName": layout.name})
            told = (answer.get("ContinuousBackupsDescription") or {}).get("PointInTimeRecoveryDescription") or {}
            if told.get("PointInTimeRecoveryStatus") != "ENABLED":
                off.append(layout.name)
        if off:
            return [
                Finding(
                    "recovery",
                    "warn",
                    f"{len(off)} of {len(there)} tables cannot be brought back to a moment: {off[0]}",
                    "Add ?recovery=true to the URL before the tables are made, or turn point-in-time recovery on.",
                )
            ]
        return [Finding("recovery", "ok", f"{len(there)} tables can be brought back to a moment")]

    async def _billing(self) -> list[Finding]:
        modes: dict[str, int] = {}
        for _, table in await self._there():
            mode = (table.get("BillingModeSummary") or {}).get("BillingMode", "PROVISIONED")
            modes[mode] = modes.get(mode, 0) + 1
        text = ", ".join(f"{count} {mode}" for mode, count in sorted(modes.items()))
        if "PROVISIONED" in modes:
            return [Finding("billing", "warn", text, "Watch for throttling, or switch to on-demand (PAY_PER_REQUEST).")]
        return [Finding("billing", "ok", text or "no tables")]

    # --- rights -----------------------------------------------------------------------------------------------------

    async def _rights(self) -> list[Finding]:
        """Ask for everything the engine does, so that nothing comes of it."""
        lacking = [name for name, body in self._dry() if not await self._allowed(name, body)]
        stream = next((table.get("LatestStreamArn") for _, table in await self._there() if table.get("LatestStreamArn")), None)
        if stream is not None and not await self._allowed("DescribeStream", {"StreamArn": stream, "Limit": 1}):
            lacking.append("DescribeStream")
        if lacking:
            actions = ", ".join(f"dynamodb:{name}" for name in lacking)
            return [
                Finding("rights", "fail", f"these credentials lack {actions}", "`palaver migrate emit cloudformation` prints the policy.")
            ]
        return [Finding("rights", "ok", "reading and writing, streams included")]

    def _dry(self) -> Iterator[tuple[str, dict[str, Any]]]:
        at = {"TableName": self._own}
        key = {"Key": dict(_NOBODY)}
        yield "GetItem", {**at, **key}
        yield "BatchGetItem", {"RequestItems": {self._own: {"Keys": [dict(_NOBODY)]}}}
        yield "Query", {**at, "KeyConditionExpression": "pk = :0", "ExpressionAttributeValues": {":0": {"S": "palaver-doctor"}}, "Limit": 1}
        yield "Scan", {**at, "Limit": 1}
        yield "PutItem", {**at, "Item": dict(_NOBODY), **_NEVER}
        yield "UpdateItem", {**at, **key, "UpdateExpression": "SET x = :0", "ExpressionAttributeValues": {":0": {"N": "0"}}, **_NEVER}
        yield "DeleteItem", {**at, **key, **_NEVER}
        yield "TransactWriteItems", {"TransactItems": [{"Put": {**at, "Item": dict(_NOBODY), **_NEVER}}]}
        yield "BatchWriteItem", {"RequestItems": {self._own: [{"DeleteRequest": dict(key)}]}}

    async def _allowed(self, operation: str, body: dict[str, Any]) -> bool:
        try:
            await self._client.call(operation, body)
        except Forbidden:
            return False
        except (ConditionalCheckFailed, TransactionCancelled, Validation, ConfigError):
            # It was let in: the condition that never holds was judged, or this endpoint does not know the operation.
            return True
        return True

    async def _clock(self) -> list[Finding]:
        before = time.time()
        await self._client.call("GetItem", {"TableName": self._own, "Key": dict(_NOBODY)})
        skew = self._client.skew_s()
        if skew is None:
            return [Finding("server clock", "ok", "it does not tell the time")]
        # The header holds whole seconds.
        if abs(skew) > SKEW_S + (time.time() - before):
            return [
                Finding(
                    "server clock", "warn", f"it is {skew:+,.0f} s from this machine's", "Set this machine's clock; have it kept by NTP."
                )
            ]
        return [Finding("server clock", "ok", "it agrees with this machine's")]


def _streams_both(table: Mapping[str, Any]) -> bool:
    told = table.get("StreamSpecification") or {}
    return bool(told.get("StreamEnabled")) and told.get("StreamViewType") == "NEW_AND_OLD_IMAGES"
