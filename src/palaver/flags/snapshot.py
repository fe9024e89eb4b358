"""Everything that was set, at one moment, in memory: what a call gets is decided here, without waiting for anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple

import orjson
from typing_extensions import TypeVar

from palaver.clock import from_ms, to_ms
from palaver.flags.declaring import Experiment, Flag, FlagSet, copied
from palaver.flags.records import ANY, EVERYBODY, HEAD, ROLLOUT, FlagRecord
from palaver.flags.splitting import takes_part, variant_of

T = TypeVar("T", default=Any)
Reason = Literal["target", "rollout", "split", "everybody", "default", "mismatch", "unread"]
Place = tuple[str, str, str]
_FORMAT = 1


class Stored(NamedTuple):
    """One record: what was set for a flag and a scope, the whole of it where `scope` has no targets. None: taken back."""

    flag: str
    scope: str
    target: str
    value: Any
    share: int | None
    by: str
    reason: str
    changed_ms: int
    revision: int

    @property
    def place(self) -> Place:
        return (self.flag, self.scope, self.target)

    @property
    def is_set(self) -> bool:
        return self.value is not None or self.share is not None

    @property
    def changed(self) -> datetime:
        return from_ms(self.changed_ms)


def stored(record: FlagRecord) -> Stored:
    return Stored(
        record.flag,
        record.scope,
        record.target,
        record.value,
        record.share,
        record.by,
        record.reason,
        to_ms(record.changed),
        record.revision,
    )


@dataclass(frozen=True, slots=True)
class Evaluation(Generic[T]):
    """What a call got, and why.

    `reason`: "target" (set for one of its targets), "rollout" (within its percentage), "split" (the experiment's hash),
    "everybody" (set for all), "default"; and with the default as well "mismatch" (what is stored is of another type) and
    "unread" (nothing could be read yet). `revision` is that of the record that decided, 0 where none did.
    """

    flag: str
    value: T
    reason: Reason
    scope: str = ""
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """A stored value that does not fit the declaration, or a flag this program does not declare."""

    flag: str
    scope: str
    what: Literal["mismatch", "undeclared"]


@dataclass(slots=True)
class _Rules:
    """What is set for one flag, by scope."""

    targets: dict[str, dict[str, Stored]] = field(default_factory=dict)
    rollout: Stored | None = None
    everybody: Stored | None = None


class Snapshot:
    """What was set when the head of the records was of a revision; `version` is that revision, 0 before anything was set."""

    def __init__(self, flags: FlagSet, entries: Iterable[Stored], version: int) -> None:
        self.flags, self.version = flags, version
        self.entries: dict[Place, Stored] = {entry.place: entry for entry in entries if entry.scope != HEAD}
        self._rules: dict[str, _Rules] = {}
        for entry in self.entries.values():
            if entry.is_set:
                self._add(entry)
        self._unfit: set[Place] = set()
        self.problems = tuple(sorted(set(self._find_problems()), key=lambda problem: (problem.flag, problem.scope)))

    def _add(self, entry: Stored) -> None:
        rules = self._rules.setdefault(entry.flag, _Rules())
        match entry.scope:
            case "rollout":
                rules.rollout = entry
            case "everybody":
                rules.everybody = entry
            case scope:
                rules.targets.setdefault(scope, {})[entry.target] = entry

    def _find_problems(self) -> Iterable[Problem]:
        for entry in self.entries.values():
            flag = self.flags.flags.get(entry.flag)
            if flag is None:
                yield Problem(entry.flag, "", "undeclared")
            elif entry.is_set and not _fits(flag, entry):
                self._unfit.add(entry.place)
                yield Problem(entry.flag, entry.scope, "mismatch")

    def with_entry(self, entry: Stored) -> Snapshot:
        """Return the snapshot with one record in place of an older one."""
        known = self.entries.get(entry.place)
        if known is not None and known.revision > entry.revision:
            return self
        return Snapshot(self.flags, [*self.entries.values(), entry], self.version)

    def evaluate(self, flag: Flag[T], context: Mapping[str, str | int | None]) -> Evaluation[T]:
        """Return what a call gets: the value set for its most particular target, for its share, for everybody, or the default."""
        rules = self._rules.get(flag.name, _NONE)
        if rules.targets:
            for scope in self.flags.targets:
                who = context.get(scope)
                if who is not None and (entry := rules.targets.get(scope, {}).get(str(who))) is not None:
                    return self._decided(flag, entry, "target")
        unit = context.get(self.flags.unit)
        if unit is not None and (split := self._split(flag, rules, str(unit))) is not None:
            return split
        if rules.everybody is not None:
            return self._decided(flag, rules.everybody, "everybody")
        return Evaluation(flag.name, flag.copied_default(), "default")

    def _split(self, flag: Flag[T], rules: _Rules, unit: str) -> Evaluation[T] | None:
        if isinstance(flag, Experiment):
            if not takes_part(flag.name, flag.salt, unit, _share(flag, rules)):
                return None
            variant: Any = variant_of(flag.name, flag.salt, unit, flag.weights)
            return Evaluation(flag.name, variant, "split", ROLLOUT, 0 if rules.rollout is None else rules.rollout.revision)
        if rules.rollout is not None and takes_part(flag.name, flag.salt, unit, rules.rollout.share or 0):
            return self._decided(flag, rules.rollout, "rollout")
        return None

    def _decided(self, flag: Flag[T], entry: Stored, reason: Reason) -> Evaluation[T]:
        if entry.place in self._unfit:
            # Nobody knows what was meant, and the next wider scope may say the opposite.
            return Evaluation(flag.name, flag.copied_default(), "mismatch", entry.scope, entry.revision)
        return Evaluation(flag.name, copied(flag.taken(entry.value)), reason, entry.scope, entry.revision)

    def fits(self, entry: Stored) -> bool:
        """Say whether what is stored is of the type that is declared."""
        return entry.place not in self._unfit

    def needs_unit(self, flag: Flag[Any]) -> bool:
        """Say whether what a call gets depends on who it is for."""
        rules = self._rules.get(flag.name, _NONE)
        return rules.rollout is not None or (isinstance(flag, Experiment) and rules.everybody is None)

    def differing(self, other: Snapshot | None) -> frozenset[str]:
        """Return the names of the flags set otherwise than in another snapshot."""
        theirs = {} if other is None else other.entries
        places = self.entries.keys() | theirs.keys()
        return frozenset(place[0] for place in places if _said(self.entries.get(place)) != _said(theirs.get(place)))

    def packed(self) -> bytes:
        """Return a form for the cache."""
        return orjson.dumps([_FORMAT, self.version, [list(entry) for entry in self.entries.values()]])


_NONE = _Rules()


def unpacked(flags: FlagSet, data: bytes) -> Snapshot | None:
    """Return the snapshot of a cached form; None for what another program put there."""
    try:
        match orjson.loads(data):
            case [format, int(version), list(entries)] if format == _FORMAT:
                return Snapshot(flags, [_entry(entry) for entry in entries], version)
    except (ValueError, TypeError):
        pass
    return None


def _entry(parts: Any) -> Stored:
    match parts:
        case [str(), str(), str(), _, int() | None, str(), str(), int(), int()]:
            return Stored(*parts)
    raise ValueError("not an entry")


def _fits(flag: Flag[Any], entry: Stored) -> bool:
    if entry.scope == ROLLOUT:
        return entry.share is not None and (entry.value is None if isinstance(flag, Experiment) else flag.accepts(entry.value))
    return flag.accepts(entry.value)


def _share(flag: Experiment, rules: _Rules) -> int:
    """Return how many take part: as many as were let in, or as declared unless a value was set for everybody, which ends it."""
    if rules.rollout is not None:
        return rules.rollout.share or 0
    return flag.share if rules.everybody is None else 0


def _said(entry: Stored | None) -> tuple[Any, int | None]:
    return (None, None) if entry is None else (entry.value, entry.share)


__all__ = ["ANY", "EVERYBODY", "HEAD", "ROLLOUT", "Evaluation", "Place", "Problem", "Reason", "Snapshot", "Stored", "stored", "unpacked"]
