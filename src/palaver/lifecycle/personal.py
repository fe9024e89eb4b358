"""What is about one person and how it is found; what is done to it is a policy, and doing it is left to `erase.py`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import TypeAdapter, ValidationError

from palaver.declared import Declared, FieldSpec
from palaver.entity import Entity
from palaver.errors import SchemaError, did_you_mean
from palaver.keys import AccessPath
from palaver.lint import subject_path
from palaver.ops import Address, Read, position
from palaver.schema import Reference, Schema
from palaver.store import Store
from palaver.tenants import tenant_key
from palaver.values import KeyPart, Record

Action = Literal["delete", "mask", "keep"]
MASKED = "[erased]"
PAGE = 100


@dataclass(frozen=True)
class Mention:
    """Records of others that hold words of a person, found through an index on that person: these fields are masked."""

    entity: type[Entity]
    index: str
    mask: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """What happens to a person's records: by entity, and otherwise. "mask" clears the fields marked Personal."""

    actions: Mapping[type[Entity], Action] = field(default_factory=dict)
    otherwise: Action = "delete"
    mentions: tuple[Mention, ...] = ()

    def of(self, declared: Declared) -> Action:
        return self.actions.get(declared.entity, self.otherwise)


@dataclass(frozen=True)
class Mask:
    """The patch that clears fields: optional ones are removed, others go back to their default or to a mark."""

    fields: tuple[FieldSpec, ...]
    unique: frozenset[str]

    def applies(self, entity: Any) -> bool:
        """Say whether there is anything left to clear."""
        return any(not _is_clear(spec, getattr(entity, spec.name)) for spec in self.fields)

    def patch(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return what `store.patch` takes as `set` and `remove`."""
        removed = tuple(spec.name for spec in self.fields if spec.optional)
        return {spec.name: self._clear(spec) for spec in self.fields if not spec.optional}, removed

    def values(self) -> dict[str, Any]:
        """Return the cleared fields with what they hold afterwards."""
        return {spec.name: None if spec.optional else self._clear(spec) for spec in self.fields}

    def _clear(self, spec: FieldSpec) -> Any:
        cleared = _cleared(spec)
        # Two masked records must not hold one unique value.
        return f"{MASKED} {secrets.token_hex(8)}" if spec.name in self.unique and cleared == MASKED else cleared


def _cleared(spec: FieldSpec) -> Any:
    return spec.default() if spec.default is not None else [] if spec.kind.element is not None and spec.kind.column == "json" else MASKED


def _is_clear(spec: FieldSpec, value: Any) -> bool:
    if spec.optional:
        return value is None
    return (isinstance(value, str) and value.startswith(MASKED)) or value == _cleared(spec)


def mask_of(declared: Declared, names: Sequence[str] | None = None) -> Mask:
    """Return the mask of an entity's personal fields, or of the named ones. Raises SchemaError where one cannot be cleared."""
    for name in names or ():
        if name not in declared.fields:
            raise SchemaError(f"{declared.name} has no field {name}.", hint=did_you_mean(name, declared.fields), entity=declared.name)
    fields = declared.personal if names is None else tuple(declared.fields[name] for name in names)
    keyed = {part.path for part in declared.access["key"].parts}
    unique = frozenset(part.path for each in declared.uniques.values() for part in each.parts)
    mask = Mask(fields, unique)
    for spec in fields:
        try:
            if spec.name in keyed:
                raise SchemaError(
                    f"{declared.name}.{spec.name} is part of the key and cannot be masked.", hint="Delete the records instead."
                )
            if spec.secret and not spec.optional:
                raise SchemaError(f"{declared.name}.{spec.name} is sealed and cannot be masked.", hint="Make it optional.")
            if not spec.optional:
                annotation: Any = Annotated[(spec.annotation, *spec.markers)] if spec.markers else spec.annotation
                TypeAdapter(annotation).validate_python(mask.values()[spec.name])
        except ValidationError:
            raise SchemaError(f"{declared.name}.{spec.name} cannot be masked.", hint="Make it optional, or give it a default.") from None
    return mask


# --- finding --------------------------------------------------------------------------------------------------------


async def records_of(store: Store, declared: Declared, subject: object) -> AsyncIterator[list[Record]]:
    """Yield pages of a person's records, expired and marked ones included."""
    assert declared.subject is not None
    path = subject_path(declared)
    if path is not None:
        async for page in through(store, declared, path, subject):
            yield page
        return
    spec, tenant = declared.subject, tenant_of(store, declared)
    value = subject if spec.kind.encode is None else spec.kind.encode(subject)
    after: tuple[KeyPart, ...] | None = None
    while True:
        found = await store.core.records.scan(declared.table.name, after=after, limit=PAGE)
        mine = [
            record
            for record in found.records
            if record.get(spec.stored) == value and position_of(declared, record)[: len(tenant)] == tenant
        ]
        if mine:
            yield mine
        if found.last is None:
            return
        after = found.last


async def through(store: Store, declared: Declared, path: AccessPath, value: object) -> AsyncIterator[list[Record]]:
    """Yield pages of the stored records of one partition of an access path, all its shards."""
    head = (*tenant_of(store, declared), path.partition[0].encode(value))
    shards: list[tuple[int, ...]] = [(number,) for number in range(path.shards)]
    for shard in shards or [()]:
        after: tuple[KeyPart, ...] | None = None
        while True:
            read = Read(declared.table.name, path.physical, head + shard, limit=PAGE, after=after, consistent=path.physical is None)
            page = await store.core.records.query(read)
            if page.records:
                yield list(page.records)
            if page.last is None:
                break
            after = page.last


async def children_of(store: Store, reference: Reference, parent: tuple[KeyPart, ...]) -> AsyncIterator[list[Record]]:
    """Yield pages of the stored records that refer to one parent by this reference."""
    child = reference.child
    path = child.access[reference.through]
    own = parent[1:] if reference.parent.tenant else parent
    given = dict(zip(reference.ref.fields, own, strict=True))
    wanted = {child.fields[name].stored: value for name, value in given.items()}
    partition = (parent[:1] if child.tenant else ()) + tuple(given[part.path] for part in path.partition)
    after: tuple[KeyPart, ...] | None = None
    while True:
        page = await store.core.records.query(Read(child.table.name, path.physical, partition, limit=PAGE, after=after))
        matching = [record for record in page.records if all(record.get(name) == value for name, value in wanted.items())]
        if matching:
            yield matching
        if page.last is None:
            return
        after = page.last


def owners(schema: Schema, declared: Declared) -> list[tuple[str, Declared]]:
    """Return the fields that name the person whose record takes records of this entity along, with that record's entity."""
    found = []
    for reference in schema.references:
        subject = reference.parent.subject
        if reference.child is declared and reference.ref.on_delete == "cascade" and subject is not None:
            key = [part.path for part in reference.parent.access["key"].parts]
            if subject.name in key:
                found.append((reference.ref.fields[key.index(subject.name)], reference.parent))
    return found


def position_of(declared: Declared, record: Record) -> tuple[KeyPart, ...]:
    return position(declared.table, None, record)


def address_of(declared: Declared, record: Record) -> Address:
    return Address(declared.table.name, position_of(declared, record))


def tenant_of(store: Store, declared: Declared) -> tuple[KeyPart, ...]:
    return tenant_key(declared, store.tenant)


def children_first(schema: Schema) -> list[Declared]:
    """Return the entities so that what refers to another comes before it, as far as references allow."""
    order: list[Declared] = []
    waiting = list(schema.entities.values())
    while waiting:
        names = {declared.name for declared in waiting}
        free = [
            declared
            for declared in waiting
            if not any(ref.parent is declared and ref.child is not declared and ref.child.name in names for ref in schema.references)
        ]
        order += free or waiting
        waiting = [declared for declared in waiting if free and declared not in free]
    return order
