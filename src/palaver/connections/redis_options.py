"""How a Redis server is reached, read from a URL. Neither user nor password is ever part of a text made from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal
from urllib.parse import parse_qsl, unquote

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
    "rediss+sentinel": (True, "sentinel", 26379),
}
"""Whether TLS is spoken, what is named, and the port where none is."""
_SEVERAL = ("cluster", "sentinel")
_LOCAL = "127.0.0.1"
_PLACE = re.compile(r"(?:\[([0-9a-fA-F:.]+(?:%[^\[\]]+)?)\]|([^\[\]:]+))(?::(.*))?")
_HOSTS = "Write redis://host:6379/0, rediss:// for TLS, redis+cluster://host1,host2, or redis+sentinel://host1,host2/name."

_ESCAPED = "In a user or password write %2F for /, %3F for ?, %40 for @ and %3A for a colon."


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """One server, and the limits kept towards it.

    `pool` is how many sockets commands travel on; `timeout_s` how long a reply may take, `connect_s` how long a
    connection; over `inflight` commands without a reply a call is refused. `hosts` are some nodes of a cluster, or the
    sentinels that know where the primary called `name` is; those have a user and password of their own.
    """

    host: str = _LOCAL
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
    sentinel_user: str = field(default="", repr=False)
    sentinel_password: str = field(default="", repr=False)

    @property
    def shown(self) -> str:
        """The address, as it may be shown anywhere."""
        if self.path:
            return f"redis+unix://{self.path}"
        scheme = f"{'rediss' if self.tls else 'redis'}{'+' if self.via else ''}{self.via}"
        hosts = ",".join(f"{f'[{host}]' if ':' in host else host}:{port}" for host, port in self.hosts or [(self.host, self.port)])
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
    "sentinel_user": ("sentinel_user", str, "a user"),
    "sentinel_password": ("sentinel_password", str, "a password"),
}


def parse_redis_url(url: str) -> RedisOptions:
    """Read `redis://[user:password@]host[:port][/db]?pool=1&timeout=2&connect=2&inflight=10000&prefix=palaver`.

    `rediss://` speaks TLS and checks the certificate, against the file `ca` if one is named; `redis+unix:///path` is a
    socket in the file system. `redis+cluster://host[:port],host…` names some nodes of a cluster, and
    `redis+sentinel://host[:26379],host…/name[/db]?sentinel_user=…&sentinel_password=…` the sentinels of a primary. Both have
    a `rediss+…` form, and addresses of IPv6 stand in brackets. Raises ConfigError, which names the option and not its value.
    """
    scheme, separator, rest = url.strip().partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _SCHEMES:
        raise ConfigError("This is not the URL of a Redis server.", hint=_HOSTS)
    tls, via, port = _SCHEMES[scheme]
    # By hand: to urllib a list of hosts, some of them in brackets, is none.
    rest, _, query = rest.partition("?")
    netloc, _, path = rest.partition("/")
    login, _, hosts = netloc.rpartition("@")
    user, _, password = login.partition(":")
    places = tuple(_place(host, port) for host in hosts.split(",")) if hosts or via in _SEVERAL else ((_LOCAL, port),)
    given = _options(query, scheme)
    if via in _SEVERAL:
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
        **_where(path, via),  # type: ignore[arg-type]
        **given,  # type: ignore[arg-type]
    )


def _options(query: str, scheme: str) -> dict[str, object]:
    """Return what the options say, by the attributes they set."""
    tls, via, _ = _SCHEMES[scheme]
    given: dict[str, object] = {}
    # A plus is one, and no space as in forms.
    for name, text in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True):
        if name not in _READ:
            near = get_close_matches(name, _READ, 1)
            raise ConfigError(f"redis has no option {name}.", hint=f"Did you mean {near[0]}?" if near else "")
        attribute, read, what = _READ[name]
        if attribute in given:
            raise ConfigError(f"The Redis URL says {name} twice.")
        try:
            given[attribute] = read(text)
        except ValueError:
            raise ConfigError(f"The option {name} of the Redis URL is not {what}.") from None
    if "ca" in given and not tls:
        instead = "Leave it out: a socket in the file system speaks no TLS."
        raise ConfigError(
            "The option ca needs TLS.", hint=instead if via == "unix" else f"Write rediss{scheme[5:]}:// instead of {scheme}://."
        )
    if via != "sentinel" and {"sentinel_user", "sentinel_password"} & given.keys():
        raise ConfigError(
            "The options sentinel_user and sentinel_password are for sentinels.", hint="Write redis+sentinel://host1,host2/name."
        )
    return given


def _place(text: str, port: int) -> Place:
    """Return one of the hosts that are named, and its port."""
    if not text:
        raise ConfigError("The Redis URL names a host without a name.", hint="Look at its commas: host1:6379,host2:6379.")
    found = _PLACE.fullmatch(text)
    if found is None:
        raise ConfigError(
            "A host of the Redis URL cannot be read.", hint=f"Write host:6379, or [::1]:6379 for an address of IPv6. {_ESCAPED}"
        )
    six, host, number = found.groups()
    if number is not None and not (number.isascii() and number.isdecimal() and 0 < int(number) < 65_536):
        raise ConfigError("The port of the Redis URL is not a number from 1 to 65535.", hint=_ESCAPED)
    return ((six or host).lower(), int(number) if number else port)


def _where(path: str, via: Via) -> dict[str, object]:
    if via == "unix":
        if not path.strip("/"):
            raise ConfigError("The Redis URL names no socket.", hint="Write redis+unix:///run/redis.sock.")
        return {"path": f"/{unquote(path)}"}
    if "@" in path:
        raise ConfigError("The Redis URL has an @ behind its host.", hint=_ESCAPED)
    first, _, second = path.strip("/").partition("/")
    name, text = (unquote(first), second) if via == "sentinel" else ("", path.strip("/"))
    if via == "sentinel" and not name:
        raise ConfigError("The URL names no primary.", hint="Write redis+sentinel://host1,host2/name: sentinels call it by a name.")
    if text and not text.isdecimal():
        raise ConfigError("The database of a Redis URL is a number.", hint="Write redis://host:6379/0.")
    if via == "cluster" and int(text or 0):
        raise ConfigError("A Redis Cluster has database 0 alone.", hint="Leave the number out of the URL.")
    return {"name": name, "db": int(text or 0)}
