"""From what a database has to what a schema wants: steps that only add, or a refusal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from palaver.errors import NotProvisioned
from palaver.evolve import steps
from palaver.ops import AddColumn, Column, CreateIndex, CreateTable, DropIndex, IndexSpec, Physical, Table

ID, NAME = Column("id", "text", required=True), Column("name", "text")
THING = Table("things", "Thing", (ID, NAME), ("id",), (), (IndexSpec("by_name", ("name",), ()),))


def test_what_fits_needs_nothing() -> None:
    assert [] == steps(Physical((THING,)), [THING])


def test_a_missing_table_is_made_whole() -> None:
    assert [CreateTable(THING)] == steps(Physical(()), [THING])
    assert [] == steps(Physical((THING, replace(THING, name="others"))), [THING])


def test_columns_come_before_the_indexes_that_need_them() -> None:
    size = Column("size", "int")
    by_size = IndexSpec("by_size", ("size",), ("name",))
    wanted = replace(THING, columns=(ID, NAME, size), indexes=(*THING.indexes, by_size))

    assert [AddColumn(wanted, size), CreateIndex(wanted, by_size)] == steps(Physical((THING,)), [wanted])


def test_a_changed_index_is_made_anew_and_a_dropped_one_is_dropped() -> None:
    changed = IndexSpec("by_name", ("name",), ("id",))
    wanted = replace(THING, indexes=(changed,))

    assert [DropIndex(wanted, "by_name"), CreateIndex(wanted, changed)] == steps(Physical((THING,)), [wanted])
    without = replace(THING, indexes=())
    assert [DropIndex(without, "by_name")] == steps(Physical((THING,)), [without])


def test_a_column_nobody_declares_any_more_stays() -> None:
    assert [] == steps(Physical((THING,)), [replace(THING, columns=(ID,), indexes=THING.indexes)])


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (replace(THING, partition=("name",)), "another key"),
        (replace(THING, sort=("name",)), "another key"),
        (replace(THING, columns=(ID, Column("name", "int"))), "stored as text and declared as int"),
        (replace(THING, columns=(ID, Column("name", "float"))), "stored as text and declared as float"),
        (replace(THING, columns=(ID, NAME, Column("owner", "text", required=True))), "new and required"),
    ],
)
def test_what_would_strand_stored_records_is_refused(wanted: Table, words: str) -> None:
    with pytest.raises(NotProvisioned, match=words):
        steps(Physical((THING,)), [wanted])


def test_kinds_that_look_alike_when_stored_are_alike() -> None:
    for stored, wanted in (("text", "json"), ("text", "number"), ("int", "bool")):
        before = replace(THING, columns=(ID, Column("name", stored)))  # type: ignore[arg-type]
        after = replace(THING, columns=(ID, Column("name", wanted)))  # type: ignore[arg-type]
        assert [] == steps(Physical((before,)), [after])


def test_new_shadows_of_stored_records_may_be_missing() -> None:
    shard = Column("_all_shard", "int", required=True, shadow=True)
    wanted = replace(THING, columns=(ID, NAME, shard))

    assert [AddColumn(wanted, shard)] == steps(Physical((THING,)), [wanted])
