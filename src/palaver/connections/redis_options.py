"""How a Redis server is reached, read from a URL. Neither user nor password is ever part of a text made from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from palaver.errors import ConfigError

Place = tuple[str, int]
Via = Literal["", "unix", "cluster", "sentinel"]
_SCHEMES: dict[str, tuple[bool, Via, int]] = {
    "redis": (False, "", 6379),
    "rediss": (True, "", 6379),
    "redis+unix": (False, "unix", 0),
    "redis+cluster": (False, "cluster", 6379),
    "rediss+cluster": (True, "cluster", 6379),
    "redis+sentinel": (False, "sentinel", 26379),
}
"""Whether TLS is spoken, what is named, and the port where none is."""
_HOSTS = "Write redis://host:6379/0, rediss:// for TLS, redis+cluster://host1,host2, or redis+sentinel://host1,host2/name."


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """One server, and the limits kept towards it.

    `pool` is how many sockets commands travel on; `timeout_s` how long a reply may take, `connect_s` how long a
    connection; over `inflight` commands without a reply a call is refused. `hosts` are some nodes of a cluster, or the
    sentinels that know where the primary called `name` is.
    """

    host: str = "127.0.0.1"
    port: int = 6379
    via: Via = ""
    hosts: tuple[Place, ...] = ()
    name: str = ""
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
        if self.path:
            return f"redis+unix://{self.path}"
        scheme = f"{'rediss' if self.tls else 'redis'}{'+' if self.via else ''}{self.via}"
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts or [(self.host, self.port)])
        where = {"cluster": "", "sentinel": f"/{self.name}/{self.db}"}.get(self.via, f"/{self.db}")
        return f"{scheme}://{hosts}{where}"


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
    socket in the file system. `redis+cluster://host[:port],host…` names some nodes of a cluster, and
    `redis+sentinel://host[:26379],host…/name[/db]` the sentinels of a primary. Raises ConfigError, which names the option and
    not its value.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError("The host of the Redis URL cannot be read.", hint=_HOSTS) from None
    if parts.scheme not in _SCHEMES:
        raise ConfigError("This is not the URL of a Redis server.", hint=_HOSTS)
    tls, via, port = _SCHEMES[parts.scheme]
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    places = tuple(_place(host, port) for host in hosts.split(","))
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
    if "ca" in given and not tls:
        raise ConfigError("The option ca needs TLS.", hint="Write rediss:// instead of redis://.")
    if via in ("cluster", "sentinel"):
        given["hosts"] = places
    elif len(places) > 1:
        raise ConfigError("The Redis URL names several hosts.", hint=_HOSTS)
    return RedisOptions(
        host=places[0][0],
        port=places[0][1],
        via=via,
        tls=tls,
        user=unquote(user),
        password=unquote(password),
        **_where(parts, via),  # type: ignore[arg-type]
        **given,  # type: ignore[arg-type]
    )


def _place(text: str, port: int) -> Place:
    """Return one of the hosts that are named, and its port."""
    host, colon, number = text.rpartition(":") if text.rfind(":") > text.rfind("]") else (text, "", "")
    if colon and not (number.isdecimal() and int(number) < 65_536):
        raise ConfigError("The port of the Redis URL is not a number.")
    return (host.strip("[]").lower() or "127.0.0.1", int(number) if number else port)


def _where(parts: SplitResult, via: Via) -> dict[str, object]:
    if via == "unix":
        if not parts.path.strip("/"):
            raise ConfigError("The Redis URL names no socket.", hint="Write redis+unix:///run/redis.sock.")
        return {"path": unquote(parts.path)}
    first, _, second = parts.path.strip("/").partition("/")
    name, text = (unquote(first), second) if via == "sentinel" else ("", parts.path.strip("/"))
    if via == "sentinel" and not name:
        raise ConfigError("The URL names no primary.", hint="Write redis+sentinel://host1,host2/name: sentinels call it by a name.")
    if text and not text.isdecimal():
        raise ConfigError("The database of a Redis URL is a number.", hint="Write redis://host:6379/0.")
    if via == "cluster" and int(text or 0):
        raise ConfigError("A Redis Cluster has database 0 alone.", hint="Leave the number out of the URL.")
    return {"name": name, "db": int(text or 0)}
