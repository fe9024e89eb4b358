"""What becomes of stored values whose field is made secret, or is one no more, or has another name: sealed, opened, sealed anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from palaver.declared import Declared, FieldSpec
from palaver.evolve.actions import ASIDE, Seal
from palaver.evolve.draft import Draft
from palaver.evolve.forms import is_sealed, verdict
from palaver.snapshot import form
from palaver.structure import DropColumn, DropIndex, RenameColumn, Table
from palaver.system import HISTORY


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
                move = Seal(table.name, spec.stored, "move", spec.stored, was_table, column)
                draft.phases["fills"] += [move, *_in_images(draft, owner, move)]
        elif was != spec.secret and _may(draft, table, spec, field, renamed=column != spec.stored):
            _put_aside(draft, table, owner, spec)
            yield spec.stored


def _may(draft: Draft, table: Table, spec: FieldSpec, field: Mapping[str, Any], *, renamed: bool) -> bool:
    """Say whether stored values can be sealed or opened; refuse it in words where they cannot."""
    what = f"{table.entity}.{spec.name}"
    old, new = field["form"], form(spec.kind)
    inner = verdict(old["sealed"], new) if is_sealed(old) else verdict(old, new["sealed"])
    if renamed or draft.now[table.name].name != table.name:
        reason, hint = f"{what} is renamed, and secret or not at the same time.", "Rename it first, and change it in a second migration."
    elif field["blob"] or inner not in ("same", "safe") or (field["optional"] and not spec.optional):
        reason, hint = f"{what} is made secret or not and declared otherwise at the same time.", "Change one of the two first."
    elif is_sealed(old) and not draft.permits(what):
        reason, hint = (
            f"{what} is stored sealed, and would be stored for everybody to read.",
            f"Mark it Secret(), or allow it: --allow-data-loss {what}.",
        )
    else:
        return True
    draft.refuse(reason, hint, entity=table.entity, field=spec.name)
    return False


def _put_aside(draft: Draft, table: Table, owner: Declared | None, spec: FieldSpec) -> None:
    aside = ASIDE.format(spec.stored)
    for index in draft.now[table.name].indexes:
        if spec.stored in index.partition + index.sort:
            draft.take("indexes in the way", DropIndex(table, index.name), "tidies")
    draft.take("columns renamed", RenameColumn(table, spec.stored, aside), "renames")
    how: Any = "seal" if spec.secret else "open"
    change = Seal(table.name, spec.stored, how, aside, table.name, spec.stored)
    draft.phases["fills"] += [change, *_in_images(draft, owner, change)]
    draft.take("columns gone", DropColumn(table, aside), "converts")


def _in_images(draft: Draft, owner: Declared | None, change: Seal) -> list[Seal]:
    """Return the same for the images that are kept of the records."""
    # Images take their table's new name after it.
    if owner is None or not {f"{change.table}{HISTORY}", f"{change.was_table}{HISTORY}"} & draft.now.keys():
        return []
    return [replace(change, source=change.column, images=True)]
