"""What Redis counts of itself, and what can be wrong with it. Arguments of commands are never read: they hold what people said.

A server that is away raises; what this user may not look at is a note, or a finding.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from typing import Any

from palaver.cache.redis_scripts import ALL
from palaver.caching import Limit, Take
from palaver.connections.redis import encode
from palaver.connections.redis_cluster import Redis
from palaver.errors import Forbidden, PalaverError, Unavailable
from palaver.observing import Finding, Observed, Slow
from palaver.ports import Cache

_SLOWEST = 10
_OLDEST = (6, 2)
_SKEW_S = 2.0
_NUMBERS = {
    "used_memory": "used_bytes",
    "used_memory_peak": "peak_bytes",
    "maxmemory": "most_bytes",
    "connected_clients": "clients",
    "maxclients": "clients_most",
    "blocked_clients": "clients_blocked",
    "rejected_connections": "connections_refused",
    "instantaneous_ops_per_sec": "commands_per_s",
    "keyspace_hits": "keyspace_hits",
    "keyspace_misses": "keyspace_misses",
    "evicted_keys": "evicted_keys",
    "expired_keys": "expired_keys",
    "uptime_in_seconds": "uptime_s",
}
_WORDS = {"redis_version": "version", "role": "role", "maxmemory_policy": "eviction", "redis_mode": "mode"}


async def observe(client: Redis, hits: int, misses: int) -> Observed:
    """Return the server's figures, and this process's own hits and misses beside them."""
    notes: list[str] = []
    figures: dict[str, int | float | str] = {"hits": hits, "misses": misses, "hit_share": share(hits, misses)}
    warnings: list[str] = []
    try:
        told = await info(client)
    except Forbidden:
        notes.append("the server's figures are closed to this user: allow the command INFO")
    else:
        figures |= {name: told[key] for key, name in _WORDS.items() if key in told}
        figures |= {name: int(told[key]) for key, name in _NUMBERS.items() if key in told}
        figures["keyspace_hit_share"] = share(int(told.get("keyspace_hits", 0)), int(told.get("keyspace_misses", 0)))
        figures["keys"] = _keys(told, client.options.db)
        warnings += [finding.seen for finding in (_memory(told), _clients(told)) if finding.level != "ok"]
    return Observed("redis", figures, slow=await _slow(client, notes), notes=tuple(notes), warnings=tuple(warnings))


async def info(client: Redis) -> dict[str, str]:
    text = bytes(await client.read(encode("INFO", "everything"))).decode()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def share(hits: int, misses: int) -> float:
    return round(hits / (hits + misses), 4) if hits + misses else 0.0


def _keys(told: Mapping[str, str], db: int) -> int:
    """Return the keys of one database: the server says keys=3,expires=1,… of each that has any."""
    stated = dict(part.split("=", 1) for part in told.get(f"db{db}", "keys=0").split(","))
    return int(stated["keys"])


async def _slow(client: Redis, notes: list[str]) -> tuple[Slow, ...]:
    """Return the slowest kinds of calls in the server's slow log: the command's name, and of a script of ours its name."""
    try:
        entries = await client.read(encode("SLOWLOG", "GET", 128))
    except Forbidden:
        notes.append("the slow log is closed to this user: allow the command SLOWLOG")
        return ()
    took: dict[str, list[float]] = {}
    for entry in entries:
        took.setdefault(_name(entry[3]), []).append(int(entry[2]) / 1_000)
    found = [Slow(name, len(times), round(sum(times) / len(times), 3), round(sum(times), 3)) for name, times in took.items()]
    return tuple(sorted(found, key=lambda slow: -slow.total_ms)[:_SLOWEST])


_SCRIPTS = {script.sha: script.name for script in ALL}


def _name(arguments: list[Any]) -> str:
    command = bytes(arguments[0]).decode(errors="replace").upper()[:30]
    if command == "EVALSHA" and len(arguments) > 1 and bytes(arguments[1]) in _SCRIPTS:
        return f"{command} {_SCRIPTS[bytes(arguments[1])]}"
    return command


# --- what can be wrong ------------------------------------------------------------------------------------------------


async def diagnose(client: Redis, cache: Cache) -> list[Finding]:
    """Return what is well and what is wanting about the server of a cache."""
    try:
        await client.read(encode("PING"))
    except PalaverError as error:
        return [Finding("cache", "fail", error.message, error.hint or "Check the option cache of the URL, and that the server runs.")]
    found = [Finding("cache", "ok", f"{client.options.shown} answers"), await _rights(cache)]
    try:
        told = await info(client)
    except Unavailable:
        raise
    except PalaverError:
        return [*found, Finding("cache server", "warn", "its figures are closed to this user", "Allow the command INFO.")]
    found += [_version(told), _memory(told), await _persistence(client, told), _role(client, told), _clients(told)]
    return [*found, await _clock(client)]


def _version(told: Mapping[str, str]) -> Finding:
    version = told.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < _OLDEST:
        return Finding("cache server", "fail", f"Redis {version}", "Update the server to 6.2 or newer.")
    return Finding("cache server", "ok", f"Redis {version}, {told.get('redis_mode', 'standalone')}")


def _memory(told: Mapping[str, str]) -> Finding:
    policy, most = told.get("maxmemory_policy", ""), int(told.get("maxmemory", 0))
    used = f"{int(told.get('used_memory', 0)):,} bytes in use"
    if policy.startswith("allkeys-"):
        text = f"{policy} lets the server forget sessions and limits before they expire: {used} of {most:,}"
        return Finding("cache memory", "warn", text, "Set maxmemory-policy volatile-ttl, or give the cache a server of its own.")
    if policy == "noeviction" and most:
        text = f"{used} of {most:,}, and when they are full every write is refused (noeviction)"
        return Finding("cache memory", "warn", text, "Set maxmemory-policy volatile-ttl: everything here has an expiry.")
    if not most:
        text = f"{used}, without a bound: the machine's memory is the bound"
        return Finding("cache memory", "warn", text, "Set maxmemory, with maxmemory-policy volatile-ttl.")
    return Finding("cache memory", "ok", f"{used} of {most:,}, {policy}")


async def _persistence(client: Redis, told: Mapping[str, str]) -> Finding:
    if told.get("aof_last_write_status", "ok") != "ok" or told.get("rdb_last_bgsave_status", "ok") != "ok":
        text = "the last attempt to write to its disk failed; it may refuse writes until one succeeds"
        return Finding("cache persistence", "fail", text, "Make room on the server's disk, and look at its log.")
    try:
        saves = any(_texts(await client.read(encode("CONFIG", "GET", "save")))[1:])
    except PalaverError:
        return Finding("cache persistence", "ok", "its settings are closed to this user; nothing of Palaver needs any")
    ways = [way for way, on in (("an append-only file", told.get("aof_enabled") == "1"), ("snapshots", saves)) if on]
    text = f"{' and '.join(ways)}: a crash still loses what came last" if ways else "none: a restart empties it"
    return Finding("cache persistence", "ok", f"{text}; records are the truth, the cache may be empty at any time")


def _texts(answer: Any) -> list[str]:
    """Return the texts of an answer, which is a map in the newer protocol and a list in the older."""
    parts = [part for pair in answer.items() for part in pair] if isinstance(answer, dict) else answer
    return [bytes(part).decode(errors="replace") for part in parts]


def _role(client: Redis, told: Mapping[str, str]) -> Finding:
    if told.get("redis_mode") == "cluster" and client.options.via != "cluster":
        text = "this server is a node of a cluster, and has only some of the keys"
        return Finding(
            "cache role", "fail", text, "Write redis+cluster:// instead of redis:// in the option cache, rediss+cluster:// with TLS."
        )
    if told.get("role") == "slave":
        return Finding("cache role", "fail", "this server is a replica and takes no writes", "Name the primary in the option cache.")
    count = int(told.get("connected_slaves", 0))
    return Finding("cache role", "ok", f"primary with {count} replicas; what they had not received is lost when one takes over")


def _clients(told: Mapping[str, str]) -> Finding:
    clients, most = int(told.get("connected_clients", 0)), int(told.get("maxclients", 0)) or 10_000
    text = f"{clients:,} of {most:,} connections in use"
    if clients > most * 0.9 or int(told.get("rejected_connections", 0)):
        return Finding("cache connections", "warn", f"{text}; some were refused, or soon are", "Raise maxclients, or use fewer processes.")
    return Finding("cache connections", "ok", text)


async def _clock(client: Redis) -> Finding:
    """Limits, presence and expiries go by the server's clock, so that all processes agree; records go by theirs."""
    before = time.time()
    seconds, micros = await client.read(encode("TIME"))
    ahead = int(seconds) + int(micros) / 1e6 - (before + time.time()) / 2
    if abs(ahead) > _SKEW_S:
        return Finding("cache clock", "warn", f"it is {ahead:+,.1f} s from this machine's", "Have both kept by NTP.")
    return Finding("cache clock", "ok", "it agrees with this machine's")


_PROBE = Limit("doctor", 1, 1)


async def _rights(cache: Cache) -> Finding:
    """Do what the cache does, on keys that are nobody's."""
    values = cache.values("doctor")
    tried: dict[str, Awaitable[object]] = {
        "reading": values.get("probe", extend_s=1),
        "writing": values.set("probe", b"", ttl_s=1, revision=1),
        "removing": values.delete("probe"),
        "limits": cache.limiter.take(Take(_PROBE, "probe")),
        "presence": cache.presence.count(["doctor"]),
        "windows": cache.windows.read("doctor", limit=1),
        "messages": cache.bus.publish("doctor", b""),
    }
    answers = await asyncio.gather(*tried.values(), return_exceptions=True)
    failed = {name: answer for name, answer in zip(tried, answers, strict=True) if isinstance(answer, BaseException)}
    if failed:
        error = next(iter(failed.values()))
        told = error.message if isinstance(error, PalaverError) else type(error).__name__
        fix = "Allow it: ACL SETUSER … ~<prefix>:* &* +@read +@write +@scripting +@pubsub +@connection +info +slowlog"
        return Finding("cache rights", "fail", f"this does not work: {', '.join(failed)} ({told})", fix)
    return Finding("cache rights", "ok", "reading, writing, limits, presence, windows and messages")
