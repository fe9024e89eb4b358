"""Where a table's records stand in DynamoDB: key attributes, index attributes, and ranges over them.

A key half of one column is that column, under its own name and type. One of several columns is a text attribute of its
own (`tenant#group`), beside the columns, that orders as the columns do: texts as they are, integers as twenty digits,
bytes in hex, joined by U+0000, which no text holds and which sorts before everything.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

from palaver.errors import KeyTooLong, NotProvisioned
from palaver.ops import MARK, REVISION, Bound, IndexSpec, Table
from palaver.records.dynamo_values import Attribute, Item
from palaver.values import MAX_PARTITION, MAX_SORT, KeyPart, Record, Value, key_part_size

CAUSE = "_cause"
ASIDE = "_aside"
DUE = "_due"
EXPIRY = "palaver_expiry"
SHARDS = 8
"""Partitions of the expiry index: one alone takes about a thousand writes a second."""
_JOIN = "\0"
_AFTER_JOIN = "\1"
_OFFSET = 10**19
_TYPES = {"text": "S", "int": "N", "bytes": "B"}
_TOP = 0x10FFFF


def part_text(part: KeyPart) -> str:
    """Return a part as text that orders as the part does."""
    if type(part) is int:
        return f"{1 if part >= 0 else 0}{part % _OFFSET:019d}"
    return part.hex() if type(part) is bytes else part  # type: ignore[return-value]


def joined(parts: Sequence[KeyPart]) -> str:
    return _JOIN.join(map(part_text, parts))


def key_value(part: KeyPart) -> Attribute:
    if type(part) is str:
        return {"S": part}
    return {"N": str(part)} if type(part) is int else {"B": b64encode(part).decode()}  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Half:
    """The partition or the sort half of a key or index: the attribute that holds it, and the columns it is made of."""

    attribute: str
    native: str
    columns: tuple[str, ...]
    most: int

    @property
    def is_composite(self) -> bool:
        return len(self.columns) > 1

    def whole(self, parts: Sequence[KeyPart]) -> KeyPart:
        """Return what the attribute holds for these values of all its columns."""
        return joined(parts) if self.is_composite else parts[0]

    def of(self, record: Mapping[str, Value]) -> KeyPart | None:
        """Return what the attribute holds for a record; None where a column is missing."""
        parts: Any = [record.get(name) for name in self.columns]
        return None if None in parts else self.whole(parts)

    def fits(self, value: object) -> bool:
        """Say whether DynamoDB takes a value as this half."""
        if type(value) is str:
            return 0 < len(value) * 4 <= self.most or 0 < len(value.encode()) <= self.most
        return type(value) is int if self.native == "N" else type(value) is bytes and 0 < len(value) <= self.most


class Span(NamedTuple):
    """What a sort half is asked for; an open end that DynamoDB cannot say is dropped after reading."""

    low: KeyPart | None = None
    low_open: bool = False
    high: KeyPart | None = None
    high_open: bool = False
    prefix: KeyPart | None = None

    @property
    def is_between(self) -> bool:
        return self.low is not None and self.high is not None

    def drops(self, value: KeyPart | None) -> bool:
        """Say whether DynamoDB gives this value although it is not asked for."""
        return self.is_between and ((self.low_open and value == self.low) or (self.high_open and value == self.high))

    def relation(self, value: KeyPart) -> int:
        """Return -1 for a value before the span, 1 for one after it, 0 inside."""
        at = sortable(value)
        if self.low is not None and (at < sortable(self.low) or (self.low_open and value == self.low)):
            return -1
        if self.high is not None and (at > sortable(self.high) or (self.high_open and value == self.high)):
            return 1
        if self.prefix is not None and not at.startswith(sortable(self.prefix)):
            return -1 if at < sortable(self.prefix) else 1
        return 0


def sortable(value: KeyPart) -> Any:
    return value.encode() if type(value) is str else value


def after_prefix(prefix: KeyPart) -> KeyPart | None:
    """Return the least value above everything that starts with a prefix; None where there is none."""
    if type(prefix) is bytes:
        kept = prefix.rstrip(b"\xff")
        return kept[:-1] + bytes([kept[-1] + 1]) if kept else None
    text = str(prefix).rstrip(chr(_TOP))
    if not text:
        return None
    # After U+D7FF comes U+E000: what lies between is no text.
    following = ord(text[-1]) + 1
    return text[:-1] + chr(0xE000 if following == 0xD800 else following)


def span(half: Half, fixed: Sequence[KeyPart], bounds: Sequence[Bound]) -> Span | None:
    """Return the range of a sort half; None where nothing can be in it."""
    if len(fixed) == len(half.columns):
        value = half.whole(fixed)
        return Span(value, False, value, False)
    asked = _bounded(bounds)
    if asked is None or not half.is_composite:
        return asked
    return _composite(joined(fixed) + _JOIN if fixed else "", asked, is_last=len(fixed) == len(half.columns) - 1)


def _bounded(bounds: Sequence[Bound]) -> Span | None:
    """Return bounds on one column as one range; an only prefix stays one."""
    prefixes: list[Any] = [bound.value for bound in bounds if bound.op == "prefix" and bound.value]
    if prefixes and len(bounds) == 1:
        return Span(prefix=prefixes[0])
    lows: list[tuple[Any, bool]] = [(bound.value, bound.op == ">") for bound in bounds if bound.op in (">", ">=")]
    highs: list[tuple[Any, bool]] = [(bound.value, bound.op == "<") for bound in bounds if bound.op in ("<", "<=")]
    for prefix in prefixes:
        lows.append((prefix, False))
        if (following := after_prefix(prefix)) is not None:
            highs.append((following, True))
    low, low_open = max(lows, key=lambda end: (sortable(end[0]), end[1]), default=(None, False))
    high, high_open = min(highs, key=lambda end: (sortable(end[0]), not end[1]), default=(None, False))
    if type(low) is int:
        low, low_open = low + low_open, False
    if type(high) is int:
        high, high_open = high - high_open, False
    # No stored part is empty, so an empty end bounds nothing from below and everything from above.
    if high in ("", b""):
        return None
    if low in ("", b""):
        low, low_open = None, False
    if low is not None and high is not None and (sortable(low) > sortable(high) or (low == high and (low_open or high_open))):
        return None
    return Span(low, low_open, high, high_open)


def _composite(head: str, asked: Span, *, is_last: bool) -> Span:
    """Return a range over one column of a composite half as a range of its texts."""
    if asked.prefix is not None:
        return Span(prefix=head + part_text(asked.prefix))
    if asked.low is None and asked.high is None:
        return Span(prefix=head) if head else Span()
    low: str | None = None
    high: str | None = None
    if asked.low is not None:
        low = head + part_text(asked.low) + ("" if is_last else _AFTER_JOIN if asked.low_open else _JOIN)
    elif head:
        low = head
    if asked.high is not None:
        high = head + part_text(asked.high) + ("" if is_last else _JOIN if asked.high_open else _AFTER_JOIN)
    elif head:
        high = head[:-1] + _AFTER_JOIN
    return Span(low, is_last and asked.low_open, high, is_last and asked.high_open)


def _half(table: Table, columns: Sequence[str], most: int) -> Half | None:
    if not columns:
        return None
    if len(columns) > 1:
        return Half("#".join(columns), "S", tuple(columns), most)
    kind = next(column.kind for column in table.columns if column.name == columns[0])
    return Half(columns[0], _TYPES[kind], tuple(columns), most)


class Way(NamedTuple):
    """How a key or an index is reached: its name in DynamoDB (None: the table) and its halves."""

    index: str | None  # type: ignore[assignment]
    partition: Half
    sort: Half | None
    key: tuple[Half, ...] = ()

    def start(self, after: Sequence[KeyPart]) -> Item:
        """Return the start key of a position: the values of this way's columns, then of the table's key."""
        halves = [self.partition, *([self.sort] if self.sort else []), *self.key]
        item: Item = {}
        at = 0
        for half in halves:
            parts = after[at : at + len(half.columns)]
            at += len(half.columns)
            item[half.attribute] = key_value(half.whole(parts))
        return item


class Layout:
    """The physical form of one table, compiled once: what requests are built from."""

    def __init__(self, table: Table, prefix: str = "", *, expires_natively: bool = False) -> None:
        self.table = table
        # Whether we find expired records ourselves, through an index; DynamoDB removes those nothing goes with.
        self.sweeps = table.expires is not None and (table.swept or not expires_natively)
        self.name = prefix + table.name
        partition, sort = _half(table, table.partition, MAX_PARTITION), _half(table, table.sort, MAX_SORT)
        assert partition is not None
        self.base = Way(None, partition, sort)
        self.halves = (partition,) if sort is None else (partition, sort)
        self.ways: dict[str, Way] = {index.name: self._way(index) for index in table.indexes}
        self.kinds: dict[str, str] = {**{column.name: column.kind for column in table.columns}, REVISION: "int", MARK: "int"}
        shown = [half for way in (self.base, *self.ways.values()) for half in (way.partition, way.sort) if half is not None]
        self.composites: dict[str, Half] = {half.attribute: half for half in shown if half.is_composite}
        self.hidden = {*self.composites, CAUSE, DUE}
        keyed = {name for half in self.halves for name in half.columns}
        # The narrowest half decides whether a value may stand under its column's name at all.
        self.indexed: dict[str, Half] = {}
        for half in sorted(shown, key=lambda half: -half.most):
            if not half.is_composite and half.attribute not in keyed:
                self.indexed[half.attribute] = half
        self.entangled = {name for half in self.composites.values() for name in half.columns}
        # Conditions that are the same for many writes of this table, where requests are made.
        self.forms: dict[str, Any] = {}
        self._part = _key_maker(self.halves)
        self._plain = None if any(half.is_composite for half in self.halves) else self.halves

    def _way(self, index: IndexSpec) -> Way:
        partition = _half(self.table, index.partition, MAX_PARTITION)
        if partition is None:
            raise NotProvisioned(f"The index {index.name} of {self.table.entity} has no partition.", index=index.name)
        return Way(index.name, partition, _half(self.table, index.sort, MAX_SORT), self.halves)

    def way(self, index: str | None) -> Way:
        if index is None:
            return self.base
        if index not in self.ways:
            raise NotProvisioned(f"{self.table.entity} has no index {index}.", table=self.table.name, index=index)
        return self.ways[index]

    def key(self, key: Sequence[KeyPart]) -> Item:
        """Return a record's key as DynamoDB wants it."""
        return self._part(key)

    def check_key(self, key: Sequence[KeyPart]) -> None:
        """Raise EmptyKey, KeyType or KeyTooLong where DynamoDB would not take the key."""
        if self._plain is not None and len(key) == len(self._plain):
            for half, part in zip(self._plain, key, strict=True):
                # What most keys are is seen without measuring; every other one is judged below.
                if type(part) is not str or not part.isascii() or not 0 < len(part) <= half.most or "\0" in part:
                    break
            else:
                return
        at = 0
        for half in self.halves:
            parts = key[at : at + len(half.columns)]
            at += len(half.columns)
            for name, part in zip(half.columns, parts, strict=True):
                key_part_size(part, f"{self.table.entity}.{name}", half.most)
            if half.is_composite and not half.fits(half.whole(parts)):
                what = f"{self.table.entity}.{half.attribute} takes more than {half.most:,} bytes with its parts joined."
                raise KeyTooLong(what, hint="Key by shorter identifiers.", entity=self.table.entity)

    def due(self, key: Sequence[KeyPart]) -> Attribute:
        """Return the partition of the expiry index that a record is in: always the same one."""
        return {"N": str(crc32(joined(key).encode()) % SHARDS)}


def _key_maker(halves: Sequence[Half]) -> Callable[[Sequence[KeyPart]], Item]:
    if not any(half.is_composite for half in halves):
        names = [half.attribute for half in halves]
        if len(names) == 2:
            return _pair_maker(*names)
        return lambda key: {name: {"S": part} if type(part) is str else key_value(part) for name, part in zip(names, key, strict=False)}

    def make(key: Sequence[KeyPart]) -> Item:
        item: Item = {}
        at = 0
        for half in halves:
            upto = at + len(half.columns)
            item[half.attribute] = key_value(half.whole(key[at:upto]))
            at = upto
        return item

    return make


def _pair_maker(partition: str, sort: str) -> Callable[[Sequence[KeyPart]], Item]:
    def make(key: Sequence[KeyPart]) -> Item:
        first, second = key
        return {
            partition: {"S": first} if type(first) is str else key_value(first),
            sort: {"S": second} if type(second) is str else key_value(second),
        }

    return make


def key_of(layout: Layout, record: Record) -> tuple[KeyPart, ...]:
    return tuple(record[name] for name in layout.table.key)  # type: ignore[misc]
