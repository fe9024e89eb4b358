"""A migration as a revision file of Alembic: the same statements, so that its run gives the same structure."""

from __future__ import annotations

from collections.abc import Sequence

from palaver.emit.statements import DialectName, Left, Taken, taken, writer
from palaver.evolve import Migration, plain_plan
from palaver.ops import Physical

_HEAD = '''"""{schema}: version {old} to {new}

Made by `palaver migrate plan --emit alembic` for {dialect}.{left}

Revision ID: {revision}
Revises: {down}
"""

from alembic import op

revision = {revision!r}
down_revision = {down!r}
branch_labels = None
depends_on = None
'''


def revision(plan: Migration, physical: Physical, dialect: DialectName, schema: str = "public", down: str | None = None) -> str:
    """Return the text of a revision file; `down` is the revision it follows.

    What fills stored records is no statement: `palaver migrate apply` does it after the upgrade, and notes the new version.
    """
    writes = writer(dialect, schema)
    actions = list(taken(plan, physical, writes))
    steps = [each for each in actions if isinstance(each, Taken)]
    left = [each.words for each in actions if isinstance(each, Left)]
    head = _HEAD.format(
        schema=plan.schema,
        old=plan.from_version,
        new=plan.version,
        dialect=dialect,
        revision=str(plain_plan(plan)["digest"])[:12],
        down=down,
        left="\n\nRun `palaver migrate apply` after it: " + "; ".join(left) + "." if left else "",
    )
    first = [] if physical.tables else [text for text in writes.system().split(";\n") if text.strip()]
    return "\n".join([head, "", *_function("upgrade", _forwards(first, steps)), "", "", *_function("downgrade", _backwards(steps)), ""])


def _forwards(first: Sequence[str], steps: Sequence[Taken]) -> list[str]:
    lines = [_execute(text) for text in first]
    for each in steps:
        lines += [f"    # {each.words}", *map(_execute, each.forwards)]
    return lines


def _backwards(steps: Sequence[Taken]) -> list[str]:
    lost = [each.words for each in steps if each.backwards is None]
    if lost:
        return [f"    raise NotImplementedError({'This cannot be undone: ' + '; '.join(lost) + '.'!r})"]
    lines: list[str] = []
    for each in reversed(steps):
        lines += [f"    # not: {each.words}", *map(_execute, each.backwards or ())]
    return lines


def _execute(text: str) -> str:
    # Alembic takes a colon and a name for a parameter, except in what the driver is given as it is.
    return f"    op.get_bind().exec_driver_sql({text.strip().rstrip(';')!r})"


def _function(name: str, lines: Sequence[str]) -> list[str]:
    return [f"def {name}() -> None:", *(lines or ["    pass"])]
