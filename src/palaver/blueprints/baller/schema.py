"""Baller's schema: what a football bot stores about users, their conversations, and each step of each answer.

Eight tables, three buckets, two search indexes, named as in the design. What could not work as designed is put right
here, each with its reason beside it. Four additions: alias rows (a list cannot be looked up in), usage by day (calls
expire), the day a user was last seen (nothing else finds the inactive), and on child rows what their parent check,
erasure and metrics need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from palaver.blueprints.baller.names import LONGEST, endpoint_template
from palaver.clock import days, now
from palaver.entity import Entity
from palaver.insight.usage import UsageRow
from palaver.keys import Index, Key, Ref, Unique
from palaver.markers import Blob, Expires, Expiry, InstantMs, Json, Personal, Searchable, Sentinel, Snowflake, Stored, Subject
from palaver.schema import Schema, Search, Source

AppMode = Literal["development", "beta", "production"]
Environment = Literal["development", "production"]
MessageType = Literal["user", "assistant"]
Purpose = Literal["main_response", "relevance_check", "intent_detection", "summary", "evaluation"]
Rating = Literal["positive", "negative"]
EntityType = Literal["team", "competition", "player"]
Status = Literal["received", "in_progress", "answered", "unanswered", "failed"]

GLOBAL = "@global"
"""The server of preferences that hold everywhere, and of direct messages, which have no server."""

SHARDS = 8
"""Partitions of few values (a mode, a provider, an intent) are spread this wide: one partition takes 1,000 writes/s."""

API_OBJECT = "baller-api-responses/{timestamp:%Y/%m/%d}/{conversation_id}/{message_id}/{api_call_id}.json"
LLM_OBJECT = "baller-llm-interactions/{timestamp:%Y/%m/%d}/{conversation_id}/{message_id}/{llm_call_id}.json"
CONTEXT_OBJECT = "baller-message-contexts/{timestamp:%Y/%m/%d}/{conversation_id}/{message_id}/context.json"
RELEVANCE_OBJECT = "baller-message-contexts/{timestamp:%Y/%m/%d}/{conversation_id}/{message_id}/relevance.json"
OBJECTS_KEPT = days(30)
RAW_INLINE = 8_192


class Part(BaseModel):
    """Base of the values inside records."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ConversationMetrics(Part):
    """Counters that are added to, so that concurrent turns count exactly; the average is derived, since averages race."""

    message_count: int = 0
    error_count: int = 0
    response_time_sum: float = 0.0
    response_time_count: int = 0

    @property
    def average_response_time(self) -> float | None:
        """Milliseconds, None before the first answer."""
        return self.response_time_sum / self.response_time_count if self.response_time_count else None


class Conversation(Entity, table="baller-conversations"):
    """A user's conversation with the bot. Its messages are records of their own: a list would be rewritten by each."""

    user_id: Annotated[str, Subject()]
    conversation_id: str
    server_id: str | None = None
    channel_id: str | None = None
    created_at: InstantMs = Field(default_factory=now)
    last_active: InstantMs = Field(default_factory=now)
    expires: Annotated[Expiry | None, Expires(after=days(30), of="last_active"), Stored("ttl")] = None
    app_mode: AppMode = "production"
    environment: Environment = "production"
    summary: Annotated[str | None, Searchable(), Personal()] = None
    metrics: ConversationMetrics = ConversationMetrics()

    key = Key("user_id", sort="conversation_id")
    by_server = Index("server_id", sort="last_active", name="ServerIndex")
    by_created = Index("app_mode", sort="created_at", shards=SHARDS, name="CreatedAtIndex")


class RelevanceCheck(Part):
    is_relevant: bool
    confidence: float | None = Field(default=None, ge=0, le=1)
    explanation: str | None = None
    raw_response: str | None = None


class Intent(Part):
    name: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    confidence: float | None = Field(default=None, ge=0, le=1)
    api_resource: str | None = None
    api_params: dict[str, Json] = Field(default_factory=dict)


class ExtractedEntity(Part):
    """An entity found in a message; `normalized_name` is the form entities are looked up by."""

    name: str
    normalized_name: str
    type: str | None = None
    id: str | None = None
    confidence: float | None = Field(default=None, ge=0, le=1)


class ProcessingMetadata(Part):
    """Milliseconds of each step, and how far the answer came: a turn that died shows its last finished step.

    "in_progress" long after the last step means the process died; "unanswered" that the bot chose not to reply.
    """

    processing_time: float | None = None
    relevance_check_time: float | None = None
    intent_detection_time: float | None = None
    api_call_time: float | None = None
    llm_generation_time: float | None = None
    api_calls: int = 0
    llm_calls: int = 0
    status: Status = "received"
    last_step: str = "message"
    stopped_at: str | None = None
    error: str | None = None
    reply_id: Snowflake | None = None


class Message(Entity, table="baller-messages"):
    """One message of a user or of the bot, with what the pipeline found out about it.

    `message_id` is the platform's where there is one, else of the same form: it orders the conversation by time.
    """

    conversation_id: str
    message_id: Snowflake
    user_id: Annotated[str, Subject()]
    server_id: str | None = None
    channel_id: str | None = None
    app_mode: AppMode = "production"
    message_type: MessageType = "user"
    content: Annotated[str, Searchable(), Personal()]
    timestamp: InstantMs = Field(default_factory=now)
    expires: Annotated[Expiry | None, Expires(after=days(30), of="timestamp"), Stored("ttl")] = None
    relevance_check: Annotated[RelevanceCheck | None, Personal()] = None
    intent: Intent | None = None
    entities: list[ExtractedEntity] = Field(default_factory=list)
    context_used: bool = False
    context: Annotated[dict[str, Json] | None, Personal(), Blob(CONTEXT_OBJECT, keep=OBJECTS_KEPT), Stored("s3_references")] = None
    relevance_response: Annotated[str | None, Personal(), Blob(RELEVANCE_OBJECT, inline=RAW_INLINE, keep=OBJECTS_KEPT)] = None
    processing_metadata: ProcessingMetadata = ProcessingMetadata()

    key = Key("conversation_id", sort="message_id")
    by_platform_id = Unique("message_id")
    by_user = Index("user_id", sort="timestamp", name="UserMessageIndex")
    by_intent = Index("intent.name", sort="timestamp", shards=SHARDS, name="IntentIndex")
    conversation = Ref("user_id", "conversation_id", to=Conversation, on_delete="cascade")


class NotificationSettings(Part):
    game_reminders: bool = False
    score_updates: bool = False


class UserPreferences(Entity, table="baller-preferences"):
    """What a user follows, per server and globally; the global row is kept out of ServerIndex."""

    user_id: Annotated[str, Subject()]
    server_id: Annotated[str, Sentinel(GLOBAL)] = GLOBAL
    username: Annotated[str | None, Personal()] = None
    followed_teams: list[str] = Field(default_factory=list, max_length=500)
    preferred_leagues: list[str] = Field(default_factory=list, max_length=500)
    notification_settings: NotificationSettings = NotificationSettings()
    last_updated: InstantMs = Field(default_factory=now)
    created_at: InstantMs = Field(default_factory=now)
    preferences_version: int = 1

    key = Key("user_id", sort="server_id")
    by_server = Index("server_id", sort="last_updated", name="ServerIndex")


class ApiInteraction(Entity, table="baller-api-interactions"):
    """One call of the football API for a message. Analysed by the endpoint's template: a whole URL is no partition key."""

    message_id: Snowflake
    api_call_id: str
    conversation_id: str
    user_id: Annotated[str, Subject()]
    app_mode: AppMode = "production"
    endpoint: str
    endpoint_template: Annotated[str, Field(max_length=LONGEST + 17)] = ""
    parameters: dict[str, Json] = Field(default_factory=dict)
    status_code: int | None = None
    success: bool = True
    error_message: str | None = None
    response_size: int | None = None
    latency: float | None = None
    timestamp: InstantMs = Field(default_factory=now)
    expires: Annotated[Expiry | None, Expires(after=days(7), of="timestamp"), Stored("ttl")] = None
    response: Annotated[Json, Personal(), Blob(API_OBJECT, keep=OBJECTS_KEPT), Stored("s3_reference")] = None

    key = Key("message_id", sort="api_call_id")
    by_user = Index("user_id", sort="timestamp", name="UserIndex")
    by_endpoint = Index("endpoint_template", sort="timestamp", shards=SHARDS, name="EndpointIndex")
    message = Ref("conversation_id", "message_id", to=Message, on_delete="cascade")

    @model_validator(mode="before")
    @classmethod
    def _fill_template(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and isinstance(given.get("endpoint"), str) and not given.get("endpoint_template"):
            return {**given, "endpoint_template": endpoint_template(given["endpoint"])}
        return given


class LlmExchange(Part):
    """What was sent to a model and what came back, whole."""

    prompt: Json = None
    response: Json = None
    metadata: dict[str, Json] = Field(default_factory=dict)


class LlmInteraction(Entity, table="baller-llm-interactions"):
    """One call of a language model for a message."""

    message_id: Snowflake
    llm_call_id: str
    conversation_id: str
    user_id: Annotated[str, Subject()]
    app_mode: AppMode = "production"
    provider: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    model: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    purpose: Purpose
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    latency: float | None = None
    success: bool = True
    error_message: str | None = None
    timestamp: InstantMs = Field(default_factory=now)
    expires: Annotated[Expiry | None, Expires(after=days(7), of="timestamp"), Stored("ttl")] = None
    exchange: Annotated[LlmExchange | None, Personal(), Blob(LLM_OBJECT, keep=OBJECTS_KEPT), Stored("s3_reference")] = None

    key = Key("message_id", sort="llm_call_id")
    by_user = Index("user_id", sort="timestamp", name="UserIndex")
    by_provider_model = Index("provider", sort=("model", "timestamp"), shards=SHARDS, name="ProviderModelIndex")
    by_purpose = Index("purpose", sort="timestamp", shards=SHARDS, name="PurposeIndex")
    message = Ref("conversation_id", "message_id", to=Message, on_delete="cascade")


class Sentiment(Part):
    label: Literal["positive", "neutral", "negative"]
    score: float | None = Field(default=None, ge=-1, le=1)


class Feedback(Entity, table="baller-feedback"):
    """One person's rating of one answer; in a server channel several people rate the same one.

    It outlives the message it is about, because ratings are kept for analysis; it goes when its rater is erased.
    `owner_id` is whose conversation the snapshot comes from: erasing that person takes the snapshot out.
    """

    message_id: Snowflake
    user_id: Annotated[str, Subject()]
    conversation_id: str
    owner_id: str | None = None
    rating: Rating
    rating_timestamp: InstantMs = Field(default_factory=now)
    follow_up_feedback: Annotated[str | None, Searchable(), Personal()] = None
    app_mode: AppMode = "production"
    server_id: str | None = None
    intent_name: str | None = None
    response_snapshot: Annotated[str | None, Searchable(), Personal()] = None
    sentiment: Sentiment | None = None
    expires: Annotated[Expiry | None, Expires(of="rating_timestamp"), Stored("ttl")] = None

    key = Key("message_id", sort="user_id")
    by_user = Index("user_id", sort="rating_timestamp", name="UserFeedbackIndex")
    by_owner = Index("owner_id", sort="rating_timestamp", name="OwnerIndex")
    by_app_mode = Index("app_mode", sort="rating_timestamp", shards=SHARDS, name="AppModeIndex")
    message = Ref("conversation_id", "message_id", to=Message, on_delete="keep")


class CachedEntity(Entity, table="baller-entity-cache"):
    """A team, competition or player, until it has to be fetched again.

    The identifier is the partition and the type the sort part: three types would have been three partitions.
    """

    entity_id: str
    entity_type: EntityType
    name: Annotated[str, Field(min_length=1)]
    normalized_name: str
    aliases: list[str] = Field(default_factory=list)
    metadata: dict[str, Json] = Field(default_factory=dict)
    last_updated: InstantMs = Field(default_factory=now)
    expires: Annotated[Expiry | None, Expires(), Stored("ttl")] = None

    key = Key("entity_id", sort="entity_type")
    by_type = Index("entity_type", sort="normalized_name", shards=SHARDS, name="TypeIndex")
    by_name = Index("entity_type", "normalized_name", name="NameIndex")


class EntityAlias(Entity, table="baller-entity-aliases"):
    """One name an entity is known by, in the form it is looked up; written in the same batch as the entity."""

    entity_type: EntityType
    normalized_alias: str
    entity_id: str
    alias: str
    expires: Annotated[Expiry | None, Expires(), Stored("ttl")] = None

    key = Key("entity_type", "normalized_alias", sort="entity_id")
    by_entity = Index("entity_id", "entity_type", name="EntityIndex")
    entity = Ref("entity_id", "entity_type", to=CachedEntity, on_delete="cascade")


class Metric(Entity, table="baller-metrics"):
    """One day of one metric in one mode: what can be added up. Averages and percentiles are derived on reading.

    Every dimension is in the key, so that modes never overwrite each other, and no day is one partition.
    `metric_id` is mode:category:name.
    """

    metric_date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$")]
    metric_id: str
    metric_category: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    metric_name: Annotated[str, Field(min_length=1)]
    app_mode: AppMode
    count: int = 0
    sum: Decimal = Decimal(0)
    min: Decimal | None = None
    max: Decimal | None = None
    buckets: dict[str, int] = Field(default_factory=dict)
    counted_to: int = 0

    key = Key("metric_date", "metric_id")
    by_date = Index("metric_date", sort="metric_id", shards=SHARDS, name="DateIndex")
    by_category = Index("metric_category", sort="metric_date", shards=SHARDS, name="CategoryIndex")
    by_app_mode = Index("app_mode", sort="metric_date", shards=SHARDS, name="AppModeIndex")

    @property
    def average(self) -> Decimal | None:
        return self.sum / self.count if self.count else None


class ModelUsage(UsageRow, table="baller-usage"):
    """One day of one model for one purpose in one mode: calls, tokens and cost, kept when the calls themselves are gone."""


class UserActivity(Entity, table="baller-user-activity"):
    """The day a user was last seen: what finds the inactive ones, whose personal data is purged each quarter."""

    user_id: Annotated[str, Subject()]
    last_seen: InstantMs = Field(default_factory=now)

    key = Key("user_id")
    by_last_seen = Index(sort="last_seen", shards=SHARDS, name="InactivityIndex")


@dataclass(frozen=True)
class Retention:
    """How long each kind is kept; None: until it is deleted. Cache times are how long until an entity is fetched again.

    The objects of API and LLM calls stay 30 days, or as long as their record where that is longer.
    """

    conversations: timedelta | None = timedelta(days=30)
    messages: timedelta | None = timedelta(days=30)
    api_interactions: timedelta | None = timedelta(days=7)
    llm_interactions: timedelta | None = timedelta(days=7)
    feedback: timedelta | None = None
    teams: timedelta = timedelta(days=7)
    competitions: timedelta = timedelta(days=1)
    players: timedelta = timedelta(days=3)

    def of_cached(self, entity_type: EntityType) -> timedelta:
        return {"team": self.teams, "competition": self.competitions, "player": self.players}[entity_type]


ENTITIES: tuple[type[Entity], ...] = (
    Conversation,
    Message,
    UserPreferences,
    ApiInteraction,
    LlmInteraction,
    Feedback,
    CachedEntity,
    EntityAlias,
    Metric,
    ModelUsage,
    UserActivity,
)

SEARCHES = (
    # Lists what is copied, instead of all fields: free-form maps would add a field to the index per key ever seen.
    Search(
        "baller-conversations",
        Source(
            Message,
            text=("content", "entities.name"),
            filters=(
                "user_id",
                "server_id",
                "conversation_id",
                "app_mode",
                "message_type",
                "timestamp",
                "intent.name",
                "entities.normalized_name",
                "entities.id",
                "entities.type",
                "relevance_check.is_relevant",
            ),
        ),
        Source(
            Conversation,
            text=("summary",),
            filters=(
                "user_id",
                "server_id",
                "conversation_id",
                "app_mode",
                "environment",
                "created_at",
                "last_active",
                "metrics.message_count",
                "metrics.error_count",
            ),
        ),
    ),
    Search(
        "baller-feedback-analytics",
        Source(
            Feedback,
            text=("follow_up_feedback", "response_snapshot"),
            filters=(
                "message_id",
                "conversation_id",
                "user_id",
                "server_id",
                "app_mode",
                "rating",
                "rating_timestamp",
                "intent_name",
                "sentiment.label",
                "sentiment.score",
            ),
        ),
    ),
)


def schema(retention: Retention | None = None) -> Schema:
    """Return Baller's schema with the given retention."""
    keep = retention or Retention()
    return Schema(
        "baller",
        ENTITIES,
        searches=SEARCHES,
        retention={
            Conversation: keep.conversations,
            Message: keep.messages,
            ApiInteraction: keep.api_interactions,
            LlmInteraction: keep.llm_interactions,
            Feedback: keep.feedback,
        },
    )


SCHEMA = schema()
