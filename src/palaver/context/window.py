"""The context window: the newest messages of a conversation, kept in a cache, and read from the records where it cannot say."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Generic, NamedTuple, Self

from typing_extensions import TypeVar

from palaver.batch import Batch, Check, Create, asked_at
from palaver.caching import Item
from palaver.clock import us_of
from palaver.context.items import TOKENS, Items, Tokens, estimated_tokens, within
from palaver.context.rebuilding import Flight, Rebuilding
from palaver.context.trust import Figures, Trust
from palaver.entity import Entity
from palaver.errors import ConfigError, OutcomeUnknown, PalaverError, TenantMismatch, Validation
from palaver.expr import Condition
from palaver.following import Wrote
from palaver.keys import build_query
from palaver.ops import Change, is_live
from palaver.ports import Cache
from palaver.query import At, Query
from palaver.reading import filled, read_of
from palaver.store import PAGE, Store
from palaver.values import KeyPart, Record

E = TypeVar("E", bound=Entity)
_DEBTS_AT_ONCE = 100
_LONGEST = 1_000


class _Place(NamedTuple):
    """A conversation: what its records are found by, and what its window is called."""

    query: Query[Any]
    key: str


class ContextWindow(Generic[E]):
    """The newest messages of conversations, for prompts. A conversation is a partition of the entity's key.

    A read gives what the records give: the last ones, oldest first, none twice, none expired. A window in the cache answers it
    in one round trip; where there is none, or it cannot be believed, one query does, once for all who ask at the same time.
    With the cache away every read is a query, at most `at_most` of them at once.
    """

    def __init__(
        self,
        store: Store,
        entity: type[E],
        *,
        keep: int = 20,
        ttl_s: float = 7_200.0,
        where: Condition | None = None,
        tokens: Tokens[E] | None = None,
        estimate: Callable[[E], int] = estimated_tokens,
        name: str = "context",
        at_most: int = 32,
        cache: Cache | None = None,
    ) -> None:
        """Keep the newest `keep` messages for which `where` holds, until nothing is appended for `ttl_s` seconds.

        `tokens` says how many tokens a message takes, or None where it does not know: then `estimate` does. They are counted
        once, when a message is put into the window: windows that count otherwise need another `name`. An entity with secret
        fields is a ConfigError.
        """
        if not 1 <= keep <= _LONGEST or ttl_s <= 0 or at_most < 1:
            raise ConfigError(f"A context window keeps 1 to {_LONGEST:,} messages for more than 0 s, and rebuilds at least one at once.")
        self._entity, self._keep, self._ttl_s = entity, keep, ttl_s
        self._codec = store.core.planner.codec(entity)
        self._items: Items[E] = Items(self._codec, f"{store.schema.name} {name}", tokens, estimate, where)
        self._trust = Trust()
        self._rebuilding: Rebuilding[Sequence[Item]] = Rebuilding(at_most)
        self._tenanted = self._codec.declared.tenant is not None
        # Of all tenants at once: a window's name is a hash of whose it is as well.
        self._cache = cache or store.core.cache
        self._bind(store)
        self.entities = (entity,)
        self._subscription = store.following.add(self)

    def _bind(self, store: Store) -> None:
        self._store, self._tenant = store, store.tenant if self._tenanted else None

    @property
    def figures(self) -> Figures:
        return self._trust.figures

    def for_tenant(self, tenant: str) -> Self:
        """Return these windows for a tenant; they share what this process knows, and how much it does at once."""
        return self.on(self._store.for_tenant(tenant))

    def on(self, store: Store) -> Self:
        """Return these windows over another view of their store: a tenant's, or one that acts as somebody."""
        if store.core is not self._store.core:
            raise ConfigError("Context windows stay with the store they were made for.", hint="Make others for the other store.")
        view = copy.copy(self)
        view._bind(store)
        return view

    # --- reading ----------------------------------------------------------------------------------------------------

    async def read(
        self, *conversation: object, limit: int | None = None, budget: int | None = None, holding: E | At[E] | object = None
    ) -> list[E]:
        """Return the last messages, oldest first: at most `limit` (`keep`), and no more tokens than `budget`.

        Messages are whole, and the newest is always there, even where it alone is over the budget: an empty prompt answers
        nobody. `holding` names a message that its reader has stored (the message, its address, or its sort value), and that
        a window must therefore hold. Raises only what the records raise.
        """
        self._store._here()
        place, most = self._place(conversation), self._keep if limit is None else limit
        if not 1 <= most <= self._keep or (budget or 0) < 0:
            raise Validation(f"A context is 1 to {self._keep} messages, within a budget that is not negative.")
        held = self._held(holding)
        figures = self._trust.figures
        found = await self._kept(place.key, most, held)
        records = None if found is None else self._cut(found, most, budget, len(found) < most)
        if records is None:
            if found is not None:
                # A window that has expired messages in it, or another program's: nothing but what is pushed ever leaves it.
                self._doubt(place.key)
            figures.misses += 1
            items, others = await self._rebuilding.joined(place.key, held, lambda flight: self._rebuilt(place, flight))
            figures.joined += others
            records = self._cut(items, most, budget, True) or []
        else:
            figures.hits += 1
        messages: list[E] = [self._codec.decode(record) for record in records]
        return await self._filled(messages)

    async def _filled(self, messages: list[E]) -> list[E]:
        return await filled(self._store.core, self._store.tenant, self._codec, messages) if self._codec.declared.blobs else messages

    async def _kept(self, key: str, most: int, held: str | None) -> tuple[Item, ...] | None:
        """Return the newest items of a window, None where there is none that can be believed."""
        trust = self._trust
        if not trust.believes(key):
            return None
        awaited = trust.awaited(key)
        try:
            found: tuple[Item, ...] | None = await self._cache.windows.read(key, limit=most, holding=held)
        except PalaverError as error:
            self._went_wrong(error)
            return None
        if not trust.connected(self._cache.made) or not trust.believes(key):
            trust.figures.stale += 1
            return None
        if found is None:
            return None
        if awaited:
            ids = {item.id for item in found}
            oldest = found[0].id if len(found) == most else ""
            if any(id not in ids and id > oldest for id in awaited):
                self._doubt(key)
                return None
            trust.held(key, ids)
        await self._pay()
        return found

    def _cut(self, items: Sequence[Item], most: int, budget: int | None, whole: bool) -> list[Record] | None:
        """Return the records of the newest items within both bounds, oldest first; None where items say less than records would.

        `whole`: before these there is nothing that could take the place of those that have expired.
        """
        table, now_us = self._codec.declared.table, us_of(self._store.clock)
        found, ended = within(items, most, budget, TOKENS)
        records = self._items.records(found)
        if records is None:
            return None
        if table.expires is None or all(is_live(table, record, now_us) for record in records):
            return records if ended or len(records) == most or whole else None
        # Once more without the expired ones, which leave room for others.
        every = self._items.records(items)
        if every is None:
            return None
        live = [item for item, record in zip(items, every, strict=True) if is_live(table, record, now_us)]
        found, ended = within(live, most, budget, TOKENS)
        return self._items.records(found) if ended or len(found) == most or whole else None

    # --- rebuilding -------------------------------------------------------------------------------------------------

    async def _rebuilt(self, place: _Place, flight: Flight[Sequence[Item]]) -> Sequence[Item]:
        if flight.again:
            # The rebuild before this one has most likely filled it meanwhile.
            found = await self._kept(place.key, self._keep, None)
            if found is not None and flight.holding <= {item.id for item in found}:
                if self._cut(found, self._keep, None, len(found) < self._keep) is not None:
                    return found
                self._doubt(place.key)
        self._trust.figures.rebuilds += 1
        ticket = await self._begin(place.key)
        items, complete = await self._stored(place.query)
        if ticket:
            await self._fill(place.key, items, ticket, complete)
        return items

    async def _begin(self, key: str) -> str:
        """Ask for leave to fill a window, empty where there is none; one that cannot be believed is dropped before."""
        trust, windows = self._trust, self._cache.windows
        if not trust.listening:
            return ""
        try:
            if not trust.believes(key):
                debt, term, before = trust.owed.get(key, 0), trust.term, self._cache.made
                await windows.delete(key)
                trust.told(key, debt)
                made = self._cache.made
                trust.connected(made)
                # Over another connection than the delete the server may be one that never heard of it.
                if before in (0, made):
                    trust.believe(key, term)
            return (await windows.begin(key)).ticket
        except PalaverError as error:
            self._went_wrong(error)
            return ""

    async def _stored(self, query: Query[Any]) -> tuple[list[Item], bool]:
        """Return the items of the newest records, oldest first, and whether there are no others."""
        core, declared, condition = self._store.core, self._codec.declared, self._items.condition
        items: list[Item] = []
        after, more = None, True
        while more and len(items) < self._keep:
            want = PAGE if condition is not None else self._keep - len(items)
            page = await core.records.query(read_of(core.planner, query, self._tenant, want, after))
            now_us = us_of(core.clock)
            live = [record for record in page.records if is_live(declared.table, record, now_us) and self._items.matches(record)]
            messages: list[E] = [self._codec.decode(record) for record in live]
            if declared.blobs:
                made = [self._items.of(message, now_us, self._tenant) for message in await self._filled(messages)]
                items += [item for item in made if item is not None]
            else:
                items += [self._items.item(record, message) for record, message in zip(live, messages, strict=True)]
            after, more = page.last, page.last is not None
        return items[: self._keep][::-1], not more and len(items) <= self._keep

    async def _fill(self, key: str, items: list[Item], ticket: str, complete: bool) -> None:
        try:
            taken = await self._cache.windows.replace(key, items, ticket=ticket, keep=self._keep, complete=complete, ttl_s=self._ttl_s)
            self._trust.figures.kept += taken
        except PalaverError as error:
            self._went_wrong(error)

    # --- writing ----------------------------------------------------------------------------------------------------

    async def create(self, message: E, *, token: str | None = None) -> E:
        """Store a new message and append it: `store.create`, then `append`."""
        return (await self.write(Batch().create(message), token=token))[0]  # type: ignore[return-value]

    async def write(self, batch: Batch, *, token: str | None = None, returning: bool = False) -> tuple[Entity | None, ...]:
        """Write a batch as `store.write` does, and append the messages it creates."""
        ours = [op for op in batch.ops if asked_at(op).entity is self._entity and not isinstance(op, Check)]
        try:
            written = await self._store.write(batch, token=token, returning=returning)
        except BaseException as error:
            if isinstance(error, OutcomeUnknown) or not isinstance(error, PalaverError):
                for op in ours:
                    self._trust.owe(self._at(asked_at(op))[0])
            raise
        made: list[Any] = [made for op, made in zip(batch.ops, written, strict=True) if isinstance(op, Create) and made is not None]
        await self.append(*(message for message in made if type(message) is self._entity))
        return written

    async def append(self, *messages: E) -> None:
        """Add messages, as the store returned them, to the windows that are there; one that is in its window is not added again.

        Until this returns, reads may lack them. While the cache is away nothing is added: this process then reads the records
        until it has told the cache, and others until they hear of the message through the feed.
        """
        items: dict[str, list[tuple[Item, int]]] = {}
        now_us = us_of(self._store.clock)
        for message in messages:
            if not message.revision:
                raise Validation(
                    f"Only a stored {self._entity.__name__} is appended.",
                    hint="Pass on what the store returned: message = await store.create(message).",
                    entity=self._entity.__name__,
                )
            key, id = self._at(message.address)
            item = self._items.of(message, now_us, self._tenant)
            if item is None:
                self._trust.leaves_out(key, id)
            else:
                items.setdefault(key, []).append((item, message.revision))
        if len(items) == 1:
            ((key, found),) = items.items()
            await self._push(key, found)
        elif items:
            await asyncio.gather(*(self._push(key, found) for key, found in items.items()))

    async def drop(self, *conversation: object) -> None:
        """Forget the window of a conversation, as after deleting it with all that hangs on it."""
        await self._drop(self._place(conversation).key)

    async def _push(self, key: str, items: list[tuple[Item, int]]) -> None:
        trust = self._trust
        for item, _ in items:
            trust.pushes(key, item.id)
        try:
            await self._cache.windows.push(key, [item for item, _ in items], ttl_s=self._ttl_s)
        except BaseException as error:
            trust.owe(key)
            self._went_wrong(error)
            return
        trust.connected(self._cache.made)
        if any(trust.is_past(key, item.id, revision) for item, revision in items):
            # Somebody changed or removed it before it was pushed, and dropped the window too early.
            await self._drop(key)
        else:
            await self._pay()

    async def _drop(self, key: str) -> None:
        self._trust.owe(key)
        await self._settle(key, self._trust.owed[key])

    async def _pay(self) -> None:
        """Tell the cache what it could not be told before."""
        trust = self._trust
        if trust.paying or not trust.owed:
            return
        trust.paying = True
        try:
            await asyncio.gather(*(self._settle(key, debt) for key, debt in list(islice(trust.owed.items(), _DEBTS_AT_ONCE))))
        finally:
            trust.paying = False

    async def _settle(self, key: str, debt: int) -> None:
        try:
            await self._cache.windows.delete(key)
        except PalaverError as error:
            self._went_wrong(error)
        else:
            self._trust.told(key, debt)

    def _doubt(self, key: str) -> None:
        self._trust.figures.stale += 1
        self._trust.doubt(key)

    def _went_wrong(self, error: BaseException) -> None:
        """Count what a cache that is away raises; raise what says that the program is wrong, or is ending."""
        if not isinstance(error, PalaverError) or isinstance(error, Validation | ConfigError):
            raise error
        self._trust.figures.away += 1

    # --- listening --------------------------------------------------------------------------------------------------

    async def wrote(self, writes: Sequence[Wrote]) -> None:
        """Take note of what this process stored, changed or removed; of the latter the windows are dropped at once."""
        dropped: set[str] = set()
        for at, revision, created in writes:
            key, id = self._concerned(at.key)
            if created:
                self._trust.stored(key, id)
            else:
                self._trust.changed(key, id, us_of(self._store.clock) if revision is None else revision)
                dropped.add(key)
        await asyncio.gather(*map(self._drop, dropped))

    async def changed(self, changes: Sequence[Change]) -> None:
        """Take note of what any process stored, changed or removed: from now on a window that does not know of it is not believed."""
        dropped: set[str] = set()
        for change in changes:
            key, id = self._concerned(change.key)
            if change.kind == "created":
                self._trust.stored(key, id)
            elif not self._trust.is_past(key, id, change.revision - 1) and self._trust.changed(key, id, change.revision):
                # The window may hold what this process pushed after somebody else had dropped it.
                dropped.add(key)
        await asyncio.gather(*map(self._drop, dropped))

    async def missed(self) -> None:
        """Take note that changes may have been lost: every window is read from the records once more."""
        self._trust.missed()

    def close(self) -> None:
        """Stop listening, for good: from now on every read is a query. Windows that live as long as their store need no closing."""
        self._trust.listening = False
        self._subscription.close()

    def _concerned(self, key: tuple[KeyPart, ...]) -> tuple[str, str]:
        """Return the window a stored record is in, and its place there."""
        tenant, parts = (str(key[0]), key[1:]) if self._tenanted else (None, key)
        partition = len(self._items.path.partition)
        return self._items.key(tenant, parts[:partition]), self._items.id(parts[partition:])

    # --- places -----------------------------------------------------------------------------------------------------

    def _place(self, conversation: tuple[object, ...]) -> _Place:
        if self._tenanted and self._tenant is None:
            raise TenantMismatch("These windows belong to tenants and the store is bound to none.", hint="Use for_tenant(…).")
        path = self._items.path
        if len(conversation) != len(path.partition):
            names = ", ".join(part.path for part in path.partition)
            raise Validation(f"A conversation of {self._entity.__name__} is named by {names}.", entity=self._entity.__name__)
        query = build_query(self._entity, path, conversation).newest_first()
        return _Place(query, self._items.key(self._tenant, query.partition))

    def _at(self, at: At[Any]) -> tuple[str, str]:
        """Return the window a message is in, and its place there."""
        partition = len(self._items.path.partition)
        return self._items.key(self._tenant, at.key[:partition]), self._items.id(at.key[partition:])

    def _held(self, holding: object) -> str | None:
        if holding is None:
            return None
        sort = self._items.path.sort
        match holding:
            case Entity():
                if self._items.condition is not None and self._items.of(holding, us_of(self._store.clock), self._tenant) is None:  # type: ignore[arg-type]
                    return None
                return self._at(holding.address)[1]
            case At():
                return self._at(holding)[1]
            case _ if len(sort) == 1:
                return self._items.id([sort[0].encode(holding)])
        raise Validation("A message whose key has several sort parts is held by its address.", hint="Pass the message itself.")
