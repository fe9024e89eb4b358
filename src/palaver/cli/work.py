"""`palaver work`: the process that runs projections and upkeep beside an application that does not."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from palaver.cli.addresses import masked
from palaver.cli.amounts import Seconds
from palaver.cli.context import Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits
from palaver.cli.stopping import stopping, unless

if TYPE_CHECKING:
    from palaver.store import Store


@emits("work", stream=True)
async def work(*, once: bool = False, sweep_every: Annotated[Seconds, Parameter(show_default=True)] = 60.0, here: Here) -> int:
    """Run projections, cascades and sweeps until stopped by Ctrl-C or SIGTERM.

    Parameters
    ----------
    once
        Catch up, sweep once and end: for a scheduler.
    sweep_every
        Seconds between sweeps.
    """
    async with here.open(maintain=not once) as store:
        if once:
            began = time.monotonic()
            await store.settle(timeout=600)
            swept = await store.sweep()
            _report(here, {"caught_up": True, "swept": swept.total, "seconds": round(time.monotonic() - began, 3)})
            return Exit.OK
        here.out.say(f"working on {masked(here.where)}: {', '.join(store.runner().projections) or 'no projections'}. Ctrl-C stops.")
        # A scheduler that ends us with SIGTERM is obeyed like somebody who is finished: the leases are given back.
        with stopping((signal.SIGTERM,)) as stopped:
            await _until(stopped, here, store, sweep_every)
    return Exit.OK


async def _until(stopped: asyncio.Event, here: Here, store: Store, every: float) -> None:
    while not stopped.is_set():
        swept = await store.sweep()
        if swept.total:
            _report(here, {"swept": swept.total, "expired": swept.expired, "cascaded": swept.cascaded, "objects": swept.objects})
        await unless(stopped, asyncio.sleep(every))


def _report(here: Here, body: dict[str, object]) -> None:
    if here.out.json:
        here.out.emit("work", body)
    else:
        here.out.print(", ".join(f"{name} {value}" for name, value in body.items()))
