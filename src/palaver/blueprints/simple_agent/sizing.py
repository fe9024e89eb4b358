"""The design's configuration of Redis and of connections, as it works: generated, so that it can be started and counted."""

from __future__ import annotations

from palaver.errors import Validation

RESERVED = 13
"""Of PostgreSQL's 100 connections: three for superusers, and ten for migrations, backups and people."""


def redis_conf(*, memory_mb: int = 512) -> str:
    """Return a configuration a server starts with: what expires may be evicted, the least often used first.

    Everything Palaver stores expires, and what was read once goes before what is read again and again, however fast it comes in.
    Persistence only warms a restarted cache: nothing is lost without it.
    """
    if memory_mb < 1:
        raise Validation("A cache has a megabyte at least.")
    lines = (
        "# Cold values go first, and nothing without an expiry ever does.",
        f"maxmemory {memory_mb}mb",
        "maxmemory-policy volatile-lfu",
        "maxmemory-samples 10",
        "# After a restart the cache is as warm as a second before. It holds the only copy of nothing.",
        "appendonly yes",
        "appendfsync everysec",
        "save 900 1",
        "save 300 10",
        "save 60 10000",
        "tcp-backlog 511",
        "timeout 0",
        "tcp-keepalive 300",
    )
    return "\n".join(lines) + "\n"


def pool_size(processes: int, *, max_connections: int = 100, reserved: int = RESERVED, listeners: int = 1) -> int:
    """Return the `pool=` of each process, so that all of them together never ask for more than PostgreSQL has.

    `listeners` is what a process holds beside its pool, to hear of changes. Raises Validation for more processes than fit.
    """
    if processes < 1:
        raise Validation("There is one process at least.")
    size = (max_connections - reserved) // processes - listeners
    if size < 1:
        raise Validation(
            "There are more processes than connections for them.",
            hint="Put a pooler between, or raise max_connections.",
            processes=processes,
        )
    return size
