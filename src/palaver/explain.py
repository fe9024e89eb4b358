"""What would be sent: the reads of a query, or the premises, uploads and ops of a batch, as plain data and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from palaver.draft import Plan
from palaver.large_object import bytes_of
from palaver.ops import Address, Delete, Put, Read, Update, WriteSet
from palaver.query import Query

if TYPE_CHECKING:
    from palaver.core import Core


@runtime_checkable
class ExplainsReads(Protocol):
    """An engine that can show what it would send for a read."""

    def explain_read(self, read: Read) -> list[str]: ...


@runtime_checkable
class ExplainsWrites(Protocol):
    """An engine that can show what it would send for a write set."""

    def explain_write(self, writes: WriteSet) -> list[str]: ...


@dataclass(frozen=True)
class Explanation:
    """`steps` in order; `requests` in the engine's own language; `warnings` where it will cost more than it looks."""

    what: str
    steps: tuple[str, ...]
    requests: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [self.what, *(f"  {step}" for step in self.steps)]
        lines += [f"  {line}" for request in self.requests for line in request.splitlines()]
        return "\n".join([*lines, *(f"  ! {warning}" for warning in self.warnings)])


def explain_query(core: Core, query: Query[Any], reads: Sequence[Read]) -> Explanation:
    declared = core.schema.of(query.entity)
    path = query.path
    table = declared.table
    through = "the key" if path.physical is None else f"index {path.physical}"
    narrowed = [f"{part.path} =" for part in path.partition]
    narrowed += [f"{part.path} =" for part in path.sort[: len(query.fixed)]]
    if query.bounds:
        narrowed += [f"{path.sort[len(query.fixed)].path} {bound.op}" for bound in query.bounds]
    order = ", ".join(part.path for part in path.sort) or "the key"
    steps = [
        f"read {table.name} by {through}: {', '.join(narrowed) or 'all of it'}",
        f"in order of {order}{', newest first' if query.descending else ''}, {reads[0].limit} records a page",
    ]
    warnings = []
    if path.shards:
        steps.append(f"{path.shards} reads, one a shard, merged")
    if query.condition is not None:
        steps.append("then drop records the filter does not match")
        warnings.append("A filter is applied after reading: dropped records cost what reading them costs.")
    if path.physical is not None:
        steps.append("index reads are eventual on cloud engines")
    requests: tuple[str, ...] = ()
    if isinstance(core.records, ExplainsReads):
        requests = tuple(core.records.explain_read(reads[0]))
    detail = {"table": table.name, "index": path.physical, "descending": query.descending, "reads": len(reads)}
    return Explanation(f"{declared.name}.{path.name}", tuple(steps), requests, tuple(warnings), detail)


def explain_batch(core: Core, premises: Sequence[Address], plan: Plan) -> Explanation:
    steps = [f"see {at.table} first, because policy depends on what is stored" for at in premises]
    steps += [f"upload {bytes_of(data):,} bytes" for _, data in plan.uploads]
    for op in plan.writes.ops:
        guards = ", ".join(guard.origin.role for guard in op.guards)
        verb = "expire" if isinstance(op, Delete) and op.expired else type(op).__name__.lower()
        steps.append(f"{verb} {op.at.table}{f' if {guards}' if guards else ''}{_detail(op)}")
    requests: tuple[str, ...] = ()
    if isinstance(core.records, ExplainsWrites):
        requests = tuple(core.records.explain_write(plan.writes))
    return Explanation(f"a batch of {len(plan.made)}", tuple(steps), requests, (), {"ops": len(plan.writes.ops)})


def _detail(op: object) -> str:
    match op:
        case Put(_, record):
            return f": {', '.join(sorted(record))}"
        case Update(_, changes):
            return f": {', '.join(f'{type(change).__name__.lower()} {change.path}' for change in changes)}"
        case _:
            return ""
