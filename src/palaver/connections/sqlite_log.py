"""Copying the log of a SQLite file into the file beside the writer, on a connection and in a thread of its own.

A thousand pages take from milliseconds to tenths of a second, as the disk has time; whoever writes meanwhile goes on in the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Thread

import apsw

_log = logging.getLogger("palaver.sqlite")


class LogCopy:
    """One copy at a time. `begin`, `wait` and `close` are the writer thread's to call."""

    def __init__(self, connect: Callable[[], apsw.Connection]) -> None:
        self._connect = connect
        self._connection: apsw.Connection | None = None
        self._thread: Thread | None = None

    def begin(self, done: Callable[[], None]) -> None:
        """Copy what is in the log now, and say when that is done, well or not."""
        self.wait()
        thread = Thread(target=self._run, args=(done,), name="palaver-sqlite-log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no thread to spare: the writer copies by itself
            done()
        else:
            self._thread = thread

    def rest(self, patience_s: float) -> bool:
        """Copy here and now, while the caller holds the file's write lock; False where there is no connection to do it.

        Another process may be copying: what it leaves is copied once it has ended, if that is within `patience_s`.
        """
        if self._connection is None:
            return False
        until = time.monotonic() + patience_s
        while not copy_log(self._connection) and time.monotonic() < until:
            time.sleep(0.001)
        return True

    def wait(self) -> None:
        """Return when nothing is being copied: of two at once SQLite refuses one."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        self.wait()
        if self._connection is not None:
            self._connection.close()

    def _run(self, done: Callable[[], None]) -> None:
        try:
            if self._connection is None:
                self._connection = self._connect()
            copy_log(self._connection)
        except apsw.Error as error:
            _log.warning("the log could not be copied: %s", type(error).__name__)
        finally:
            done()


def copy_log(connection: apsw.Connection) -> bool:
    """Copy as much of the log as no reader holds back; False where another process is copying it.

    A failure loses nothing: the log keeps what was committed.
    """
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    except apsw.BusyError:
        return False
    except apsw.Error as error:
        _log.warning("a checkpoint failed: %s", type(error).__name__)
    return True
