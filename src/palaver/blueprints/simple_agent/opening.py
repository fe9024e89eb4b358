"""How a conversation begins and goes on: the conditions under which a message may be stored in it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from palaver.batch import Batch
from palaver.blueprints.simple_agent.people import OWN
from palaver.blueprints.simple_agent.schema import Conversation, Identity, UserDay
from palaver.expr import Condition, F

if TYPE_CHECKING:
    from palaver.blueprints.simple_agent.directory import Known


def begun(known: Known, conversation_id: str, channel_type: str, channel_user_id: str, now: datetime) -> Conversation:
    """Return a user's new conversation on a channel."""
    return Conversation(
        conversation_id=conversation_id,
        user_id=known.user.user_id,
        tenant=known.user.tenant,
        channel_type=channel_type,
        channel_user_id=channel_user_id,
        started_at=now,
        last_activity=now,
    )


def opening(known: Known, conversation: Conversation) -> Batch:
    """Return the batch that begins a conversation: only as the identity's own user, and not while that one is merged away."""
    now = conversation.started_at
    identity = Identity.at(conversation.tenant, conversation.channel_type, conversation.channel_user_id)
    return (
        Batch()
        .check(identity, when=F("user_id") == conversation.user_id)
        .patch(known.user, set={"last_seen": now}, when=OWN)
        .put(UserDay(user_id=conversation.user_id, day=now.date().isoformat(), channel_type=conversation.channel_type))
        .create(conversation)
    )


def unless_changed(conversation: Conversation, *, named: bool) -> Condition:
    """Return the condition that a conversation is this user's and active; one that was named may be over.

    Which model answers in it now, and how long it is, comes back with the write.
    """
    only: Condition = F("user_id") == conversation.user_id
    return only if named else only & (F("is_active") == True)  # noqa: E712 - a condition, not a comparison


def seen(known: Known, channel_type: str, now: datetime, step: timedelta) -> Batch:
    """Return what notes that a user was there, once in a while and on each new day."""
    last = known.user.last_seen
    if now - last < step and now.date() == last.date():
        return Batch()
    day = UserDay(user_id=known.user.user_id, day=now.date().isoformat(), channel_type=channel_type)
    return Batch().patch(known.user, set={"last_seen": now}).put(day)
