"""What proves an engine: the published conformance suites, fault injection and model checking. Needs pytest."""

import pytest

# Before the suites are imported: only then are their asserts explained when they fail.
pytest.register_assert_rewrite("palaver.testing.records")

from palaver.testing.records import RecordEngineTests, UnorderedRecordEngineTests  # noqa: E402

__all__ = ["RecordEngineTests", "UnorderedRecordEngineTests"]
