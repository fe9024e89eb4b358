"""Which error of the tree an answer of Redis is.

Redis repeats arguments in some of its texts, so none of them is ever shown: only the first word, its code, decides.
"""

from __future__ import annotations

import re

from palaver.errors import (
    ConfigError,
    Conflict,
    Corruption,
    Forbidden,
    PalaverError,
    ReadOnly,
    StorageFull,
    Throttled,
    Unauthenticated,
    Unavailable,
    Validation,
)

# Before 7.0 the error of a command is told inside that of the script which ran it.
_IN_A_SCRIPT = re.compile(r"user_script: ?\d+: -([A-Z]+) ")
_ELSEWHERE = re.compile(r"(MOVED|ASK) (\d{1,5}) (\S*):(\d{1,5})")
_ASK_AN_ADMINISTRATOR = "Look at the users and passwords of the server: ACL LIST."
_OLD = "Palaver needs Redis 6.2 or newer."
_CLUSTER = "Write redis+cluster:// instead of redis://, rediss+cluster:// instead of rediss://."
_OWN_PREFIX = "Give Palaver a prefix of its own: ?prefix=."
_CODES: dict[str, tuple[type[PalaverError], str, str]] = {
    "NOAUTH": (Unauthenticated, "The Redis server asks for a password.", "Write redis://user:password@host."),
    "WRONGPASS": (Unauthenticated, "The Redis server does not know this user or password.", _ASK_AN_ADMINISTRATOR),
    "NOPERM": (Forbidden, "The Redis user may not run this command or touch this key.", _ASK_AN_ADMINISTRATOR),
    "DENIED": (
        Forbidden,
        "The Redis server is in protected mode and answers its own machine only.",
        "Give it a password, or protected-mode no.",
    ),
    "READONLY": (ReadOnly, "The Redis server is a replica.", "Name the primary in the URL."),
    "MISCONF": (ReadOnly, "The Redis server takes no writes while it cannot save to its disk.", "Make room there, and look at its log."),
    "OOM": (StorageFull, "The Redis server has reached its maxmemory.", "Raise it, or choose a volatile-* eviction policy."),
    "LOADING": (Unavailable, "The Redis server is still loading its data.", ""),
    "MASTERDOWN": (Unavailable, "The Redis replica has lost its primary.", ""),
    "NOREPLICAS": (Unavailable, "The Redis server has too few replicas to take writes.", ""),
    "CLUSTERDOWN": (Unavailable, "The Redis cluster is down.", ""),
    "TRYAGAIN": (Conflict, "The Redis cluster is moving these keys.", ""),
    "BUSY": (Unavailable, "The Redis server is busy with a script.", ""),
    "WRONGTYPE": (Corruption, "A Redis key holds a value of another program.", _OWN_PREFIX),
    "CROSSSLOT": (ConfigError, "The keys of one call lie in several slots of a Redis Cluster.", ""),
    "NOPROTO": (ConfigError, "The Redis server is older than 6.0.", _OLD),
}


def named_host(host: str) -> str:
    """Return the host a node of a cluster goes by; none where it does not know, and then it is the one that was asked."""
    return "" if host == "?" else host


class Elsewhere(ConfigError):
    """What a node of a cluster says of keys that are another's; told to nobody who said that it is a cluster."""

    def __init__(self, told: re.Match[str]) -> None:
        self.slot, self.host, self.port = int(told[2]), named_host(told[3]), int(told[4])
        self.asking = told[1] == "ASK"
        super().__init__("The URL names a node of a Redis Cluster.", hint=_CLUSTER, engine="redis")


def translate(text: str) -> PalaverError:
    """Return the error of the tree for an error reply."""
    code = text.partition(" ")[0]
    if code == "ERR" and (inner := _IN_A_SCRIPT.search(text)):
        code = inner[1]
    if code == "ERR" and "The user executing the script can't" in text:
        # So did 6.2 word it.
        code = "NOPERM"
    if told := _ELSEWHERE.fullmatch(text):
        return Elsewhere(told)
    if code in _CODES:
        kind, message, hint = _CODES[code]
        return kind(message, hint=hint, engine="redis")
    if "max number of clients" in text:
        return Throttled("The Redis server has no connection left.", hint="Raise its maxclients, or lower pool=.", engine="redis")
    if "DB index is out of range" in text:
        return ConfigError("The Redis server has no database of this number.", engine="redis")
    if "unknown command" in text or "wrong number of arguments" in text or "syntax error" in text:
        return ConfigError("The Redis server does not know a command Palaver uses.", hint=_OLD, engine="redis")
    if "cluster support disabled" in text:
        return ConfigError(
            "The URL names a Redis server that is no cluster.",
            hint="Write redis:// instead of redis+cluster://, rediss:// with TLS.",
            engine="redis",
        )
    if "string is longer than allowed" in text or "string exceeds maximum" in text:
        return Validation("A value is larger than Redis holds.", engine="redis")
    if "user_script" in text or "script" in text:
        return Corruption("A Redis key holds a value of another program.", hint=_OWN_PREFIX, engine="redis")
    return Unavailable("The Redis server refused a command.", engine="redis", reply=code if code.isupper() and code.isalpha() else "")
