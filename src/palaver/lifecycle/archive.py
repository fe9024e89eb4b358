"""Daily archives: every entity as compressed JSON Lines beside the objects, with a manifest written last.

`archive/YYYY/MM/DD/<Entity>-<part>-<hash>.jsonl.gz`, each part with a note of whom it is about (as hashes), so that
erasing a person rewrites only the parts that hold something of theirs. Nothing is overwritten: a part that changes gets
another name, and a later manifest. Large values lie beside the parts, in `objects/<hash>`: a day is whole by itself, however
soon what it was made from is gone.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from datetime import date
from hashlib import sha256
from typing import Any

import orjson

from palaver.clock import check_day, to_us
from palaver.codec import BlobRef
from palaver.declared import Declared
from palaver.entity import Entity
from palaver.errors import Corruption, NotFound
from palaver.fields import stored_name
from palaver.large_object import LargeObject
from palaver.lifecycle.archive_lock import ArchiveLock
from palaver.lifecycle.encoding import json_record
from palaver.lifecycle.export import PAGE
from palaver.lifecycle.parts import FORMAT, OBJECTS, Archived, Manifest, Part, PartWriter, manifest_of, named, part_of, root, whom
from palaver.lifecycle.personal import Policy, address_of, owners, position_of, tenant_of
from palaver.lifecycle.rewriting import Rewriter
from palaver.ops import REVISION, is_live
from palaver.store import Store
from palaver.system import key_from_plain, plain_key
from palaver.values import KeyPart, Record

PART_BYTES = 16 * 1024 * 1024
READINGS = 3
"""How often a part is read while others may be erased; after that they wait."""


class Archive:
    """The archives of one store. `about` names fields beside the subject that hold a person's identifier."""

    def __init__(self, store: Store, *, about: Mapping[type[Entity], Sequence[str]] | None = None, part_bytes: int = PART_BYTES) -> None:
        self._store, self._blobs = store, store.core.blobs
        self._about = {entity.__name__: tuple(names) for entity, names in (about or {}).items()}
        self._part_bytes = part_bytes

    # --- writing ----------------------------------------------------------------------------------------------------

    async def run(self, day: date, entities: Iterable[type[Entity]] | None = None) -> Manifest:
        """Archive the live records of all entities, or of these, as of now, under a day; return the manifest.

        A day that has a manifest is not archived again. Cut off, it goes on with the part it was writing. Memory is
        bounded by one part, compressed. Secret fields are left out, and large values are copied beside the parts.
        """
        check_day(day)
        known = await self.manifest(day)
        if known is not None:
            return known
        chosen = [self._store.schema.of(entity) for entity in entities] if entities is not None else [*self._store.schema.entities.values()]
        for declared in chosen:
            await self._entity(day, declared)
        async with ArchiveLock(self._store).held() as lock:
            return await self.manifest(day) or await self._finished(day, chosen, lock)

    async def _finished(self, day: date, chosen: Iterable[Declared], lock: ArchiveLock) -> Manifest:
        """Write the manifest of what the notes say: persons may have been taken out of parts since they were written."""
        done: dict[str, Archived] = {}
        for declared in chosen:
            parts = [replace(part, after=None, replaces="") for part in await self.attempted(day, declared) if part.records]
            left_out = [spec.name for spec in declared.fields.values() if spec.secret]
            records = sum(part.records for part in parts)
            done[declared.name] = Archived(declared.table.name, records, self.fields(declared), left_out, parts)
            await lock.renew()
        schema = self._store.schema
        manifest = Manifest(day, schema.name, schema.fingerprint, to_us(self._store.clock.now()), done)
        await self.save(manifest)
        await self.tidy(manifest, lock)
        return manifest

    async def _entity(self, day: date, declared: Declared) -> None:
        """Write the parts of an entity that are not written yet; each is noted with the position to go on from."""
        parts = await self.attempted(day, declared)
        number, after = len(parts), parts[-1].after if parts else None
        while not number or after is not None:
            part = await self._next_part(day, declared, None if after is None else key_from_plain(after), number)
            if part is None:
                return
            number, after = number + 1, part.after

    async def _next_part(self, day: date, declared: Declared, after: tuple[KeyPart, ...] | None, number: int) -> Part | None:
        """Return one part, written by whoever comes first; None where the archive was finished meanwhile.

        What was read before persons were taken out of the archives is read again: only who reads it can leave them out.
        """
        for _ in range(READINGS):
            known = await ArchiveLock(self._store).rewritings()
            writing, last = await self._read(day, declared, after)
            async with ArchiveLock(self._store).held() as lock:
                if known == lock.count:
                    return await self._stored(day, declared, number, writing, last, lock)
        async with ArchiveLock(self._store).held() as lock:
            writing, last = await self._read(day, declared, after)
            await lock.renew()
            return await self._stored(day, declared, number, writing, last, lock)

    async def _stored(
        self, day: date, declared: Declared, number: int, writing: PartWriter, last: tuple[KeyPart, ...] | None, lock: ArchiveLock
    ) -> Part | None:
        if await self.manifest(day) is not None:
            return None
        found = next((part for part in await self.attempted(day, declared) if part.number == number), None)
        return found or await self.store_part(day, declared.name, number, writing, lock, after=None if last is None else plain_key(last))

    async def _read(
        self, day: date, declared: Declared, after: tuple[KeyPart, ...] | None
    ) -> tuple[PartWriter, tuple[KeyPart, ...] | None]:
        """Return what goes into a part from a position on, and the position it ends at, None at the end."""
        writing = PartWriter()
        while True:
            page = await self._store.core.records.scan(declared.table.name, after=after, limit=PAGE)
            for record in page.records:
                if self._is_mine(declared, record) and (whole := await self._whole(day, declared, record)) is not None:
                    entity, form = whole
                    writing.add(form, self._whom(declared, entity))
            after = page.last
            if writing.raw >= self._part_bytes or after is None:
                return writing, after

    async def _whole(self, day: date, declared: Declared, record: Record) -> tuple[Any, dict[str, Any]] | None:
        """Return a record and its archived form, with its large values copied; None where it is gone meanwhile."""
        codec = self._store.core.planner.codec(declared.entity)
        while True:
            entity = codec.decode_sealed(record)
            try:
                return entity, await self._form(day, declared, entity)
            except NotFound:
                # Its object goes with a record that was changed or deleted since it was read.
                found = (await self._store.core.records.get((address_of(declared, record),)))[0]
                if found is None or not self._is_mine(declared, found):
                    return None
                if found[REVISION] == record[REVISION]:
                    raise Corruption("A record refers to an object that is not there.", hint="`palaver doctor` says which.") from None
                record = found

    async def _form(self, day: date, declared: Declared, entity: Any) -> dict[str, Any]:
        record = json_record(declared, entity)
        for spec in declared.blobs:
            value = getattr(entity, spec.name)
            if isinstance(value, BlobRef | LargeObject) and not spec.secret:
                assert value.key is not None, "what is stored has a key"
                digest = value.key.rpartition("/")[2]
                copied = f"{self.folder(day)}{OBJECTS}{digest}"
                if await self._blobs.head(copied) is None:
                    async with aclosing(self._blobs.get_stream(value.key)) as pieces:
                        await self._blobs.put_stream(copied, pieces, value.size)
                record[stored_name(spec.name, declared.entity.model_fields[spec.name])] = named(digest, value.size)
        return record

    def _is_mine(self, declared: Declared, record: Record) -> bool:
        tenant = tenant_of(self._store, declared)
        mine = not tenant or position_of(declared, record)[0] == tenant[0]
        return mine and is_live(declared.table, record, to_us(self._store.clock.now()))

    def fields(self, declared: Declared) -> list[str]:
        """Return the fields whose values are noted: the subject, owners of what this goes with, and those asked for."""
        own = [declared.subject.name] if declared.subject is not None else []
        own += [name for name, _ in owners(self._store.schema, declared)]
        return list(dict.fromkeys([*own, *self._about.get(declared.name, ())]))

    def _whom(self, declared: Declared, entity: Any) -> set[str]:
        return {whom(value) for name in self.fields(declared) if (value := getattr(entity, name)) is not None}

    async def store_part(
        self,
        day: date,
        entity: str,
        number: int,
        writing: PartWriter,
        lock: ArchiveLock,
        *,
        after: Sequence[Any] | None = None,
        replaces: str = "",
    ) -> Part:
        """Store a part and then its note, which says that the part is whole. Raises Conflict where the lease ran out meanwhile."""
        data = writing.finish()
        digest = sha256(data).hexdigest()
        key = f"{self.folder(day)}{entity}-{number:05d}-{digest[:16]}.jsonl.gz"
        part = Part(key, number, writing.records, len(data), digest, sorted(writing.whom), after, sorted(writing.objects), replaces)
        await self._blobs.put(key, data)
        # Storing a part may take long; a part without a note is nobody's.
        await lock.renew()
        await self._blobs.put(part.note, orjson.dumps(asdict(part)))
        return part

    async def attempted(self, day: date, declared: Declared) -> list[Part]:
        """Return the parts of an archive that is not finished, in their order."""
        listed = self._blobs.list(f"{self.folder(day)}{declared.name}-")
        parts = [part_of(orjson.loads(await self._blobs.get(info.key))) async for info in listed if info.key.endswith(".json")]
        replaced = {part.replaces for part in parts}
        return [part for part in parts if part.key not in replaced]

    async def save(self, manifest: Manifest) -> None:
        body = {**asdict(manifest), "day": manifest.day.isoformat(), "format": FORMAT}
        await self._blobs.put(f"{self.folder(manifest.day)}manifest-{manifest.generation:06d}.json", orjson.dumps(body))

    async def tidy(self, manifest: Manifest, lock: ArchiveLock) -> None:
        """Remove what the manifest of a day does not name: earlier manifests, replaced parts, parts of cut-off attempts, objects."""
        parts = [part for archived in manifest.entities.values() for part in archived.parts]
        await self.keep_only(manifest.day, parts, lock, f"{self.folder(manifest.day)}manifest-{manifest.generation:06d}.json")

    async def keep_only(self, day: date, parts: Iterable[Part], lock: ArchiveLock, *others: str) -> None:
        """Remove from the folder of a day what is none of these parts, and none of their notes and objects."""
        folder, kept = self.folder(day), set(others)
        for part in parts:
            kept |= {part.key, part.note, *(f"{folder}{OBJECTS}{digest}" for digest in part.objects)}
        old = [info.key async for info in self._blobs.list(folder) if info.key not in kept]
        if old:
            # Who was overtaken before this does not know what others stored.
            await lock.renew()
            await self._blobs.delete(old)

    # --- reading ----------------------------------------------------------------------------------------------------

    def folder(self, day: date) -> str:
        return f"{root(self._store)}{day:%Y/%m/%d}/"

    async def manifest(self, day: date) -> Manifest | None:
        """Return the manifest of a day, None where its archive does not exist or is not finished."""
        newest = None
        async for info in self._blobs.list(f"{self.folder(day)}manifest-"):
            newest = info.key
        return None if newest is None else manifest_of(orjson.loads(await self._blobs.get(newest)))

    async def days(self, *, finished: bool = True) -> list[date]:
        """Return the days that have a finished archive, or only an attempt at one, oldest first."""
        found: dict[date, bool] = {}
        async for info in self._blobs.list(root(self._store)):
            steps = info.key.removeprefix(root(self._store)).split("/")
            if len(steps) >= 4 and all(step.isdecimal() for step in steps[:3]):
                day = date(int(steps[0]), int(steps[1]), int(steps[2]))
                found[day] = found.get(day, False) or steps[3].startswith("manifest-")
        return sorted(day for day, whole in found.items() if whole is finished)

    async def lines(self, part: Part) -> list[dict[str, Any]]:
        """Return the records of a part. Raises Corruption where its bytes are not those that were written."""
        data = await self._blobs.get(part.key)
        if sha256(data).hexdigest() != part.sha256:
            raise Corruption("A part of an archive does not have the hash its manifest names.", hint="Restore it from a copy.")
        return [orjson.loads(text) for text in zlib.decompress(data, wbits=31).splitlines()]

    async def records(self, day: date, entity: type[Entity] | str) -> AsyncIterator[dict[str, Any]]:
        """Yield the archived records of an entity; raise NotFound where the day has no archive of it."""
        manifest = await self.manifest(day)
        name = entity if isinstance(entity, str) else entity.__name__
        if manifest is None or name not in manifest.entities:
            raise NotFound(f"There is no archive of {name} on that day.")
        for part in manifest.entities[name].parts:
            for record in await self.lines(part):
                yield record

    async def about(self, subject: str) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """Yield what is archived about a person, as the name of an entity and its record, the newest day first."""
        for day in reversed(await self.days()):
            manifest = await self.manifest(day)
            for name, archived in manifest.entities.items() if manifest is not None else ():
                declared = self._store.schema.entities.get(name)
                if declared is None or declared.subject is None:
                    continue
                field = stored_name(declared.subject.name, declared.entity.model_fields[declared.subject.name])
                for part in archived.parts:
                    for record in await self.lines(part) if whom(subject) in part.whom else ():
                        if str(record.get(field)) == subject:
                            yield name, record

    async def value(self, day: date, named: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a large value that a record of a day's archive names. Raises NotFound and Corruption."""
        async with aclosing(self._blobs.get_stream(f"{self.folder(day)}{named['$object']}")) as pieces:
            async for piece in pieces:
                yield piece

    async def verify(self, day: date) -> list[str]:
        """Return what is wrong with the archive of a day: parts that are missing, changed, or count differently."""
        manifest = await self.manifest(day)
        if manifest is None:
            return ["the archive has no manifest: it is missing, or not finished"]
        wrong: list[str] = []
        for name, archived in manifest.entities.items():
            seen = 0
            for part in archived.parts:
                try:
                    found = len(await self.lines(part))
                    for digest in part.objects:
                        async for _ in self.value(day, named(digest, 0)):
                            pass
                except (NotFound, Corruption) as error:
                    wrong.append(f"part {part.number} of {name}: {error.code}")
                    continue
                seen += found
                if found != part.records:
                    wrong.append(f"part {part.number} of {name} has {found} records instead of {part.records}")
            if not wrong and seen != archived.records:
                wrong.append(f"{name} has {seen} records instead of {archived.records}")
        return wrong

    # --- ending -----------------------------------------------------------------------------------------------------

    async def prune(self, before: date) -> int:
        """Remove the archives of days before a day; return how many days."""
        old = [day for day in await self.days() if day < before]
        for day in old:
            async with ArchiveLock(self._store).held() as lock:
                # The manifest last: until then the day is listed, and pruned when asked again.
                keys = [info.key async for info in self._blobs.list(self.folder(day))]
                for wanted in (False, True):
                    await lock.renew()
                    await self._blobs.delete([key for key in keys if ("/manifest-" in key) is wanted])
        return len(old)

    async def count(self, subjects: Collection[str], policy: Policy, *, before_us: int | None = None) -> int:
        """Return how many archived records a policy would remove or mask for these persons."""
        return await Rewriter(self._store, self, subjects, policy, (None, before_us)).run(dry_run=True)

    async def rewrite(self, subjects: Collection[str], policy: Policy, *, since_us: int | None = None, before_us: int | None = None) -> int:
        """Do to archived records what a policy does to stored ones; return how many were removed or masked.

        `since_us` and `before_us` leave out archives made before or after. Many persons take hardly longer than one.
        """
        return await Rewriter(self._store, self, subjects, policy, (since_us, before_us)).run(dry_run=False)
