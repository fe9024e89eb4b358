"""The stacks a URL can name, each put together from its engines."""

from __future__ import annotations

from collections.abc import Sequence

from palaver.clock import Clock
from palaver.config import Stack, Url, beside
from palaver.errors import ConfigError
from palaver.ops import Table


def _flag(url: Url, name: str, default: bool) -> bool:
    value = url.options.get(name)
    if value is None:
        return default
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    if value.lower() in ("0", "false", "no", "off"):
        return False
    raise ConfigError(f"The option {name} is true or false.", hint=f"Write {name}=true.")


def _seconds(url: Url, name: str, default: float) -> float:
    try:
        value = float(url.options.get(name, default))
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise ConfigError(f"The option {name} is a number of seconds.", hint=f"Write {name}=5.")
    return value


async def memory(url: Url, tables: Sequence[Table], clock: Clock) -> Stack:
    """Everything in this process, gone when it ends: tests and experiments."""
    from palaver.blobs.opening import open_blobs
    from palaver.records.memory import MemoryRecords
    from palaver.search.memory import MemorySearch

    return Stack(MemoryRecords((), clock=clock), open_blobs(url.options.get("blobs", "memory:")), MemorySearch(), [])


async def sqlite(url: Url, tables: Sequence[Table], clock: Clock) -> Stack:
    """One SQLite file for records and search, and a folder beside it for objects."""
    from palaver.blobs.opening import open_blobs
    from palaver.connections.sqlite import Database, SqliteOptions
    from palaver.records.sqlite import SqliteRecords
    from palaver.search.sqlite import SqliteSearch

    sync = url.options.get("sync", "full")
    if sync not in ("full", "normal"):
        raise ConfigError("The option sync is full or normal.", hint="full survives a power cut; normal loses the last commits then.")
    options = SqliteOptions(
        synchronous="full" if sync == "full" else "normal",
        create=_flag(url, "create", True),
        read_only=_flag(url, "read_only", False),
        busy_timeout_s=_seconds(url, "timeout", 5.0),
    )
    blobs = open_blobs(url.options.get("blobs") or beside(url.path))
    database = await Database.open(url.path, options=options)
    return Stack(SqliteRecords(database, tables), blobs, SqliteSearch(database), [database.aclose], embedded=not options.read_only)
