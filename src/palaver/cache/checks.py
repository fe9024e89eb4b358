"""What no engine of the cache accepts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from palaver.caching import ABSENT, HIGHEST_REVISION, Item, Take
from palaver.errors import EmptyKey, KeyTooLong, Validation

LONGEST_KEY = 1_024
_LONGEST_TTL_S = 100 * 366 * 86_400.0
LONGEST_PLAIN = LONGEST_KEY // 4
"""Up to here no text is too long, whatever its characters take."""


def checked_text(text: str) -> bytes:
    """Return a key, member or topic as UTF-8; raises KeyTooLong, or Validation for half of a surrogate pair."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise Validation("A key in the cache is not valid Unicode.") from None
    if len(data) > LONGEST_KEY:
        raise KeyTooLong(f"A key in the cache is longer than {LONGEST_KEY:,} bytes.", hint="Use a hash of it.")
    return data


def check_text(text: str) -> None:
    """Do the same where the bytes are not needed; plain text of no great length needs no look at its bytes."""
    if len(text) > LONGEST_PLAIN or not text.isascii():
        checked_text(text)


def checked_ms(seconds: float) -> int:
    """Return a time to live in milliseconds, at least one."""
    if not 0 < seconds <= _LONGEST_TTL_S:
        raise Validation("A time to live in the cache is more than 0 seconds and less than a hundred years.")
    return int(seconds * 1_000) or 1


def check_revision(revision: int, expected: int | None = None) -> None:
    if not 0 <= revision <= HIGHEST_REVISION or not ABSENT <= (expected or 0) <= HIGHEST_REVISION:
        raise Validation("A revision in the cache is a whole number from 0 to 2^53 - 1.")


def check_takes(takes: Sequence[Take]) -> None:
    if not takes or any(take.cost < 1 for take in takes):
        raise Validation("A call takes 1 or more of at least one limit.")
    if len(takes) > 1 and len({(take.limit.family, take.key) for take in takes}) < len(takes):
        raise Validation("A call names the same limit and key twice.", hint="Add the costs up.")


def check_items(items: Iterable[Item]) -> None:
    for item in items:
        if not item.id:
            raise EmptyKey("An item of a window has an empty id.")
        if "\0" in item.id or item.tokens < 0:
            raise Validation("An item of a window has an id without U+0000 and no negative number of tokens.")
        check_text(item.id)


def check_bounds(limit: int, budget: int | None) -> None:
    if limit < 1 or (budget is not None and budget < 0):
        raise Validation("A window is read up to 1 or more items, within a budget that is not negative.")


def check_listed(limit: int) -> None:
    """Refuse a number of members to list that is none."""
    given: object = limit
    if not isinstance(given, int) or limit < 1:
        raise Validation("Members are listed up to a whole number of them, 1 or more.", hint="Give limit=1_000, or leave it out.")


def check_filling(items: Sequence[Item], keep: int, complete: bool) -> None:
    if keep < 1 or (len({item.id for item in items}) < keep and not complete):
        raise Validation("A window is filled with as many items as it keeps, or with all there are.")
