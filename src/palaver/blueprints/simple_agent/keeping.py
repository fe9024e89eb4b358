"""What goes with a person, and what is only masked."""

from __future__ import annotations

from palaver.blueprints.simple_agent.schema import Feedback
from palaver.lifecycle.personal import Policy

ERASURE = Policy()
"""On request: everything of the person is deleted, on every channel they are known by."""

PURGE = Policy({Feedback: "mask"}, otherwise="delete")
"""Of whoever is away too long: their words, names and conversations go; ratings stay as numbers."""
