"""A design for a key-value store as it was written down, and what in it cannot work or will hurt.

The JSON says what the design says: tables with keys, attributes and indexes, buckets, search indexes, flows. Nothing is
built from it; `diagnose` returns findings as the linter does, so that a design can be judged before it is declared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from palaver.lint import Diagnostic

FEW = 12
RESERVED = frozenset(
    [
        "avg",
        "count",
        "domain",
        "language",
        "limit",
        "max",
        "metrics",
        "min",
        "name",
        "permissions",
        "plan",
        "read",
        "role",
        "session",
        "status",
        "timestamp",
        "token",
        "ttl",
        "type",
        "url",
        "usage",
        "values",
    ]
)
_PERCENTILE = re.compile(r"p\d{2,3}")
_AVERAGE = re.compile(r"(^|_)(avg|average)(_|$)")


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Attribute(_Said):
    """An attribute: its type, what it holds where that matters, the values listed, a unit, and the fields of a map."""

    type: Literal["String", "Number", "Boolean", "List", "Map"]
    holds: Literal["instant", "expiry", "date", "snowflake", "url", "person", "personal", "names"] | None = None
    unit: str | None = None
    values: list[str] = Field(default_factory=list)
    grows: bool = False
    may_be_missing: bool = False
    moves_with: str | None = None
    format: str | None = None
    fields: dict[str, Attribute] = Field(default_factory=dict)


class DesignIndex(_Said):
    """An index, and the question it is there for."""

    name: str
    partition: str
    range: str | None = None
    question: str | None = None


class DesignTable(_Said):
    """A table; `questions` are those its key answers."""

    name: str
    partition: str
    range: str | None = None
    questions: list[str] = Field(default_factory=list)
    parent: str | None = None
    expires: bool = False
    attributes: dict[str, Attribute]
    indexes: list[DesignIndex] = Field(default_factory=list)


class Bucket(_Said):
    name: str
    path: str
    days: int | None = None
    record_days: int | None = None


class SearchedIndex(_Said):
    name: str
    all_fields_of: str | None = None
    expires: bool = False


class Flow(_Said):
    """One step of a flow: what happens, and how it is written."""

    when: str
    verb: Literal["store", "update", "aggregate"]
    table: str
    guarded: bool = False


class Rule(_Said):
    """How long something is kept, or what happens to it in the end, in the design's words."""

    of: str
    says: str


class Chapter(_Said):
    """Statements of one kind that no table holds: use cases, keys of a cache, settings, queries, practices, plans."""

    kind: str
    title: str
    head: str
    rules: list[Rule]


class Design(_Said):
    name: str
    tables: list[DesignTable]
    buckets: list[Bucket] = Field(default_factory=list)
    searches: list[SearchedIndex] = Field(default_factory=list)
    flows: list[Flow] = Field(default_factory=list)
    lifecycle: list[Rule] = Field(default_factory=list)
    chapters: list[Chapter] = Field(default_factory=list)


_FINDINGS: Mapping[str, tuple[Literal["error", "warning"], str, str]] = {
    "dotted_index_part": (
        "error",
        "A key part must be a top-level attribute; the index is accepted and stays empty.",
        "Index a copy of the value at the top level; a dotted path in an Index does that.",
    ),
    "list_grows": (
        "error",
        "Each append rewrites the record, concurrent ones are lost, and at 400 KB writing fails.",
        "Make each element a record and read the last n.",
    ),
    "list_looked_up": ("error", "The elements of a list cannot be indexed, so nothing is found by them.", "Write one record per element."),
    "instant_without_unit": (
        "error",
        "Instants and expiry have no unit; an expiry in milliseconds is thousands of years ahead and never comes.",
        "Use InstantMs and Expiry.",
    ),
    "percentile_stored": ("error", "Percentiles of days do not make a percentile of a month.", "Store a histogram that adds up."),
    "average_stored": ("error", "Averages do not merge, and a running average loses concurrent updates.", "Store sum and count."),
    "grouping_outside_key": (
        "error",
        "Records that differ only in this attribute have one key and overwrite each other.",
        "Put every dimension into the key.",
    ),
    "single_rater_key": (
        "error",
        "The key has no person in it, so the second person's record erases the first's.",
        "Add the person to the key.",
    ),
    "key_may_be_missing": ("error", "A key part has no value for some records, and keys are never empty.", "Declare a Sentinel for none."),
    "few_partitions": (
        "warning",
        "All writes go to as many partitions as there are values, and a throttled index throttles its table.",
        "Spread it with shards=8, or key by something of many values.",
    ),
    "date_partition": ("warning", "Today is one partition, and takes all writes.", "Add the other dimensions to the partition."),
    "reserved_word": (
        "warning",
        "The name is reserved in expressions; a literal use is rejected.",
        "Write through placeholders, as Palaver does.",
    ),
    "no_range_key": (
        "error",
        "The index has no sort part: entries of one value cannot be told apart, ordered or narrowed.",
        "Add the type to the partition, or a sort part.",
    ),
    "no_time_in_index": (
        "error",
        "Its question is about a range of time and no instant is in it.",
        "Add the instant as the last sort part.",
    ),
    "url_as_partition": (
        "error",
        "Over 2,048 bytes the whole write fails, and parameters make every value another.",
        "Index a template of it.",
    ),
    "index_rewritten": (
        "warning",
        "Its sort part moves with every message: each is a delete and an insert in the index.",
        "Write it only when it moved by some minutes.",
    ),
    "digits_as_text": ("error", "Numbers of 17 to 19 digits do not sort as text.", "Declare it as Snowflake."),
    "expiry_without_cascade": (
        "error",
        "Expiry never cascades: records, objects and documents are left behind their parent.",
        'Declare Ref(…, on_delete="cascade").',
    ),
    "personal_without_retention": (
        "error",
        "It holds personal data, nothing ends it, and nothing finds the inactive.",
        "Mark its Subject, and keep when each user was last seen.",
    ),
    "leading_slash": ("error", "The path begins with a slash, which makes an empty first segment.", "Leave the slash out."),
    "no_subject_in_path": ("error", "Nobody's objects can be found without listing all.", "Begin the path with the person's identifier."),
    "zone_unstated": ("warning", "The day in the path has no time zone.", "Use UTC."),
    "object_retention_differs": (
        "error",
        "Record and object end at different times: references dangle or objects are forgotten.",
        "Declare Blob(…, keep=…); the object lives as long as the longer of the two.",
    ),
    "search_all_fields": (
        "error",
        "Free-form maps add a field to the index for every key ever seen, until it refuses documents.",
        "List the fields.",
    ),
    "search_without_retention": ("error", "Documents outlive their records.", "Delete documents with the record, from its changes."),
    "store_without_condition": (
        "error",
        "A message delivered twice is stored twice or overwritten.",
        "Create with the platform's identifier.",
    ),
    "update_upserts": ("error", "An update of a record that expired makes a ghost of it.", "Patch: it fails where there is no record."),
    "aggregate_doubles": ("error", "Run again, it counts everything twice.", "Build it from the change feed, with its position."),
}


def diagnose(design: Design | Mapping[str, Any]) -> list[Diagnostic]:
    """Return every finding, in the order of the design."""
    read = design if isinstance(design, Design) else Design.model_validate(design)
    found = [*_tables(read), *_beside(read)]
    return [Diagnostic(code, _FINDINGS[code][0], where, *_FINDINGS[code][1:]) for code, where in found]


def _tables(design: Design) -> Iterator[tuple[str, str]]:
    for table in design.tables:
        yield from _key(table)
        for name, attribute in table.attributes.items():
            yield from _attribute(f"{table.name}.{name}", name, attribute)
        yield from _times(table)
        for index in table.indexes:
            yield from _index(table, index)
        personal = any(attribute.holds == "personal" for attribute in table.attributes.values())
        if personal and not table.expires:
            yield "personal_without_retention", table.name
        parent = next((other for other in design.tables if other.name == table.parent), None)
        if parent is not None and parent.expires:
            yield "expiry_without_cascade", table.name


def _key(table: DesignTable) -> Iterator[tuple[str, str]]:
    partition = table.attributes[table.partition]
    if 0 < len(partition.values) <= FEW:
        yield "few_partitions", table.name
    if partition.holds == "date":
        yield "date_partition", table.name
    if table.range is None and any(attribute.holds == "person" for name, attribute in table.attributes.items() if name != table.partition):
        yield "single_rater_key", table.name
    for part in (table.partition, table.range):
        if part is not None and table.attributes[part].may_be_missing:
            yield "key_may_be_missing", f"{table.name}.{part}"
    # Partitions are found by equality; only a range key has an order to get wrong.
    if table.range is not None and table.attributes[table.range].holds == "snowflake":
        yield "digits_as_text", f"{table.name}.{table.range}"


def _attribute(where: str, name: str, attribute: Attribute) -> Iterator[tuple[str, str]]:
    if name in RESERVED:
        yield "reserved_word", where
    if attribute.grows:
        yield "list_grows", where
    if attribute.type == "List" and attribute.holds == "names":
        yield "list_looked_up", where
    if _PERCENTILE.fullmatch(name):
        yield "percentile_stored", where
    if _AVERAGE.search(name):
        yield "average_stored", where
    for inner, field in attribute.fields.items():
        yield from _attribute(f"{where}.{inner}", inner, field)


def _times(table: DesignTable) -> Iterator[tuple[str, str]]:
    for name, attribute in table.attributes.items():
        others = any(other.holds == "instant" for other in table.attributes.values())
        if attribute.holds == "expiry" and others and attribute.unit is None:
            yield "instant_without_unit", f"{table.name}.{name}"


def _index(table: DesignTable, index: DesignIndex) -> Iterator[tuple[str, str]]:
    where = f"{table.name}.{index.name}"
    if "." in index.partition:
        yield "dotted_index_part", where
        return
    partition = table.attributes[index.partition]
    if 0 < len(partition.values) <= FEW:
        yield "few_partitions", where
    if partition.holds == "url":
        yield "url_as_partition", where
    if _aggregates(table) and index.partition not in _dimensions(table):
        yield "grouping_outside_key", f"{table.name}.{index.partition}"
    if index.range is None:
        yield "no_range_key", where
        return
    ranged = table.attributes[index.range]
    timed = any(attribute.holds == "instant" for attribute in table.attributes.values())
    if timed and ranged.holds not in ("instant", "date"):
        yield "no_time_in_index", where
    if ranged.moves_with == "message":
        yield "index_rewritten", where


def _aggregates(table: DesignTable) -> bool:
    return any(_PERCENTILE.fullmatch(name) for name in table.attributes)


def _dimensions(table: DesignTable) -> set[str]:
    """Return what is in the key: its attributes, and those its formatted parts are made of."""
    found = {part for part in (table.partition, table.range) if part is not None}
    for part in list(found):
        pieces = (table.attributes[part].format or "").split(":")
        found |= {name for name in table.attributes for piece in pieces if piece and name.endswith(piece)}
    return found


def _beside(design: Design) -> Iterator[tuple[str, str]]:
    for bucket in design.buckets:
        if bucket.path.startswith("/"):
            yield "leading_slash", bucket.name
        if "{user" not in bucket.path and "{tenant" not in bucket.path:
            yield "no_subject_in_path", bucket.name
        if "{day}" in bucket.path:
            yield "zone_unstated", bucket.name
        if None not in (bucket.days, bucket.record_days) and bucket.days != bucket.record_days:
            yield "object_retention_differs", bucket.name
    for search in design.searches:
        if search.all_fields_of is not None:
            yield "search_all_fields", search.name
        if not search.expires:
            yield "search_without_retention", search.name
    flaws = {"store": "store_without_condition", "update": "update_upserts", "aggregate": "aggregate_doubles"}
    for flow in design.flows:
        if not flow.guarded:
            yield flaws[flow.verb], flow.when
