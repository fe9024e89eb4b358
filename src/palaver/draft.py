"""A plan and how it is put together: one write per record, checks kept apart, sizes added up."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from palaver.batch import UnchangedSince, When
from palaver.declared import Declared
from palaver.entity import Entity
from palaver.errors import BatchShape, TenantMismatch
from palaver.expr import OPERANDS, evaluate
from palaver.ops import Address, Change_, Guard, Op, Origin, Put, Set, Unchanged, Update, WriteSet, revision_of
from palaver.system import blob_address, job_address, plain_key
from palaver.values import Record, Value, record_size, size


@dataclass(slots=True)
class Plan:
    """What a batch becomes: objects to upload first, one write set, and what each asked op made."""

    writes: WriteSet
    uploads: tuple[tuple[str, bytes], ...]
    made: tuple[Entity | None, ...]
    main: tuple[int | None, ...]
    jobs: bool = False


class Held(NamedTuple):
    """A record to be deleted that children may hold back, and the condition its deletion has."""

    declared: Declared
    at: Address
    when: When


@dataclass(slots=True)
class Draft:
    """A plan being made."""

    now_us: int
    tenant: str | None
    seen: Mapping[Address, Record | None]
    closed: Collection[Address] = ()
    ops: list[Op] = field(default_factory=list)
    size: int = 0
    uploads: list[tuple[str, bytes]] = field(default_factory=list)
    at: dict[Address, int] = field(default_factory=dict)
    checks: dict[Address, list[Guard]] = field(default_factory=dict)
    jobs: bool = False

    def write(self, op: Op, what: str, size: int = 0) -> int:
        if op.at in self.at:
            raise BatchShape(f"A batch writes one {what} twice.", hint="Make it one write, or two batches.")
        self.at[op.at] = len(self.ops)
        self.ops.append(op)
        self.size += size
        return len(self.ops) - 1

    def exact_size(self) -> int:
        """Return the metered bytes of everything written; `size` bounds it from above."""
        total = 0
        for op in self.ops:
            if isinstance(op, Put):
                total += record_size(op.record, op.at.table)
            elif isinstance(op, Update):
                total += sum(map(change_size, op.changes))
        return total


def bind_tenant(declared: Declared, entity: Entity, tenant: str | None) -> Entity:
    assert declared.tenant is not None
    if getattr(entity, declared.tenant.name) != tenant:
        raise TenantMismatch(
            f"This {declared.name} belongs to another tenant than the store.",
            hint="Use store.for_tenant(…) with its tenant.",
            entity=declared.name,
        )
    return entity


def premise(number: int, old: Record | None) -> Guard:
    return Guard(Unchanged(revision_of(old) if old else None), Origin(number, "premise"))


def release(blob: str, at: Address, due_ms: int) -> Put:
    """Return the job that removes an object, once nothing at this address refers to it."""
    body: dict[str, Value] = {"table": at.table, "key": plain_key(at.key), "blob": blob}
    job = blob_address(blob)
    return Put(job, {"scope": job.key[0], "name": job.key[1], "body": body, "due": due_ms})


def job(at: Address, due_ms: int, **what: bool | int) -> Record:
    """Return the record of the job that finishes what a mark began."""
    body: dict[str, Value] = {"table": at.table, "key": plain_key(at.key), **what}
    return {"scope": "cascade", "name": job_address(at).key[1], "body": body, "due": due_ms}


def change_size(change: Change_) -> int:
    match change:
        case Set(path, to) if not isinstance(to, OPERANDS):
            return len(path.name) + size(to, "an update")
        case _:
            return len(change.path.name) + 8


def was(declared: Declared, old: Record, revision: object, when: When) -> bool:
    """Say whether a condition is true of a record that only this batch has hidden."""
    if when is None:
        return True
    return revision == when.revision if isinstance(when, UnchangedSince) else evaluate(declared.entity.bind(when), old)
