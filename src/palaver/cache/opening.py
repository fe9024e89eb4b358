"""From the option `cache` of a URL to a cache."""

from __future__ import annotations

import re

from palaver.clock import Clock, SystemClock
from palaver.errors import ConfigError
from palaver.extras import named_extras
from palaver.ports import Cache

_BYTES = {"kb": 1_000, "mb": 1_000_000, "gb": 1_000_000_000}
_REDIS = ("redis:", "rediss:", "redis+", "rediss+")


def check_cache(where: str) -> None:
    """Refuse what names no cache: raises ConfigError, which shows no password."""
    if where.startswith(_REDIS):
        from palaver.connections.redis_options import parse_redis_url

        parse_redis_url(where)
    elif where != "none":
        _kind_bytes(where)


def open_cache(where: str, clock: Clock) -> Cache:
    """Return the cache named by `none`, `memory`, `memory:64mb` (what each kind of values may hold) or a Redis URL.

    Nothing is connected yet. With a clock of one's own its time counts, on Redis too. Raises ConfigError.
    """
    if where == "none":
        from palaver.cache.none import NoCache

        return NoCache()
    if where.startswith(_REDIS):
        with named_extras():
            from palaver.cache.redis import RedisCache

        return RedisCache(where, clock=None if type(clock) is SystemClock else clock)
    from palaver.cache.memory import MemoryCache

    return MemoryCache(clock=clock, kind_bytes=_kind_bytes(where))


def _kind_bytes(where: str) -> int | None:
    found = re.fullmatch(r"memory(?::([1-9][0-9]{0,5})(kb|mb|gb))?", where.lower())
    if found is None:
        raise ConfigError("The option cache names no cache.", hint="Write cache=memory, memory:64mb, none, or redis://host:6379/0.")
    return int(found[1]) * _BYTES[found[2]] if found[1] else None
