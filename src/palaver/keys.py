"""Keys, indexes, unique sets and references: class-level declarations, and what they return when they are called.

`Key`, `Index` and `Unique` are descriptors: on a class they give a callable that builds a frozen query or address.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal

from typing_extensions import TypeVar

from palaver.errors import EmptyKey, Expression, KeyType, SchemaError
from palaver.expr import Condition
from palaver.query import At, Query, UniqueAt
from palaver.values import KeyPart, key_part_size

if TYPE_CHECKING:
    from palaver.entity import Entity

E = TypeVar("E", bound="Entity")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a key or index: the field's path, the column that holds it, and how values get there.

    `column` is the field's own column, or a shadow where the value needs an encoding or sits inside a nested one.
    """

    path: str
    steps: tuple[str | int, ...]
    column: str
    column_kind: Literal["text", "int", "bytes"]
    accept: Callable[[object], Any]
    transform: Callable[[Any], KeyPart] | None
    most: int
    entity: str
    shadow: bool
    sentinels: tuple[Any, ...] = ()
    direct: bool = False
    as_written: bool = True
    """Whether the column holds a text as it is written, so that it begins as the text does."""

    def encode(self, value: object) -> KeyPart:
        """Return the stored form of a value given by a caller; raise KeyType, EmptyKey or KeyTooLong."""
        # Short plain text, which most keys are, needs nothing of what follows.
        if self.direct and type(value) is str and 0 < len(value) <= 256 and value.isascii() and "\0" not in value:
            return value
        if value is None:
            raise EmptyKey(
                f"{self.entity}.{self.path} is missing.", hint="Every key part needs a value.", entity=self.entity, field=self.path
            )
        part = self.accept(value)
        if self.transform is not None:
            part = self.transform(part)
        if type(part) is not str or len(part) > 256 or not part or not part.isascii() or "\0" in part:
            key_part_size(part, f"{self.entity}.{self.path}", self.most)
        return part  # type: ignore[no-any-return]

    def prefix(self, value: object) -> str:
        if type(value) is not str:
            raise KeyType(f"{self.entity}.{self.path} is narrowed by a text.", entity=self.entity, field=self.path)
        key_part_size(value, f"{self.entity}.{self.path}", self.most)
        return value


@dataclass(frozen=True, slots=True, eq=False)
class AccessPath:
    """A compiled key or index of one entity. `physical` is None for the key, else the stored index's name."""

    name: str
    physical: str | None
    partition: tuple[Part, ...]
    sort: tuple[Part, ...]
    shards: int = 0
    shard_column: str = ""
    parts: tuple[Part, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", self.partition + self.sort)


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


class Key:
    """The key of an entity: partition fields, and optionally sort fields that order records inside a partition."""

    def __init__(self, *partition: str, sort: str | Sequence[str] | None = None) -> None:
        if not partition:
            raise SchemaError("A Key needs at least one partition field.", hint='Write Key("user_id").')
        self.partition, self.sort = partition, _names(sort)

    def __get__(self, instance: object, owner: type[E]) -> BoundKey[E]:
        return BoundKey(owner)


class Index:
    """A declared access pattern, named for the question it answers; records lacking a part are not in it.

    `shards` spreads a partition of few values over n physical ones; reads fan out and merge. With shards the partition
    may be empty: every record of the entity in the order of the sort fields.
    """

    def __init__(self, *partition: str, sort: str | Sequence[str] | None = None, shards: int = 0, name: str | None = None) -> None:
        self.partition, self.sort, self.shards, self.physical = partition, _names(sort), shards, name
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type[E]) -> BoundIndex[E]:
        return BoundIndex(owner, self.name)


class Unique:
    """No two live records have the same values of these fields, as long as `when` is true of them."""

    def __init__(self, *fields: str, when: Condition | None = None) -> None:
        if not fields:
            raise SchemaError("A Unique needs at least one field.", hint='Write Unique("email").')
        self.fields, self.when = fields, when
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type[E]) -> BoundUnique[E]:
        return BoundUnique(owner, self.name)


@dataclass(frozen=True)
class Ref:
    """These fields name a record of `to` that must exist; `on_delete` says what happens to this record with it.

    "restrict" refuses deleting the parent, "cascade" deletes this record first, "keep" only checks on writing.
    """

    fields: tuple[str, ...]
    to: Any
    on_delete: Literal["restrict", "cascade", "keep"] = "restrict"
    name: str = field(default="", compare=False)

    def __init__(self, *fields: str, to: Any, on_delete: Literal["restrict", "cascade", "keep"] = "restrict") -> None:
        object.__setattr__(self, "fields", fields)
        object.__setattr__(self, "to", to)
        object.__setattr__(self, "on_delete", on_delete)

    def __set_name__(self, owner: type, name: str) -> None:
        object.__setattr__(self, "name", name)


@dataclass(frozen=True)
class History:
    """Keep an image of the record after each write, for this long, in a table of its own."""

    keep: timedelta


# What Discord counts from.
DISCORD = datetime(2015, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Partitioned:
    """Keep the records in parts by the time this part of the key tells, where the engine has such tables.

    The field is an instant, an id of `new_id`, or a Snowflake, counted from `epoch`. It changes no meaning and no limit:
    what is asked for a span of time reads the parts of that span.
    """

    field: str
    every: Literal["month"] = "month"
    epoch: datetime = DISCORD


class BoundKey(Generic[E]):
    """`Message.key(...)`: a query over one partition. Trailing sort values fix leading sort fields."""

    __slots__ = ("_entity",)

    def __init__(self, entity: type[E]) -> None:
        self._entity = entity

    def __call__(self, *values: object) -> Query[E]:
        return build_query(self._entity, self._entity.declared().access["key"], values)


class BoundIndex(Generic[E]):
    """`Message.by_user(...)`: a query through an index."""

    __slots__ = ("_entity", "_name")

    def __init__(self, entity: type[E], name: str) -> None:
        self._entity, self._name = entity, name

    def __call__(self, *values: object) -> Query[E]:
        return build_query(self._entity, self._entity.declared().access[self._name], values)


class BoundUnique(Generic[E]):
    """`User.by_email(...)`: an address, for get() and find()."""

    __slots__ = ("_entity", "_name")

    def __init__(self, entity: type[E], name: str) -> None:
        self._entity, self._name = entity, name

    def __call__(self, *values: object) -> UniqueAt[E]:
        parts = self._entity.declared().uniques[self._name].parts
        if len(values) != len(parts):
            raise Expression(
                f"{self._entity.__name__}.{self._name} takes {len(parts)} values.",
                hint="Pass one for each declared field.",
                entity=self._entity.__name__,
            )
        return UniqueAt(self._entity, self._name, tuple(part.encode(value) for part, value in zip(parts, values, strict=True)))


def build_query(entity: type[E], path: AccessPath, values: tuple[object, ...]) -> Query[E]:
    """Return the query for positional values: all partition fields, then leading sort fields."""
    need = len(path.partition)
    if not need <= len(values) <= need + len(path.sort):
        names = ", ".join(part.path for part in path.parts)
        raise Expression(
            f"{entity.__name__}.{path.name} takes {need} partition values, then up to {len(path.sort)} sort values ({names}).",
            hint=f"{len(values)} were given.",
            entity=entity.__name__,
            index=path.name,
        )
    encoded = tuple([part.encode(value) for part, value in zip(path.parts, values, strict=False)])
    if len(encoded) == need:
        return Query(entity, path, encoded)
    return Query(entity, path, encoded[:need], encoded[need:])


def address(entity: type[E], path: AccessPath, values: tuple[object, ...]) -> At[E]:
    """Return the address for a whole key."""
    parts = path.parts
    if len(values) != len(parts):
        names = ", ".join(part.path for part in parts)
        raise Expression(f"A {entity.__name__} is addressed by {names}.", hint=f"{len(values)} values were given.", entity=entity.__name__)
    return At(entity, tuple([part.encode(value) for part, value in zip(parts, values, strict=False)]))
