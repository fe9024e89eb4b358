"""A schema: entities, what is searched, and how long things are kept; frozen, linted, and written out as a snapshot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any, Literal

from palaver.declared import Declared
from palaver.entity import Entity
from palaver.errors import SchemaError, Validation, did_you_mean
from palaver.expr import Path, parse_path
from palaver.fields import form_of, inside
from palaver.keys import Ref
from palaver.lint import Diagnostic, alike_but_for_case, lint_entity, lint_schema
from palaver.markers import Secret

FilterKind = Literal["text", "int", "float", "bool"]
TENANT = "_tenant"
"""The filter every document has its tenant in, whatever the field is called: no field begins with an underscore."""


@dataclass(frozen=True)
class Source:
    """Records of one entity as documents of a search index.

    `text` names the searched fields (default: those marked `Searchable`); `filters` names fields to narrow and count by.
    Paths may go into nested fields and through lists: `entities.name`.
    """

    entity: type[Entity]
    text: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Search:
    """A search index over one or more entities; `required` names filters every search must give."""

    name: str
    sources: tuple[Source, ...]
    required: tuple[str, ...] = ()

    def __init__(self, name: str, *sources: Source, required: Sequence[str] = ()) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "sources", sources)
        object.__setattr__(self, "required", tuple(required))


@dataclass(frozen=True)
class CompiledSource:
    """A source with its texts and filters resolved to stored paths."""

    declared: Declared
    text: tuple[tuple[str, tuple[str, ...]], ...]
    filters: tuple[tuple[str, tuple[str, ...], FilterKind], ...]


@dataclass(frozen=True)
class CompiledSearch:
    """A search with what every engine has to build for it; who has tenants is always asked for one."""

    name: str
    sources: tuple[CompiledSource, ...]
    text: tuple[str, ...]
    filters: Mapping[str, FilterKind]
    required: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """A `Ref` resolved: child fields, parent, and the child's access path that finds children of a parent."""

    child: Declared
    ref: Ref
    parent: Declared
    through: str


class Schema:
    """What an application stores.

    Raises SchemaError with every error found, each with a code, a reason and a remedy. Warnings are in `diagnostics`.
    """

    def __init__(
        self,
        name: str,
        entities: Iterable[type[Entity]],
        *,
        searches: Iterable[Search] = (),
        retention: Mapping[type[Entity], timedelta | None] | None = None,
        version: int = 1,
    ) -> None:
        self.name, self.version = name, version
        self.entities: Mapping[str, Declared] = _compile(entities)
        self.retention: Mapping[str, timedelta | None] = {entity.__name__: keep for entity, keep in (retention or {}).items()}
        self.references = tuple(self._resolve(declared, ref) for declared in self.entities.values() for ref in declared.refs)
        self.searches: Mapping[str, CompiledSearch] = {search.name: self._search(search) for search in searches}
        self.tables: Mapping[str, Declared] = {declared.table.name: declared for declared in self.entities.values()}
        self.tenanted = any(declared.tenant for declared in self.entities.values())
        self.diagnostics = tuple(self._lint())
        errors = [found for found in self.diagnostics if found.level == "error"]
        if errors:
            raise SchemaError(
                f"Schema {name}: " + " ".join(f"[{found.code}] {found.where}: {found.reason} {found.remedy}" for found in errors),
                schema=name,
                diagnostics=errors,
            )

    def of(self, entity: type[Entity]) -> Declared:
        """Return the compiled declaration of an entity of this schema; raise SchemaError for another class."""
        found = self.entities.get(entity.__name__)
        if found is None or found.entity is not entity:
            if not issubclass(entity, Entity):
                raise Validation(
                    f"What is needed here is a record, not {'a class' if issubclass(entity, type) else entity.__name__}.",
                    hint="Give one instance; store.bulk() and Batch() take several.",
                )
            raise SchemaError(
                f"{entity.__name__} is not in schema {self.name}.",
                hint=did_you_mean(entity.__name__, self.entities),
                entity=entity.__name__,
            )
        return found

    def entity(self, name: str) -> Declared:
        """Return a declaration by its class name or table name."""
        found = self.entities.get(name) or self.tables.get(name)
        if found is None:
            raise SchemaError(
                f"Schema {self.name} has no entity {name}.", hint=did_you_mean(name, [*self.entities, *self.tables]), entity=name
            )
        return found

    def children(self, parent: Declared) -> list[Reference]:
        return [reference for reference in self.references if reference.parent is parent]

    def takes_along(self, declared: Declared) -> bool:
        """Say whether something else goes when a record of this entity goes."""
        cascades = any(reference.ref.on_delete == "cascade" for reference in self.children(declared))
        return bool(declared.uniques or declared.blobs or declared.history or cascades)

    def snapshot(self) -> dict[str, Any]:
        """Return the schema as plain JSON values: what `evolve` compares and a file can keep."""
        from palaver.snapshot import snapshot

        return snapshot(self)

    @property
    def fingerprint(self) -> str:
        """A short hash of the snapshot."""
        return fingerprint_of(self.snapshot())

    def _resolve(self, child: Declared, ref: Ref) -> Reference:
        parent_type = ref.to() if callable(ref.to) and not isinstance(ref.to, type) else ref.to
        name = parent_type if isinstance(parent_type, str) else parent_type.__name__
        parent = self.entities.get(name)
        if parent is None:
            raise SchemaError(
                f"{child.name}.{ref.name} refers to {name}, which is not in schema {self.name}.",
                hint=did_you_mean(name, self.entities),
                entity=child.name,
            )
        if len(ref.fields) != len(parent.access["key"].parts):
            keys = ", ".join(part.path for part in parent.access["key"].parts)
            raise SchemaError(f"{child.name}.{ref.name} must name as many fields as the key of {name} has ({keys}).", entity=child.name)
        for name_, part in zip(ref.fields, parent.access["key"].parts, strict=True):
            if part.shadow or form_of(child.fields[name_].kind) != form_of(parent.fields[part.path].kind):
                raise SchemaError(
                    f"{child.name}.{ref.name}: {name_} is not stored as {name}.{part.path} is.",
                    hint="Annotate both alike, with text, an integer or bytes.",
                    entity=child.name,
                )
        fields = set(ref.fields)
        through = next(
            (path.name for path in child.access.values() if {part.path for part in path.partition} <= fields and not path.shards), None
        )
        if through is None and ref.on_delete != "keep":
            raise SchemaError(
                f"{child.name}.{ref.name}: nothing finds the records that refer to one {name}.",
                hint=f"Add an Index on {', '.join(ref.fields)}, or on_delete='keep'.",
                entity=child.name,
            )
        return Reference(child, ref, parent, through or "")

    def _search(self, search: Search) -> CompiledSearch:
        sources, texts, filters = [], dict[str, None](), dict[str, FilterKind]()
        for source in search.sources:
            declared = self.of(source.entity)
            text_fields = source.text or tuple(spec.name for spec in declared.searchable)
            text = tuple((path, _stored_path(search, declared, path)[0]) for path in text_fields)
            narrowed = []
            for path in source.filters:
                stored, kind = _stored_path(search, declared, path)
                known = filters.setdefault(path, kind)
                if known != kind:
                    raise SchemaError(
                        f"Search {search.name} filters {path} by two different types.", hint="Rename one.", search=search.name
                    )
                narrowed.append((path, stored, kind))
            texts.update(dict.fromkeys(text_fields))
            sources.append(CompiledSource(declared, text, tuple(narrowed)))
        filters["_entity"] = "text"
        for name in search.required:
            if name not in filters:
                raise SchemaError(f"Search {search.name} requires {name}, which is not one of its filters.", search=search.name)
        required = search.required
        if any(source.declared.tenant for source in sources):
            filters[TENANT] = "text"
            required = (TENANT, *required)
        return CompiledSearch(search.name, tuple(sources), tuple(texts), filters, required)

    def _lint(self) -> Iterable[Diagnostic]:
        for declared in self.entities.values():
            yield from lint_entity(declared)
        yield from lint_schema(self)


def fingerprint_of(plain: Mapping[str, Any]) -> str:
    """Return a short hash of plain JSON values."""
    return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _compile(entities: Iterable[type[Entity]]) -> dict[str, Declared]:
    found: dict[str, Declared] = {}
    tables: dict[str, str] = {}
    for entity in entities:
        declared = entity.declared()
        if entity.__name__ in found or declared.table.name in tables:
            raise SchemaError(f"Two entities are called {entity.__name__}, or stored in {declared.table.name}.", entity=entity.__name__)
        found[entity.__name__] = declared
        tables[declared.table.name] = entity.__name__
    if alike := alike_but_for_case(tables):
        raise SchemaError(
            f"The tables {alike[0]} and {alike[1]} differ only in case, and SQLite takes them for one.",
            hint="Give one of the entities another name, in table=…",
            entity=tables[alike[1]],
        )
    return found


_FILTER: Mapping[str, FilterKind] = {"text": "text", "int": "int", "float": "float", "bool": "bool", "number": "float"}


def _stored_path(search: Search, declared: Declared, path: str) -> tuple[tuple[str, ...], FilterKind]:
    first, *rest = parse_path(Path(path))
    spec = declared.fields.get(str(first))
    if spec is None:
        raise SchemaError(
            f"Search {search.name}: {declared.name} has no field {first}.",
            hint=did_you_mean(str(first), declared.fields),
            search=search.name,
        )
    if spec.marker(Secret):
        raise SchemaError(f"Search {search.name}: {declared.name}.{first} is secret.", hint="Leave it out.", search=search.name)
    kind, stored = spec.kind, [spec.stored]
    for step in rest:
        while kind.model is None and kind.element is not None:
            kind = kind.element
        steps, found, unknown = inside(kind, [step])
        if unknown is not None or found is None:
            raise SchemaError(f"Search {search.name}: {declared.name}.{path} has no declared type.", search=search.name)
        stored.extend(map(str, steps))
        kind = found
    while kind.column == "json" and kind.element is not None:
        kind = kind.element
    return tuple(stored), _FILTER.get(kind.column, "text")
