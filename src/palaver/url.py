"""A stack's URL, taken apart: which stack, where, with which options."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from palaver.entity import did_you_mean
from palaver.errors import ConfigError

_TLS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl")
_OPTIONS = {
    "sqlite": ("sync", "create", "read_only", "timeout", "blobs", "cache"),
    "memory": ("blobs", "cache"),
    "postgresql": ("schema", "pool", "pooler", "timeout", "wait", "connect_timeout", "rls", "create", "blobs", "cache", *_TLS),
    "dynamodb": ("endpoint", "pool", "timeout", "recovery", "encryption", "protection", "expiry", "create", "blobs", "search", "cache"),
}


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
    if "://" not in url and not url.startswith("memory:"):
        return Url("sqlite", url, {})
    parts = urlsplit(url)
    scheme = "postgresql" if parts.scheme == "postgres" else parts.scheme
    if scheme not in _OPTIONS:
        raise ConfigError(f"No stack is called {scheme}.", hint=did_you_mean(scheme, _OPTIONS))
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS[scheme]:
            raise ConfigError(f"{scheme} has no option {name}.", hint=did_you_mean(name, _OPTIONS[scheme]))
    if "cache" in options:
        from palaver.cache.opening import check_cache

        check_cache(options["cache"])
    if scheme == "postgresql":
        return _postgresql(parts, options)
    path = unquote(parts.netloc + parts.path)
    if scheme == "sqlite":
        if parts.netloc:
            raise ConfigError("A SQLite URL has three slashes, four for an absolute path.", hint="Write sqlite:///bot.db.")
        path = path[1:]
        if not path:
            raise ConfigError("The SQLite URL names no file.", hint="Write sqlite:///bot.db.")
    if scheme == "dynamodb" and not parts.netloc:
        raise ConfigError("The DynamoDB URL names no region.", hint="Write dynamodb://eu-central-1/prefix.")
    return Url(scheme, path, options)


def _postgresql(parts: SplitResult, options: dict[str, str]) -> Url:
    """Keep for the driver what is the driver's: user, password, server, database and TLS."""
    database = unquote(parts.path.removeprefix("/"))
    if not parts.netloc or not database:
        raise ConfigError("The PostgreSQL URL needs a server and a database.", hint="Write postgresql://user:password@host:5432/database.")
    tls = {name: options.pop(name) for name in _TLS if name in options}
    address = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(tls), ""))
    return Url("postgresql", database, options, address)
