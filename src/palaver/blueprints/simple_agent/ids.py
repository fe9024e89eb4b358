"""Identifiers of messages: they grow with time, and a reply's is above its question's whatever the clocks say."""

from __future__ import annotations

from uuid import UUID

from palaver.errors import Validation
from palaver.ids import Ids


def id_above(ids: Ids, earlier: str) -> str:
    """Return a new identifier that sorts after an earlier one, also after one made by a clock that is ahead."""
    fresh = ids.new()
    return fresh if fresh > earlier else str(UUID(int=UUID(earlier).int + 1))


def own_id_above(given: str, earlier: str) -> str:
    """Return an identifier the application made; raises Validation for one that does not sort after an earlier one, as all do here."""
    if given <= earlier or given != _canonical(given):
        raise Validation(
            "A message's identifier sorts after that of the message before it.",
            hint="Leave it out, or make it with palaver.new_id() after the question was stored.",
            entity="Message",
            field="message_id",
        )
    return given


def _canonical(given: str) -> str:
    try:
        return str(UUID(given))
    except ValueError:
        return ""
