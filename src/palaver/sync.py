"""The blocking facade: one event loop in one thread, otherwise the same store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any

from typing_extensions import TypeVar

from palaver.config import open as open_async
from palaver.entity import Entity
from palaver.errors import ConfigError
from palaver.query import Query
from palaver.store import Store

T = TypeVar("T")
E = TypeVar("E", bound=Entity)
_VERBS = {"find", "get", "page", "count", "create", "put", "patch", "delete", "write", "bulk"}
_VERBS |= {"search", "explain", "migrate", "settle", "sweep", "rebuild", "health"}


class SyncStore:
    """A store whose verbs block; may be used from several threads. Close it, or use it in a `with` block."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop, thread: threading.Thread | None) -> None:
        self._store, self._loop, self._thread = store, loop, thread

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in _VERBS:
            raise AttributeError(name)
        verb = getattr(self._store, name)
        return lambda *args, **kwargs: self.run(verb(*args, **kwargs))

    @property
    def store(self) -> Store:
        """The asynchronous store behind this one; its coroutines go through `run`."""
        return self._store

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the store's loop and wait for it: how capabilities are used without `async`."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise ConfigError("A blocking call was made on the store's own event loop.", hint="Use the asynchronous store there.")
        if not self._loop.is_running():
            coroutine.close()
            raise ConfigError("The store is closed.", hint="Open it again.")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def query(self, query: Query[E]) -> Iterator[E]:
        """Yield the records of a query."""
        items = self._store.query(query)
        assert isinstance(items, AsyncGenerator)

        async def following() -> tuple[bool, E | None]:
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
            if self._loop.is_running():
                self.run(items.aclose())

    def for_tenant(self, tenant: str) -> SyncStore:
        return SyncStore(self._store.for_tenant(tenant), self._loop, self._thread)

    def acting_as(self, actor: str) -> SyncStore:
        return SyncStore(self._store.acting_as(actor), self._loop, self._thread)

    def close(self) -> None:
        """Close the store and end its thread. Closing twice is not an error."""
        if not self._loop.is_running():
            return
        self.run(self._store.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> SyncStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_sync(url: str | None = None, **options: Any) -> SyncStore:
    """Open a store for code without an event loop; takes what `palaver.open` takes."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=_serve, args=(loop,), name="palaver-sync", daemon=True)
    thread.start()

    async def opened() -> Store:
        return await open_async(url, **options)

    try:
        store = asyncio.run_coroutine_threadsafe(opened(), loop).result()
    except BaseException:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        raise
    return SyncStore(store, loop, thread)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
