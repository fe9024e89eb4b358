"""Who saw which variant first: noted at once, written in the background, each user and experiment once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from threading import get_ident
from typing import Any

from pydantic import ValidationError

from palaver.entity import Entity
from palaver.errors import AlreadyExists, ConfigError, PalaverError, Validation
from palaver.flags.records import ExposureRecord
from palaver.store import Store

log = logging.getLogger("palaver.flags")

WAITING = 10_000
KNOWN = 100_000
TOGETHER = 100
GATHER_S = 0.05
RETRY_S, SLOWEST_RETRY_S = 0.2, 5.0


class Exposures:
    """Exposures of one process on their way into the records.

    At most 10,000 wait; over that, new ones are counted in `dropped` and come again with the user's next call. What waits when the
    process is killed is lost with it; `aclose` writes it. What no record can hold is counted in `dropped` as well.
    """

    def __init__(self, store: Store, entity: type[ExposureRecord], *, whose: Mapping[str, Any]) -> None:
        self._store, self._entity, self._whose = store, entity, dict(whose)
        self._waiting: dict[tuple[str, str], ExposureRecord] = {}
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._loop, self._thread = asyncio.get_running_loop(), get_ident()
        self._woken = asyncio.Event()
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.dropped = 0
        self.error = ""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def note(self, experiment: str, user: str, variant: str, at: datetime) -> None:
        """Remember an exposure until it is written, from any thread; one that is known costs a look. Raises nothing."""
        if (user, experiment) in self._known:
            return
        if get_ident() == self._thread:
            self._note(experiment, user, variant, at)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._note, experiment, user, variant, at)

    def _note(self, experiment: str, user: str, variant: str, at: datetime) -> None:
        key = (user, experiment)
        if key in self._known or key in self._waiting:
            return
        if self._closed or len(self._waiting) >= WAITING:
            self.dropped += 1
            return
        try:
            self._waiting[key] = self._entity(**self._whose, user=user, experiment=experiment, variant=variant, exposed=at)
        except ValidationError:
            self.dropped += 1
            return
        if self._task is None:
            self._task = self._loop.create_task(self._forever(), name="palaver-exposures")
        self._woken.set()

    async def flush(self) -> None:
        """Write everything that waits; raises what the store raises, and then it still waits."""
        async with self._writing:
            while some := dict(list(self._waiting.items())[:TOGETHER]):
                found = await asyncio.gather(*(self._write(exposure) for exposure in some.values()), return_exceptions=True)
                for key, failure in zip(some, found, strict=True):
                    if failure is None or isinstance(failure, Validation):
                        # What can never be stored must not stand in the way of the others.
                        self.dropped += failure is not None
                        del self._waiting[key]
                        self._remember(key)
                if failures := [failure for failure in found if failure is not None and not isinstance(failure, Validation)]:
                    raise failures[0]
        self.error = ""

    async def aclose(self) -> None:
        """Stop, and write what waits; raises what the store raises, and then `waiting` were not written."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self.flush()

    async def _forever(self) -> None:
        pause = RETRY_S
        while True:
            await self._woken.wait()
            self._woken.clear()
            await asyncio.sleep(GATHER_S)
            try:
                await self.flush()
                pause = RETRY_S
            except Exception as error:
                code = error.code if isinstance(error, PalaverError) else type(error).__name__
                if code != self.error:
                    log.warning("exposures wait: %s", code)
                self.error = code
                await asyncio.sleep(pause)
                pause = min(pause * 2, SLOWEST_RETRY_S)
                self._woken.set()

    async def _write(self, exposure: Entity) -> None:
        # The first one counts, whichever process wrote it.
        with contextlib.suppress(AlreadyExists):
            await self._store.create(exposure)

    def _remember(self, key: tuple[str, str]) -> None:
        self._known[key] = None
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)


def refuse_foreign(entity: type[Entity], base: type[Entity]) -> None:
    """Raise ConfigError for an entity that does not derive from what is stored here."""
    if not issubclass(entity, base) or entity is base:
        raise ConfigError(
            f"{entity.__name__} is no entity of a {base.__name__}.", hint=f'Write class {entity.__name__}({base.__name__}, table="…").'
        )
