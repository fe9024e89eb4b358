"""A message as a channel delivers it."""

from __future__ import annotations

from dataclasses import dataclass, field

from palaver.blueprints.simple_agent.schema import Metadata, Role


@dataclass(frozen=True)
class Arrival:
    """A message as it arrives: from whom on which channel, what, the channel's identifier of it, the address it came from.

    With the `token` of a session, channel and user are the session's.
    """

    channel_type: str
    channel_user_id: str
    content: str
    username: str | None = None
    delivery_id: str | None = None
    conversation_id: str | None = None
    role: Role = "user"
    token_count: int | None = None
    metadata: Metadata = field(default_factory=dict)
    ip: str | None = None
    token: str | None = field(default=None, repr=False)
