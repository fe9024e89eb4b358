"""Cached values that are believed only while the cache is known to have been told of every change.

A cache may lose its memory, come back with an old one, or be out of reach while records change; a process may die between its
commit and telling the cache. So a mark lies beside the values: a generation, which all their keys begin with, and the position of
the feed up to which every change was told. It is read with each value. Who finds it gone, changed or older than it was believes
nothing until it has told the cache all changes since the mark; where that is not possible, a new generation begins.
"""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import Any

from palaver.cache.none import NO_CACHE
from palaver.caching import ABSENT, HIGHEST_REVISION, Held
from palaver.clock import SystemClock, us_of
from palaver.coalescing import Coalescer
from palaver.core import Core
from palaver.entity import Entity
from palaver.errors import Conflict, PalaverError, Trimmed, Unavailable
from palaver.following import Listener, Subscription, Wrote, settled_head
from palaver.ops import Change, Guard, Origin, Put, Table, Unchanged, WriteSet
from palaver.ports import Cache, RecordEngine
from palaver.remember import Load, Remember
from palaver.system import system
from palaver.values import KeyPart

_MARK_TTL_S = 7 * 86_400.0
_CHUNK = 500
_READ_TOGETHER = 256
_TOLD_TOGETHER = 100
FURTHEST_BEHIND = 20_000
"""Changes that are told one by one; after more of them a new generation costs less."""
_ATTEMPTS = 5

Tell = Callable[[Sequence[Change]], Awaitable[None]]


class InStep:
    """`ports.KeyValue` over the values of one kind. Keys begin with the `term` of this process; those of an older term reach nothing.

    While it does not believe, every get and set raises Unavailable.
    """

    def __init__(self, cache: Cache, kind: str, table: Table, doubted: Callable[[], None]) -> None:
        """The values are of records of `table`; `doubted` is called when belief ends, and `catch_up` is to be called then."""
        self._cache, self._values = cache, cache.values(kind)
        self._made = 0
        # In braces: on a cluster the mark and what it speaks of lie in one slot, or it would not speak of them.
        self._tag = f"{{{_fingerprint(table)}}}"
        self._mark = ""
        self._doubted = doubted
        self._generation: bytes | None = None
        self._floor = 0
        self.believes = False
        self.term = 0
        self._current = "0 "
        # How names of the generation that was last asked for begin.
        self._head = b"", f"{self._tag}:"
        self._reads: Coalescer[str, Held | None] = Coalescer(self.get_many, _READ_TOGETHER)

    def key(self, name: str) -> str:
        """Return the key of a name for now: what is loaded for it in another term is not kept."""
        return self._current + name

    # --- values -----------------------------------------------------------------------------------------------------

    async def get(self, key: str, *, extend_s: float | None = None) -> Held | None:
        if extend_s is None:
            return await self._reads.get(key)
        name = self._name(key)
        # Apart from the value that is believed: that and the mark have to be of one moment.
        found, _ = await asyncio.gather(self._reads.get(key), self._values.get(name, extend_s=extend_s))
        return found

    async def get_many(self, keys: Sequence[str]) -> list[Held | None]:
        names, believed = [self._name(key) for key in keys], (self.term, self._generation, self._floor)
        mark, *found = await self._values.get_many((self._mark, *names))
        self._check(mark, *believed)
        return found

    async def aclose(self) -> None:
        """Let the reads under way end."""
        await self._reads.aclose()

    def _check(self, mark: Held | None, term: int, generation: bytes | None, floor: int) -> None:
        """Doubt a cache that shows another mark than what was known when it was asked."""
        # Asked after the answer: it may have come over a connection that is newer than what is known.
        anew = self._cache.made != self._made
        if anew or mark is None or mark.value != generation or mark.revision < floor:
            if term == self.term:
                self.doubt()
            raise Unavailable("The cache has lost what it was told.")

    async def set(self, key: str, value: bytes, *, ttl_s: float, revision: int = 0, expected: int | None = None) -> bool:
        return await self._values.set(self._name(key), value, ttl_s=ttl_s, revision=revision, expected=expected)

    async def delete(self, key: str, *, revision: int = 0, fence_s: float = 60.0) -> None:
        """Tell the cache, in whatever generation others believe: they may while this process does not, or know of a newer one.

        Raises what the cache raises to who believes it; to others that is no news, and catching up will tell it.
        """
        own = generation = self._generation
        try:
            for _ in range(_ATTEMPTS):
                if generation is None:
                    mark = await self._read_mark()
                else:
                    deleting = self._values.delete(self._named(generation, key), revision=revision, fence_s=fence_s)
                    _, mark = await asyncio.gather(deleting, self._read_mark())
                # Without a mark nobody believes: who begins a generation from here on reads the records after what is told here.
                if mark is None or mark.value == generation:
                    break
                generation = mark.value
            else:
                raise Unavailable("Other processes kept beginning generations of the cache.")
        except PalaverError:
            self._doubt_of(own)
            if own is not None:
                raise
        else:
            if mark is None or mark.value != own:
                self._doubt_of(own)

    async def _read_mark(self) -> Held | None:
        """Return the mark as it lies in the cache: single values may be kept nearer."""
        return (await self._values.get_many((self._mark,)))[0] if self._mark else None

    def _name(self, key: str) -> str:
        if not self.believes or self._generation is None or not key.startswith(self._current):
            raise Unavailable("It is not known yet what the cache was told.")
        return self._named(self._generation, key)

    def _named(self, generation: bytes, key: str) -> str:
        """Return the key in the cache: a hash, since keys of records may say whose they are."""
        if generation != self._head[0]:
            self._head = generation, f"{self._tag}{generation.decode(errors='replace')}:"
        return self._head[1] + blake2b(key.partition(" ")[2].encode(), digest_size=16).hexdigest()

    # --- belief -----------------------------------------------------------------------------------------------------

    def doubt(self) -> None:
        """Believe nothing until caught up."""
        self._generation, self.believes = None, False
        self._next_term()
        self._doubted()

    def _doubt_of(self, generation: bytes | None) -> None:
        """Doubt, where that generation is believed still, or being caught up with."""
        if generation is not None and generation == self._generation:
            self.doubt()

    def _next_term(self) -> None:
        self.term += 1
        self._current = f"{self.term} "

    async def catch_up(self, records: RecordEngine, tell: Tell) -> None:
        """Tell the cache what it was not told, or begin a new generation; believe it from then on. Raises what keeps it from that."""
        if self._cache.health().error == NO_CACHE:
            return
        # Several databases, and programs with several versions of a declaration, may share a cache.
        self._mark = self._mark or f"@{await _identity(records)}:{self._tag}"
        for _ in range(_ATTEMPTS):
            await self._read_mark()
            # By now there is a connection; all that follows has to go over it.
            self._made = self._cache.made
            mark = await self._read_mark()
            # From here on what is heard of is told at once, and what was committed before is below the head that is read next.
            self._generation = mark.value if mark else None
            head = await settled_head(records)
            if head is None:
                raise Unavailable("A transaction that is still running may change what was read.")
            if mark is None or not await self._told(records, mark.revision - 1, head, tell):
                if not await self._begin(head, over=mark is not None):
                    continue
            elif self._generation is None:
                raise Unavailable("The cache went away.")
            else:
                self._floor = mark.revision
                await self.reached(head)
            if self._generation is not None and self._cache.made == self._made:
                self.believes = True
                self._next_term()
                return
        raise Conflict("Other processes kept beginning generations of the cache.")

    async def _told(self, records: RecordEngine, position: int, head: int, tell: Tell) -> bool:
        """Tell all changes from a position up to the head; return False where they are not there, or too many."""
        if not 0 <= head - position <= FURTHEST_BEHIND:
            return False
        while position < head:
            try:
                page = await records.changes(position, _CHUNK)
            except Trimmed:
                return False
            await tell(page.changes)
            if page.last <= position:
                raise Unavailable("The feed cannot be read to its end yet.")
            position = page.last
        return True

    async def _begin(self, head: int, *, over: bool) -> bool:
        """Begin a generation that holds nothing; return False where another process did."""
        if over:
            await self._values.delete(self._mark)
        # Told from here on: another process may read the mark and fill the generation before this one knows that it stands.
        self._generation, self._floor = secrets.token_hex(8).encode(), head + 1
        return await self._values.set(self._mark, self._generation, ttl_s=_MARK_TTL_S, revision=self._floor, expected=ABSENT)

    async def reached(self, position: int) -> None:
        """Note in the mark that everything up to a position was told; raises what the cache raises."""
        generation, floor = self._generation, position + 1
        if generation is None or floor <= self._floor:
            return
        if self._cache.made != self._made:
            # What was told up to here may be lost, and the mark must not say that it was told.
            self.doubt()
            return
        try:
            for _ in range(_ATTEMPTS):
                before = self._floor
                if before >= floor:
                    return
                if await self._values.set(self._mark, generation, ttl_s=_MARK_TTL_S, revision=floor, expected=before):
                    if self._cache.made != self._made:
                        # It may say of an older memory that it was told: only a new generation helps.
                        await self._values.delete(self._mark)
                        break
                    self._floor = max(self._floor, floor)
                    return
                mark = await self._read_mark()
                if mark is None or mark.value != generation or mark.revision < before:
                    break
                self._floor = max(self._floor, mark.revision)
        except PalaverError:
            self._doubt_of(generation)
            raise
        self._doubt_of(generation)


class Kept(ABC):
    """What is made of the records of one entity, read through a cache that is told of all their changes."""

    def __init__(
        self,
        core: Core,
        cache: Cache,
        kind: str,
        entity: type[Entity],
        load: Load,
        *,
        ttl_s: float,
        at_most: int,
        fence_s: float = 60.0,
    ) -> None:
        self.entities: Sequence[type[Entity]] = (entity,)
        self._core, self._clock, self._table = core, core.clock, core.schema.of(entity).table
        self._in_step = InStep(cache, kind, self._table, self._doubted)
        self.remember = Remember(self._in_step, load, ttl_s=ttl_s, fence_s=fence_s, at_most=at_most, clock=core.clock)
        self._subscription: Subscription | None = None

    @abstractmethod
    def _named(self, key: Sequence[KeyPart]) -> str:
        """Return under which name that of the record with this key is kept."""

    def _key(self, name: str) -> str:
        return self._in_step.key(name)

    def follow(self, add: Callable[[Listener], Subscription]) -> None:
        """Begin to listen."""
        if self._subscription is None:
            self._subscription = add(self)

    async def ready(self) -> None:
        assert self._subscription is not None
        await self._subscription.ready()

    async def aclose(self) -> None:
        """Stop listening, and let loads under way end."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None
        await self.remember.aclose()
        await self._in_step.aclose()

    def _doubted(self) -> None:
        if self._subscription is not None:
            self._subscription.miss()

    async def wrote(self, writes: Sequence[Wrote]) -> None:
        """Forget what this process wrote, before the write returns. While the cache is away, nobody here believes it."""
        await self._forget([(each.at.key, HIGHEST_REVISION if each.revision is None else each.revision) for each in writes])

    async def changed(self, changes: Sequence[Change]) -> None:
        await self._forget([(change.key, change.revision) for change in changes if change.table == self._table.name])

    async def missed(self) -> None:
        await self._in_step.catch_up(self._core.records, self.changed)

    async def reached(self, position: int) -> None:
        if self._in_step.believes:
            await self._in_step.reached(position)

    async def _forget(self, changed: Sequence[tuple[Sequence[KeyPart], int]]) -> None:
        # A part at a time: somebody with thousands of sessions ends them all, and others have commands in flight too.
        for start in range(0, len(changed), _TOLD_TOGETHER):
            part = changed[start : start + _TOLD_TOGETHER]
            await asyncio.gather(*(self.remember.changed(self._key(self._named(key)), revision) for key, revision in part))


async def _identity(records: RecordEngine) -> str:
    """Return the name a database has for itself, given to it when it is first asked for."""
    at = system("cache", "identity")
    for _ in range(_ATTEMPTS):
        record = (await records.get((at,)))[0]
        if record is not None:
            body: Any = record["body"]
            return str(body["name"])
        named: Any = {"scope": "cache", "name": "identity", "body": {"name": secrets.token_hex(8)}}
        await records.write(WriteSet((Put(at, named, (Guard(Unchanged(None), Origin(0, "identity")),)),), us_of(SystemClock())))
    raise Conflict("The database did not keep the name it was given.")


def _fingerprint(table: Table) -> str:
    """Return what tells apart programs that read a record of this table differently."""
    shape = (table.name, [(column.name, column.kind) for column in table.columns], table.key, table.expires)
    return blake2b(repr(shape).encode(), digest_size=8).hexdigest()
