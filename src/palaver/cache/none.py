"""The cache that is not there: every call is Unavailable, so everything above does what it does while a cache is away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

from palaver.caching import CacheHealth
from palaver.errors import Unavailable

NO_CACHE = "no_cache"
"""What its health calls the error: no waiting mends it."""


def _away(*_: object, **__: object) -> NoReturn:
    raise Unavailable("There is no cache.", hint="Name one in the URL: cache=memory, or cache=redis://host:6379/0.")


class _Away:
    """Answers every method of the five protocols alike."""

    async def get(self, *_: object, **__: object) -> NoReturn:
        _away()

    get_many = set = delete = get
    take = take_each = peek = reset = get
    touch = leave = present = count = among = last_seen = get
    read = push = begin = replace = get
    publish = get

    def ready(self, *_: object, **__: object) -> Callable[..., NoReturn]:
        return _away

    def listen(self, *_: object) -> _AwayListening:
        return _AwayListening()


class _AwayListening:
    async def __aenter__(self) -> NoReturn:
        _away()

    async def __aexit__(self, *exc: object) -> None:
        """Nothing was begun."""


class NoCache:
    """`ports.Cache` for `cache=none`: to run without one, and to see what an application does then."""

    def __init__(self) -> None:
        self.limiter = self.presence = self.windows = self.bus = _Away()

    def values(self, kind: str) -> _Away:
        return self.limiter

    @property
    def made(self) -> int:
        return 0

    def health(self) -> CacheHealth:
        return CacheHealth("open", NO_CACHE)

    async def aclose(self) -> None:
        """Nothing is open."""


__all__: Sequence[str] = ["NO_CACHE", "NoCache"]
