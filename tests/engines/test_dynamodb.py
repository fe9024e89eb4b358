"""The record suite on DynamoDB's emulators: everything on ministack, what they have on moto and dynalite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from palaver.ops import Address, Table
from palaver.ports import RecordEngine
from palaver.records.dynamo_tables import TableOptions
from palaver.testing import UnorderedRecordEngineTests
from palaver.testing.records.base import BY_NAME
from palaver.values import Record
from tests.engines.dynamodb import BARE, NATIVE, engine_of, opened, raw_get, raw_put
from tests.servers import Endpoint, endpoint


class OnEmulator(UnorderedRecordEngineTests):
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


class TestMinistack(OnEmulator):
    server = "ministack"


class TestMoto(OnEmulator):
    server = "moto"


class TestDynalite(OnEmulator):
    server = "dynalite"
    options = BARE
