"""Simple AI Agent's schema: people on several channels, their conversations, messages, and what each reply cost.

The four tables of the design, named as there. What could not work as designed is put right here, each with its reason
beside it. Additions: identities (one person on several channels is several rows of one user), the calls of models (a
message's token count alone has no price), the days a person was there (who was active is a count of them), ratings,
and the rows reports are kept in.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from palaver.clock import days, now
from palaver.entity import Entity
from palaver.expr import F
from palaver.flags.records import ExposureRecord, FlagRecord
from palaver.identity.session_records import SessionRecord
from palaver.ids import new_id
from palaver.insight.metrics import MetricRow
from palaver.insight.usage import UsageRow
from palaver.keys import Index, Key, Partitioned, Ref, Unique
from palaver.markers import Expires, Expiry, InstantMs, Json, Personal, Searchable, Secret, Stored, Subject
from palaver.schema import Schema, Search, Source

Role = Literal["user", "assistant", "system", "tool", "developer"]
"""Who speaks. Another role is one more word here, and `palaver migrate` widens the constraint."""

Status = Literal["received", "in_progress", "answered", "unanswered", "failed"]
Rating = Literal["positive", "negative"]

Channel = Annotated[str, Field(min_length=1, max_length=50)]
Model = Annotated[str, Field(min_length=1, max_length=100)]
Metadata = dict[str, Json]

DEFAULT_TENANT = "main"
"""The tenant of who has no tenants."""

SHARDS = 8
"""What has one partition for everything is spread this wide: one partition takes 1,000 writes a second."""


class Part(BaseModel):
    """Base of the values inside records."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- people -----------------------------------------------------------------------------------------------------------


class User(Entity, table="users"):
    """A person, whatever channels they come from: the channels are in `identities`, the history hangs on this row.

    `merged_into` is set while this person turns out to be another one and everything moves over.
    """

    user_id: Annotated[str, Subject(), Stored("id")] = Field(default_factory=new_id)
    tenant: str = DEFAULT_TENANT
    preferred_model: Model | None = None
    created_at: InstantMs = Field(default_factory=now)
    updated_at: InstantMs = Field(default_factory=now)
    last_seen: InstantMs = Field(default_factory=now)
    merged_into: str | None = None
    metadata: Annotated[Metadata, Personal()] = Field(default_factory=dict)

    key = Key("user_id")
    by_id = Index(sort="user_id", shards=SHARDS, name="idx_users_id")
    by_last_seen = Index(sort="last_seen", shards=SHARDS, name="idx_users_last_seen")


class Identity(Entity, table="identities"):
    """Who somebody is on one channel of one tenant, and which user that is. Its key allows one user for each.

    A person who comes to two tenants is two users: an agent reads and changes what is its own tenant's alone.
    """

    tenant: str = DEFAULT_TENANT
    channel_type: Channel
    channel_user_id: Annotated[str, Field(min_length=1, max_length=255)]
    user_id: Annotated[str, Subject()]
    username: Annotated[str | None, Personal(), Field(max_length=255)] = None
    linked_at: InstantMs = Field(default_factory=now)

    key = Key("tenant", "channel_type", "channel_user_id")
    by_user = Index("user_id", sort="linked_at", name="idx_identities_user")
    user = Ref("user_id", to=User, on_delete="cascade")


class UserDay(Entity, table="user_days"):
    """A day on which a person wrote, and where first: how many were active on a day is how many of these it has."""

    user_id: Annotated[str, Subject()]
    day: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    channel_type: Channel
    expires: Annotated[Expiry | None, Expires(after=days(400)), Stored("ttl")] = None

    key = Key("user_id", sort="day")
    by_day = Index("day", sort="user_id", shards=SHARDS, name="idx_user_days_day")


class LoginSession(SessionRecord, table="sessions"):
    """Who is logged in with which token, of which only the hash is here; the cache serves it."""


# --- conversations ----------------------------------------------------------------------------------------------------


class Conversation(Entity, table="conversations"):
    """A conversation. It names the identity it began with, which must exist, so that its channel is one the user has.

    `last_activity` moves in steps (`Settings.touch`); the counters move with every message. What is kept for a time is
    counted from its end: an expiry that moved with every message would move the claim to be the active one with it.
    """

    conversation_id: Annotated[str, Stored("id")] = Field(default_factory=new_id)
    user_id: Annotated[str, Subject()]
    tenant: str = DEFAULT_TENANT
    channel_type: Channel
    channel_user_id: str
    model_override: Model | None = None
    started_at: InstantMs = Field(default_factory=now)
    last_activity: InstantMs = Field(default_factory=now)
    ended_at: InstantMs | None = None
    is_active: bool = True
    message_count: int = 0
    token_count: int = 0
    error_count: int = 0
    expires: Annotated[Expiry | None, Expires(of="ended_at"), Stored("ttl")] = None
    metadata: Annotated[Metadata, Personal()] = Field(default_factory=dict)

    key = Key("conversation_id")
    one_active = Unique("user_id", when=F("is_active") == True)  # noqa: E712 - a condition, not a comparison
    by_user = Index("user_id", sort="started_at", name="idx_conversations_user")
    by_activity = Index(sort="last_activity", shards=SHARDS, name="idx_conversations_activity")
    by_active = Index("is_active", sort="last_activity", shards=SHARDS, name="idx_conversations_active")
    user = Ref("user_id", to=User, on_delete="cascade")
    identity = Ref("tenant", "channel_type", "channel_user_id", to=Identity, on_delete="keep")


class ToolCall(Part):
    """What a model asks a tool to do; the tool's message answers with the same `id`."""

    id: str
    name: str
    arguments: Json = None


class Message(Entity, table="messages"):
    """One message, which never changes. Its id grows with time, so the key alone gives a conversation in order.

    `delivery_id` is the channel's own, behind tenant and channel: the same message delivered again is not stored again.
    `latency` and `error` are of the model or tool that said it. What became of a question is in its `TurnRecord`.
    """

    conversation_id: str
    message_id: Annotated[str, Stored("id")] = Field(default_factory=new_id)
    user_id: Annotated[str, Subject()]
    tenant: str = DEFAULT_TENANT
    channel_type: Channel
    role: Role
    content: Annotated[str, Searchable(), Personal()]
    model_used: Model | None = None
    token_count: int | None = Field(default=None, ge=0)
    timestamp: InstantMs = Field(default_factory=now)
    tool_calls: Annotated[list[ToolCall], Personal()] = Field(default_factory=list)
    tool_call_id: str | None = None
    tool_name: str | None = None
    delivery_id: str | None = None
    latency: float | None = None
    error: str | None = None
    expires: Annotated[Expiry | None, Expires(of="timestamp"), Stored("ttl")] = None
    metadata: Annotated[Metadata, Personal()] = Field(default_factory=dict)

    key = Key("conversation_id", sort="message_id")
    months = Partitioned("message_id", every="month")
    by_delivery = Unique("delivery_id")
    by_id = Index("message_id", name="idx_messages_id")
    by_user = Index("user_id", sort="timestamp", name="idx_messages_user")
    by_timestamp = Index(sort="timestamp", shards=SHARDS, name="idx_messages_timestamp")
    conversation = Ref("conversation_id", to=Conversation, on_delete="cascade")


class TurnRecord(Entity, table="turns"):
    """What became of a question: how far its answer came, which reply it got, and in how many milliseconds.

    It changes with every step, and is not the message's own, because whoever keeps messages in a cache would have to
    forget them each time.
    """

    conversation_id: str
    message_id: str
    user_id: Annotated[str, Subject()]
    channel_type: Channel
    status: Status = "received"
    last_step: str = "message"
    stopped_at: str | None = None
    error: str | None = None
    reply_id: str | None = None
    latency: float | None = None
    model_calls: int = 0
    timestamp: InstantMs = Field(default_factory=now)
    steps: Annotated[Metadata, Personal()] = Field(default_factory=dict)
    expires: Annotated[Expiry | None, Expires(of="timestamp"), Stored("ttl")] = None

    key = Key("conversation_id", sort="message_id")
    by_user = Index("user_id", sort="timestamp", name="idx_turns_user")
    message = Ref("conversation_id", "message_id", to=Message, on_delete="cascade")


class ModelCall(Entity, table="model_calls"):
    """One call of a language model for a question: what it took, and what that costs is counted from."""

    conversation_id: str
    message_id: str
    call_id: str = Field(default_factory=new_id)
    user_id: Annotated[str, Subject()]
    channel_type: Channel
    provider: Model
    model: Model
    purpose: Annotated[str, Field(min_length=1, max_length=50)] = "reply"
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    total_tokens: int = Field(default=0, ge=0)
    latency: float | None = None
    success: bool = True
    error: str | None = None
    timestamp: InstantMs = Field(default_factory=now)
    expires: Annotated[Expiry | None, Expires(after=days(90), of="timestamp"), Stored("ttl")] = None

    key = Key("conversation_id", sort=("message_id", "call_id"))
    by_user = Index("user_id", sort="timestamp", name="idx_model_calls_user")
    by_model = Index("provider", sort=("model", "timestamp"), shards=SHARDS, name="idx_model_calls_model")
    message = Ref("conversation_id", "message_id", to=Message, on_delete="cascade")


class Feedback(Entity, table="feedback"):
    """One person's rating of one reply. It stays when the message goes; it goes with its rater."""

    message_id: str
    user_id: Annotated[str, Subject()]
    tenant: str = DEFAULT_TENANT
    conversation_id: str
    channel_type: Channel
    rating: Rating
    comment: Annotated[str | None, Personal()] = None
    model_used: Model | None = None
    timestamp: InstantMs = Field(default_factory=now)

    key = Key("message_id", sort="user_id")
    by_user = Index("user_id", sort="timestamp", name="idx_feedback_user")
    by_rating = Index("rating", sort="timestamp", shards=SHARDS, name="idx_feedback_rating")
    message = Ref("conversation_id", "message_id", to=Message, on_delete="keep")


# --- channels ---------------------------------------------------------------------------------------------------------


class RateLimits(Part):
    """Requests a minute, for each user and for each address a webhook is called from."""

    per_user: int = Field(default=60, ge=1)
    per_ip: int = Field(default=60, ge=1)


class ChannelConfig(Entity, table="channel_configs"):
    """What a tenant decided for one channel. Its credentials are a record of their own, so that nothing that needs this has them."""

    tenant: str = DEFAULT_TENANT
    channel_type: Channel
    default_model: Model
    settings: Metadata = Field(default_factory=dict)
    rate_limits: RateLimits = RateLimits()
    created_at: InstantMs = Field(default_factory=now)
    updated_at: InstantMs = Field(default_factory=now)

    key = Key("tenant", sort="channel_type")


class ChannelCredentials(Entity, table="channel_credentials"):
    """What a channel is called with, sealed wherever it is stored."""

    tenant: str = DEFAULT_TENANT
    channel_type: Channel
    credentials: Annotated[dict[str, str], Secret()]
    updated_at: InstantMs = Field(default_factory=now)

    key = Key("tenant", sort="channel_type")
    config = Ref("tenant", "channel_type", to=ChannelConfig, on_delete="cascade")


# --- flags ------------------------------------------------------------------------------------------------------------


class FeatureFlag(FlagRecord, table="feature_flags"):
    """What somebody set a flag to, for everybody, a channel or a user: in the records, where nothing evicts it."""


class Exposure(ExposureRecord, table="exposures"):
    """Who saw which variant of an experiment first. Which one that is follows from a hash and is stored nowhere else."""


# --- reports ----------------------------------------------------------------------------------------------------------


class Metric(MetricRow, table="metrics"):
    """One day of one figure on one channel, counted from the changes: what the reports are read from."""


class ModelUsage(UsageRow, table="model_usage"):
    """One day of one model for one purpose on one channel: calls, tokens and cost, kept when the calls are gone."""


class DataMigration(Entity, table="data_migrations"):
    """How far a change of all users of a tenant has come; written in the same commit as the users it changed.

    The name begins with the tenant, as in "acme/time zones", where that is not the default one.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    after: str | None = None
    seen: int = 0
    changed: int = 0
    done: bool = False
    started_at: InstantMs = Field(default_factory=now)
    updated_at: InstantMs = Field(default_factory=now)

    key = Key("name")


@dataclass(frozen=True)
class Retention:
    """How long each kind is kept; None: until it is deleted. A conversation is kept from its end on; `end_stale` ends it."""

    conversations: timedelta | None = None
    messages: timedelta | None = None
    model_calls: timedelta | None = timedelta(days=90)
    user_days: timedelta | None = timedelta(days=400)


ENTITIES: tuple[type[Entity], ...] = (
    User,
    Identity,
    UserDay,
    LoginSession,
    Conversation,
    Message,
    TurnRecord,
    ModelCall,
    Feedback,
    ChannelConfig,
    ChannelCredentials,
    FeatureFlag,
    Exposure,
    Metric,
    ModelUsage,
    DataMigration,
)

SEARCHES = (
    Search(
        "messages",
        Source(
            Message,
            text=("content",),
            filters=("tenant", "user_id", "conversation_id", "channel_type", "role", "model_used", "tool_name", "timestamp"),
        ),
    ),
)


def schema(retention: Retention | None = None) -> Schema:
    """Return the schema with the given retention."""
    keep = retention or Retention()
    return Schema(
        "simple_agent",
        ENTITIES,
        searches=SEARCHES,
        retention={
            Conversation: keep.conversations,
            Message: keep.messages,
            TurnRecord: keep.messages,
            ModelCall: keep.model_calls,
            UserDay: keep.user_days,
        },
    )


SCHEMA = schema()
