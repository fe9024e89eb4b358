"""Which error of the tree a PostgreSQL error is.

The server's own texts may quote stored values, so none of them is shown: only names of tables, columns and constraints are.
"""

from __future__ import annotations

import ssl

import asyncpg

from palaver.errors import (
    AlreadyExists,
    ConfigError,
    Conflict,
    Corruption,
    Duplicate,
    Forbidden,
    NotProvisioned,
    NumberRange,
    OutcomeUnknown,
    PalaverError,
    ReadOnly,
    ReferenceBroken,
    StorageFull,
    Throttled,
    Unauthenticated,
    Unavailable,
    Validation,
)

UNIQUE = "23505"
# A statement of ours divides by zero where a guard does not hold, so that nothing of it is written.
GUARD_FAILED = "22012"
RETRIED = frozenset({"40001", "40P01", "55P03"})
# 40003: whether the statement was completed is unknown; servers that speak PostgreSQL's protocol say so, and so may poolers by 08.
_UNKNOWN = frozenset({"40003", "57P01", "57P02", "57P04"})
_TOO_MANY = "The server takes no more connections."
_HIDDEN_POOLER = "The server does not know what this connection prepared: a transaction pooler stands between."
_SAY_POOLER = "Add pooler=transaction to the URL."
_STATES: dict[str, tuple[type[PalaverError], str, str]] = {
    "23505": (Duplicate, "A unique index holds this value already.", ""),
    "23503": (ReferenceBroken, "A foreign key does not hold.", ""),
    "23502": (Validation, "A required column has no value.", ""),
    "23514": (Validation, "A check of the database refuses a value.", ""),
    "22003": (NumberRange, "A number does not fit into its column.", ""),
    "42501": (Forbidden, "The database user may not do this.", "Grant it the right, or use another user."),
    "28P01": (Unauthenticated, "The server refused the user or the password.", "Check them in the URL."),
    "28000": (Unauthenticated, "The server refused the user.", "Check the user in the URL, and pg_hba.conf."),
    "3D000": (ConfigError, "The server has no such database.", "Create it, or name another in the URL."),
    "3F000": (NotProvisioned, "The schema does not exist.", "Run `palaver migrate apply`."),
    "42P01": (NotProvisioned, "A table is missing.", "Run `palaver migrate apply`."),
    "42703": (NotProvisioned, "A column is missing.", "Run `palaver migrate apply`."),
    "42704": (NotProvisioned, "An index or type is missing.", "Run `palaver migrate apply`."),
    "26000": (ConfigError, _HIDDEN_POOLER, _SAY_POOLER),
    "42P05": (ConfigError, _HIDDEN_POOLER, _SAY_POOLER),
    "25006": (ReadOnly, "The server is read-only.", "Open the primary."),
    "53100": (StorageFull, "The server's disk is full.", ""),
    "53200": (Unavailable, "The server is out of memory.", ""),
    "53300": (Throttled, _TOO_MANY, "Lower `pool` in the URL, or raise max_connections."),
    "57014": (Throttled, "The statement took longer than its timeout.", "Raise `timeout` in the URL."),
    "25P03": (Throttled, "The transaction waited too long.", ""),
    "57P03": (Unavailable, "The server is starting or stopping.", ""),
    "XX001": (Corruption, "The server found damaged data.", ""),
    "XX002": (Corruption, "The server found a damaged index.", ""),
}
_CLASSES: dict[str, tuple[type[PalaverError], str, str]] = {
    "22": (Validation, "The server refused a value.", ""),
    "23": (Validation, "A constraint of the database refuses the record.", ""),
    "40": (Conflict, "Other transactions were faster.", ""),
    "42": (NotProvisioned, "The database does not fit this schema.", "Look at `palaver migrate plan`."),
    "53": (Throttled, "The server lacks resources.", ""),
    "54": (Validation, "A value or request is larger than the server takes.", ""),
    "55": (Conflict, "The record is in use.", ""),
    "08": (Unavailable, "The connection to the server was lost.", ""),
    "57": (Unavailable, "The server is shutting down.", ""),
    "58": (Unavailable, "The server's disk or operating system failed.", ""),
    "0A": (ConfigError, "The server does not support this.", "PostgreSQL 15 or newer is needed."),
}
_LOST = (OSError, EOFError, TimeoutError)


def is_lost(error: BaseException) -> bool:
    """Say whether the answer to a request was lost with its connection, so that nobody knows what became of it."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state.startswith("08") or state in _UNKNOWN
    return isinstance(error, _LOST)


def is_behind(error: BaseException) -> bool:
    """Say whether the feed's sequence gave a position that was given before."""
    found = getattr(error, "sqlstate", None), getattr(error, "table_name", None), getattr(error, "constraint_name", None)
    return found == (UNIQUE, "palaver_changes", "palaver_changes_pkey")


def is_elsewhere(error: BaseException) -> bool:
    """Say whether a connection leads to where nothing can be written any more, and a new one may lead elsewhere."""
    return is_lost(error) or isinstance(error, ReadOnly) or getattr(error, "sqlstate", None) == "25006"


def is_refusal(error: BaseException) -> bool:
    """Say whether the server answered that it did not do what was asked."""
    return isinstance(error, asyncpg.PostgresError) and not is_lost(error)


def translate(error: BaseException, *, sent: bool = False) -> BaseException:
    """Return the error of the tree for an error of the driver; any other error is returned as it is.

    `sent`: a write was on its way, so a lost connection leaves its outcome unknown.
    """
    if isinstance(error, PalaverError):
        return error
    if sent and is_lost(error):
        return OutcomeUnknown("The connection was lost while the server was writing.", hint="Repeat it with its token, or read first.")
    if isinstance(error, asyncpg.PostgresError):
        return _of_server(error)
    if isinstance(error, ssl.SSLError):
        return Unavailable("The server's certificate or TLS settings were refused.", hint="Check sslmode and sslrootcert in the URL.")
    if isinstance(error, TimeoutError):
        return Unavailable("The server did not answer in time.")
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return ConfigError("The address or the TLS settings in the URL cannot work.", hint="Check sslmode and sslrootcert in the URL.")
    if isinstance(error, OverflowError) or (isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)):
        # The driver refused to write the value down.
        return NumberRange("A value does not fit into its column.")
    if isinstance(error, asyncpg.InterfaceError | OSError | EOFError):
        return Unavailable("The server cannot be reached.", hint="Check host and port in the URL, and that the server runs.")
    return error


def _of_server(error: asyncpg.PostgresError) -> PalaverError:
    state = error.sqlstate or ""
    made, message, hint = _STATES.get(state) or _CLASSES.get(state[:2]) or (Unavailable, "The server refused the request.", "")
    constraint = getattr(error, "constraint_name", None) or ""
    if state == UNIQUE and constraint.endswith("pkey"):
        made, message = AlreadyExists, "The record exists already."
    context = {"sqlstate": state}
    for name in ("table_name", "column_name", "constraint_name"):
        if value := getattr(error, name, None):
            context[name.removesuffix("_name")] = value
    return made(message, hint=hint, **context)
