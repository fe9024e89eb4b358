"""Compiling an entity's declaration, once: every mistake in it is found here, with the field or index at fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter, ValidationError

from palaver.clock import to_ms
from palaver.declared import Declared, FieldSpec, UniqueSpec
from palaver.errors import KeyType, SchemaError, did_you_mean
from palaver.expr import F, parse_path, paths
from palaver.fields import DIGITS, TEXT, Kind, checked_name, inside, is_instant, kind_of, reason_of, sealed_kind, stored_name, unwrap
from palaver.ids import new_id
from palaver.keys import AccessPath, History, Index, Key, Part, Partitioned, Ref, Unique
from palaver.markers import Blob, Expires, Instant, Personal, Searchable, Secret, Sentinel, Stored, Subject, Tenant
from palaver.ops import Column, IndexSpec, Ranges, Table
from palaver.values import MAX_PARTITION, MAX_SORT, KeyPart, number_key

if TYPE_CHECKING:
    from palaver.entity import Entity


def declare(entity: type[Entity]) -> Declared:
    """Compile a declaration. Raises SchemaError with the field or index at fault."""
    fields = _fields(entity)
    tenant = _only(entity, fields, Tenant)
    access = _paths(entity, fields)
    uniques = {name: _unique(entity, fields, name, value) for name, value in _namespace(entity) if isinstance(value, Unique)}
    history = next((value.keep for _, value in _namespace(entity) if isinstance(value, History)), None)
    refs = tuple(value for _, value in _namespace(entity) if isinstance(value, Ref))
    for ref in refs:
        for name in ref.fields:
            _field(entity, fields, name)
    expires = _only(entity, fields, Expires)
    partitioned = next((value for _, value in _namespace(entity) if isinstance(value, Partitioned)), None)
    sharded = tuple(path for path in access.values() if path.shards)
    # A claim to a unique value is made from what is stored, so its parts are stored as those of an index are.
    parts = [*(part for path in access.values() for part in path.parts), *(part for unique in uniques.values() for part in unique.parts)]
    shadows = {part.column: part for part in parts if part.shadow}
    declared = Declared(
        entity=entity,
        table=replace(_table(entity, fields, access, tenant, expires, shadows), ranges=_ranges(entity, fields, partitioned)),
        fields=fields,
        access=access,
        uniques=uniques,
        refs=refs,
        shadows=tuple(shadows.items()),
        sharded=sharded,
        history=history,
        expires=expires,
        subject=_only(entity, fields, Subject),
        tenant=tenant,
        blobs=_having(fields, Blob),
        searchable=_having(fields, Searchable),
        personal=_having(fields, Personal),
        secrets=_having(fields, Secret),
        by_stored={spec.stored: spec for spec in fields.values()},
        partitioned=partitioned,
    )
    _check_markers(entity, declared)
    return declared


def _paths(entity: type[Entity], fields: Mapping[str, FieldSpec]) -> dict[str, AccessPath]:
    """Compile the key and the indexes."""
    declarations = _namespace(entity)
    keys = {name: value for name, value in declarations if isinstance(value, Key)}
    if not keys:
        raise SchemaError(f"{entity.__name__} has no key.", hint='Write key = Key("…").', entity=entity.__name__)
    if set(keys) != {"key"}:
        raise SchemaError(f"The key of {entity.__name__} must be called key.", hint="Write one key = Key(…).", entity=entity.__name__)
    access = {"key": _access(entity, fields, "key", None, keys["key"].partition, keys["key"].sort)}
    access.update({name: _index(entity, fields, name, value) for name, value in declarations if isinstance(value, Index)})
    return access


def _namespace(entity: type[Entity]) -> list[tuple[str, Any]]:
    """Declarations of the class and its bases, nearest definition first, in order of writing."""
    kinds = (Key, Index, Unique, Ref, History, Partitioned)
    found = {name: value for base in reversed(entity.__mro__) for name, value in vars(base).items() if isinstance(value, kinds)}
    return list(found.items())


def _fields(entity: type[Entity]) -> dict[str, FieldSpec]:
    fields: dict[str, FieldSpec] = {}
    taken: dict[str, str] = {}
    for name, info in entity.model_fields.items():
        _, markers, optional = unwrap(info.annotation, info.metadata)
        secret = any(isinstance(marker, Secret) for marker in markers)
        kind = (sealed_kind if secret else kind_of)(info.annotation, info.metadata)
        named = next((marker for marker in markers if isinstance(marker, Stored)), None)
        stored = checked_name(entity.__name__, name, named.name if named else stored_name(name, info))
        if stored.startswith("_"):
            raise SchemaError(
                f"{entity.__name__}.{name} is stored under a name that begins with an underscore.",
                hint="Those names are Palaver's own.",
                entity=entity.__name__,
            )
        if stored in taken:
            raise SchemaError(
                f"{entity.__name__}.{name} and {taken[stored]} are stored under one name.", hint="Change Stored(…).", entity=entity.__name__
            )
        taken[stored] = name
        default = None if info.is_required() else (lambda info=info: info.get_default(call_default_factory=True, validated_data={}))
        fields[name] = FieldSpec(
            name, stored, kind, optional, default, tuple(markers), info.annotation, check=kind.check or _range(markers, kind)
        )
    return fields


def _range(markers: list[Any], kind: Kind) -> tuple[object, ...]:
    if kind.column not in ("int", "float"):
        return ()
    low: Any = next((marker.ge for marker in markers if isinstance(marker, Ge)), None)
    high: Any = next((marker.le for marker in markers if isinstance(marker, Le)), None)
    if kind.column == "int":
        above: Any = next((marker.gt for marker in markers if isinstance(marker, Gt)), None)
        below: Any = next((marker.lt for marker in markers if isinstance(marker, Lt)), None)
        low, high = low if above is None else above + 1, high if below is None else below - 1
    return ("range", low, high) if low is not None or high is not None else ()


def _field(entity: type[Entity], fields: Mapping[str, FieldSpec], name: str) -> FieldSpec:
    if name not in fields:
        raise SchemaError(f"{entity.__name__} has no field {name}.", hint=did_you_mean(name, fields), entity=entity.__name__, field=name)
    return fields[name]


def _ranges(entity: type[Entity], fields: Mapping[str, FieldSpec], partitioned: Partitioned | None) -> Ranges | None:
    """Return the parts a table is asked to be kept in; None where the field tells no time, which the linter says."""
    if partitioned is None:
        return None
    spec = _field(entity, fields, partitioned.field)
    instant = spec.marker(Instant)
    form: Literal["uuid7", "snowflake", "ms", "s", "text"]
    if instant is not None:
        form = instant.unit
    elif spec.kind is DIGITS:
        form = "snowflake"
    elif spec.kind is TEXT and entity.model_fields[spec.name].default_factory is new_id:
        form = "uuid7"
    else:
        return None
    return Ranges(spec.stored, partitioned.every, form, to_ms(partitioned.epoch) if form == "snowflake" else 0)


def _having(fields: Mapping[str, FieldSpec], marker: type[Any]) -> tuple[FieldSpec, ...]:
    return tuple(spec for spec in fields.values() if spec.marker(marker) is not None)


def _only(entity: type[Entity], fields: Mapping[str, FieldSpec], marker: type[Any]) -> FieldSpec | None:
    found = _having(fields, marker)
    if len(found) > 1:
        names = ", ".join(spec.name for spec in found)
        raise SchemaError(f"{entity.__name__} has several {marker.__name__} fields: {names}.", hint="Mark one.", entity=entity.__name__)
    return found[0] if found else None


def _index(entity: type[Entity], fields: Mapping[str, FieldSpec], name: str, index: Index) -> AccessPath:
    if not index.partition and not index.shards:
        raise SchemaError(
            f"{entity.__name__}.{name} has no partition.",
            hint="Name a field, or spread it with shards=8.",
            entity=entity.__name__,
            index=name,
        )
    if index.shards and not 2 <= index.shards <= 256:
        raise SchemaError(f"{entity.__name__}.{name} has {index.shards} shards.", hint="Use 2 to 256.", entity=entity.__name__, index=name)
    return _access(entity, fields, name, index.physical or name, index.partition, index.sort, index.shards)


def _access(
    entity: type[Entity],
    fields: Mapping[str, FieldSpec],
    name: str,
    physical: str | None,
    partition: tuple[str, ...],
    sort: tuple[str, ...],
    shards: int = 0,
) -> AccessPath:
    if len(partition) > 4 or len(sort) > 4:
        raise SchemaError(f"{entity.__name__}.{name} has more than four partition or sort fields.", entity=entity.__name__, index=name)
    return AccessPath(
        name,
        physical,
        tuple(part(entity, fields, name, path, MAX_PARTITION, key=physical is None) for path in partition),
        tuple(part(entity, fields, name, path, MAX_SORT, key=physical is None) for path in sort),
        shards,
        f"_{name}_shard" if shards else "",
    )


_PYTHON: Mapping[str, Any] = {"text": str, "int": int, "float": float, "bool": bool, "number": Decimal, "bytes": bytes}


def part(entity: type[Entity], fields: Mapping[str, FieldSpec], where: str, path: str, most: int, *, key: bool = False) -> Part:
    """Compile one part of a key, index or unique set."""
    steps = parse_path(F(path))
    spec = _field(entity, fields, str(steps[0]))
    what = f"{entity.__name__}.{where}"
    if spec.secret:
        raise SchemaError(
            f"{what} indexes {path}, which is secret.", hint="Index a hash of it instead.", entity=entity.__name__, index=where
        )
    stored_steps, kind, unknown = inside(spec.kind, steps[1:])
    if unknown is not None or kind is None:
        raise SchemaError(
            f"{what} names {path}, which has no declared type.", hint="Declare it as a field.", entity=entity.__name__, index=where
        )
    if key and (spec.optional or len(steps) > 1):
        raise SchemaError(
            f"{what} uses {path}, which may be missing.", hint="A key part is a required top-level field.", entity=entity.__name__
        )
    transform, column_kind = _ordering(kind, what, path)
    simple = len(steps) == 1 and transform is None
    column = spec.stored if simple else "_" + "_".join([spec.stored, *map(str, stored_steps)])
    sentinels = tuple(marker.value for marker in spec.markers if isinstance(marker, Sentinel)) if not key else ()
    return Part(
        path=path,
        steps=steps,
        column=f"_{where}_{column.lstrip('_')}" if sentinels else column,
        column_kind=column_kind,
        accept=_acceptor(what, path, spec, kind, len(steps) == 1),
        transform=transform,
        most=most,
        entity=entity.__name__,
        shadow=not simple or bool(sentinels),
        sentinels=sentinels,
        direct=simple and kind is TEXT and not spec.check,
        as_written=transform is None and kind is not DIGITS,
    )


def _ordering(kind: Kind, what: str, path: str) -> tuple[Callable[[Any], KeyPart] | None, Literal["text", "int", "bytes"]]:
    if kind.column == "text":
        return None, "text"
    if kind.column == "int":
        return None, "int"
    if kind.column == "bytes":
        return None, "bytes"
    if kind.column == "bool":
        return int, "int"
    if kind.column == "number":
        return number_key, "text"
    if kind.column == "float":
        return lambda value: number_key(Decimal(repr(value))), "text"
    raise SchemaError(
        f"{what} uses {path}, which is a list, map or set and has no order.",
        hint="Write one record per element and index those.",
        index=what,
    )


def _acceptor(what: str, path: str, spec: FieldSpec, kind: Kind, top: bool) -> Callable[[object], Any]:
    """Return the check-and-encode of one value: exact types pass at once, anything else goes through pydantic."""
    bare = unwrap(spec.annotation)[0] if top else None
    encode = kind.encode
    if bare is str and encode is None and not spec.check:
        adapter: TypeAdapter[Any] | None = None
    else:
        adapter = TypeAdapter(_annotated(spec)) if top else None
    digits = top and kind is DIGITS

    def accept(value: object) -> Any:
        if type(value) is str and top:
            if adapter is None:
                return value
            # What the pattern of a snowflake says, without asking it.
            if digits and value.isascii() and value.isdigit() and len(value) <= 20 and (value[0] != "0" or value == "0"):
                return value.zfill(20)
        if isinstance(value, Enum) and not top and encode is None:
            value = value.value
        if adapter is None:
            if top and type(value) is not str:
                raise KeyType(f"{what} takes text for {path}, not {type(value).__name__}.", index=what, field=path)
            if not top and encode is None and not isinstance(value, _PYTHON[kind.column]):
                raise KeyType(f"{what} cannot take a {type(value).__name__} for {path}.", index=what, field=path)
            if encode is not None:
                try:
                    return encode(value)
                except (AttributeError, TypeError, ValueError):
                    raise KeyType(f"{what} cannot take a {type(value).__name__} for {path}.", index=what, field=path) from None
            return value
        try:
            checked = adapter.validate_python(value, strict=not isinstance(value, str))
        except ValidationError as error:
            raise KeyType(f"{what} cannot take this value for {path}: {reason_of(error)}.", index=what, field=path) from None
        return checked if encode is None else encode(checked)

    return accept


def _annotated(spec: FieldSpec) -> Any:
    return Annotated[(spec.annotation, *spec.markers)] if spec.markers else spec.annotation


def _unique(entity: type[Entity], fields: Mapping[str, FieldSpec], name: str, unique: Unique) -> UniqueSpec:
    parts = tuple(part(entity, fields, name, path, MAX_PARTITION) for path in unique.fields)
    for path in paths(unique.when) if unique.when is not None else ():
        spec = fields.get(str(parse_path(path)[0]))
        if spec is not None and spec.secret:
            raise SchemaError(f"{entity.__name__}.{name} depends on {spec.name}, which is secret.", hint="Use another field.", index=name)
    return UniqueSpec(name, parts, unique.when)


def _table(
    entity: type[Entity],
    fields: Mapping[str, FieldSpec],
    access: Mapping[str, AccessPath],
    tenant: FieldSpec | None,
    expires: FieldSpec | None,
    shadows: Mapping[str, Part],
) -> Table:
    key = access["key"]
    keyed = {part.column for part in key.parts}
    columns = [
        Column(spec.stored, spec.kind.column, spec.stored in keyed or (not spec.optional and spec.default is None), check=spec.check)
        for spec in fields.values()
    ]
    columns += [Column(name, part.column_kind, required=name in keyed, shadow=True) for name, part in shadows.items()]
    columns += [Column(path.shard_column, "int", required=True, shadow=True) for path in access.values() if path.shards]
    first = (tenant.stored,) if tenant else ()
    indexes = tuple(
        IndexSpec(
            path.physical or path.name,
            first + tuple(part.column for part in path.partition) + ((path.shard_column,) if path.shards else ()),
            tuple(part.column for part in path.sort),
        )
        for path in access.values()
        if path.name != "key"
    )
    return Table(
        name=str(entity.__palaver_table__),
        entity=entity.__name__,
        columns=tuple(columns),
        partition=first + tuple(part.column for part in key.partition),
        sort=tuple(part.column for part in key.sort),
        indexes=indexes,
        expires=expires.stored if expires else None,
        tenant=tenant.stored if tenant else None,
    )


def _check_markers(entity: type[Entity], declared: Declared) -> None:
    for path in declared.access.values():
        if declared.tenant is not None and any(part.path == declared.tenant.name for part in path.parts):
            raise SchemaError(
                f"{entity.__name__}.{path.name} names {declared.tenant.name}, which comes first in every key by itself.",
                hint="Leave it out.",
                entity=entity.__name__,
            )
    _check_secrets(entity, declared)
    if declared.subject is not None and not declared.subject.kind.ordered:
        raise SchemaError(
            f"{entity.__name__}.{declared.subject.name} says whom it is about, and is neither text nor an integer nor bytes.",
            hint="Name the person by an identifier.",
            entity=entity.__name__,
            field=declared.subject.name,
        )
    if declared.expires is not None:
        rule: Expires = declared.expires.marker(Expires)
        if rule.of is not None:
            _field(entity, declared.fields, rule.of)
        if rule.of is not None and not is_instant(declared.fields[rule.of].kind):
            raise SchemaError(
                f"{entity.__name__}.{rule.of} is no instant, so nothing can expire after it.",
                hint="Annotate it with InstantMs.",
                field=rule.of,
            )
        if declared.expires.kind.column != "int":
            raise SchemaError(
                f"{entity.__name__}.{declared.expires.name} must be an Expiry.",
                hint="Annotate it with Expiry | None.",
                entity=entity.__name__,
            )


_NOT_SECRET = {
    Searchable: ("searchable", "Choose one."),
    Blob: ("a blob", "A sealed value lies in its record, so choose one."),
    Subject: ("the subject, by which records are found", "Mark another field with Subject()."),
    Tenant: ("the tenant, which is part of every key", "Choose one."),
    Expires: ("what the record expires by", "Choose one."),
}


def _check_secrets(entity: type[Entity], declared: Declared) -> None:
    """Refuse what would have to read, compare or order a value that is sealed differently each time."""
    for spec in declared.secrets:
        what = f"{entity.__name__}.{spec.name}"
        for marker, (also, hint) in _NOT_SECRET.items():
            if spec.marker(marker):
                raise SchemaError(f"{what} is both secret and {also}.", hint=hint, entity=entity.__name__, field=spec.name)
        referring = [ref.name for ref in declared.refs if spec.name in ref.fields]
        if referring:
            raise SchemaError(
                f"{what} is secret and part of the reference {referring[0]}.",
                hint="Refer by another field.",
                entity=entity.__name__,
                field=spec.name,
            )
