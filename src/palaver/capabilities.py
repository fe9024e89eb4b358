"""What an application runs on beside its records, as one value: how the command line finds flags, limits, presence and sessions.

A blueprint, or the module a schema is declared in, exports `async def capabilities(store) -> Capabilities`. It says which rules
and which flags there are, so the commands show the ones the application itself uses.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

from palaver.errors import ConfigError

if TYPE_CHECKING:
    from palaver.context import ContextWindow
    from palaver.flags import Flags
    from palaver.identity.sessions import Sessions
    from palaver.limits import Limits
    from palaver.presence import Presence
    from palaver.store import Store

NAME = "capabilities"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What there is of each kind, over one store; None where the application has none.

    Whoever asked for it closes it, before the store: `async with await capabilities(store) as found`. Closing calls `aclose`
    of every part that has one, so a part that runs in the background stops itself there, and then `closers`, the last one first.
    The store, its cache and its feed are not closed: they belong to whoever opened the store.
    """

    flags: Flags | None = None
    limits: Limits | None = None
    presence: Presence | None = None
    sessions: Sessions | None = None
    contexts: ContextWindow[Any] | None = None
    closers: tuple[Callable[[], Awaitable[object]], ...] = ()

    async def aclose(self) -> None:
        """Close the parts; every one is closed even if another fails, and the first failure is raised."""
        parts = [getattr(self, field.name) for field in fields(self) if field.name != "closers"]
        closers = [part.aclose for part in parts if hasattr(part, "aclose")] + list(reversed(self.closers))
        failures: list[BaseException] = []
        for close in closers:
            try:
                await close()
            except BaseException as error:
                failures.append(error)
        if failures:
            raise failures[0]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


async def capabilities_of(home: ModuleType, store: Store) -> Capabilities:
    """Return what the module declares for a store, nothing at all where it declares nothing; the caller closes it.

    Raises ConfigError where what it exports under that name is no async function, or gives something else.
    """
    declare = getattr(home, NAME, None)
    if declare is None:
        return Capabilities()
    if not inspect.iscoroutinefunction(declare):
        raise ConfigError(f"{home.__name__}.{NAME} is no async function.", hint=f"Write async def {NAME}(store) -> Capabilities.")
    found = await declare(store)
    if not isinstance(found, Capabilities):
        raise ConfigError(f"{home.__name__}.{NAME} returned no Capabilities.", hint="Return palaver.capabilities.Capabilities(…).")
    return found
