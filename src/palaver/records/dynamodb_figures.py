"""What DynamoDB says of its tables: how many items, how large, and how they are paid for. One request for each table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palaver.connections.dynamodb import DynamoClient
from palaver.errors import NotProvisioned, PalaverError, Unavailable
from palaver.observing import Observed, Size

COUNTED = "items and bytes are those AWS counted last: it does so about every six hours"


async def observe(client: DynamoClient, names: Sequence[str]) -> Observed:
    """Return the figures of these tables; one that is not there, or may not be described, is a note."""
    tables: list[Size] = []
    indexes: list[Size] = []
    notes, warnings = [COUNTED], []
    modes = {"tables_on_demand": 0, "tables_provisioned": 0}
    read = written = 0
    for name in dict.fromkeys(names):
        try:
            told: dict[str, Any] = (await client.call("DescribeTable", {"TableName": name}))["Table"]
        except NotProvisioned:
            notes.append(f"there is no table {name}")
            continue
        except Unavailable:
            raise
        except PalaverError as error:
            notes.append(f"{name} cannot be described: {error.message}")
            continue
        tables.append(Size(name, told.get("ItemCount"), told.get("TableSizeBytes")))
        indexes += [
            Size(index["IndexName"], index.get("ItemCount"), index.get("IndexSizeBytes"), of=name)
            for index in told.get("GlobalSecondaryIndexes") or ()
        ]
        provisioned = (told.get("BillingModeSummary") or {}).get("BillingMode", "PROVISIONED") == "PROVISIONED"
        modes["tables_provisioned" if provisioned else "tables_on_demand"] += 1
        if provisioned:
            capacity = told.get("ProvisionedThroughput") or {}
            read += int(capacity.get("ReadCapacityUnits", 0))
            written += int(capacity.get("WriteCapacityUnits", 0))
    if modes["tables_provisioned"]:
        warnings.append(f"{modes['tables_provisioned']} tables have a fixed capacity: what is over it is throttled")
    figures: dict[str, int | float | str] = {
        "items": sum(table.entries or 0 for table in tables),
        "size_bytes": sum(table.bytes or 0 for table in (*tables, *indexes)),
        **modes,
        "read_capacity": read,
        "write_capacity": written,
    }
    return Observed("dynamodb", figures, _sorted(tables), _sorted(indexes), notes=tuple(notes), warnings=tuple(warnings))


def _sorted(sizes: list[Size]) -> tuple[Size, ...]:
    return tuple(sorted(sizes, key=lambda size: (-(size.bytes or 0), size.name)))
