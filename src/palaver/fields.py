"""How one field is stored: its column kind, and the two functions between a Python value and a stored one.

Compiled once per class from its annotations; nothing here runs during a call except the functions it returns.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, JsonValue, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from palaver.clock import EPOCH, from_ms, to_ms
from palaver.errors import SchemaError
from palaver.large_object import LargeObject
from palaver.markers import OF_FIELDS, Blob, Digits, Instant
from palaver.ops import KINDS
from palaver.values import canonical

Codec = Callable[[Any], Any]
"""None in place of a Codec means: the value is stored as it is."""

_ORDERED = ("text", "int", "bytes")


@dataclass(frozen=True)
class Kind:
    """A column kind with its codec. `element` is the kind of a list's, set's or map's values; `model` a nested model.

    `form` is the type a nested value has when it is stored; None: any of them. `sealed` is the kind of what is sealed in it.
    """

    column: KINDS
    encode: Codec | None = None
    decode: Codec | None = None
    check: tuple[object, ...] = ()
    element: Kind | None = None
    model: type[BaseModel] | None = None
    open: bool = False
    form: type | None = None
    sealed: Kind | None = None

    @property
    def ordered(self) -> bool:
        """Whether the stored form sorts as the value does, so that it can be a key part without a shadow."""
        return self.column in _ORDERED


TEXT, INT, FLOAT, BYTES = Kind("text"), Kind("int"), Kind("float"), Kind("bytes")
BOOL = Kind("bool")
OPEN = Kind("json", open=True)
LARGE = Kind("json", form=LargeObject)


def _decimal(number: Decimal) -> Decimal:
    return canonical(number)


def _uuid(value: UUID) -> str:
    if not isinstance(value, UUID):
        raise TypeError
    return str(value)


def _date(value: date) -> str:
    return date.isoformat(value)


def _seconds(at: datetime) -> int:
    return -((EPOCH - at) // timedelta(seconds=1))


def _from_seconds(seconds: int) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def _instant_text(at: datetime) -> str:
    if at.tzinfo is None:
        raise ValueError
    return at.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"


def _from_instant_text(text: str) -> datetime:
    return datetime.fromisoformat(text)


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
    AwareDatetime: Kind("text", _instant_text, _from_instant_text),
    date: Kind("text", _date, date.fromisoformat),
    timedelta: Kind("int", _microseconds, lambda us: timedelta(microseconds=us)),
    UUID: Kind("text", _uuid, UUID),
}
_INSTANTS = {
    "ms": Kind("int", to_ms, from_ms),
    "s": Kind("int", _seconds, _from_seconds),
    "text": Kind("text", _instant_text, _from_instant_text),
}
DIGITS = Kind("text", _digits, _from_digits)
_WRAPPED: Mapping[Any, Kind] = {
    SecretStr: Kind("text", SecretStr.get_secret_value, SecretStr),
    SecretBytes: Kind("bytes", SecretBytes.get_secret_value, SecretBytes),
}


def is_instant(kind: Kind) -> bool:
    return kind.decode in (from_ms, _from_seconds, _from_instant_text)


def form_of(kind: Kind) -> tuple[object, ...]:
    """Return what two kinds have in common that store values alike."""
    return (kind.column, kind.form, kind.encode, kind.model, kind.element and form_of(kind.element))


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
    """Return how values of this annotation are stored.

    Unions of several types go through pydantic's JSON form; raises SchemaError where that could not be told apart again.
    """
    bare, markers, _ = unwrap(annotation, metadata)
    for marker in markers:
        if isinstance(marker, Instant):
            return _INSTANTS[marker.unit]
        if isinstance(marker, Digits):
            return DIGITS
        if isinstance(marker, Blob):
            return LARGE if bare is LargeObject else _blob(kind_of(bare))
    if bare in _SCALARS:
        return _SCALARS[bare]
    if bare is LargeObject:
        raise SchemaError("A LargeObject lies in an object by itself.", hint='Mark the field Blob("…"), with the path of its objects.')
    if bare in _WRAPPED:
        raise SchemaError(
            f"A {bare.__name__} would be stored for everybody to read.",
            hint="Mark the field Secret(), which seals it; nested, use a plain type.",
        )
    if bare in (Any, object, JsonValue):
        return OPEN
    if get_origin(bare) is Literal:
        return _literal(get_args(bare))
    if isinstance(bare, type) and issubclass(bare, Enum):
        return _enum(bare)
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return _model(bare)
    return _container(bare) or _by_pydantic(annotation)


def sealed_kind(annotation: Any, metadata: Sequence[Any] = ()) -> Kind:
    """Return how a secret is stored: as bytes, whatever it is. Only here may a type be one that hides its value itself."""
    bare = unwrap(annotation, metadata)[0]
    return Kind("bytes", sealed=_WRAPPED[bare] if bare in _WRAPPED else kind_of(annotation, metadata))


def _blob(inner: Kind) -> Kind:
    return Kind("json", inner.encode, inner.decode, element=inner.element, model=inner.model, open=inner.open, form=inner.form)


def _literal(options: tuple[Any, ...]) -> Kind:
    if all(type(option) is str for option in options):
        return Kind("text", check=("in", options))
    if all(type(option) is int for option in options):
        return Kind("int", check=("in", options))
    if any(isinstance(option, Enum) for option in options):
        return _by_pydantic(Literal[options])
    return OPEN


def _enum(enum: type[Enum]) -> Kind:
    values = tuple(member.value for member in enum)
    column: KINDS = "int" if all(type(value) is int for value in values) else "text"
    if column == "text" and not all(isinstance(value, str) for value in values):
        return Kind("text", lambda member: member.name, lambda name: enum[name], ("in", tuple(enum.__members__)))
    return Kind(column, lambda member: member.value, enum, ("in", values))


def _within(annotation: Any, metadata: Sequence[Any] = ()) -> Kind:
    """Return how a value inside another is stored. Raises SchemaError for what can only be said of a whole field."""
    for marker in unwrap(annotation, metadata)[1]:
        if isinstance(marker, OF_FIELDS):
            raise SchemaError(f"{type(marker).__name__}() inside a nested value would not be heeded.", hint="Mark the whole field with it.")
    return kind_of(annotation, metadata)


def _container(bare: Any) -> Kind | None:
    origin, args = get_origin(bare) or bare, get_args(bare)
    if origin in (list, tuple, Sequence) or (isinstance(origin, type) and issubclass(origin, list | tuple)):
        if (origin is tuple and len(args) != 2 and args) or (origin is tuple and args and args[1] is not Ellipsis):
            return None
        element = _within(args[0]) if args else OPEN
        make: Any = tuple if origin is tuple else list
        exact = origin is list
        decode = _each(element.decode, make, make is tuple)
        return Kind("json", _each(element.encode, list, not exact, (list, tuple)), decode, element=element, form=list)
    if origin in (set, frozenset):
        element = _within(args[0]) if args else TEXT
        if element.column not in ("text", "int", "number", "bytes"):
            raise SchemaError("A set holds texts, integers, Decimals or bytes.", hint="Declare a list.")
        decode = _each(element.decode, origin, True)
        encode = _each(element.encode, frozenset, origin is set, (set, frozenset))
        return Kind("json", encode, decode, element=element, form=frozenset)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, dict)):
        if args and unwrap(args[0])[0] is not str:
            return None
        element = _within(args[1]) if args else OPEN
        return Kind("json", _values(element.encode), _values(element.decode), element=element, open=True, form=dict)
    return None


def _each(codec: Codec | None, make: Callable[[Any], Any], convert: bool, of: tuple[type, ...] = (list, frozenset)) -> Codec | None:
    """Return what makes one container of another, element by element; a text is not one."""
    if codec is None and not convert:
        return None

    def each(values: Any) -> Any:
        if type(values) not in of:
            raise TypeError
        return make(values if codec is None else [None if value is None else codec(value) for value in values])

    return each


def _values(codec: Codec | None) -> Codec | None:
    if codec is None:
        return None
    return lambda values: {name: None if value is None else codec(value) for name, value in values.items()}


def _by_pydantic(annotation: Any) -> Kind:
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    arms = [unwrap(arg)[0] for arg in get_args(unwrap(annotation)[0])]
    if any(isinstance(marker, OF_FIELDS) for arg in get_args(unwrap(annotation)[0]) for marker in unwrap(arg)[1]):
        raise SchemaError("A marker on one type of a union would not be heeded.", hint="Mark the whole field with it.")
    if str in arms and any(arm in _AS_TEXT for arm in arms):
        raise SchemaError("A union of text with a type that is stored as text cannot be told apart.", hint="Declare two fields.")

    def encode(value: Any) -> Any:
        # Without the check a value of another type would be stored as well as it can be, and be lost.
        return adapter.dump_python(adapter.validate_python(value, strict=True), mode="json", warnings="error")

    return Kind("json", encode, adapter.validate_python, open=True)


def stored_name(name: str, info: FieldInfo) -> str:
    """Return the attribute a nested or top-level field is stored under."""
    return info.serialization_alias or info.alias or name


def checked_name(owner: str, name: str, stored: str) -> str:
    """Return a stored name. Raises SchemaError for one that a path would take for several, or that no engine stores."""
    if not stored or set(stored) & set(".[]\0") or not stored.isprintable():
        raise SchemaError(
            f"{owner}.{name} is stored under a name with a dot, a bracket or a sign nobody sees, or under none.",
            hint="Use letters, digits and underscores.",
            entity=owner,
            field=name,
        )
    return stored


_AS_TEXT = {datetime, date, time, timedelta, UUID, Decimal, bytes}

ModelPart = tuple[str, str, Codec | None, Codec | None, FieldInfo]
_models: dict[type[BaseModel], Kind] = {}


def _model(model: type[BaseModel]) -> Kind:
    """Compile a nested model. A model that contains itself refers to its own codec, found when it runs."""
    if model in _models:
        return _models[model]
    parts: list[ModelPart] = []
    known = len(_models)
    kind = _models[model] = Kind("json", _model_encoder(model, parts), _model_decoder(model, parts), model=model, form=dict)
    try:
        for name, info in model.model_fields.items():
            inner = _within(info.annotation, info.metadata)
            parts.append((name, checked_name(model.__name__, name, stored_name(name, info)), inner.encode, inner.decode, info))
    except BaseException:
        # Half of a model is no model: whoever tries again is to be told again.
        for half in list(_models)[known:]:
            del _models[half]
        raise
    return kind


def _model_encoder(model: type[BaseModel], parts: list[ModelPart]) -> Codec:
    extra = model.model_config.get("extra") == "allow"

    def encode(value: Any) -> dict[str, Any]:
        if type(value) is not model:
            raise TypeError
        out: dict[str, Any] = {}
        held = value.__dict__
        for name, stored, encoder, _, info in parts:
            inner = held[name]
            if inner is None:
                if info.default is not None or info.is_required():
                    out[stored] = None
            else:
                out[stored] = inner if encoder is None else encoder(inner)
        if extra:
            out.update(value.__pydantic_extra__ or {})
        return out

    return encode


def _model_decoder(model: type[BaseModel], parts: list[ModelPart]) -> Codec:
    extra = model.model_config.get("extra") == "allow"

    def decode(stored_value: Mapping[str, Any]) -> BaseModel:
        values: dict[str, Any] = {}
        for name, stored, _, decoder, info in parts:
            if stored in stored_value:
                inner = stored_value[stored]
                values[name] = inner if decoder is None or inner is None else decoder(inner)
            else:
                values[name] = None if info.is_required() else info.get_default(call_default_factory=True, validated_data=values)
        instance: BaseModel = build(model, values)
        if extra:
            _set(instance, "__pydantic_extra__", _others(stored_value, parts))
        return instance

    return decode


def _others(stored: Mapping[str, Any], parts: list[ModelPart]) -> dict[str, Any]:
    known = {name for _, name, _, _, _ in parts}
    return {name: value for name, value in stored.items() if name not in known}


_set = object.__setattr__
# The slots' own setters: half of what setting an attribute by its name costs, and every read pays it.
NEW = object.__new__
SET_VALUES, SET_NAMES, SET_EXTRA, SET_PRIVATE = (
    BaseModel.__dict__[name].__set__ for name in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)


def build(model: type[BaseModel], values: dict[str, Any], names: set[str] | None = None) -> Any:
    """Make an instance without validating: only for values that were validated when they were stored.

    `names` are the fields to count as set (default: all of `values`); one set may serve many instances, which are
    frozen or never look at it.
    """
    if model.__private_attributes__:
        instance = model.model_construct(names, **values)
        instance.__dict__.update(values)
        return instance
    instance = NEW(model)
    SET_VALUES(instance, values)
    SET_NAMES(instance, set(values) if names is None else names)
    SET_EXTRA(instance, None)
    SET_PRIVATE(instance, None)
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


def reason_of(error: ValidationError) -> str:
    """Return why a value was refused, in words that never hold the value: what a validator of the user's says is left out."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    return "a validator refuses it" if first["type"] in ("value_error", "assertion_error") else first["msg"][:1].lower() + first["msg"][1:]
