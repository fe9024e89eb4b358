"""What the parts of the cache suite share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from palaver.clock import ManualClock
from palaver.ports import Cache

HOSTILE = [
    "", " ", "a", "A", "a ", "a\0b", "\0", "\x01", "\r\n", "*1\r\n$4\r\nQUIT\r\n", "a:b", "a:b:c", ":", "::", "{", "}", "{}", "{a}", "a}b",
    "%7D", "a%7Db", "%", "#", "é", "e\u0301", "ß", "日本語", "👩‍💻", "\u202eabc", "\ufeff", "\uffff", "\U0010ffff", "*", "?", "[a]", "a*",
    "'; --", "None", "0", "-1", "1e5", "nan", "true", "v", "f", "x" * 1_000, "é" * 500, "\x7f", "\\", "\\0", "$1", "a\nb", "b60000:minute",
    ":a", ":s",
]  # fmt: skip
"""Texts that break keys put together without care; all differ."""

HOSTILE_DATA = [
    b"",
    b"\0",
    b"\r\n",
    b"$-1\r\n",
    b"\xff\xfe\x00",
    b"v0000000000000001x",
    b"f",
    b"x" * 100_000,
    bytes(range(256)),
    "é\0ß".encode(),
]


SHORT = 0.3
"""Seconds to live of what a test lets expire: long enough that a busy machine does not before the test means it to."""


class CacheBase:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def cache(self, clock: ManualClock) -> AsyncIterator[Cache]:
        """A fresh cache whose limits and presence go by the clock."""
        raise NotImplementedError("a subclass gives the fixture `cache`")
        yield  # noqa: PT022 - it makes this an async generator, as the fixtures that replace it are

    async def pass_time(self, clock: ManualClock, seconds: float) -> None:
        """Let what lives that long expire; engines with a time of their own are waited for."""
        clock.advance(timedelta(seconds=seconds))
