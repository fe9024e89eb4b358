"""From a refused write set to the error its caller should see."""

from __future__ import annotations

from palaver import batch as asked
from palaver.batch import Batch, asked_at
from palaver.declared import Declared
from palaver.entity import Entity
from palaver.errors import (
    AlreadyExists,
    ConditionFailed,
    Conflict,
    Duplicate,
    PalaverError,
    ReferenceBroken,
    TransactionCancelled,
    Unsealable,
)
from palaver.ops import MARK, Address, Failure, Refused, WriteSet, is_live
from palaver.plan import Planner


def moved(refused: Refused) -> bool:
    """Say whether a premise failed: what was planned from is not what is stored any more."""
    return any(failure.guard.origin.role == "premise" for failure in refused.failures)


def leftovers(planner: Planner, writes: WriteSet, refused: Refused) -> list[Address]:
    """Return the expired records in the way of new ones: their children have to go before the key is used again."""
    found: list[Address] = []
    for failure in refused.failures:
        at, record = writes.ops[failure.op].at, failure.found
        if failure.guard.origin.role != "absent" or record is None or record.get(MARK) is not None:
            continue
        if not is_live(planner.tables[at.table], record, writes.now_us):
            found.append(at)
    return found


def token_failure(refused: Refused) -> Failure | None:
    """Return the failure of the token's own record, if this request, or another with its token, was written before."""
    return next((failure for failure in refused.failures if failure.guard.origin.role == "token"), None)


def blame(planner: Planner, batch: Batch, refused: Refused) -> PalaverError:
    """Return the error of a single op, or one TransactionCancelled with a reason for each op of a larger batch."""
    reasons: list[PalaverError | None] = [None] * len(batch.ops)
    for failure in refused.failures:
        number = failure.guard.origin.op
        if reasons[number] is None:
            reasons[number] = _reason(planner, batch.ops[number], failure)
    if len(batch.ops) == 1 and reasons[0] is not None:
        return reasons[0]
    named = ", ".join(f"op {number} ({reason.code})" for number, reason in enumerate(reasons) if reason is not None)
    return TransactionCancelled(
        f"The batch was cancelled by {named}; nothing was written.", hint="`reasons` has one entry per op.", reasons=reasons
    )


def _reason(planner: Planner, op: asked.Asked, failure: Failure) -> PalaverError:
    declared = planner.codec(asked_at(op).entity).declared
    role, _, name = failure.guard.origin.role.partition(":")
    match role:
        case "absent" if failure.found is not None and failure.found.get(MARK) is not None:
            return Conflict(
                f"This {declared.name} is being deleted with its children.", hint="Try again in a moment.", entity=declared.name
            )
        case "absent":
            return AlreadyExists(
                f"A {declared.name} with this key exists.",
                hint="Use put to replace it, patch to change it, or a token if this is a retry.",
                found=_found(planner, declared, failure),
                entity=declared.name,
            )
        case "alive":
            return ConditionFailed(
                f"There is no {declared.name} with this key to change.",
                hint="Create it first; it may have expired or been deleted.",
                entity=declared.name,
            )
        case "unique":
            return Duplicate(
                f"Another {declared.name} has the same {name}.", hint="Choose another value.", entity=declared.name, index=name
            )
        case "ref":
            return _broken(planner, declared, name)
        case _:
            return ConditionFailed(
                f"The condition on this {declared.name} did not hold.",
                hint="`found` has the record as it is now.",
                found=_found(planner, declared, failure),
                entity=declared.name,
            )


def _broken(planner: Planner, declared: Declared, name: str) -> ReferenceBroken:
    references = planner.schema.references
    parent = next(reference.parent.name for reference in references if reference.ref.name == name and reference.child is declared)
    return ReferenceBroken(
        f"{declared.name}.{name} refers to a {parent} that does not exist.", hint=f"Create the {parent} first.", entity=declared.name
    )


def _found(planner: Planner, declared: Declared, failure: Failure) -> Entity | None:
    if failure.found is None or failure.guard.origin.role.startswith("ref"):
        return None
    try:
        return planner.codec(declared.entity).decode(failure.found)  # type: ignore[no-any-return]
    except Unsealable:
        # What refused the write is what the caller has to hear; reading the record says the rest.
        return None
