"""How a Redis server is reached, read from a URL. Neither user nor password is ever part of a text made from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from palaver.errors import ConfigError

_SCHEMES = ("redis", "rediss", "redis+unix")


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """One server, and the limits kept towards it.

    `pool` is how many sockets commands travel on; `timeout_s` how long a reply may take, `connect_s` how long a
    connection; over `inflight` commands without a reply a call is refused.
    """

    host: str = "127.0.0.1"
    port: int = 6379
    path: str = ""
    db: int = 0
    tls: bool = False
    ca: str = ""
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    pool: int = 1
    timeout_s: float = 2.0
    connect_s: float = 2.0
    inflight: int = 10_000
    prefix: str = "palaver"

    @property
    def shown(self) -> str:
        """The address, as it may be shown anywhere."""
        return f"redis+unix://{self.path}" if self.path else f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.db}"


def _amount(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise ValueError
    return int(text)


def _seconds(text: str) -> float:
    if not 0 < (value := float(text)) <= 3_600:
        raise ValueError
    return value


def _prefix(text: str) -> str:
    if not text or len(text) > 40 or not text.isprintable() or set("{}") & set(text):
        raise ValueError
    return text


_READ: dict[str, tuple[str, Callable[[str], object], str]] = {
    "pool": ("pool", _amount, "a number of connections"),
    "timeout": ("timeout_s", _seconds, "seconds"),
    "connect": ("connect_s", _seconds, "seconds"),
    "inflight": ("inflight", _amount, "a number of commands"),
    "prefix": ("prefix", _prefix, "up to 40 characters without braces"),
    "ca": ("ca", str, "a file"),
}


def parse_redis_url(url: str) -> RedisOptions:
    """Read `redis://[user:password@]host[:port][/db]?pool=1&timeout=2&connect=2&inflight=10000&prefix=palaver`.

    `rediss://` speaks TLS and checks the certificate, against the file `ca` if one is named; `redis+unix:///path` is a
    socket in the file system. Raises ConfigError, which names the option and not its value.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:
        raise ConfigError("The port of the Redis URL is not a number.") from None
    if parts.scheme not in _SCHEMES:
        raise ConfigError("This is not the URL of a Redis server.", hint="Write redis://host:6379/0, or rediss:// for TLS.")
    given: dict[str, object] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _READ:
            near = get_close_matches(name, _READ, 1)
            raise ConfigError(f"redis has no option {name}.", hint=f"Did you mean {near[0]}?" if near else "")
        attribute, read, what = _READ[name]
        try:
            given[attribute] = read(text)
        except ValueError:
            raise ConfigError(f"The option {name} of the Redis URL is not {what}.") from None
    if "ca" in given and parts.scheme != "rediss":
        raise ConfigError("The option ca needs TLS.", hint="Write rediss:// instead of redis://.")
    return RedisOptions(
        host=parts.hostname or "127.0.0.1",
        port=port,
        tls=parts.scheme == "rediss",
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        **_where(parts),  # type: ignore[arg-type]
        **given,  # type: ignore[arg-type]
    )


def _where(parts: SplitResult) -> dict[str, object]:
    if parts.scheme == "redis+unix":
        if not parts.path.strip("/"):
            raise ConfigError("The Redis URL names no socket.", hint="Write redis+unix:///run/redis.sock.")
        return {"path": unquote(parts.path)}
    text = parts.path.strip("/")
    if text and not text.isdecimal():
        raise ConfigError("The database of a Redis URL is a number.", hint="Write redis://host:6379/0.")
    return {"db": int(text or 0)}
