"""The hash: the same everywhere and for ever, even, only growing, and nothing stored for it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from palaver.flags.declaring import Experiment
from palaver.flags.splitting import SHARES, place, takes_part, variant_of

USERS = [f"user{number}" for number in range(100_000)]
TEXT = st.text(max_size=40)


def test_places_never_change() -> None:
    """Another place for anybody would change what users see with an update of this library."""
    found = [place("share", "new_prompt", "", user) for user in ("u1", "u2", "Zoë", "", "\ud800", "739260218234470418")]
    assert [2501, 2881, 9420, 9128, 270, 7443] == found
    assert [1593, 8253] == [place("variant", "model_selection", salt, "u1") for salt in ("", "2")]


def test_a_user_gets_the_same_in_every_process() -> None:
    program = "from palaver.flags.splitting import place; print([place('share', 'f', 's', f'user{n}') for n in range(50)])"
    run = [sys.executable, "-c", program]
    told = {subprocess.run(run, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout for seed in "17"}
    assert {f"{[place('share', 'f', 's', f'user{n}') for n in range(50)]}\n"} == told


@given(TEXT, TEXT, TEXT, st.integers(0, SHARES), st.integers(0, SHARES))
def test_a_share_that_grows_only_adds_users(flag: str, salt: str, user: str, one: int, other: int) -> None:
    smaller, larger = sorted((one, other))
    assert takes_part(flag, salt, user, larger) or not takes_part(flag, salt, user, smaller)
    assert not takes_part(flag, salt, user, 0)
    assert takes_part(flag, salt, user, SHARES)


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=6).filter(lambda some: 0 < sum(some) <= SHARES), TEXT, TEXT)
def test_everybody_gets_a_variant_that_has_a_weight(weights: list[int], flag: str, user: str) -> None:
    variants = [(f"v{number}", weight) for number, weight in enumerate(weights)]
    variants.append(("rest", SHARES - sum(weights)))
    assert dict(variants)[variant_of(flag, "", user, variants)] > 0


@given(TEXT, TEXT, TEXT)
def test_no_two_ways_to_write_one_text_share_a_place(flag: str, salt: str, user: str) -> None:
    """Joined without lengths, flag "a" and salt "bc" would be flag "ab" and salt "c"."""
    texts = {(flag + salt, "", user), (flag, salt, user), (flag, salt + user, ""), ("", flag + salt, user)}
    places = {place("share", *text) for text in texts}
    # Two of 10,000 places are the same by chance once in 10,000 times; three of four never here.
    assert len(places) >= len(texts) - 1


@pytest.mark.parametrize("percent", [0.01, 1, 10, 33.33, 50, 99])
def test_a_percentage_of_users_is_that_percentage(percent: float) -> None:
    share = sum(takes_part("new_prompt", "", user, round(percent * 100)) for user in USERS) / len(USERS)
    assert abs(share - percent / 100) < 0.005


@pytest.mark.parametrize("variants", [{"a": 50.0, "b": 50.0}, {"a": 90.0, "b": 9.99, "c": 0.01}, {"a": 33.33, "b": 33.33, "c": 33.34}])
def test_the_split_is_within_one_percent(variants: dict[str, float]) -> None:
    weights = Experiment("model_selection", variants=variants, default="a").weights
    found = Counter(variant_of("model_selection", "", user, weights) for user in USERS)
    assert all(abs(found[name] / len(USERS) - weight / 100) < 0.01 for name, weight in variants.items())


def test_who_takes_part_and_which_variant_do_not_depend_on_each_other() -> None:
    """Drawn from one hash, the first ten percent would all have the first variant."""
    weights = (("a", 5_000), ("b", 5_000))
    first = [user for user in USERS if takes_part("model_selection", "", user, 1_000)]
    found = Counter(variant_of("model_selection", "", user, weights) for user in first)
    assert abs(found["a"] / len(first) - 0.5) < 0.02


def test_two_flags_and_two_salts_choose_different_users() -> None:
    one, other, salted = (
        {user for user in USERS[:20_000] if takes_part(flag, salt, user, 1_000)} for flag, salt in (("x", ""), ("y", ""), ("x", "2"))
    )
    assert len(one & other) < 400
    assert len(one & salted) < 400
