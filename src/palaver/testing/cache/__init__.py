"""The conformance suite of caches.

Subclass `CacheTests` and give it the fixture `cache`, a fresh and empty one, and `pass_time`. Needs pytest-asyncio in auto mode.
"""

import pytest

# Before the suites are imported: only then are their asserts explained when they fail.
pytest.register_assert_rewrite(*(f"palaver.testing.cache.{name}" for name in ("values", "limits", "presence", "windows", "bus")))

from palaver.testing.cache.bus import BusTests  # noqa: E402
from palaver.testing.cache.limits import LimiterTests  # noqa: E402
from palaver.testing.cache.presence import PresenceTests  # noqa: E402
from palaver.testing.cache.values import KeyValueTests  # noqa: E402
from palaver.testing.cache.windows import WindowTests  # noqa: E402


class CacheTests(KeyValueTests, LimiterTests, PresenceTests, WindowTests, BusTests):
    """Every contract of `ports.Cache`."""


__all__ = ["CacheTests"]
