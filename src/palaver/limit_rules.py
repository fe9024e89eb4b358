"""What a declaration of rate limits is and has to be, and what a call may name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from palaver.caching import Limit
from palaver.errors import SchemaError, Validation, did_you_mean

Away = Literal["open", "closed", "local"]

_ALIKE = 0.8
"""How alike a name is to one that rules count by to be a misspelling: usr is, user_id is not."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A limit, whom it counts by, and what it says while the cache is away.

    `by` names subjects: "user", "ip", "endpoint", "account" or whatever the application calls its own; several together count
    each combination, and none counts everybody together. "operation" is known by itself. A rule may be named for several
    operations, which then share what it allows.

    While the cache is away "open" allows, "closed" refuses, and "local" counts in this process, from nothing: with several
    processes each allows as much.
    """

    limit: Limit
    by: str | tuple[str, ...] = "user"
    away: Away = "local"

    def __post_init__(self) -> None:
        by = _checked_by(self.limit, self.by)
        if self.away not in ("open", "closed", "local"):
            raise SchemaError(f"Rule {self.limit.name} is open, closed or local while the cache is away.")
        object.__setattr__(self, "by", by)

    @property
    def name(self) -> str:
        return self.limit.name


def _checked_by(limit: object, by: object) -> tuple[str, ...]:
    """Return the names a rule counts by; raises SchemaError for what are none."""
    if not isinstance(limit, Limit):
        raise SchemaError("A Rule has a Limit.", hint='Write Rule(Limit("message", 60, per_s=60), by="user").')
    names: tuple[Any, ...] = (by,) if isinstance(by, str) else tuple(by) if isinstance(by, Iterable) else (by,)
    if len(set(map(repr, names))) < len(names) or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise SchemaError(
            f"Rule {limit.name} counts by names, each once, such as user or ip.",
            hint='Write by="user" or by=("user", "endpoint"); the amount belongs to its Limit.',
        )
    return names


def checked_rules(rules: object) -> dict[str, tuple[Rule, ...]]:
    """Return the rules of each operation; raises SchemaError for what are none, or contradict each other."""
    hint = 'Write Limits(cache, {"message": [Rule(…), Rule(…)]}).'
    if not isinstance(rules, Mapping) or not all(isinstance(operation, str) and operation for operation in rules):
        raise SchemaError("Limits are rules by the names of operations.", hint=hint)
    found: dict[str, tuple[Rule, ...]] = {}
    for operation, declared in rules.items():
        several = tuple(declared) if isinstance(declared, Iterable) else (declared,)
        if isinstance(declared, Rule) or not all(isinstance(rule, Rule) for rule in several):
            raise SchemaError(f"Operation {operation} has a list of Rule objects.", hint=hint)
        found[operation] = several
    _check_contradictions(found)
    return found


def _check_contradictions(rules: Mapping[str, Sequence[Rule]]) -> None:
    seen: dict[str, Rule] = {}
    for operation, declared in rules.items():
        if len({rule.name for rule in declared}) < len(declared):
            raise SchemaError(f"Operation {operation} names a limit twice.", hint="Limits have names of their own.")
        for rule in declared:
            other = seen.setdefault(rule.name, rule)
            if (other.by, other.limit.packed, other.limit.family) != (rule.by, rule.limit.packed, rule.limit.family):
                raise SchemaError(f"Limit {rule.name} is declared in two ways.", hint="One name is one limit by one kind of subject.")


class Spelling:
    """Subjects as calls name them. `amounts` may want more than rules count by, so only what looks like a known one is refused."""

    def __init__(self, rules: Mapping[str, Sequence[Rule]]) -> None:
        self._known = {name for declared in rules.values() for rule in declared for name in rule.by} | {"operation"}
        self._others: set[str] = set()

    def check(self, subjects: Mapping[str, str]) -> None:
        """Raise Validation for a name that no rule has, and that is nearly one of theirs."""
        if subjects.keys() <= self._known:
            return
        for name in subjects.keys() - self._known - self._others:
            if near := get_close_matches(name, sorted(self._known), n=1, cutoff=_ALIKE):
                raise Validation(f"No limit counts by {name}.", hint=f"Did you mean {near[0]}?")
            # Names of keyword arguments: a program has a few.
            self._others.add(name)


def checked_costs(operation: str, cost: Any, token: object, rules: Sequence[Rule]) -> list[int]:
    """Return what a call charges to each rule; raises Validation for what is no cost, for one of no limit, and for what is no token."""
    names = [rule.name for rule in rules]
    if isinstance(cost, Mapping):
        for name in cost:
            if name not in names:
                raise Validation(f"Operation {operation} has no limit {name}.", hint=did_you_mean(name, names))
    costs = [cost.get(name, 1) for name in names] if isinstance(cost, Mapping) else [cost] * len(names)
    whole = isinstance(cost, int | Mapping) and all(isinstance(units, int) and units >= 0 for units in costs)
    if not whole or not isinstance(token, str):
        raise Validation(
            "A cost is a whole number that is not negative, or one for each limit by its name, and a token is a text.",
            hint='Write cost=3, cost={"tokens.day": 1_500} or token="message 4711".',
        )
    return costs
