"""Changes of the feed as items of its log: many in one, compressed, and measured before they are sent.

Keys may be 3 kB and records may have released objects, so that a number of changes says nothing of their size.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any, NamedTuple

from palaver.ops import Cause, Change
from palaver.stored_json import dumps, loads
from palaver.system import key_from_plain, plain_key

MOST = 500
"""Changes in one segment: more are not packed any closer."""
SEGMENT_BYTES = 300_000
"""What a segment may take of the 400 kB of an item; a single change never takes as much."""
SENT_BYTES = 3_000_000
"""What segments may take of the 4 MB of a transaction, which holds checkpoints too."""


class Segment(NamedTuple):
    """Changes as they are stored: the position of the last one, and the text of their bytes."""

    last: int
    packed: str

    @property
    def size(self) -> int:
        return len(self.packed) // 4 * 3


def segments(changes: Sequence[Change]) -> list[Segment]:
    """Return changes in segments that each fit into an item."""
    out: list[Segment] = []
    waiting = [changes[at : at + MOST] for at in range(0, len(changes), MOST)][::-1]
    while waiting:
        some = waiting.pop()
        segment = Segment(some[-1].position, _packed(some))
        if segment.size > SEGMENT_BYTES and len(some) > 1:
            half = len(some) // 2
            waiting += [some[half:], some[:half]]
        else:
            out.append(segment)
    return out


def _packed(changes: Sequence[Change]) -> str:
    rows: list[Any] = [
        [position, table, plain_key(key), revision, kind, cause.actor, cause.token, list(released)]
        for position, table, key, revision, kind, cause, released in changes
    ]
    return b64encode(zlib.compress(dumps(rows).encode(), 6)).decode()


def unpacked(text: str) -> list[Change]:
    rows = loads(zlib.decompress(b64decode(text)).decode())
    return [
        Change(position, table, key_from_plain(key), revision, kind, Cause(actor, token), tuple(released))
        for position, table, key, revision, kind, actor, token, released in rows
    ]
