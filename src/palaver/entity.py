"""Entities: frozen, typed classes that declare what is stored. They have no verbs and hold no connection."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from palaver.declared import Declared
from palaver.declaring import declare
from palaver.errors import Expression, SchemaError, did_you_mean
from palaver.expr import Compare, Condition, Exists, In, Path, map_paths, parse_path
from palaver.fields import DIGITS, Kind, build, inside, unwrap
from palaver.keys import History, Index, Key, Partitioned, Ref, Unique, address
from palaver.markers import Secret
from palaver.query import At
from palaver.values import size

DECLARATIONS = (Key, Index, Unique, Ref, History, Partitioned)


class Entity(BaseModel):
    """Base of every declared class.

        class Message(Entity, table="messages"):
            conversation_id: str
            message_id: Snowflake
            key = Key("conversation_id", sort="message_id")

    `renamed_from` names the table it was stored in before, so that a migration takes the records along.
    Unknown fields are errors; instances are frozen. Two instances are equal when their fields are; `revision` is the
    number of the stored version an instance was read from, 0 for one that was never stored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=DECLARATIONS, validate_default=True, hide_input_in_errors=True)

    __palaver_table__: ClassVar[str | None] = None
    __palaver_renamed_from__: ClassVar[str | None] = None
    __palaver_declared__: ClassVar[Declared | None] = None

    def __init_subclass__(cls, *, table: str | None = None, renamed_from: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__palaver_table__ = table
        cls.__palaver_renamed_from__ = renamed_from
        cls.__palaver_declared__ = None
        for name, annotation in inspect.get_annotations(cls).items():
            if isinstance(cls.__dict__.get(name), DECLARATIONS) and "ClassVar" not in str(annotation):
                raise SchemaError(
                    f"{cls.__name__}.{name} is both a field and a declaration.",
                    hint="Leave out the annotation.",
                    entity=cls.__name__,
                    field=name,
                )

    @classmethod
    def __pydantic_init_subclass__(cls, *, table: str | None = None, renamed_from: str | None = None, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        _refuse_taken_names(cls)

    @classmethod
    def __pydantic_on_complete__(cls) -> None:
        if cls.__palaver_table__ is not None:
            _leave_secrets_out(cls)
            cls.declared()

    @property
    def revision(self) -> int:
        """The number of the stored version this was read from; it grows with every write."""
        # Beside the fields, as a cached property would be: a private attribute costs more than the rest of the instance.
        return self.__dict__.get("_revision", 0)  # type: ignore[no-any-return]

    @classmethod
    def at(cls, *key: object) -> At[Self]:
        """Address one record by its whole key, partition fields first."""
        return address(cls, cls.declared().access["key"], key)

    @property
    def address(self) -> At[Self]:
        """The address of this record."""
        declared = type(self).declared()
        tenant = None if declared.tenant is None else self.__dict__[declared.tenant.name]
        return At(type(self), tuple([declared.part_of(self, part) for part in declared.access["key"].parts]), tenant)

    @classmethod
    def declared(cls) -> Declared:
        """Return the compiled declaration; made once."""
        found = cls.__dict__.get("__palaver_declared__")
        if found is None:
            if cls.__palaver_table__ is None:
                raise SchemaError(
                    f"{cls.__name__} has no table.", hint=f'Write class {cls.__name__}(Entity, table="…").', entity=cls.__name__
                )
            found = declare(cls)
            cls.__palaver_declared__ = found
        return found

    @classmethod
    def bind(cls, condition: Condition) -> Condition:
        """Return a condition with stored names and stored literals; raise Expression for a name that is not there."""

        def leaf(part: Any) -> Any:
            path, encode = cls.locate(part.path, presence=isinstance(part, Exists))
            match part:
                case Compare(_, op, value):
                    return Compare(path, op, encode(value, op))
                case In(_, values):
                    return In(path, tuple(encode(value, "==") for value in values))
                case _:
                    return type(part)(path)

        return map_paths(condition, leaf)

    @classmethod
    def locate(cls, path: Path, *, presence: bool = False) -> tuple[Path, Any]:
        """Return the stored path of a field path, and a function that encodes a literal compared with it.

        Of a secret field, as a whole, only its `presence` can be asked for.
        """
        declared = cls.declared()
        first, *rest = parse_path(path)
        spec = declared.fields.get(str(first))
        if spec is None:
            raise Expression(
                f"{cls.__name__} has no field {first}.",
                hint=did_you_mean(str(first), declared.fields),
                entity=cls.__name__,
                field=str(first),
            )
        if spec.secret and (rest or not presence):
            raise Expression(
                f"{cls.__name__}.{spec.name} is secret and cannot be asked for: one value is sealed differently each time.",
                hint="Ask whether it exists(); to find records by it, keep a keyed hash of it in another field.",
                entity=cls.__name__,
                field=spec.name,
            )
        steps, kind, unknown = inside(spec.kind, rest)
        if unknown is not None:
            known = kind_names(spec, rest)
            raise Expression(
                f"{cls.__name__}.{path} names nothing.", hint=did_you_mean(unknown, known), entity=cls.__name__, field=str(path)
            )
        text = spec.stored + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)

        return Path(text), partial(_literal, f"{cls.__name__}.{path}", kind)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        hidden = _secrets(type(self))
        for name, value in super().__repr_args__():
            yield name, _Masked() if name in hidden and value is not None else value

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        mine, theirs = self.__dict__, other.__dict__
        return all(mine[name] == theirs[name] for name in type(self).model_fields)

    def __hash__(self) -> int:
        return hash((type(self), self.address.key))


class _Masked:
    """Stands for a secret wherever an instance is shown."""

    def __repr__(self) -> str:
        return "**********"


def _secrets(cls: type[Entity]) -> set[str]:
    return {name for name, info in cls.model_fields.items() if _is_secret(info)}


def _is_secret(info: FieldInfo) -> bool:
    return any(isinstance(marker, Secret) for marker in unwrap(info.annotation, info.metadata)[1])


def _leave_secrets_out(cls: type[Entity]) -> None:
    """Have every dump leave secret fields out: what is dumped is on its way to somebody."""
    shown = [info for info in cls.model_fields.values() if _is_secret(info) and not info.exclude]
    for info in shown:
        info.exclude = True
    if shown:
        cls.model_rebuild(force=True)


def _literal(what: str, kind: Kind | None, value: Any, op: str) -> Any:
    """Return the stored form of a value that is compared with a field of this kind."""
    if isinstance(value, Path):
        raise Expression(f"{what} is compared with a path.", hint="Compare it with a value.")
    if value is None:
        raise Expression(f"{what} is compared with None.", hint="Use .missing() or .exists().")
    use = kind.element if kind is not None and op == "contains" and kind.element is not None else kind
    if op == "starts_with" and use is DIGITS:
        raise Expression(f"{what} is stored as a number of 20 digits, and begins as no text does.", hint="Use >= and <.")
    if op != "starts_with" and use is not None and use.encode is not None:
        # What is of another type than the field is unequal to all it holds.
        with suppress(AttributeError, TypeError, ValueError):
            value = use.encode(value)
    return _storable(what, value)


def _storable(what: str, value: Any) -> Any:
    """Return a value that something stored can be compared with. Raises Expression, or what storing it would raise."""
    if isinstance(value, frozenset) and not value:
        raise Expression(f"{what} is compared with an empty set, which is stored nowhere.", hint="Use .missing().")
    if not isinstance(value, str | int | float | Decimal | bytes | list | dict | frozenset):
        raise Expression(
            f"{what} cannot be compared with a {type(value).__name__}.",
            hint="Give it its time zone." if isinstance(value, datetime) and value.tzinfo is None else "Use a value of the field's type.",
        )
    size(value, what)
    return value


_RESERVED = frozenset(name for name in dir(Entity) if not name.startswith("__")) | {"declared"}


def _refuse_taken_names(cls: type[Entity]) -> None:
    for name, info in cls.model_fields.items():
        if name in _RESERVED:
            raise SchemaError(
                f"{cls.__name__}.{name} has a name every entity uses itself.",
                hint='Rename it and keep the stored name with Stored("…").',
                entity=cls.__name__,
            )
        if info.alias is not None and cls.model_config.get("alias_generator") is None:
            raise SchemaError(
                f"{cls.__name__}.{name} has an alias, and type checkers then reject the constructor.",
                hint='Use Stored("…"), or an alias generator for the whole class.',
                entity=cls.__name__,
                field=name,
            )


def kind_names(spec: Any, rest: list[str | int]) -> list[str]:
    model = spec.kind.model
    return list(model.model_fields) if model is not None and len(rest) == 1 else []


E = TypeVar("E", bound=Entity)


def stamped(entity: E, revision: int) -> E:
    """Return the same instance content with a revision."""
    copy: E = build(type(entity), {**entity.__dict__, "_revision": revision}, entity.__pydantic_fields_set__)
    return copy
