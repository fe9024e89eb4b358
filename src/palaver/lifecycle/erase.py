"""Erase a person: every record, image, object, search document and claim, and what archives hold, with a count of each.

What goes with the person's records goes too: records of others that cascade from them (an answer has no place without
its conversation), because nothing else would hold them. Records that restrict deletion and belong to others stay, and
the person's record they need is masked instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from palaver.batch import Batch
from palaver.blobpath import subject_prefix
from palaver.claims import claim_of
from palaver.clock import to_us
from palaver.codec import blob_ref
from palaver.declared import Declared
from palaver.errors import ConditionFailed, Conflict, ReferenceBroken, Validation
from palaver.lifecycle.archive import Archive
from palaver.lifecycle.ledger import ERASE, Erasure, Ledger
from palaver.lifecycle.personal import (
    Mask,
    Mention,
    Policy,
    address_of,
    children_first,
    children_of,
    mask_of,
    position_of,
    records_of,
    tenant_of,
    through,
)
from palaver.ops import MARK, REVISION, Address, Delete, Read, WriteSet, is_live
from palaver.ports import KeepsDeleted, Scrubs
from palaver.query import At
from palaver.searching import document_id
from palaver.store import Store
from palaver.system import HISTORY, SYSTEM, key_text, system
from palaver.values import KeyPart, Record

ROUNDS = 5
TOGETHER = 50
SCRUB_ATTEMPTS = 100
EVERYTHING = Policy()


@runtime_checkable
class Forgets(Protocol):
    """A projection with rows about persons of its own."""

    async def forget(self, tenant: str | None, subject: str, *, dry_run: bool) -> int:
        """Remove what is about a person; return how many rows, or how many there are."""
        ...


@dataclass
class Erased:
    """What was removed of one person, or with `dry_run` would be: a count per entity and per store."""

    deleted: dict[str, int] = field(default_factory=dict)
    masked: dict[str, int] = field(default_factory=dict)
    cascaded: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    objects: int = 0
    documents: int = 0
    claims: int = 0
    archived: int = 0

    def __add__(self, other: Erased) -> Erased:
        out = Erased()
        for name, value in asdict(self).items():
            theirs = getattr(other, name)
            if isinstance(value, int):
                setattr(out, name, value + theirs)
            else:
                setattr(out, name, {key: value.get(key, 0) + theirs.get(key, 0) for key in {**value, **theirs}})
        return out

    @property
    def total(self) -> int:
        return sum(value if isinstance(value, int) else sum(value.values()) for value in asdict(self).values())


async def erase(
    store: Store,
    subject: str,
    *,
    policy: Policy = EVERYTHING,
    archive: Archive | None = None,
    dry_run: bool = False,
    before_us: int | None = None,
    scrub: bool = True,
    timeout: float = 60.0,
) -> Erased:
    """Remove what is about a person, in every store, and return the counts; asked again, it finds nothing.

    Cut off, it is finished by asking again. `before_us` spares records written at or after that instant. `archive` is
    where archives of this store lie (default: beside its objects). With `scrub`, no deleted byte is left in a SQLite
    file when this returns; what other engines keep, `remaining` says. An entry in the ledger, without the person's
    name, lets `repurge` do it again to a restored backup. Raises Conflict where other processes keep writing the
    person's records, SettleTimeout where a projection does not follow.
    """
    if not subject:
        raise Validation("Nobody is named to be erased.", hint="A subject is a text that is not empty.")
    found = await _erased(_Run(store, subject, policy, archive or Archive(store), before_us), dry_run, timeout)
    if scrub and not dry_run:
        await scrubbed(store)
    return found


async def erase_stored(store: Store, subject: str, *, policy: Policy, dry_run: bool = False, timeout: float = 60.0) -> Erased:
    """Do what `erase` does but for archives and deleted bytes, which a caller that erases many does once for all of them."""
    return await _erased(_Run(store, subject, policy, None, None), dry_run, timeout)


async def _erased(run: _Run, dry_run: bool, timeout: float) -> Erased:
    found = await run.survey(archived=dry_run)
    if not dry_run:
        ledger = Ledger(run.store)
        kind: Literal["erase", "purge"] = "erase" if run.policy.otherwise == "delete" and not run.policy.actions else "purge"
        entry = await ledger.begin(run.subject, kind)
        found.archived = await run.act(timeout)
        await ledger.end(entry, asdict(found))
    return found


async def repurge(store: Store, entries: Iterable[Erasure], *, policy: Policy = EVERYTHING, archive: Archive | None = None) -> Erased:
    """Erase again whom a ledger names, as after restoring a backup; what they wrote after their erasure stays.

    `policy` is for entries of kind "purge". Reads every table with a subject once: the ledger has no names.
    """
    wanted: dict[str, list[Erasure]] = {}
    for entry in entries:
        wanted.setdefault(entry.who, []).append(entry)
    found: dict[str, list[Erasure]] = {}
    ledger = Ledger(store)
    for declared in store.schema.entities.values():
        if declared.subject is not None:
            async for subject in _subjects(store, declared):
                if ledger.who(subject) in wanted:
                    found[subject] = wanted[ledger.who(subject)]
    total = Erased()
    for subject, named in found.items():
        for entry in named:
            chosen = EVERYTHING if entry.kind == "erase" else policy
            total += await erase(store, subject, policy=chosen, archive=archive, before_us=entry.at_us, scrub=False)
    await scrubbed(store)
    return total


async def scrubbed(store: Store) -> None:
    """Leave no deleted byte in the files of the records and of the search, where their engines can promise that."""
    for engine in (store.core.records, store.core.search):
        if isinstance(engine, Scrubs):
            await _scrub(engine)


def remaining(store: Store) -> list[str]:
    """Return what each engine still holds of what was deleted, until when, and what ends it sooner; nothing where nothing stays."""
    core = store.core
    said = [engine.deleted_stays() for engine in (core.records, core.blobs) if isinstance(engine, KeepsDeleted)]
    return [each for each in said if each]


async def _scrub(engine: Scrubs) -> None:
    for _ in range(SCRUB_ATTEMPTS - 1):
        try:
            return await engine.scrub()
        except Conflict:
            await asyncio.sleep(0.05)  # a reader is in the middle of a page; none stays there for long
    await engine.scrub()


async def _subjects(store: Store, declared: Declared) -> AsyncIterator[str]:
    spec, tenant = declared.subject, tenant_of(store, declared)
    assert spec is not None
    after: tuple[KeyPart, ...] | None = None
    while True:
        page = await store.core.records.scan(declared.table.name, after=after, limit=500)
        for record in page.records:
            value: Any = record.get(spec.stored)
            if value is not None and position_of(declared, record)[: len(tenant)] == tenant:
                yield str(value if spec.kind.decode is None else spec.kind.decode(value))
        if page.last is None:
            return
        after = page.last


class _Run:
    """One erasure: first everything is counted, then removed, then looked for again."""

    def __init__(self, store: Store, subject: str, policy: Policy, archive: Archive | None, before_us: int | None) -> None:
        self.store, self.subject, self.policy = store, subject, policy
        self._store, self._core, self._records = store, store.core, store.core.records
        self._planner, self._schema = store.core.planner, store.schema
        self._subject, self._policy, self._archive = subject, policy, archive
        self._before_us = before_us
        self._entities = [declared for declared in children_first(store.schema) if declared.subject is not None]
        self._masks = {d.name: mask_of(d) for d in self._entities if policy.of(d) == "mask" or self._planner.restricts(d)}
        self._mentions = [(store.schema.of(mention.entity), mention) for mention in policy.mentions]
        self._mention_masks = [mask_of(declared, mention.mask) for declared, mention in self._mentions]
        self._prefix = subject_prefix(store.tenant if store.schema.tenanted else None, subject)

    # --- what is to be done -----------------------------------------------------------------------------------------

    def _spared(self, record: Record) -> bool:
        revision: Any = record[REVISION]
        return self._before_us is not None and revision >= self._before_us

    def _is_mine(self, declared: Declared, record: Record) -> bool:
        if declared.subject is None or (tenant := tenant_of(self._store, declared)) != position_of(declared, record)[: len(tenant)]:
            return False
        value: Any = record.get(declared.subject.stored)
        return value is not None and self._subject == str(
            value if declared.subject.kind.decode is None else declared.subject.kind.decode(value)
        )

    def _is_deleted(self, declared: Declared, record: Record) -> bool:
        return self._is_mine(declared, record) and self._policy.of(declared) == "delete" and not self._spared(record)

    def _needs_mask(self, declared: Declared, record: Record, mask: Mask) -> bool:
        if record.get(MARK) is not None or self._spared(record):
            return False
        return mask.applies(self._planner.codec(declared.entity).decode_sealed(record))

    async def _held(self, declared: Declared, record: Record) -> bool:
        """Say whether records of others keep this one from being deleted."""
        for reference in self._planner.restricts(declared):
            async for page in children_of(self._store, reference, position_of(declared, record)):
                if any(not self._is_deleted(reference.child, child) for child in page):
                    return True
        return False

    # --- counting ---------------------------------------------------------------------------------------------------

    async def survey(self, *, archived: bool) -> Erased:
        """Count everything that would go, in archives too where asked: removing counts there by itself."""
        out = Erased()
        kept: set[str] = set()
        outside: set[str] = set()
        visited: set[Address] = set()
        for declared in self._entities:
            async for page in records_of(self._store, declared, self._subject):
                for record in page:
                    if record.get(MARK) is not None:
                        continue  # it is on its way out already
                    await self._survey_one(out, declared, record, kept, outside, visited)
        for (declared, mention), mask in zip(self._mentions, self._mention_masks, strict=True):
            async for record in self._mentioned(declared, mention):
                if self._needs_mask(declared, record, mask):
                    _count(out.masked, declared)
        for declared in self._entities:
            if declared.history is not None and self._policy.of(declared) != "keep" and (images := await self._images(declared)):
                out.images[declared.name] = len(images)
        async for info in self._core.blobs.list(self._prefix):
            out.objects += info.key not in kept
        out.objects += len(outside)
        if archived and self._archive is not None:
            out.archived = await self._archive.count([self._subject], self._policy, before_us=self._before_us)
        for projection in self._core.projections:
            if isinstance(projection, Forgets):
                out.rows[projection.name] = await projection.forget(self._store.tenant, self._subject, dry_run=True)
        return out

    async def _survey_one(
        self, out: Erased, declared: Declared, record: Record, kept: set[str], outside: set[str], visited: set[Address]
    ) -> None:
        codec = self._planner.codec(declared.entity)
        if self._is_deleted(declared, record) and not await self._held(declared, record):
            _count(out.deleted, declared)
            out.documents += len(self._indexes(declared))
            out.claims += sum(claim_of(declared, unique, record, self._tenant) is not None for unique in declared.uniques.values())
            await self._survey_children(out, declared, record, outside, visited)
            return
        mask = self._masks.get(declared.name)
        cleared: set[str] = set()
        if mask is not None and not self._spared(record):
            cleared = {spec.stored for spec in mask.fields}
            if self._needs_mask(declared, record, mask):
                _count(out.held if self._policy.of(declared) == "delete" else out.masked, declared)
        held = [(spec.stored, blob_ref(record.get(spec.stored))) for spec in codec.declared.blobs]
        kept.update(ref.key for stored, ref in held if ref is not None and stored not in cleared)

    async def _survey_children(self, out: Erased, declared: Declared, record: Record, outside: set[str], visited: set[Address]) -> None:
        for reference in self._planner.cascades(declared):
            child = reference.child
            async for page in children_of(self._store, reference, position_of(declared, record)):
                for found in page:
                    at = address_of(child, found)
                    if at in visited or found.get(MARK) is not None or self._is_deleted(child, found):
                        continue
                    visited.add(at)
                    _count(out.cascaded, child)
                    outside.update(key for key in self._planner.codec(child.entity).references(found) if not key.startswith(self._prefix))
                    await self._survey_children(out, child, found, outside, visited)

    @property
    def _tenant(self) -> str | None:
        return self._store.tenant

    def _indexes(self, declared: Declared) -> list[str]:
        return [search.name for search in self._schema.searches.values() if any(source.declared is declared for source in search.sources)]

    async def _mentioned(self, declared: Declared, mention: Mention) -> AsyncIterator[Record]:
        async for page in through(self._store, declared, declared.access[mention.index], self._subject):
            for record in page:
                if not self._is_deleted(declared, record):
                    yield record

    async def _images(self, declared: Declared) -> list[Address]:
        """Return where a person's images of earlier versions lie."""
        assert declared.subject is not None
        spec = declared.subject
        value: Any = self._subject if spec.kind.encode is None else spec.kind.encode(self._subject)
        tenant, table = tenant_of(self._store, declared), f"{declared.table.name}{HISTORY}"
        out: list[Address] = []
        after: tuple[KeyPart, ...] | None = None
        while True:
            page = await self._records.query(Read(table, "by_subject", (value,), limit=500, after=after, consistent=False))
            for record in page.records:
                key, revision = str(record["record_key"]), record["revision"]
                spared = self._before_us is not None and revision >= self._before_us  # type: ignore[operator]
                if key.startswith(key_text(tenant)) and not spared:
                    out.append(Address(table, (key, revision)))  # type: ignore[arg-type]
            if page.last is None:
                return out
            after = page.last

    # --- removing ---------------------------------------------------------------------------------------------------

    async def act(self, timeout: float) -> int:
        """Remove everything; return how many archived records were removed or masked."""
        for _ in range(ROUNDS):
            # Indexes may lag and others may write: it is over when a whole round finds nothing.
            moved = 0
            for declared in self._entities:
                moved += await self._remove(declared)
            for (declared, mention), mask in zip(self._mentions, self._mention_masks, strict=True):
                found = [record async for record in self._mentioned(declared, mention)]
                moved += await self._mask_all(declared, found, mask)
            await self._store.core_upkeep().cascade()
            if not moved:
                break
        else:
            raise Conflict("Others keep writing what is being erased.", hint="Stop the person's sessions, then erase again.")
        await self._store.settle(timeout)
        if self._core.follower is not None:
            # What is kept of the person in caches goes as well.
            await self._core.follower.caught_up(timeout)
        for declared in self._entities:
            if declared.history is not None and self._policy.of(declared) != "keep":
                images = await self._images(declared)
                for start in range(0, len(images), 100):
                    await self._write([Delete(at) for at in images[start : start + 100]])
        await self._remove_objects()
        archived = 0
        if self._archive is not None:
            archived = await self._archive.rewrite([self._subject], self._policy, before_us=self._before_us)
        for projection in self._core.projections:
            if isinstance(projection, Forgets):
                await projection.forget(self._tenant, self._subject, dry_run=False)
        return archived

    async def _write(self, ops: list[Any]) -> None:
        await self._records.write(WriteSet(ops, self._core.now_us(), ERASE))

    async def _remove(self, declared: Declared) -> int:
        moved = 0
        async for page in records_of(self._store, declared, self._subject):
            doomed: list[Record] = []
            masked: list[Record] = []
            for record in page:
                if record.get(MARK) is not None:
                    continue
                held = await self._held(declared, record)
                (doomed if self._is_deleted(declared, record) and not held else masked).append(record)
            for start in range(0, len(doomed), TOGETHER):
                moved += sum(await asyncio.gather(*[self._delete(declared, record) for record in doomed[start : start + TOGETHER]]))
            await self._unindex(declared, doomed)
            mask = self._masks.get(declared.name)
            if mask is not None:
                moved += await self._mask_all(declared, masked, mask)
        return moved

    async def _delete(self, declared: Declared, record: Record) -> int:
        try:
            await self._store.acting_as("erase").write(Batch().delete(self._at(declared, record)))
        except ReferenceBroken:
            return 0  # a record of others came to hold it since; the next round masks it
        return 1

    async def _mask_all(self, declared: Declared, records: list[Record], mask: Mask) -> int:
        moved = 0
        for record in records:
            if not self._needs_mask(declared, record, mask):
                continue
            to, gone = mask.patch()
            try:
                if is_live(declared.table, record, to_us(self._core.clock.now())):
                    await self._store.acting_as("erase").patch(self._at(declared, record), set=to, remove=gone)
                else:
                    await self._delete(declared, record)
            except ConditionFailed:
                pass  # it expired or went while being masked; the next round sees which
            moved += 1
        return moved

    async def _unindex(self, declared: Declared, records: list[Record]) -> None:
        """Take documents out of the indexes at once; the search projection would do it when it comes to it."""
        ids = [document_id(address_of(declared, record)) for record in records]
        for index in self._indexes(declared) if ids else ():
            await self._core.search.delete(index, ids)

    async def _remove_objects(self) -> None:
        """Remove what lies under the person's prefix and no record left refers to, and the jobs that wait to do so."""
        upkeep = self._store.core_upkeep()
        await upkeep.collect()
        kept = {key async for key in self._kept()}
        doomed = [info.key async for info in self._core.blobs.list(self._prefix) if info.key not in kept]
        for start in range(0, len(doomed), 500):
            await self._core.blobs.delete(doomed[start : start + 500])
        after: tuple[KeyPart, ...] | None = None
        while True:
            page = await self._records.query(Read(SYSTEM.name, "palaver_due", ("blob",), limit=500, after=after, consistent=False))
            done = [job for job in page.records if str(job["body"]["blob"]).startswith(self._prefix)]  # type: ignore[index, call-overload]
            for start in range(0, len(done), 100):
                await self._write([Delete(system("blob", str(job["name"]))) for job in done[start : start + 100]])
            if page.last is None:
                return
            after = page.last

    async def _kept(self) -> AsyncIterator[str]:
        for declared in self._entities:
            if declared.blobs and (
                self._policy.of(declared) != "delete" or self._before_us is not None or self._planner.restricts(declared)
            ):
                async for page in records_of(self._store, declared, self._subject):
                    for record in page:
                        for key in self._planner.codec(declared.entity).references(record):
                            yield key

    def _at(self, declared: Declared, record: Record) -> At[Any]:
        key = position_of(declared, record)
        return At(declared.entity, key[1:] if declared.tenant else key)


def _count(counts: dict[str, int], declared: Declared) -> None:
    counts[declared.name] = counts.get(declared.name, 0) + 1
