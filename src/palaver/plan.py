"""Policy, in one place: what a batch becomes before it is sent.

`premises(batch)` names the records that must be seen first; `plan(batch, seen, now)` is a pure function that expands
uniqueness, references, tokens, cascades, history, expiry and blobs into ops with guards. A failed premise means the
world moved: the store reads again and plans again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from typing import Any

from palaver import batch as asked
from palaver.batch import Batch, UnchangedSince, asked_at, fingerprint
from palaver.codec import EntityCodec, expiry_seconds
from palaver.declared import Declared, UniqueSpec
from palaver.entity import Entity
from palaver.errors import BatchShape, SchemaError, TenantMismatch
from palaver.expr import Append, IfAbsent, Path, evaluate
from palaver.ops import (
    MARK,
    REVISION,
    Absent,
    Address,
    Alive,
    Cause,
    Change_,
    Check,
    Delete,
    Guard,
    Holds,
    Limits,
    Op,
    Origin,
    Put,
    Set,
    Table,
    Unchanged,
    Update,
    WriteSet,
    apply_update,
    is_live,
    next_revision,
    position,
    revision_of,
)
from palaver.patching import Patcher
from palaver.query import At
from palaver.schema import Reference, Schema
from palaver.system import SYSTEM, history_address, history_table, job_address, key_text, plain_key, system, token_address
from palaver.values import KeyPart, Record, Value, record_size, size

LIMITS = Limits()
TOKENS_KEPT = timedelta(hours=24)
ABSENT, ALIVE = Absent(), Alive()
OPERANDS = (Path, IfAbsent, Append)


@dataclass(slots=True)
class Plan:
    """What a batch becomes: objects to upload first, one write set, and what each asked op made."""

    writes: WriteSet
    uploads: tuple[tuple[str, bytes], ...]
    made: tuple[Entity | None, ...]
    main: tuple[int | None, ...]
    token: str | None = None


@dataclass(slots=True)
class _Draft:
    """A plan being made."""

    now_us: int
    tenant: str | None
    seen: Mapping[Address, Record | None]
    ops: list[Op] = field(default_factory=list)
    size: int = 0
    uploads: list[tuple[str, bytes]] = field(default_factory=list)
    at: dict[Address, int] = field(default_factory=dict)
    checks: dict[Address, list[Guard]] = field(default_factory=dict)

    def write(self, op: Op, what: str, size: int = 0) -> int:
        if op.at in self.at:
            raise BatchShape(f"A batch writes one {what} twice.", hint="Make it one write, or two batches.")
        self.at[op.at] = len(self.ops)
        self.ops.append(op)
        self.size += size
        return len(self.ops) - 1


class Planner:
    """The compiled policy of one schema. Holds no state: every method is a function of its arguments."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.codecs: dict[type[Entity], EntityCodec] = {d.entity: EntityCodec(d, schema.retention) for d in schema.entities.values()}
        self.patcher = Patcher()
        self._parents: dict[str, list[Reference]] = {d.name: schema.children(d) for d in schema.entities.values()}
        self._refs: dict[str, list[Reference]] = {
            d.name: [reference for reference in schema.references if reference.child is d] for d in schema.entities.values()
        }
        self.tables: dict[str, Table] = {d.table.name: d.table for d in schema.entities.values()}
        self.tables[SYSTEM.name] = SYSTEM
        for declared in schema.entities.values():
            if declared.history is not None:
                table = history_table(declared)
                self.tables[table.name] = table

    def codec(self, entity: type[Entity]) -> EntityCodec:
        codec = self.codecs.get(entity)
        if codec is None:
            self.schema.of(entity)
            raise SchemaError(f"{entity.__name__} is not in schema {self.schema.name}.", entity=entity.__name__)
        return codec

    def cascades(self, declared: Declared) -> list[Reference]:
        """Return the references whose children go with, or hold back, a record of this entity."""
        return [reference for reference in self._parents[declared.name] if reference.ref.on_delete != "keep"]

    def address(self, target: At[Any], tenant: str | None) -> Address:
        """Return the stored address; the tenant comes first."""
        declared = self.codec(target.entity).declared
        return Address(declared.table.name, self.tenant_key(declared, tenant) + target.key)

    def tenant_key(self, declared: Declared, tenant: str | None) -> tuple[KeyPart, ...]:
        if declared.tenant is None:
            return ()
        if tenant is None:
            raise TenantMismatch(
                f"{declared.name} belongs to tenants and this store is bound to none.",
                hint="Use store.for_tenant(…).",
                entity=declared.name,
            )
        return (tenant,)

    # --- premises ---------------------------------------------------------------------------------------------------

    def premises(self, batch: Batch, tenant: str | None = None) -> list[Address]:
        """Return the addresses a plan of this batch must see."""
        return [self.address(asked_at(op), tenant) for op in batch.ops if self._needs_old(op)]

    def _needs_old(self, op: asked.Asked) -> bool:
        match op:
            case asked.Create():
                return False
            case asked.Put(entity):
                declared = self.codec(type(entity)).declared
                return bool(declared.uniques or declared.blobs or declared.history or self._parents[declared.name])
            case asked.Patch(at):
                return self.patcher.needs_old(self.codec(at.entity).declared, op)
            case asked.Delete(at):
                declared = self.codec(at.entity).declared
                return bool(declared.uniques or declared.blobs or declared.history or self.cascades(declared))
            case asked.Check():
                return False

    # --- planning ---------------------------------------------------------------------------------------------------

    def plan(
        self,
        batch: Batch,
        seen: Mapping[Address, Record | None],
        now_us: int,
        *,
        tenant: str | None = None,
        token: str | None = None,
        actor: str | None = None,
    ) -> Plan:
        """Return what the batch becomes at this instant, given what was seen.

        Raises Validation (a value, a key, a size), BatchShape (two writes to one record, over 100 ops or 4 MB after
        expansion), TenantMismatch.
        """
        draft = _Draft(now_us, tenant, seen)
        expanded = [self._expand(draft, number, op) for number, op in enumerate(batch.ops)]
        if token is not None:
            self._token(draft, batch, token)
        self._merge_checks(draft)
        if len(draft.ops) > LIMITS.ops:
            raise BatchShape(
                f"The batch expands to {len(draft.ops)} ops; the most is {LIMITS.ops}.",
                hint="Split it, or use bulk where all-or-nothing is not needed.",
            )
        if draft.size > LIMITS.bytes:
            raise BatchShape(f"The batch would write {draft.size:,} bytes; the most is {LIMITS.bytes:,}.", hint="Split it.")
        writes = WriteSet(draft.ops, now_us, Cause(actor, token))
        return Plan(writes, tuple(draft.uploads), tuple(made for _, made in expanded), tuple(index for index, _ in expanded), token)

    def _expand(self, draft: _Draft, number: int, op: asked.Asked) -> tuple[int | None, Entity | None]:
        """Add what one asked op becomes; return the position of its write, and the instance where it is known already."""
        match op:
            case asked.Create(entity):
                return self._store(draft, number, entity, create=True, when=None)
            case asked.Put(entity, when):
                return self._store(draft, number, entity, create=False, when=when)
            case asked.Patch():
                return self._patch(draft, number, op), None
            case asked.Delete(at, when):
                return self._delete(draft, number, at, when), None
            case asked.Check(at, when):
                self._check(draft, number, at, when)
                return None, None

    def _store(self, draft: _Draft, number: int, entity: Entity, *, create: bool, when: asked.When) -> tuple[int, Entity]:
        codec = self.codec(type(entity))
        declared = codec.declared
        if declared.tenant is not None:
            entity = bind_tenant(declared, entity, draft.tenant)
        encoded = codec.encode(entity, draft.now_us, draft.tenant)
        record = encoded.record
        at = Address(declared.table.name, position(declared.table, None, record))
        guards: list[Guard] = []
        old: Record | None = None
        if create:
            guards.append(Guard(ABSENT, Origin(number, "absent")))
        elif at in draft.seen:
            old = draft.seen[at]
            guards.append(Guard(Unchanged(revision_of(old) if old else None), Origin(number, "premise")))
        if when is not None:
            guards.append(self._when(declared, number, when))
        released = self._released(codec, old, record)
        index = draft.write(Put(at, record, tuple(guards), released), declared.name, encoded.size)
        draft.uploads.extend(encoded.uploads)
        self._around(draft, number, declared, at, old, record, "created" if old is None else "updated")
        return index, self.filled(codec, entity, record)

    def filled(self, codec: EntityCodec, entity: Entity, record: Record) -> Entity:
        """Return the instance with the expiry the planner computed."""
        spec = codec.declared.expires
        if spec is None or entity.__dict__[spec.name] is not None or record.get(spec.stored) is None:
            return entity
        assert spec.kind.decode is not None
        return entity.model_copy(update={spec.name: spec.kind.decode(record[spec.stored])})

    def _patch(self, draft: _Draft, number: int, op: asked.Patch) -> int:
        codec = self.codec(op.at.entity)
        declared = codec.declared
        changes = self.patcher.changes(declared, op)
        at = self.address(op.at, draft.tenant)
        guards = [Guard(ALIVE, Origin(number, "alive"))]
        if op.when is not None:
            guards.append(self._when(declared, number, op.when))
        if at not in draft.seen:
            changes = self._slide(declared, changes)
            self._reference_checks(draft, number, declared, _values_set(declared, changes))
            return draft.write(Update(at, tuple(changes), tuple(guards)), declared.name, sum(map(_change_size, changes)))
        old = draft.seen[at]
        if old is None or not is_live(declared.table, old, draft.now_us):
            return draft.write(Update(at, (), tuple(guards)), declared.name)
        guards.append(Guard(Unchanged(revision_of(old)), Origin(number, "premise")))
        plain = {name: value for name, value in old.items() if name not in (REVISION, MARK)}
        after = apply_update(declared.table, {**plain, REVISION: old[REVISION]}, self._slide(declared, changes))
        encoded = codec.encode(codec.decode(after), draft.now_us, draft.tenant)
        record = {
            **{name: value for name, value in plain.items() if name not in declared.by_stored and not name.startswith("_")},
            **encoded.record,
        }
        draft.uploads.extend(encoded.uploads)
        index = draft.write(Put(at, record, tuple(guards), self._released(codec, old, record)), declared.name, encoded.size)
        self._around(draft, number, declared, at, old, record, "updated")
        return index

    def _slide(self, declared: Declared, changes: Sequence[Change_]) -> list[Change_]:
        """Move the expiry along with the field it counts from, unless the caller set it."""
        rule = self.codec(declared.entity).rule
        out = list(changes)
        if declared.expires is None or rule is None or rule.after is None or rule.of is None:
            return out
        source = declared.fields[rule.of]
        stored = declared.expires.stored
        if any(change.path.name == stored for change in changes):
            return out
        decode = source.kind.decode
        moved = [change.to for change in changes if isinstance(change, Set) and change.path.name == source.stored]
        if decode is not None:
            out += [Set(Path(stored), expiry_seconds(decode(to), rule)) for to in moved if not isinstance(to, OPERANDS)]
        return out

    def _delete(self, draft: _Draft, number: int, target: At[Any], when: asked.When, *, expired: bool = False) -> int:
        codec = self.codec(target.entity)
        declared = codec.declared
        at = self.address(target, draft.tenant)
        guards = [] if when is None else [self._when(declared, number, when)]
        if at not in draft.seen:
            return draft.write(Delete(at, tuple(guards)), declared.name)
        old = draft.seen[at]
        guards.append(Guard(Unchanged(revision_of(old) if old else None), Origin(number, "premise")))
        if old is None or old.get(MARK) is not None:
            return draft.write(Check(at, tuple(guards)), declared.name)
        if self.cascades(declared):
            return self._mark(draft, declared, at, old, guards, expired)
        index = draft.write(Delete(at, tuple(guards), codec.references(old), expired), declared.name)
        self._around(draft, number, declared, at, old, None, "expired" if expired else "deleted")
        return index

    def expire(self, declared: Declared, at: Address, old: Record, now_us: int) -> Plan:
        """Return the plan that removes one expired record: itself, or by mark and job where it has children."""
        draft = _Draft(now_us, None, {at: old})
        guards = [Guard(Unchanged(revision_of(old)), Origin(0, "premise"))]
        if self.cascades(declared):
            self._mark(draft, declared, at, old, guards, True)
        else:
            draft.write(Delete(at, tuple(guards), self.codec(declared.entity).references(old), True), declared.name)
            self._around(draft, 0, declared, at, old, None, "expired")
        return Plan(WriteSet(draft.ops, now_us, Cause("sweep")), (), (None,), (0,))

    def remove_marked(self, declared: Declared, at: Address, old: Record, now_us: int, *, expired: bool) -> Plan:
        """Return the plan that removes a marked record whose children are gone."""
        draft = _Draft(now_us, None, {at: old})
        guard = Guard(Unchanged(revision_of(old)), Origin(0, "premise"))
        draft.write(Delete(at, (guard,), self.codec(declared.entity).references(old), expired), declared.name)
        self._around(draft, 0, declared, at, old, None, "expired" if expired else "deleted")
        draft.write(Delete(job_address(at)), "job")
        return Plan(WriteSet(draft.ops, now_us, Cause("cascade")), (), (None,), (0,))

    def _mark(self, draft: _Draft, declared: Declared, at: Address, old: Record, guards: list[Guard], expired: bool) -> int:
        index = draft.write(Update(at, (Set(Path(MARK), draft.now_us),), tuple(guards)), declared.name)
        body: dict[str, Value] = {"table": at.table, "key": plain_key(at.key), "expired": expired}
        job = {"scope": "cascade", "name": job_address(at).key[1], "body": body, "due": draft.now_us // 1000}
        draft.write(Put(job_address(at), job), "job", 200)  # type: ignore[arg-type]
        return index

    def _check(self, draft: _Draft, number: int, target: At[Any], when: asked.When) -> None:
        declared = self.codec(target.entity).declared
        at = self.address(target, draft.tenant)
        guards = draft.checks.setdefault(at, [])
        guards.append(Guard(ALIVE, Origin(number, "alive")))
        if when is not None:
            guards.append(self._when(declared, number, when))

    def _when(self, declared: Declared, number: int, when: asked.When) -> Guard:
        if isinstance(when, UnchangedSince):
            return Guard(Unchanged(when.revision), Origin(number, "when"))
        assert when is not None
        return Guard(Holds(declared.entity.bind(when)), Origin(number, "when"))

    def _released(self, codec: EntityCodec, old: Record | None, new: Record) -> tuple[str, ...]:
        if old is None or not codec.declared.blobs:
            return ()
        kept = set(codec.references(new))
        return tuple(key for key in codec.references(old) if key not in kept)

    # --- what a write brings with it --------------------------------------------------------------------------------

    def _around(
        self, draft: _Draft, number: int, declared: Declared, at: Address, old: Record | None, new: Record | None, kind: str
    ) -> None:
        """Add reservations, reference checks and history to one write."""
        for unique in declared.uniques.values():
            self._reserve(draft, number, declared, unique, at, old, new)
        if new is not None:
            self._reference_checks(draft, number, declared, new)
        if declared.history is not None:
            self._image(draft, declared, at, old, new, kind)

    def _reserve(
        self, draft: _Draft, number: int, declared: Declared, unique: UniqueSpec, at: Address, old: Record | None, new: Record | None
    ) -> None:
        before = self.reservation(declared, unique, old, draft.tenant)
        after = self.reservation(declared, unique, new, draft.tenant)
        expires = new.get(declared.expires.stored) if new is not None and declared.expires else None
        if before == after and (new is None or old is None or declared.expires is None):
            return
        if before is not None and before != after:
            draft.write(Delete(before), "reservation")
        if after is not None:
            guards = () if before == after else (Guard(ABSENT, Origin(number, f"unique:{unique.name}")),)
            record: Record = {"scope": "unique", "name": after.key[1], "body": {"table": at.table, "key": plain_key(at.key)}}
            if expires is not None:
                record["expires"] = expires
            draft.write(Put(after, record, guards), f"{declared.name}.{unique.name}", 200)

    def reservation(self, declared: Declared, unique: UniqueSpec, record: Record | None, tenant: str | None) -> Address | None:
        """Return the address that holds a record's claim to its unique values; None where it claims none."""
        if record is None or (unique.when is not None and not evaluate(declared.entity.bind(unique.when), record)):
            return None
        values: Any = tuple(record.get(part.column) for part in unique.parts)
        return None if None in values else self.claim(declared, unique, values, tenant)

    def claim(self, declared: Declared, unique: UniqueSpec, values: Sequence[KeyPart], tenant: str | None) -> Address:
        digest = sha256(key_text(values).encode()).hexdigest()
        return system("unique", f"{tenant or ''}/{declared.name}/{unique.name}/{digest}")

    def _reference_checks(self, draft: _Draft, number: int, declared: Declared, record: Mapping[str, Value]) -> None:
        for reference in self._refs[declared.name]:
            stored = [declared.fields[name].stored for name in reference.ref.fields]
            key: Any = tuple(record.get(name) for name in stored)
            if None in key:
                continue
            at = Address(reference.parent.table.name, self.tenant_key(reference.parent, draft.tenant) + key)
            draft.checks.setdefault(at, []).append(Guard(ALIVE, Origin(number, f"ref:{reference.ref.name}")))

    def _image(self, draft: _Draft, declared: Declared, at: Address, old: Record | None, new: Record | None, kind: str) -> None:
        assert declared.history is not None
        revision = next_revision(old, draft.now_us)
        subject = declared.subject.stored if declared.subject else None
        record: Record = {
            "record_key": key_text(at.key),
            "revision": revision,
            "kind": kind,
            "expires": (draft.now_us + declared.history // timedelta(microseconds=1)) // 1_000_000 + 1,
        }
        if new is not None:
            record["image"] = {name: value for name, value in new.items() if name not in (REVISION, MARK)}
        whose = (new or old or {}).get(subject) if subject else None
        if whose is not None:
            record["subject"] = whose
        draft.write(Put(history_address(declared, at, revision), record), "image", record_size(record, declared.name))

    def _merge_checks(self, draft: _Draft) -> None:
        """A check on a record the batch also writes becomes part of that write; the rest become Check ops."""
        for at, guards in draft.checks.items():
            if at not in draft.at:
                draft.write(Check(at, tuple(guards)), "check")
                continue
            op = draft.ops[draft.at[at]]
            if isinstance(op, Delete):
                raise BatchShape("A batch deletes a record that another op of it refers to.", hint="Leave one of them out.")
            if isinstance(op, Put) and any(guard.when == ABSENT for guard in op.guards):
                continue
            draft.ops[draft.at[at]] = op._replace(guards=op.guards + tuple(guards))

    def _token(self, draft: _Draft, batch: Batch, token: str) -> None:
        body: dict[str, Value] = {"hash": fingerprint(batch)}
        expires = draft.now_us // 1_000_000 + int(TOKENS_KEPT.total_seconds())
        at = token_address(draft.tenant, token)
        record: Record = {"scope": at.key[0], "name": at.key[1], "body": body, "expires": expires}
        draft.write(Put(at, record, (Guard(ABSENT, Origin(-1, "token")),)), "token", 150)


def bind_tenant(declared: Declared, entity: Entity, tenant: str | None) -> Entity:
    assert declared.tenant is not None
    if getattr(entity, declared.tenant.name) != tenant:
        raise TenantMismatch(
            f"This {declared.name} belongs to another tenant than the store.",
            hint="Use store.for_tenant(…) with its tenant.",
            entity=declared.name,
        )
    return entity


def _values_set(declared: Declared, changes: Sequence[Change_]) -> dict[str, Value]:
    return {change.path.name: change.to for change in changes if isinstance(change, Set) and not isinstance(change.to, OPERANDS)}


def _change_size(change: Change_) -> int:
    match change:
        case Set(path, to) if not isinstance(to, OPERANDS):
            return len(path.name) + size(to, "an update")
        case _:
            return len(change.path.name) + 8
