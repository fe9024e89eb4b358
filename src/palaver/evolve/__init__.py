"""Old schema → new schema: ordered steps with what they need of the data, or a refusal where data would be stranded.

`diff` compares and decides; `actions` are what it decides on; `plans` writes it to a file. Nothing here awaits.
"""

from palaver.evolve.actions import Action, Claim, Demand, Fill, Prepare, Rebuild, Release, Seal, Take
from palaver.evolve.diff import Migration, migration
from palaver.evolve.drift import base_of, comparable, drift_of
from palaver.evolve.names import Names, renamed, turned_round
from palaver.evolve.plans import plain_plan, plan_of, plan_text

__all__ = [
    "Action",
    "Claim",
    "Demand",
    "Fill",
    "Migration",
    "Names",
    "Prepare",
    "Rebuild",
    "Release",
    "Seal",
    "Take",
    "base_of",
    "comparable",
    "drift_of",
    "migration",
    "plain_plan",
    "plan_of",
    "plan_text",
    "renamed",
    "turned_round",
]
