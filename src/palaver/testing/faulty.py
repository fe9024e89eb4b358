"""An engine that fails as real ones do: refused before it was sent, lost after it was written, slow, or cancelled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from palaver.errors import OutcomeUnknown, Throttled, Unavailable
from palaver.ops import Address, Cause, ChangePage, Physical, Read, RecordPage, Refused, Step, WriteSet, Written
from palaver.ports import RecordEngine
from palaver.values import KeyPart, Record

T = TypeVar("T")
POWERS = ("count", "expired", "trim", "wait_for_change", "restore", "continue_feed")


@dataclass(frozen=True, slots=True)
class Faults:
    """How often each fault happens, as a share of all calls; `delay` is the longest pause in seconds.

    `yields` is how many times a call gives way to other tasks before and after its work: the points at which its
    caller may be cancelled, with nothing done before and everything done after.
    """

    throttled: float = 0.0
    unavailable: float = 0.0
    outcome_unknown: float = 0.0
    delay: float = 0.0
    yields: int = 0


class Faulty:
    """Any record engine with faults put in, the same ones for the same seed and order of calls.

    Throttled and Unavailable come before anything was done. OutcomeUnknown comes only from writes, and only after the
    write was really done. `faults` may be exchanged at any time; `injected` counts what happened, by the error's code.
    """

    def __init__(self, engine: RecordEngine, rng_seed: int, faults: Faults = Faults()) -> None:
        self.engine = engine
        self.faults = faults
        self.limits = engine.limits
        self.injected: dict[str, int] = {}
        self._random = random.Random(rng_seed)
        # Instance attributes, because an engine without a power must not seem to have it.
        for power in POWERS:
            if hasattr(engine, power):
                setattr(self, power, self._through(getattr(engine, power)))

    async def get(self, at: Sequence[Address], *, consistent: bool = True, snapshot: bool = False) -> list[Record | None]:
        return await self._around(lambda: self.engine.get(at, consistent=consistent, snapshot=snapshot))

    async def query(self, read: Read) -> RecordPage:
        return await self._around(lambda: self.engine.query(read))

    async def scan(self, table: str, *, after: tuple[KeyPart, ...] | None, limit: int, segment: tuple[int, int] = (0, 1)) -> RecordPage:
        return await self._around(lambda: self.engine.scan(table, after=after, limit=limit, segment=segment))

    async def write(self, writes: WriteSet) -> Written | Refused:
        return await self._around(lambda: self.engine.write(writes), writes=True)

    async def load(self, table: str, records: Sequence[Record], now_us: int, cause: Cause) -> Sequence[int]:
        return await self._around(lambda: self.engine.load(table, records, now_us, cause), writes=True)

    async def changes(self, after: int | None, limit: int) -> ChangePage:
        return await self._around(lambda: self.engine.changes(after, limit))

    async def describe(self) -> Physical:
        return await self._around(lambda: self.engine.describe())

    async def apply(self, step: Step) -> None:
        await self._around(lambda: self.engine.apply(step))

    async def aclose(self) -> None:
        """Close the engine; closing never fails, or no test could end."""
        await self.engine.aclose()

    def _through(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def through(*args: Any, **options: Any) -> Any:
            return await self._around(lambda: call(*args, **options))

        return through

    async def _around(self, work: Callable[[], Awaitable[T]], *, writes: bool = False) -> T:
        faults = self.faults
        # Every number is drawn for every call, so that one fault more or less does not change all the later ones.
        pause, throttled, unavailable, lost = (self._random.random() for _ in range(4))
        if faults.delay:
            await asyncio.sleep(pause * faults.delay)
        await self._give_way()
        if throttled < faults.throttled:
            raise self._count(Throttled())
        if unavailable < faults.unavailable:
            raise self._count(Unavailable())
        done = await work()
        if writes and lost < faults.outcome_unknown:
            raise self._count(OutcomeUnknown())
        await self._give_way()
        return done

    async def _give_way(self) -> None:
        for _ in range(self.faults.yields):
            await asyncio.sleep(0)

    def _count(self, error: Throttled | Unavailable | OutcomeUnknown) -> Throttled | Unavailable | OutcomeUnknown:
        self.injected[error.code] = self.injected.get(error.code, 0) + 1
        return error
