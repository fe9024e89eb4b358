"""Every error Palaver raises, as one tree.

    PalaverError
    ├── SchemaError            a declaration that cannot work
    ├── ConfigError            a URL, option or use of a store that cannot work
    ├── Validation             a value or request no engine accepts
    │   ├── KeyType            ├── EmptyKey        ├── KeyTooLong
    │   ├── ItemTooLarge       ├── NumberRange     ├── Expression
    │   ├── PathOverlap        ├── BatchShape      └── BadCursor
    ├── NotFound               get() of a record that does not exist
    ├── ConditionFailed        a single write whose condition did not hold
    │   ├── AlreadyExists      create() of a record that exists
    │   ├── Duplicate          a unique value another record holds
    │   └── ReferenceBroken    a reference to a record that does not exist, or one still referenced
    ├── TransactionCancelled   a batch of which at least one op was refused; nothing was written
    ├── Conflict               concurrent writers; nothing was written
    ├── IdempotencyMismatch    a token used again for another request
    ├── InProgress             the first request with this token has not ended
    ├── Throttled              the engine, or our own queue, is full
    ├── RateLimited            a declared limit was reached
    ├── Unavailable            not sent, so not written
    ├── OutcomeUnknown         sent, and nobody can say whether it was written
    ├── StorageFull            no space left; reads go on
    ├── ReadOnly               the store cannot be written
    │   └── Fenced             another process took over the lease
    ├── Corruption             the stored bytes are damaged
    ├── Unsealable             a secret that cannot be opened: another key, another place, changed
    ├── NotProvisioned         a table or index is missing, or still being built
    ├── Trimmed                the feed no longer reaches back far enough
    ├── SettleTimeout          a projection did not catch up in time
    ├── Unauthenticated        nobody is known to be asking
    └── Forbidden              known, and not allowed
        └── TenantMismatch     the record belongs to another tenant

Messages name entities, fields and indexes, never stored values: an error may be logged anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar


class PalaverError(Exception):
    """Base of every error raised on purpose.

    What to do: catch a subclass; `code` is stable, `retryable` says whether trying again can help.
    """

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "Palaver could not do what was asked"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "", *, hint: str = "", **context: Any) -> None:
        self.message = message or self.title
        self.hint = hint
        self.context: Mapping[str, Any] = context
        super().__init__(self.message if not hint else f"{self.message} {hint}")


class SchemaError(PalaverError):
    """The declaration contradicts itself or asks for something no engine can do.

    What to do: change the declaration as the hint says; `palaver schema check` lists every finding at once.
    """

    code = "schema"
    title = "The declaration cannot work"


class ConfigError(PalaverError):
    """A URL, an option or the way a store is used cannot work: an unknown option, another event loop, a forked process.

    What to do: correct the setting the message names; a store belongs to the event loop and process that opened it.
    """

    code = "config"
    title = "The configuration cannot work"


class Validation(PalaverError):
    """A value or request breaks a rule that holds on every engine, so nothing was sent.

    What to do: change the value; the message names the entity and the field.
    """

    code = "validation"
    title = "The request is not valid"
    status = 422


class KeyType(Validation):
    """A key or index part has a type that cannot be ordered the same way everywhere.

    What to do: use text, an integer, a Decimal, bytes, an instant, an enum or a boolean.
    """

    code = "key_type"
    title = "A key part has the wrong type"


class EmptyKey(Validation):
    """A key part is empty or missing; keys are never empty on any engine.

    What to do: give the part a value, or a declared sentinel such as `@global`.
    """

    code = "empty_key"
    title = "A key part is empty"


class KeyTooLong(Validation):
    """A partition key over 2,048 bytes, a sort key over 1,024, or an index entry over 2,600 bytes in all.

    What to do: key by a shorter identifier, or by a hash of the long value.
    """

    code = "key_too_long"
    title = "A key is too long"


class ItemTooLarge(Validation):
    """A record over 409,600 bytes as metered, the largest any of the engines stores.

    What to do: mark the large field with `Blob(...)`, so that it is stored as an object by itself.
    """

    code = "item_too_large"
    title = "The record is too large"
    status = 413


class NumberRange(Validation):
    """A number with more than 38 significant digits or outside ±9.99E+125, NaN or infinite.

    What to do: round it, or store it as text.
    """

    code = "number"
    title = "A number cannot be stored exactly"


class Expression(Validation):
    """A condition, filter or update names something that is not there or has another type.

    What to do: use the field names of the entity; the message suggests the nearest.
    """

    code = "expression"
    title = "The expression is not valid"


class PathOverlap(Validation):
    """One update touches a path and something inside it.

    What to do: set the outer value once, or update only inner paths.
    """

    code = "path_overlap"
    title = "Two update paths overlap"


class BatchShape(Validation):
    """A batch with two writes to one record, over 100 ops, or over 4 MB, counted after expansion.

    What to do: split the batch, or use `bulk` where all-or-nothing is not needed.
    """

    code = "batch_shape"
    title = "The batch cannot be written at once"


class BadCursor(Validation):
    """A cursor that was not made by this store for this query, or is older than a day.

    What to do: start from the first page again.
    """

    code = "bad_cursor"
    title = "The cursor is not valid here"
    status = 400


class NotFound(PalaverError):
    """No record has this key: never written, deleted, being deleted, or expired.

    What to do: check the key; use `find` where absence is normal.
    """

    code = "not_found"
    title = "There is no such record"
    status = 404


class ConditionFailed(PalaverError):
    """A write's condition did not hold, so nothing was written; `found` is the record as it is, or None.

    What to do: read the record again and decide anew.
    """

    code = "condition_failed"
    title = "The condition did not hold"
    status = 412

    def __init__(self, message: str = "", *, hint: str = "", found: Any = None, **context: Any) -> None:
        super().__init__(message, hint=hint, **context)
        self.found = found


class AlreadyExists(ConditionFailed):
    """create() found a record with this key; it was left as it is, and is in `found`.

    What to do: use `put` to replace it, `patch` to change it, or a `token` if this is a retry.
    """

    code = "already_exists"
    title = "The record exists already"
    status = 409


class Duplicate(ConditionFailed):
    """Another record holds the same value of a `Unique` declaration.

    What to do: choose another value, or look the holder up by the unique fields.
    """

    code = "duplicate"
    title = "The value is taken"
    status = 409


class ReferenceBroken(ConditionFailed):
    """A `Ref` names a record that does not exist, or a record to be deleted is still referenced.

    What to do: create the parent first, or delete the children first (or declare on_delete="cascade").
    """

    code = "reference"
    title = "The reference does not hold"
    status = 409


class TransactionCancelled(PalaverError):
    """At least one op of a batch was refused, so none was written; `reasons` has one entry per op, None where it held.

    What to do: look at `reasons`, in the order of the batch.
    """

    code = "cancelled"
    title = "The batch was cancelled"
    status = 409

    def __init__(self, message: str = "", *, hint: str = "", reasons: Sequence[PalaverError | None] = (), **context: Any) -> None:
        super().__init__(message, hint=hint, **context)
        self.reasons = tuple(reasons)


class Conflict(PalaverError):
    """Other writers kept changing the same records; nothing was written.

    What to do: try again after a random pause.
    """

    code = "conflict"
    title = "Other writers were faster"
    status = 409
    retryable = True


class IdempotencyMismatch(PalaverError):
    """This token was used before with another request.

    What to do: use a new token for a new request; the same token only to repeat the same request.
    """

    code = "idempotency_mismatch"
    title = "The token belongs to another request"
    status = 422


class InProgress(PalaverError):
    """The first request with this token has not ended: DynamoDB got it, no answer came, and it is still at work on it.
    In a file or PostgreSQL it cannot be: there a token is written in its batch's own commit, and the second waits for the first.

    What to do: wait and ask again with the same token.
    """

    code = "in_progress"
    title = "The first request is still running"
    status = 409
    retryable = True


class Throttled(PalaverError):
    """The engine or our own write queue is full; nothing was written.

    What to do: try again after a random pause; if it lasts, write less at once.
    """

    code = "throttled"
    title = "Too much at once"
    status = 429
    retryable = True


class RateLimited(PalaverError):
    """A limit the application declared was reached; nothing was charged. `retry_after_s` says when the same call could pass.

    What to do: wait that long; `headers` are what an HTTP answer tells its client.
    """

    code = "rate_limited"
    title = "The limit was reached"
    status = 429
    retryable = True

    def __init__(
        self, message: str = "", *, hint: str = "", retry_after_s: float = 0.0, headers: Mapping[str, str] | None = None, **context: Any
    ) -> None:
        super().__init__(message, hint=hint, **context)
        self.retry_after_s = retry_after_s
        self.headers: Mapping[str, str] = headers or {}


class Unavailable(PalaverError):
    """The engine cannot be reached or opened; the request was not sent.

    What to do: check the URL, the path and the server; then try again.
    """

    code = "unavailable"
    title = "The engine cannot be reached"
    status = 503
    retryable = True


class OutcomeUnknown(PalaverError):
    """The request was sent and its answer was lost: it may or may not have been written.

    What to do: repeat it with the same `token`, or read before repeating.
    """

    code = "outcome_unknown"
    title = "Nobody can say whether it was written"
    status = 503


class StorageFull(PalaverError):
    """No space left where the data lives; nothing was written and reads go on.

    What to do: make room; writing resumes without a restart.
    """

    code = "storage_full"
    title = "The storage is full"
    status = 507


class ReadOnly(PalaverError):
    """The store cannot be written: a read-only file, folder or replica.

    What to do: give the process write permission, or open the primary.
    """

    code = "read_only"
    title = "The store is read-only"
    status = 503


class Fenced(ReadOnly):
    """Another process took over the lease this one was working under.

    What to do: nothing: the other process goes on with the work.
    """

    code = "fenced"
    title = "Another process took over"


class Corruption(PalaverError):
    """The stored bytes are damaged, or the file is not a database of ours.

    What to do: stop writing, keep the file, restore a backup.
    """

    code = "corruption"
    title = "The stored bytes are damaged"


class Unsealable(PalaverError):
    """A stored secret cannot be opened: its key is not here, or it was changed, or moved from another record.

    What to do: add the key the message names to `PALAVER_SEAL_KEYS`; where it is there, restore the record, or set the secret anew.
    """

    code = "unsealable"
    title = "A secret cannot be opened"


class NotProvisioned(PalaverError):
    """A table or index the schema needs is missing, still being built, or newer than this code.

    What to do: run `palaver migrate apply`, wait, or update the program.
    """

    code = "not_provisioned"
    title = "The database is not ready for this schema"


class Trimmed(PalaverError):
    """The feed no longer holds the changes a reader asks for.

    What to do: rebuild the projection from the records.
    """

    code = "trimmed"
    title = "The feed does not reach back that far"
    status = 410


class SettleTimeout(PalaverError):
    """A projection had not caught up when the time was over.

    What to do: wait longer, or look at `health` for its lag and its last error.
    """

    code = "settle_timeout"
    title = "A projection is behind"
    status = 503
    retryable = True


class Unauthenticated(PalaverError):
    """Nobody is known to be asking.

    What to do: send a valid credential.
    """

    code = "unauthenticated"
    title = "Who is asking?"
    status = 401


class Forbidden(PalaverError):
    """The asker is known and may not do this.

    What to do: ask somebody who may grant it.
    """

    code = "forbidden"
    title = "Not allowed"
    status = 403


class TenantMismatch(Forbidden):
    """The store is bound to another tenant, or to none while the schema has tenants.

    What to do: use `store.for_tenant(...)` with the tenant the data belongs to.
    """

    code = "tenant_mismatch"
    title = "There is no such record"
    status = 404


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint with the nearest known name, or with all of them when there are few."""
    from difflib import get_close_matches

    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]}?"
    return f"There are: {', '.join(names[:12])}." if names else ""
