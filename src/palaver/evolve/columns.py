"""The columns of one table as stored and as declared: what is renamed, added, filled, altered, kept or lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from palaver.declared import Declared, FieldSpec
from palaver.evolve.actions import Demand, Fill
from palaver.evolve.draft import Draft
from palaver.evolve.forms import verdict, widens
from palaver.evolve.sealing import sealed_or_opened
from palaver.markers import Backfill, RenamedFrom
from palaver.structure import CONVERSIONS, AddColumn, AlterColumn, Column, DropColumn, DropIndex, RenameColumn, Table

KEEP_NAME = 'Keep the stored name: annotate it with Stored("{}").'


class Columns:
    """Compares one stored table with its declaration, and adds what is to be done to a draft."""

    def __init__(self, draft: Draft, table: Table, owner: Declared | None, before: Mapping[str, Any]) -> None:
        self._draft, self._table, self._owner = draft, table, owner
        self._before = before
        self._specs = owner.by_stored if owner else {}
        self._wanted = {column.name for column in table.columns}
        self._old_fields: Mapping[str, Any] = before.get("fields", {})
        self._former: dict[str, str] = {}
        self._sealing: set[str] = set()

    @property
    def _now(self) -> Table:
        return self._draft.now[self._table.name]

    def compare(self) -> None:
        self._rename()
        self._sealing = set(sealed_or_opened(self._draft, self._table, self._owner, self._before, self._former))
        stored = {column.name: column for column in self._now.columns}
        fill: list[str] = []
        for column in self._table.columns:
            old = stored.get(column.name)
            if old is None:
                fill += self._add(column)
            elif self._alter(old, column):
                fill.append(column.name)
        fill += [name for name in (*self._computed_anew(), *self._computed_from(fill)) if name not in fill]
        if fill:
            order = [column.name for column in self._table.columns if column.name in fill]
            self._draft.phases["fills"].append(Fill(self._table.name, tuple(order)))
        for column in stored.values():
            if column.name not in self._wanted and not column.shadow:
                self._leave(column)

    def _computed_from(self, filled: Sequence[str]) -> list[str]:
        """Return the shadow columns that get a value where one of these columns does."""
        fields = {self._specs[name].name for name in filled if name in self._specs}
        return [name for name, part in (self._owner.shadows if self._owner else ()) if part.steps[0] in fields]

    # --- renamed ----------------------------------------------------------------------------------------------------

    def _rename(self) -> None:
        names = {column.name for column in self._now.columns}
        told = self._draft.names.columns.get(self._table.name, {})
        for spec in self._specs.values():
            marker: RenamedFrom | None = spec.marker(RenamedFrom)
            old = told.get(spec.stored)
            if old is None and marker is not None:
                old = self._old_fields.get(marker.name, {}).get("stored", marker.name)
            if spec.stored in names or old not in names or old in self._wanted:
                continue
            if self._may_rename(spec, old):
                self._free(old)
                self._draft.take("columns renamed", RenameColumn(self._table, old, spec.stored), "renames")
                self._former[spec.stored] = old

    def _may_rename(self, spec: FieldSpec, old: str) -> bool:
        assert self._owner is not None
        what = f"{self._table.entity}.{spec.name}"
        reason = ""
        if old in self._now.key:
            reason = f"{what} is a key part, and no engine renames those."
        elif old == self._now.expires:
            reason = f"{what} is what records expire by, which keeps its stored name."
        elif self._owner.history is not None:
            reason = f"{what} is in images of history under its old name."
        if reason:
            self._draft.refuse(reason, KEEP_NAME.format(old), entity=self._table.entity, field=spec.name)
        return not reason

    def _free(self, column: str) -> None:
        """Drop the indexes that name a column which is about to change; those that are declared come back."""
        for index in self._now.indexes:
            if column in index.partition + index.sort:
                self._draft.take("indexes in the way", DropIndex(self._table, index.name), "tidies")

    # --- added ------------------------------------------------------------------------------------------------------

    def _add(self, column: Column) -> list[str]:
        """Add a column, optional until it is filled; return its name if there is something to fill it with."""
        required = is_required(self._table, column)
        self._draft.take("columns", AddColumn(self._table, replace(column, required=False)), "adds")
        spec = self._specs.get(column.name)
        # What was there before is sealed or opened into it; a default would take its place.
        taken = column.name in self._sealing
        fills = not taken and (column.shadow or (spec is not None and has_filling(spec)))
        if required:
            if not fills and not taken:
                self._demand("empty", column, "Give it a default, annotate it with Backfill(…), or make it optional.")
            self._draft.take("columns tightened", AlterColumn(self._table, column), "fills")
        return [column.name] if fills else []

    # --- altered ----------------------------------------------------------------------------------------------------

    def _alter(self, old: Column, column: Column) -> bool:
        """Make a stored column fit; return whether records that lack it are to be filled."""
        table, draft = self._table, self._draft
        spec = self._specs.get(column.name)
        if not self._converts(old, column, spec):
            return False
        was, now = is_required(self._now, old), is_required(table, column)
        looser = Column(
            column.name, column.kind, was and now, column.shadow, column.check if widens(old.check, column.check) else old.check
        )
        wanted = replace(column, required=now)
        before = replace(old, required=was)
        if looser != before or wanted != looser:
            self._free(column.name)
        if looser != before:
            draft.take("columns widened", AlterColumn(table, looser), "widens" if looser.kind == old.kind else "converts")
        fills = spec is not None and not column.shadow and self._lacks(old, spec) and has_filling(spec)
        if wanted != looser:
            if now and not was and not fills:
                self._demand("present", column, "Give it a default, annotate it with Backfill(…), or leave it optional.")
            if not widens(old.check, column.check):
                self._demand("within", column, "Change those records first, or allow their values.")
            draft.take("columns tightened", AlterColumn(table, wanted), "tightens")
        return fills

    def _lacks(self, old: Column, spec: FieldSpec) -> bool:
        """Say whether stored records may lack a field that has a value in every new one."""
        before = next((field for field in self._old_fields.values() if field["stored"] == self._former.get(spec.stored, spec.stored)), None)
        if spec.optional or before is None:
            # A field that was not declared for a while: what was stored meanwhile lacks it.
            return not spec.optional and not old.required and (bool(self._before) or spec.marker(Backfill) is not None)
        return bool(before["optional"])

    def _converts(self, old: Column, column: Column, spec: FieldSpec | None) -> bool:
        """Say whether stored values are, or can be made, what the declaration says."""
        if old.kind != column.kind and (old.kind, column.kind) not in CONVERSIONS:
            return self._stored_as(old.kind, column.kind, column)
        if old.kind != column.kind:
            if column.name in self._table.key or column.name == self._now.expires:
                return self._stored_as(old.kind, column.kind, column)
            if column.kind == "float":
                self._demand("exact", column, "A float holds integers up to 2**53 exactly; declare a Decimal.")
        if spec is None:
            return True
        before = next((field for field in self._old_fields.values() if field["stored"] == self._former.get(spec.stored, spec.stored)), None)
        if before is None:
            return True
        found = "refuse" if before["blob"] and not _is_blob(spec) else verdict(before["form"], _form(spec))
        if found == "refuse" or (found != "same" and column.name in self._table.key):
            return self._stored_as(_said(before["form"]), _said(_form(spec)), column)
        if found == "check":
            self._demand("reads", column, "Declare a new field, and copy what can be read.")
        return True

    def _stored_as(self, old: str, new: str, column: Column) -> bool:
        self._draft.refuse(
            f"{self._label(column.name)} is stored as {old} and declared as {new}.",
            "Declare what is stored, or a new field that your program copies the values into.",
            entity=self._table.entity,
            field=column.name,
        )
        return False

    def _computed_anew(self) -> list[str]:
        """Return the shadow columns that are computed in another way than those that are stored."""
        if self._owner is None or not self._before:
            return []
        from palaver.snapshot import computed

        old: Mapping[str, str] = self._before.get("shadows", {})
        return [name for name, how in computed(self._owner).items() if old.get(name) != how]

    # --- left -------------------------------------------------------------------------------------------------------

    def _leave(self, column: Column) -> None:
        """Keep a column nobody declares any more, or drop it where its loss was allowed."""
        if self._owner is None:
            return
        if self._draft.loses(self._label(column.name)):
            self._free(column.name)
            self._draft.take("columns gone", DropColumn(self._table, column.name), "drops")
        elif column.required:
            self._free(column.name)
            self._draft.take("columns widened", AlterColumn(self._table, replace(column, required=False)), "widens")

    def forget(self, column: Column) -> None:
        """Drop a shadow no index needs."""
        self._draft.take("columns gone", DropColumn(self._table, column.name), "tidies")

    def _label(self, column: str) -> str:
        spec = self._specs.get(column)
        names = [name for name, field in self._old_fields.items() if field["stored"] == column]
        return f"{self._table.entity}.{spec.name if spec else names[0] if names else column}"

    def _demand(self, kind: Any, column: Column, hint: str) -> None:
        self._draft.demands.append(Demand(kind, self._table.name, self._table.entity, column.name, column.check, hint))


def is_required(table: Table, column: Column) -> bool:
    """Say whether every record has the column; a shadow may have been added to records stored before it was declared."""
    return column.name in table.key or (column.required and not column.shadow)


def has_filling(spec: FieldSpec) -> bool:
    """Say whether there is a value for records stored before the field was there."""
    if spec.marker(Backfill) is not None:
        return True
    if spec.default is None:
        return False
    value = spec.default()
    return value is not None and value not in (frozenset(), set())


def _form(spec: FieldSpec) -> Any:
    from palaver.snapshot import form

    return form(spec.kind)


def _is_blob(spec: FieldSpec) -> bool:
    from palaver.markers import Blob

    return spec.marker(Blob) is not None


def _said(form: Any) -> str:
    return form if isinstance(form, str) else "a " + next(iter(form))
