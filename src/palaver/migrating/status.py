"""Where a database stands with a program's schema, and whose turn it is: nothing is changed, and nothing that can be told refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from palaver.errors import NotProvisioned
from palaver.evolve import Action, Migration, drift_of
from palaver.migrating.run import Applied, Migrator, leads_back
from palaver.schema import Schema


@dataclass(frozen=True)
class MigrationStatus:
    """Where a database stands: the program's schema, the one the data was written with, what was applied, and what is next."""

    schema: str
    version: int
    fingerprint: str
    stored_version: int | None
    """The version of the schema the data was written with; None where none was kept with it."""
    stored_fingerprint: str
    applied: tuple[Applied, ...]
    """The migrations that were carried out, oldest first."""
    plan: Migration | None
    """What is pending; None where this program may not migrate: `refused` says why."""
    refused: NotProvisioned | None
    drift: tuple[str, ...]
    """What somebody else changed, in words."""
    turn: str
    """What is to be done next, and by which program; empty where nothing is."""
    under_way: bool
    """Whether a migration was begun, by whichever program, and has not ended."""

    @property
    def actions(self) -> tuple[Action, ...]:
        """What is left to do: without what was done of a migration that was cut off."""
        return () if self.plan is None else self.plan.actions[self.plan.under_way or 0 :]

    @property
    def fits(self) -> bool:
        """Whether the database is what the program declares, and nobody else changed it."""
        return self.refused is None and not (self.actions or self.drift or self.under_way)


async def status_of(migrator: Migrator, schema: Schema) -> MigrationStatus:
    """Return where a database stands with a schema."""
    kept, history, begun = await migrator.kept(), await migrator.applied(), await migrator.under_way()
    plan = refused = None
    try:
        plan = await migrator.pending()
    except NotProvisioned as error:
        refused = error
    stored = str(kept.get("fingerprint", ""))
    if begun is not None:
        turn = _of_begun(begun[0], schema)
    elif refused is not None and kept["name"] == schema.name and kept["version"] > schema.version:
        turn = _of_newer(history, kept["version"], stored, schema)
    else:
        turn = refused.hint if refused is not None else "`palaver migrate apply` takes the steps." if plan and plan.actions else ""
    return MigrationStatus(
        schema.name,
        schema.version,
        schema.fingerprint,
        int(kept["version"]) if kept else None,
        stored,
        tuple(history),
        plan,
        refused,
        plan.drift if plan is not None else tuple(drift_of(await migrator.describe(), kept)) if begun is None else (),
        turn,
        begun is not None,
    )


def _of_begun(begun: Migration, schema: Schema) -> str:
    if begun.fingerprint == schema.fingerprint:
        return "A migration was begun and has not ended: `palaver migrate apply` goes on with it."
    return (
        f"A migration to version {begun.version} ({begun.fingerprint}) was begun and has not ended:"
        " `palaver migrate apply` goes on with it, with the program of that version."
    )


def _of_newer(history: Sequence[Applied], version: int, stored: str, schema: Schema) -> str:
    """Say who is next where the data is newer than the program: a newer program, or this one where it leads back to it."""
    update = f"Update the program to version {version} ({stored})"
    ways = [each for each in history if (each.from_fingerprint, each.fingerprint) == (schema.fingerprint, stored)]
    if ways and ways[-1].renamed is not None:
        return f"{update}, or lead the data back to this one: `palaver migrate undo`."
    return f"{update}. {leads_back(history, stored)}"


__all__ = ["MigrationStatus", "status_of"]
