"""The way in for AWS Lambda: an event of the tables' streams copies the feed and runs the projections of a store.

The event says that there is something to copy and not what: the streams are read from the checkpoints of the log, by the code
every other process uses, so that an event delivered twice, or to two functions at once, changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import palaver
from palaver.config import ProjectionFactory
from palaver.errors import ConfigError, PalaverError
from palaver.feed import Runner
from palaver.ports import CopiesFeed
from palaver.schema import Schema
from palaver.store import Store

log = logging.getLogger("palaver.lambdas")
SPARE_S = 2.0


class Context(Protocol):
    """What Lambda tells a function about its invocation."""

    def get_remaining_time_in_millis(self) -> int: ...


class Handler:
    """A Lambda function: call it with an event. `close` ends the store it opened with the first one; Lambda itself never asks."""

    def __init__(self, url: str | None, schema: Schema, projections: Iterable[ProjectionFactory], spare_s: float) -> None:
        self._url, self._schema, self._projections, self._spare_s = url, schema, list(projections), spare_s
        # Made with the first event: what goes wrong while a module is imported is hard to find in Lambda.
        self._running: tuple[asyncio.Runner, Store] | None = None

    def __call__(self, event: Mapping[str, Any], context: Context) -> dict[str, Any]:
        runner, store = self._running = self._running or self._started()
        return runner.run(_handle(store, event, context, self._spare_s))

    def _started(self) -> tuple[asyncio.Runner, Store]:
        runner = asyncio.Runner()
        try:
            return runner, runner.run(_open(self._url, self._schema, self._projections))
        except BaseException:
            runner.close()
            raise

    def close(self) -> None:
        if self._running is not None:
            runner, store = self._running
            self._running = None
            try:
                runner.run(store.aclose())
            finally:
                runner.close()


def handler(url: str | None = None, *, schema: Schema, projections: Iterable[ProjectionFactory] = (), spare_s: float = SPARE_S) -> Handler:
    """Return a Lambda function for the streams of a store's tables, and for a schedule.

    With records of streams it copies the feed and runs the projections until they have caught up or `spare_s` are left; an event
    without any, as a schedule sends, also expires records and ends cascades. Between events it holds no lease. Where the copy fails,
    the answer names the first record, so that Lambda sends the batch again (ReportBatchItemFailures); a projection that fails is named
    in the store's health and goes on with the next event. The store stays open between invocations.
    """
    return Handler(url, schema, projections, spare_s)


async def _open(url: str | None, schema: Schema, projections: Iterable[ProjectionFactory]) -> Store:
    store = await palaver.open(url, schema=schema, projections=projections, maintain=False, migrate=False)
    if not isinstance(store.core.records, CopiesFeed):
        await store.aclose()
        raise ConfigError("Only a stack whose feed is copied out of streams has events for Lambda.", hint="Run `palaver work` instead.")
    return store


async def _project(runner: Runner, has_time: Callable[[], bool]) -> None:
    """Run the projections until they have caught up; hold no lease then, for between invocations a function stands still."""
    looked = False
    while has_time():
        if await runner.step():
            looked = False
        elif looked or not await runner.let_go():
            break
        else:
            looked = True
    await runner.let_go()


async def _handle(store: Store, event: Mapping[str, Any], context: Context, spare_s: float) -> dict[str, Any]:
    records = list(event.get("Records", ()))
    feed = store.core.records
    assert isinstance(feed, CopiesFeed)
    try:
        await feed.copy_feed()
    except PalaverError as error:
        log.warning("the feed was not copied: %s", error.code)
        first = [record["dynamodb"]["SequenceNumber"] for record in records[:1]]
        return {"batchItemFailures": [{"itemIdentifier": sequence} for sequence in first]}
    await _project(store.runner(), lambda: context.get_remaining_time_in_millis() > spare_s * 1_000)
    if not records:
        await store.core_upkeep().work()
    return {"batchItemFailures": []}
