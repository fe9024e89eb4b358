"""What may be declared, and what is refused before anything runs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from palaver.errors import ConfigError, Validation
from palaver.flags import Experiment, Flag, FlagSet
from tests.flags.app import FLAGS, LENGTH, MCP


@pytest.mark.parametrize("default", [None, object(), {1, 2}, ("a",), {"a": object()}, {1: "a"}, [math.nan], math.inf, 2**53, b"x"])
def test_a_default_is_of_a_type_every_stack_keeps(default: Any) -> None:
    with pytest.raises(ConfigError):
        Flag("f", default=default)


@pytest.mark.parametrize("name", ["", " a", "a b", "*", "a" * 101, "-a", "ä"])
def test_a_name_is_plain(name: str) -> None:
    with pytest.raises(ConfigError):
        Flag(name, default=True)
    with pytest.raises(ConfigError):
        Experiment("e", variants={name: 100}, default=name)


@pytest.mark.parametrize("variants", [{"a": 50, "b": 49.99}, {"a": 50, "b": 51}, {}, {"b": 100}])
def test_weights_add_up_and_the_default_is_a_variant(variants: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Experiment("e", variants=variants, default="a")


@pytest.mark.parametrize("variants", [{"a": 33.333, "b": 66.667}, {"a": -1, "b": 101}, {"a": math.nan}])
def test_weights_go_in_steps_of_a_hundredth(variants: dict[str, float]) -> None:
    with pytest.raises(Validation):
        Experiment("e", variants=variants, default="a")


def test_hundredths_that_no_float_holds_are_hundredths() -> None:
    weights = Experiment("e", variants={"a": 0.29, "b": 99.71}, default="a").weights
    assert (("a", 29), ("b", 9_971)) == weights


def test_names_are_told_apart() -> None:
    for wrong in ({"targets": ()}, {"targets": ("user", "user")}, {"targets": ("by",)}, {"targets": ("Us er",)}, {"name": "a b"}):
        with pytest.raises(ConfigError):
            FlagSet(MCP, **wrong)
    with pytest.raises(ConfigError):
        FlagSet(MCP, LENGTH, Flag("enable_mcp_security", default=False))


def test_an_unknown_flag_is_an_error_that_knows_the_nearest() -> None:
    with pytest.raises(Validation, match="Did you mean enable_mcp_security"):
        _ = FLAGS["enable_mcp_securty"]
    with pytest.raises(Validation, match="Did you mean user"):
        FLAGS.check_targets({"usr": "u1"})
    with pytest.raises(Validation, match="Declare it"):
        _ = FlagSet()["anything"]


@pytest.mark.parametrize(
    ("flag", "good", "bad"),
    [
        ("enable_mcp_security", [True, False], [1, 0, "true", None]),
        ("max_conversation_length", [0, -5, 2**53 - 1], [1.0, True, "1", 2**53]),
        ("temperature", [1, 0.5], [True, "0.5", math.nan, math.inf]),
        ("greeting", ["", "Grüß dich"], [1, None, ["a"]]),
        ("models", [{}, {"a": [1, None, {"b": 0.5}]}], [[], {"a": math.nan}, {1: 2}, "x"]),
        ("routes", [[], ["a", {"b": 1}]], [{}, [object()], "x"]),
        ("model_selection", ["variant_a", "variant_b"], ["variant_c", "", 1, None]),
    ],
)
def test_a_value_is_of_the_type_of_the_default(flag: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        FLAGS[flag].check(value)
    for value in bad:
        with pytest.raises(Validation):
            FLAGS[flag].check(value)
