"""Bugs planted on purpose in the SQLite engine and the store: proofs that pass with one of them prove nothing."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import apsw

from palaver import cursor, feed, plan, store, upkeep
from palaver.blobs import folder
from palaver.connections import sqlite_opening, sqlite_writer
from palaver.draft import Plan
from palaver.errors import Fenced, StorageFull
from palaver.ops import MARK, Refused, Table, WriteSet, Written, is_live
from palaver.records import sqlite as records
from palaver.search.sqlite import SqliteSearch
from palaver.store import Store
from palaver.values import Record

Plant = Callable[[], AbstractContextManager[Any]]
PLANTED: dict[str, Plant] = {}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant a bug by its name for as long as the block runs; no name, no bug."""
    with PLANTED[name]() if name else nullcontext():
        yield


def replaces(holder: Any, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function the replacement of another, under its own name as the bug's."""

    def note(replacement: Callable[..., Any]) -> Callable[..., Any]:
        PLANTED[replacement.__name__] = lambda: patch.object(holder, name, replacement)
        return replacement

    return note


_prepare = sqlite_opening._prepare
_commit = sqlite_writer.Writer._commit
_write = records.SqliteRecords.write
_changes = records._changes


def _with_synchronous(level: str) -> Plant:
    def prepare(connection: apsw.Connection, options: Any) -> None:
        _prepare(connection, options)
        connection.execute(f"PRAGMA synchronous={level}")

    return lambda: patch.object(sqlite_opening, "_prepare", prepare)


PLANTED["synchronous_off"] = _with_synchronous("OFF")
PLANTED["synchronous_normal"] = _with_synchronous("NORMAL")


# --- the SQLite engine ----------------------------------------------------------------------------------------------


@replaces(sqlite_writer.Writer, "undoable")
@contextmanager
def savepoint_dropped(self: Any) -> Iterator[None]:
    yield


@replaces(sqlite_writer.Writer, "_alone")
def group_replay_dropped(self: Any, batch: Any) -> Any:
    return (batch.future, None, StorageFull())


@replaces(sqlite_writer.Writer, "_commit")
def change_in_a_second_transaction(self: Any, group: Any, answers: Any) -> Any:
    kept = [(deferred, list(deferred.rows)) for deferred in self.deferred]
    for deferred, _ in kept:
        deferred.rows.clear()
    answered = _commit(self, group, answers)
    self._begin()
    for deferred, rows in kept:
        deferred.rows.extend(rows)
    self._flush()
    self._execute("COMMIT")
    return answered


@replaces(sqlite_writer.Writer, "_commit")
def answer_before_the_commit(self: Any, group: Any, answers: Any) -> Any:
    # Not of single batches: the tables are made by those, and without tables there is nothing to lose.
    if len(group) > 1:
        self._deliver(list(answers))
        time.sleep(0.002)
    return _commit(self, group, answers)


@replaces(records.SqliteRecords, "write")
async def each_op_in_its_own_commit(self: Any, writes: WriteSet) -> Written | Refused:
    revisions: list[int | None] = []
    updated: list[Record | None] = []
    for op in writes.ops:
        done = await _write(self, writes._replace(ops=[op]))
        if isinstance(done, Refused):
            return done
        revisions += done.revisions
        updated += done.updated
    return Written(revisions, updated)


@replaces(records, "_changes")
def trimmed_is_passed_over(connection: apsw.Connection, after: int | None, limit: int) -> Any:
    try:
        return _changes(connection, after, limit)
    except Exception:
        return _changes(connection, None, limit)


# --- objects --------------------------------------------------------------------------------------------------------


@replaces(folder.Folder, "fsync_upward")
def folder_fsync_missing(self: Any, target: Path, wrote_ns: int) -> None:
    return


@replaces(folder, "_fsynced")
def object_fsync_missing(handle: int) -> int:
    return os.fstat(handle).st_ctime_ns


@replaces(upkeep.Upkeep, "_uploaded")
async def object_written_after_the_commit(self: Any, plan: Plan) -> WriteSet:
    async def upload() -> None:
        await asyncio.sleep(0.02)
        for key, data in plan.uploads:
            await self._core.blobs.put(key, data)

    self._core.late = asyncio.ensure_future(upload())
    return plan.writes


@replaces(upkeep.Upkeep, "_uploaded")
async def upload_without_a_guard(self: Any, plan: Plan) -> WriteSet:
    for key, data in plan.uploads:
        await self._core.blobs.put(key, data)
    return plan.writes


@replaces(upkeep.Upkeep, "_refers")
def reference_not_looked_for(self: Any, at: Any, record: Any, blob: str) -> bool:
    return False


# --- policy ---------------------------------------------------------------------------------------------------------


@replaces(cursor, "_mac")
def cursor_unsigned(key: bytes, body: bytes) -> bytes:
    return bytes(16)


@replaces(store, "is_live")
def expiry_filter_forgotten(table: Table, record: Record | None, now_us: int) -> bool:
    return record is not None and record.get(MARK) is None


@replaces(Store, "_is_live")
def mark_ignored(self: Any, table: Table, record: Record) -> bool:
    return is_live(table, {**record, MARK: None}, self.core.now_us())


@replaces(plan.Planner, "_token")
def token_forgotten(self: Any, *_: Any) -> None:
    return


@replaces(plan.Planner, "_reserve")
def unique_claim_forgotten(self: Any, *_: Any) -> None:
    return


# --- projections ----------------------------------------------------------------------------------------------------


@replaces(feed.Runner, "_step")
async def position_saved_before_the_work(self: Any, name: str) -> int:
    lease = await self._hold(name)
    if lease is None:
        return 0
    page = await self._records.changes(lease.position, feed.CHUNK)
    if page.changes:
        await self._save(name, lease, page.last, ())
        ops = await self.projections[name].apply(page.changes)
        await self._save(name, lease, page.last, ops)
    return len(page.changes)


@replaces(SqliteSearch, "delete")
async def documents_never_removed(self: Any, index: str, ids: Any) -> None:
    return


def _lease_ignored() -> AbstractContextManager[Any]:
    """Everybody believes to have the lease, and nobody is fenced."""
    hold, store_ = feed.Runner._hold, feed.Runner._store

    async def always(self: Any, name: str, *, steal: bool = False) -> Any:
        return await hold(self, name, steal=True)

    async def unguarded(self: Any, name: str, lease: Any, position: Any, until_ms: int, *, expected: Any, ops: Any = ()) -> None:
        try:
            await store_(self, name, lease, position, until_ms, expected=expected, ops=ops)
        except Fenced:
            return

    stack = ExitStack()
    stack.enter_context(patch.object(feed.Runner, "_hold", always))
    stack.enter_context(patch.object(feed.Runner, "_store", unguarded))
    return stack


PLANTED["lease_ignored"] = _lease_ignored
