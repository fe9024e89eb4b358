"""Carrying a migration out: under a lease, action by action, from a position that is stored with the data.

A migration that was cut off, by kill -9 or a power cut, is in the database whole and goes on from the action it was at;
every action may be done again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from palaver.blob_ports import BlobStore, Provisions
from palaver.clock import Clock, to_ms, us_of
from palaver.errors import ConfigError, Conflict, Fenced, Forbidden, NotProvisioned, PalaverError
from palaver.evolve import (
    Action,
    Claim,
    Fill,
    Migration,
    Names,
    Prepare,
    Rebuild,
    Release,
    Seal,
    Take,
    base_of,
    migration,
    plain_plan,
    plan_of,
    renamed,
    turned_round,
)
from palaver.migrating.claiming import Claims
from palaver.migrating.demands import Examiner
from palaver.migrating.filling import MIGRATE, fill
from palaver.migrating.sealing import Conversion
from palaver.ops import CreateTable, Delete, Guard, Op, Origin, Physical, Put, Read, RenameColumn, RenameTable, Unchanged, WriteSet, Written
from palaver.plan import Planner
from palaver.ports import MakesParts, RecordEngine, Scrubs
from palaver.system import SYSTEM, system
from palaver.values import Record

log = logging.getLogger("palaver.migrate")
LEASE_MS = 10_000
CURRENT = system("migrating", "current")
SCHEMA = system("schema", "current")
LOG = "migration"


class Outdated(NotProvisioned):
    """The database changed since a migration was planned."""


class Applied(NamedTuple):
    """One migration that was carried out."""

    number: int
    at_ms: int
    version: int
    fingerprint: str
    actions: tuple[str, ...]
    from_fingerprint: str = ""
    renamed: dict[str, Any] | None = None
    """What leads back from it; None of one that an earlier version of Palaver carried out."""


@dataclass
class _Run:
    """A migration under way, as it is stored."""

    plan: Migration
    done: int = 0
    state: dict[str, Any] = field(default_factory=dict)
    revision: int | None = None
    taken: list[Action] = field(default_factory=list)


def _silent(words: str, records: int) -> None:
    return


class Migrator:
    """Derives, applies and recounts the migrations of one database. `tell` hears of each action and of records visited.

    With `blobs` the place objects are kept in is made and set, too, where it is one that has to be.
    """

    def __init__(
        self,
        planner: Planner,
        records: RecordEngine,
        clock: Clock,
        tell: Callable[[str, int], None] = _silent,
        *,
        blobs: BlobStore | None = None,
        notice_s: float = 0.0,
    ) -> None:
        """`notice_s` is how long it waits, before it does more than add, for processes that have the database open to notice."""
        self._notice_s = notice_s
        self._planner, self._records, self._clock, self.tell, self._blobs = planner, records, clock, tell, blobs
        self._me = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._last_us = 0
        self._saving = asyncio.Lock()
        self._ready = False
        self._lost = False

    # --- looking ----------------------------------------------------------------------------------------------------

    async def pending(self, allow: Collection[str] = (), *, parts: bool = True) -> Migration:
        """Return what the database lacks, or the migration to this schema that was cut off. Who only reads needs no `parts`.

        Raises NotProvisioned where stored data would be stranded, where a newer program wrote it, and while a migration to
        another schema has not ended.
        """
        kept, schema = await self.kept(), self._planner.schema
        under_way = await self._stored_run()
        if under_way is not None:
            if under_way.plan.fingerprint == schema.fingerprint:
                return replace(under_way.plan, under_way=under_way.done)
            raise _not_ended()
        if kept and kept["name"] == schema.name and kept["version"] > schema.version:
            raise NotProvisioned(
                f"The data was written with version {kept['version']} of schema {schema.name}; this program has {schema.version}.",
                hint="Update the program, or lead the data back to this one: palaver migrate undo.",
            )
        return await self._planned(kept, allow, Names(), parts=parts)

    async def undoing(self, allow: Collection[str] = ()) -> Migration:
        """Return what leads back from the last migration; this program is the one from before it, and declares what to lead back to.

        Raises NotProvisioned where it is not, where that migration is not recorded or has not ended, and where stored data would
        be stranded: what was converted or dropped does not come back.
        """
        kept, mine = await self.kept(), self._planner.schema.fingerprint
        under_way, history = await self._stored_run(), await self.applied()
        leaves = under_way.plan.from_fingerprint if under_way is not None else kept["fingerprint"] if kept else mine
        ways = [each for each in history if (each.from_fingerprint, each.fingerprint) == (mine, leaves)]
        if under_way is not None:
            if ways and under_way.plan.fingerprint == mine:
                return replace(under_way.plan, under_way=under_way.done)
            raise _not_ended()
        if leaves == mine:
            raise NotProvisioned(
                "The data is what this program declares, so nothing leads away from it.",
                hint="Undo with the program from before the migration.",
            )
        if not ways or ways[-1].renamed is None:
            raise NotProvisioned(
                f"No migration is recorded that led from this program's schema ({mine}) to the one that is stored ({leaves}).",
                hint=leads_back(history, leaves),
            )
        return await self._planned(kept, allow, turned_round(ways[-1].renamed), parts=True)

    async def _planned(self, kept: dict[str, Any], allow: Collection[str], names: Names, *, parts: bool) -> Migration:
        physical, limits = await self._records.describe(), self._records.limits
        partitions = parts and limits.partitions
        plan = migration(self._planner, physical, kept, allow=allow, renames=limits.renames, partitions=partitions, names=names)
        return await self._with_place(plan)

    async def _with_place(self, plan: Migration) -> Migration:
        """Put before everything else what the place of objects lacks: a bucket that cannot be had ends it while nothing is done."""
        place, schema = self._blobs, self._planner.schema
        if not isinstance(place, Provisions) or not any(declared.blobs for declared in schema.entities.values()):
            return plan
        try:
            lacks = await place.lacks(schema)
        except (Forbidden, ConfigError) as error:
            if isinstance(error, ConfigError) and error.context.get("reason") != "NotImplemented":
                raise
            return replace(plan, unseen=(f"the settings of {place.called}: {error.message}",))
        prepare = (Prepare(place.called, part, words) for part, words in lacks.items())
        return replace(plan, actions=(*prepare, *plan.actions))

    async def under_way(self) -> tuple[Migration, int] | None:
        """Return the migration that was begun and not ended, and how many of its actions are done."""
        run = await self._stored_run()
        return None if run is None else (run.plan, run.done)

    async def describe(self) -> Physical:
        return await self._records.describe()

    async def kept(self) -> dict[str, Any]:
        """Return what is kept of the schema the data was written with."""
        record = await self._system(SCHEMA)
        body: Any = record["body"] if record else {}
        return dict(body)

    async def applied(self) -> list[Applied]:
        """Return the migrations that were carried out, oldest first."""
        if not await self._has_system():
            return []
        read = Read(SYSTEM.name, None, (LOG,))
        out: list[Applied] = []
        while True:
            page = await self._records.query(read)
            for record in page.records:
                body: Any = record["body"]
                what = body["at"], body["version"], body["fingerprint"], tuple(body["actions"]), body.get("from", ""), body.get("renamed")
                out.append(Applied(int(str(record["name"])), *what))
            if page.last is None:
                return out
            read = read._replace(after=page.last)

    async def unmet(self, plan: Migration) -> list[str]:
        """Return, in words with counts, what stored records do not fulfil; nothing is changed."""
        former: dict[str, dict[str, str]] = {}
        for action in plan.actions:
            match action:
                case Take(RenameTable(table, old)):
                    former.setdefault(table.name, {})[""] = old
                case Take(RenameColumn(table, old, new)):
                    former.setdefault(table.name, {})[new] = old
        unmet = await Examiner(self._planner, self._records, self._clock, self.tell).unmet(plan.demands, former)
        return unmet + await self._waiting({names[""] for table, names in former.items() if names.get("", table) != table})

    async def _waiting(self, tables: Collection[str]) -> list[str]:
        """Return which tables, about to get another name, have jobs waiting that know them by the old one."""
        found: set[str] = set()
        for scope in ("cascade", "blob") if tables else ():
            read = Read(SYSTEM.name, None, (scope,))
            while True:
                page = await self._records.query(read)
                bodies: list[Any] = [record["body"] for record in page.records]
                found |= {body["table"] for body in bodies} & set(tables)
                if page.last is None:
                    break
                read = read._replace(after=page.last)
        return [f"Table {table} has jobs waiting. Run `palaver sweep` with the program of before first." for table in sorted(found)]

    # --- applying ---------------------------------------------------------------------------------------------------

    async def apply(self, plan: Migration) -> list[Action]:
        """Carry a migration out, or go on with it where it was cut off; return the actions taken now.

        Raises NotProvisioned where it is for another schema, the database is not what it was planned against, or records
        do not fulfil what it demands; Conflict while another process carries a migration out. Then nothing was changed.
        """
        if plan.fingerprint != self._planner.schema.fingerprint:
            raise NotProvisioned(
                "The plan leads to another version of the schema than this program has.", hint="Plan again with this program."
            )
        run = await self._begin(plan)
        try:
            async with self._renewed(run):
                if not (plan.automatic or run.state or any(not isinstance(each, Prepare) for each in plan.actions[: run.done])):
                    await asyncio.sleep(self._notice_s)
                for action in plan.actions[run.done :]:
                    self.tell(action.words, 0)
                    await self._act(action, run)
                    run.taken.append(action)
                    run.done, run.state = run.done + 1, {}
                    await self._save(run)
            await self._end(run)
            if isinstance(self._records, MakesParts):
                await self._records.make_parts(us_of(self._clock))
            if isinstance(self._records, Scrubs) and any(isinstance(action, Seal) for action in plan.actions):
                # What was sealed just now is not to be found in the file any more.
                await self._records.scrub()
        except BaseException:
            with suppress(PalaverError):
                await self._save(run, until_ms=0)
            raise
        return run.taken

    async def _begin(self, plan: Migration) -> _Run:
        """Take the lease: of the migration that is under way, or of a new one once it is known to be possible."""
        self._lost = False
        found = await self._stored_run(take=True)
        if found is not None:
            if plain_plan(found.plan)["digest"] != plain_plan(plan)["digest"]:
                raise NotProvisioned("Another migration was begun and not ended.", hint="`palaver migrate apply` ends it first.")
            await self._save(found)
            return found
        if base_of(await self._records.describe(), await self.kept()) != plan.base:
            raise Outdated("The database is no longer what the plan was made against.", hint="Plan again: palaver migrate plan.")
        unmet = await self.unmet(plan)
        if unmet:
            raise NotProvisioned(" ".join(unmet), hint="Nothing was changed. Apply it again when that is mended.", schema=plan.schema)
        prepared = [action for action in plan.actions if isinstance(action, Prepare)]
        for action in prepared:
            self.tell(action.words, 0)
            await self._prepare(action)
        if not await self._has_system():
            await self._records.apply(CreateTable(SYSTEM))
            self._ready = True
        run = _Run(plan, len(prepared), taken=list(prepared))
        await self._save(run)
        return run

    async def _prepare(self, action: Prepare) -> None:
        if not isinstance(self._blobs, Provisions) or self._blobs.called != action.place:
            raise NotProvisioned(f"The plan is for {action.place}, which the URL does not name.", hint="Plan again: palaver migrate plan.")
        await self._blobs.prepare(self._planner.schema, action.part)

    async def _act(self, action: Action, run: _Run) -> None:
        """Do one action; doing it again changes nothing."""

        async def keep(state: dict[str, Any]) -> None:
            run.state = state
            await self._save(run)

        planner, schema = self._planner, self._planner.schema
        match action:
            case Take(step):
                self._now_us()  # raises where the lease is lost
                await self._records.apply(step)
            case Fill(table, columns):
                codec = planner.codec(schema.tables[table].entity)
                await fill(self._records, self._now_us, codec, columns, run.state, keep, self.tell)
            case Seal():
                await Conversion(self._records, self._now_us, planner, action, self.tell).run(run.state, keep)
            case Claim(table, _, unique):
                declared = schema.tables[table]
                await self._claims().reserve(declared, declared.uniques[unique], run.state, keep)
            case Release(entity, unique):
                await self._claims().free(entity, unique)
            case Rebuild(projection):
                await self._forget_position(projection)

    def _claims(self) -> Claims:
        return Claims(self._planner, self._records, self._clock, self._now_us, self.tell)

    async def _forget_position(self, projection: str) -> None:
        """Note that a projection is to be built anew; whoever opens the store next does it."""
        at = system("rebuild", projection)
        record: Record = {"scope": "rebuild", "name": projection, "body": {"why": "migration"}}
        await self._records.write(WriteSet((Put(at, record),), self._now_us(), MIGRATE))

    async def _end(self, run: _Run) -> None:
        """Keep the new snapshot and forget the migration in one commit."""
        number = len(await self.applied()) + 1
        about: dict[str, Any] = {
            "at": to_ms(self._clock.now()),
            "version": run.plan.version,
            "fingerprint": run.plan.fingerprint,
            "actions": [action.words for action in run.plan.actions],
            "from": run.plan.from_fingerprint,
            "renamed": renamed(run.plan.actions),
        }
        entry: Record = {"scope": LOG, "name": f"{number:08d}", "body": about}
        kept: Record = {"scope": "schema", "name": "current", "body": await self.remembered()}
        await self._commit(run, lambda mine: [Delete(CURRENT, (mine,)), Put(SCHEMA, kept), Put(system(LOG, f"{number:08d}"), entry)])

    async def remembered(self) -> dict[str, Any]:
        """Return what is kept with the data of this schema: enough to plan the next change of it."""
        schema = self._planner.schema
        tables = self._planner.tables
        extra: list[Any] = []
        for table in (await self._records.describe()).tables:
            wanted = tables.get(table.name)
            if wanted is not None:
                names = {column.name for column in wanted.columns}
                extra += [f"{table.name}.{column.name}" for column in table.columns if column.name not in names]
        body = {"name": schema.name, "version": schema.version, "fingerprint": schema.fingerprint, "snapshot": schema.snapshot()}
        return {**body, "kept": extra}

    # --- the lease --------------------------------------------------------------------------------------------------

    async def _stored_run(self, *, take: bool = False) -> _Run | None:
        """Return the migration under way; with `take`, refuse where a living process carries it out."""
        record = await self._system(CURRENT)
        if record is None:
            return None
        body: Any = record["body"]
        if take and body["holder"] != self._me and not _is_dead(body["holder"]) and to_ms(self._clock.now()) < body["until"]:
            raise Conflict("Another process carries a migration out.", hint="Try again when it has ended.")
        return _Run(plan_of(body["plan"]), body["done"], dict(body["state"]), record["_revision"])  # type: ignore[arg-type]

    async def _save(self, run: _Run, until_ms: int | None = None) -> None:
        def as_it_is(mine: Guard) -> list[Op]:
            body: dict[str, Any] = {
                "plan": plain_plan(run.plan),
                "done": run.done,
                "state": run.state,
                "holder": self._me,
                "until": to_ms(self._clock.now()) + LEASE_MS if until_ms is None else until_ms,
            }
            return [Put(CURRENT, {"scope": "migrating", "name": "current", "body": body}, (mine,))]

        await self._commit(run, as_it_is)

    async def _commit(self, run: _Run, ops: Callable[[Guard], list[Op]]) -> None:
        """Write what `ops` gives for the guard of the lease, one commit after the other. Raises Fenced where another has the lease."""
        async with self._saving:
            for _ in range(2):
                mine = Guard(Unchanged(run.revision), Origin(0, "lease"))
                result = await self._records.write(WriteSet(ops(mine), self._now_us(), MIGRATE))
                if isinstance(result, Written):
                    run.revision = result.revisions[0]
                    return
                # A renewal whose answer was lost, or that was cut off, is no other's.
                record = await self._system(CURRENT)
                body: Any = record["body"] if record else {}
                if record is None or body["holder"] != self._me:
                    break
                run.revision = record["_revision"]  # type: ignore[assignment]
            raise Fenced("Another process took the migration over.")

    @asynccontextmanager
    async def _renewed(self, run: _Run) -> AsyncIterator[None]:
        """Renew the lease while something is done that takes longer than it lasts."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(LEASE_MS / 3_000)
                try:
                    await self._save(run)
                except Fenced:
                    # Whatever is written next says so.
                    self._lost = True
                    return
                except PalaverError as error:
                    log.warning("the lease of a migration was not renewed: %s", error.code)

        task = asyncio.ensure_future(renew())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    # --- reaching ---------------------------------------------------------------------------------------------------

    async def _system(self, at: Any) -> Record | None:
        return (await self._records.get((at,)))[0] if await self._has_system() else None

    async def _has_system(self) -> bool:
        self._ready = self._ready or any(table.name == SYSTEM.name for table in (await self._records.describe()).tables)
        return self._ready

    def _now_us(self) -> int:
        """Return the instant of a write. Raises Fenced where another process has the lease: every write asks here first."""
        if self._lost:
            raise Fenced("Another process took the migration over.")
        self._last_us = max(us_of(self._clock), self._last_us + 1)
        return self._last_us


def _is_dead(holder: str) -> bool:
    """Say whether a process of this machine that held the lease is certainly gone."""
    host, pid, _ = holder.rsplit("/", 2)
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _not_ended() -> NotProvisioned:
    return NotProvisioned("A migration was begun and has not ended.", hint="End it with its own program: palaver migrate apply.")


def leads_back(history: Sequence[Applied], leaves: str) -> str:
    """Say which program leads back from a schema: the one of before it was first there, for later it may have been led back to."""
    first = next((each for each in history if each.fingerprint == leaves), None)
    if first is None or first.renamed is None or not first.from_fingerprint:
        return "What was there before is not recorded: restore a backup."
    before = first.from_fingerprint
    known = next((f"version {each.version} ({before})" for each in history if each.fingerprint == before), before)
    return f"Undo with the program of {known} first; once for each migration, newest first."
