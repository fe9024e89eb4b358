"""Ops: updates that leave the old record alone, guards, liveness, revisions, positions."""

from __future__ import annotations

import contextlib
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from palaver.errors import Expression, ItemTooLarge, PalaverError, PathOverlap
from palaver.expr import F
from palaver.ops import (
    MARK,
    REVISION,
    Absent,
    Add,
    Address,
    Alive,
    Guard,
    Holds,
    Origin,
    Remove,
    Set,
    Unchanged,
    apply_update,
    holds,
    is_live,
    next_revision,
    position,
)
from palaver.testing.draws import Draws
from palaver.testing.records.base import COUNTERS, INTS, NOTES, NOW, NOW_S, TABLES, WIDE, exact
from palaver.values import Record

BASE: Record = {"name": "a", "hits": 1, "data": {"a": [1, {"b": 2}], "n": None}, "tags": ["x", "y"], REVISION: 7}


@given(st.integers(0, 2**32))
@example(0)
def test_an_update_leaves_the_old_record_and_the_changes_alone(seed: int) -> None:
    draws = Draws(Random(seed))
    table = draws.one(TABLES)
    record = {**draws.record(table, draws.key(table), NOW), REVISION: NOW}
    changes = draws.changes(table, NOW)
    values = [change.to for change in changes if isinstance(change, Set) and isinstance(change.to, dict | list)]
    before, asked = exact(record), exact(values)
    with contextlib.suppress(PalaverError):
        apply_update(table, record, changes)
    assert before == exact(record)
    assert asked == exact(values)


@given(st.integers(0, 2**32))
def test_an_update_gives_the_same_twice(seed: int) -> None:
    def once() -> Any:
        draws = Draws(Random(seed))
        record = {**draws.record(NOTES, draws.key(NOTES), NOW), REVISION: NOW}
        try:
            return exact(apply_update(NOTES, record, draws.changes(NOTES, NOW)))
        except PalaverError as error:
            return type(error)

    assert once() == once()


@given(st.integers(0, 2**32))
def test_the_order_of_changes_does_not_matter(seed: int) -> None:
    """They all read the old record; only two that append to one list differ."""
    draws = Draws(Random(seed))
    record = {**draws.record(NOTES, draws.key(NOTES), NOW), REVISION: NOW}
    changes = [change for change in draws.changes(NOTES, NOW) if "[" not in change.path.name]

    def result(asked: Any) -> Any:
        try:
            return exact(apply_update(NOTES, record, asked))
        except PalaverError:
            return "refused"

    assert result(changes) == result(changes[::-1])


def test_an_update_keeps_revision_and_mark() -> None:
    after = apply_update(COUNTERS, {**BASE, MARK: 5}, [Set(F("hits"), 2)])
    assert (7, 5) == (after[REVISION], after[MARK])


@pytest.mark.parametrize(
    "changes",
    [
        [Set(F("data"), {}), Set(F("data.a"), 1)],
        [Set(F("data.a"), 1), Set(F("data"), {})],
        [Remove(F("data.a[0]")), Set(F("data.a[0]"), 1)],
        [Add(F("data.a[1].b"), 1), Remove(F("data.a[1]"))],
        [Remove(F("hits")), Remove(F("hits"))],
    ],
)
def test_overlapping_paths_are_refused(changes: Any) -> None:
    with pytest.raises(PathOverlap):
        apply_update(COUNTERS, BASE, changes)


@pytest.mark.parametrize(
    "change",
    [
        Set(F("nothing.a"), 1),
        Set(F("data.n.x"), 1),
        Set(F("data[0]"), 1),
        Set(F("tags.x"), 1),
        Set(F("hits.x"), 1),
        Set(F("data.a[5].x"), 1),
        Remove(F("data.x.y")),
        Set(F("hits"), F("data.x")),
        Set(F("tags"), F("hits").append(1)),
        Add(F("tags"), 1),
        Add(F("data.n"), 1),
        Add(F("hits"), frozenset({"a"})),
        Set(F("name"), "b"),
        Remove(F("name")),
        Set(F("_revision"), 1),
    ],
)
def test_what_cannot_be_updated_is_refused(change: Any) -> None:
    before = exact(BASE)
    with pytest.raises(Expression):
        apply_update(COUNTERS, BASE, [change])
    assert before == exact(BASE)


def test_a_map_may_have_names_like_ours_inside() -> None:
    record: Record = {"name": "a", "data": {REVISION: 5, MARK: 6}, REVISION: 7}
    after = apply_update(COUNTERS, record, [Set(F(f"data.{REVISION}"), None), Set(F(f"data.{MARK}"), 1)])
    assert {REVISION: None, MARK: 1} == after["data"]


def test_list_positions_are_those_of_the_old_list() -> None:
    record: Record = {"name": "a", "tags": list("abcde"), REVISION: 1}
    after = apply_update(COUNTERS, record, [Remove(F("tags[0]")), Remove(F("tags[2]")), Set(F("tags[4]"), "E"), Set(F("tags[9]"), "f")])
    assert ["b", "d", "E", "f"] == after["tags"]


def test_revision_and_mark_do_not_count_towards_the_size() -> None:
    room = 409_600 - len("name") - 1 - len("text")
    record: Record = {"name": "a", REVISION: NOW, MARK: NOW}
    assert "x" * room == apply_update(COUNTERS, record, [Set(F("text"), "x" * room)])["text"]
    with pytest.raises(ItemTooLarge):
        apply_update(COUNTERS, record, [Set(F("text"), "x" * room + "x")])


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_revisions_always_grow(old: int, now_us: int) -> None:
    assert next_revision({REVISION: old}, now_us) > old
    assert next_revision({REVISION: old}, now_us) >= now_us
    assert now_us == next_revision(None, now_us)


def test_liveness_ends_at_the_second_of_expiry() -> None:
    record: Record = {"expires": NOW_S, REVISION: 1}
    assert [True, False, False] == [is_live(NOTES, record, NOW + by) for by in (-1, 0, 1)]
    assert not is_live(NOTES, None, NOW)
    assert not is_live(NOTES, {MARK: 1, REVISION: 1}, NOW)
    assert is_live(NOTES, {REVISION: 1}, NOW)
    assert is_live(COUNTERS, {"expires": 1, REVISION: 1}, NOW), "this table declares no expiry"


LIVE: Record = {"text": "x", REVISION: 5}
EXPIRED: Record = {"text": "x", "expires": NOW_S, REVISION: 5}
MARKED: Record = {"text": "x", MARK: 1, REVISION: 5}


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (Absent(), (True, False, True, False)),
        (Alive(), (False, True, False, False)),
        (Unchanged(5), (False, True, True, True)),
        (Unchanged(4), (False, False, False, False)),
        (Unchanged(None), (True, False, False, False)),
        (Holds(F("text") == "x"), (False, True, False, False)),
        (Holds(F("text").missing()), (True, False, True, True)),
    ],
)
def test_a_guard_over_nothing_a_live_an_expired_and_a_marked_record(when: Any, expected: tuple[bool, ...]) -> None:
    guard = Guard(when, Origin(0, "it"))
    assert expected == tuple(holds(guard, NOTES, record, NOW) for record in (None, LIVE, EXPIRED, MARKED))


def test_a_position_is_the_parts_of_the_index_and_the_key() -> None:
    record: Record = {"tenant": "t", "group": "g", "day": 1, "order": "o", "select": "s", "from": 2, "where": "w"}
    assert ("t", "g", 1, "o") == position(WIDE, None, record)
    assert ("t", "s", 2, "w", "t", "g", 1, "o") == position(WIDE, "WideSelectIndex", record)
    assert Address("suite-ints", (1, 2)) == Address(INTS.name, position(INTS, None, {"bucket": 1, "n": 2}))
