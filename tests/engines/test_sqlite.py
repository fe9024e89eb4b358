"""The record suite on a fresh SQLite file; the backdoor is Python's own sqlite3, in a process of its own.

Two SQLite libraries in one process break each other's locks, so the backdoor must not share ours.
"""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from palaver.connections.sqlite import Database
from palaver.ops import Address, CreateTable, Table
from palaver.ports import RecordEngine
from palaver.records.sql import quoted
from palaver.records.sqlite import SqliteRecords
from palaver.testing import RecordEngineTests
from palaver.testing.records.base import BY_NAME
from palaver.values import Record

BACKDOOR = """
import pickle, sqlite3, sys
path, text, parameters = pickle.load(sys.stdin.buffer)
connection = sqlite3.connect(path)
connection.row_factory = sqlite3.Row
rows = [dict(row) for row in connection.execute(text, parameters)]
connection.commit()
connection.close()
pickle.dump(rows, sys.stdout.buffer)
"""


def backdoor(path: Path, text: str, parameters: Sequence[object]) -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-c", BACKDOOR], input=pickle.dumps((str(path), text, parameters)), stdout=subprocess.PIPE, check=True
    )
    return pickle.loads(done.stdout)  # type: ignore[no-any-return]


class TestSqlite(RecordEngineTests):
    @asynccontextmanager
    async def make(self, tables: Sequence[Table]) -> AsyncIterator[RecordEngine]:
        with TemporaryDirectory() as folder:
            engine = SqliteRecords(await Database.open(Path(folder) / "suite.db"), tables)
            self.opened: list[SqliteRecords] = [engine]
            await asyncio.gather(*(engine.apply(CreateTable(table)) for table in tables))
            yield engine
            for each in self.opened:
                await each.aclose()

    async def raw_get(self, engine: Any, at: Address) -> Mapping[str, object] | None:
        table = BY_NAME[at.table]
        where = " AND ".join(f"{quoted(name)} = ?" for name in table.key)
        rows = backdoor(engine.database.path, f"SELECT * FROM {quoted(table.name)} WHERE {where}", at.key)
        return rows[0] if rows else None

    async def raw_put(self, engine: Any, table: Table, record: Record) -> None:
        names, marks = ", ".join(map(quoted, record)), ", ".join("?" * len(record))
        backdoor(engine.database.path, f"INSERT INTO {quoted(table.name)} ({names}) VALUES ({marks})", tuple(record.values()))

    async def reopen(self, engine: Any) -> RecordEngine:
        await engine.aclose()
        again = SqliteRecords(await Database.open(engine.database.path), tuple(BY_NAME.values()))
        self.opened.append(again)
        return again
