"""Entities as plain JSON values, in the one form exports have too; what is secret is left out."""

from __future__ import annotations

from typing import Any

from palaver.entity import Entity
from palaver.lifecycle.encoding import json_record


def plain(entity: Entity) -> dict[str, Any]:
    """Return every field that has a value, and the revision."""
    record = json_record(type(entity).declared(), entity)
    return {name: value for name, value in record.items() if value is not None} | {"_revision": entity.revision}
