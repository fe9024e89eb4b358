"""A process that migrates a SQLite file and is killed at one of the calls it makes to the engine: `crash.py FILE CASE CALL`.

It prints how many calls there were where it was not killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from palaver import ManualClock
from palaver.connections.sqlite import Database
from palaver.migrating import Migrator
from palaver.ops import Step, Table, WriteSet
from palaver.plan import Planner
from palaver.records.sqlite import SqliteRecords
from tests.evolve.all_cases import CASES
from tests.evolve.cases import NOW


class Killed(SqliteRecords):
    """Counts the calls that change something; before or after one of them the process is gone."""

    at, calls, after = 0, 0, False

    async def write(self, writes: WriteSet) -> Any:
        return await self._around(super().write(writes))

    async def apply(self, step: Step) -> None:
        await self._around(super().apply(step))

    async def _around(self, doing: Any) -> Any:
        self.calls += 1
        if self.calls == self.at and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        done = await doing
        if self.calls == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return done


async def migrate(file: str, name: str, at: int) -> int:
    case = next(case for case in CASES if case.name == name)
    planner = Planner(case.new)
    tables: Sequence[Table] = tuple(planner.tables.values())
    records = Killed(await Database.open(file), tables)
    records.at, records.after = abs(at), at < 0
    migrator = Migrator(planner, records, ManualClock(NOW))
    await migrator.apply(await migrator.pending(case.allow))
    await records.aclose()
    return records.calls


if __name__ == "__main__":
    sys.stdout.write(str(asyncio.run(migrate(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
