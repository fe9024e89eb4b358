"""Entities the tests of insight count."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from palaver.clock import days, now
from palaver.entity import Entity
from palaver.expr import F
from palaver.insight.metrics import Measure, MetricRow
from palaver.insight.usage import UsageRow
from palaver.keys import Key
from palaver.markers import Expires, Expiry, InstantMs, Snowflake
from palaver.schema import Schema


class Times(BaseModel):
    model_config = ConfigDict(frozen=True)
    total: float | None = None


class Message(Entity, table="messages"):
    conversation_id: str
    message_id: Snowflake
    app_mode: Literal["development", "production"] = "production"
    intent: str | None = None
    times: Times = Times()
    timestamp: InstantMs = Field(default_factory=now)
    expires: Annotated[Expiry | None, Expires(after=days(30), of="timestamp")] = None
    key = Key("conversation_id", sort="message_id")


class Call(Entity, table="calls"):
    call_id: str
    app_mode: str = "production"
    provider: str = "openai"
    model: str = "gpt-4o"
    purpose: str = "answer"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    latency: float | None = None
    success: bool = True
    timestamp: InstantMs = Field(default_factory=now)
    expires: Annotated[Expiry | None, Expires(after=days(7), of="timestamp")] = None
    key = Key("call_id")


class Metric(MetricRow, table="metrics"):
    pass


class Usage(UsageRow, table="usage"):
    pass


MEASURES = (
    Measure("latency", "llm", Call, "latency"),
    Measure("volume", "messages", Message),
    Measure("relevance", "failed", Call, when=F("success") == False),  # noqa: E712 - a condition, not a comparison
    Measure("intent", lambda message: message.intent, Message),
    Measure("answer", "total", Message, "times.total", late=True),
)
SCHEMA = Schema("insight", [Message, Call, Metric, Usage])


def message(number: int, at: datetime, **fields: Any) -> Message:
    return Message(conversation_id=f"c{number % 3}", message_id=str(number), timestamp=at, **fields)


def call(number: int, at: datetime, **fields: Any) -> Call:
    return Call(call_id=f"call{number}", timestamp=at, **fields)
