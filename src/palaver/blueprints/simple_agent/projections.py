"""What is counted from the changes while people talk: the figures of each day, and the usage of models."""

from __future__ import annotations

from palaver.blueprints.simple_agent.schema import Conversation, Message, Metric, ModelCall, ModelUsage, TurnRecord
from palaver.expr import F
from palaver.insight.metrics import Measure, metrics
from palaver.insight.usage import CallFields, usage

QUESTION = F("role") == "user"
ANSWERED = F("status") == "answered"
ENDED = {"answered": True, "unanswered": False, "failed": False}


def _over(conversation: Conversation) -> bool:
    return conversation.ended_at is not None


def _seconds(conversation: Conversation) -> float | None:
    return None if conversation.ended_at is None else (conversation.ended_at - conversation.started_at).total_seconds()


MEASURES = (
    Measure("messages", lambda message: message.role, Message, mode="channel_type"),
    Measure("hour", lambda message: f"{message.timestamp:%H}", Message, mode="channel_type", when=QUESTION),
    Measure("weekday", lambda message: f"{message.timestamp.isoweekday()}", Message, mode="channel_type", when=QUESTION),
    Measure("latency", "reply", TurnRecord, "latency", mode="channel_type", when=ANSWERED, late=True),
    Measure("success", "reply", TurnRecord, lambda turn: ENDED.get(turn.status), mode="channel_type", late=True),
    Measure("model", lambda message: message.model_used, Message, "token_count", mode="channel_type"),
    Measure("tool", lambda message: message.tool_name, Message, lambda message: message.error is None, mode="channel_type"),
    Measure("conversations", "started", Conversation, at="started_at", mode="channel_type"),
    Measure("conversations", "messages", Conversation, "message_count", at="started_at", mode="channel_type", when=_over, late=True),
    Measure("conversations", "seconds", Conversation, _seconds, at="started_at", mode="channel_type", when=_over, late=True),
    Measure("llm_call", lambda call: f"{call.provider}/{call.model}", ModelCall, "latency", mode="channel_type"),
    Measure("llm_success", lambda call: f"{call.provider}/{call.model}", ModelCall, "success", mode="channel_type"),
)
"""The channel stands where other blueprints have a mode. The average of a measure of truth is its rate."""

PROJECTIONS = (metrics(Metric, MEASURES), usage(ModelUsage, ModelCall, fields=CallFields(app_mode="channel_type")))
