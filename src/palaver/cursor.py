"""Cursors: signed, unreadable, bound to the query and tenant they were made for, valid for a day."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import orjson

from palaver.batch import given
from palaver.errors import BadCursor
from palaver.query import Query
from palaver.values import KeyPart

VALID_MS = 86_400_000
LONGEST = 32_768
_SIGNATURE = 16


class Signer:
    """Makes and opens cursors. The first key signs; every key is accepted, so that keys can be rotated."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)

    def sign(self, query: Query[Any], tenant: str | None, position: tuple[KeyPart, ...], now_ms: int) -> str:
        parts = [{"b": part.hex()} if isinstance(part, bytes) else part for part in position]
        body = orjson.dumps([now_ms, _bound(query, tenant), parts])
        mac = _mac(self._keys[0], body)
        return urlsafe_b64encode(mac + _masked(self._keys[0], mac, body)).decode().rstrip("=")

    def open(self, cursor: str, query: Query[Any], tenant: str | None, now_ms: int) -> tuple[KeyPart, ...]:
        """Return the position; raise BadCursor for one that is forged, foreign, or older than a day."""
        try:
            # Nobody makes this process work on more than a position can take.
            raw = urlsafe_b64decode(cursor[:LONGEST].encode("ascii") + b"=" * (-len(cursor[:LONGEST]) % 4))
        except (ValueError, TypeError, AttributeError):
            raise BadCursor("The cursor cannot be read.", hint="Pass a page's cursor unchanged.") from None
        mac, masked = raw[:_SIGNATURE], raw[_SIGNATURE:]
        bodies = ((key, _masked(key, mac, masked)) for key in self._keys)
        body = next((body for key, body in bodies if hmac.compare_digest(mac, _mac(key, body))), None)
        if body is None:
            raise BadCursor("The cursor was not made by this store.", hint="Start from the first page.")
        made, bound, parts = orjson.loads(body)
        if bound != _bound(query, tenant):
            raise BadCursor("The cursor belongs to another query or tenant.", hint="Use it only with the query it came from.")
        if not now_ms - VALID_MS <= made <= now_ms + VALID_MS:
            raise BadCursor("The cursor is older than a day.", hint="Start from the first page.")
        return tuple(bytes.fromhex(part["b"]) if isinstance(part, dict) else part for part in parts)


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, b"sign" + body, "sha256")[:_SIGNATURE]


def _masked(key: bytes, mac: bytes, body: bytes) -> bytes:
    """Return a body that can only be read with the key, or the body of one: it travels in URLs, and values of records are in it.

    Its own signature begins the stream it is masked with, so that no two bodies share one.
    """
    blocks = range(-(-len(body) // 32))
    stream = b"".join(hmac.digest(key, b"mask" + mac + block.to_bytes(4), "sha256") for block in blocks)
    return (int.from_bytes(body) ^ int.from_bytes(stream[: len(body)])).to_bytes(len(body))


def _bound(query: Query[Any], tenant: str | None) -> str:
    key = query.entity.declared().access["key"]
    shape = (
        query.entity.__name__,
        query.path.name,
        # A position says nothing in an index that was declared anew under its name.
        [(part.column, part.column_kind) for path in (query.path, key) for part in path.parts],
        query.path.shards,
        query.partition,
        query.fixed,
        query.bounds,
        query.descending,
        given(query.condition) if query.condition is not None else None,
        tenant,
    )
    return sha256(repr(shape).encode()).hexdigest()[:16]
