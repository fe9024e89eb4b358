"""Which process this is, without asking the system on every call: a fork tells us."""

from __future__ import annotations

import os

_id = os.getpid()


def _forked() -> None:
    global _id
    _id = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def process_id() -> int:
    """Return this process's number; a forked child's is its own."""
    return _id
