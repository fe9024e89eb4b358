"""What is counted while messages are processed: the daily metrics and the usage of models, built from the change feed."""

from __future__ import annotations

from palaver.blueprints.baller.schema import ApiInteraction, LlmInteraction, Message, Metric, ModelUsage
from palaver.expr import F
from palaver.insight.metrics import Measure, metrics
from palaver.insight.usage import usage

QUESTION = F("message_type") == "user"
ENDED = {"answered": True, "unanswered": False, "failed": False}

MEASURES = (
    Measure("latency", "response", Message, "processing_metadata.processing_time", when=QUESTION, late=True),
    Measure("latency", "relevance_check", Message, "processing_metadata.relevance_check_time", late=True),
    Measure("latency", "intent_detection", Message, "processing_metadata.intent_detection_time", late=True),
    Measure("latency", "api_call", ApiInteraction, "latency"),
    Measure("latency", "llm_generation", LlmInteraction, "latency", when=F("purpose") == "main_response"),
    Measure("relevance", "relevant", Message, "relevance_check.is_relevant", late=True),
    Measure("relevance", "confidence", Message, "relevance_check.confidence", late=True),
    Measure("intent", lambda message: message.intent.name if message.intent else None, Message, when=QUESTION, late=True),
    Measure("endpoint", lambda call: call.endpoint_template, ApiInteraction, "latency"),
    Measure("endpoint_success", lambda call: call.endpoint_template, ApiInteraction, "success"),
    Measure("success", "answer", Message, lambda message: ENDED.get(message.processing_metadata.status), when=QUESTION, late=True),
    Measure("success", "api_call", ApiInteraction, "success"),
    Measure("success", "llm_call", LlmInteraction, "success"),
)
"""The average of a measure of truth is its rate: of relevant messages, of questions answered.

Ratings are not among them: who rates again changes theirs, and a fact is counted once. `Baller.ratings_per_mode` reads them.
"""

PROJECTIONS = (metrics(Metric, MEASURES), usage(ModelUsage, LlmInteraction))
