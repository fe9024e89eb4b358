"""Identifiers are UUIDs of version 7 that grow, whatever the clock does."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from uuid import UUID

import pytest

from palaver import ManualClock
from palaver.ids import Ids, new_id

DRAWS = {"low": lambda _: 0, "high": lambda bits: 2**bits - 1, "random": random.Random(1).getrandbits}


class Drawn(random.Random):
    def __init__(self, draw: Callable[[int], int]) -> None:
        super().__init__()
        self.draw = draw

    def getrandbits(self, bits: int, /) -> int:
        return self.draw(bits)


def test_an_id_is_a_uuid_of_version_7_with_the_milliseconds_of_its_clock() -> None:
    clock = ManualClock()
    made = UUID(Ids(clock).new())
    assert (7, "specified in RFC 4122") == (made.version, made.variant)
    assert int(clock.now().timestamp() * 1000) == made.int >> 80


@pytest.mark.parametrize("draw", DRAWS)
def test_ids_grow_while_the_clock_stands_jumps_or_goes_back(draw: str) -> None:
    clock = ManualClock()
    ids = Ids(clock, Drawn(DRAWS[draw]))
    made: list[str] = []
    for step in (0, 0, 1, 0, -5, 0, 3, 0, 1000, 0):
        clock.advance(timedelta(milliseconds=step))
        made += [ids.new() for _ in range(50)]
    assert all(a < b for a, b in pairwise(made))
    assert {36} == set(map(len, made))
    assert {7} == {UUID(each).version for each in made}


@pytest.mark.parametrize("most", [2**62 - 1, 2**74 - 1])
def test_ids_grow_over_the_ends_of_what_is_counted(most: int) -> None:
    draws = iter([most - 2])
    ids = Ids(ManualClock(), Drawn(lambda bits: next(draws, 0)))
    made = [UUID(ids.new()) for _ in range(8)]
    assert all(a.int < b.int for a, b in pairwise(made))
    assert {7} == {each.version for each in made}
    assert {"specified in RFC 4122"} == {each.variant for each in made}


def test_later_ids_of_a_process_sort_after_earlier_ones() -> None:
    made = [new_id() for _ in range(1_000)]
    assert sorted(made) == made
    assert 1_000 == len(set(made))
