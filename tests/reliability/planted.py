"""Bugs planted on purpose in the SQLite engine and the store: proofs that pass with one of them prove nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

PLANTED: dict[str, Callable[[], AbstractContextManager[Any]]] = {}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant a bug by its name for as long as the block runs; no name, no bug."""
    with PLANTED[name]() if name else nullcontext():
        yield
