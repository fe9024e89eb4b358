"""The one writer of a SQLite file: its thread commits what many callers ask for together.

It knows nothing of event loops: answers go to a `deliver` callback, once per group. Few and short batches may be written
by the thread that asks (`at_once`): two changes of threads cost more than the commit itself, and threads that want the
interpreter at the same time keep each other waiting.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias, TypeVar

import apsw

from palaver.connections.sqlite_errors import LOSES_TRANSACTION, translate, translate_commit
from palaver.connections.sqlite_log import LogCopy, copy_log
from palaver.errors import OutcomeUnknown, Throttled

QUICK_S = 0.001
"""A commit that took longer keeps the next one off the calling thread, which is an event loop's."""
EACH_S = 0.00005
"""What each batch adds to that: its own work would hold up the calling thread elsewhere as well, since they share the interpreter."""
_LONGEST = 3
"""How many times the pages at which a copy begins may come before writers wait for it."""
_PATIENCE_S = 0.25
"""How long writers of every process wait for the end of another's copy of a log that is long."""
_INTERRUPTS = (KeyboardInterrupt, SystemExit)
T = TypeVar("T")
Job = Callable[[apsw.Connection], T]
_log = logging.getLogger("palaver.sqlite")


class Rollback(Exception):
    """Raised by a job to undo what it wrote, alone, and still give its caller a result."""

    def __init__(self, result: Any) -> None:
        self.result = result
        super().__init__()


Together = Callable[[apsw.Connection, list[Job[Any]]], "list[Any] | None"]
"""Runs several jobs of its kind at once and gives their results, in order; or gives None and has written nothing."""


class Batch(NamedTuple):
    """One job in the queue. `plain`: it runs outside any transaction, alone. `together`: how it runs with others of its kind.

    `short`: where it is alone, the thread that asks may run it.
    """

    job: Job[Any]
    future: Any
    cost: int
    savepoint: bool
    deadline: float | None
    plain: bool = False
    together: Together | None = None
    short: bool = False


_kind = attrgetter("together")

# The future, its result, its error; a plain tuple, because one is made for every batch.
Answer: TypeAlias = "tuple[Any, Any, BaseException | None]"


class Deferred:
    """Rows that jobs of a group collect and that are written together, right before the COMMIT."""

    __slots__ = ("flush", "rows")

    def __init__(self, flush: Callable[[apsw.Connection, list[Any]], None]) -> None:
        self.flush = flush
        self.rows: list[Any] = []


@dataclass(frozen=True, slots=True)
class Pace:
    """How much one commit takes together, and how long the file's lock is waited for."""

    batches: int
    bytes: int
    seconds: float
    busy_s: float
    checkpoint_pages: int


class _Lost(Exception):
    """The whole transaction is gone, or cannot be trusted."""


class Writer:
    """Drains a queue of jobs into transactions, one at a time, whichever thread runs it.

    Batches are put many at once: each time costs a wake-up. All methods but `put`, `close` and `at_once` run in its own thread.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        pace: Pace,
        deliver: Callable[[list[Answer]], None],
        clock: Callable[[], float],
        copy: LogCopy,
        check: Callable[[], None],
    ) -> None:
        self.connection = connection
        self.taken = 0
        self.taken_bytes = 0
        self.deferred: list[Deferred] = []
        self._pace = pace
        self._deliver = deliver
        self._clock = clock
        self._queue: queue.SimpleQueue[list[Batch] | None] = queue.SimpleQueue()
        self._waiting: deque[Batch] = deque()
        self._group: Sequence[Batch] = []
        self._passed: list[Answer] = []
        self._stopping = False
        self._writing = threading.Lock()
        self._quick = True
        self._commit_s = 0.0
        self._log_pages = 0
        self._copy = copy
        self._check = check
        self._copying = False
        self._checkpoint_at = pace.checkpoint_pages
        self._execute = connection.cursor().execute
        connection.set_wal_hook(self._note_log)
        self.thread = threading.Thread(target=self._run, name="palaver-sqlite-writer", daemon=True)
        self.put = self._queue.put

    def close(self) -> None:
        self._queue.put(None)

    def at_once(self, batches: Sequence[Batch]) -> list[Answer] | None:
        """Write batches in the calling thread and return their answers; None, and nothing written, where the writer's thread has to.

        It waits for nobody: not while that thread writes, another process holds the file, or commits took long lately.
        """
        started, count, cost = time.perf_counter(), len(batches), sum([batch.cost for batch in batches])
        if not self._quick or self._log_pages >= self._checkpoint_at or not self._writing.acquire(blocking=False):
            return None
        try:
            self.taken += count
            self.taken_bytes += cost
            answers = self._written(batches)
            self._quick = time.perf_counter() - started < QUICK_S + EACH_S * count
            if answers is None:
                self.taken -= count
                self.taken_bytes -= cost
            return answers
        except BaseException:
            # Ctrl-C reaches this thread: it must leave no transaction open for the next.
            self._abandon()
            raise
        finally:
            self._writing.release()

    def _written(self, batches: Sequence[Batch]) -> list[Answer] | None:
        """Write batches in one transaction and return their answers; None, and nothing written, where the lock or the group is lost."""
        try:
            self._check()
            self._execute("BEGIN IMMEDIATE")
        except apsw.Error:
            return None
        try:
            done = [answer for batch in batches if (answer := self._skipped(batch)) is not None]
            group = self._group = [batch for batch in batches if self._skipped(batch) is None] if done else batches
            answers: list[Answer] = []
            for _, run in groupby(group, _kind):
                answers += self._answers([*run])
            return done + self._commit(group, answers)
        except _Lost:
            self._abandon()
            return None

    def shares(self) -> bool:
        """Say whether the open transaction holds several batches."""
        return len(self._group) > 1

    def _note_log(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        if pages < self._log_pages:
            self._copying, self._checkpoint_at = False, self._pace.checkpoint_pages
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _run(self) -> None:
        while self._waiting or self._fetch():
            with self._writing:
                started = time.perf_counter()
                try:
                    answers = self._plain(self._waiting.popleft()) if self._waiting[0].plain else self._transact()
                except BaseException:
                    # Nothing may end this thread: callers would wait for ever.
                    _log.exception("the writer of a SQLite file failed outside a job")
                    answers = self._failed()
                # Of a group, how long its jobs took says more of the callers, who run meanwhile, than of the disk.
                self._quick = (self._commit_s if len(self._group) > 1 else time.perf_counter() - started) < QUICK_S
            self._deliver(answers)
            if self._log_pages >= self._checkpoint_at:
                self._shorten()
        self._copy.close()

    def _fetch(self) -> bool:
        """Wait for batches to be put; return False where there will be none."""
        while not self._waiting and not self._stopping:
            self._accept(self._queue.get())
        return bool(self._waiting)

    def _look(self) -> bool:
        """Take over what was put meanwhile; say whether anything waits."""
        while not self._queue.empty():
            self._accept(self._queue.get())
        return bool(self._waiting)

    def _accept(self, batches: list[Batch] | None) -> None:
        if batches is None:
            self._stopping = True
        else:
            self._waiting.extend(batches)

    def _failed(self) -> list[Answer]:
        """Answer everything that was under way, and leave no transaction open: the next could not begin."""
        lost = OutcomeUnknown("The writer failed outside a job.")
        answers = [*self._passed, *[(left.future, None, lost) for left in self._group or self._dropped()]]
        try:
            self._abandon()
        except apsw.Error as error:
            _log.error("a transaction could not be undone: %s", type(error).__name__)
        return answers

    def _dropped(self) -> list[Batch]:
        """Give up the batch that is next, so that what cannot even begin is not begun for ever."""
        batch = self._waiting.popleft()
        self._take(batch)
        return [batch]

    def _take(self, batch: Batch) -> Answer | None:
        """Count a batch as taken; return an answer for one that must not run any more."""
        self.taken += 1
        self.taken_bytes += batch.cost
        return self._skipped(batch)

    def _skipped(self, batch: Batch) -> Answer | None:
        if batch.future.done():
            return (batch.future, None, None)
        if batch.deadline is not None and self._clock() > batch.deadline:
            return (batch.future, None, Throttled("The write queue did not reach this batch before its deadline."))
        return None

    def _transact(self) -> list[Answer]:
        """Run what is queued in one transaction and return every answer; durable when this returns."""
        done = self._passed = []
        group = self._group = []
        answers: list[Answer] = []
        try:
            self._begin()
        except apsw.Error as error:
            return self._refuse_queued(error)
        try:
            self._drain(group, answers, done)
            done += self._commit(group, answers)
        except _Lost:
            self._abandon()
            done += [self._alone(batch) for batch in group]
        return done

    def _drain(self, group: list[Batch], answers: list[Answer], done: list[Answer]) -> None:
        """Run what is queued, neighbours of one kind together, until the group is full or a batch has to run outside it."""
        pace, started, size = self._pace, time.perf_counter(), 0
        # Others may come while these run.
        while (self._waiting or self._look()) and not self._waiting[0].plain:
            run, cost = self._next_run(pace.batches - len(group), pace.bytes - size, done)
            size += cost
            group += run
            answers += self._answers(run)
            if len(group) >= pace.batches or size >= pace.bytes or time.perf_counter() - started > pace.seconds:
                break

    def _next_run(self, most: int, most_bytes: int, done: list[Answer]) -> tuple[list[Batch], int]:
        """Take the next batches of one kind, or one that has none; return them and what they hold in memory."""
        waiting, taken, held = self._waiting, 0, 0
        run: list[Batch] = []
        together = waiting[0].together
        while waiting and len(run) < most and held < most_bytes and waiting[0].together is together and not waiting[0].plain:
            batch = waiting.popleft()
            taken += 1
            held += batch.cost
            if (skipped := self._skipped(batch)) is not None:
                done.append(skipped)
                continue
            run.append(batch)
            if together is None:
                break
        self.taken += taken
        self.taken_bytes += held
        return run, held

    def _begin(self) -> None:
        """Take the file's write lock; several processes may want it, so waiting is short, random and ours. Raises Moved."""
        self._check()
        try:
            self._execute("BEGIN IMMEDIATE")
            return
        except apsw.BusyError:
            until = time.monotonic() + self._pace.busy_s
        while True:
            time.sleep(random.uniform(0.0002, 0.002))
            try:
                self._execute("BEGIN IMMEDIATE")
                return
            except apsw.BusyError:
                if time.monotonic() > until:
                    raise

    def _answers(self, run: list[Batch]) -> list[Answer]:
        """Run jobs of one kind at once, or one by one where they cannot. Raises _Lost as `_one` does."""
        together = run[0].together if len(run) > 1 else None
        results: list[Any] | None = None
        if together is not None:
            try:
                results = together(self.connection, [batch.job for batch in run])
            except _INTERRUPTS:
                raise
            except LOSES_TRANSACTION as error:
                raise _Lost from error
            except BaseException as error:
                if self.connection.get_autocommit():
                    raise _Lost from error
        if results is None:
            return [self._one(batch) for batch in run]
        return [(batch.future, result, None) for batch, result in zip(run, results, strict=True)]

    def _one(self, batch: Batch) -> Answer:
        """Run one job in the open transaction; undo it alone where it fails. Raises _Lost where that cannot be."""
        try:
            if not batch.savepoint:
                return (batch.future, batch.job(self.connection), None)
            with self.undoable():
                return (batch.future, batch.job(self.connection), None)
        except Rollback as undone:
            return (batch.future, undone.result, None)
        except (_Lost, *_INTERRUPTS):
            raise
        except LOSES_TRANSACTION as error:
            raise _Lost from error
        except BaseException as error:
            if self.connection.get_autocommit():
                raise _Lost from error
            return (batch.future, None, translate(error))

    @contextmanager
    def undoable(self) -> Iterator[None]:
        """Undo what the block wrote, deferred rows included, when it raises."""
        marks = [len(deferred.rows) for deferred in self.deferred]
        self._execute("SAVEPOINT job")
        try:
            yield
        except BaseException:
            for deferred, mark in zip(self.deferred, marks, strict=True):
                del deferred.rows[mark:]
            self._undo()
            raise
        self._execute("RELEASE job")

    def _undo(self) -> None:
        if self.connection.get_autocommit():
            return
        try:
            self._execute("ROLLBACK TO job")
            self._execute("RELEASE job")
        except _INTERRUPTS:
            raise
        except BaseException as error:
            raise _Lost from error

    def _flush(self) -> None:
        for deferred in self.deferred:
            if deferred.rows:
                deferred.flush(self.connection, deferred.rows)
                deferred.rows.clear()

    def _commit(self, group: Sequence[Batch], answers: list[Answer]) -> list[Answer]:
        try:
            self._flush()
        except _INTERRUPTS:
            raise
        except BaseException as error:
            raise _Lost from error
        started = time.perf_counter()
        try:
            self._execute("COMMIT")
        except _INTERRUPTS:
            raise
        except BaseException as error:
            ours, nothing_written = translate_commit(error)
            if nothing_written and len(group) > 1:
                raise _Lost from error
            self._abandon()
            return [answer if answer[2] else (answer[0], None, ours) for answer in answers]
        finally:
            self._commit_s = time.perf_counter() - started
        return answers

    def _abandon(self) -> None:
        for deferred in self.deferred:
            deferred.rows.clear()
        if not self.connection.get_autocommit():
            self._execute("ROLLBACK")

    def _alone(self, batch: Batch) -> Answer:
        """Run one batch again in a transaction of its own, after its group was lost."""
        committing = False
        try:
            self._begin()
            try:
                result = batch.job(self.connection)
            except Rollback as undone:
                self._abandon()
                return (batch.future, undone.result, None)
            self._flush()
            committing = True
            self._execute("COMMIT")
            return (batch.future, result, None)
        except BaseException as error:
            self._abandon()
            cause = error.__cause__ or error if isinstance(error, _Lost) else error
            return (batch.future, None, translate_commit(cause)[0] if committing else translate(cause))

    def _refuse_queued(self, error: BaseException) -> list[Answer]:
        """Answer everything queued with an error: each waiting its own turn would add their waits up."""
        answers: list[Answer] = []
        while self._waiting or self._look():
            batch = self._waiting.popleft()
            answers.append(self._take(batch) or (batch.future, None, translate(error)))
        return answers

    def _plain(self, batch: Batch) -> list[Answer]:
        self._group, self._passed = [batch], []
        skipped = self._take(batch)
        if skipped is not None:
            return [skipped]
        self._copy.wait()
        try:
            return [(batch.future, batch.job(self.connection), None)]
        except BaseException as error:
            self._abandon()
            return [(batch.future, None, translate(error))]

    def _shorten(self) -> None:
        """Have the log copied into the file, after the answers are out.

        Most of it is copied beside the writer. What came meanwhile is little, and the writer copies it itself: the log begins
        anew only where all of it is copied. Where it grew long before that, the writer waits for the copy.
        """
        if self._copying:
            with self._writing:
                self._copy.wait()
                self._copy_rest()
            # Readers may hold the log back; it is not tried again before the log has grown as much once more.
            self._copying, self._checkpoint_at = False, self._log_pages + self._pace.checkpoint_pages
        else:
            self._copying, self._checkpoint_at = True, self._log_pages + _LONGEST * self._pace.checkpoint_pages
            self._copy.begin(self._note_copied)

    def _copy_rest(self) -> None:
        """Copy what came during the copy while nobody writes: with other processes there would always be something left."""
        try:
            self._begin()
            try:
                # A log that is long by now grows as long as two processes that copy it keep meeting.
                is_long = self._log_pages >= _LONGEST * self._pace.checkpoint_pages
                copied = self._copy.rest(_PATIENCE_S if is_long else 0)
            finally:
                self._execute("ROLLBACK")
        except apsw.Error as error:
            _log.warning("the log could not be copied to its end: %s", type(error).__name__)
            return
        if not copied:
            copy_log(self.connection)

    def _note_copied(self) -> None:
        self._checkpoint_at = 0
