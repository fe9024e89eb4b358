"""The verbs. A store runs what queries and batches ask, on the engines its URL named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from threading import get_ident
from typing import TYPE_CHECKING, Any

from typing_extensions import TypeVar

from palaver.answering import complete, outcome, remembered, replayed
from palaver.batch import Batch, When
from palaver.clock import Clock, us_of
from palaver.core import Core
from palaver.entity import Entity, stamped
from palaver.errors import (
    ConditionFailed,
    ConfigError,
    Conflict,
    NotFound,
    PalaverError,
    TenantMismatch,
    TransactionCancelled,
    Validation,
)
from palaver.expr import evaluate
from palaver.feed import Runner
from palaver.following import Following
from palaver.known_keys import before_ops
from palaver.large_object import LargeObject
from palaver.loading import load
from palaver.misuse import ADDRESS, QUERY, Need, check, wrong
from palaver.ops import MARK, Address, Table, Written, is_live
from palaver.ports import Cache, Counts
from palaver.process import process_id
from palaver.query import At, Query, UniqueAt, check_limit, check_seconds
from palaver.reading import Page, claimed, claims, filled, merged, read_of, reads_of
from palaver.refusal import blame, leftovers, moved, token_failure
from palaver.schema import Schema
from palaver.searching import Results, search
from palaver.streaming import streamed
from palaver.upkeep import Swept, Upkeep
from palaver.values import MAX_PARTITION, KeyPart, Record, check_name

if TYPE_CHECKING:
    from palaver.explain import Explanation

E = TypeVar("E", bound=Entity)
ATTEMPTS = 5
PAGE = 100
PAUSE_S = 0.001
STREAMED = Need((LargeObject,), "a large object", "Give the field of a record that was read.")
BATCH = Need((Batch,), "a batch", "Begin with Batch() and add to it; store.bulk() takes many records.")
ASKED = Need((Query, Batch), "a query or a batch", "Write Message.key(…), or begin with Batch() and add to it.")
NAME = Need((str,), "the name of a search index", "It is declared as Search(…) in the schema.")
DECIDED = (Validation, ConditionFailed, TransactionCancelled, Conflict)
"""Errors after which it is certain that nothing was written now, so that an earlier request may be the answer."""


class Store:
    """An opened stack, bound to a tenant where the schema has tenants.

    A store belongs to the event loop and process that opened it. Every method raises errors of `palaver.errors` only.
    """

    def __init__(self, core: Core, *, tenant: str | None = None, actor: str | None = None) -> None:
        self._core = core
        self._planner = core.planner
        self._records = core.records
        self._tenant = tenant
        self._actor = actor

    @property
    def schema(self) -> Schema:
        return self._core.schema

    @property
    def clock(self) -> Clock:
        return self._core.clock

    @property
    def tenant(self) -> str | None:
        """The tenant this store is bound to with `for_tenant`."""
        return self._tenant

    @property
    def actor(self) -> str | None:
        """Who writes, as said with `acting_as`."""
        return self._actor

    @property
    def core(self) -> Core:
        """The engines behind this store, for capabilities and tools; applications use the verbs."""
        return self._core

    @property
    def cache(self) -> Cache:
        """The cache the URL names with `cache=`, this process's memory where it names none; a tenant's store has its own part of it.

        Limits, sessions, presence, flags and context windows are built on it. It holds the only copy of nothing.
        """
        if self._tenant is None:
            if self._core.schema.tenanted:
                raise TenantMismatch("This cache belongs to tenants and the store is bound to none.", hint="Use store.for_tenant(…).")
            return self._core.cache
        from palaver.cache.scoped import ScopedCache

        return ScopedCache(self._core.cache, self._tenant)

    @property
    def following(self) -> Following:
        """Where to listen to what any process commits, of this store's tenant: `store.following.add(listener)`."""
        self._here()
        return Following(self._core, self._tenant)

    def for_tenant(self, tenant: str) -> Store:
        """Return this store bound to a tenant; nothing of another tenant can be reached through it."""
        if not self._core.schema.tenanted:
            raise ConfigError(f"Schema {self._core.schema.name} has no tenants.", hint="Mark a field of every entity with Tenant().")
        check_name(tenant, "The tenant", MAX_PARTITION)
        return Store(self._core, tenant=tenant, actor=self._actor)

    def acting_as(self, actor: str) -> Store:
        """Return this store with an actor that travels with every change it writes."""
        check_name(actor, "The actor")
        return Store(self._core, tenant=self._tenant, actor=actor)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def find(self, target: At[E] | UniqueAt[E], *, consistent: bool = True) -> E | None:
        """Return the record, or None where there is none."""
        self._here()
        where = target if isinstance(target, At) else await self._claimed(target)
        if where is None:
            return None
        codec = self._planner.codec(where.entity)
        address = self._planner.address(where, self._tenant)
        record = (await self._records.get((address,), consistent=consistent))[0]
        if record is None or not self._is_live(codec.declared.table, record):
            return None
        if isinstance(target, UniqueAt) and not claims(self._planner, target, record, self._tenant):
            return None
        entity: E = codec.decode(record)
        if not codec.declared.blobs:
            return entity
        whole = await filled(self._core, self._tenant, codec, [entity])
        if isinstance(target, UniqueAt) and whole != [entity]:
            return await self.find(target)
        return whole[0] if whole else None

    async def get(self, target: At[E] | UniqueAt[E], *, consistent: bool = True) -> E:
        """Return the record; raise NotFound where there is none."""
        found = await self.find(target, consistent=consistent)
        if found is None:
            raise NotFound(
                f"There is no such {target.entity.__name__}.", hint="It may have expired or been deleted.", entity=target.entity.__name__
            )
        return found

    async def _claimed(self, target: UniqueAt[E]) -> At[E] | None:
        check(ADDRESS, target)
        return await claimed(self._records, self._planner, target, self._tenant)

    async def query(self, query: Query[E]) -> AsyncIterator[E]:
        """Yield the records of a query in its order, page by page. No snapshot is held between pages."""
        check(QUERY, query)
        left = query.most
        after: tuple[KeyPart, ...] | None = None
        while True:
            want = PAGE if left is None or query.condition is not None else min(left, PAGE)
            items, after = await self._page(query, want, after)
            for item in items:
                yield item
                if left is not None:
                    left -= 1
                    if not left:
                        return
            if after is None:
                return

    async def page(self, query: Query[E], *, limit: int | None = None, cursor: str | None = None) -> Page[E]:
        """Return one page: `limit` records read (100, and never more than the query's own limit), those that match in `items`.

        Raises BadCursor for a cursor that is forged, foreign or over a day old.
        """
        self._here()
        check(QUERY, query)
        core = self._core
        if limit is not None:
            check_limit(limit)
        most = min(limit or query.most or PAGE, query.most or limit or PAGE)
        after = None if cursor is None else core.signer.open(cursor, query, self._tenant, us_of(core.clock) // 1000)
        items, last = await self._page(query, most, after)
        if last is None:
            return Page(items, None)
        return Page(items, lambda: core.signer.sign(query, self._tenant, last, us_of(core.clock) // 1000))

    async def count(self, query: Query[Any]) -> int:
        """Return how many live records match, exactly."""
        self._here()
        check(QUERY, query)
        if query.condition is None and query.most is None and isinstance(self._records, Counts):
            now_us = us_of(self._core.clock)
            return sum([await self._records.count(read, now_us) for read in reads_of(self._planner, query, self._tenant, PAGE, None)])
        total = 0
        async for _ in self.query(query):
            total += 1
        return total

    async def _page(self, query: Query[E], limit: int, after: tuple[KeyPart, ...] | None) -> tuple[list[E], tuple[KeyPart, ...] | None]:
        self._here()
        codec = self._planner.codec(query.entity)
        declared = codec.declared
        if query.path.shards:
            page = await merged(self._records, self._planner, query, self._tenant, limit, after)
        else:
            page = await self._records.query(read_of(self._planner, query, self._tenant, limit, after))
        table, condition, decode = declared.table, query.condition, codec.decode
        records = page.records
        if condition is not None:
            records = [record for record in records if evaluate(condition, record)]
        if table.expires is None:
            items = [decode(record) for record in records if record.get(MARK) is None]
        else:
            now_us = us_of(self._core.clock)
            items = [decode(record) for record in records if is_live(table, record, now_us)]
        if declared.blobs:
            items = await filled(self._core, self._tenant, codec, items)
        return items, page.last

    def _is_live(self, table: Table, record: Record) -> bool:
        # The clock is only asked where the answer depends on it.
        return record.get(MARK) is None if table.expires is None else is_live(table, record, us_of(self._core.clock))

    async def stream(self, value: LargeObject, *, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a large object, or of a range, in pieces; raise NotFound where its record no longer has it."""
        self._here()
        check(STREAMED, value)
        async with aclosing(streamed(self._core.blobs, value, self._tenant, start, length)) as pieces:
            async for piece in pieces:
                yield piece

    # --- writing ----------------------------------------------------------------------------------------------------

    async def create(self, entity: E, *, token: str | None = None) -> E:
        """Store a new record; raise AlreadyExists where its key is taken. Returns it with its revision and expiry."""
        self._here()
        if token is None and (made := await self._created((entity,))) is not None:
            return made[0]
        return (await self._decided(Batch().create(entity), token))[0]  # type: ignore[return-value]

    async def put(self, entity: E, *, when: When = None, token: str | None = None) -> E:
        """Store the record whether or not one with its key exists; the old one is replaced whole."""
        return (await self.write(Batch().put(entity, when=when), token=token))[0]  # type: ignore[return-value]

    async def patch(
        self,
        target: At[E] | E,
        *,
        set: Mapping[str, Any] | None = None,
        add: Mapping[str, Any] | None = None,
        remove: Iterable[str] = (),
        when: When = None,
        token: str | None = None,
    ) -> E:
        """Change fields of a record that exists; raise ConditionFailed where none does. Returns the record after.

        `set` takes values, `F("other")`, `F("n").if_absent(0)` or `F("list").append(x)`; all read the record as it was.
        `add` adds atomically to numbers and sets. Paths may go into nested fields: `metrics.error_count`.
        """
        batch = Batch().patch(target, set=set, add=add, remove=remove, when=when)
        return (await self.write(batch, token=token, returning=True))[0]  # type: ignore[return-value]

    async def delete(self, target: At[Any] | Entity, *, when: When = None, token: str | None = None) -> None:
        """Remove a record; removing what does not exist is not an error.

        Its children go first where they cascade: from this commit on neither it nor they can be changed or joined by
        new ones. Raises ReferenceBroken where restricting children exist.
        """
        await self.write(Batch().delete(target, when=when), token=token)

    async def write(self, batch: Batch, *, token: str | None = None, returning: bool = False) -> tuple[Entity | None, ...]:
        """Write all ops or none; durable when this returns. Gives what each create and put stored, and None for other ops.

        With `returning` a patch gives the record it made, for which DynamoDB reads it first where a batch has several ops.

        With a `token`, the same request repeated within a day is written once and answered alike; another request with
        the token raises IdempotencyMismatch. Raises the error of a single op, TransactionCancelled for a larger batch,
        BatchShape over 100 ops or 4 MB after expansion, Conflict when other writers kept winning.
        """
        self._here()
        check(BATCH, batch)
        if not batch.ops:
            return ()
        if token is None and (new := batch.created()) is not None and (made := await self._created(new)) is not None:
            return made
        return await self._decided(batch, token, returning)

    async def _created(self, entities: Sequence[E]) -> tuple[E, ...] | None:
        """Store new records of which nothing needs to be known; None where that is not all, or somebody's record is in the way."""
        if (watch := self._core.watch) is not None and watch.is_late:
            await watch.catch_up()
        planned = self._planner.creates(entities, self._core, self._actor)
        if planned is None:
            return None
        writes, made = planned
        if (sealer := self._planner.sealer) is not None and not sealer.remembered:
            await before_ops(self._records, writes.now_us, sealer, writes.ops)
        result = await self._records.write(writes)
        if not isinstance(result, Written):
            return None
        if self._core.follower is not None:
            await self._core.follower.wrote(writes, result)
        return tuple([stamped(each, revision or 0) for each, revision in zip(made, result.revisions, strict=True)])

    async def _decided(self, batch: Batch, token: str | None, returning: bool = False) -> tuple[Entity | None, ...]:
        """Write any batch, and say of one that is refused why."""
        held = self._planner.held(batch, self._tenant)
        try:
            if not held:
                return await self._write(batch, token, (), returning)
            async with self.core_upkeep().closing(held, self._planner.deleted(batch, self._tenant)) as closed:
                return await self._write(batch, token, closed, returning)
        except PalaverError as error:
            if token is not None and isinstance(error, DECIDED) and (earlier := await remembered(self, token)) is not None:
                return await replayed(self, batch, earlier, returning)
            for reason in getattr(error, "reasons", (error,)):
                await complete(self, getattr(reason, "found", None))
            raise

    async def _write(self, batch: Batch, token: str | None, closed: Collection[Address], returning: bool) -> tuple[Entity | None, ...]:
        planner, records = self._planner, self._records
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE_S * 2**attempt)
            if (watch := self._core.watch) is not None and watch.is_late:
                await watch.catch_up()
            premises = planner.premises(batch, self._tenant)
            seen = dict(zip(premises, await records.get(premises), strict=True)) if premises else {}
            plan = planner.plan(batch, seen, self._core.now_us(), tenant=self._tenant, token=token, actor=self._actor, closed=closed)
            plan.writes = plan.writes._replace(returning=returning)
            if planner.sealer is not None and not planner.sealer.remembered:
                await before_ops(records, plan.writes.now_us, planner.sealer, plan.writes.ops)
            result = await (self.core_upkeep().written(plan) if plan.uploads else records.write(plan.writes))
            if isinstance(result, Written):
                if plan.jobs and self._core.runner is not None:
                    self._core.runner.poke()
                if self._core.follower is not None:
                    await self._core.follower.wrote(plan.writes, result)
                return await outcome(self, batch, plan, result)
            if left := leftovers(planner, plan.writes, result):
                await self.core_upkeep().clear(left)
            elif not moved(result) or token_failure(result):
                raise blame(planner, batch, result)
        raise Conflict("Other writers kept changing the same records.", hint="Try again after a random pause.")

    async def bulk(self, entities: Iterable[Entity] | AsyncIterable[Entity]) -> int:
        """Store many records, each alone and unguarded, replacing what is there; return how many.

        Of two records with one key the later stays. Records with unique sets, history or children go through `put`, one by one.
        References are not checked, and the object of another record that is replaced stays for `palaver doctor` to find. An error stops
        the load: what was taken before it is stored, some of what came after may be, and loading all of it again is safe.
        """
        self._here()
        if isinstance(entities, Entity) or not isinstance(entities, Iterable | AsyncIterable):
            raise wrong("many records", entities, "Give a list of them, or what yields them; store.put() takes one.")
        return await load(self, entities)

    # --- searching, explaining, keeping ----------------------------------------------------------------------------

    async def search(self, index: str, text: str = "", **options: Any) -> Results:
        """Search an index: words (all of them), "phrases", prefix*, -without. Hits carry their records, read now.

        Options: `where` (a condition over the index's filters), `facets`, `limit`, `offset`, `newest_first`.
        A record that is gone is not a hit, even while the index still has it.
        """
        self._here()
        check(NAME, index)
        return await search(self._core, self._tenant, index, text, **options)

    async def explain(self, what: Query[Any] | Batch) -> Explanation:
        """Return what would be sent to the engine, without sending it; premises of a batch are read."""
        from palaver.explain import explain_batch, explain_query

        self._here()
        check(ASKED, what)
        if isinstance(what, Query):
            return explain_query(self._core, what, reads_of(self._planner, what, self._tenant, what.most or PAGE, None))
        premises = self._planner.premises(what, self._tenant)
        seen = dict(zip(premises, await self._records.get(premises), strict=True)) if premises else {}
        return explain_batch(
            self._core, premises, self._planner.plan(what, seen, self._core.now_us(), tenant=self._tenant, actor=self._actor)
        )

    async def settle(self, timeout: float = 10.0) -> None:
        """Return when every projection has seen everything written before this call, whichever process runs them.

        With no live runner anywhere this process takes the leases and runs them. Raises SettleTimeout with the laggard.
        """
        self._here()
        await self.runner().settle(timeout)

    async def sweep(self, *, limit: int | None = None) -> Swept:
        """Delete expired records, finish cascades and remove released objects, in batches; return the counts."""
        self._here()
        if limit is not None:
            check_limit(limit)
        return await self.core_upkeep().sweep(limit)

    async def rebuild(self, projection: str) -> None:
        """Drop what a projection made and build it anew from the records."""
        self._here()
        await self.runner().rebuild(projection)

    async def health(self, timeout_s: float = 2.0) -> dict[str, Any]:
        """Return how each part of the stack is, in `components`, and figures for people and monitors; a part that is away is no error.

        `status` is "ok", "degraded" or "down", `ready` whether the records answer; then the schema, the feed's head, the lag and
        last error of each projection, the jobs that wait, and the cache's figures in this process. Each part is asked for
        `timeout_s` at most, all at once.
        """
        from palaver.health import health

        self._here()
        check_seconds(timeout_s)
        return await health(self._core, self.runner(), timeout_s)

    def runner(self) -> Runner:
        """Return what runs the projections of this store."""
        core = self._core
        if core.runner is None:
            core.runner = Runner(core.records, core.projections, core.clock, self.core_upkeep().work)
        return core.runner

    def core_upkeep(self) -> Upkeep:
        return Upkeep(self._core)

    async def aclose(self) -> None:
        """Stop the runner, let writes under way end, close the engines. Closing twice is not an error."""
        core = self._core
        if core.closed:
            return
        core.closed = True
        for running in (core.runner, core.follower):
            if running is not None:
                await running.stop()
        await core.aclose()

    async def __aenter__(self) -> Store:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def _here(self) -> None:
        """Refuse a closed store, another event loop, and a forked child: the engines' threads and locks are not theirs."""
        core = self._core
        if core.closed:
            raise ConfigError("The store is closed.", hint="Open it again.")
        # Its thread and that it runs say as much as asking for the running loop, which is a system call.
        if get_ident() != core.thread or core.loop is None or not core.loop.is_running():
            raise ConfigError("The store belongs to another event loop.", hint="Open one store per event loop, or use palaver.open_sync.")
        if core.pid != process_id():
            raise ConfigError("The store was opened before this process was forked.", hint="Open a store after forking.")


__all__ = ["Core", "Page", "Store"]
