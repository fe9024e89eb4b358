"""Flags whose truth lies in the records: asked without waiting, changed by anybody who may, current everywhere within a second."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self, TypeVar, overload

from palaver.batch import Batch
from palaver.errors import ConfigError, Conflict, Validation
from palaver.flags.current import Current, Source, Watcher
from palaver.flags.declaring import Experiment, Flag, FlagSet, share_of
from palaver.flags.exposures import Exposures, refuse_foreign
from palaver.flags.history import Changed, history_of
from palaver.flags.records import ANY, EVERYBODY, HEAD, ROLLOUT, ExposureRecord, FlagRecord
from palaver.flags.report import Ratings, Report, report
from palaver.flags.snapshot import Evaluation, Problem, Stored, stored
from palaver.ports import Cache
from palaver.store import Store

T = TypeVar("T")
ATTEMPTS = 5
LATE_S = 2.0

Target = str | int | None


@dataclass(frozen=True, slots=True)
class Setting:
    """A value that is set: for everybody, for a share of the users ("rollout", with its `percent`), or for one target."""

    scope: str
    target: str
    value: Any
    percent: float | None
    by: str
    reason: str
    changed: datetime
    fits: bool


@dataclass(frozen=True, slots=True)
class FlagState:
    """A flag as it is declared, with everything that is set for it; one that is set and not declared has no kind and no default."""

    name: str
    kind: str
    default: Any
    about: str
    declared: bool
    settings: tuple[Setting, ...]
    variants: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class FlagsHealth:
    """How the flags of this process are.

    "degraded": the records did not answer lately; what was read last holds (`source` "records" or "cache", so many seconds ago),
    or, where nothing could ever be read, the declared defaults. `problems`: what is stored and does not fit the declaration.
    """

    status: Literal["ok", "degraded"]
    source: Source
    checked_ago_s: float | None
    error: str
    hearing: bool
    problems: tuple[Problem, ...]
    exposures_waiting: int = 0
    exposures_dropped: int = 0
    exposures_error: str = ""


class Opening:
    """What `Flags.open` returns: await it and close the flags yourself, or `async with` it."""

    def __init__(self, flags: Flags) -> None:
        self._flags = flags

    def __await__(self) -> Generator[Any, None, Flags]:
        return self._flags._start().__await__()

    async def __aenter__(self) -> Flags:
        return await self._flags._start()

    async def __aexit__(self, *exc: object) -> None:
        await self._flags.aclose()


class Flags:
    """The flags of one process.

    Of what is set the most particular holds: for the user, for the channel (the set's `targets`, in their order), for the share
    of users in a rollout, for everybody; else the default. Asking never waits: it looks at the last snapshot. While the records
    are away that snapshot holds, and where none could be read, not even from the cache, the declared defaults; `health` says so.
    """

    def __init__(
        self,
        store: Store,
        flags: FlagSet,
        entity: type[FlagRecord],
        *,
        exposures: type[ExposureRecord] | None = None,
        cache: Cache | None = None,
        poll_s: float | None = None,
    ) -> None:
        """Use `Flags.open`."""
        refuse_foreign(entity, FlagRecord)
        self.declared = flags
        self._store, self._entity, self._exposed = store, entity, exposures
        self._whose = _whose(store, entity)
        self._current = Current(store, flags, entity, cache=cache or store.cache, poll_s=poll_s)
        self._exposures: Exposures | None = None
        if exposures is not None:
            refuse_foreign(exposures, ExposureRecord)
            store.schema.of(exposures)

    @staticmethod
    def open(
        store: Store,
        flags: FlagSet,
        entity: type[FlagRecord],
        *,
        exposures: type[ExposureRecord] | None = None,
        cache: Cache | None = None,
        poll_s: float | None = None,
    ) -> Opening:
        """Read what is set and stay current, in the background, until `aclose`, which comes before the store's.

        `cache` is the store's unless another is given. `poll_s` is the pace of looking after the feed: 5 seconds, and half a second
        where the database's feed may come late. Records that cannot be reached are no error: the flags begin with what the cache
        has, or with the defaults. Raises SchemaError, TenantMismatch, NotProvisioned: what waiting does not mend.
        """
        return Opening(Flags(store, flags, entity, exposures=exposures, cache=cache, poll_s=poll_s))

    async def _start(self) -> Self:
        if self._exposed is not None:
            self._exposures = Exposures(self._store, self._exposed, whose=_whose(self._store, self._exposed))
        await self._current.start()
        return self

    async def aclose(self) -> None:
        """Stop, and write the exposures that wait; raises what the store raises where they could not be written."""
        await self._current.aclose()
        if self._exposures is not None:
            await self._exposures.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    # --- asking -------------------------------------------------------------------------------------------------------

    @overload
    def value(self, flag: Flag[T], /, **targets: Target) -> T: ...
    @overload
    def value(self, flag: str, /, **targets: Target) -> Any: ...
    def value(self, flag: str | Flag[Any], /, **targets: Target) -> Any:
        """Return the value of a flag for these targets (`user="u1"`, `channel="discord"`), of its default's type, at once.

        Raises Validation for a flag or a target that is not declared, and nothing else.
        """
        return self.evaluate(flag, **targets).value

    @overload
    def evaluate(self, flag: Flag[T], /, **targets: Target) -> Evaluation[T]: ...
    @overload
    def evaluate(self, flag: str, /, **targets: Target) -> Evaluation[Any]: ...
    def evaluate(self, flag: str | Flag[Any], /, **targets: Target) -> Evaluation[Any]:
        """Return the value with the reason for it."""
        found = self.declared[flag]
        self.declared.check_targets(targets)
        snapshot = self._current.snapshot
        if snapshot is None:
            return Evaluation(found.name, found.copied_default(), "unread")
        return snapshot.evaluate(found, targets)

    def variant(self, experiment: str | Experiment, /, **targets: Target) -> str:
        """Return the variant of an experiment, and note nothing; raises Validation for a flag that is none."""
        variant: str = self.value(self._experiment(experiment), **targets)
        return variant

    def expose(self, experiment: str | Experiment, /, **targets: Target) -> str:
        """Return the variant, and note that the user sees it: stored once for each user, in the background, with the first time.

        Only what the hash decided is noted: a variant that was set for somebody says nothing about the others. Never waits,
        from any thread, and never raises for the records; `flush` waits until what was noted is stored.
        """
        exposures = self.check_exposing()
        found = self._experiment(experiment)
        evaluation: Evaluation[str] = self.evaluate(found, **targets)
        if evaluation.reason == "split":
            exposures.note(found.name, str(targets[self.declared.unit]), evaluation.value, self._store.clock.now())
        return evaluation.value

    def check_exposing(self) -> Exposures:
        """Return where exposures go; raise ConfigError where they are not kept."""
        if self._exposures is None:
            raise ConfigError("These flags keep no exposures.", hint="Give Flags.open exposures=, an entity derived from ExposureRecord.")
        return self._exposures

    async def flush(self) -> None:
        """Store the exposures that wait; raises what the store raises, and then they still wait."""
        if self._exposures is not None:
            await self._exposures.flush()

    def _experiment(self, flag: str | Experiment) -> Experiment:
        found = self.declared[flag]
        if not isinstance(found, Experiment):
            raise Validation(f"{found.name} is no experiment.", hint="Ask for its value.", flag=found.name)
        return found

    # --- changing -----------------------------------------------------------------------------------------------------

    async def set(self, flag: str | Flag[Any], value: Any, /, *, by: str | None = None, reason: str = "", **target: Target) -> Setting:
        """Set a value for one target, or for everybody where none is given; what was set there before is replaced.

        This process has it when this returns, every other one within a second. `by` is the store's actor unless it is given.
        Raises Validation for a value of another type than the default's, and what the store raises.
        """
        found = self.declared[flag]
        found.check(value)
        scope, who = self._place(target)
        return await self._write(found.name, scope, who, found.taken(value), None, by, reason)

    async def unset(self, flag: str | Flag[Any], /, *, by: str | None = None, reason: str = "", **target: Target) -> None:
        """Take back what was set for one target, or for everybody; of a flag that is no longer declared as well."""
        scope, who = self._place(target)
        await self._write(self._known(flag), scope, who, None, None, by, reason)

    async def roll_out(
        self, flag: str | Flag[Any], /, percent: float, *, value: Any = None, by: str | None = None, reason: str = ""
    ) -> Setting:
        """Give a value to a percentage of the users, in steps of 0.01: by a hash, so a percentage that grows only adds users.

        A flag that is True or False gives the opposite of its default, another one needs a `value`. Of an experiment it is the
        percentage that takes part. It stays until `end_roll_out`, at 0 % as well.
        """
        found, share = self.declared[flag], share_of(percent)
        if isinstance(found, Experiment):
            if value is not None:
                raise Validation("Who takes part in an experiment gets its variants.", hint="Leave out the value.", flag=found.name)
            return await self._write(found.name, ROLLOUT, ANY, None, share, by, reason)
        if value is None and found.kind == "bool":
            value = not found.default
        found.check(value)
        return await self._write(found.name, ROLLOUT, ANY, found.taken(value), share, by, reason)

    async def end_roll_out(self, flag: str | Flag[Any], /, *, by: str | None = None, reason: str = "") -> None:
        """Take a rollout back: everybody who is not targeted gets what is set for everybody, or the default."""
        await self._write(self._known(flag), ROLLOUT, ANY, None, None, by, reason)

    def _known(self, flag: str | Flag[Any]) -> str:
        """Return the name of a flag that is declared, or set."""
        name = flag if isinstance(flag, str) else flag.name
        snapshot = self._current.snapshot
        is_set = snapshot is not None and any(place[0] == name for place in snapshot.entries)
        return name if is_set else self.declared[name].name

    def _place(self, target: dict[str, Target]) -> tuple[str, str]:
        self.declared.check_targets(target)
        named: dict[str, object] = {scope: who for scope, who in target.items() if who is not None}
        if not all(isinstance(who, str | int) and not isinstance(who, bool) for who in named.values()):
            raise Validation("A target is named by a text or a whole number.", hint='Write user="u1", or channel="discord".')
        given = [(scope, str(who)) for scope, who in named.items()]
        if len(given) > 1:
            raise Validation("A value is set for one target.", hint="Set it for each of them.")
        if given and not given[0][1]:
            raise Validation("A value is set for a target that has a name.")
        return given[0] if given else (EVERYBODY, ANY)

    async def _write(self, flag: str, scope: str, target: str, value: Any, share: int | None, by: str | None, reason: str) -> Setting:
        """Write the record, and the head by whose revision every process sees that something was set, in one commit."""
        namespace, now = self.declared.name, self._store.clock.now()
        who = by if by is not None else self._store.actor or ""
        store = self._store.acting_as(who) if who else self._store
        record = self._entity(
            **self._whose,
            namespace=namespace,
            flag=flag,
            scope=scope,
            target=target,
            value=value,
            share=share,
            by=who,
            reason=reason,
            changed=now,
            user=target if scope == self.declared.unit else None,
        )
        head = self._entity(**self._whose, namespace=namespace, flag=ANY, scope=HEAD, target=ANY, changed=now)
        for attempt in range(ATTEMPTS):
            try:
                written = await store.write(Batch().put(record).put(head))
                break
            except Conflict:
                # Everything that is set meets at the head.
                if attempt == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(random.uniform(0.01, 0.05) * 2**attempt)
        made = written[0]
        assert isinstance(made, FlagRecord)
        entry = stored(made)
        self._current.merge(entry)
        return _setting(entry, True)

    # --- looking ------------------------------------------------------------------------------------------------------

    def all(self) -> list[FlagState]:
        """Return every flag that is declared or set, by name, with what is set for it, by whom and when; from the snapshot."""
        snapshot = self._current.snapshot
        by_flag: dict[str, list[Stored]] = {}
        for entry in snapshot.entries.values() if snapshot is not None else ():
            if entry.is_set:
                by_flag.setdefault(entry.flag, []).append(entry)
        return [self._state(name, by_flag.get(name, [])) for name in sorted(self.declared.flags.keys() | by_flag.keys())]

    def _state(self, name: str, entries: list[Stored]) -> FlagState:
        flag, snapshot = self.declared.flags.get(name), self._current.snapshot
        order = [EVERYBODY, ROLLOUT, *reversed(self.declared.targets)]
        entries = sorted(entries, key=lambda entry: (order.index(entry.scope) if entry.scope in order else len(order), entry.target))
        settings = tuple(_setting(entry, flag is not None and snapshot is not None and snapshot.fits(entry)) for entry in entries)
        if flag is None:
            return FlagState(name, "", None, "", False, settings)
        variants = tuple((variant, weight / 100) for variant, weight in flag.weights) if isinstance(flag, Experiment) else ()
        return FlagState(name, flag.kind, flag.copied_default(), flag.about, True, settings, variants)

    async def history(self, flag: str | Flag[Any], /) -> list[Changed]:
        """Return who changed what of a flag, when and why, the newest first; of the last 400 days.

        One that is declared no more has its history too; raises Validation for a name that is and was none.
        """
        name = flag if isinstance(flag, str) else flag.name
        changes = await history_of(self._store, self._entity, self.declared.name, name)
        if not changes:
            self.declared[name]  # says which names there are
        return changes

    async def report(
        self,
        experiment: str | Experiment,
        /,
        ratings: Ratings | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Report:
        """Return the users of each variant, and how those who rated after they first saw it did; see `VariantReport`.

        `ratings(since)` gives what the schema's feedback says, whatever it looks like. Exposures of this process are stored first.
        """
        await self.check_exposing().flush()
        assert self._exposed is not None
        return await report(self._store, self._exposed, self._experiment(experiment), ratings, since, until)

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher(names, ok)` when flags change, and when the records go away or are back; returns what ends it.

        It is called on the store's event loop, after the change is in effect, and has to be quick.
        """
        self._current.watchers.append(watcher)
        return lambda: self._current.watchers.remove(watcher) if watcher in self._current.watchers else None

    def needs_unit(self, flag: str | Flag[Any]) -> bool:
        """Say whether what a call gets depends on its user beside what was set for some."""
        snapshot = self._current.snapshot
        return snapshot is not None and snapshot.needs_unit(self.declared[flag])

    def health(self) -> FlagsHealth:
        """Return how the flags are; asks nobody."""
        seen, snapshot, exposures = self._current.seen(), self._current.snapshot, self._exposures
        ago = None if seen.checked_at is None else max(0.0, self._current.monotonic() - seen.checked_at)
        late = ago is None or ago > 2 * self._current.poll_s + LATE_S
        return FlagsHealth(
            "degraded" if seen.error or late else "ok",
            seen.source,
            ago,
            seen.error,
            seen.hearing,
            () if snapshot is None else snapshot.problems,
            0 if exposures is None else exposures.waiting,
            0 if exposures is None else exposures.dropped,
            "" if exposures is None else exposures.error,
        )


def _whose(store: Store, entity: type[FlagRecord] | type[ExposureRecord]) -> dict[str, Any]:
    """Return the tenant's field of an entity, filled in."""
    tenant = store.schema.of(entity).tenant
    return {} if tenant is None or store.tenant is None else {tenant.name: store.tenant}


def _setting(entry: Stored, fits: bool) -> Setting:
    percent = None if entry.share is None else entry.share / 100
    return Setting(entry.scope, entry.target, entry.value, percent, entry.by, entry.reason, entry.changed, fits)
