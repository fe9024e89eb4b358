"""The blocking facade: one event loop in one thread, otherwise the same store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from typing_extensions import TypeVar

from palaver.batch import Batch, When
from palaver.clock import Clock
from palaver.config import ProjectionFactory, open as open_async
from palaver.entity import Entity
from palaver.errors import ConfigError
from palaver.large_object import LargeObject
from palaver.query import At, Query, UniqueAt
from palaver.reading import Page
from palaver.schema import Schema
from palaver.searching import Results
from palaver.store import Store
from palaver.upkeep import Swept

if TYPE_CHECKING:
    from palaver.explain import Explanation

T = TypeVar("T")
E = TypeVar("E", bound=Entity)


class _Loop:
    """An event loop in a thread of its own, which any thread may give coroutines until it ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._turn, self._ended = threading.Lock(), False
        self._thread = threading.Thread(target=self._serve, name="palaver-sync", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for it. Raises ConfigError on the loop's own thread, and once it ends."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise ConfigError("A blocking call was made on the store's own event loop.", hint="Use the asynchronous store there.")
        with self._turn:
            running = None if self._ended else asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        if running is None:
            coroutine.close()
            raise _closed()
        try:
            return running.result()
        except CancelledError:
            raise _closed() from None

    @property
    def is_running(self) -> bool:
        return not self._ended

    def end(self) -> None:
        """Take nothing more, cancel what still runs, and end the thread, unless this is it. Ending twice is not an error."""
        if threading.current_thread() is self._thread:
            return
        with self._turn:
            first, self._ended = not self._ended, True
        if first:
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(_cancelled_rest())
        finally:
            self._loop.close()


async def _cancelled_rest() -> None:
    """Tell whoever still waits for something that it will not come."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def _closed() -> ConfigError:
    return ConfigError("The store is closed.", hint="Open it again.")


class SyncStore:
    """A store whose verbs block; may be used from several threads. Close it, or use it in a `with` block.

    Every verb takes what the verb of that name on `Store` takes, returns and raises what it does.
    """

    def __init__(self, store: Store, loop: _Loop) -> None:
        self._store, self._loop = store, loop

    @property
    def store(self) -> Store:
        """The asynchronous store behind this one; its coroutines go through `run`."""
        return self._store

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the store's loop and wait for it: how capabilities are used without `async`."""
        return self._loop.run(coroutine)

    def query(self, query: Query[E]) -> Iterator[E]:
        """Yield the records of a query."""
        return self._each(self._store.query(query))

    def stream(self, value: LargeObject, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of a large object, or of a range of it."""
        return self._each(self._store.stream(value, start=start, length=length))

    def _each(self, items: AsyncIterator[T]) -> Iterator[T]:
        assert isinstance(items, AsyncGenerator)

        async def following() -> tuple[bool, T | None]:
            try:
                return True, await anext(items)
            except StopAsyncIteration:
                return False, None

        try:
            while True:
                more, item = self.run(following())
                if not more:
                    return
                yield item  # type: ignore[misc]
        finally:
            # Whoever stops in the middle leaves nothing open on the store's loop.
            if self._loop.is_running:
                self.run(items.aclose())

    def find(self, target: At[E] | UniqueAt[E], *, consistent: bool = True) -> E | None:
        return self.run(self._store.find(target, consistent=consistent))

    def get(self, target: At[E] | UniqueAt[E], *, consistent: bool = True) -> E:
        return self.run(self._store.get(target, consistent=consistent))

    def page(self, query: Query[E], *, limit: int | None = None, cursor: str | None = None) -> Page[E]:
        return self.run(self._store.page(query, limit=limit, cursor=cursor))

    def count(self, query: Query[Any]) -> int:
        return self.run(self._store.count(query))

    def create(self, entity: E, *, token: str | None = None) -> E:
        return self.run(self._store.create(entity, token=token))

    def put(self, entity: E, *, when: When = None, token: str | None = None) -> E:
        return self.run(self._store.put(entity, when=when, token=token))

    def patch(
        self,
        target: At[E] | E,
        *,
        set: Mapping[str, Any] | None = None,
        add: Mapping[str, Any] | None = None,
        remove: Iterable[str] = (),
        when: When = None,
        token: str | None = None,
    ) -> E:
        return self.run(self._store.patch(target, set=set, add=add, remove=remove, when=when, token=token))

    def delete(self, target: At[Any] | Entity, *, when: When = None, token: str | None = None) -> None:
        self.run(self._store.delete(target, when=when, token=token))

    def write(self, batch: Batch, *, token: str | None = None, returning: bool = False) -> tuple[Entity | None, ...]:
        return self.run(self._store.write(batch, token=token, returning=returning))

    def bulk(self, entities: Iterable[Entity] | AsyncIterable[Entity]) -> int:
        return self.run(self._store.bulk(entities))

    def search(self, index: str, text: str = "", **options: Any) -> Results:
        return self.run(self._store.search(index, text, **options))

    def explain(self, what: Query[Any] | Batch) -> Explanation:
        return self.run(self._store.explain(what))

    def settle(self, timeout: float = 10.0) -> None:
        self.run(self._store.settle(timeout))

    def sweep(self, *, limit: int | None = None) -> Swept:
        return self.run(self._store.sweep(limit=limit))

    def rebuild(self, projection: str) -> None:
        self.run(self._store.rebuild(projection))

    def health(self, timeout_s: float = 2.0) -> dict[str, Any]:
        return self.run(self._store.health(timeout_s))

    def for_tenant(self, tenant: str) -> SyncStore:
        return SyncStore(self._store.for_tenant(tenant), self._loop)

    def acting_as(self, actor: str) -> SyncStore:
        return SyncStore(self._store.acting_as(actor), self._loop)

    def close(self) -> None:
        """Close the store and end its thread. Closing twice is not an error."""
        if not self._loop.is_running:
            return
        try:
            self.run(self._store.aclose())
        except ConfigError:
            # Another thread closed it first.
            if self._loop.is_running:
                raise
        finally:
            self._loop.end()

    def __enter__(self) -> SyncStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_sync(
    url: str | None = None,
    *,
    schema: Schema,
    clock: Clock | None = None,
    projections: Iterable[ProjectionFactory] = (),
    maintain: bool | None = None,
    migrate: bool | None = None,
    actor: str | None = None,
    create: bool = True,
) -> SyncStore:
    """Open a store for code without an event loop; takes what `palaver.open` takes."""
    loop = _Loop()

    async def opened() -> Store:
        return await open_async(
            url,
            schema=schema,
            clock=clock,
            projections=projections,
            maintain=maintain,
            migrate=migrate,
            actor=actor,
            create=create,
        )

    try:
        return SyncStore(loop.run(opened()), loop)
    except BaseException:
        loop.end()
        raise
