"""What is kept how long, as data: read from the declaration, for documentation and `palaver retention plan`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from palaver.declared import Declared
from palaver.markers import Blob, Expires
from palaver.schema import Schema


@dataclass(frozen=True, slots=True)
class Kept:
    """One rule: `what` of `entity` is kept `after` the instant in `since`; None: until it is deleted."""

    entity: str
    table: str
    what: Literal["records", "objects", "history"]
    name: str
    after: timedelta | None
    since: str

    @property
    def sentence(self) -> str:
        """The rule in words."""
        what = {"records": "records", "objects": f"objects of {self.name}", "history": "images of earlier versions"}
        if self.after is None:
            return f"{self.entity}: {what[self.what]} are kept until {self.since or 'they are deleted'}."
        return f"{self.entity}: {what[self.what]} are kept {words(self.after)} after {self.since}."


def retention_plan(schema: Schema) -> list[Kept]:
    """Return how long everything of a schema is kept, in order of its entities."""
    return [rule for declared in schema.entities.values() for rule in _rules(schema, declared)]


def _rules(schema: Schema, declared: Declared) -> list[Kept]:
    from palaver.codec import EntityCodec

    rule: Expires | None = EntityCodec(declared, schema.retention).rule
    table, name = declared.table.name, declared.name
    after = rule.after if rule is not None else None
    if after is not None and rule is not None:
        since = rule.of or "the write"
    else:
        since = "" if declared.expires is None else f"the instant in {declared.expires.name}, where one is set"
    out = [Kept(name, table, "records", name, after, since)]
    for spec in declared.blobs:
        marker: Any = spec.marker(Blob)
        keep = marker.keep if rule is not None else None
        if keep is None:
            out.append(Kept(name, table, "objects", spec.name, None, "their record goes"))
        else:
            out.append(Kept(name, table, "objects", spec.name, max(keep, after) if after is not None else keep, "the record was written"))
    if declared.history is not None:
        out.append(Kept(name, table, "history", name, declared.history, "each write"))
    return out


def words(length: timedelta) -> str:
    """Return a duration in its largest whole unit."""
    seconds = int(length.total_seconds())
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        if seconds % size == 0 or size == 1:
            number = seconds // size
            return f"{number:,} {unit}{'' if number == 1 else 's'}"
    raise AssertionError("a second divides everything")
