"""Batches as values: writes listed, tested and composed before a store runs them, all or none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, fields, is_dataclass
from hashlib import sha256
from typing import Any, TypeAlias

from pydantic import BaseModel, SecretBytes, SecretStr

from palaver.entity import Entity
from palaver.errors import Validation
from palaver.expr import Condition
from palaver.large_object import LargeObject
from palaver.misuse import TARGET, check, wrong
from palaver.query import At


@dataclass(frozen=True, slots=True)
class UnchangedSince:
    """The record still has the revision it had when it was read."""

    revision: int


def unchanged(entity: Entity) -> UnchangedSince:
    """Return the condition that nobody wrote the record since this instance was read."""
    if not entity.revision:
        raise Validation(f"This {type(entity).__name__} was never read from a store, so it has no revision.", hint="get() it first.")
    return UnchangedSince(entity.revision)


When: TypeAlias = "Condition | UnchangedSince | None"


@dataclass(frozen=True, slots=True)
class Create:
    entity: Entity


@dataclass(frozen=True, slots=True)
class Put:
    entity: Entity
    when: When = None


@dataclass(frozen=True, slots=True)
class Patch:
    at: At[Entity]
    set: Mapping[str, Any] = field(default_factory=dict)
    add: Mapping[str, Any] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    when: When = None


@dataclass(frozen=True, slots=True)
class Delete:
    at: At[Entity]
    when: When = None


@dataclass(frozen=True, slots=True)
class Check:
    at: At[Entity]
    when: When = None


Asked: TypeAlias = Create | Put | Patch | Delete | Check


def at(target: At[Any] | Entity) -> At[Any]:
    """Return the address of an instance, or the address itself. Raises Validation for anything else."""
    found = target if isinstance(target, At) else getattr(target, "address", None)
    if not isinstance(found, At):
        check(TARGET, target)
    return found  # type: ignore[return-value]


def _names(given: object) -> tuple[str, ...]:
    # The letters of one name are names as well.
    names = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else (given,)
    for name in names:
        if not isinstance(name, str):
            raise wrong("the names of fields", name, 'Write remove=["title"].')
    return names


def _fields(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if given is None:
        return {}
    if type(given) is not dict and not isinstance(given, Mapping):
        raise wrong("a mapping from fields to values", given, 'Write set={"title": "…"}, add={"count": 1}.')
    return given


@dataclass(frozen=True, slots=True)
class Batch:
    """Writes that happen together or not at all: at most 100 ops and 4 MB after expansion, one write per record.

    Each method returns a longer batch; `+` joins two. `len` counts what was asked, not what it expands to.
    """

    ops: tuple[Asked, ...] = ()

    def create(self, entity: Entity) -> Batch:
        return Batch((*self.ops, Create(entity)))

    def put(self, entity: Entity, *, when: When = None) -> Batch:
        return Batch((*self.ops, Put(entity, when)))

    def patch(
        self,
        target: At[Any] | Entity,
        *,
        set: Mapping[str, Any] | None = None,
        add: Mapping[str, Any] | None = None,
        remove: Iterable[str] = (),
        when: When = None,
    ) -> Batch:
        gone = _names(remove) if remove else ()
        return Batch((*self.ops, Patch(at(target), _fields(set), _fields(add), gone, when)))

    def delete(self, target: At[Any] | Entity, *, when: When = None) -> Batch:
        return Batch((*self.ops, Delete(at(target), when)))

    def check(self, target: At[Any] | Entity, *, when: When = None) -> Batch:
        """Require that a record exists, and that `when` is true of it, without writing it."""
        return Batch((*self.ops, Check(at(target), when)))

    def created(self) -> list[Entity] | None:
        """Return the instances of a batch that only creates; None for any other."""
        created = [op.entity for op in self.ops if type(op) is Create]
        return created if len(created) == len(self.ops) else None

    def __add__(self, other: Batch) -> Batch:
        return Batch(self.ops + other.ops) if isinstance(other, Batch) else NotImplemented  # type: ignore[redundant-expr]

    def __len__(self) -> int:
        return len(self.ops)

    def __iter__(self) -> Iterator[Asked]:
        return iter(self.ops)


def asked_at(op: Asked) -> At[Any]:
    """Return the address an op is about."""
    return op.entity.address if isinstance(op, Create | Put) else op.at


def fingerprinted(batch: Batch) -> bytes:
    """Return a text of what the caller set, to be hashed: nothing that defaults fill in is in it, so that a retry is a retry.

    The same in every process: it depends on no order of sets and mappings. It holds every value, secrets included.
    """
    return repr([given(op) for op in batch.ops]).encode("utf-8", "surrogatepass")


def fingerprint(batch: Batch) -> str:
    """Return a hash of what the caller set."""
    return sha256(fingerprinted(batch)).hexdigest()


def given(value: Any) -> object:
    """Return nested lists of texts that say what was set, whatever the order it was said in."""
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, SecretStr | SecretBytes):
        # It would show the same for every value.
        return repr(value.get_secret_value())
    if isinstance(value, LargeObject):
        return [value.sha256, value.size]
    if isinstance(value, BaseModel):
        return [type(value).__name__, sorted((name, repr(given(getattr(value, name)))) for name in value.model_fields_set)]
    if is_dataclass(value):
        return [type(value).__name__, [given(getattr(value, part.name)) for part in fields(value) if part.compare]]
    if isinstance(value, Mapping):
        return ["map", sorted((repr(name), repr(given(inner))) for name, inner in value.items())]
    if isinstance(value, Set):
        return ["set", sorted(repr(given(inner)) for inner in value)]
    if isinstance(value, list | tuple):
        return [given(inner) for inner in value]
    return repr(value)
