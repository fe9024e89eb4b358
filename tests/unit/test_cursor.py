"""Cursors: signed, bound to query and tenant, good for a day, and rotated with their keys."""

from __future__ import annotations

import subprocess
import sys
from base64 import urlsafe_b64decode
from typing import Any

import pytest
from hypothesis import given, strategies as st

from palaver import Entity, F, Index, InstantMs, Key, Query
from palaver.cursor import VALID_MS, Signer
from palaver.errors import BadCursor
from tests.store.world import Message

NOW = 1_767_225_600_000
SIGNER = Signer([b"new", b"old"])
QUERY: Query[Message] = Message.key("c").after("5")


class Chunk(Entity, table="chunks"):
    file: bytes
    part: int
    text: str = "-"
    key = Key("file", sort="part")
    by_text = Index("text", sort="file")


@given(st.lists(st.text(max_size=5) | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=5), max_size=4).map(tuple))
def test_every_position_comes_back(position: tuple[Any, ...]) -> None:
    query = Chunk.key(b"\x00\xff")
    assert position == SIGNER.open(SIGNER.sign(query, None, position, NOW), query, None, NOW)


def test_a_cursor_is_opaque_and_fits_into_a_url() -> None:
    cursor = SIGNER.sign(QUERY, None, ("c", "00000000000000000005"), NOW)
    assert cursor == cursor.strip("=+/ ")
    inside = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    # It travels in URLs, and its place may be that of a record its reader is not shown.
    assert b"0000005" not in inside
    assert b'"c"' not in inside
    assert cursor == SIGNER.sign(QUERY, None, ("c", "00000000000000000005"), NOW)
    assert inside[-5:] != urlsafe_b64decode(SIGNER.sign(QUERY, None, ("c", "00000000000000000005"), NOW + 1) + "==")[-5:]


@pytest.mark.parametrize(
    "other",
    [
        Message.key("d").after("5"),
        Message.key("c").after("6"),
        Message.key("c").since("5"),
        Message.key("c"),
        Message.key("c").after("5").newest_first(),
        Message.key("c").after("5").filter(F("number") == 1),
        Message.by_user("c"),
        Chunk.key(b"c"),
    ],
    ids=str,
)
def test_another_query_is_refused(other: Query[Any]) -> None:
    with pytest.raises(BadCursor, match="another query"):
        SIGNER.open(SIGNER.sign(QUERY, None, ("c", "x"), NOW), other, None, NOW)


def declared(sort: str, shards: int = 0, kind: type = int, key: str = "id") -> Query[Any]:
    """A query of an entity as one version of a program declares it."""

    name = key

    class Ranked(Entity, table="ranked"):
        id: str
        other: str
        number: kind  # type: ignore[valid-type]
        at_ms: InstantMs
        key = Key(name)
        by_rank = Index("other", sort=sort, shards=shards)

    return Ranked.by_rank("o")


@pytest.mark.parametrize(
    "changed", [declared("at_ms"), declared("number", shards=2), declared("number", kind=str), declared("number", key="other")], ids=str
)
def test_an_index_that_was_declared_anew_is_another_query(changed: Query[Any]) -> None:
    cursor = SIGNER.sign(declared("number"), None, ("o", 5, "i"), NOW)

    assert ("o", 5, "i") == SIGNER.open(cursor, declared("number"), None, NOW)
    with pytest.raises(BadCursor, match="another query"):
        SIGNER.open(cursor, changed, None, NOW)


def test_another_tenant_is_refused() -> None:
    cursor = SIGNER.sign(QUERY, "a", ("c", "x"), NOW)
    for tenant in ("b", None, ""):
        with pytest.raises(BadCursor):
            SIGNER.open(cursor, QUERY, tenant, NOW)
    assert ("c", "x") == SIGNER.open(cursor, QUERY, "a", NOW)


def test_a_cursor_is_good_for_a_day_whichever_way_the_clock_jumps() -> None:
    cursor = SIGNER.sign(QUERY, None, ("c",), NOW)
    for at in (NOW - VALID_MS, NOW, NOW + VALID_MS):
        assert ("c",) == SIGNER.open(cursor, QUERY, None, at)
    for at in (NOW - VALID_MS - 1, NOW + VALID_MS + 1):
        with pytest.raises(BadCursor, match="older than a day"):
            SIGNER.open(cursor, QUERY, None, at)


def test_keys_are_rotated_without_breaking_cursors() -> None:
    before = Signer([b"old"]).sign(QUERY, None, ("c",), NOW)

    assert ("c",) == SIGNER.open(before, QUERY, None, NOW)
    with pytest.raises(BadCursor):
        Signer([b"new"]).open(before, QUERY, None, NOW)
    with pytest.raises(BadCursor):
        Signer([b"old"]).open(SIGNER.sign(QUERY, None, ("c",), NOW), QUERY, None, NOW)


@given(st.text() | st.text("ABCabc012-_=", max_size=80) | st.binary(max_size=80).map(lambda raw: raw.hex()))
def test_what_was_not_signed_is_refused(forged: str) -> None:
    with pytest.raises(BadCursor):
        SIGNER.open(forged, QUERY, None, NOW)


@pytest.mark.parametrize("nothing", [None, 5, b"x", [], "x" * 10_000_000], ids=type)
def test_what_is_no_cursor_is_refused_at_once(nothing: Any) -> None:
    with pytest.raises(BadCursor):
        SIGNER.open(nothing, QUERY, None, NOW)


def test_the_longest_position_fits_into_a_cursor() -> None:
    for position in (("\x01" * 2_048, "\x01" * 552), (b"\xff" * 2_048, b"\xff" * 552), ("ü" * 1_024, "\\" * 552)):
        assert position == SIGNER.open(SIGNER.sign(QUERY, None, position, NOW), QUERY, None, NOW)


def test_no_single_changed_character_gets_through() -> None:
    cursor = SIGNER.sign(QUERY, None, ("c", "x"), NOW)
    for at in range(len(cursor) - 1):
        with pytest.raises(BadCursor):
            SIGNER.open(cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :], QUERY, None, NOW)


def test_a_cursor_opens_in_another_process() -> None:
    program = """
from tests.store.world import Message
from palaver import F
from palaver.cursor import Signer
query = Message.key("c").filter(F("tags") == {"a", "b", "c", "d", "e"})
print(Signer([b"k"]).sign(query, None, ("c",), 5))
"""
    made = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."}
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert 1 == len(made)
