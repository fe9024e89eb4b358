"""Which error of the tree a SQLite error is, and which failures take the whole transaction with them.

The texts SQLite gives name tables and columns, never values, so they may be shown.
"""

from __future__ import annotations

import apsw

from palaver.errors import (
    AlreadyExists,
    ConfigError,
    Conflict,
    Corruption,
    Duplicate,
    NotProvisioned,
    NumberRange,
    OutcomeUnknown,
    PalaverError,
    ReadOnly,
    ReferenceBroken,
    StorageFull,
    Unavailable,
    Validation,
)


class Moved(apsw.CantOpenError):
    """The file is no longer at the path at which it was opened: what is written into it would be lost."""


LOSES_TRANSACTION = (apsw.FullError, apsw.IOError, apsw.NoMemError, MemoryError)
_CONSTRAINTS: dict[int, type[PalaverError]] = {
    apsw.SQLITE_CONSTRAINT_UNIQUE: Duplicate,
    apsw.SQLITE_CONSTRAINT_PRIMARYKEY: AlreadyExists,
    apsw.SQLITE_CONSTRAINT_ROWID: AlreadyExists,
    apsw.SQLITE_CONSTRAINT_FOREIGNKEY: ReferenceBroken,
    apsw.SQLITE_CONSTRAINT_TRIGGER: ReferenceBroken,
}
_SIMPLE: tuple[tuple[type[BaseException], type[PalaverError], str], ...] = (
    (apsw.BusyError, Conflict, "Another process keeps the database locked."),
    (apsw.LockedError, Conflict, "Another connection keeps the database locked."),
    (apsw.ReadOnlyError, ReadOnly, "The database file cannot be written."),
    (apsw.PermissionsError, ReadOnly, "The database file cannot be written."),
    (apsw.AuthError, ReadOnly, "The database file cannot be written."),
    (apsw.FullError, StorageFull, "No space is left for the database file."),
    (apsw.NotADBError, Corruption, "The file is not a database."),
    (apsw.CorruptError, Corruption, "The database file is damaged."),
    (apsw.FormatError, Corruption, "The database file is damaged."),
    (Moved, Unavailable, "The database file was moved, replaced or deleted while it was open; nothing is written any more."),
    (apsw.CantOpenError, Unavailable, "The database file cannot be opened."),
    (apsw.IOError, Unavailable, "The disk refused to read or write the database file."),
    (apsw.NoMemError, Unavailable, "There is not enough memory for this statement."),
    (apsw.InterruptError, Unavailable, "The statement was interrupted."),
    (apsw.SchemaChangeError, Conflict, "The structure of the database changed meanwhile."),
    (apsw.TooBigError, Validation, "A value is larger than SQLite holds."),
    (apsw.MismatchError, Validation, "A value has another type than its column."),
    (apsw.ThreadingViolationError, ConfigError, "A connection was used by two threads at once."),
    (apsw.ConnectionClosedError, ConfigError, "The database is closed."),
    (OverflowError, NumberRange, "An integer does not fit into 64 bits."),
)


def translate(error: BaseException) -> BaseException:
    """Return the error of the tree for an error of the driver; any other error is returned as it is."""
    if isinstance(error, apsw.ConstraintError):
        kind = _CONSTRAINTS.get(getattr(error, "extendedresult", 0), Validation)
        return kind(f"A constraint of the database does not hold: {error}.")
    for driver, ours, text in _SIMPLE:
        if isinstance(error, driver):
            return ours(text)
    if isinstance(error, TypeError) and str(error).startswith("Bad binding"):
        return Validation("A value has another type than its column.")
    if isinstance(error, apsw.SQLError):
        if "no such" in str(error) or "has no column" in str(error):
            return NotProvisioned(f"{error}.", hint="Apply the migrations first.")
        return ConfigError(f"SQLite refused a statement: {error}.")
    if isinstance(error, apsw.Error):
        return Unavailable(f"SQLite failed: {type(error).__name__}.")
    return error


def translate_commit(error: BaseException) -> tuple[BaseException, bool]:
    """Return the error of the tree for a COMMIT that failed, and whether it provably wrote nothing.

    Busy and constraint failures come before anything is written. FULL comes from writing a frame of the log, of which the
    one that commits is the last, so that one is not whole. After any other failure the log may hold the commit.
    """
    if isinstance(error, apsw.BusyError | apsw.LockedError | apsw.ConstraintError | apsw.FullError | apsw.ReadOnlyError):
        return translate(error), True
    return OutcomeUnknown("The database file failed while a commit was being written."), False
