"""A plan and how it is put together: one write per record, checks kept apart, sizes added up."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from palaver import batch as asked
from palaver.batch import Batch, UnchangedSince, When, asked_at, fingerprinted
from palaver.codec import EntityCodec, expiry_seconds
from palaver.declared import Declared
from palaver.entity import Entity
from palaver.errors import BatchShape, ConfigError, NotProvisioned
from palaver.expr import OPERANDS, IfAbsent, Path, evaluate
from palaver.large_object import LargeObject
from palaver.ops import (
    MARK,
    REVISION,
    Address,
    Change_,
    Check,
    Delete,
    Guard,
    Op,
    Origin,
    Put,
    Set,
    Table,
    Unchanged,
    Update,
    WriteSet,
    next_revision,
    revision_of,
)
from palaver.sealing import VARIABLE, Sealer
from palaver.system import blob_address, history_address, job_address, key_text, plain_key
from palaver.values import MAX_ENTRY, MAX_PARTITION, Record, Value, key_part_size, record_size, size


@dataclass(slots=True)
class Plan:
    """What a batch becomes: objects to upload first, one write set, and what each asked op made."""

    writes: WriteSet
    uploads: tuple[tuple[str, bytes | LargeObject], ...]
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
    uploads: list[tuple[str, bytes | LargeObject]] = field(default_factory=list)
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

    def claim(self, op: Put | Delete, what: str) -> None:
        """Add a claim that is taken or given up; what one record of the batch gives up another may take, in whatever order."""
        there = self.at.get(op.at)
        other = self.ops[there] if there is not None else None
        if there is None or type(other) is type(op):
            self.write(op, what, 200 if isinstance(op, Put) else 0)
            return
        taken = op if isinstance(op, Put) else other
        assert isinstance(taken, Put)
        # Held by the record that gives it up, which has to be as it was seen.
        self.ops[there] = taken._replace(guards=())

    def count(self, tables: Mapping[str, Table]) -> int:
        """Return how many ops count against the limit: DynamoDB tells the feed about a deletion by a second write."""
        return len(self.ops) + sum(isinstance(op, Delete) and tables[op.at.table].feed for op in self.ops)

    def exact_size(self) -> int:
        """Return the metered bytes of everything written; `size` bounds it from above."""
        total = 0
        for op in self.ops:
            if isinstance(op, Put):
                total += record_size(op.record, op.at.table)
            elif isinstance(op, Update):
                total += sum(map(change_size, op.changes))
        return total

    def merge_checks(self) -> None:
        """Make a reference check on a record the batch also writes part of that write, and Check ops of the rest."""
        for at, guards in self.checks.items():
            if at not in self.at:
                self.write(Check(at, tuple(guards)), "check")
                continue
            if any(not guard.origin.role.startswith("ref:") for guard in guards):
                raise BatchShape("A batch checks a record that it also writes.", hint="Give the write the condition: when=.")
            op = self.ops[self.at[at]]
            if isinstance(op, Delete) or (isinstance(op, Update) and any(change.path.name == MARK for change in op.changes)):
                raise BatchShape("A batch deletes a record that another op of it refers to.", hint="Leave one of them out.")
            # After a put the record exists, whether or not it did before.
            if not isinstance(op, Put):
                self.ops[self.at[at]] = op._replace(guards=op.guards + tuple(guards))


def image(draft: Draft, declared: Declared, at: Address, old: Record | None, new: Record | None, kind: str) -> None:
    """Add the image that an entity with `History` keeps of one write."""
    assert declared.history is not None
    revision = next_revision(old, draft.now_us)
    subject = declared.subject.stored if declared.subject else None
    of = key_text(at.key)
    key_part_size(of, f"The key of a {declared.name}, of which images are kept,", MAX_PARTITION)
    record: Record = {
        "record_key": of,
        "revision": revision,
        "kind": kind,
        "expires": (draft.now_us + declared.history // timedelta(microseconds=1)) // 1_000_000 + 1,
    }
    if new is not None:
        record["image"] = {name: value for name, value in new.items() if name not in (REVISION, MARK)}
    whose = (new or old or {}).get(subject) if subject else None
    if whose is not None:
        key_part_size(whose, f"The subject of a {declared.name}, of which images are kept,", MAX_ENTRY - len(of.encode()) - 8)
        record["subject"] = whose
    draft.write(Put(history_address(declared, at, revision), record), "image", record_size(record, declared.name))


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


def refuse_behind(behind: Mapping[str, str], batch: Batch) -> None:
    """Refuse what would drop or contradict what a newer program stores: only it knows the whole record."""
    for op in batch.ops:
        entity = asked_at(op).entity.__name__
        allowed = behind.get(entity)
        if allowed is None or isinstance(op, asked.Check) or (allowed == "patch" and isinstance(op, asked.Patch | asked.Delete)):
            continue
        raise behind_error(entity, allowed)


def behind_error(entity: str, allowed: str) -> NotProvisioned:
    """Return the error for writing what a newer program stores more of; `allowed` is what may be done with it, patch or read."""
    return NotProvisioned(
        f"A newer program stores more of {entity} than this one knows.",
        hint="Update the program; until then it may " + ("patch and delete its records." if allowed == "patch" else "read its records."),
        entity=entity,
    )


def slid(codec: EntityCodec, changes: Sequence[Change_], now_us: int) -> list[Change_]:
    """Move the expiry along with the field it counts from, unless the caller set it. Raises Validation for one nobody means."""
    moved = _slid(codec, changes)
    if codec.declared.expires is not None:
        for change in moved:
            to = change.to if isinstance(change, Set) and change.path.name == codec.declared.expires.stored else None
            seconds = to.default if isinstance(to, IfAbsent) else to
            if isinstance(seconds, int):
                codec.check_expiry(seconds, now_us)
    return moved


def _slid(codec: EntityCodec, changes: Sequence[Change_]) -> list[Change_]:
    declared, rule, out = codec.declared, codec.rule, list(changes)
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


def hashed(batch: Batch, sealer: Sealer | None, key: str | None = None) -> dict[str, Value]:
    """Return what is remembered of a request that may hold secrets: its hash under a key, so that nobody can try values against it."""
    if sealer is None:
        raise ConfigError("There is no key to seal with.", hint=f"Set {VARIABLE}; `palaver keys new` makes a key.")
    digest, by = sealer.fingerprint(fingerprinted(batch), key)
    return {"hash": digest, "key": by}
