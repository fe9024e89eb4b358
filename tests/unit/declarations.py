"""What tests of declarations share: a value, a model, and what is stored of an instance."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from palaver import Entity, Schema
from palaver.plan import Planner

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Place(BaseModel):
    city: str
    zone: int = 0


def record_of(entity: Entity) -> dict[str, Any]:
    schema = Schema("s", [type(entity)])
    return dict(Planner(schema).codec(type(entity)).encode(entity, 1, None).record)
