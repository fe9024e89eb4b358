"""A flag's value is of its default's type, under mypy --strict and pyright. Checked, never run."""

from __future__ import annotations

from typing import Any, assert_type

from palaver.flags import Evaluation, Experiment, Flag, Flags

MCP = Flag("enable_mcp_security", default=True)
LENGTH = Flag("max_conversation_length", default=100)
TEMPERATURE = Flag("temperature", default=0.7)
GREETING = Flag("greeting", default="Hello")
ROUTES = Flag("routes", default=["a", "b"])
MODEL = Experiment("model_selection", variants={"a": 50, "b": 50}, default="a")


def asked(flags: Flags) -> None:
    assert_type(flags.value(MCP, user="u1", channel=None), bool)
    assert_type(flags.value(LENGTH), int)
    assert_type(flags.value(TEMPERATURE), float)
    assert_type(flags.value(GREETING, user=42), str)
    assert_type(flags.value(ROUTES), list[str])
    assert_type(flags.value(MODEL, user="u1"), str)
    assert_type(flags.value("enable_mcp_security"), Any)
    assert_type(flags.variant(MODEL, user="u1"), str)
    assert_type(flags.expose("model_selection", user="u1"), str)
    assert_type(flags.evaluate(LENGTH), Evaluation[int])
