"""A SQLite file: one writer thread that commits in groups, readers on the event loop, a small pool for long reads.

Records, search and vectors of one file share its one `Database`. What is written is theirs; when and with whom it is
committed is decided here.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import get_ident
from typing import Any, TypeVar

import apsw

from palaver.connections.sqlite_errors import translate
from palaver.connections.sqlite_log import LogCopy
from palaver.connections.sqlite_opening import Place, close_writer, open_copier, open_reader, open_writer, pragma
from palaver.connections.sqlite_options import SqliteOptions
from palaver.connections.sqlite_writer import Answer, Batch, Deferred, Job, Pace, Rollback, Together, Writer
from palaver.errors import ConfigError, OutcomeUnknown, ReadOnly, Throttled
from palaver.process import process_id

__all__ = ["Database", "Deferred", "Job", "Rollback", "SqliteOptions"]

T = TypeVar("T")
_INLINE_S = 0.001
_POLL_S = 0.025
_STEPS = 1_000
_FEW = 64
"""Up to so many short batches, of so many bytes, are written in the event loop's thread: it works beside larger ones."""
_FEW_BYTES = 128 * 1024


class Database:
    """One open SQLite file. It belongs to the event loop and the process that opened it."""

    def __init__(self, path: Path, options: SqliteOptions, writer: apsw.Connection | None) -> None:
        self.path = path
        self.options = options
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._pid = process_id()
        self._closing = False
        self._closed: asyncio.Future[None] | None = None
        self._put = 0
        self._put_bytes = 0
        self._asked: list[Batch] = []
        self._blocked: deque[asyncio.Future[None]] = deque()
        self._watchers: set[asyncio.Future[None]] = set()
        self._poller: asyncio.TimerHandle | None = None
        self._place = Place(path)
        self._reader = open_reader(path, options)
        self._fetch = self._reader.cursor().execute
        self._limit = 0.0
        # Waiting for a lock is for the pool as well: here it would hold up the event loop.
        self._reader.set_busy_timeout(0)
        self._reader.set_progress_handler(self._is_late, _STEPS)
        self._version = self._data_version()
        #: How many times a commit of any process was noticed.
        self.commits = 0
        self._idle: SimpleQueue[apsw.Connection] = SimpleQueue()
        self._pooled: list[apsw.Connection] = []
        self._pool: ThreadPoolExecutor | None = None
        self._writer: Writer | None = None
        if writer is not None:
            pace = Pace(
                options.group_batches, options.group_bytes, options.group_ms / 1000, options.busy_timeout_s, options.checkpoint_pages
            )
            copy = LogCopy(partial(open_copier, path, options))
            self._writer = Writer(writer, pace, self._answered, self._loop.time, copy, self._place.check)
            self._writer.thread.start()
            self._at_exit = partial(_finish, self._writer, self._pid)
            atexit.register(self._at_exit)

    @staticmethod
    async def open(path: str | os.PathLike[str], *, options: SqliteOptions | None = None) -> Database:
        """Open a file, making it where allowed.

        Raises Unavailable (missing, a folder), ReadOnly, Conflict (locked), Corruption, NotProvisioned (made by a newer program).
        """
        options = options or SqliteOptions()
        if str(path) in ("", ":memory:"):
            raise ConfigError("A SQLite database needs a file.", hint="Use the memory engine for data that lives in the process only.")
        file = _absolute(path)
        writer = await asyncio.to_thread(open_writer, file, options)
        try:
            return Database(file, options, writer)
        except apsw.Error as error:
            if writer is not None:
                writer.close()
            raise translate(error) from error

    # --- writing ----------------------------------------------------------------------------------------------------

    async def write(
        self,
        job: Job[T],
        *,
        cost: int = 0,
        savepoint: bool = True,
        deadline: float | None = None,
        together: Together | None = None,
        short: bool = False,
    ) -> T:
        """Run a job in the one writer and return its result once it is durable.

        Jobs of several callers share a commit, so a job may run twice: it depends on its inputs and the file only. A job that
        raises is undone alone; `savepoint=False` promises that it has written nothing then. `cost` is what it holds in memory,
        `deadline` a time of the event loop; `together` runs jobs in a row that have the same one at once; `short` jobs that are
        few may run in the event loop's thread, for as long as commits take under a millisecond. Raises Throttled when
        the queue stays full, Conflict when another process keeps the file locked, StorageFull, Unavailable, and OutcomeUnknown
        when a COMMIT failed. A caller cancelled before its batch is taken has written nothing.
        """
        writer = self._writer
        self._check()
        if writer is None or self._blocked or not self._has_room(writer, cost):
            writer = await self._wait_for_writer(cost, deadline)
            self._check()
        future: asyncio.Future[T] = self._loop.create_future()
        self._put += 1
        self._put_bytes += cost
        self._ask(Batch(job, future, cost, savepoint, deadline, False, together, short))
        return await future

    def _ask(self, batch: Batch) -> None:
        # Whatever is ready to run in this turn of the loop runs first: what asks for a write now is handed over with this one.
        if not self._asked:
            self._loop.call_soon(self._hand_over)
        self._asked.append(batch)

    def _hand_over(self) -> None:
        """Give the batches of this turn of the loop to the writer's thread; write few that are short, and all there is, here and now."""
        batches, self._asked, writer = self._asked, [], self._writer
        if not batches or writer is None:
            return
        few = len(batches) <= _FEW and self._put - writer.taken == len(batches) and self._put_bytes - writer.taken_bytes <= _FEW_BYTES
        try:
            answers = writer.at_once(batches) if few and all(batch.short for batch in batches) else None
            if answers is None:
                writer.put(batches)
            else:
                self._deliver(answers)
        except BaseException:
            # Ctrl-C: where the loop goes on all the same, nobody may wait for ever.
            self._deliver([(batch.future, None, OutcomeUnknown("The write was interrupted.")) for batch in batches])
            raise

    def _hand_over_now(self) -> None:
        """Give what was asked for to the writer's thread without waiting for the end of this turn."""
        if self._asked and self._writer is not None:
            self._writer.put(self._asked)
            self._asked = []

    async def write_plain(self, job: Job[T], *, deadline: float | None = None) -> T:
        """Run a job in the writer thread outside any transaction: VACUUM, a checkpoint, a pragma."""
        await self._wait_for_writer(0, deadline)
        future: asyncio.Future[T] = self._loop.create_future()
        self._put += 1
        self._ask(Batch(job, future, 0, False, deadline, plain=True))
        return await future

    async def _wait_for_writer(self, cost: int, deadline: float | None) -> Writer:
        self._check()
        if self._writer is None:
            raise ReadOnly("The database was opened for reading only.")
        if self._blocked or not self._has_room(self._writer, cost):
            await self._wait_for_room(self._writer, cost, deadline)
        return self._writer

    def _has_room(self, writer: Writer, cost: int) -> bool:
        batches, held = self._put - writer.taken, self._put_bytes - writer.taken_bytes
        # A batch larger than the queue by itself is let in when the queue is empty.
        return batches < self.options.queue_batches and (held + cost <= self.options.queue_bytes or not batches)

    async def _wait_for_room(self, writer: Writer, cost: int, deadline: float | None) -> None:
        until = deadline if deadline is not None else self._loop.time() + self.options.wait_s
        turn: asyncio.Future[None] = self._loop.create_future()
        self._blocked.append(turn)
        timer = self._loop.call_at(until, _wake, turn)
        try:
            while True:
                await turn
                if self._closing:
                    raise ConfigError("The database is closed.")
                if self._has_room(writer, cost):
                    return
                if self._loop.time() >= until:
                    raise Throttled("The write queue is full.")
                position = self._blocked.index(turn)
                turn = self._loop.create_future()
                self._blocked[position] = turn
                timer.cancel()
                timer = self._loop.call_at(until, _wake, turn)
        finally:
            timer.cancel()
            self._blocked.remove(turn)
            self._wake_next(writer)

    def _wake_next(self, writer: Writer) -> None:
        if self._blocked and (self._closing or self._has_room(writer, 0)):
            _wake(self._blocked[0])

    def deferred(self, flush: Callable[[apsw.Connection, list[Any]], None]) -> Deferred:
        """Return a list for rows that jobs collect and that `flush` writes at once, right before the group's COMMIT."""
        found = Deferred(flush)
        if self._writer is not None:
            self._writer.deferred = [*self._writer.deferred, found]
        return found

    def undoable(self) -> AbstractContextManager[None]:
        """Undo what the block wrote when it raises; for jobs in the writer thread."""
        if self._writer is None:
            raise ReadOnly("The database was opened for reading only.")
        return self._writer.undoable()

    def is_wanted(self) -> bool:
        """Say, in a job, whether somebody else waits, in the queue or for this group's commit: a long job may then end early."""
        return self._writer is not None and (self._put > self._writer.taken or self._writer.shares())

    def _answered(self, answers: list[Answer]) -> None:
        """Hand the answers of one commit to the event loop; called in the writer thread."""
        try:
            self._loop.call_soon_threadsafe(self._deliver, answers)
        except RuntimeError:
            # The loop is closed: nobody waits for these answers any more, and the writer must go on to its end.
            return

    def _deliver(self, answers: list[Answer]) -> None:
        for future, result, error in answers:
            if not future.done():
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)
        if self._watchers:
            self._wake_watchers()
        if self._blocked and self._writer is not None:
            self._wake_next(self._writer)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def fetch(self, text: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of one short statement; what `read` says holds for it too."""
        self._check()
        self._limit = time.perf_counter() + _INLINE_S
        try:
            # One cursor again and again: a new one for each statement takes a fifth of a look-up's time.
            return self._fetch(text, parameters).fetchall()
        except (apsw.InterruptError, apsw.BusyError):
            self._end_read()
        except (apsw.Error, OverflowError) as error:
            self._end_read()
            raise translate(error) from error
        return await self.read_pooled(lambda connection: connection.execute(text, parameters).fetchall())

    async def read(self, job: Job[T]) -> T:
        """Run a short read here and now; where it takes over a millisecond, run it again in the pool.

        It sees every write acknowledged before. A job fetches everything it returns: no cursor outlives it.
        """
        self._check()
        self._limit = time.perf_counter() + _INLINE_S
        try:
            return job(self._reader)
        except (apsw.InterruptError, apsw.BusyError):
            self._end_read()
        except (apsw.Error, OverflowError) as error:
            self._end_read()
            raise translate(error) from error
        return await self.read_pooled(job)

    def _end_read(self) -> None:
        # What ends a late read is not to be cut off for being late.
        self._limit = float("inf")
        _end(self._reader)

    async def read_pooled(self, job: Job[T]) -> T:
        """Run a long read in a thread with a connection of its own."""
        self._check()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.options.pool, thread_name_prefix="palaver-sqlite-reader")
        return await self._loop.run_in_executor(self._pool, self._run_pooled, job)

    def _run_pooled(self, job: Job[T]) -> T:
        connection: apsw.Connection | None = None
        try:
            connection = self._idle.get_nowait() if not self._idle.empty() else self._another()
            return job(connection)
        except (apsw.Error, OverflowError) as error:
            raise translate(error) from error
        finally:
            if connection is not None:
                _end(connection)
                self._idle.put(connection)

    def _another(self) -> apsw.Connection:
        self._place.check()
        connection = open_reader(self.path, self.options)
        self._pooled.append(connection)
        return connection

    def _is_late(self) -> bool:
        return time.perf_counter() > self._limit

    # --- noticing commits -------------------------------------------------------------------------------------------

    async def wait_for_commit(self, timeout: float, since: int | None = None) -> bool:
        """Return True as soon as this or another process may have committed; False in the end.

        `since` is what `commits` was before the caller looked at what is there: without it another who waits may have been
        told of a commit in between.
        """
        self._check()
        if self._noticed() or (since is not None and since != self.commits):
            return True
        watcher: asyncio.Future[None] = self._loop.create_future()
        self._watchers.add(watcher)
        if self._poller is None:
            self._poller = self._loop.call_later(_POLL_S, self._poll)
        try:
            async with asyncio.timeout(timeout):
                await watcher
        except TimeoutError:
            return False
        finally:
            self._watchers.discard(watcher)
        return not self._closing

    def _data_version(self) -> int:
        self._limit = float("inf")
        return pragma(self._reader, "data_version")

    def _noticed(self) -> bool:
        try:
            version = self._data_version()
        except apsw.BusyError:
            # Somebody holds the whole file; what they commit is seen by the next look.
            return False
        changed = version != self._version
        self._version = version
        if changed:
            self.commits += 1
            self._wake_watchers()
        return changed

    def _poll(self) -> None:
        self._poller = None
        if self._closing or not self._watchers:
            return
        try:
            self._noticed()
        except apsw.Error as error:
            for watcher in self._watchers:
                if not watcher.done():
                    watcher.set_exception(translate(error))
            return
        self._poller = self._loop.call_later(_POLL_S, self._poll)

    def _wake_watchers(self) -> None:
        for watcher in self._watchers:
            _wake(watcher)

    # --- ending -----------------------------------------------------------------------------------------------------

    async def checkpoint(self) -> None:
        """Copy the log into the file and empty it, so that no deleted text is left in either."""

        def empty(connection: apsw.Connection) -> None:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

        await self.write_plain(empty)

    async def aclose(self) -> None:
        """Refuse new work, finish what is queued, empty the log into the file, close. Calling it again waits for the end."""
        self._check(closed=True)
        if self._closed is None:
            self._closed = self._close()
        await asyncio.shield(self._closed)

    def _close(self) -> asyncio.Future[None]:
        self._closing = True
        self._hand_over_now()
        if self._poller is not None:
            self._poller.cancel()
        self._wake_watchers()
        for turn in self._blocked:
            _wake(turn)
        return self._loop.run_in_executor(None, self._end)

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer.thread.join()
            atexit.unregister(self._at_exit)
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        for connection in (*self._pooled, self._reader):
            connection.close()
        if self._writer is not None:
            close_writer(self._writer.connection)

    def _check(self, *, closed: bool = False) -> None:
        if process_id() != self._pid:
            raise ConfigError("The database was opened by another process.", hint="Open it again after a fork.")
        # Its thread and that it runs say as much as asking for the running loop, which is a system call.
        if get_ident() != self._thread or not self._loop.is_running():
            raise ConfigError("The database belongs to another event loop.", hint="Open one store for each event loop.")
        if self._closing and not closed:
            raise ConfigError("The database is closed.")


def _absolute(path: str | os.PathLike[str]) -> Path:
    # Connections are opened later as well, when the working directory may be another.
    return Path(path).absolute()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _end(connection: apsw.Connection) -> None:
    """End a read transaction that a failed job left open."""
    if not connection.get_autocommit():
        connection.execute("ROLLBACK")


def _finish(writer: Writer, pid: int) -> None:
    """At the end of the process: let the writer commit what it has."""
    if process_id() == pid:
        writer.close()
        writer.thread.join(timeout=10)
