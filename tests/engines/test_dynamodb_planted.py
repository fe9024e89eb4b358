"""Bugs planted into the DynamoDB engine, each found by the fact named beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest

from palaver.errors import PalaverError
from palaver.records import dynamo_conditions as conditions, dynamo_keys as keys, dynamo_requests as requests, dynamodb_reads as reads
from palaver.records.dynamo_keys import Span
from palaver.records.dynamodb import DynamoRecords
from palaver.records.dynamodb_feed import Feed
from palaver.records.dynamodb_streams import Streams
from palaver.testing.records.base import TABLES
from tests.engines import test_dynamodb_faults as faults, test_dynamodb_feed as feeding
from tests.engines.dynamodb import opened
from tests.engines.test_dynamodb import TestMinistack as Facts
from tests.servers import ministack

Patch = Callable[[pytest.MonkeyPatch], None]


class Planted(NamedTuple):
    name: str
    caught_by: str
    patch: Patch


def _no_revision_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = requests._ahead_of

    def laxer(layout: Any, terms: Any, guards: Any, now_us: int) -> Any:
        revision, _ = whole(layout, conditions.Terms(), guards, now_us)
        return revision, conditions.guarded(layout, terms, guards, now_us)

    monkeypatch.setattr(requests, "_ahead_of", laxer)


def _no_revision_ahead_of_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = requests._next_revision
    monkeypatch.setattr(
        requests, "_next_revision", lambda terms, guards, now_us, parts, ahead: whole(terms, guards, now_us, [], ahead=ahead)
    )


def _no_revision_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def laxer(layout: Any, terms: Any, seen: Any) -> str:
        return conditions.nothing_stored(layout, terms) if seen is None else conditions.something_stored(layout, terms)

    monkeypatch.setattr(requests, "_exactly", laxer)


def _replaced(target: Any, name: str, value: Any) -> Patch:
    return lambda monkeypatch: monkeypatch.setattr(target, name, value)


PLANTED = (
    Planted("a put does not look at a revision ahead", "test_revisions_grow_when_the_clock_goes_back", _no_revision_ahead),
    Planted(
        "an update nobody asks about does not look at a revision ahead",
        "test_revisions_are_told_and_grow_past_one_that_is_ahead",
        _no_revision_ahead_of_an_update,
    ),
    Planted("parts of a key run together", "test_the_parts_of_a_key_do_not_run_together", _replaced(keys, "_JOIN", "")),
    Planted("joined integers order as text", "test_composite_keys_are_ordered_part_by_part", _replaced(keys, "part_text", str)),
    Planted(
        "open ends are let in",
        "test_every_pair_of_bounds_gives_what_lies_between_in_both_directions",
        _replaced(Span, "drops", lambda self, value: False),
    ),
    Planted(
        "tombstones are not read", "test_a_change_carries_the_keys_it_released", _replaced(Feed, "_tombstones", lambda self, keys: _none())
    ),
    Planted("what is quiet is told", "test_it_leaves_no_change", _replaced(requests, "quiet_cause", lambda mark: {"M": {}})),
)


async def _none() -> dict[str, Any]:
    return {}


@pytest.fixture
async def engine() -> AsyncIterator[DynamoRecords]:
    async with opened(ministack().endpoint, TABLES) as engine:
        yield engine


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
async def test_what_is_planted_is_found(engine: DynamoRecords, monkeypatch: pytest.MonkeyPatch, planted: Planted) -> None:
    planted.patch(monkeypatch)
    with pytest.raises((AssertionError, KeyError, PalaverError)):
        await getattr(Facts(), planted.caught_by)(engine)


@pytest.mark.parametrize(
    ("fact", "patch"),
    [
        (faults.test_writers_that_never_meet_a_quiet_moment_end_in_a_conflict, _no_revision_read),
        (faults.test_pages_of_large_records_end_where_they_do_everywhere, _replaced(reads._Page, "is_full", lambda self: True)),
    ],
)
async def test_what_is_planted_is_found_by_a_fact_of_this_engine(
    engine: DynamoRecords, monkeypatch: pytest.MonkeyPatch, fact: Any, patch: Patch
) -> None:
    patch(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await fact(engine)


async def test_copiers_without_conditions_are_found(engine: DynamoRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_checkpoint", "_move_head", "_segment"):
        whole = getattr(Feed, name)

        def blind(self: Feed, *rest: Any, whole: Any = whole) -> Any:
            action = whole(self, *rest)
            for part in ("ConditionExpression", "ExpressionAttributeNames", "ExpressionAttributeValues"):
                action["Put"].pop(part, None)
            return action

        monkeypatch.setattr(Feed, name, blind)
    with pytest.raises(AssertionError):
        await feeding.test_a_copier_that_was_overtaken_leaves_every_change_once(engine)


async def test_a_place_kept_before_the_log_has_it_is_found(engine: DynamoRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Streams._read_shard

    async def hasty(self: Streams, table: str, stream: Any, id: str, shard: Any) -> Any:
        batch = await whole(self, table, stream, id, shard)
        if batch is not None:
            shard.iterator = batch.following
        return batch

    monkeypatch.setattr(Streams, "_read_shard", hasty)
    with pytest.raises(AssertionError):
        await feeding.test_a_copy_that_is_cut_off_loses_nothing_and_doubles_nothing(engine, "before")
