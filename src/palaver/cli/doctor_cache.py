"""What `palaver doctor` says of the cache a URL names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from palaver.observing import Diagnoses, Finding

if TYPE_CHECKING:
    from palaver.cli.context import Context


async def findings(here: Context, processes: int | None) -> list[Finding]:
    """Return what is well and what is wanting about the cache, for an application of so many processes."""
    from palaver.cache.opening import open_cache
    from palaver.clock import SystemClock
    from palaver.url import parse_url

    where = parse_url(here.where).options.get("cache", "memory")
    if where == "none":
        return [Finding("cache", "ok", "none, as the URL says: sessions, limits and presence are away")]
    cache = open_cache(where, SystemClock())
    try:
        if isinstance(cache, Diagnoses):
            return await cache.diagnose()
    finally:
        await cache.aclose()
    if processes is not None and processes > 1:
        seen = f"in each process's own memory: a limit allows {processes} times as much, and a session is known to one of {processes}"
        return [Finding("cache", "warn", seen, "Add cache=redis://host:6379/0 to the URL.")]
    return [Finding("cache", "ok", "in this process's own memory: right for one process")]
