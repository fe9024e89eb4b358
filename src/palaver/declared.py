"""An entity's declaration as it is compiled: fields, key, indexes, unique sets, references, and the table they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from zlib import crc32

from palaver.expr import Condition
from palaver.fields import Kind
from palaver.keys import AccessPath, Part, Partitioned, Ref
from palaver.markers import Secret
from palaver.ops import Table
from palaver.values import KeyPart

if TYPE_CHECKING:
    from palaver.entity import Entity


@dataclass(frozen=True)
class FieldSpec:
    """One field as declared: its stored name, kind and markers."""

    name: str
    stored: str
    kind: Kind
    optional: bool
    default: Callable[[], Any] | None
    markers: tuple[Any, ...]
    annotation: Any
    check: tuple[object, ...] = ()

    def marker(self, kind: type[Any]) -> Any:
        return next((marker for marker in self.markers if isinstance(marker, kind)), None)

    @property
    def secret(self) -> bool:
        return self.marker(Secret) is not None


@dataclass(frozen=True)
class UniqueSpec:
    name: str
    parts: tuple[Part, ...]
    when: Condition | None


@dataclass
class Declared:
    """Everything the planner and the codec need to know of one entity."""

    entity: type[Entity]
    table: Table
    fields: Mapping[str, FieldSpec]
    access: Mapping[str, AccessPath]
    uniques: Mapping[str, UniqueSpec]
    refs: tuple[Ref, ...]
    shadows: tuple[tuple[str, Part], ...]
    sharded: tuple[AccessPath, ...]
    history: timedelta | None
    expires: FieldSpec | None
    subject: FieldSpec | None
    tenant: FieldSpec | None
    blobs: tuple[FieldSpec, ...]
    searchable: tuple[FieldSpec, ...]
    personal: tuple[FieldSpec, ...]
    secrets: tuple[FieldSpec, ...] = ()
    by_stored: Mapping[str, FieldSpec] = field(default_factory=dict)
    partitioned: Partitioned | None = None

    @property
    def name(self) -> str:
        return self.entity.__name__

    def part_of(self, instance: Entity, part: Part) -> KeyPart:
        """Return the encoded value of a key part of an instance."""
        return part.encode(reached(instance, part.steps))


def reached(instance: Any, steps: tuple[str | int, ...]) -> Any:
    value = instance
    for step in steps:
        if value is None:
            return None
        if isinstance(step, int):
            value = value[step] if isinstance(value, list | tuple) and step < len(value) else None
        else:
            value = value.get(step) if isinstance(value, Mapping) else getattr(value, step, None)
    return value


def shadow_values(declared: Declared, instance: Any) -> dict[str, KeyPart]:
    """Return the shadow columns of an instance: encoded index parts, missing where a part is missing or a sentinel."""
    out: dict[str, KeyPart] = {}
    for column, shadow in declared.shadows:
        value = reached(instance, shadow.steps)
        if value is not None and value not in shadow.sentinels:
            out[column] = shadow.encode(value)
    return out


def shard_of(key: tuple[KeyPart, ...], shards: int) -> int:
    """Return the shard a key belongs to; the same for ever, on every engine."""
    return crc32("\x1f".join(str(value) for value in key).encode("utf-8", "surrogatepass")) % shards
