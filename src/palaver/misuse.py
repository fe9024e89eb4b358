"""Errors for a value of another kind than is needed: they say its type, never the value, and what to give instead."""

from __future__ import annotations

from typing import Any, NamedTuple

from palaver.entity import Entity
from palaver.errors import Validation
from palaver.query import At, Query, UniqueAt


class Need(NamedTuple):
    """Which kinds of values a verb takes, in words, and how its caller makes one."""

    kinds: tuple[type, ...]
    words: str
    hint: str


ADDRESS = Need(
    (At, UniqueAt),
    "the address of one record",
    "Write Message.at(…), a Unique of it, or record.address; a query is for store.query() and store.page().",
)
TARGET = Need((At, Entity), "a record or its address", "Write Message.at(…), or give the record as it was read.")
QUERY = Need((Query,), "a query", "Write Message.key(…), or call one of its indexes; an address is for store.get().")


def check(need: Need, given: Any) -> None:
    """Raise Validation where a value is none of what is needed."""
    if not isinstance(given, need.kinds):
        raise wrong(need.words, given, need.hint)


def wrong(words: str, given: Any, hint: str) -> Validation:
    """Return the error for a value that is not what the words say."""
    kind = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
    return Validation(f"What is needed here is {words}, not {kind}.", hint=hint)
