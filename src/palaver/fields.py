"""How one field is stored: its column kind, and the two functions between a Python value and a stored one.

Compiled once per class from its annotations; nothing here runs during a call except the functions it returns.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, JsonValue, TypeAdapter
from pydantic.fields import FieldInfo

from palaver.clock import EPOCH, from_ms, to_ms
from palaver.markers import Blob, Digits, Instant
from palaver.ops import KINDS
from palaver.values import canonical

Codec = Callable[[Any], Any]
"""None in place of a Codec means: the value is stored as it is."""

_ORDERED = ("text", "int", "bytes")


@dataclass(frozen=True)
class Kind:
    """A column kind with its codec. `element` is the kind of a list's, set's or map's values; `model` a nested model."""

    column: KINDS
    encode: Codec | None = None
    decode: Codec | None = None
    check: tuple[object, ...] = ()
    element: Kind | None = None
    model: type[BaseModel] | None = None
    open: bool = False

    @property
    def ordered(self) -> bool:
        """Whether the stored form sorts as the value does, so that it can be a key part without a shadow."""
        return self.column in _ORDERED


TEXT, INT, FLOAT, BYTES = Kind("text"), Kind("int"), Kind("float"), Kind("bytes")
BOOL = Kind("bool")
OPEN = Kind("json", open=True)


def _decimal(number: Decimal) -> Decimal:
    return canonical(number)


def _seconds(at: datetime) -> int:
    return -((EPOCH - at) // timedelta(seconds=1))


def _from_seconds(seconds: int) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def _instant_text(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _from_instant_text(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def _digits(text: str) -> str:
    return text.zfill(20)


def _from_digits(text: str) -> str:
    return text.lstrip("0") or "0"


def _microseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


_SCALARS: Mapping[Any, Kind] = {
    str: TEXT,
    int: INT,
    float: FLOAT,
    bool: BOOL,
    bytes: BYTES,
    Decimal: Kind("number", _decimal),
    datetime: Kind("text", _instant_text, _from_instant_text),
    date: Kind("text", date.isoformat, date.fromisoformat),
    timedelta: Kind("int", _microseconds, lambda us: timedelta(microseconds=us)),
    UUID: Kind("text", str, UUID),
}
_INSTANTS = {
    "ms": Kind("int", to_ms, from_ms),
    "s": Kind("int", _seconds, _from_seconds),
    "text": Kind("text", _instant_text, _from_instant_text),
}
DIGITS = Kind("text", _digits, _from_digits)


def unwrap(annotation: Any, metadata: Sequence[Any] = ()) -> tuple[Any, list[Any], bool]:
    """Return the bare annotation, its markers, and whether None is allowed."""
    markers = list(metadata)
    optional = False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            markers.extend(annotation.__metadata__)
            annotation = annotation.__origin__
        elif origin in (Union, types.UnionType):
            inner = [arg for arg in get_args(annotation) if arg is not type(None)]
            if len(inner) == len(get_args(annotation)) or len(inner) != 1:
                return annotation, markers, optional or len(inner) != len(get_args(annotation))
            optional = True
            annotation = inner[0]
        elif isinstance(annotation, TypeVar):
            annotation = annotation.__bound__ or Any
        elif hasattr(annotation, "__value__") and type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__ if annotation is not JsonValue else Any
            if annotation is Any:
                return Any, markers, optional
        else:
            return annotation, markers, optional


def kind_of(annotation: Any, metadata: Sequence[Any] = ()) -> Kind:
    """Return how values of this annotation are stored; unions of several types go through pydantic's JSON form."""
    bare, markers, _ = unwrap(annotation, metadata)
    for marker in markers:
        if isinstance(marker, Instant):
            return _INSTANTS[marker.unit]
        if isinstance(marker, Digits):
            return DIGITS
        if isinstance(marker, Blob):
            return _blob(kind_of(bare))
    if bare in _SCALARS:
        return _SCALARS[bare]
    if bare in (Any, object, JsonValue):
        return OPEN
    if get_origin(bare) is Literal:
        return _literal(get_args(bare))
    if isinstance(bare, type) and issubclass(bare, Enum):
        return _enum(bare)
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return _model(bare)
    return _container(bare) or _by_pydantic(annotation)


def _blob(inner: Kind) -> Kind:
    return Kind("json", inner.encode, inner.decode, element=inner.element, model=inner.model, open=inner.open)


def _literal(options: tuple[Any, ...]) -> Kind:
    if all(type(option) is str for option in options):
        return Kind("text", check=("in", options))
    if all(type(option) is int for option in options):
        return Kind("int", check=("in", options))
    return OPEN


def _enum(enum: type[Enum]) -> Kind:
    values = tuple(member.value for member in enum)
    column: KINDS = "int" if all(type(value) is int for value in values) else "text"
    if column == "text" and not all(isinstance(value, str) for value in values):
        return Kind("text", lambda member: member.name, lambda name: enum[name], ("in", tuple(enum.__members__)))
    return Kind(column, lambda member: member.value, enum, ("in", values))


def _container(bare: Any) -> Kind | None:
    origin, args = get_origin(bare) or bare, get_args(bare)
    if origin in (list, tuple, Sequence) or (isinstance(origin, type) and issubclass(origin, list | tuple)):
        if (origin is tuple and len(args) != 2 and args) or (origin is tuple and args and args[1] is not Ellipsis):
            return None
        element = kind_of(args[0]) if args else OPEN
        make: Any = tuple if origin is tuple else list
        return Kind("json", _each(element.encode, list, make is tuple), _each(element.decode, make, make is tuple), element=element)
    if origin in (set, frozenset):
        element = kind_of(args[0]) if args else TEXT
        decode = _each(element.decode, origin, True)
        return Kind("json", _each(element.encode, frozenset, origin is set), decode, element=element)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, dict)):
        if args and unwrap(args[0])[0] is not str:
            return None
        element = kind_of(args[1]) if args else OPEN
        return Kind("json", _values(element.encode), _values(element.decode), element=element, open=True)
    return None


def _each(codec: Codec | None, make: Callable[[Any], Any], convert: bool) -> Codec | None:
    if codec is None:
        return make if convert else None
    return lambda values: make([None if value is None else codec(value) for value in values])


def _values(codec: Codec | None) -> Codec | None:
    if codec is None:
        return None
    return lambda values: {name: None if value is None else codec(value) for name, value in values.items()}


def _by_pydantic(annotation: Any) -> Kind:
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    return Kind("json", lambda value: adapter.dump_python(value, mode="json"), adapter.validate_python, open=True)


def stored_name(name: str, info: FieldInfo) -> str:
    """Return the attribute a nested or top-level field is stored under."""
    return info.serialization_alias or info.alias or name


_models: dict[type[BaseModel], Kind] = {}


def _model(model: type[BaseModel]) -> Kind:
    """Compile a nested model. A model that contains itself refers to its own codec, found when it runs."""
    if model in _models:
        return _models[model]
    parts: list[tuple[str, str, Codec | None, Codec | None, FieldInfo]] = []

    def encode(value: Any) -> dict[str, Any]:
        out: dict[str, Any] = {}
        held = value.__dict__
        for name, stored, encoder, _, info in parts:
            inner = held[name]
            if inner is None:
                if info.default is not None or info.is_required():
                    out[stored] = None
            else:
                out[stored] = inner if encoder is None else encoder(inner)
        if value.__pydantic_extra__:
            out.update(value.__pydantic_extra__)
        return out

    def decode(stored_value: Mapping[str, Any]) -> BaseModel:
        values: dict[str, Any] = {}
        for name, stored, _, decoder, info in parts:
            if stored in stored_value:
                inner = stored_value[stored]
                values[name] = inner if decoder is None or inner is None else decoder(inner)
            else:
                values[name] = None if info.is_required() else info.get_default(call_default_factory=True, validated_data=values)
        instance: BaseModel = build(model, values)
        return instance

    kind = _models[model] = Kind("json", encode, decode, model=model)
    for name, info in model.model_fields.items():
        inner = kind_of(info.annotation, info.metadata)
        parts.append((name, stored_name(name, info), inner.encode, inner.decode, info))
    return kind


_set = object.__setattr__


def build(model: type[BaseModel], values: dict[str, Any], names: set[str] | None = None) -> Any:
    """Make an instance without validating: only for values that were validated when they were stored.

    `names` are the fields to count as set (default: all of `values`); one set may serve many instances, which are
    frozen or never look at it.
    """
    if model.__private_attributes__:
        return model.model_construct(names, **values)
    instance = model.__new__(model)
    _set(instance, "__dict__", values)
    _set(instance, "__pydantic_fields_set__", set(values) if names is None else names)
    _set(instance, "__pydantic_extra__", None)
    _set(instance, "__pydantic_private__", None)
    return instance


def inside(kind: Kind, steps: Sequence[str | int]) -> tuple[list[str | int], Kind | None, str | None]:
    """Follow steps into a nested kind.

    Returns the stored steps, the kind at their end (None: open content, anything goes), and the first unknown name.
    """
    out: list[str | int] = []
    here: Kind | None = kind
    for step in steps:
        if here is None or (here.open and here.element is None):
            out.append(step)
            here = None
        elif here.model is not None and isinstance(step, str):
            info = here.model.model_fields.get(step)
            if info is None:
                if here.model.model_config.get("extra") == "allow":
                    out.append(step)
                    here = None
                    continue
                return out, None, step
            out.append(stored_name(step, info))
            here = kind_of(info.annotation, info.metadata)
        elif here.element is not None:
            out.append(step)
            here = here.element
        else:
            return out, None, str(step)
    return out, here, None
