"""A stack's URL, taken apart: which stack, where, with which options."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePath
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from palaver.errors import ConfigError, did_you_mean

_TLS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl")
_OPTIONS = {
    "sqlite": ("sync", "create", "read_only", "timeout", "blobs", "cache"),
    "memory": ("blobs", "cache"),
    "postgresql": ("schema", "pool", "pooler", "timeout", "wait", "connect_timeout", "rls", "create", "blobs", "cache", *_TLS),
    "dynamodb": ("endpoint", "pool", "timeout", "recovery", "encryption", "protection", "expiry", "create", "blobs", "search", "cache"),
}
_URL = re.compile(r"memory:|[A-Za-z][A-Za-z0-9+.-]*://")
_CACHE = "Redis is the cache of a stack: sqlite:///bot.db?cache=redis://host:6379/0."
_INSTEAD = {"redis": _CACHE, "rediss": _CACHE, "mysql": "There are: dynamodb, memory, postgresql, sqlite."}
"""What people mean by schemes whose nearest name is not it."""


@dataclass(frozen=True)
class Url:
    """A stack's URL, taken apart. `path`: the file, the database, or the region and the prefix of the tables.

    `address` is what a driver connects to; like the options it may hold a password, so neither is shown.
    """

    scheme: str
    path: str
    options: dict[str, str] = field(repr=False)
    address: str = field(default="", repr=False)


def parse_url(url: str) -> Url:
    """Read a URL: `sqlite:///bot.db`, `sqlite:////var/bot.db`, `memory:`, a bare path to a SQLite file,
    `postgresql://user:password@host:port/database`, or `dynamodb://region/prefix`.

    Raises ConfigError for an unknown scheme or option, with the nearest known name.
    """
    if not url:
        raise ConfigError("There is no URL.", hint="Write sqlite:///bot.db, or set PALAVER_URL.")
    if not _URL.match(url):
        return _file(url)
    parts = urlsplit(url)
    scheme = "postgresql" if parts.scheme == "postgres" else parts.scheme
    if scheme not in _OPTIONS:
        raise ConfigError(f"No stack is called {scheme}.", hint=_INSTEAD.get(scheme) or did_you_mean(scheme, _OPTIONS))
    options = dict(options_of(parts.query))
    for name in options:
        if name not in _OPTIONS[scheme]:
            raise ConfigError(f"{scheme} has no option {name}.", hint=did_you_mean(name, _OPTIONS[scheme]))
    if "cache" in options:
        from palaver.cache.opening import check_cache

        check_cache(options["cache"])
    if scheme == "postgresql":
        return _postgresql(parts, options)
    path = unquote(parts.netloc + parts.path)
    if "\0" in path:
        raise ConfigError("The URL holds a NUL character, which no path may.", hint="Write sqlite:///bot.db.")
    if scheme == "sqlite":
        if parts.netloc:
            raise ConfigError("A SQLite URL has three slashes, four for an absolute path.", hint="Write sqlite:///bot.db.")
        path = path[1:]
        if not PurePath(path).name:
            raise ConfigError("The SQLite URL names no file.", hint="Write sqlite:///bot.db.")
    if scheme == "dynamodb" and not parts.netloc:
        raise ConfigError("The DynamoDB URL names no region.", hint="Write dynamodb://eu-central-1/prefix.")
    return Url(scheme, path, options)


def options_of(query: str) -> list[tuple[str, str]]:
    """Return the options of a URL in their order. A plus is one, as in `cache=redis+cluster://…`, and no space as in forms."""
    return parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)


def _file(path: str) -> Url:
    """Return what a bare path names. One that looks like a URL is refused: it would be a file with a name nobody meant."""
    if "?" in path:
        raise ConfigError("A path to a file takes no options.", hint="Write the URL, with its three slashes: sqlite:///bot.db?cache=none.")
    if path.partition(":")[0] in (*_OPTIONS, "postgres"):
        raise ConfigError("The URL has no slashes behind its colon.", hint="Write sqlite:///bot.db, or postgresql://host/database.")
    if not PurePath(path).name:
        raise ConfigError("The path names a folder.", hint="Name a file in it, such as bot.db.")
    return Url("sqlite", path, {})


def _postgresql(parts: SplitResult, options: dict[str, str]) -> Url:
    """Keep for the driver what is the driver's: user, password, server, database and TLS."""
    database = unquote(parts.path.removeprefix("/"))
    if not parts.netloc or not database:
        raise ConfigError("The PostgreSQL URL needs a server and a database.", hint="Write postgresql://user:password@host:5432/database.")
    tls = {name: options.pop(name) for name in _TLS if name in options}
    address = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(tls), ""))
    return Url("postgresql", database, options, address)
