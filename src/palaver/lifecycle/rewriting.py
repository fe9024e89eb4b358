"""Taking persons out of archives: the parts that hold something of theirs are written anew, the others never opened."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any, TypeAlias

from palaver.declared import Declared
from palaver.fields import stored_name
from palaver.lifecycle.archive_lock import ArchiveLock
from palaver.lifecycle.encoding import json_value
from palaver.lifecycle.parts import Archived, Manifest, Part, PartWriter, whom
from palaver.lifecycle.personal import MASKED, Mask, Policy, mask_of, owners
from palaver.store import Store

if TYPE_CHECKING:
    from palaver.lifecycle.archive import Archive

Span: TypeAlias = tuple[int | None, int | None]
"""From an instant on, and before another; None: without end."""


class Rewriter:
    """Some persons, one policy, every archive of a store made within a span of time: each part is written once for all of them."""

    def __init__(self, store: Store, archive: Archive, subjects: Collection[str], policy: Policy, span_us: Span) -> None:
        self._store, self._archive, self._policy, self._span_us = store, archive, policy, span_us
        self._subjects = frozenset(subjects)
        self._whom = frozenset(map(whom, self._subjects))
        self._lock = ArchiveLock(store)
        self._masks: dict[str, Mask] = {}
        self._mentions: dict[str, list[tuple[str, Mask]]] = {}
        for declared in store.schema.entities.values():
            if declared.subject is not None and policy.of(declared) == "mask":
                self._masks[declared.name] = mask_of(declared)
        for mention in policy.mentions:
            declared = store.schema.of(mention.entity)
            field = declared.access[mention.index].partition[0].path
            self._mentions.setdefault(declared.name, []).append((field, mask_of(declared, mention.mask)))

    async def run(self, *, dry_run: bool) -> int:
        """Return how many records were hit. Attempts come first: one that is finished meanwhile is among the archives then."""
        changed = 0
        async with self._locked(dry_run, rewriting=True):
            for day in await self._archive.days(finished=False):
                changed += await self._attempt(day, dry_run)
        for day in await self._archive.days():
            async with self._locked(dry_run):
                manifest = await self._archive.manifest(day)
                if manifest is not None and self._is_asked(manifest.made_us):
                    changed += await self._day(manifest, dry_run)
        return changed

    def _locked(self, dry_run: bool, *, rewriting: bool = False) -> AbstractAsyncContextManager[object]:
        self._lock = ArchiveLock(self._store)
        return nullcontext() if dry_run else self._lock.held(rewriting=rewriting)

    async def _attempt(self, day: date, dry_run: bool) -> int:
        """Take the persons out of an archive that is being written, or was cut off."""
        changed, left = 0, list[Part]()
        for declared in self._store.schema.entities.values():
            archived = Archived(declared.table.name, 0, self._archive.fields(declared), ())
            for part in await self._archive.attempted(day, declared):
                if self._may_hold(declared, archived, part):
                    hit, _, part = await self._part(day, archived, declared, part, dry_run, attempt=True)
                    changed += hit
                left.append(part)
        if not dry_run:
            await self._archive.keep_only(day, left, self._lock)
        return changed

    def _is_asked(self, made_us: int) -> bool:
        since, before = self._span_us
        return (since is None or made_us >= since) and (before is None or made_us < before)

    async def _day(self, manifest: Manifest, dry_run: bool) -> int:
        changed, entities = 0, {}
        for name, archived in manifest.entities.items():
            declared = self._store.schema.entities.get(name)
            parts = list(archived.parts)
            gone = 0
            for number, part in enumerate(parts):
                if declared is None or not self._may_hold(declared, archived, part):
                    continue
                hit, removed, new = await self._part(manifest.day, archived, declared, part, dry_run)
                changed += hit
                gone += removed
                parts[number] = new
            entities[name] = replace(archived, records=archived.records - gone, parts=[part for part in parts if part.records])
        if not dry_run:
            if changed:
                manifest = replace(manifest, entities=entities, generation=manifest.generation + 1)
                await self._lock.renew()
                await self._archive.save(manifest)
            # Also when nothing changed: an attempt that was cut off may have left the old parts.
            await self._archive.tidy(manifest, self._lock)
        return changed

    def _may_hold(self, declared: Declared, archived: Archived, part: Part) -> bool:
        own = declared.subject is not None and self._policy.of(declared) != "keep"
        fields = [field for field, _ in self._mentions.get(declared.name, ())] + self._owned(declared)
        if any(field not in archived.about for field in fields):
            return True  # the notes do not say; only the part does
        return bool(own or fields) and not self._whom.isdisjoint(part.whom)

    async def _part(
        self, day: date, archived: Archived, declared: Declared, part: Part, dry_run: bool, *, attempt: bool = False
    ) -> tuple[int, int, Part]:
        """Return how many records are hit, how many of them removed, and the part as it is then."""
        hit = removed = 0
        writing, still = PartWriter(), set[str]()
        for record in await self._archive.lines(part):
            after = self._changed(declared, record)
            hit += after is not record
            removed += after is None
            if after is not None:
                writing.add(after)
                still.update(map(whom, self._subjects.intersection(str(after.get(_name(declared, name))) for name in archived.about)))
        if dry_run or not hit:
            return hit, removed, part
        writing.whom = {each for each in part.whom if each in still or each not in self._whom}
        await self._lock.renew()
        if attempt:
            # Also when nothing is left in it: its note says where to go on.
            new = await self._archive.store_part(day, declared.name, part.number, writing, self._lock, after=part.after, replaces=part.key)
            return hit, removed, new
        if not writing.records:
            return hit, removed, replace(part, records=0)
        return hit, removed, await self._archive.store_part(day, declared.name, part.number, writing, self._lock)

    def _names(self, declared: Declared, record: dict[str, Any]) -> bool:
        return declared.subject is not None and str(record.get(_name(declared, declared.subject.name))) in self._subjects

    def _owned(self, declared: Declared) -> list[str]:
        """Return the fields that name whose record takes these along when the policy deletes it."""
        return [field for field, parent in owners(self._store.schema, declared) if self._policy.of(parent) == "delete"]

    def _changed(self, declared: Declared, record: dict[str, Any]) -> dict[str, Any] | None:
        """Return the record itself where nothing of the person is in it, None where it goes, else what is left of it."""
        after = record
        if any(str(record.get(_name(declared, field))) in self._subjects for field in self._owned(declared)):
            return None
        if self._names(declared, record):
            action = self._policy.of(declared)
            if action == "delete":
                return None
            if action == "mask":
                after = _masked(declared, after, self._masks[declared.name])
        for field, mask in self._mentions.get(declared.name, ()):
            if str(record.get(_name(declared, field))) in self._subjects:
                after = _masked(declared, after, mask)
        return after


def _masked(declared: Declared, record: dict[str, Any], mask: Mask) -> dict[str, Any]:
    cleared = {_name(declared, name): json_value(value) for name, value in mask.values().items()}
    left = {name: value for name, value in cleared.items() if name in record and not _is_clear(record[name], value)}
    return {**record, **left} if left else record


def _is_clear(found: Any, cleared: Any) -> bool:
    return found == cleared or (isinstance(found, str) and found.startswith(MASKED))


def _name(declared: Declared, field: str) -> str:
    return stored_name(field, declared.entity.model_fields[field])
