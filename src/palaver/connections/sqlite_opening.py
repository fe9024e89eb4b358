"""Opening a SQLite file: what it may be, who may write it, and the settings every connection to it has."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from palaver.connections.sqlite_errors import Moved, translate
from palaver.connections.sqlite_options import SqliteOptions
from palaver.errors import ConfigError, Conflict, Corruption, NotProvisioned, ReadOnly, Unavailable

APPLICATION = 0x50414C00
FORMAT = 1


class Place:
    """Where an open file is. SQLite would go on in a file that was deleted or replaced, and lose at its end what it wrote."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._file = self._found()

    def check(self) -> None:
        """Raise Moved where the path leads to another file by now, or to none."""
        if self._found() != self._file:
            raise Moved

    def _found(self) -> tuple[int, int]:
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise Moved from error
        return status.st_dev, status.st_ino


def open_writer(path: Path, options: SqliteOptions) -> apsw.Connection | None:
    """Open the file, check that it is ours and return the connection that writes."""
    try:
        return _opened(path, options)
    except (OSError, ValueError) as error:
        # A name that is too long, or holds what no name may; a folder that may not be looked into.
        raise Unavailable("The database path cannot be used.", hint="Check its length, its characters and its permissions.") from error


def _opened(path: Path, options: SqliteOptions) -> apsw.Connection | None:
    if path.is_dir():
        raise ConfigError("The database path is a folder.", hint="Name a file in it, such as sqlite:///data/bot.db.")
    if not path.exists() and (options.read_only or not options.create):
        raise Unavailable("The database file does not exist.", hint="Check the path; palaver.open makes a file where there is none.")
    if not options.read_only and not (_may_write(path.parent) and (not path.exists() or _may_write(path))):
        raise ReadOnly("The database file or its folder cannot be written.", hint="Give the process write permission to both.")
    if not options.read_only and path.exists() and path.stat().st_nlink > 1:
        # The log is beside each name: whoever opens the file by another one writes without seeing this one's, and damages both.
        raise ConfigError(
            "The database file has another name, a hard link.", hint="Remove the other name, or copy the file and open the copy."
        )
    flags = apsw.SQLITE_OPEN_READONLY if options.read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    try:
        connection = _connect(path, options, flags)
    except apsw.Error as error:
        raise translate(error) from error
    try:
        _patiently(partial(_examine, connection, options), options)
        if options.read_only:
            connection.close()
            return None
        if connection.readonly("main"):
            raise ReadOnly("The database file cannot be written.", hint="Give the process write permission, or open it for reading only.")
        _patiently(partial(_prepare, connection, options), options)
        return connection
    except apsw.Error as error:
        connection.close()
        raise translate(error) from error
    except BaseException:
        connection.close()
        raise


def _may_write(path: Path) -> bool:
    # A missing folder is not this question's: opening says that the file cannot be opened.
    return not path.exists() or os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _connect(path: Path, options: SqliteOptions, flags: int) -> apsw.Connection:
    name = str(path)
    if options.read_only and not _may_write(path.parent) and not path.with_name(path.name + "-wal").exists():
        # Even reading a log needs a file beside it; where there can be none, nobody changes this file either.
        name, flags = f"{path.absolute().as_uri()}?immutable=1", flags | apsw.SQLITE_OPEN_URI
    return apsw.Connection(name, flags=flags, statementcachesize=400)


def _patiently(step: Callable[[], None], options: SqliteOptions) -> None:
    """Take a step of opening, which may be taken again: others that open the file at the same time hold it for instants."""
    until = time.monotonic() + options.busy_timeout_s
    while True:
        try:
            return step()
        except apsw.BusyError:
            if time.monotonic() > until:
                raise Conflict("Another process keeps the database locked.") from None
            time.sleep(0.01)


def pragma(connection: apsw.Connection, name: str) -> int:
    found: Any = connection.execute(f"PRAGMA {name}").fetchall()[0][0]
    return int(found)


def _examine(connection: apsw.Connection, options: SqliteOptions) -> None:
    application = pragma(connection, "application_id")
    version = pragma(connection, "user_version")
    if application and application & ~0xFF != APPLICATION:
        raise Corruption("The file is the database of another program.", hint="Check the path.")
    if application & 0xFF > FORMAT or (options.newest is not None and version > options.newest):
        raise NotProvisioned("The database was made by a newer program.", hint="Update this program.")
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()


def _prepare(connection: apsw.Connection, options: SqliteOptions) -> None:
    new = not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    if new:
        connection.execute(f"PRAGMA page_size={options.page_size:d}")
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchall()
    if mode != [("wal",)]:
        raise Unavailable("The file system of the database cannot keep a write-ahead log.", hint="Put the file on a local disk.")
    _tune(connection, options)
    if new:
        connection.execute(f"PRAGMA application_id={APPLICATION | FORMAT:d}").fetchall()
    for pragma in (f"synchronous={options.synchronous}", "secure_delete=ON", "foreign_keys=ON", "journal_size_limit=67108864"):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _tune(connection: apsw.Connection, options: SqliteOptions) -> None:
    connection.execute(f"PRAGMA cache_size=-{options.cache_bytes // 1024:d}")
    connection.execute(f"PRAGMA mmap_size={options.mmap_bytes:d}").fetchall()
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute("PRAGMA trusted_schema=OFF")


def open_reader(path: Path, options: SqliteOptions) -> apsw.Connection:
    connection = _connect(path, options, apsw.SQLITE_OPEN_READONLY)
    # Another process may hold the file for an instant, while it recovers or empties the log.
    connection.set_busy_timeout(int(options.busy_timeout_s * 1000))
    _tune(connection, options)
    return connection


def open_copier(path: Path, options: SqliteOptions) -> apsw.Connection:
    """Open a connection that copies the log into the file and writes nothing else."""
    connection = _connect(path, options, apsw.SQLITE_OPEN_READWRITE)
    connection.execute(f"PRAGMA synchronous={options.synchronous}").fetchall()
    return connection


def close_writer(connection: apsw.Connection) -> None:
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except (apsw.BusyError, apsw.LockedError, apsw.FullError):
        # Another process still reads, or the disk has no room for both: everything is in the log, and who opens the file next empties it.
        return
    except apsw.Error as error:
        raise translate(error) from error
    finally:
        connection.close()
