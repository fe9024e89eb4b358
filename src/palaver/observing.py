"""What an engine says of itself: findings for the doctor, figures for monitors. No secret and no stored value is in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of `palaver doctor`: how it went, what was seen, and what to do. Names no secret and no stored value."""

    check: str
    level: Literal["ok", "warn", "fail"]
    seen: str
    fix: str = ""


@runtime_checkable
class Diagnoses(Protocol):
    async def diagnose(self) -> list[Finding]:
        """Return what is well and what is wanting where the data lives; what may not be looked at is a finding, not an error."""
        ...


class Size(NamedTuple):
    """A table, an index, or one kind of a cache. `entries` and `bytes` may be estimates, and None where nobody counted.

    `reads`: how often it was asked since the engine began to count; None where it does not count that.
    """

    name: str
    entries: int | None
    bytes: int | None
    reads: int | None = None
    of: str = ""


class Slow(NamedTuple):
    """A kind of call that took long: its text with places in place of values, or its name; times are in milliseconds."""

    what: str
    calls: int
    mean_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Observed:
    """What an engine counts of itself, as plain data; no stored value is in it.

    A figure's name ends in its unit: `_bytes`, `_s`, `_ms`, `_share` (0 to 1); without one it is a count or a word. `tables`, `indexes`
    and `slow` come largest first. `notes` say what could not be looked at and why, `warnings` what should be changed.
    """

    engine: str
    figures: Mapping[str, int | float | str]
    tables: tuple[Size, ...] = ()
    indexes: tuple[Size, ...] = ()
    slow: tuple[Slow, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@runtime_checkable
class Observes(Protocol):
    async def observe(self) -> Observed:
        """Return the engine's own figures now. What may not be looked at is a note; raises only where the engine is away."""
        ...
