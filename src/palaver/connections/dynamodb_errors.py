"""What an answer that is not a success means: which error it is for the caller, and what may be tried before that.

Texts of the service are not repeated: a ValidationException quotes the value it rejects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import orjson

from palaver import errors
from palaver.errors import PalaverError


class Remedy(Enum):
    """What a failure leaves to do."""

    NONE = "it is an answer"
    AGAIN = "it was not carried out"
    IF_IDEMPOTENT = "nobody knows whether it was carried out"
    CLOCK = "it was refused for the time it was signed at"
    CREDENTIALS = "it was refused since its credentials have expired"


@dataclass(frozen=True, slots=True)
class Failure:
    #: A word for counters and logs.
    kind: str
    #: What the caller sees when nothing more is tried.
    error: Exception
    remedy: Remedy
    #: Worth trying again without a pause.
    at_once: bool = False


class ConditionalCheckFailed(Exception):
    """A single write's condition did not hold. `item` is the stored item in wire form, where it was asked for and exists.

    After an attempt without an answer that item may be this very write: only what may meet itself is called as idempotent.
    """

    def __init__(self, item: dict[str, Any] | None) -> None:
        super().__init__("the condition did not hold")
        self.item = item


class Reason(NamedTuple):
    """Why one action of a transaction was refused; `code` is "None" for one that was not."""

    code: str
    item: dict[str, Any] | None

    def __repr__(self) -> str:
        return f"Reason({self.code})"


class TransactionCancelled(Exception):
    """A transaction of which at least one condition did not hold; `reasons` in the order of the request. Nothing was written by it."""

    def __init__(self, reasons: list[Reason]) -> None:
        super().__init__("the transaction was cancelled: " + ", ".join(reason.code for reason in reasons))
        self.reasons = reasons


_READS = ("Get", "Query", "Scan", "BatchGet", "TransactGet", "Describe", "List")

_NONE, _AGAIN, _IDEMPOTENT = Remedy.NONE, Remedy.AGAIN, Remedy.IF_IDEMPOTENT
_NEXT_THROTTLED = "Raise the capacity, or write less at once."
_CODES: Mapping[str, tuple[type[PalaverError], str, Remedy]] = {
    "ProvisionedThroughputExceededException": (errors.Throttled, "is throttled", _AGAIN),
    "RequestLimitExceeded": (errors.Throttled, "is throttled", _AGAIN),
    "ThrottlingException": (errors.Throttled, "is throttled", _AGAIN),
    "Throttling": (errors.Throttled, "is throttled", _AGAIN),
    "LimitExceededException": (errors.Throttled, "is over a limit of the account", _AGAIN),
    "TransactionConflictException": (errors.Conflict, "met other writers", _AGAIN),
    "ReplicatedWriteConflictException": (errors.Conflict, "met writers of another region", _AGAIN),
    "TransactionInProgressException": (errors.InProgress, "has not ended for this token", _AGAIN),
    "ServiceUnavailable": (errors.Unavailable, "found the service unavailable", _AGAIN),
    "ServiceUnavailableException": (errors.Unavailable, "found the service unavailable", _AGAIN),
    "InternalServerError": (errors.OutcomeUnknown, "met a fault of the service", _IDEMPOTENT),
    "InternalFailure": (errors.OutcomeUnknown, "met a fault of the service", _IDEMPOTENT),
    "IdempotentParameterMismatchException": (errors.IdempotencyMismatch, "used a token of another request", _NONE),
    "DuplicateItemException": (errors.AlreadyExists, "found a record with this key", _NONE),
    "ItemCollectionSizeLimitExceededException": (errors.StorageFull, "found an item collection over 10 GB", _NONE),
    "ValidationException": (errors.Validation, "was refused as not valid", _NONE),
    "SerializationException": (errors.Validation, "was refused as not readable", _NONE),
    "ResourceNotFoundException": (errors.NotProvisioned, "names a table, index or stream that is missing", _NONE),
    "TableNotFoundException": (errors.NotProvisioned, "names a table that is missing", _NONE),
    "IndexNotFoundException": (errors.NotProvisioned, "names an index that is missing", _NONE),
    "ResourceInUseException": (errors.NotProvisioned, "found the table being made, changed or already there", _NONE),
    "TableInUseException": (errors.NotProvisioned, "found the table in use", _NONE),
    "TableAlreadyExistsException": (errors.NotProvisioned, "found the table already there", _NONE),
    "ContinuousBackupsUnavailableException": (errors.NotProvisioned, "found backups not ready yet", _NONE),
    "TrimmedDataAccessException": (errors.Trimmed, "asked for changes older than the stream keeps", _NONE),
    "ExpiredIteratorException": (errors.Trimmed, "used a place in the stream that has expired", _NONE),
    "AccessDeniedException": (errors.Forbidden, "is not allowed to these credentials", _NONE),
    "AccessDenied": (errors.Forbidden, "is not allowed to these credentials", _NONE),
    "UnrecognizedClientException": (errors.Unauthenticated, "was signed by credentials nobody knows", _NONE),
    "InvalidClientTokenId": (errors.Unauthenticated, "was signed by credentials nobody knows", _NONE),
    "MissingAuthenticationToken": (errors.Unauthenticated, "was not recognised as signed", _NONE),
    "MissingAuthenticationTokenException": (errors.Unauthenticated, "was not recognised as signed", _NONE),
    "IncompleteSignature": (errors.Unauthenticated, "was not recognised as signed", _NONE),
    "IncompleteSignatureException": (errors.Unauthenticated, "was not recognised as signed", _NONE),
    "OptInRequired": (errors.Unauthenticated, "needs the account to be opted in", _NONE),
    "ExpiredTokenException": (errors.Unauthenticated, "was signed by credentials that have expired", Remedy.CREDENTIALS),
    "ExpiredToken": (errors.Unauthenticated, "was signed by credentials that have expired", Remedy.CREDENTIALS),
    "InvalidSignatureException": (errors.Unauthenticated, "has a signature the service refuses", Remedy.CLOCK),
    "SignatureDoesNotMatch": (errors.Unauthenticated, "has a signature the service refuses", Remedy.CLOCK),
    "RequestExpired": (errors.Unauthenticated, "was signed too long ago", Remedy.CLOCK),
    "RequestTimeTooSkewed": (errors.Unauthenticated, "was signed at another time", Remedy.CLOCK),
    "UnknownOperationException": (errors.ConfigError, "is not known to this endpoint", _NONE),
}
_HINTS: Mapping[type[PalaverError], str] = {
    errors.Unauthenticated: "Look at the access key, its secret, the session token and the clock.",
    errors.Forbidden: "Grant the action in the role's policy.",
    errors.NotProvisioned: "Run `palaver migrate apply`, or wait until the table is active.",
}
# A throttling reason is <Table|Index><Read|Write><limit>.
_LIMITS = (
    ("KeyRangeThroughputExceeded", "hot key", "Spread the writes over more partition keys, or declare shards= on the index."),
    ("AccountLimitExceeded", "account", "Ask for a higher quota of the account."),
    ("MaxOnDemandThroughputExceeded", "on-demand maximum", "Raise the table's on-demand maximum."),
    ("ProvisionedThroughputExceeded", "provisioned", "Raise the provisioned capacity, or use on-demand."),
)
_IN_BRACKETS = re.compile(r"\[([A-Za-z, ]+)\]")


def is_read(operation: str) -> bool:
    return operation.startswith(_READS)


def lost(operation: str, kind: str, *, sent: bool, stale: bool, error: PalaverError | None) -> Failure:
    """Say what it means that no whole answer came."""
    if error is not None:
        return Failure(kind, error, Remedy.NONE)
    if not sent:
        return Failure(kind, errors.Unavailable(f"DynamoDB cannot be reached for {operation}."), Remedy.AGAIN)
    return Failure(kind, _unknown(operation, f"got no whole answer ({kind})"), Remedy.IF_IDEMPOTENT, at_once=stale)


def damaged(operation: str) -> Failure:
    """Say what it means that an answer's checksum is wrong."""
    return Failure("crc", errors.Corruption(f"The answer to {operation} arrived damaged: its checksum is wrong."), Remedy.IF_IDEMPOTENT)


def refused(operation: str, table: str, status: int, body: bytes) -> Failure:
    """Say what an answer other than 200 means."""
    answer = _parsed(body)
    code = str(answer.get("__type") or answer.get("code") or "").rpartition("#")[2]
    if code == "ConditionalCheckFailedException":
        item = answer.get("Item")
        return Failure("condition", ConditionalCheckFailed(item if isinstance(item, dict) else None), Remedy.NONE)
    if code == "TransactionCanceledException":
        return _cancelled(operation, table, answer)
    known = _CODES.get(code)
    if known is None:
        return _unlisted(operation, table, status, code)
    kind, what, remedy = known
    if kind is errors.Throttled:
        return _throttled(operation, table, code, answer)
    if kind is errors.OutcomeUnknown:
        return Failure(code, _unknown(operation, what, code), remedy)
    return Failure(code, _error(kind, operation, table, what, code), remedy)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}  # a page of a proxy or a load balancer: the status alone speaks
    return answer if isinstance(answer, dict) else {}


def _unlisted(operation: str, table: str, status: int, code: str) -> Failure:
    name = code if code.isidentifier() else str(status)
    if status >= 500:
        return Failure(name, _unknown(operation, f"was answered with status {status}", name), Remedy.IF_IDEMPOTENT)
    if status == 429:
        return Failure(name, _error(errors.Throttled, operation, table, "is throttled", name), Remedy.AGAIN)
    kind: type[PalaverError] = {401: errors.Unauthenticated, 403: errors.Forbidden, 413: errors.BatchShape}.get(status, errors.Validation)
    if not 400 <= status:
        kind = errors.ConfigError  # a redirection or an empty success: no DynamoDB answers like that
    return Failure(name, _error(kind, operation, table, f"was refused with {name}", name), Remedy.NONE)


def _error(kind: type[PalaverError], operation: str, table: str, what: str, code: str, hint: str = "", **context: Any) -> PalaverError:
    on = f" on {table}" if table else ""
    return kind(f"{operation}{on} {what}.", hint=hint or _HINTS.get(kind, ""), operation=operation, service_code=code, **context)


def _unknown(operation: str, what: str, code: str = "") -> PalaverError:
    if is_read(operation):
        return errors.Unavailable(f"{operation} {what}.", operation=operation, service_code=code)
    return errors.OutcomeUnknown(f"{operation} {what}: it may have been carried out.", operation=operation, service_code=code)


def _throttled(operation: str, table: str, code: str, answer: dict[str, Any]) -> Failure:
    reason, hint, resource = {"RequestLimitExceeded": "account", "LimitExceededException": "limit"}.get(code, "provisioned"), "", table
    if code in ("ThrottlingException", "Throttling"):
        reason = "rate"
    for given in answer.get("ThrottlingReasons") or answer.get("throttlingReasons") or ():
        for end, word, advice in _LIMITS:
            if str(given.get("reason", "")).endswith(end):
                reason, hint = word, advice
        # An ARN names the account; the table and the index are what the reader needs.
        resource = str(given.get("resource") or "").rpartition(":table/")[2] or resource
    error = _error(
        errors.Throttled, operation, resource, f"is throttled ({reason})", code, hint or _NEXT_THROTTLED, reason=reason, resource=resource
    )
    return Failure(f"throttled: {reason}", error, Remedy.AGAIN)


def _cancelled(operation: str, table: str, answer: dict[str, Any]) -> Failure:
    """Tell refusals from collisions: conditions that fail are an answer, everything else is an error of its own."""
    given = answer.get("CancellationReasons")
    if isinstance(given, list):
        reasons = [Reason(str(each.get("Code") or "None"), each.get("Item")) for each in given if isinstance(each, dict)]
    else:
        found = _IN_BRACKETS.search(str(answer.get("Message") or answer.get("message") or ""))
        reasons = [Reason(code.strip(), None) for code in found[1].split(",")] if found else []
    codes = {reason.code for reason in reasons}
    if "ValidationError" in codes:
        return Failure("invalid", _error(errors.Validation, operation, table, "was refused as not valid", "ValidationError"), Remedy.NONE)
    if "ItemCollectionSizeLimitExceeded" in codes:
        what = "found an item collection over 10 GB"
        return Failure("full", _error(errors.StorageFull, operation, table, what, "ItemCollectionSizeLimitExceeded"), Remedy.NONE)
    if codes & {"ConditionalCheckFailed", "DuplicateItem"}:
        return Failure("condition", TransactionCancelled(reasons), Remedy.NONE)
    for code in ("ProvisionedThroughputExceeded", "ThrottlingError", "RequestLimitExceeded"):
        if code in codes:
            service = {"ThrottlingError": "ThrottlingException", "RequestLimitExceeded": code}.get(code, code + "Exception")
            return _throttled(operation, table, service, answer)
    if "AccessDenied" in codes:
        return Failure(
            "denied", _error(errors.Forbidden, operation, table, "is not allowed to these credentials", "AccessDenied"), Remedy.NONE
        )
    return Failure("conflict", _error(errors.Conflict, operation, table, "met other writers", "TransactionConflict"), Remedy.AGAIN)
