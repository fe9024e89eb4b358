"""What a field or a class is, said at its declaration. Markers never name an engine.

Field markers go into `Annotated[...]`; `Unique`, `Ref` and `History` are assigned in the class body.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, AwareDatetime, StringConstraints

if TYPE_CHECKING:
    from pydantic import JsonValue

    Json: TypeAlias = JsonValue
else:
    # Checked when it is written, at a tenth of what pydantic's own check of JsonValue costs.
    Json = Any

INLINE = 32 * 1024


@dataclass(frozen=True, slots=True)
class Searchable:
    """The text of this field is found by full-text search."""


@dataclass(frozen=True, slots=True)
class Secret:
    """The value never leaves the store in logs, errors, exports or search; it cannot be searched or indexed."""


@dataclass(frozen=True, slots=True)
class Personal:
    """The value is about a person: masked in logs, erased with its subject."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The value says whom the record is about; erasing that person finds the record by it."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """The value says whose data this is; it comes first in every key, and a store is bound to one."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A large value, stored as an object by itself when it is over `inline` bytes, and read back by itself.

    `path` is the readable part of the object's key, formatted with the record's fields. `keep` lets the object outlive
    an expired record, counted from when it was written; a deleted record takes it along at once.
    """

    path: str
    inline: int = INLINE
    keep: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Expires:
    """The record stops existing at this instant; unset, it is `after` the field `of` (or after the write)."""

    after: timedelta | None = None
    of: str | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """The name of the attribute or column, where it differs from the field's."""

    name: str


@dataclass(frozen=True, slots=True)
class Instant:
    """How a datetime is stored: integer milliseconds, integer seconds (rounded up), or fixed-width UTC text."""

    unit: Literal["ms", "s", "text"]


@dataclass(frozen=True, slots=True)
class Digits:
    """A decimal identifier: stored padded to 20 digits, so that text order is number order."""


@dataclass(frozen=True, slots=True)
class Sentinel:
    """A value that stands for "none" in a key: it is stored, and kept out of the indexes on this field."""

    value: str


@dataclass(frozen=True, slots=True)
class RenamedFrom:
    """The field had this name in an earlier version of the schema; `palaver migrate` takes its values along.

    It may stay when that is done, and does nothing then.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Backfill:
    """What records stored before the field was there get as its value; a field with a default gets that anyway."""

    value: Any


OF_FIELDS = (Searchable, Secret, Personal, Subject, Tenant, Blob, Expires, Stored, Sentinel, RenamedFrom, Backfill)
"""What is said of a whole field of an entity, and means nothing inside of one."""


def _utc_ms(at: datetime) -> datetime:
    at = _utc(at)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def _utc_s_up(at: datetime) -> datetime:
    try:
        return _utc(at).replace(microsecond=0) + timedelta(seconds=1) if at.microsecond else _utc(at)
    except OverflowError:
        raise _outside() from None


def _utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise _outside() from None


def _outside() -> ValueError:
    return ValueError("the moment is outside the years 1 to 9999 of UTC")


InstantMs = Annotated[AwareDatetime, AfterValidator(_utc_ms), Instant("ms")]
"""A moment in UTC, to the millisecond; stored as an integer."""

InstantText = Annotated[AwareDatetime, AfterValidator(_utc), Instant("text")]
"""A moment in UTC, to the microsecond; stored as text of fixed width, so that text order is time order."""

Expiry = Annotated[AwareDatetime, AfterValidator(_utc_s_up), Instant("s")]
"""A moment in UTC, rounded up to the second; stored as epoch seconds."""

Snowflake = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,19})$"), Digits()]
"""A platform's decimal identifier (Discord, X): text outside, number order inside."""
