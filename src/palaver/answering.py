"""What a write gives back: what was stored, what a repeated request is answered with, and the record a refusal carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from palaver.batch import Batch, Patch, asked_at
from palaver.clock import us_of
from palaver.draft import Plan
from palaver.entity import Entity, stamped
from palaver.errors import IdempotencyMismatch, OutcomeUnknown, PalaverError
from palaver.ops import REVISION, Put, Update, Written, is_live
from palaver.query import At
from palaver.reading import filled
from palaver.system import SYSTEM, token_address
from palaver.values import Record

if TYPE_CHECKING:
    from palaver.store import Store


async def outcome(store: Store, batch: Batch, plan: Plan, written: Written) -> tuple[Entity | None, ...]:
    """Return what each op of a batch stored."""
    out: list[Entity | None] = []
    for op, made, index in zip(batch.ops, plan.made, plan.main, strict=True):
        if index is None:
            out.append(None)
        elif made is not None:
            out.append(stamped(made, written.revisions[index] or 0))
        else:
            out.append(await _patched(store, asked_at(op), plan, written, index) if plan.writes.returning else None)
    return tuple(out)


async def _patched(store: Store, target: At[Any], plan: Plan, written: Written, index: int) -> Entity | None:
    codec = store.core.planner.codec(target.entity)
    record = written.updated[index]
    op = plan.writes.ops[index]
    if record is None and isinstance(op, Put):
        record = {**op.record, REVISION: written.revisions[index]}
    if record is None or not isinstance(op, Put | Update):
        return None
    entity: Entity = codec.decode(record)
    try:
        whole = await filled(store.core, store.tenant, codec, [entity]) if codec.declared.blobs else [entity]
    except PalaverError as error:
        # Any other name would say that nothing was written.
        raise OutcomeUnknown("It was written, and its object could not be read back.", hint="Read it before repeating.") from error
    return whole[0] if whole else None


async def remembered(store: Store, token: str) -> Record | None:
    """Return what an earlier request left under a token."""
    core = store.core
    at = token_address(store.tenant, token)
    record = (await core.records.get((at,)))[0]
    return record if is_live(SYSTEM, record, us_of(core.clock)) else None


async def replayed(store: Store, batch: Batch, earlier: Record, returning: bool) -> tuple[Entity | None, ...]:
    """Answer a repeated request with the records as they are now."""
    planner, follower = store.core.planner, store.core.follower
    body: Any = earlier["body"]
    if not planner.repeats(batch, body):
        raise IdempotencyMismatch("This token was used with another request.", hint="Use a new token for a new request.")
    found = tuple([await store.find(asked_at(op)) for op in batch.ops])
    if follower is not None:
        await follower.replayed([planner.address(asked_at(op), store.tenant) for op in batch.ops], found)
    return tuple([each if returning or not isinstance(op, Patch) else None for op, each in zip(batch.ops, found, strict=True)])


async def complete(store: Store, found: Entity | None) -> None:
    """Fetch the large values of a record that an error carries."""
    if found is not None:
        await filled(store.core, store.tenant, store.core.planner.codec(type(found)), [found])
