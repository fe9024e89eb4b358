"""Which servers there are, and what happens to a test whose server is not: it skips visibly, or fails where CI is set."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import Generic, NoReturn, ParamSpec, TypeVar

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ROOT / ".venv" / "servers"

P = ParamSpec("P")
T = TypeVar("T")


optional: set[str] = set()
"""Servers that are tested only when an option asks for them."""


class Absent(Exception):
    """A server is not on this machine; the text says what is missing and how to get it."""


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def package(name: str) -> Path:
    """The folder of a Python package in the servers' own environment."""
    for folder in sorted(PACKAGES.glob(f"lib/python3*/site-packages/{name}")):
        return folder
    raise Absent(f"{name} is not installed; run: make .venv/.servers")


def package_version(name: str) -> str:
    for folder in sorted(PACKAGES.glob(f"lib/python3*/site-packages/{name.replace('-', '_')}-*.dist-info")):
        return folder.name.removesuffix(".dist-info").rpartition("-")[2]
    raise Absent(f"{name} is not installed; run: make .venv/.servers")


def _give_up(error: Absent) -> NoReturn:
    if "PYTEST_VERSION" not in os.environ:
        raise error
    if in_ci():
        pytest.fail(f"absent in CI: {error}", pytrace=False)
    pytest.skip(f"absent: {error}")


class Once(Generic[P, T]):
    """A function that starts one server, once for each way of being called; a failure too is remembered, so that it costs its time once."""

    used: dict[str, str] = {}  # noqa: RUF012 - what was started in this process, for the report at its end

    def __init__(self, start: Callable[P, T]) -> None:
        wraps(start)(self)
        self._start, self._lock, self._outcomes = start, RLock(), dict[object, T | Exception]()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        call = (args, tuple(sorted(kwargs.items())))
        with self._lock:
            if call not in self._outcomes:
                try:
                    self._outcomes[call] = self._start(*args, **kwargs)
                except Exception as error:
                    self._outcomes[call] = error
            outcome = self._outcomes[call]
        if isinstance(outcome, Absent):
            _give_up(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        Once.used[str(getattr(self, "__name__", "server"))] = str(getattr(outcome, "version", ""))
        return outcome
