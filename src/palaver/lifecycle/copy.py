"""Copying a stack into another one: records, images, claims, jobs, objects, and the place in the feed.

Everything is copied as it is stored, revisions and marks included, so that the target is the source under another URL. A
copy that was cut off anywhere goes on where it was; until it has ended, nobody can open the target as a store.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from palaver.errors import ConfigError, Conflict, PalaverError, Unavailable
from palaver.lifecycle.copy_blobs import Objects
from palaver.lifecycle.copy_clashes import Clash, refuse_clashes, settle_claims
from palaver.lifecycle.copy_ends import (
    INTO,
    End,
    can_take_in,
    copy_known_keys,
    exists_as_declared,
    fingerprint,
    is_empty,
    refuse_an_unfinished,
    refuse_other_keys,
    schema_kept,
)
from palaver.lifecycle.copy_follow import Follower
from palaver.lifecycle.copy_progress import Progress
from palaver.lifecycle.copy_records import FirstPass

ROUNDS = 3
LOST = "If it is lost for good, `palaver copy FROM TO --promote` says what the target has, and opens it."


class Watch:
    """What is told while a copy runs; override what you want to hear."""

    def records(self, table: str, count: int) -> None:
        """Hear that so many more records of a table are in the target."""

    def objects(self, count: int) -> None:
        """Hear that so many more objects are."""

    def clash(self, clash: Clash) -> None:
        """Hear of two records that would hold one unique value; nothing is copied."""

    def lag(self, positions: int, seconds: float) -> None:
        """Hear that the target is so many feed positions behind, and how old the newest change it has is."""


@dataclass
class Copied:
    """What one run of a copy did. `settled`: nobody wrote to the source during the last pass."""

    records: Mapping[str, int] = field(default_factory=dict)
    objects: int = 0
    bytes: int = 0
    removed_objects: int = 0
    followed: int = 0
    mended: int = 0
    throttled: int = 0
    lag: int = 0
    resumed: bool = False
    finished: bool = False
    settled: bool = False


class Copy:
    """One copy from a source into a target, both opened."""

    def __init__(
        self, source: End, target: End, *, into_existing: bool = False, provision: bool = False, watch: Watch | None = None
    ) -> None:
        self._source, self._target = source, target
        self._into_existing, self._provision = into_existing, provision
        self._watch = watch or Watch()
        self._counts: Counter[str] = Counter()
        self.report = Copied()

    async def run(self, *, follow: bool = False, until_caught_up: bool = False, stop: asyncio.Event | None = None) -> Copied:
        """Copy, or go on with a copy that was cut off. With `follow` it keeps up with the source until `stop` is set, and is then
        not finished: the next run goes on. With `until_caught_up` it ends, finished, when nothing is left to follow.

        Raises Conflict (a target that is not empty, another copier, a source migrated or restored meanwhile), NotProvisioned (schemas that
        differ), ConfigError (one database on both ends), Unavailable where a side cannot be reached for a minute.
        """
        progress = await self._begin()
        self.report.resumed = progress.resumed
        stop = stop or asyncio.Event()
        async with progress.held():
            objects = Objects(self._source, self._target, progress, self._watch.objects)
            follower = Follower(self._source, self._target, progress, objects)
            try:
                await self._through(progress, follower, objects, follow, until_caught_up, stop)
            except PalaverError as error:
                if not self._source.pace.gave_up:
                    raise
                raise Unavailable(
                    f"The source did not answer for a minute: {error.message}", hint=f"Run the copy again when it is back. {LOST}"
                ) from error
            finally:
                self._note(follower)
        return self.report

    async def _through(
        self, progress: Progress, follower: Follower, objects: Objects, follow: bool, until_caught_up: bool, stop: asyncio.Event
    ) -> None:
        if not progress.resumed:
            await self._refuse_itself(progress)
            await follower.begin()
            await progress.save()
        else:
            await follower.refuse_another()
        begun = await schema_kept(self._source)
        if progress.state == "copying":
            await copy_known_keys(self._source, self._target)
            await FirstPass(self._source, self._target, progress, self._told).run()
            await self._objects(objects)
            progress.state = "following"
            await progress.save()
        if follow:
            await self._follow(progress, follower, until_caught_up, stop)
            if not until_caught_up or stop.is_set():
                return
        await self._finish(progress, follower, objects, begun)

    async def _head(self) -> int:
        return (await self._target.ask(lambda: self._target.records.changes(None, 0))).head

    # --- before -----------------------------------------------------------------------------------------------------

    async def _begin(self) -> Progress:
        source, target = self._source, self._target
        if source.name == target.name:
            raise ConfigError("The source and the target are the same database.", hint="Name two.")
        can_take_in(target)
        await exists_as_declared(source, provision=False, what="source")
        await refuse_an_unfinished(source)
        await refuse_other_keys(source, target)
        await exists_as_declared(target, provision=self._provision, what="target")
        schema = source.core.schema.fingerprint
        found = await Progress.find(target)
        if found is not None and await self._goes_on(found):
            if found.schema != schema:
                raise Conflict("The schema changed since this copy was begun.", hint="Empty the target and copy again.")
            return found
        if found is None and not self._into_existing and not await is_empty(target, source):
            raise Conflict(
                "The target is not empty.",
                hint="Name an empty one; --into-existing adds to what is there, newer records staying as they are.",
            )
        if self._into_existing:
            await refuse_clashes(source, target, self._watch.clash)
        begun = Progress(target, fingerprint(source.name), schema=schema, into_existing=self._into_existing)
        if found is not None:
            begun.replaces(found)
        return begun

    async def _goes_on(self, found: Progress) -> bool:
        """Say whether to go on with the copy a target knows of; False: begin one into what is there."""
        same = found.source == fingerprint(self._source.name)
        if found.state != "finished":
            if not same:
                raise Conflict(
                    "The target is an unfinished copy of another source.", hint="Let that copy end first, or name another target."
                )
            if self._into_existing and not found.into_existing:
                raise Conflict("This copy was begun without --into-existing.", hint="Go on without it.")
            return True
        if self._into_existing:
            return False
        if found.promoted_ms:
            raise Conflict("The target was promoted: it is a database of its own.", hint="Name an empty one.")
        if same and not found.into_existing and await self._head() == found.target_head:
            found.state = "following"
            return True
        raise Conflict(
            "The target is a finished copy and has been used since." if same else "The target is not empty.",
            hint="Name an empty one; --into-existing adds to what is there, newer records staying as they are.",
        )

    async def _refuse_itself(self, progress: Progress) -> None:
        """Two URLs may name one database: what was just written into the target must not be in the source."""
        record = (await self._source.ask(lambda: self._source.records.get((INTO,))))[0]
        body: Any = record["body"] if record else {}
        if body.get("nonce") == progress.nonce:
            await progress.forget()
            raise ConfigError("The source and the target are the same database.", hint="Name two.")

    # --- during -----------------------------------------------------------------------------------------------------

    def _told(self, table: str, count: int) -> None:
        self._counts[table] += count
        self._watch.records(table, count)

    async def _objects(self, objects: Objects) -> None:
        moved = await objects.run()
        self.report.objects += moved.objects
        self.report.bytes += moved.bytes
        self.report.removed_objects += moved.removed

    async def _follow(self, progress: Progress, follower: Follower, until_caught_up: bool, stop: asyncio.Event) -> None:
        await follower.catch_up(stop.is_set)
        if not progress.searchable and not progress.into_existing and not stop.is_set():
            await follower.make_searchable()
        while not stop.is_set():
            await follower.catch_up(stop.is_set)
            positions, seconds = await follower.lag()
            self.report.lag = positions
            self._watch.lag(positions, seconds)
            if until_caught_up and not positions:
                return
            if not positions:
                await _either(follower.wait(), stop.wait())

    # --- the end ----------------------------------------------------------------------------------------------------

    async def _finish(self, progress: Progress, follower: Follower, objects: Objects, begun: dict[str, Any]) -> None:
        for _ in range(ROUNDS):
            # Read before the rows they stand for: a position too early counts nothing twice, one too late would miss something.
            positions = await follower.positions()
            await follower.catch_up_whole()
            await follower.settle()
            late = await follower.catch_up_whole()
            await self._objects(objects)
            if not late:
                break
        await follower.refuse_another_schema(begun)
        if progress.into_existing:
            await self._refuse_shared()
        else:
            await follower.make_searchable()
        await follower.position(positions)
        self.report.settled = not late
        progress.state = "finished"
        progress.target_head = await self._head()
        await progress.save()
        self.report.finished = True

    async def _refuse_shared(self) -> None:
        """Make the claims of what two databases held together; stop where writers made two records share a value meanwhile."""
        shared = await settle_claims(self._target)
        if shared:
            told = "; ".join(f"{name}: {count:,}" for name, count in sorted(shared.items()))
            raise Conflict(
                f"While this was copied, records came to hold unique values that others of the target hold: {told}.",
                hint="Change or delete them at the source, and run the copy again.",
            )

    def _note(self, follower: Follower) -> None:
        self.report.records = dict(self._counts)
        self.report.followed, self.report.mended = follower.applied, follower.repaired
        self.report.throttled = self._source.pace.throttled + self._target.pace.throttled


async def _either(*waiting: Any) -> None:
    """Return when one of them has ended."""
    tasks = [asyncio.ensure_future(each) for each in waiting]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
