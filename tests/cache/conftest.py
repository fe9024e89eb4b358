"""A store of people on each stack."""

from __future__ import annotations

from tests.stacks import objects, stack, url

__all__ = ["objects", "stack", "url"]
