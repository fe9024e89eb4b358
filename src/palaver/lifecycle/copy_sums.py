"""Comparing two databases: sums over whole tables that need no order, then the keys that differ.

A record's checksum is over one canonical form, so that engines that store values differently give equal sums.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from hashlib import sha256
from typing import Any, Literal

import orjson

from palaver.lifecycle.copy_ends import End, copied, pages
from palaver.ops import Address, position
from palaver.values import MAX_INT, MIN_INT, KeyPart, Record, canonical, number_text

GET = 100
_ALL = 2**256

Kind = Literal["missing", "different", "extra"]


@dataclass
class Sums:
    """How many records, and the sum of their checksums: equal for equal sets of records, in whatever order they came."""

    records: int = 0
    total: int = 0

    def add(self, record: Record) -> None:
        self.records += 1
        self.total = (self.total + int.from_bytes(checksum(record))) % _ALL


@dataclass(frozen=True)
class Difference:
    """A record that one side lacks or has otherwise."""

    table: str
    key: tuple[KeyPart, ...]
    kind: Kind


def checksum(record: Record) -> bytes:
    return sha256(encoded(record)).digest()


def encoded(record: Record) -> bytes:
    """Return one text for equal records: names in order, numbers by value, sets sorted; True, 1 and "1" stay three things."""
    return orjson.dumps({name: _plain(value) for name, value in record.items() if value is not None}, option=orjson.OPT_SORT_KEYS)


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int and MIN_INT <= value <= MAX_INT:
        return value
    if kind is int or kind is float or kind is Decimal:
        return _number(Decimal(repr(value)) if kind is float else Decimal(value))
    if kind is list:
        # The empty text in front tells a list of the user from the tagged ones below.
        return ["", *map(_plain, value)]
    if kind is dict:
        return {name: _plain(inner) for name, inner in value.items()}
    if kind is bytes:
        return ["b", value.hex()]
    return ["s", *sorted((_plain(inner) for inner in value), key=orjson.dumps)]


def _number(number: Decimal) -> Any:
    exact = canonical(number)
    if exact == exact.to_integral_value() and MIN_INT <= exact <= MAX_INT:
        return int(exact)
    return ["n", number_text(exact)]


async def sums(end: End, table: str, seen: Callable[[int], None] | None = None) -> Sums:
    """Sum up a whole table."""
    found = Sums()
    async for page in pages(end, table):
        for record in copied(table, page):
            found.add(record)
        if seen is not None:
            seen(len(page))
        await asyncio.sleep(0)
    return found


async def differences(source: End, target: End, table: str) -> AsyncIterator[list[Difference]]:
    """Yield what differs, page by page: first what the source has, then what only the target has."""
    spec = source.tables[table]
    async for page in pages(source, table):
        records = copied(table, page)
        there = await _same_keys(target, table, records)
        found = [
            Difference(table, position(spec, None, mine), "missing" if theirs is None else "different")
            for mine, theirs in zip(records, there, strict=True)
            if theirs is None or encoded(mine) != encoded(theirs)
        ]
        if found:
            yield found
    async for page in pages(target, table):
        records = copied(table, page)
        there = await _same_keys(source, table, records)
        found = [
            Difference(table, position(spec, None, theirs), "extra") for theirs, mine in zip(records, there, strict=True) if mine is None
        ]
        if found:
            yield found


async def _same_keys(end: End, table: str, records: Sequence[Record]) -> list[Record | None]:
    spec = end.tables[table]
    return await got(end, [Address(table, position(spec, None, record)) for record in records])


async def got(end: End, addresses: Sequence[Address]) -> list[Record | None]:
    """Read records by key, a hundred a request, several requests at once."""
    parts = [addresses[start : start + GET] for start in range(0, len(addresses), GET)]
    found = await asyncio.gather(*(end.ask(partial(end.records.get, part)) for part in parts))
    return [record for part in found for record in part]
