"""Identifiers of messages: they grow with time, and a reply's is above its question's whatever the clocks say."""

from __future__ import annotations

from uuid import UUID

from palaver.ids import Ids


def id_above(ids: Ids, earlier: str) -> str:
    """Return a new identifier that sorts after an earlier one, also after one made by a clock that is ahead."""
    fresh = ids.new()
    return fresh if fresh > earlier else str(UUID(int=UUID(earlier).int + 1))
