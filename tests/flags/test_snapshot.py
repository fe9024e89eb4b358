"""What a call gets of what is set: the order, the types, and values nobody else can change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from palaver.flags import Experiment, Flag, FlagSet
from palaver.flags.snapshot import Snapshot, Stored, unpacked
from palaver.flags.splitting import takes_part
from tests.flags.app import FLAGS, GREETING, LENGTH, MCP, MODEL, MODELS, NEW_PROMPT, SLASH, TEMPERATURE


def entry(flag: str, scope: str, target: str = "*", value: Any = None, share: int | None = None, revision: int = 1) -> Stored:
    return Stored(flag, scope, target, value, share, "ann", "", 0, revision)


def snapshot(*entries: Stored, flags: FlagSet = FLAGS) -> Snapshot:
    return Snapshot(flags, entries, 7)


def user_in(flag: str, share: int, inside: bool = True) -> str:
    return next(f"u{number}" for number in range(10_000) if takes_part(flag, "", f"u{number}", share) == inside)


LAYERS = [
    entry("greeting", "user", "ann", "user"),
    entry("greeting", "channel", "web", "channel"),
    entry("greeting", "rollout", value="rollout", share=5_000),
    entry("greeting", "everybody", value="everybody"),
]


@given(st.sets(st.sampled_from(range(4))), st.booleans(), st.booleans(), st.sampled_from([None, True, False]))
def test_the_most_particular_holds(layers: set[int], ann: bool, web: bool, inside: bool | None) -> None:
    """User, channel, rollout, everybody, default: in this order, whatever of it is set and known."""
    flag = snapshot(*(LAYERS[number] for number in layers))
    user = None if inside is None else user_in("greeting", 5_000, inside)
    layered = [LAYERS[number]._replace(target=user or "ann") if number == 0 and ann else LAYERS[number] for number in layers]
    flag = snapshot(*layered)
    context = {"user": user, "channel": "web" if web else "discord"}
    expected = next(
        value
        for value, holds in (
            ("user", 0 in layers and ann and user is not None),
            ("channel", 1 in layers and web),
            ("rollout", 2 in layers and inside is True),
            ("everybody", 3 in layers),
            ("Hello", True),
        )
        if holds
    )
    found = flag.evaluate(GREETING, context)
    assert expected == found.value
    assert {"user": "target", "channel": "target", "Hello": "default"}.get(expected, expected) == found.reason


def test_an_older_record_takes_no_newer_ones_place() -> None:
    newer = snapshot(entry("greeting", "everybody", value="new", revision=2))
    assert "new" == newer.with_entry(entry("greeting", "everybody", value="old")).evaluate(GREETING, {}).value
    assert "newest" == newer.with_entry(entry("greeting", "everybody", value="newest", revision=3)).evaluate(GREETING, {}).value


def test_another_share_of_the_same_value_is_a_change() -> None:
    few, many = (snapshot(entry("greeting", "rollout", value="Hi", share=share)) for share in (100, 5_000))
    assert {"greeting"} == many.differing(few)
    assert not many.differing(many)


def test_what_was_taken_back_is_not_set() -> None:
    assert ("Hello", "default") == (lambda found: (found.value, found.reason))(
        snapshot(entry("greeting", "everybody")).evaluate(GREETING, {})
    )


@pytest.mark.parametrize(
    ("flag", "stored"), [(MCP, "false"), (MCP, 0), (LENGTH, 1.5), (LENGTH, True), (GREETING, 1), (MODELS, []), (MODEL, "variant_c")]
)
@pytest.mark.parametrize("scope", ["user", "channel", "everybody", "rollout"])
def test_a_value_of_another_type_is_the_default_and_not_the_next_wider_one(flag: Flag[Any], stored: Any, scope: str) -> None:
    target = {"user": "ann", "channel": "web"}.get(scope, "*")
    wider: dict[str, Any] = {"enable_mcp_security": False, "max_conversation_length": 5, "greeting": "Hi", "models": {"x": 1}}
    everybody = [entry(flag.name, "everybody", value=wider.get(flag.name, "variant_b"))] if scope != "everybody" else []
    share = 10_000 if scope == "rollout" else None
    made = snapshot(entry(flag.name, scope, target, stored, share), *everybody)
    assert [(flag.name, scope, "mismatch")] == [(problem.flag, problem.scope, problem.what) for problem in made.problems]
    found = made.evaluate(flag, {"user": "ann", "channel": "web"})
    if isinstance(flag, Experiment) and scope == "rollout":
        assert "split" == found.reason  # who takes part is known; which value it would be is the hash's to say
    else:
        assert (flag.default, "mismatch") == (found.value, found.reason)


def test_what_nobody_declares_is_told_and_harms_nothing() -> None:
    made = snapshot(entry("older_flag", "everybody", value=1), entry("older_flag", "user", "ann", 2))
    assert [("older_flag", "", "undeclared")] == [(problem.flag, problem.scope, problem.what) for problem in made.problems]


def test_a_whole_number_is_a_float_where_floats_are_declared() -> None:
    found = snapshot(entry("temperature", "everybody", value=1)).evaluate(TEMPERATURE, {}).value
    assert (1.0, float) == (found, type(found))


def test_nobody_changes_a_value_for_the_others() -> None:
    made = snapshot(entry("models", "everybody", value={"answer": ["big"]}))
    made.evaluate(MODELS, {}).value["answer"].append("changed")
    assert {"answer": ["big"]} == made.evaluate(MODELS, {}).value
    default = snapshot().evaluate(MODELS, {}).value
    default["answer"] = "changed"
    assert "small" == snapshot().evaluate(MODELS, {}).value["answer"]


def test_who_is_nobody_is_in_no_rollout() -> None:
    made = snapshot(entry("new_prompt", "rollout", value=True, share=10_000))
    assert not made.evaluate(NEW_PROMPT, {}).value
    assert not made.evaluate(NEW_PROMPT, {"user": None, "channel": "web"}).value
    assert made.evaluate(NEW_PROMPT, {"user": "anybody"}).value
    assert made.needs_unit(NEW_PROMPT)
    assert not made.needs_unit(SLASH)


def test_a_number_and_its_text_are_one_user() -> None:
    made = snapshot(entry("new_prompt", "user", "42", True))
    assert made.evaluate(NEW_PROMPT, {"user": 42}).value
    split = snapshot()
    assert split.evaluate(MODEL, {"user": 42}) == split.evaluate(MODEL, {"user": "42"})


def test_an_experiment_ends_for_everybody_and_goes_on_for_a_share() -> None:
    users = [f"u{number}" for number in range(400)]

    def found(*entries: Stored) -> set[tuple[str, str]]:
        made = snapshot(*entries)
        return {(made.evaluate(MODEL, {"user": user}).value, made.evaluate(MODEL, {"user": user}).reason) for user in users}

    both = {("variant_a", "split"), ("variant_b", "split")}
    ended = entry("model_selection", "everybody", value="variant_b")
    assert both == found()
    assert {("variant_b", "everybody")} == found(ended)
    assert both | {("variant_b", "everybody")} == found(ended, entry("model_selection", "rollout", share=1_000))
    assert both | {("variant_a", "default")} == found(entry("model_selection", "rollout", share=1_000))
    assert {("variant_a", "default")} == found(entry("model_selection", "rollout", share=0))
    assert {("variant_a", "default")} == {
        (one.value, one.reason) for one in [snapshot().evaluate(MODEL, {}), snapshot().evaluate(MODEL, {"channel": "web"})]
    }


def test_a_share_of_an_experiment_keeps_its_users_variants_as_it_grows() -> None:
    few, many = (snapshot(entry("model_selection", "rollout", share=share)) for share in (1_000, 6_000))
    for user in (f"u{number}" for number in range(2_000)):
        before = few.evaluate(MODEL, {"user": user})
        if before.reason == "split":
            assert before.value == many.evaluate(MODEL, {"user": user}).value


def test_targets_of_ones_own_hold_in_the_order_they_are_declared() -> None:
    flags = FlagSet(Flag("limit", default=1), targets=("account", "plan", "region"))
    made = snapshot(entry("limit", "region", "eu", 2), entry("limit", "plan", "pro", 3), flags=flags)
    limit = flags["limit"]
    contexts: list[dict[str, str | int | None]] = [{}, {"region": "eu"}, {"region": "eu", "plan": "pro", "account": 5}]
    assert [1, 2, 3] == [made.evaluate(limit, context).value for context in contexts]


JSON = st.recursive(
    st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.lists(st.tuples(st.sampled_from(["greeting", "models", "other"]), st.sampled_from(["user", "everybody"]), st.text(), JSON)))
def test_the_cached_form_is_the_whole_snapshot(parts: list[tuple[str, str, str, Any]]) -> None:
    made = snapshot(*(entry(*part) for part in parts))
    again = unpacked(FLAGS, made.packed())
    assert again is not None
    assert (made.version, made.entries, made.problems) == (again.version, again.entries, again.problems)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b"[2,1,[]]",
        b'[1,"1",[]]',
        b"[1,1,[[]]]",
        b'[1,1,[["f","everybody","*",true,null,"","",0]]]',
        b"\xff",
        b"[1,1,null]",
    ],
)
def test_what_another_program_put_into_the_cache_is_no_snapshot(data: bytes) -> None:
    assert unpacked(FLAGS, data) is None
