"""Keys as paths: reversible, safe everywhere, never two keys in one place."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given, strategies as st

from palaver.blobs.paths import MAX_PATH, folder_of, key_of, path_of, prefix_of
from palaver.errors import KeyTooLong

SEGMENTS = st.one_of(
    st.text(max_size=12),
    st.text(alphabet="abAB./=\\", max_size=8),
    st.sampled_from(["", ".", "..", "con", "CON.txt", "nul", "=", "=o", "=2e", "e" * 64, "E" * 64, ".incoming"]),
    st.integers(64, 68).map(lambda length: "x" * length),
    st.integers(64, 68).map(lambda length: "x" * (length - 2) + "é"),
    st.integers(60, 70).map(lambda length: "É" * length),
)
KEYS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)


def path(key: str) -> str:
    try:
        return path_of(key)
    except KeyTooLong:
        assume(False)
        raise


@given(KEYS)
def test_a_key_comes_back_from_its_path(key: str) -> None:
    assert key == key_of(path(key))


@given(KEYS)
def test_a_path_is_safe_on_every_file_system(key: str) -> None:
    names = path(key).split("/")
    assert len(path(key)) <= MAX_PATH
    assert [] == [name for name in names if not re.fullmatch(r"[a-z0-9=_-](?:[a-z0-9=_.-]{0,203}[a-z0-9=_-])?", name)]
    assert [] == [name for name in names if re.match(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", name)]
    assert [] == [name for name in names if name.endswith("#1")]


@given(KEYS, KEYS)
def test_no_object_is_the_folder_of_another(one: str, other: str) -> None:
    assume(one != other)
    assert path(one) != path(other)
    assert not path(one).startswith(path(other) + "/")


@given(KEYS)
def test_every_folder_of_a_path_tells_how_its_keys_begin(key: str) -> None:
    names = path(key).split("/")
    for depth in range(1, len(names)):
        assert key.encode("utf-8", "surrogatepass").startswith(prefix_of("/".join(names[:depth])))


@given(KEYS)
def test_the_folder_of_whole_segments_holds_the_key(key: str) -> None:
    segments = key.split("/")
    for depth in range(len(segments)):
        assert path(key).startswith(folder_of(segments[:depth]))


@given(st.lists(KEYS, min_size=2, max_size=6, unique=True))
def test_folders_in_order_of_their_prefixes_hold_keys_in_byte_order(keys: list[str]) -> None:
    tops = {key: path(key).partition("/") for key in keys}
    order = sorted(
        keys,
        key=lambda key: (
            prefix_of(tops[key][0]) if tops[key][1] else key.encode("utf-8", "surrogatepass"),
            key.encode("utf-8", "surrogatepass"),
        ),
    )
    assert sorted(keys, key=lambda key: key.encode("utf-8", "surrogatepass")) == order


@given(st.text(alphabet="aA=o2e/.é", max_size=12))
def test_a_path_leads_to_one_key_or_to_none(text: str) -> None:
    key = key_of(text)
    assert key is None or text == path_of(key)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("acme/u-1/2026/01/02/context.json/" + "e" * 64, "acme/u-1/2026/01/02/context.json/" + "e" * 64),
        ("a/B", "a/=42=o"),
        ("../x", "=2e=2e/x=o"),
        ("", "==o"),
        ("a//b", "a/=/b=o"),
        ("con/nul.txt", "=63on/=6eul.txt=o"),
        ("e" * 64 + "/x", "=65" + "e" * 63 + "/x=o"),
        ("é", "=c3=a9=o"),
    ],
)
def test_paths_stay_readable(key: str, expected: str) -> None:
    assert expected == path_of(key)
