"""An open store notices that somebody migrates its database, and writes no more of what it would write wrongly.

Twice a second it reads what the database says of its schema. A migration that does more than add refuses every write from when it
has begun, and waits until each process must have noticed; one that stood still for so long looks before it writes. A program that is
older than the data afterwards may do what it might had it been opened then.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from time import monotonic
from typing import Any

from palaver.core import Core
from palaver.errors import NotProvisioned, PalaverError
from palaver.evolve import plan_of
from palaver.migrating.opening import older
from palaver.migrating.run import CURRENT, SCHEMA

LOOK_EVERY_S = 0.5
NOTICE_S = 2 * LOOK_EVERY_S
"""How long a migration waits for every process that has the database open to have looked."""
GOOD_FOR_S = 0.9 * NOTICE_S
"""For how long what was seen allows writes: who stood still for longer looks again before it writes."""
log = logging.getLogger("palaver.migrate")


class SchemaWatch:
    """Looks at the schema of an open store's database until it is stopped. `fingerprint` is what was found when it was opened."""

    def __init__(self, core: Core, fingerprint: str) -> None:
        self._core, self._opened_with = core, fingerprint
        self._behind, self._plain = dict(core.planner.behind), set(core.planner.plain)
        self._seen: tuple[str, str] = (fingerprint, "")
        self._halted = False
        self._good_until = monotonic() + GOOD_FOR_S
        self._looking = asyncio.Lock()
        self._task = asyncio.create_task(self._forever(), name="palaver-schema")

    @property
    def is_late(self) -> bool:
        """Whether the last look is so long ago that a migration may have begun since, and acted."""
        return monotonic() > self._good_until

    async def catch_up(self) -> None:
        """Look before a write, once for all that wait to; raises what keeps it from looking."""
        async with self._looking:
            if self.is_late:
                await self.look()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                # A database that does not answer refuses writes by itself.
                with suppress(PalaverError):
                    await self.look()
            except Exception as error:
                # Whoever looks no more would write in the old form for ever.
                log.warning("what the database says of its schema was not understood: %s", type(error).__name__)

    async def look(self) -> None:
        """Read what the database says of its schema, and act where that is something else than before."""
        begun = monotonic()
        schema, current = await self._core.records.get((SCHEMA, CURRENT))
        kept: Any = schema["body"] if schema else {}
        under_way: Any = current["body"] if current else {}
        plan = under_way.get("plan")
        seen = (str(kept.get("fingerprint", "")), repr(plan.get("digest") if isinstance(plan, dict) else plan) if under_way else "")
        if seen == self._seen:
            self._good_until = begun + GOOD_FOR_S
            return
        if under_way and not _only_adds(plan):
            self._refuse("The database is being migrated.", "Restart this process with the program of the new version when that has ended.")
        else:
            await self._compare(kept)
        await self._keep_up_or_not()
        self._seen, self._good_until = seen, begun + GOOD_FOR_S

    async def _compare(self, kept: dict[str, Any]) -> None:
        """Do as opening would, now that the migration has ended."""
        planner = self._core.planner
        mine = kept.get("name") != planner.schema.name or kept["fingerprint"] in (self._opened_with, planner.schema.fingerprint)
        physical = None if mine else await self._core.records.describe()
        planner.refused = None
        planner.behind.clear()
        planner.behind.update(self._behind)
        planner.plain.clear()
        planner.plain.update(self._plain)
        if physical is None:
            return
        try:
            older(planner, physical, kept, joins_keys=self._core.records.limits.joins_keys)
        except NotProvisioned as refusal:
            self._refuse(refusal.message, refusal.hint)

    def _refuse(self, message: str, hint: str) -> None:
        planner = self._core.planner
        planner.refused = (message, hint)
        # What is not plain, and what is behind, goes the way on which it is refused; loads too.
        planner.plain.clear()
        planner.behind.update(dict.fromkeys(planner.schema.entities, "read"))
        log.warning("this process writes no more: %s %s", message, hint)

    async def _keep_up_or_not(self) -> None:
        """Leave projections and upkeep to a newer program, as an older one that is opened does."""
        runner, planner = self._core.runner, self._core.planner
        halt = planner.refused is not None or planner.behind != self._behind
        if runner is None or halt == self._halted:
            return
        if halt and runner.running:
            await runner.stop()
            self._halted = True
        elif self._halted:
            runner.start()
            self._halted = False


def _only_adds(plan: Any) -> bool:
    """Say whether a plan does nothing but add; of one that a newer program made, and this one cannot read, that is not known."""
    try:
        return plan_of(plan).automatic
    except (PalaverError, KeyError, TypeError, ValueError, AttributeError):
        return False
