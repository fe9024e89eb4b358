"""The conformance suite of `ports.RecordEngine`, one class of facts per topic."""

from __future__ import annotations

from palaver.testing.records.guarding import Batches, Existence, Races
from palaver.testing.records.writing import Bulk, Revisions, Unknown, Writing


class RecordEngineTests(Writing, Revisions, Bulk, Unknown, Existence, Batches, Races):
    """Every fact an engine for records must fulfil; subclass it, override `make` and the raw accessors."""
