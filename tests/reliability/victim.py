"""A process that waits for orders and forks a child for each: the child runs a workload until it ends or is killed.

Forking from a process that has imported everything makes a child cost milliseconds instead of a second, and no fault
that was meant for the database hits an import. Orders come as
JSON lines on the standard input: the child's number goes back, then, when it is over, its status.
"""

from __future__ import annotations

import asyncio
import encodings.ascii  # noqa: F401
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import cryptography.hazmat.primitives.ciphers.aead  # noqa: F401

import palaver
import palaver.blobpath
import palaver.blobs.objects
import palaver.blobs.opening
import palaver.following
import palaver.migrating.noticing
import palaver.migrating.opening
import palaver.records.sqlite
import palaver.seal_keys
import palaver.sealing
import palaver.search.sqlite
import palaver.stacks
from palaver import feed
from palaver.errors import Duplicate, PalaverError
from palaver.ops import Change, Op
from palaver.searching import SearchProjection
from palaver.store import Store
from tests.reliability.app import SCHEMA, Account, Owner
from tests.reliability.planted import planted
from tests.reliability.workload import perform, steps, work

Say = Callable[[str], None]
# Whatever else may have happened to them, these say that nothing was written.
NOTHING_WRITTEN = ("unavailable", "storage_full", "conflict", "throttled", "settle_timeout")


async def run(order: dict[str, Any], say: Say) -> None:
    feed.LEASE_MS = order.get("lease_ms", feed.LEASE_MS)
    async with palaver.open(order["url"], schema=SCHEMA, maintain=order["maintain"]) as store:
        match order.get("mode"):
            case "persist":
                await persist(store, order, say)
            case "race":
                await race(store, order, say)
            case _:
                await work(store, order["seed"], order["workers"], order["count"], say)
        await store.settle(20)
        await store.sweep()


async def persist(store: Store, order: dict[str, Any], say: Say) -> None:
    """Do the steps of each worker in spite of errors: an error that may have written is repeated with its token."""

    async def one(worker: int) -> None:
        for number, step in enumerate(steps(order["seed"], worker, order["count"])):
            for _ in range(400):
                try:
                    await perform(store, worker, number, step)
                    say(json.dumps([worker, number]))
                    break
                except PalaverError as error:
                    say(json.dumps({"error": error.code, "text": str(error), "kind": step.kind}))
                    if step.token is None and error.code not in NOTHING_WRITTEN:
                        return
                    await asyncio.sleep(0.005)
            else:
                return

    await asyncio.gather(*(one(worker) for worker in range(order["workers"])))


async def race(store: Store, order: dict[str, Any], say: Say) -> None:
    """Want the same unique names as another process, and add to the same counter."""
    me = order["me"]
    say(json.dumps({"open": me}))
    while not os.path.exists(order["both"]):  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.001)

    async def one(number: int) -> None:
        try:
            await store.create(Owner(worker=me, name=f"{number:03d}", handle=f"raced{number}"))
            say(json.dumps({"won": number}))
        except Duplicate:
            say(json.dumps({"beaten": number}))
        await store.patch(Account.at(99, "shared"), add={"amount": 1})
        say(json.dumps({"added": 1}))

    for start in range(0, order["count"], 8):
        await asyncio.gather(*(one(number) for number in range(start, min(start + 8, order["count"]))))


def tell_of_projections(say: Say) -> None:
    """Say when this process was applying changes, by a clock all processes share."""
    apply = SearchProjection.apply

    async def told(self: SearchProjection, changes: Sequence[Change]) -> Sequence[Op]:
        start = time.monotonic()
        try:
            # Long enough for another process to come in between, if only it could.
            await asyncio.sleep(0.01)
            return await apply(self, changes)
        finally:
            say(json.dumps({"applied": [start, time.monotonic()], "pid": os.getpid()}))

    SearchProjection.apply = told  # type: ignore[method-assign]


def child(order: dict[str, Any]) -> None:
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(line: str) -> None:
        os.write(said, line.encode() + b"\n")

    logging.basicConfig(filename=order["said"] + ".log", level=logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # The parent attaches its tracer meanwhile, and the tracer must be there from the first call on.
    while not os.path.exists(order["go"]):
        time.sleep(0.001)
    if order.get("mode") == "race":
        tell_of_projections(say)
    try:
        with planted(order.get("plant", "")):
            asyncio.run(run(order, say))
    except PalaverError as error:
        say(json.dumps({"ended": error.code, "text": str(error)}))


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                child(order)
                status = 0
            finally:
                os._exit(status)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
