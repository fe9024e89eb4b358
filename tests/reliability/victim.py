"""A process that waits for orders and forks a child for each: the child runs a workload until it ends or is killed.

Forking from a process that has imported everything makes a child cost milliseconds instead of a second. Orders come as
JSON lines on the standard input: the child's number goes back, then, after the child was allowed to go on, its status.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from typing import Any

import palaver
import palaver.blobs.objects
import palaver.records.sqlite
import palaver.search.sqlite
import palaver.stacks
from palaver.errors import PalaverError
from tests.reliability.app import SCHEMA
from tests.reliability.workload import perform, steps, work


async def run(order: dict[str, Any], say: Any) -> None:
    """Do the work; where it fails by a named error, say so and end in peace."""
    async with palaver.open(order["url"], schema=SCHEMA, maintain=order["maintain"]) as store:
        if order.get("tenacious"):
            await persist(store, order, say)
        else:
            await work(store, order["seed"], order["workers"], order["count"], say)
        await store.sweep()
        await store.settle(20)


async def persist(store: Any, order: dict[str, Any], say: Any) -> None:
    """Do the steps of each worker in spite of errors: an error that may have written is repeated with its token."""

    async def one(worker: int) -> None:
        for number, step in enumerate(steps(order["seed"], worker, order["count"])):
            for _ in range(200):
                try:
                    await perform(store, worker, number, step)
                    say(json.dumps([worker, number]))
                    break
                except PalaverError as error:
                    say(json.dumps({"error": error.code, "text": str(error), "kind": step.kind, "token": step.token is not None}))
                    if step.token is None and error.code not in ("unavailable", "storage_full", "conflict"):
                        return
                    await asyncio.sleep(0.005)
            else:
                return

    await asyncio.gather(*(one(worker) for worker in range(order["workers"])))


def child(order: dict[str, Any]) -> None:
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(line: str) -> None:
        os.write(said, line.encode() + b"\n")

    logging.basicConfig(filename=order["said"] + ".log", level=logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # The parent attaches its tracer meanwhile, and the tracer must be there from the first call on.
    while not os.path.exists(order["go"]):
        time.sleep(0.001)
    try:
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
