"""What an engine fulfils: small protocols for records, search and cache (`blob_ports`: for blobs). What is derivable is derived above.

Optional powers are separate one-method protocols; an engine has them or not, and nothing is half-implemented.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from palaver.ops import Address, Cause, Change, ChangePage, Limits, Physical, Read, RecordPage, Refused, Step, Table, WriteSet, Written
from palaver.values import KeyPart, Record, Scalar

if TYPE_CHECKING:
    from palaver.caching import CacheHealth, Heard, Held, Item, Limit, Missed, Present, Rebuild, Take, Taken


class RecordEngine(Protocol):
    """Records of one database. Every method raises only errors of the tree in `palaver.errors`."""

    limits: Limits

    async def get(self, at: Sequence[Address], *, consistent: bool = True, snapshot: bool = False) -> list[Record | None]:
        """Return the stored records in the order asked, hidden ones included; `snapshot`: all of one instant."""
        ...

    async def query(self, read: Read) -> RecordPage:
        """Return one page; see `Read` for order, limits and positions."""
        ...

    async def scan(self, table: str, *, after: tuple[KeyPart, ...] | None, limit: int, segment: tuple[int, int] = (0, 1)) -> RecordPage:
        """Return one page of a whole table in no promised order; segments are disjoint and complete together."""
        ...

    async def write(self, writes: WriteSet) -> Written | Refused:
        """Write all ops and their changes in one commit, durable when this returns, or none of them."""
        ...

    async def load(self, table: str, records: Sequence[Record], now_us: int, cause: Cause) -> Sequence[int]:
        """Put whole records of one table, each by itself and unguarded; return their revisions, durable when this returns.

        Where one is named twice the later one stays. After an error some may be stored, each with its change.
        """
        ...

    async def changes(self, after: int | None, limit: int) -> ChangePage:
        """Return changes after a position (None: from the oldest kept); raise Trimmed where they are gone."""
        ...

    async def describe(self) -> Physical: ...

    async def apply(self, step: Step) -> None: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class Counts(Protocol):
    async def count(self, read: Read, now_us: int) -> int:
        """Return how many live records a read would give, all pages of it (`limit` and `after` ignored)."""
        ...


@runtime_checkable
class FindsExpired(Protocol):
    async def expired(self, table: str, now_us: int, limit: int) -> list[Address]:
        """Return addresses of expired records, oldest first, found through an index, never by a scan."""
        ...


@runtime_checkable
class ScansAs(Protocol):
    async def scan_as(self, table: Table, *, after: tuple[KeyPart, ...] | None, limit: int) -> RecordPage:
        """Return one page of a whole table as `scan` does, read by this declaration of it and not by the engine's own."""
        ...


@runtime_checkable
class TrimsFeed(Protocol):
    async def trim(self, before: int) -> int:
        """Forget changes at positions below `before`; return how many."""
        ...


@runtime_checkable
class MakesParts(Protocol):
    async def make_parts(self, now_us: int) -> list[str]:
        """Make ahead what tables kept in parts by time need soon; return the names of what was made. Nothing depends on it."""
        ...


@runtime_checkable
class Scrubs(Protocol):
    async def scrub(self) -> None:
        """Leave no byte of anything deleted before this call in the engine's files; raise Conflict where readers prevent it."""
        ...


@runtime_checkable
class KeepsDeleted(Protocol):
    def deleted_stays(self) -> str | None:
        """Say where bytes of what was deleted stay, until when, and what ends it sooner; None where none do."""
        ...


@runtime_checkable
class Wakes(Protocol):
    async def wait_for_change(self, after: int, timeout: float) -> bool:
        """Return True as soon as a change after a position may be there, written by any process; False in the end."""
        ...


@runtime_checkable
class CopiesFeed(Protocol):
    async def copy_feed(self) -> None:
        """Copy what the database itself logged into the feed, as far as it is there; an engine that writes its feed needs none."""
        ...


@runtime_checkable
class ReadsLog(Protocol):
    async def logged(self, after: int, limit: int) -> ChangePage:
        """Return what `changes` would of what was copied into the feed already, and copy nothing; raise Trimmed as it does."""
        ...


@runtime_checkable
class Restores(Protocol):
    async def restore(
        self, table: str, records: Sequence[Record], *, gone: Sequence[tuple[KeyPart, ...]] = (), over: bool = False
    ) -> list[tuple[KeyPart, ...]]:
        """Store records as another database has them, REVISION and MARK included, remove the keys in `gone`; publish no change.

        A record whose stored revision is higher stays, unless `over`; returns the keys of those that stayed. Each stands alone,
        no key is named twice, and everything is durable when this returns. Doing it again is harmless.
        """
        ...


@runtime_checkable
class ContinuesFeed(Protocol):
    async def continue_feed(self, changes: Sequence[Change], last: int, *, gap: bool = False) -> None:
        """Append changes of another database's feed at their own positions; every later write is at a position above `last`.

        Changes at or below the head are there already, and those of tables that are not there are left out; the head may stay at
        the last change. With a `gap`, and without changes, nobody knows what was before `last`: the feed begins after it anew, and
        an older reader is told Trimmed.
        """
        ...


# --- search ---------------------------------------------------------------------------------------------------------

FilterOp = Literal["==", "in", ">=", ">", "<=", "<"]


@dataclass(frozen=True, slots=True)
class SearchSpec:
    """One search index: text fields by name, filter fields by name and kind, vector fields by name and dimensions.

    `required` names filter fields every search must give, such as the tenant.
    """

    name: str
    text: tuple[str, ...]
    filters: Mapping[str, Literal["text", "int", "float", "bool"]]
    vectors: Mapping[str, int] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        from hashlib import sha256

        shape = repr((self.text, sorted(self.filters.items()), sorted(self.vectors.items()), self.required))
        return sha256(shape.encode()).hexdigest()[:12]


class SearchDoc(NamedTuple):
    """A document: `id` is unique in its index; a put with a revision not above the stored one is ignored."""

    id: str
    revision: int
    text: Mapping[str, str]
    filters: Mapping[str, Scalar | Sequence[Scalar]]
    vectors: Mapping[str, Sequence[float]] = {}


class SearchFilter(NamedTuple):
    field: str
    op: FilterOp
    value: Scalar | Sequence[Scalar]


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What is looked for. `text` is what a person typed: words (all of them), "a phrase", a prefix*, -without.

    Anything else in it is treated as words, so no input is a syntax error. An empty text matches every document.
    """

    text: str = ""
    filters: tuple[SearchFilter, ...] = ()
    facets: tuple[str, ...] = ()
    limit: int = 20
    offset: int = 0
    newest_first: str | None = None
    vector: tuple[str, Sequence[float]] | None = None


class SearchHit(NamedTuple):
    id: str
    score: float


class SearchPage(NamedTuple):
    """Hits best first (or by `newest_first`), the number of all matches, and counts per facet value."""

    hits: Sequence[SearchHit]
    total: int
    facets: Mapping[str, Mapping[Scalar, int]]


class SearchIndex(Protocol):
    async def put(self, index: str, docs: Sequence[SearchDoc]) -> None: ...

    async def delete(self, index: str, ids: Sequence[str]) -> None: ...

    async def search(self, index: str, query: SearchQuery) -> SearchPage:
        """Return one page; raises Validation when a required filter is missing, NotProvisioned for an unknown index."""
        ...

    async def ids(self, index: str, after: str, limit: int) -> list[tuple[str, int]]:
        """Return (id, revision) in order of ids, for reconciliation; of the index being filled, if there is one."""
        ...

    async def visible(self, index: str) -> None:
        """Return when everything put before is found by a search."""
        ...

    async def apply(self, specs: Sequence[SearchSpec]) -> list[str]:
        """Make the indexes be `name@fingerprint`; return the names that need filling: made anew, or not activated since.

        While a name fills, puts and deletes reach the old index and the new one, and searches use the old one if there is one.
        """
        ...

    async def activate(self, index: str) -> None:
        """Let searches use the index that was filled, and drop the one it replaces."""
        ...

    async def aclose(self) -> None: ...


@runtime_checkable
class Restarts(Protocol):
    async def restart(self, index: str) -> None:
        """Make an index anew and empty, whatever state its stored form is in; it then needs filling."""
        ...


# --- cache ----------------------------------------------------------------------------------------------------------
#
# Nothing in a cache is the only copy of anything. Every method raises only errors of the tree: Unavailable where nothing
# happened, OutcomeUnknown where a change may have happened. Keys are any text up to 1,000 bytes of UTF-8.


class KeyValue(Protocol):
    """Values of one kind, each with an expiry and a revision."""

    async def get(self, key: str, *, extend_s: float | None = None) -> Held | None:
        """Return a value, None on a miss; `extend_s` lets a value that is there live that long from now, in the same step."""
        ...

    async def get_many(self, keys: Sequence[str]) -> list[Held | None]:
        """Return values in the order asked, not of one instant."""
        ...

    async def set(self, key: str, value: bytes, *, ttl_s: float, revision: int = 0, expected: int | None = None) -> bool:
        """Store a value with its expiry in one step; return False where it was refused.

        With a revision an older value never replaces a newer one, nor passes the fence of a newer delete. With `expected`
        it is stored only over a value of exactly that revision, or, for ABSENT, over none. With neither it always is.
        """
        ...

    async def delete(self, key: str, *, revision: int = 0, fence_s: float = 60.0) -> None:
        """Forget a value. With a revision only older values are forgotten, and for `fence_s` refused as well.

        Who reads the truth, then pauses, then sets what it read meets the fence; it may not pause longer than `fence_s`.
        """
        ...


Ready: TypeAlias = "Callable[[str], Taken | Awaitable[Taken]]"
"""Charges a key, as `Limiter.take` does; what an engine in this process says need not be awaited."""


class Limiter(Protocol):
    async def take(self, *takes: Take, group: str = "", token: str = "") -> Taken:
        """Charge several limits in one atomic step: all of them or, when one says no, none.

        Time is the engine's, never the caller's. What is taken together is of one `group`, which lies on one server; the
        same key in another group is another key. With a `token` a call that was allowed and is repeated within 60 s is counted
        once and answered as before; one that was refused is asked anew. Raises Validation for one limit and key twice, or a cost below 1.
        """
        ...

    def ready(self, limits: Sequence[Limit], *, group: str = "") -> Ready:
        """Return what takes one of each of these limits for a key: the call that is made all the time."""
        ...

    async def take_each(self, calls: Sequence[Sequence[Take]], *, group: str = "") -> list[Taken]:
        """Make several calls of `take`, each atomic by itself, in one trip."""
        ...

    async def peek(self, *takes: Take, group: str = "") -> Taken:
        """Say what `take` would say, with what remains now, and charge nothing."""
        ...

    async def reset(self, *takes: Take, group: str = "") -> None:
        """Forget what was charged for these limits and keys."""
        ...


class Presence(Protocol):
    """Who is active where. Members expire one by one; when they were last seen is known for 30 days longer."""

    async def touch(self, member: str, channels: Sequence[str], *, ttl_s: float) -> None:
        """Make a member present for `ttl_s` from now; each channel by itself."""
        ...

    async def leave(self, member: str, channels: Sequence[str]) -> None: ...

    async def present(self, channel: str, *, limit: int = 1_000) -> list[Present]:
        """Return who is present, those who stay longest first."""
        ...

    async def count(self, channels: Sequence[str]) -> list[int]: ...

    async def among(self, channel: str, members: Sequence[str]) -> list[bool]:
        """Return for each of these members whether they are present."""
        ...

    async def last_seen(self, channel: str, members: Sequence[str]) -> list[datetime | None]: ...


class Window(Protocol):
    """The newest items of many sequences. A window is whole or a miss: never a part that looks like everything."""

    async def read(self, key: str, *, limit: int, budget: int | None = None, holding: str | None = None) -> tuple[Item, ...] | None:
        """Return the newest items in order, as many as stay within both bounds, or None on a miss.

        A window that holds fewer than were asked for and does not reach back to the start is a miss. So is one that lacks
        the item `holding`: who has just written an item names it, and never reads a window from before.
        """
        ...

    async def push(self, key: str, items: Sequence[Item], *, ttl_s: float) -> bool:
        """Add items to a window that is there or being filled, one with a known id not again; return False on a miss."""
        ...

    async def begin(self, key: str, *, ttl_s: float = 30.0) -> Rebuild:
        """Ask for leave to fill a window that is a miss; what is pushed from now on is kept for it. Then read the truth."""
        ...

    async def replace(self, key: str, items: Sequence[Item], *, ticket: str, keep: int, complete: bool, ttl_s: float) -> bool:
        """Fill the window with the newest items of the truth and those pushed since `begin`; return False for a stale ticket.

        `complete`: there are no older items. A delete, an expiry, a flush or another replace makes the ticket stale; what
        was read is then right for its reader and not kept.
        """
        ...

    async def delete(self, key: str) -> None:
        """Make the window a miss, and every ticket for it stale."""
        ...


class Listening(Protocol):
    """What a listener hears, once: `async with` it, then iterate."""

    async def __aenter__(self) -> AsyncIterator[Heard | Missed]:
        """Return when listening has begun: what is published from then on is heard, or a `Missed` says that it may not be."""
        ...

    async def __aexit__(self, *exc: object) -> None: ...


class Bus(Protocol):
    async def publish(self, topic: str, data: bytes) -> None:
        """Tell everybody who listens now; at most once each, in the order of this caller."""
        ...

    def listen(self, *topics: str) -> Listening:
        """Listen to topics. A listener that falls too far behind gets a `Missed` in place of what it did not take."""
        ...


class Cache(Protocol):
    """The five of one engine."""

    @property
    def limiter(self) -> Limiter: ...

    @property
    def presence(self) -> Presence: ...

    @property
    def windows(self) -> Window: ...

    @property
    def bus(self) -> Bus: ...

    def values(self, kind: str) -> KeyValue:
        """Return the values of one kind, such as "session". Kinds share no keys; in memory each has bounds of its own."""
        ...

    @property
    def made(self) -> int:
        """How many connections were made so far, as in `health`: while it does not grow, nothing was lost that was put there."""
        ...

    def health(self) -> CacheHealth: ...

    async def aclose(self) -> None: ...
