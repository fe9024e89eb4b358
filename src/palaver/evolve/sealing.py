"""What becomes of stored values whose field is made secret, or is one no more, or has another name: sealed, opened, sealed anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from palaver.declared import Declared, FieldSpec
from palaver.evolve.actions import Seal
from palaver.evolve.forms import is_sealed, verdict
from palaver.snapshot import form
from palaver.structure import DropColumn, DropIndex, RenameColumn, Table

if TYPE_CHECKING:
    from palaver.evolve.diff import Draft

ASIDE = "{}__before"
"""What a column is called while its values are sealed or opened into the one that takes its name."""


def sealed_or_opened(
    draft: Draft, table: Table, owner: Declared | None, before: Mapping[str, Any], former: Mapping[str, str]
) -> Iterator[str]:
    """Add what that takes to a draft, and yield the columns whose values are put aside for it."""
    fields = {field["stored"]: field for field in before.get("fields", {}).values()}
    for spec in owner.fields.values() if owner is not None else ():
        column = former.get(spec.stored, spec.stored)
        field = fields.get(column)
        if field is None:
            continue
        was = is_sealed(field["form"])
        if was and spec.secret:
            was_table = str(before["table"]["name"])
            if (was_table, column) != (table.name, spec.stored):
                if owner is not None and owner.history is not None:
                    what = f"{table.entity}.{spec.name}"
                    reason = f"{what} is sealed in images of history for the place it had."
                    draft.refuse(reason, f'Keep table="{was_table}" and its stored name.', entity=table.entity, field=spec.name)
                move = Seal(table.name, spec.stored, "move", spec.stored, was_table, column)
                draft.phases["fills"].append(move)
        elif was != spec.secret and _may(draft, table, owner, spec, field, renamed=column != spec.stored):
            _put_aside(draft, table, spec)
            yield spec.stored


def _may(draft: Draft, table: Table, owner: Declared | None, spec: FieldSpec, field: Mapping[str, Any], *, renamed: bool) -> bool:
    """Say whether stored values can be sealed or opened; refuse it in words where they cannot."""
    what = f"{table.entity}.{spec.name}"
    old, new = field["form"], form(spec.kind)
    inner = verdict(old["sealed"], new) if is_sealed(old) else verdict(old, new["sealed"])
    if renamed or draft.now[table.name].name != table.name:
        reason, hint = f"{what} is renamed, and secret or not at the same time.", "Rename it first, and change it in a second migration."
    elif field["blob"] or inner not in ("same", "safe") or (field["optional"] and not spec.optional):
        reason, hint = f"{what} is made secret or not and declared otherwise at the same time.", "Change one of the two first."
    elif owner is not None and owner.history is not None:
        reason, hint = f"{what} is in images of history as it was.", "Declare a new field, and copy the values with the application."
    elif is_sealed(old) and not draft.permits(what):
        reason, hint = (
            f"{what} is stored sealed, and would be stored for everybody to read.",
            f"Mark it Secret(), or allow it: --allow-data-loss {what}.",
        )
    else:
        return True
    draft.refuse(reason, hint, entity=table.entity, field=spec.name)
    return False


def _put_aside(draft: Draft, table: Table, spec: FieldSpec) -> None:
    aside = ASIDE.format(spec.stored)
    for index in draft.now[table.name].indexes:
        if spec.stored in index.partition + index.sort:
            draft.take("indexes in the way", DropIndex(table, index.name), "tidies")
    draft.take("columns renamed", RenameColumn(table, spec.stored, aside), "renames")
    how: Any = "seal" if spec.secret else "open"
    draft.phases["fills"].append(Seal(table.name, spec.stored, how, aside, table.name, spec.stored))
    draft.take("columns gone", DropColumn(table, aside), "converts")
