"""The conformance suite of `ports.RecordEngine`, one class of facts per topic."""

from __future__ import annotations

from palaver.testing.records.conditions import Conditions
from palaver.testing.records.content import Content
from palaver.testing.records.feeding import Feed, TotalOrder, Trimming, Waking
from palaver.testing.records.guarding import Batches, Existence, Races
from palaver.testing.records.ordering import Bounds, Indexes, Order
from palaver.testing.records.paging import Counting, Pages, Scans
from palaver.testing.records.restoring import Continuing, Restoring
from palaver.testing.records.structure import Changing, Expiring, Structure
from palaver.testing.records.updating import Updates
from palaver.testing.records.writing import Loading, Revisions, Unasked, Unknown, Writing


class UnorderedRecordEngineTests(
    Writing,
    Revisions,
    Unasked,
    Loading,
    Unknown,
    Existence,
    Batches,
    Races,
    Conditions,
    Updates,
    Content,
    Order,
    Bounds,
    Indexes,
    Pages,
    Scans,
    Counting,
    Feed,
    Trimming,
    Waking,
    Restoring,
    Continuing,
    Structure,
    Changing,
    Expiring,
):
    """Every fact an engine for records must fulfil whose feed keeps the order of one record's changes, as all do."""


class RecordEngineTests(TotalOrder, UnorderedRecordEngineTests):
    """Every fact an engine for records must fulfil whose feed is one order; subclass it, override `make` and the raw accessors."""
