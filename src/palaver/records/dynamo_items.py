"""Records as items and back, and what is set aside of a record because DynamoDB would not take it in its place.

Set aside, compressed into one attribute, is a value an index half cannot hold (empty or too long: DynamoDB would refuse the
whole write), one nested too deep for DynamoDB, and in a record near 400 KB the largest values, because the revision and the
composite attributes count there as well.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from palaver.errors import ItemTooLarge, KeyTooLong
from palaver.ops import REVISION, Address, Cause
from palaver.records.dynamo_keys import ASIDE, CAUSE, DUE, Layout, key_value
from palaver.records.dynamo_values import (
    MAX_ITEM,
    MAX_LEVELS,
    Attribute,
    Item,
    attribute_size,
    decoded,
    encoded,
    is_flat,
    is_surely_within,
    item_size,
    levels,
    nested,
    plain,
)
from palaver.stored_json import loads, packed
from palaver.values import Record, Value

QUIET = "q"
_SHORT = 512


def cause_of(cause: Cause, released: tuple[str, ...] = ()) -> Attribute | None:
    """Return why a record is written, as it rides on the record; None where there is nothing to say."""
    about: dict[str, Attribute] = {}
    if cause.actor is not None:
        about["a"] = {"S": cause.actor}
    if cause.token is not None:
        about["t"] = {"S": cause.token}
    if released:
        about["r"] = {"L": [{"S": key} for key in released]}
    return {"M": about} if about else None


def quiet_cause(mark: str) -> Attribute:
    """Return what tells the feed to leave a write out; the mark differs from that of every earlier write of the record."""
    return {"M": {QUIET: {"S": mark}}}


def read_cause(attribute: Attribute | None) -> tuple[Cause, tuple[str, ...]]:
    about: Any = attribute["M"] if attribute else {}
    actor, token = about.get("a"), about.get("t")
    released = tuple(key["S"] for key in about.get("r", {"L": ()})["L"])
    return Cause(actor and actor["S"], token and token["S"]), released


def item_of(layout: Layout, record: Mapping[str, Value], revision: int, cause: Attribute | None, *, fits: bool = False) -> Item:
    """Return the whole item of a record; `fits` where it is known that it is small enough. Raises ItemTooLarge, KeyTooLong."""
    kinds, indexed = layout.kinds, layout.indexed
    item: Item = {}
    aside: dict[str, Value] = {}
    for name, value in record.items():
        of = type(value)
        if indexed and name in indexed and value is not None and not indexed[name].fits(value):
            aside[name] = value
        elif of is str:
            item[name] = {"S": value}
        elif of is bool:
            item[name] = {"BOOL": value}
        elif of is int and kinds.get(name) == "int":
            # The revision is among them, and replaced below.
            item[name] = {"N": repr(value)}
        elif of is dict or of is list:
            attribute = nested(value)
            if not is_flat(value) and levels(attribute) > MAX_LEVELS:
                aside[name] = value
            else:
                item[name] = attribute
        elif value is not None:
            item[name] = encoded(kinds.get(name, "json"), value)
    item[REVISION] = {"N": str(revision)}
    if cause is not None:
        item[CAUSE] = cause
    for half in layout.composites.values() if layout.composites else ():
        whole = half.of(record)
        if whole is not None:
            if not half.fits(whole):
                raise KeyTooLong(
                    f"{layout.table.entity}.{half.attribute} takes more than {half.most:,} bytes.", hint="Key by shorter identifiers."
                )
            item[half.attribute] = key_value(whole)
    if layout.sweeps:
        item[DUE] = layout.due([record[name] for name in layout.table.key])  # type: ignore[misc]
    return item if fits and not aside else _fitted(layout, item, aside, record)


def _fitted(layout: Layout, item: Item, aside: dict[str, Value], record: Mapping[str, Value]) -> Item:
    if aside:
        item[ASIDE] = pack_aside(aside)
    if is_surely_within(MAX_ITEM, item) or item_size(item) <= MAX_ITEM:
        return item
    held = {name for half in layout.halves for name in (half.attribute, *half.columns)} | {REVISION, DUE, CAUSE, ASIDE, *layout.indexed}
    for name in sorted(item, key=lambda name: -attribute_size(item[name])):
        if name not in held and name in record and attribute_size(item[name]) > _SHORT:
            aside[name] = record[name]
            del item[name]
            item[ASIDE] = pack_aside(aside)
            if item_size(item) <= MAX_ITEM:
                return item
    raise ItemTooLarge(
        f"A {layout.table.entity} record would take {item_size(item):,} bytes in DynamoDB, where its revision and its composite keys"
        f" count as well; the most is {MAX_ITEM:,}.",
        hint="Mark its large field with Blob(...), or split the record.",
        entity=layout.table.entity,
    )


def read_aside(item: Item) -> Record:
    """Return what was set aside of a record."""
    attribute = item.get(ASIDE)
    return loads(zlib.decompress(b64decode(attribute["B"])).decode()) if attribute else {}


def pack_aside(aside: Mapping[str, Value]) -> Attribute:
    return {"B": b64encode(zlib.compress(packed(dict(aside)), 6)).decode()}


def record_of(layout: Layout, item: Item) -> Record:
    """Return the record an item holds; attributes no column names come along, so that older code does not lose them."""
    kinds, hidden = layout.kinds, layout.hidden
    record: Record = {}
    for name, attribute in item.items():
        if name in hidden:
            continue
        value = attribute.get("S")
        if value is not None:
            # Joined parts of an index this program does not know: one that is gone, whose records still have them.
            if "#" not in name:
                record[name] = value
            continue
        kind = kinds.get(name)
        if kind == "int":
            number = attribute.get("N")
            if number is not None and "." not in number and "E" not in number:
                record[name] = int(number)
                continue
        if name == ASIDE:
            record.update(read_aside(item))
        else:
            record[name] = decoded(kind or "json", attribute)
    if REVISION not in record:
        # Put there by hand: it has never been written by this library.
        record[REVISION] = 0
    return record


def address_of(layout: Layout, image: Item) -> Address:
    """Return whose image it is, in the key's own types."""
    return Address(layout.table.name, tuple(_key_part(layout.kinds[name], image[name]) for name in layout.table.key))


def _key_part(kind: str, attribute: Attribute) -> Any:
    if kind == "int":
        return int(Decimal(attribute["N"]))
    return attribute["S"] if kind == "text" else plain(attribute)
