"""Patches: from field paths and Python values to stored paths and stored values, checked once per field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Annotated, Any

from annotated_types import BaseMetadata
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from palaver.batch import Patch
from palaver.declared import Declared, FieldSpec, reached
from palaver.entity import kind_names
from palaver.errors import Expression, Validation, did_you_mean
from palaver.expr import OPERANDS, Append, IfAbsent, Path, parse_path, paths, resolve
from palaver.fields import Kind, form_of, inside, reason_of, unwrap
from palaver.keys import Part
from palaver.markers import Blob, Expires
from palaver.ops import Add, Change_, Remove, Set
from palaver.values import Record, canonical, key_part_size, size

LONG = 256
NO_ELEMENTS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Target:
    """A place a patch may write: its stored path, how values are checked and encoded, and what they touch."""

    path: Path
    spec: FieldSpec
    kind: Kind | None
    adapter: TypeAdapter[Any] | None
    element: TypeAdapter[Any] | None
    bounded: bool = False
    most: int = 0


class Patcher:
    """Compiles the targets of patches as they are first used, and keeps them."""

    def __init__(self) -> None:
        self._targets: dict[tuple[type, str], Target] = {}
        self._reading: dict[type, frozenset[str]] = {}

    def needs_old(self, declared: Declared, rule: Expires | None, op: Patch) -> bool:
        """Say whether a patch can only be planned knowing the record: it touches policy that depends on old values."""
        if declared.history is not None:
            return True
        touched = self._reading.get(declared.entity)
        if touched is None:
            touched = self._reading[declared.entity] = frozenset(_depends_on_old(declared))
        if touched and any(_first(path) in touched for path in (*op.set, *op.add, *op.remove)):
            return True
        if declared.shadows and self.shadows(declared, op) is None:
            return True
        if rule is not None and rule.after is not None and _unsets_expiry(declared, rule, op):
            return True
        return any(self._computed(declared, path, value, path in op.add) for path, value in (*op.set.items(), *op.add.items()))

    def _computed(self, declared: Declared, path: str, value: Any, added: bool) -> bool:
        """Say whether a value has to be checked after it was computed from what is stored, or against the whole record."""
        target = self._target(declared, path)
        if target.most and (isinstance(value, OPERANDS) or (isinstance(value, str | bytes) and len(value) > LONG)):
            return True
        return target.bounded and (added or isinstance(value, OPERANDS))

    def shadows(self, declared: Declared, op: Patch) -> list[Change_] | None:
        """Return what a patch changes in columns computed from fields, for indexes; None where that takes the record."""
        changes: list[Change_] = []
        for column, part in declared.shadows:
            for path in (*op.set, *op.add, *op.remove):
                steps = parse_path(Path(path))
                if steps[0] != part.steps[0]:
                    continue
                if any(isinstance(step, int) for step in steps):
                    return None  # removing an element moves those behind it, and setting one past the end appends
                if steps[: len(part.steps)] != part.steps[: len(steps)]:
                    continue
                change = self._shadow(declared, op, path, column, part)
                if change is None:
                    return None
                changes.append(change)
        return changes

    def _shadow(self, declared: Declared, op: Patch, path: str, column: str, part: Part) -> Change_ | None:
        """Return what becomes of a computed column when a path it lies on is changed; None where that takes the record."""
        target, steps, value = self._target(declared, path), parse_path(Path(path)), op.set.get(path)
        deep = len(steps) > 1 and path in op.remove
        if deep or path in op.add or isinstance(value, OPERANDS) or target.adapter is None or len(steps) > len(part.steps):
            return None
        value = None if value is None else _validated(declared, target, target.adapter, value)
        if value is None and len(steps) == 1 and target.spec.default is not None:
            value = target.spec.default()  # what reading gives where nothing is stored
        inside = reached(value, part.steps[len(steps) :])
        if inside is None or inside in part.sentinels:
            return Remove(Path(column))
        stored = part.encode(inside)
        # Whether an index takes a long one depends on the other parts.
        return None if isinstance(stored, str | bytes) and len(stored) > LONG else Set(Path(column), stored)

    def split(self, declared: Declared, op: Patch) -> tuple[dict[str, Any], Patch | None]:
        """Return the blob fields a patch sets, with their values, and what remains of the patch.

        They are kept out of the record until they were split off: a large one would not fit in.
        """
        names = {spec.name for spec in declared.blobs}
        blobs = {path: self._value(declared, path, value) for path, value in op.set.items() if path in names}
        if not blobs:
            return {}, op
        rest = {path: value for path, value in op.set.items() if path not in names}
        return blobs, replace(op, set=rest) if rest or op.add or op.remove else None

    def recheck(self, declared: Declared, op: Patch, after: Record) -> None:
        """Check computed values against the constraints of their fields."""
        for path, value in (*op.set.items(), *op.add.items()):
            target = self._target(declared, path)
            if target.bounded and target.adapter is not None and (isinstance(value, OPERANDS) or path in op.add):
                stored = resolve(after, parse_path(target.path))
                decode = target.kind.decode if target.kind is not None else None
                _validated(declared, target, target.adapter, stored if decode is None or stored is None else decode(stored))

    def _value(self, declared: Declared, path: str, value: Any) -> Any:
        target = self._target(declared, path)
        if isinstance(value, OPERANDS):
            raise Expression(f"{declared.name}.{path} is a blob and can only be set to a value.", entity=declared.name, field=path)
        return value if target.adapter is None else _validated(declared, target, target.adapter, value)

    def changes(self, declared: Declared, op: Patch) -> list[Change_]:
        """Return the stored changes of a patch. Raises Expression for names, Validation for values."""
        if not (op.set or op.add or op.remove):
            raise Expression(f"A patch of {declared.name} changes nothing.", hint="Pass set=, add= or remove=.", entity=declared.name)
        return [*self._sets(declared, op.set), *self._adds(declared, op.add), *self._removes(declared, op.remove)]

    def _sets(self, declared: Declared, sets: Mapping[str, Any]) -> Iterator[Change_]:
        for path, value in sets.items():
            target = self._target(declared, path)
            if target.spec.secret and isinstance(value, OPERANDS):
                raise Expression(
                    f"{declared.name}.{path} is secret and can only be set to a value: what is sealed is not computed with.",
                    hint="Read the record, and set the new value.",
                    entity=declared.name,
                    field=path,
                )
            match value:
                case Path():
                    yield Set(target.path, self._source(declared, target, value))
                case IfAbsent(source, default):
                    yield Set(target.path, IfAbsent(self._source(declared, target, source), _checked(declared, target, default)))
                case Append(source, items):
                    encoded = tuple(_element(declared, target, item) for item in items)
                    yield Set(target.path, Append(self._source(declared, target, source), encoded))
                case None if len(parse_path(target.path)) == 1:
                    _checked(declared, target, None)
                    yield Remove(target.path)
                case _:
                    stored = self._entry(declared, target, _checked(declared, target, value))
                    nothing = stored == NO_ELEMENTS and not target.spec.optional and not target.spec.secret
                    yield Remove(target.path) if nothing else Set(target.path, stored)

    def _adds(self, declared: Declared, adds: Mapping[str, Any]) -> Iterator[Change_]:
        for path, amount in adds.items():
            target = self._target(declared, path)
            if target.spec.secret:
                raise Expression(f"{declared.name}.{path} is secret and cannot be added to.", entity=declared.name, field=path)
            if isinstance(amount, set | frozenset) and (target.kind is None or target.kind.form is frozenset):
                yield Add(target.path, frozenset(_element(declared, target, item) for item in amount))
            elif not _adds(target.kind, amount):
                raise Expression(
                    f"{declared.name}.{path} cannot be added a {type(amount).__name__}.",
                    hint="A number is added to a number of its kind, a set to a set.",
                    entity=declared.name,
                    field=path,
                )
            else:
                size(amount, f"{declared.name}.{path}")
                yield Add(target.path, canonical(amount) if isinstance(amount, Decimal) else amount)

    def _removes(self, declared: Declared, removes: tuple[str, ...]) -> Iterator[Change_]:
        for path in removes:
            target = self._target(declared, path)
            if len(parse_path(target.path)) == 1 and not target.spec.optional and target.spec.default is None:
                raise Expression(
                    f"{declared.name}.{path} is required and cannot be removed.",
                    hint="Set it to another value.",
                    entity=declared.name,
                    field=path,
                )
            yield Remove(target.path)

    def _source(self, declared: Declared, target: Target, path: Path) -> Path:
        """Return the stored path of an operand; what is copied must be of the same kind, and never a secret made readable."""
        source = self._target(declared, path.name, key=True)
        same = source.kind is None or target.kind is None or source.kind == target.kind or form_of(source.kind) == form_of(target.kind)
        if not same or source.spec.secret or source.spec.marker(Blob):
            raise Expression(
                f"{declared.name}.{path} cannot be copied to {target.path}.", hint="Copy between fields of one type.", entity=declared.name
            )
        return source.path

    def _entry(self, declared: Declared, target: Target, value: Any) -> Any:
        """Return the value, checked as a part of an index where it is one."""
        if target.most and value is not None:
            key_part_size(value, f"{declared.name}.{target.path}", target.most)
        return value

    def _target(self, declared: Declared, path: str, *, key: bool = False) -> Target:
        found = self._targets.get((declared.entity, path))
        if found is None:
            found = self._targets[declared.entity, path] = _compile(declared, path)
        if not key and any(part.path == found.spec.name for part in declared.access["key"].parts):
            raise Expression(
                f"{declared.name}.{path} is part of the key and never changes.",
                hint="Create another record.",
                entity=declared.name,
                field=path,
            )
        if not key and declared.tenant is found.spec:
            raise Expression(f"{declared.name}.{path} is the tenant and never changes.", entity=declared.name, field=path)
        return found


def _compile(declared: Declared, path: str) -> Target:
    first, *rest = parse_path(Path(path))
    spec = declared.fields.get(str(first))
    if spec is None:
        raise Expression(
            f"{declared.name} has no field {first}.", hint=did_you_mean(str(first), declared.fields), entity=declared.name, field=path
        )
    if rest and spec.marker(Blob):
        raise Expression(f"{declared.name}.{path} lies inside a blob.", hint="Set the whole field.", entity=declared.name, field=path)
    if rest and spec.secret:
        raise Expression(
            f"{declared.name}.{path} lies inside a sealed value.", hint="Set the whole field.", entity=declared.name, field=path
        )
    steps, kind, unknown = inside(spec.kind.sealed or spec.kind, rest)
    if unknown is not None:
        raise Expression(
            f"{declared.name}.{path} names nothing.", hint=did_you_mean(unknown, kind_names(spec, rest)), entity=declared.name, field=path
        )
    stored = spec.stored + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    annotation = _annotation(spec, rest)
    adapter: TypeAdapter[Any] | None = None if annotation is None else TypeAdapter(annotation)
    inner = None if annotation is None else _element_annotation(annotation)
    parts = [part for access in declared.access.values() for part in access.parts if part.column == stored]
    bounded = annotation is not None and any(isinstance(marker, BaseMetadata | FieldInfo) for marker in unwrap(annotation)[1])
    element = None if inner is None else TypeAdapter(inner)
    return Target(Path(stored), spec, kind, adapter, element, bounded, min((part.most for part in parts), default=0))


def _annotation(spec: FieldSpec, rest: list[str | int]) -> Any:
    annotation = Annotated[(spec.annotation, *spec.markers)] if spec.markers else spec.annotation
    for step in rest:
        bare = unwrap(annotation)[0]
        fields = getattr(bare, "model_fields", None)
        if fields is not None and step in fields:
            info = fields[step]
            annotation = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        else:
            inner = _element_annotation(annotation)
            if inner is None:
                return None
            annotation = inner
    return annotation


def _element_annotation(annotation: Any) -> Any:
    from typing import get_args, get_origin

    bare = unwrap(annotation)[0]
    args = get_args(bare)
    if not args or get_origin(bare) is None:
        return None
    return args[1] if get_origin(bare) in (dict, Mapping) else args[0] if isinstance(get_origin(bare), type) else None


def _checked(declared: Declared, target: Target, value: Any) -> Any:
    return _encode(declared, target, target.adapter, target.kind, value)


def _element(declared: Declared, target: Target, value: Any) -> Any:
    return _encode(declared, target, target.element, target.kind.element if target.kind else None, value)


def _encode(declared: Declared, target: Target, adapter: TypeAdapter[Any] | None, kind: Kind | None, value: Any) -> Any:
    if adapter is not None:
        value = _validated(declared, target, adapter, value)
    if value is not None and kind is not None and kind.encode is not None:
        value = kind.encode(value)
    if value != NO_ELEMENTS:
        size(value, f"{declared.name}.{target.path}")
    return value


def _validated(declared: Declared, target: Target, adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        reason = reason_of(error)
        raise Validation(
            f"{declared.name}.{target.path} cannot take this value: {reason}.", entity=declared.name, field=str(target.path)
        ) from None


def _adds(kind: Kind | None, amount: Any) -> bool:
    if isinstance(amount, bool) or not isinstance(amount, int | float | Decimal):
        return False
    if kind is None:
        return True
    if kind.column == "number":
        return not isinstance(amount, float)
    if kind.encode is not None or isinstance(amount, Decimal):
        return False
    return kind.column == "float" or (kind.column == "int" and type(amount) is int)


def _first(path: str) -> str:
    return str(parse_path(Path(path))[0])


def _unsets_expiry(declared: Declared, rule: Expires, op: Patch) -> bool:
    """Say whether the expiry has to be computed from the record: it is unset, or what it counts from is copied."""
    assert declared.expires is not None
    name = declared.expires.name
    if name in op.remove or (name in op.set and op.set[name] is None):
        return True
    return rule.of is not None and isinstance(op.set.get(rule.of), OPERANDS)


def _depends_on_old(declared: Declared) -> Iterator[str]:
    """Yield the fields whose change needs the old record: unique sets, blobs, composite references."""
    for unique in declared.uniques.values():
        for part in unique.parts:
            yield str(part.steps[0])
        if unique.when is not None:
            yield from (_first(path.name) for path in paths(unique.when))
    if declared.uniques and declared.expires is not None:
        yield declared.expires.name
        rule: Expires = declared.expires.marker(Expires)
        if rule.of is not None:
            yield rule.of
    for spec in declared.blobs:
        yield spec.name
    for ref in declared.refs:
        yield from ref.fields
