"""The short way to plan new records gives what the general way gives."""

from __future__ import annotations

from typing import Annotated

from palaver import Batch, Entity, Expires, Expiry, InstantMs, Key, ManualClock, Schema, Snowflake, Stored, days
from palaver.plan import Planner


class Note(Entity, table="notes"):
    place: str
    number: Snowflake
    written: InstantMs
    text: str | None = None
    expires: Annotated[Expiry | None, Expires(after=days(1), of="written"), Stored("ttl")] = None

    key = Key("place", sort="number")


SCHEMA = Schema("notes", [Note])
NOW_US = 1_767_225_600_000_000


def note(number: int) -> Note:
    return Note(place="here", number=str(number), written=ManualClock().now(), text="a" * number)


class Still:
    def now_us(self) -> int:
        return NOW_US


def test_new_records_are_planned_alike_the_short_and_the_general_way() -> None:
    planner = Planner(SCHEMA)
    for count in (1, 2, 100):
        batch = Batch()
        for number in range(count):
            batch = batch.create(note(number))
        plan = planner.plan(batch, {}, NOW_US, actor="me")
        # By their text, because guards of different kinds are equal as tuples.
        assert repr((plan.writes, list(plan.made))) == repr(planner.creates(batch.created() or (), Still(), "me"))


def test_what_the_short_way_cannot_judge_it_leaves_to_the_general_way() -> None:
    planner = Planner(SCHEMA)
    assert planner.creates([note(number) for number in range(101)], Still(), None) is None
    assert planner.creates([note(1), note(1)], Still(), None) is None
    assert Batch().create(note(1)).put(note(2)).created() is None
