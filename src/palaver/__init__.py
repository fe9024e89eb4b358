"""Palaver: the data layer for conversational AI. Declare once what an assistant stores; run it on a file or in a cloud."""

from palaver.batch import Batch, unchanged
from palaver.clock import Clock, ManualClock, SystemClock, days, hours, now
from palaver.config import open
from palaver.entity import Entity
from palaver.errors import PalaverError
from palaver.expr import F
from palaver.ids import new_id
from palaver.keys import History, Index, Key, Ref, Unique
from palaver.markers import (
    Blob,
    Expires,
    Expiry,
    InstantMs,
    InstantText,
    Personal,
    Searchable,
    Secret,
    Sentinel,
    Snowflake,
    Stored,
    Subject,
    Tenant,
)
from palaver.query import At, Query
from palaver.schema import Schema, Search, Source
from palaver.store import Page, Store
from palaver.sync import open_sync

__version__ = "0.1.0"

__all__ = [
    "At",
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
    "Key",
    "ManualClock",
    "Page",
    "PalaverError",
    "Personal",
    "Query",
    "Ref",
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
    "new_id",
    "now",
    "open",
    "open_sync",
    "unchanged",
]
