"""Exit codes: what a script may rely on."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from palaver.errors import PalaverError


class Exit(IntEnum):
    """What a command's exit code says. The meaning of a number never changes."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Exit:
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = (0, "Done.")
    FAILURE = (1, "It failed, and the same command would fail again; for `doctor` and figures: something deserves a look.")
    USAGE = (2, "The command line, URL or declaration cannot work; for `doctor`: something is broken.")
    NOT_FOUND = (3, "No such record, file or object.")
    CONFLICT = (4, "What is stored does not allow it; reading again and deciding anew can help.")
    AUTH = (5, "Not allowed, or not for this tenant.")
    UNAVAILABLE = (6, "Busy, locked, unreachable or too slow: the same command can succeed later.")
    DRIFT = (7, "The database does not fit the schema, or is newer than this program.")
    PARTIAL = (8, "Part of it was done; the output says which; for `health`: the application goes on without a part of its stack.")
    INTERRUPTED = (130, "Stopped with Ctrl-C.")


_USAGE = frozenset(("schema", "config"))
_DRIFT = frozenset(("not_provisioned",))
_AUTH = frozenset((401, 403))


def exit_of(error: PalaverError) -> Exit:
    """Return the exit code of an error: what can succeed later is UNAVAILABLE, whatever else it is."""
    if error.retryable:
        return Exit.UNAVAILABLE
    if error.code in _USAGE or error.status in (400, 413, 422):
        return Exit.USAGE
    if error.code in _DRIFT:
        return Exit.DRIFT
    if error.status in _AUTH or error.code == "tenant_mismatch":
        return Exit.AUTH
    return {404: Exit.NOT_FOUND, 409: Exit.CONFLICT, 412: Exit.CONFLICT}.get(error.status, Exit.FAILURE)
