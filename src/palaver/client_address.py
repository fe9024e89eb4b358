"""Whose address a request came from, where proxies stand before the application: what they add is believed, what a client writes is not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from palaver.errors import ConfigError, Validation

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
_HOUSEHOLD = 64
_MOST_HOPS = 100
UNKNOWN = "unknown"
"""The address of a client of whom none is known: all of them are counted as one."""
UNIX_SOCKET = "unix"


def client_address(peer: str | None, forwarded_for: str | Iterable[str] | None = None, *, trusted: Sequence[str] = ()) -> str:
    """Return the address of the client: the right-most hop that is not one of the trusted proxies.

    `peer` is who opened the connection; `forwarded_for` the header `X-Forwarded-For`, all lines of it in order; `trusted` the
    networks of your own proxies, such as "10.0.0.0/8". Each proxy appends who it heard from, so entries are believed from the
    right as long as a trusted one wrote them. A client may write what it likes to the left of that: it is never read. Where the
    header is not what proxies write, the last hop that was certain is returned, which is the peer if nothing was.

    A server on a Unix socket has no peer's address, and gives None. What came over it is believed as from a proxy of yours only
    where `trusted` has "unix", because every process that may open the socket can write the header; else, and where the header
    names nobody, the answer is "unknown". Raises ConfigError for a network that is none, Validation for a peer that is no text.
    """
    networks = _networks(tuple([network for network in trusted if network != UNIX_SOCKET]))
    certain = _of_peer(peer)
    believed = _within(certain, networks) if certain is not None else not peer and UNIX_SOCKET in trusted
    if not believed or not forwarded_for:
        return str(certain) if certain is not None else peer or UNKNOWN
    text = forwarded_for if isinstance(forwarded_for, str) else ",".join(forwarded_for)
    for entry in reversed(text.rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]):
        hop = _parsed(_without_port(entry.strip()))
        if hop is None:
            break
        certain = hop
        if not _within(hop, networks):
            break
    return UNKNOWN if certain is None else str(certain)


def is_address(text: str) -> bool:
    """Say whether a text is an IP address."""
    return _parsed(text) is not None


@lru_cache(maxsize=4_096)
def address_group(address: str) -> str:
    """Return what an address is counted as: an IPv6 address as its /64, which one household has whole; other text as it is."""
    parsed = _parsed(address)
    if parsed is None:
        return address
    if isinstance(parsed, IPv6Address):
        return str(ip_network((int(parsed) >> _HOUSEHOLD << _HOUSEHOLD, _HOUSEHOLD)))
    return str(parsed)


@lru_cache(maxsize=64)
def _networks(trusted: tuple[str, ...]) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(text) for text in trusted)
    except ValueError:
        raise ConfigError("A trusted proxy is an address, a network such as 10.0.0.0/8, or unix.") from None


def _of_peer(peer: object) -> Address | None:
    if peer is not None and not isinstance(peer, str):
        raise Validation("A peer is the text of its address, or None.", hint="Of a pair of host and port, as ASGI has it, give the host.")
    return _parsed(peer) if peer else None


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _parsed(text: str) -> Address | None:
    """Return an address; IPv4 written as IPv6 is IPv4, and a zone says nothing to others."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _without_port(entry: str) -> str:
    """Return a hop without the port that some proxies write: `1.2.3.4:5678`, `[2001:db8::1]:5678`."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
