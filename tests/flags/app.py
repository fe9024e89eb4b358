"""The flags the tests use: those of a design, and one of each type."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from palaver.clock import now
from palaver.entity import Entity
from palaver.flags import Experiment, ExposureRecord, Flag, FlagRecord, FlagSet
from palaver.keys import Index, Key
from palaver.markers import InstantMs, Subject, Tenant
from palaver.schema import Schema


class FeatureFlag(FlagRecord, table="feature-flags"): ...


class Exposure(ExposureRecord, table="exposures"): ...


class Feedback(Entity, table="feedback"):
    feedback_id: str
    user_id: Annotated[str, Subject()]
    rating: str
    given: InstantMs = Field(default_factory=now)
    key = Key("feedback_id")
    by_rating = Index("rating", sort="given", shards=2)


class TenantFlag(FlagRecord, table="tenant-flags"):
    org: Annotated[str, Tenant()]


class TenantExposure(ExposureRecord, table="tenant-exposures"):
    org: Annotated[str, Tenant()]


MCP = Flag("enable_mcp_security", default=True, about="Checks every call of a tool.")
LENGTH = Flag("max_conversation_length", default=100)
SLASH = Flag("enable_slash_commands", default=False)
NEW_PROMPT = Flag("new_prompt", default=False)
TEMPERATURE = Flag("temperature", default=0.7)
GREETING = Flag("greeting", default="Hello")
MODELS: Flag[dict[str, Any]] = Flag("models", default={"answer": "small", "fallback": ["tiny", "none"]})
ROUTES = Flag("routes", default=["a", "b"])
MODEL = Experiment("model_selection", variants={"variant_a": 50, "variant_b": 50}, default="variant_a")
FLAGS = FlagSet(MCP, LENGTH, SLASH, NEW_PROMPT, TEMPERATURE, GREETING, MODELS, ROUTES, MODEL)
SCHEMA = Schema("flags", [FeatureFlag, Exposure, Feedback])
TENANTS = Schema("tenant-flags", [TenantFlag, TenantExposure])
