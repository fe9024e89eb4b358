"""A migration being made: actions are added to their phases, and what is stored by then is kept in step with them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from palaver.errors import NotProvisioned
from palaver.evolve.actions import Action, Demand, Effect, Take
from palaver.evolve.names import Names
from palaver.ops import CreateTable, DropTable, RenameTable, Step, Table, after_step

PHASES = (
    "tables renamed",
    "tables",
    "indexes in the way",
    "columns renamed",
    "columns",
    "columns widened",
    "fills",
    "claims",
    "columns tightened",
    "expiry",
    "indexes",
    "indexes gone",
    "claims gone",
    "columns gone",
    "tables gone",
    "projections",
)


@dataclass
class Draft:
    """A migration being made: what is stored by now, the actions of each phase, and what cannot be done."""

    now: dict[str, Table]
    allow: Collection[str]
    names: Names = field(default_factory=Names)
    phases: dict[str, list[Action]] = field(default_factory=lambda: {name: [] for name in PHASES})
    demands: list[Demand] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    refusals: list[NotProvisioned] = field(default_factory=list)

    def take(self, phase: str, step: Step, effect: Effect) -> None:
        self.phases[phase].append(Take(step, effect))
        if isinstance(step, CreateTable):
            self.now[step.table.name] = step.table
        elif isinstance(step, DropTable):
            del self.now[step.table.name]
        else:
            old = step.old if isinstance(step, RenameTable) else step.table.name
            self.now[step.table.name] = after_step(self.now.pop(old), step)

    def refuse(self, message: str, hint: str, **context: str) -> None:
        self.refusals.append(NotProvisioned(message, hint=hint, **context))

    def permits(self, label: str) -> bool:
        """Say whether the caller allowed this loss."""
        if label in self.allow:
            self.used.add(label)
        return label in self.allow

    def loses(self, label: str) -> bool:
        """Say whether the caller allowed this loss; otherwise it is kept."""
        if not self.permits(label):
            self.kept.append(label)
        return label in self.allow
