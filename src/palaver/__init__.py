"""Palaver: the data layer for conversational AI. Declare once what an assistant stores; run it on a file or in a cloud."""

from __future__ import annotations

from importlib import import_module

# A name that type checkers know, without the time that importing typing takes.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from palaver.batch import Batch, unchanged
    from palaver.clock import Clock, ManualClock, SystemClock, days, hours, now
    from palaver.config import open
    from palaver.entity import Entity
    from palaver.errors import PalaverError
    from palaver.expr import F
    from palaver.ids import new_id
    from palaver.keys import History, Index, Key, Partitioned, Ref, Unique
    from palaver.large_object import LargeObject
    from palaver.markers import (
        Backfill,
        Blob,
        Expires,
        Expiry,
        InstantMs,
        InstantText,
        Json,
        Personal,
        RenamedFrom,
        Searchable,
        Secret,
        Sentinel,
        Snowflake,
        Stored,
        Subject,
        Tenant,
    )
    from palaver.migrations import migrate, migration, migration_status
    from palaver.query import At, Query
    from palaver.schema import Schema, Search, Source
    from palaver.store import Page, Store
    from palaver.sync import open_sync

__version__ = "0.1.0"

# Imported when first asked for, so that a command that needs none of it starts at once.
_HOMES = {
    "palaver.batch": "Batch unchanged",
    "palaver.clock": "Clock ManualClock SystemClock days hours now",
    "palaver.config": "open",
    "palaver.entity": "Entity",
    "palaver.errors": "PalaverError",
    "palaver.expr": "F",
    "palaver.ids": "new_id",
    "palaver.keys": "History Index Key Partitioned Ref Unique",
    "palaver.large_object": "LargeObject",
    "palaver.markers": (
        "Backfill Blob Expires Expiry InstantMs InstantText Json Personal RenamedFrom"
        " Searchable Secret Sentinel Snowflake Stored Subject Tenant"
    ),
    "palaver.migrations": "migrate migration migration_status",
    "palaver.query": "At Query",
    "palaver.schema": "Schema Search Source",
    "palaver.store": "Page Store",
    "palaver.sync": "open_sync",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "At",
    "Backfill",
    "Batch",
    "Blob",
    "Clock",
    "Entity",
    "Expires",
    "Expiry",
    "F",
    "History",
    "Index",
    "InstantMs",
    "InstantText",
    "Json",
    "Key",
    "LargeObject",
    "ManualClock",
    "Page",
    "PalaverError",
    "Partitioned",
    "Personal",
    "Query",
    "Ref",
    "RenamedFrom",
    "Schema",
    "Search",
    "Searchable",
    "Secret",
    "Sentinel",
    "Snowflake",
    "Source",
    "Store",
    "Stored",
    "Subject",
    "SystemClock",
    "Tenant",
    "Unique",
    "days",
    "hours",
    "migrate",
    "migration",
    "migration_status",
    "new_id",
    "now",
    "open",
    "open_sync",
    "unchanged",
]


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
