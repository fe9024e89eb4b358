"""The address of a client behind proxies: what he wrote himself is never believed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from palaver.client_address import address_group, client_address
from palaver.errors import ConfigError, Validation

TRUSTED = ("10.0.0.0/8", "2001:db8:ff::/48")
PROXY = "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        (PROXY, None, PROXY),
        (PROXY, "", PROXY),
        (PROXY, "203.0.113.9", "203.0.113.9"),
        (PROXY, "203.0.113.9, 10.0.0.2", "203.0.113.9"),
        (PROXY, "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (PROXY, "203.0.113.9:4711", "203.0.113.9"),
        (PROXY, "[2001:db8::1]:4711", "2001:db8::1"),
        (PROXY, "2001:DB8::0001", "2001:db8::1"),
        (PROXY, "::ffff:203.0.113.9", "203.0.113.9"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("2001:db8:ff::1", "203.0.113.9", "203.0.113.9"),
        ("fe80::1%eth0", "203.0.113.9", "fe80::1"),
        ("", "203.0.113.9", "unknown"),
        ("testclient", "203.0.113.9", "testclient"),
    ],
)
def test_the_right_most_hop_that_is_no_proxy_is_the_client(peer: str, forwarded: str | None, expected: str) -> None:
    assert expected == client_address(peer, forwarded, trusted=TRUSTED)


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.7, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.7, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("127.0.0.1, ::1, 203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, nonsense", PROXY),
        ("203.0.113.9, nonsense, 10.0.0.2", "10.0.0.2"),
        ("203.0.113.9,", PROXY),
        ("unknown", PROXY),
        ("_hidden", PROXY),
        ("203.0.113.999", PROXY),
        ("0x7f.1", PROXY),
        ("010.0.0.1", PROXY),
    ],
)
def test_what_a_client_writes_into_the_header_changes_nothing(forwarded: str, expected: str) -> None:
    assert expected == client_address(PROXY, forwarded, trusted=TRUSTED)


def test_several_lines_are_one_list_in_their_order() -> None:
    assert "203.0.113.9" == client_address(PROXY, ["1.1.1.1", "203.0.113.9, 10.0.0.2"], trusted=TRUSTED)


def test_without_proxies_of_ones_own_the_header_is_never_read() -> None:
    assert "203.0.113.9" == client_address("203.0.113.9", "1.1.1.1")
    assert "203.0.113.9" == client_address("203.0.113.9", "1.1.1.1", trusted=TRUSTED)


@given(forged=st.text(max_size=200))
def test_whatever_is_forged_the_proxy_appends_who_it_heard_from(forged: str) -> None:
    assert "203.0.113.9" == client_address(PROXY, f"{forged}, 203.0.113.9", trusted=TRUSTED)
    assert "203.0.113.9" == client_address(PROXY, [forged, "203.0.113.9", PROXY], trusted=TRUSTED)


def test_a_header_of_any_length_costs_a_bounded_look() -> None:
    assert "10.1.1.1" == client_address(PROXY, "203.0.113.9," + ",".join(["10.1.1.1"] * 100_000), trusted=TRUSTED)


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError):
        client_address(PROXY, "203.0.113.9", trusted=["10.0.0.0/99"])


def test_a_household_of_ipv6_is_one_and_ipv4_is_each() -> None:
    assert "2001:db8:1:2::/64" == address_group("2001:db8:1:2::1") == address_group("2001:0db8:0001:0002:ffff::9")
    assert address_group("2001:db8:1:3::1") != address_group("2001:db8:1:2::1")
    assert "203.0.113.9" == address_group("203.0.113.9") == address_group("::ffff:203.0.113.9")
    assert "a socket" == address_group("a socket")


@pytest.mark.parametrize("peer", [None, ""])
@pytest.mark.parametrize(
    ("forwarded", "trusted", "expected"),
    [
        ("203.0.113.9", TRUSTED, "unknown"),
        ("203.0.113.9", (*TRUSTED, "unix"), "203.0.113.9"),
        ("127.0.0.1, 203.0.113.9, 10.0.0.2", (*TRUSTED, "unix"), "203.0.113.9"),
        ("nonsense", ("unix",), "unknown"),
        (None, ("unix",), "unknown"),
        (None, (), "unknown"),
    ],
)
def test_over_a_unix_socket_the_header_is_believed_where_that_was_declared(
    peer: str | None, forwarded: str | None, trusted: tuple[str, ...], expected: str
) -> None:
    assert expected == client_address(peer, forwarded, trusted=trusted)


def test_trusting_a_unix_socket_trusts_no_address() -> None:
    assert "198.51.100.7" == client_address("198.51.100.7", "127.0.0.1", trusted=("unix",))
    assert "unix" == client_address("unix", "127.0.0.1", trusted=("unix",))


@pytest.mark.parametrize("peer", [("203.0.113.9", 4711), 5, b"203.0.113.9"])
def test_a_peer_of_another_type_is_refused_in_words(peer: Any) -> None:
    with pytest.raises(Validation, match=r"A peer is the text of its address, or None.*give the host"):
        client_address(peer, "127.0.0.1", trusted=TRUSTED)
