"""Policy, in one place: what a batch becomes before it is sent.

`premises(batch)` names the records that must be seen first; `plan(batch, seen, now)` is a pure function that expands
uniqueness (claims.py), references, tokens, cascades, history, expiry and blobs into ops with guards. A failed premise means the
world moved: the store reads again and plans again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from palaver import batch as asked
from palaver.batch import Batch, UnchangedSince, asked_at, fingerprint
from palaver.claims import reserve
from palaver.codec import EntityCodec
from palaver.declared import Declared
from palaver.draft import Draft, Held, Plan, change_size, hashed, image, job, premise, refuse_behind, release, slid, was
from palaver.entity import Entity
from palaver.errors import BatchShape, NotProvisioned, SchemaError
from palaver.expr import Exists, Not, Path
from palaver.ops import (
    MARK,
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
    Remove,
    Set,
    Table,
    Unchanged,
    Update,
    WriteSet,
    apply_update,
    is_live,
    position,
    revision_of,
)
from palaver.patching import Patcher
from palaver.query import At
from palaver.schema import Reference, Schema
from palaver.sealing import Sealer
from palaver.system import SYSTEM, blob_address, history_table, job_address, token_address
from palaver.tenants import bind_tenant, foreign, tenant_key
from palaver.values import Record, Value, check_name

E = TypeVar("E", bound=Entity)
LIMITS = Limits()
TOKENS_KEPT = timedelta(hours=24)
ABSENT, ALIVE, NOTHING = Absent(), Alive(), Unchanged(None)
NOT_TAKEN = Guard(Holds(Not(Exists(Path("body.taken")))), Origin(0, "premise"))
"""Of the job that removes an object: nobody is at it now."""
NOBODY = Cause()
CREATED = tuple((Guard(ABSENT, Origin(number, "absent")),) for number in range(LIMITS.ops))


class Ticks(Protocol):
    """Gives the instant of a write, a new one each time it is asked."""

    def now_us(self) -> int: ...


class Planner:
    """The compiled policy of one schema. Holds no state: every method is a function of its arguments."""

    def __init__(self, schema: Schema, sealer: Sealer | None = None) -> None:
        self.schema = schema
        self.codecs: dict[type[Entity], EntityCodec] = {d.entity: EntityCodec(d, schema.retention) for d in schema.entities.values()}
        self.patcher = Patcher()
        self.seals_with(sealer)
        declarations = schema.entities.values()
        self._refs = {d.name: [reference for reference in schema.references if reference.child is d] for d in declarations}
        self._cascades = {d.name: [each for each in schema.children(d) if each.ref.on_delete == "cascade"] for d in declarations}
        self._restricts = {d.name: [each for each in schema.children(d) if each.ref.on_delete == "restrict"] for d in declarations}
        # A new record of these needs nothing but its own address to be free.
        self.plain = {d.entity for d in declarations if not (self._depends(d) or d.tenant or self._refs[d.name])}
        self.behind: dict[str, str] = {}
        #: Why this program may write nothing any more, and what to do about it.
        self.refused: tuple[str, str] | None = None
        self.tables: dict[str, Table] = {d.table.name: replace(d.table, swept=schema.takes_along(d)) for d in declarations}
        self.tables[SYSTEM.name] = SYSTEM
        for declared in schema.entities.values():
            if declared.history is not None:
                table = history_table(declared)
                self.tables[table.name] = table

    def seals_with(self, sealer: Sealer | None) -> None:
        """Give the keys secret fields are sealed and opened with; without, no record with a secret is written or read."""
        self.sealer = sealer
        for codec in self.codecs.values():
            codec.sealer = sealer

    def codec(self, entity: type[Entity]) -> EntityCodec:
        codec = self.codecs.get(entity)
        if codec is None:
            self.schema.of(entity)
            raise SchemaError(f"{entity.__name__} is not in schema {self.schema.name}.", entity=entity.__name__)
        return codec

    def cascades(self, declared: Declared) -> list[Reference]:
        """Return the references whose children go with a record of this entity."""
        return self._cascades[declared.name]

    def restricts(self, declared: Declared) -> list[Reference]:
        """Return the references whose children hold back the deletion of a record of this entity."""
        return self._restricts[declared.name]

    def has_children(self, declared: Declared) -> bool:
        return bool(self._cascades[declared.name] or self._restricts[declared.name])

    def held(self, batch: Batch, tenant: str | None) -> list[Held]:
        """Return the records a batch deletes that children may hold back."""
        found = [(self.codec(op.at.entity).declared, op) for op in batch.ops if isinstance(op, asked.Delete)]
        return [Held(declared, self.address(op.at, tenant), op.when) for declared, op in found if self._restricts[declared.name]]

    def deleted(self, batch: Batch, tenant: str | None) -> set[Address]:
        """Return every record a batch deletes."""
        return {self.address(op.at, tenant) for op in batch.ops if isinstance(op, asked.Delete)}

    def address(self, target: At[Any], tenant: str | None) -> Address:
        """Return the stored address; the tenant comes first."""
        declared = self.codec(target.entity).declared
        if target.tenant is not None and target.tenant != tenant:
            raise foreign(declared)
        return Address(declared.table.name, tenant_key(declared, tenant) + target.key)

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
                return self._depends(declared)
            case asked.Patch(at):
                codec = self.codec(at.entity)
                return self.patcher.needs_old(codec.declared, codec.rule, op)
            case asked.Delete(at):
                declared = self.codec(at.entity).declared
                return self._depends(declared)
            case asked.Check():
                return False

    def _depends(self, declared: Declared) -> bool:
        """Say whether writing a whole record, or deleting it, takes knowing what is stored."""
        return bool(declared.uniques or declared.blobs or declared.history or self.has_children(declared))

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
        closed: Collection[Address] = (),
    ) -> Plan:
        """Return what the batch becomes at this instant, given what was seen.

        `closed` are records this batch deletes that the store has marked already, so that no child can join them.

        Raises Validation (a value, a key, a size), BatchShape (two writes to one record, over 100 ops or 4 MB after
        expansion), TenantMismatch.
        """
        self.refuse()
        if self.behind:
            refuse_behind(self.behind, batch)
        draft = Draft(now_us, tenant, seen, closed)
        expanded = [self._expand(draft, number, op) for number, op in enumerate(batch.ops)]
        # What a token says may be about people, and the feed is nobody's record: what is written carries only its digest.
        remembered = None if token is None else self._token(draft, batch, token)
        for key, _ in draft.uploads:
            # Whoever removes released objects takes the job first; then this write has to upload the object once more.
            draft.checks.setdefault(blob_address(key), []).append(NOT_TAKEN)
        draft.merge_checks()
        if len(draft.ops) * 2 > LIMITS.ops and (count := draft.count(self.tables)) > LIMITS.ops:
            raise BatchShape(
                f"The batch expands to {count} ops, a deletion that the feed shows counted as two; the most is {LIMITS.ops}.",
                hint="Split it, or use bulk where all-or-nothing is not needed.",
            )
        if draft.size > LIMITS.bytes and (exact := draft.exact_size()) > LIMITS.bytes:
            raise BatchShape(f"The batch would write {exact:,} bytes; the most is {LIMITS.bytes:,}.", hint="Split it.")
        writes = WriteSet(draft.ops, now_us, Cause(actor, remembered))
        main, made = zip(*expanded, strict=True) if expanded else ((), ())
        return Plan(writes, tuple(draft.uploads), made, main, draft.jobs)

    def creates(self, entities: Sequence[E], clock: Ticks, actor: str | None) -> tuple[WriteSet, list[E]] | None:
        """Return what `plan` makes of new records of `plain` entities, in a fraction of the time; None for any others."""
        plain, codecs = self.plain, self.codecs
        for entity in entities:
            if type(entity) not in plain:
                return None
        if len(entities) > LIMITS.ops:
            return None
        now_us, size = clock.now_us(), 0
        ops: list[Op] = []
        made: list[E] = []
        for entity, guards in zip(entities, CREATED, strict=False):
            codec = codecs[type(entity)]
            record, bound, _ = codec.encode(entity, now_us, None)
            size += bound
            ops.append(Put(Address(codec.table, codec.key_of(record)), record, guards))
            made.append(codec.filled(entity, record) if codec.rule is not None else entity)
        if size > LIMITS.bytes or (len(ops) > 1 and len({op.at for op in ops}) < len(ops)):
            return None
        return WriteSet(ops, now_us, NOBODY if actor is None else Cause(actor)), made

    def _expand(self, draft: Draft, number: int, op: asked.Asked) -> tuple[int | None, Entity | None]:
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

    def _store(self, draft: Draft, number: int, entity: Entity, *, create: bool, when: asked.When) -> tuple[int, Entity]:
        codec = self.codec(type(entity))
        declared = codec.declared
        if declared.tenant is not None:
            bind_tenant(declared, entity, draft.tenant)
        encoded = codec.encode(entity, draft.now_us, draft.tenant)
        record = encoded.record
        at = Address(declared.table.name, position(declared.table, None, record))
        old = None if create else draft.seen.get(at)
        guards = [] if create or at not in draft.seen else [premise(number, old)]
        fresh = create or not is_live(declared.table, old, draft.now_us)
        codec.check_held(record, encoded.uploads, None if fresh else old)
        if fresh:
            guards += self._absent(declared, number, old, create=create)
        if when is not None:
            guards += self._when(declared, number, when)
        released = codec.released(old, record)
        index = draft.write(Put(at, record, tuple(guards), released), declared.name, encoded.size)
        draft.uploads.extend(encoded.uploads)
        self._around(draft, number, declared, at, old, record, "created" if fresh else "updated")
        return index, codec.filled(entity, record)

    def _absent(self, declared: Declared, number: int, old: Record | None, *, create: bool) -> list[Guard]:
        """Return what a new record demands of its address: no live record, and none whose children are still there."""
        origin = Origin(number, "absent")
        if self.cascades(declared):
            return [Guard(NOTHING, origin)]
        return [Guard(ABSENT, origin)] if create or (old is not None and old.get(MARK) is not None) else []

    def refuse(self) -> None:
        """Raise NotProvisioned where the data has become another program's."""
        if self.refused is not None:
            raise NotProvisioned(self.refused[0], hint=self.refused[1])

    def _patch(self, draft: Draft, number: int, op: asked.Patch) -> int:
        codec = self.codec(op.at.entity)
        declared = codec.declared
        at = self.address(op.at, draft.tenant)
        guards = [Guard(ALIVE, Origin(number, "alive"))]
        if op.when is not None:
            guards += self._when(declared, number, op.when)
        if at not in draft.seen:
            changes = [*slid(codec, self._changes(codec, at, op), draft.now_us), *(self.patcher.shadows(declared, op) or ())]
            return draft.write(Update(at, tuple(changes), tuple(guards)), declared.name, sum(map(change_size, changes)))
        old = draft.seen[at]
        if old is None or not is_live(declared.table, old, draft.now_us):
            # The premise first: a record made since it was read is to be patched, not refused.
            return draft.write(Update(at, (), (premise(number, old), *guards)), declared.name)
        guards.append(premise(number, old))
        encoded = codec.encode(self._patched(codec, at, op, old), draft.now_us, draft.tenant)
        unknown = {name: value for name, value in old.items() if name not in declared.by_stored and not name.startswith("_")}
        record = {**unknown, **encoded.record}
        codec.check_held(record, encoded.uploads, old)
        draft.uploads.extend(encoded.uploads)
        index = draft.write(Put(at, record, tuple(guards), codec.released(old, record)), declared.name, encoded.size)
        self._around(draft, number, declared, at, old, record, "updated", patched=True)
        return index

    def _changes(self, codec: EntityCodec, at: Address, op: asked.Patch) -> list[Change_]:
        """Return the stored changes of a patch, its secrets sealed."""
        changes = self.patcher.changes(codec.declared, op)
        return codec.sealed_changes(changes, at.key) if codec.declared.secrets else changes

    def _patched(self, codec: EntityCodec, at: Address, op: asked.Patch, old: Record) -> Entity:
        """Return the instance after a patch; its expiry is unset where it is to be computed anew."""
        declared = codec.declared
        blobs, plain = self.patcher.split(declared, op)
        changes = self._changes(codec, at, plain) if plain is not None else []
        after = apply_update(declared.table, old, changes)
        expires = declared.expires.stored if declared.expires else ""
        source = declared.fields[codec.rule.of].stored if codec.rule and codec.rule.after and codec.rule.of else ""
        if after.get(source) != old.get(source) and not any(change.path.name == expires for change in changes):
            after.pop(expires, None)
        self.patcher.recheck(declared, op, after)
        entity: Entity = codec.decode_sealed(after)
        entity.__dict__.update(blobs)
        return entity

    def _delete(self, draft: Draft, number: int, target: At[Any], when: asked.When) -> int:
        codec = self.codec(target.entity)
        declared = codec.declared
        at = self.address(target, draft.tenant)
        closed = at in draft.closed
        guards = [] if when is None or closed else self._when(declared, number, when)
        if at not in draft.seen:
            return draft.write(Delete(at, tuple(guards)), declared.name)
        old = draft.seen[at]
        guards.append(premise(number, old))
        if self.restricts(declared) and not closed and is_live(declared.table, old, draft.now_us):
            # Nobody has looked for children: only a condition may decide, and otherwise the store begins anew.
            guards.append(Guard(NOTHING, Origin(number, "premise")))
        if old is None or (old.get(MARK) is not None and not closed):
            return draft.write(Check(at, tuple(guards)), declared.name)
        if closed:
            old, before = {name: value for name, value in old.items() if name != MARK}, old[MARK]
            if not was(declared, old, before, when):
                guards.append(Guard(NOTHING, Origin(number, "when")))
        if self.cascades(declared):
            return self._mark(draft, number, declared, at, old, guards, expired=False)
        index = draft.write(Delete(at, tuple(guards), codec.references(old)), declared.name)
        self._around(draft, number, declared, at, old, None, "deleted")
        if closed:
            draft.write(Delete(job_address(at)), "job")
        return index

    def expire(self, declared: Declared, at: Address, old: Record, now_us: int, *, expired: bool = True) -> Plan:
        """Return the plan that removes one record behind the writes: itself, or by mark and job where it has children."""
        draft = Draft(now_us, self._tenant_of(declared, at), {at: old})
        if self.cascades(declared):
            self._mark(draft, 0, declared, at, old, [premise(0, old)], expired=expired, counted=True)
        else:
            self._gone(draft, declared, at, old, expired, revision_of(old))
        return Plan(WriteSet(draft.ops, now_us, Cause("sweep" if expired else "cascade")), (), (None,), (0,), draft.jobs)

    def remove_marked(self, declared: Declared, at: Address, old: Record, now_us: int, *, expired: bool, written_us: int) -> Plan:
        """Return the plan that removes a marked record whose children are gone."""
        draft = Draft(now_us, self._tenant_of(declared, at), {at: old})
        self._gone(draft, declared, at, old, expired, written_us)
        draft.write(Delete(job_address(at)), "job")
        return Plan(WriteSet(draft.ops, now_us, Cause("cascade")), (), (None,), (0,))

    def close(self, at: Address, old: Record, now_us: int, until_ms: int) -> WriteSet:
        """Return the writes that hide a record for a moment, so that no child can join while its children are looked for.

        The mark is the revision it had: a condition on the deletion is about that one.
        The job opens it again should nobody be left to decide.
        """
        mark = Update(at, (Set(Path(MARK), revision_of(old)),), (premise(0, old),))
        return WriteSet((mark, Put(job_address(at), job(at, until_ms, reopen=True))), now_us, Cause("delete"))

    def reopen(self, at: Address, old: Record, now_us: int) -> WriteSet:
        """Return the writes that undo `close`."""
        return WriteSet((Update(at, (Remove(Path(MARK)),), (premise(0, old),)), Delete(job_address(at))), now_us, Cause("delete"))

    def _gone(self, draft: Draft, declared: Declared, at: Address, old: Record, expired: bool, written_us: int) -> None:
        released = dict.fromkeys(self.codec(declared.entity).references(old))
        for blob, keep in self.codec(declared.entity).kept(old) if expired else ():
            due = written_us + keep // timedelta(microseconds=1)
            if due > draft.now_us and blob in released:
                del released[blob]
                draft.write(release(blob, at, due // 1000)._replace(guards=(NOT_TAKEN,)), "object", 300)
        draft.write(Delete(at, (premise(0, old),), tuple(released), expired), declared.name)
        self._around(draft, 0, declared, at, old, None, "expired" if expired else "deleted")

    def _mark(self, draft: Draft, number: int, declared: Declared, at: Address, old: Record, guards: list[Guard], **what: bool) -> int:
        index = draft.write(Update(at, (Set(Path(MARK), draft.now_us),), tuple(guards)), declared.name)
        for unique in declared.uniques.values():
            reserve(draft, number, declared, unique, at, old, None)
        draft.write(Put(job_address(at), job(at, 0, written=revision_of(old), **what)), "job", 200)
        draft.jobs = True
        return index

    def _tenant_of(self, declared: Declared, at: Address) -> str | None:
        return str(at.key[0]) if declared.tenant is not None else None

    def _check(self, draft: Draft, number: int, target: At[Any], when: asked.When) -> None:
        declared = self.codec(target.entity).declared
        at = self.address(target, draft.tenant)
        guards = draft.checks.setdefault(at, [])
        guards.append(Guard(ALIVE, Origin(number, "alive")))
        if when is not None:
            guards += self._when(declared, number, when)

    def _when(self, declared: Declared, number: int, when: asked.When) -> list[Guard]:
        origin = Origin(number, "when")
        if isinstance(when, UnchangedSince):
            # Its revision alone would let an expired record, which exists for no verb, be written.
            return [Guard(Unchanged(when.revision), origin), Guard(ALIVE, origin)]
        assert when is not None
        return [Guard(Holds(declared.entity.bind(when)), origin)]

    # --- what a write brings with it --------------------------------------------------------------------------------

    def _around(
        self,
        draft: Draft,
        number: int,
        declared: Declared,
        at: Address,
        old: Record | None,
        new: Record | None,
        kind: str,
        *,
        patched: bool = False,
    ) -> None:
        """Add reservations, reference checks and history to one write."""
        for unique in declared.uniques.values():
            reserve(draft, number, declared, unique, at, old, new)
        if new is not None:
            self._reference_checks(draft, number, declared, new, old if patched else None)
        if declared.history is not None:
            image(draft, declared, at, old, new, kind)

    def _reference_checks(
        self, draft: Draft, number: int, declared: Declared, record: Mapping[str, Value], old: Mapping[str, Value] | None
    ) -> None:
        """Demand the parents of a record; of a patched one only those it did not have before."""
        for reference in self._refs[declared.name]:
            stored = [declared.fields[name].stored for name in reference.ref.fields]
            key: Any = tuple(record.get(name) for name in stored)
            if None in key or (old is not None and key == tuple(old.get(name) for name in stored)):
                continue
            at = Address(reference.parent.table.name, tenant_key(reference.parent, draft.tenant) + key)
            draft.checks.setdefault(at, []).append(Guard(ALIVE, Origin(number, f"ref:{reference.ref.name}")))

    def _token(self, draft: Draft, batch: Batch, token: str) -> str:
        """Have the write remember its token; return the digest it is remembered under."""
        check_name(token, "The token")
        body = self._hashed(batch)
        expires = draft.now_us // 1_000_000 + int(TOKENS_KEPT.total_seconds())
        at = token_address(draft.tenant if self.schema.tenanted else None, token)
        record: Record = {"scope": at.key[0], "name": at.key[1], "body": body, "expires": expires}
        draft.write(Put(at, record, (Guard(ABSENT, Origin(-1, "token")),)), "token", 150)
        return str(at.key[1])

    def repeats(self, batch: Batch, remembered: Mapping[str, Any]) -> bool:
        """Say whether a batch is the request that was remembered. Raises Unsealable where the key of its hash is gone."""
        return bool(self._hashed(batch, remembered.get("key"))["hash"] == remembered["hash"])

    def _hashed(self, batch: Batch, key: str | None = None) -> dict[str, Value]:
        secret = any(self.codec(asked_at(op).entity).declared.secrets for op in batch.ops)
        return hashed(batch, self.sealer, key) if secret else {"hash": fingerprint(batch)}
