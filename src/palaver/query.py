"""What is asked: frozen values that name an entity, an index and a range. A store runs them; they hold no connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from palaver.errors import Expression, Validation
from palaver.expr import And, Condition
from palaver.ops import Bound
from palaver.values import KeyPart

if TYPE_CHECKING:
    from palaver.entity import Entity
    from palaver.keys import AccessPath

E = TypeVar("E", bound="Entity", covariant=True)


def check_limit(n: object) -> None:
    """Raise Validation for what is no number of records to read."""
    if type(n) is not int or n < 1:
        raise Validation("A limit is a whole number of at least 1.")


def check_seconds(n: object) -> None:
    """Raise Validation for what is no time to wait."""
    if type(n) not in (int, float) or not n >= 0:  # type: ignore[operator]
        raise Validation("A time to wait is a number of seconds, 0 or more.")


@dataclass(frozen=True, slots=True)
class At(Generic[E]):
    """One record, by its key: `Message.at(conversation_id, message_id)`.

    The address of an instance knows its tenant, and serves no store of another.
    """

    entity: type[E]
    key: tuple[KeyPart, ...]
    tenant: str | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"{self.entity.__name__}.at(…)"


@dataclass(frozen=True, slots=True)
class UniqueAt(Generic[E]):
    """One record, by a `Unique` declaration: looked up through its reservation, strongly consistent."""

    entity: type[E]
    name: str
    values: tuple[KeyPart, ...]

    def __repr__(self) -> str:
        return f"{self.entity.__name__}.{self.name}(…)"


@dataclass(frozen=True, slots=True)
class Query(Generic[E]):
    """Records of one partition of a key or index, in the order of its sort part.

    Oldest (smallest) first unless `newest_first()`. The values were checked and encoded when it was built.
    """

    entity: type[E]
    path: AccessPath
    partition: tuple[KeyPart, ...]
    fixed: tuple[KeyPart, ...] = ()
    bounds: tuple[Bound, ...] = ()
    descending: bool = False
    most: int | None = None
    condition: Condition | None = None

    def __repr__(self) -> str:
        return f"{self.entity.__name__}.{self.path.name}(…)"

    def between(self, low: object, high: object) -> Query[E]:
        """Keep sort values from `low` to `high`, both included."""
        return self._narrow((">=", low), ("<=", high))

    def after(self, value: object) -> Query[E]:
        """Keep sort values above `value`."""
        return self._narrow((">", value))

    def since(self, value: object) -> Query[E]:
        """Keep sort values from `value` on."""
        return self._narrow((">=", value))

    def before(self, value: object) -> Query[E]:
        """Keep sort values below `value`."""
        return self._narrow(("<", value))

    def starting_with(self, prefix: str) -> Query[E]:
        """Keep sort values that begin with a text."""
        part = self._part()
        if part.column_kind != "text" or not part.as_written:
            raise Expression(
                f"{self!r} cannot narrow by starting_with(): {part.path} is not stored as the text it is written as.",
                hint="Use between().",
                index=self.path.name,
            )
        return self._with(bounds=(*self.bounds, Bound("prefix", part.prefix(prefix))))

    def newest_first(self) -> Query[E]:
        """Reverse the order."""
        return self._with(descending=True)

    def limit(self, n: int) -> Query[E]:
        """Stop after `n` records that match."""
        check_limit(n)
        return self._with(most=n)

    def filter(self, condition: Condition) -> Query[E]:
        """Drop records after reading them; they still cost what reading them costs."""
        bound = self.entity.bind(condition)
        return self._with(condition=bound if self.condition is None else And((self.condition, bound)))

    def _narrow(self, *bounds: tuple[Any, object]) -> Query[E]:
        part = self._part()
        return self._with(bounds=(*self.bounds, *(Bound(op, part.encode(value)) for op, value in bounds)))

    def _part(self) -> Any:
        parts = self.path.sort
        if len(self.fixed) >= len(parts):
            raise Expression(
                f"{self!r} has no sort part left to narrow.",
                hint="Add sort= to the declaration, or pass fewer values.",
                index=self.path.name,
            )
        return parts[len(self.fixed)]

    def _with(
        self,
        bounds: tuple[Bound, ...] | None = None,
        descending: bool | None = None,
        most: int | None = None,
        condition: Condition | None = None,
    ) -> Query[E]:
        # Written out because dataclasses.replace costs more than reading the record that is asked for.
        return Query(
            self.entity,
            self.path,
            self.partition,
            self.fixed,
            self.bounds if bounds is None else bounds,
            self.descending if descending is None else descending,
            self.most if most is None else most,
            self.condition if condition is None else condition,
        )
