"""How the command line finds what an application runs on, and who closes it."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import Any

import pytest

from palaver.capabilities import Capabilities, capabilities_of
from palaver.errors import ConfigError


class Part:
    def __init__(self, log: list[str], name: str, failing: bool = False) -> None:
        self.log, self.name, self.failing = log, name, failing

    async def aclose(self) -> None:
        self.log.append(self.name)
        if self.failing:
            raise RuntimeError(self.name)


part: Any = Part
untouched: Any = object()


def home(declared: object = None) -> ModuleType:
    module = ModuleType("app")
    if declared is not None:
        vars(module)["capabilities"] = declared
    return module


def found(module: ModuleType) -> Capabilities:
    store: Any = object()
    return asyncio.run(capabilities_of(module, store))


def test_a_module_that_declares_none_has_none() -> None:
    assert Capabilities() == found(home())


def test_a_module_says_what_there_is() -> None:
    async def capabilities(store: Any) -> Capabilities:
        return Capabilities(flags=store)

    store: Any = object()
    assert asyncio.run(capabilities_of(home(capabilities), store)).flags is store


def test_something_else_under_the_name_is_refused() -> None:
    async def nothing(store: object) -> None: ...

    with pytest.raises(ConfigError, match="no async function"):
        found(home(42))
    with pytest.raises(ConfigError, match="returned no Capabilities"):
        found(home(nothing))


def test_leaving_closes_the_parts_and_then_the_closers_the_last_one_first() -> None:
    log: list[str] = []

    async def leave() -> None:
        closers = (Part(log, "first").aclose, Part(log, "second").aclose)
        async with Capabilities(flags=part(log, "flags"), limits=untouched, closers=closers):
            assert log == []

    asyncio.run(leave())
    assert ["flags", "second", "first"] == log


def test_a_part_that_fails_to_close_keeps_no_other_from_closing() -> None:
    log: list[str] = []
    everything = Capabilities(flags=part(log, "flags", failing=True), presence=part(log, "presence", failing=True))
    with pytest.raises(RuntimeError, match="flags"):
        asyncio.run(everything.aclose())
    assert ["flags", "presence"] == log
