"""Sessions with records, on each stack and each cache."""

from __future__ import annotations

from tests.stacks import objects, stack, url

__all__ = ["objects", "stack", "url"]
