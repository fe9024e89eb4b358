"""Facts about updates: what each change does, that all read the old record, and which are errors."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from palaver.errors import Expression, ItemTooLarge, NumberRange, PathOverlap, Validation
from palaver.expr import F
from palaver.ops import REVISION, Add, Change_, Op, Remove, Set, WriteSet
from palaver.ports import RecordEngine
from palaver.testing.records.base import (
    COUNTERS,
    NOTES,
    NOW,
    RecordSuite,
    all_changes,
    bare,
    exact,
    put,
    put_note,
    read_kind,
    stored,
    update,
    written,
)


class Updates(RecordSuite):
    async def _updated(self, engine: RecordEngine, before: dict[str, Any], *changes: Change_) -> Any:
        """Store a counter, update it, and return its attributes when read and write agree on them, in a batch that asks for nothing too."""
        await written(engine, put(COUNTERS, {"name": "a", **before}))
        done = await written(engine, update(COUNTERS, ("a",), *changes))
        after = await stored(engine, COUNTERS, "a")
        assert exact(after) == exact(done.updated[0])
        assert after is not None
        assert after.pop(REVISION) == done.revisions[0]
        assert after.pop("name") == "a"
        await written(engine, put(COUNTERS, {"name": "b", **before}))
        done = await written(engine, put_note("unasked", "1"), update(COUNTERS, ("b",), *changes), returning=False)
        unasked = await stored(engine, COUNTERS, "b")
        assert exact({"name": "b", **after, REVISION: done.revisions[1]}) == exact(unasked)
        return after

    async def _fails(self, engine: RecordEngine, error: type[Exception], before: dict[str, Any], *changes: Change_) -> None:
        """Store a counter, and see that an update of it raises and writes nothing, in a batch as alone."""
        await written(engine, put(COUNTERS, {"name": "a", **before}))
        known = (await stored(engine, COUNTERS, "a"), await all_changes(engine))
        bad = update(COUNTERS, ("a",), *changes)
        batches: list[list[Op]] = [[bad], [put_note("u", "1"), bad], [bad, put_note("u", "1")]]
        for ops in batches:
            with pytest.raises(error):
                await engine.write(WriteSet(ops, NOW))
        assert known == (await stored(engine, COUNTERS, "a"), await all_changes(engine))
        assert await stored(engine, NOTES, "u", "1") is None

    async def test_set_gives_an_attribute_a_value(self, engine: RecordEngine) -> None:
        assert {"hits": 2, "text": "x"} == await self._updated(engine, {"hits": 1}, Set(F("hits"), 2), Set(F("text"), "x"))

    async def test_set_to_none_removes_an_attribute(self, engine: RecordEngine) -> None:
        assert {"hits": 1} == await self._updated(engine, {"hits": 1, "text": "x"}, Set(F("text"), None))

    async def test_remove_takes_attributes_away_and_ignores_missing_ones(self, engine: RecordEngine) -> None:
        assert {"hits": 1} == await self._updated(engine, {"hits": 1, "text": "x"}, Remove(F("text")), Remove(F("data")))

    async def test_an_update_leaves_other_attributes_alone(self, engine: RecordEngine) -> None:
        before = {"hits": 1, "total": Decimal("0.1"), "data": {"a": [1]}, "text": "x", "tags": frozenset({"t"})}
        assert exact({**before, "hits": 2}) == exact(await self._updated(engine, before, Set(F("hits"), 2)))

    async def test_two_attributes_are_swapped_because_changes_read_the_old_record(self, engine: RecordEngine) -> None:
        assert {"hits": 2, "other": 1} == await self._updated(
            engine, {"hits": 1, "other": 2}, Set(F("hits"), F("other")), Set(F("other"), F("hits"))
        )

    async def test_a_copy_reads_the_value_before_an_addition(self, engine: RecordEngine) -> None:
        assert {"hits": 6, "other": 1} == await self._updated(engine, {"hits": 1}, Add(F("hits"), 5), Set(F("other"), F("hits")))

    async def test_a_copy_reads_a_value_that_is_removed(self, engine: RecordEngine) -> None:
        assert {"other": 1} == await self._updated(engine, {"hits": 1}, Remove(F("hits")), Set(F("other"), F("hits")))

    async def test_a_nested_value_is_copied_out_and_in(self, engine: RecordEngine) -> None:
        before = {"data": {"a": {"n": 1}, "b": [2]}}
        after = await self._updated(engine, before, Set(F("data.b[0]"), F("data.a")), Set(F("hits"), F("data.a.n")))
        assert {"data": {"a": {"n": 1}, "b": [{"n": 1}]}, "hits": 1} == after

    async def test_nested_paths_are_set_added_to_and_removed(self, engine: RecordEngine) -> None:
        before = {"data": {"a": {"n": 1, "x": "y"}, "list": [1, {"k": 2}]}}
        changes = Set(F("data.a.new"), [True]), Add(F("data.list[1].k"), 3), Remove(F("data.a.x")), Add(F("data.count"), 1)
        assert exact({"data": {"a": {"n": 1, "new": [True]}, "list": [1, {"k": 5}], "count": 1}}) == exact(
            await self._updated(engine, before, *changes)
        )

    async def test_null_is_a_value_inside(self, engine: RecordEngine) -> None:
        assert {"data": {"a": None}} == await self._updated(engine, {"data": {"a": 1}}, Set(F("data.a"), None))

    async def test_a_list_position_past_the_end_appends(self, engine: RecordEngine) -> None:
        assert {"tags": [1, "x"]} == await self._updated(engine, {"tags": [1]}, Set(F("tags[7]"), "x"))

    async def test_removing_list_positions_means_the_old_positions(self, engine: RecordEngine) -> None:
        after = await self._updated(engine, {"tags": [0, 1, 2, 3, 4]}, Remove(F("tags[1]")), Remove(F("tags[3]")), Set(F("tags[4]"), "x"))
        assert {"tags": [0, 2, "x"]} == after
        assert {"tags": [0]} == await self._updated(engine, {"tags": [0]}, Remove(F("tags[5]")))

    async def test_appending_adds_to_the_end_of_a_list(self, engine: RecordEngine) -> None:
        assert {"tags": [1, 2, [3]]} == await self._updated(engine, {"tags": [1]}, Set(F("tags"), F("tags").append(2, [3])))

    async def test_appending_to_a_missing_list_begins_one(self, engine: RecordEngine) -> None:
        assert {"tags": ["x"]} == await self._updated(engine, {}, Set(F("tags"), F("tags").append("x")))

    async def test_if_absent_keeps_what_is_there_and_else_gives_the_default(self, engine: RecordEngine) -> None:
        assert {"hits": 1, "other": 5} == await self._updated(
            engine, {"hits": 1}, Set(F("hits"), F("hits").if_absent(9)), Set(F("other"), F("other").if_absent(5))
        )

    async def test_adding_to_a_missing_number_begins_at_zero(self, engine: RecordEngine) -> None:
        after = await self._updated(engine, {}, Add(F("hits"), 3), Add(F("total"), Decimal("0.1")), Add(F("other"), -2))
        assert exact({"hits": 3, "total": Decimal("0.1"), "other": -2}) == exact(after)

    async def test_decimals_are_added_exactly(self, engine: RecordEngine) -> None:
        after = await self._updated(engine, {"total": Decimal("0.1")}, Add(F("total"), Decimal("0.2")))
        assert exact({"total": Decimal("0.3")}) == exact(after)
        nines = Decimal("9" * 37)
        assert exact({"total": Decimal("1E+37")}) == exact(await self._updated(engine, {"total": nines}, Add(F("total"), Decimal(1))))

    async def test_floats_are_added(self, engine: RecordEngine) -> None:
        assert exact({"ratio": 2.0}) == exact(await self._updated(engine, {"ratio": 1.5}, Add(F("ratio"), 0.5)))

    async def test_adding_up_to_64_bits_is_exact_and_beyond_is_an_error(self, engine: RecordEngine) -> None:
        assert {"hits": 2**63 - 1} == await self._updated(engine, {"hits": 2**63 - 2}, Add(F("hits"), 1))
        await self._fails(engine, NumberRange, {"hits": 2**63 - 1}, Add(F("hits"), 1))
        await self._fails(engine, NumberRange, {"hits": -(2**63)}, Add(F("hits"), -1))

    async def test_adding_beyond_38_digits_is_an_error(self, engine: RecordEngine) -> None:
        await self._fails(engine, NumberRange, {"total": Decimal("1E+50")}, Add(F("total"), Decimal(1)))
        await self._fails(engine, NumberRange, {"total": Decimal("9" * 38)}, Add(F("total"), Decimal("0.1")))
        await self._fails(engine, NumberRange, {"total": Decimal("9.99E+125")}, Add(F("total"), Decimal("9.99E+125")))

    async def test_elements_are_added_to_a_set(self, engine: RecordEngine) -> None:
        after = await self._updated(engine, {"tags": frozenset({"a", "b"})}, Add(F("tags"), frozenset({"b", "c"})))
        assert exact({"tags": frozenset({"a", "b", "c"})}) == exact(after)
        assert exact({"tags": frozenset({b"x"})}) == exact(await self._updated(engine, {}, Add(F("tags"), frozenset({b"x"}))))

    async def test_adding_to_another_type_is_an_error(self, engine: RecordEngine) -> None:
        await self._fails(engine, Expression, {"text": "x"}, Add(F("text"), 1))
        await self._fails(engine, Expression, {"data": {"t": True}}, Add(F("data.t"), 1))
        await self._fails(engine, Expression, {"data": {"none": None}}, Add(F("data.none"), 1))
        await self._fails(engine, Expression, {"tags": ["x"]}, Add(F("tags"), frozenset({"y"})))
        await self._fails(engine, Validation, {"tags": frozenset({"x"})}, Add(F("tags"), frozenset({b"y"})))

    async def test_a_missing_operand_is_an_error(self, engine: RecordEngine) -> None:
        await self._fails(engine, Expression, {}, Set(F("hits"), F("other")))
        await self._fails(engine, Expression, {"text": "x"}, Set(F("tags"), F("text").append("y")))

    async def test_a_missing_parent_is_an_error(self, engine: RecordEngine) -> None:
        await self._fails(engine, Expression, {}, Set(F("data.a"), 1))
        await self._fails(engine, Expression, {"data": {}}, Set(F("data.a.b"), 1))
        await self._fails(engine, Expression, {"data": {"a": None}}, Set(F("data.a.b"), 1))
        await self._fails(engine, Expression, {"data": {}}, Remove(F("data.a.b")))
        await self._fails(engine, Expression, {"data": {"a": {}}}, Set(F("data.a[0]"), 1))
        await self._fails(engine, Expression, {"tags": []}, Set(F("tags.a"), 1))

    async def test_overlapping_paths_are_an_error(self, engine: RecordEngine) -> None:
        before = {"hits": 1, "data": {"a": {"b": 1}}}
        await self._fails(engine, PathOverlap, before, Set(F("hits"), 1), Add(F("hits"), 1))
        await self._fails(engine, PathOverlap, before, Set(F("data.a.b"), 1), Remove(F("data.a")))
        await self._fails(engine, PathOverlap, before, Remove(F("data")), Set(F("data.a.b"), 1))

    async def test_names_that_begin_alike_do_not_overlap(self, engine: RecordEngine) -> None:
        after = await self._updated(engine, {"data": {"a": 1, "ab": 1}}, Set(F("data.a"), 2), Set(F("data.ab"), 3))
        assert {"data": {"a": 2, "ab": 3}} == after

    async def test_a_key_part_and_the_revision_cannot_be_updated(self, engine: RecordEngine) -> None:
        await self._fails(engine, Expression, {}, Set(F("name"), "b"))
        await self._fails(engine, Expression, {}, Remove(F("name")))
        await self._fails(engine, Expression, {}, Add(F(REVISION), 1))

    async def test_an_update_may_fill_a_record_to_the_limit_and_not_over_it(self, engine: RecordEngine) -> None:
        room = 409_600 - len("name") - 1 - len("text")
        assert {"text": "x" * room} == await self._updated(engine, {}, Set(F("text"), "x" * room))
        await self._fails(engine, ItemTooLarge, {}, Set(F("text"), "x" * (room + 1)))

    async def test_an_update_without_changes_is_a_write(self, engine: RecordEngine) -> None:
        assert {"hits": 1} == await self._updated(engine, {"hits": 1})
        assert ["created", "updated"] == [change.kind for change in await all_changes(engine) if change.key == ("a",)]

    async def test_an_update_shows_in_the_indexes(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", kind="k", stamp=1))
        await written(engine, update(NOTES, ("u", "1"), Set(F("kind"), "l"), Add(F("stamp"), 4)))
        assert [] == await self.all_of(engine, read_kind("k"))
        assert [{"owner": "u", "id": "1", "kind": "l", "stamp": 5}] == [
            bare(record) for record in await self.all_of(engine, read_kind("l"))
        ]
