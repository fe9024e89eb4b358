"""Patches: from field paths and Python values to stored paths and stored values, checked once per field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from palaver.batch import Patch
from palaver.declared import Declared, FieldSpec
from palaver.entity import did_you_mean, kind_names
from palaver.errors import Expression, Validation
from palaver.expr import Append, IfAbsent, Path, parse_path
from palaver.fields import Kind, inside, unwrap
from palaver.markers import Expires
from palaver.ops import Add, Change_, Remove, Set
from palaver.values import size


@dataclass(frozen=True, slots=True)
class Target:
    """A place a patch may write: its stored path, how values are checked and encoded, and what they touch."""

    path: Path
    spec: FieldSpec
    kind: Kind | None
    adapter: TypeAdapter[Any] | None
    element: TypeAdapter[Any] | None


class Patcher:
    """Compiles the targets of patches as they are first used, and keeps them."""

    def __init__(self) -> None:
        self._targets: dict[tuple[type, str], Target] = {}
        self._reading: dict[type, frozenset[str]] = {}

    def needs_old(self, declared: Declared, op: Patch) -> bool:
        """Say whether a patch can only be planned knowing the record: it touches policy that depends on old values."""
        if declared.history is not None:
            return True
        touched = self._reading.get(declared.entity)
        if touched is None:
            touched = self._reading[declared.entity] = frozenset(_depends_on_old(declared))
        if not touched:
            return False
        return any(path.split(".")[0].split("[")[0] in touched for path in (*op.set, *op.add, *op.remove))

    def changes(self, declared: Declared, op: Patch) -> list[Change_]:
        """Return the stored changes of a patch. Raises Expression for names, Validation for values."""
        if not (op.set or op.add or op.remove):
            raise Expression(f"A patch of {declared.name} changes nothing.", hint="Pass set=, add= or remove=.", entity=declared.name)
        return [*self._sets(declared, op.set), *self._adds(declared, op.add), *self._removes(declared, op.remove)]

    def _sets(self, declared: Declared, sets: Mapping[str, Any]) -> Iterator[Change_]:
        for path, value in sets.items():
            target = self._target(declared, path)
            match value:
                case Path():
                    yield Set(target.path, self._target(declared, value.name, key=True).path)
                case IfAbsent(source, default):
                    yield Set(target.path, IfAbsent(self._target(declared, source.name).path, _checked(declared, target, default)))
                case Append(source, items):
                    encoded = tuple(_element(declared, target, item) for item in items)
                    yield Set(target.path, Append(self._target(declared, source.name).path, encoded))
                case None if len(parse_path(target.path)) == 1:
                    _checked(declared, target, None)
                    yield Remove(target.path)
                case _:
                    yield Set(target.path, _checked(declared, target, value))

    def _adds(self, declared: Declared, adds: Mapping[str, Any]) -> Iterator[Change_]:
        for path, amount in adds.items():
            target = self._target(declared, path)
            if isinstance(amount, set | frozenset):
                yield Add(target.path, frozenset(_element(declared, target, item) for item in amount))
            elif isinstance(amount, bool) or not hasattr(amount, "__add__") or isinstance(amount, str | bytes | list):
                raise Expression(f"{declared.name}.{path} can be added a number or a set.", entity=declared.name, field=path)
            else:
                size(amount, f"{declared.name}.{path}")
                yield Add(target.path, amount)

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
    steps, kind, unknown = inside(spec.kind, rest)
    if unknown is not None:
        raise Expression(
            f"{declared.name}.{path} names nothing.", hint=did_you_mean(unknown, kind_names(spec, rest)), entity=declared.name, field=path
        )
    stored = spec.stored + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    annotation = _annotation(spec, rest)
    adapter: TypeAdapter[Any] | None = None if annotation is None else TypeAdapter(annotation)
    inner = None if annotation is None else _element_annotation(annotation)
    return Target(Path(stored), spec, kind, adapter, None if inner is None else TypeAdapter(inner))


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
        try:
            value = adapter.validate_python(value)
        except ValidationError as error:
            reason = error.errors(include_input=False, include_url=False)[0]["msg"]
            raise Validation(
                f"{declared.name}.{target.path} cannot take this value: {reason}.", entity=declared.name, field=str(target.path)
            ) from None
    if value is not None and kind is not None and kind.encode is not None:
        value = kind.encode(value)
    size(value, f"{declared.name}.{target.path}")
    return value


def _depends_on_old(declared: Declared) -> Iterator[str]:
    """Yield the fields whose change needs the old record: shadows, unique sets, blobs, composite references."""
    for _, part in declared.shadows:
        yield str(part.steps[0])
    for unique in declared.uniques.values():
        for part in unique.parts:
            yield str(part.steps[0])
    if declared.uniques and declared.expires is not None:
        yield declared.expires.name
        rule: Expires = declared.expires.marker(Expires)
        if rule.of is not None:
            yield rule.of
    for spec in declared.blobs:
        yield spec.name
    for ref in declared.refs:
        yield from ref.fields
