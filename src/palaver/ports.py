"""What an engine fulfils: four small protocols. Everything derivable is derived once above them.

Optional powers are separate one-method protocols; an engine has them or not, and nothing is half-implemented.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from palaver.ops import Address, Change, ChangePage, Limits, Physical, Read, RecordPage, Refused, Step, WriteSet, Written
from palaver.values import KeyPart, Record, Scalar


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
class TrimsFeed(Protocol):
    async def trim(self, before: int) -> int:
        """Forget changes at positions below `before`; return how many."""
        ...


@runtime_checkable
class Scrubs(Protocol):
    async def scrub(self) -> None:
        """Leave no byte of anything deleted before this call in the engine's files; raise Conflict where readers prevent it."""
        ...


@runtime_checkable
class Wakes(Protocol):
    async def wait_for_change(self, after: int, timeout: float) -> bool:
        """Return True as soon as a change after a position may be there, written by any process; False in the end."""
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
    async def continue_feed(self, changes: Sequence[Change], last: int) -> None:
        """Append changes of another database's feed at their own positions; every later write is at a position above `last`.

        Changes at or below the head are there already, and those of tables that are not there are left out. Without changes, and
        where there never was one, the feed begins after `last`: an older reader is told Trimmed.
        """
        ...


# --- blobs ----------------------------------------------------------------------------------------------------------


class BlobInfo(NamedTuple):
    """An object as listed. `modified_us`: when it was last put, by the store's own clock; its age protects uploads in flight."""

    key: str
    size: int
    modified_us: int


class BlobStore(Protocol):
    """Objects by key. Keys are content-addressed by the planner and never overwritten with other bytes."""

    async def put(self, key: str, data: bytes) -> None:
        """Store the object; durable, whole and visible when this returns. Storing the same key again is not an error."""
        ...

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes, or a range of them; raises NotFound."""
        ...

    async def head(self, key: str) -> BlobInfo | None: ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; a missing one is not an error."""
        ...

    def list(self, prefix: str = "") -> AsyncIterator[BlobInfo]:
        """Yield every object whose key starts with the prefix, whole path segments or not, in byte order of the keys."""
        ...

    async def aclose(self) -> None: ...


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
