"""The record suite on DynamoDB's emulators: everything on ministack, what they have on moto and dynalite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from palaver.ops import Address, Refused, Table, WriteSet, Written
from palaver.ports import RecordEngine
from palaver.records.dynamo_tables import TableOptions
from palaver.testing import UnorderedRecordEngineTests, machine
from palaver.testing.records.base import BY_NAME, RecordSuite
from palaver.testing.records.conditions import Conditions
from palaver.testing.records.content import Content
from palaver.testing.records.guarding import Existence
from palaver.testing.records.ordering import Bounds, Indexes, Order
from palaver.testing.records.paging import Counting, Pages, Scans
from palaver.testing.records.restoring import Restoring
from palaver.testing.records.structure import Expiring
from palaver.testing.records.updating import Updates
from palaver.testing.records.writing import Loading, Revisions, Unknown, Writing
from palaver.values import Record
from tests.engines.dynamodb import BARE, NATIVE, engine_of, opened, raw_get, raw_put
from tests.servers import Endpoint, endpoint


class OnServer(RecordSuite):
    server: ClassVar[str]
    options: ClassVar[TableOptions] = NATIVE

    @property
    def endpoint(self) -> Endpoint:
        return endpoint(self.server)

    @asynccontextmanager
    async def make(self, tables: Sequence[Table]) -> AsyncIterator[RecordEngine]:
        self.again: list[RecordEngine] = []
        async with opened(self.endpoint, tables, self.options) as engine:
            yield engine
            for each in self.again:
                await each.aclose()

    async def raw_get(self, engine: Any, at: Address) -> Mapping[str, object] | None:
        return await raw_get(engine, BY_NAME[at.table], at)

    async def raw_put(self, engine: Any, table: Table, record: Record) -> None:
        await raw_put(engine, table, record)

    async def reopen(self, engine: Any) -> RecordEngine:
        again = await engine_of(self.endpoint, tuple(BY_NAME.values()), engine.prefix, self.options)
        self.again.append(again)
        return again


class TestMinistack(OnServer, UnorderedRecordEngineTests):
    server = "ministack"


class TestMoto(OnServer, UnorderedRecordEngineTests):
    server = "moto"
    gaps: ClassVar[Mapping[str, str]] = {
        "test_one_refused_op_keeps_all_others_from_being_written": "moto's stream shows what a cancelled transaction has undone",
    }
    chance: ClassVar[Mapping[str, str]] = {
        "test_a_refused_batch_leaves_its_concurrent_neighbours_alone": (
            "moto undoes a cancelled transaction by putting whole tables back, and what others wrote meanwhile is lost"
        ),
        **dict.fromkeys(
            ("test_readers_see_whole_batches_while_writers_write", "test_a_snapshot_never_shows_half_a_transfer"),
            "moto writes a transaction item by item, and whoever reads meanwhile in one sees some of them",
        ),
        "test_a_cancelled_write_is_written_whole_or_not_at_all": (
            "moto copies whole tables for a transaction while others write to them, and once took all memory for it"
        ),
    }


class OneByOne:
    """An engine on a server without transactions: a batch without guards is written op by op, so that tests can prepare what they ask."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def write(self, writes: WriteSet) -> Written | Refused:
        if len(writes.ops) == 1 or any(op.guards for op in writes.ops):
            return await self.engine.write(writes)  # type: ignore[no-any-return]
        done = [await self.engine.write(writes._replace(ops=[op])) for op in writes.ops]
        return Written([each.revisions[0] for each in done], [each.updated[0] for each in done])


class TestDynalite(
    OnServer,
    Writing,
    Revisions,
    Loading,
    Unknown,
    Existence,
    Conditions,
    Updates,
    Content,
    Order,
    Bounds,
    Indexes,
    Pages,
    Scans,
    Counting,
    Restoring,
    Expiring,
):
    """What dynalite has: single writes, conditions, queries and indexes; neither transactions nor streams, nor changes of a table."""

    server = "dynalite"
    options = BARE
    gaps: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            (
                "test_adding_beyond_38_digits_is_an_error",
                "test_adding_to_another_type_is_an_error",
                "test_adding_up_to_64_bits_is_exact_and_beyond_is_an_error",
                "test_a_key_part_and_the_revision_cannot_be_updated",
                "test_a_missing_operand_is_an_error",
                "test_a_missing_parent_is_an_error",
                "test_an_unknown_table_in_a_batch_writes_nothing",
                "test_an_update_may_fill_a_record_to_the_limit_and_not_over_it",
                "test_overlapping_paths_are_an_error",
                "test_revisions_come_in_the_order_of_the_ops_and_none_for_checks_and_deletes",
                "test_unchanged_sees_an_expired_and_a_marked_record",
            ),
            "dynalite has no transactions",
        ),
        **dict.fromkeys(
            (
                "test_a_load_is_in_the_feed_like_any_other_write",
                "test_a_later_write_is_a_change_as_ever",
                "test_an_update_without_changes_is_a_write",
                "test_it_leaves_no_change",
                "test_what_was_found_expired_is_deleted_unless_it_was_extended",
                "test_what_was_written_is_there_after_reopening",
            ),
            "dynalite has no streams",
        ),
        "test_names_that_look_like_tags_or_paths_are_only_names": "dynalite loses a map's name __proto__",
    }

    @asynccontextmanager
    async def make(self, tables: Sequence[Table]) -> AsyncIterator[RecordEngine]:
        async with super().make(tables) as engine:
            yield OneByOne(engine)


async def test_a_seeded_run_of_dynamodb_beside_memory_does_not_diverge() -> None:
    async with machine.dynamodb(endpoint("ministack").url) as pair:
        await machine.run(pair, 20260102, 700)
        await pair.compare_everything()
    assert pair.steps == 700
    assert pair.refused > 30


@pytest.mark.soak
async def test_a_long_run_of_dynamodb_beside_memory_does_not_diverge() -> None:
    url = endpoint("ministack").url
    assert 0 == await machine.long_run(lambda: machine.dynamodb(url), 1, 20_000)
