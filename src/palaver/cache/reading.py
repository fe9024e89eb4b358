"""Which items of a window a reader gets."""

from __future__ import annotations

from collections.abc import Sequence

from palaver.caching import Item


def newest(items: Sequence[Item], limit: int, budget: int | None, complete: bool) -> tuple[Item, ...] | None:
    """Return the newest of a window's items within both bounds, or None where older ones might belong to them."""
    kept: list[Item] = []
    left = budget
    for item in reversed(items):
        if len(kept) == limit:
            break
        if left is not None:
            left -= item.tokens
            if left < 0:
                break
        kept.append(item)
    else:
        if len(kept) < limit and not complete:
            return None
    return tuple(reversed(kept))
