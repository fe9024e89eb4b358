"""Drives an engine beside the memory engine: a Hypothesis machine for short runs that shrink, a seeded one for long.

    python -m palaver.testing.machine --engine sqlite --steps 100000 --seed 7

prints steps per second, and for a divergence the seed that replays it.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from palaver.ops import CreateTable
from palaver.ports import RecordEngine
from palaver.records.memory import MemoryRecords
from palaver.structure import DropTable
from palaver.testing.records.base import TABLES
from palaver.testing.steps import Divergence, Pair

Opening: TypeAlias = "Callable[[], AbstractAsyncContextManager[Pair]]"

# What every engine can hold: all of Unicode but U+0000 and halves of surrogate pairs.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


def machine(opening: Opening, *, steps_per_rule: int = 10) -> type[RuleBasedStateMachine]:
    """Return a state machine that drives the pair `opening` gives; each rule enters the event loop once."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            self.opened = opening()
            self.pair: Pair = self.runner.run(self.opened.__aenter__())

        @rule(seed=st.integers(0, 2**32 - 1))
        def step(self, seed: int) -> None:
            self.runner.run(self.pair.step(seed))

        @rule(seed=st.integers(0, 2**32 - 1))
        def several_steps(self, seed: int) -> None:
            self.runner.run(run(self.pair, seed, steps_per_rule))

        @rule(text=TEXTS)
        def learn(self, text: str) -> None:
            self.pair.texts.append(text)

        def teardown(self) -> None:
            try:
                if self.pair.steps:
                    self.runner.run(self.pair.compare_everything())
            finally:
                self.runner.run(self.opened.__aexit__(None, None, None))
                self.runner.close()

    return Machine


async def run(pair: Pair, seed: int, steps: int) -> None:
    """Take so many steps, each from its own seed drawn from the first."""
    random = Random(seed)
    for _ in range(steps):
        await pair.step(random.getrandbits(32))


@asynccontextmanager
async def memory() -> AsyncIterator[Pair]:
    """Open the memory engine beside itself: what the rules cost without an engine."""
    yield Pair(MemoryRecords(TABLES))


@asynccontextmanager
async def sqlite(folder: Path | None = None) -> AsyncIterator[Pair]:
    """Open a new SQLite file, in a temporary folder where none is named."""
    from palaver.connections.sqlite import Database, SqliteOptions
    from palaver.records.sqlite import SqliteRecords

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / "machine.db"
        # What is compared here is answers; that commits survive a power cut is proved elsewhere, and costs a sync each.
        options = SqliteOptions(synchronous="normal")

        async def reopen(engine: Any) -> RecordEngine:
            await engine.aclose()
            return SqliteRecords(await Database.open(path, options=options), TABLES)

        engine = SqliteRecords(await Database.open(path, options=options), TABLES)
        for table in TABLES:
            await engine.apply(CreateTable(table))
        pair = Pair(engine, reopen=reopen)
        try:
            yield pair
        finally:
            await pair.engine.aclose()


@asynccontextmanager
async def dynamodb(url: str) -> AsyncIterator[Pair]:
    """Open tables with a prefix of their own on a server that speaks DynamoDB, and drop them in the end.

    Credentials and region come from the environment, as everywhere; what has none gets some no real account has.
    """
    from palaver.connections.dynamodb import Credentials, DynamoClient
    from palaver.records.dynamodb import DynamoRecords

    prefix = f"machine{secrets.token_hex(6)}-"

    async def connect() -> DynamoRecords:
        client = await DynamoClient.open("eu-central-1", endpoint=url, credentials=Credentials("AKIDEXAMPLE", "example-secret"))
        return DynamoRecords(client, TABLES, prefix=prefix, pace_s=0.0)

    async def reopen(engine: Any) -> RecordEngine:
        await engine.aclose()
        return await connect()

    engine = await connect()
    for table in TABLES:
        await engine.apply(CreateTable(table))
    pair = Pair(engine, reopen=reopen, ordered=False)
    try:
        yield pair
    finally:
        for table in TABLES:
            await pair.engine.apply(DropTable(table))
        await pair.engine.aclose()


@asynccontextmanager
async def postgres(url: str) -> AsyncIterator[Pair]:
    """Open a schema of its own in the database a URL names, and drop it in the end."""
    from palaver.connections.postgres import Pool
    from palaver.connections.postgres_options import PostgresOptions
    from palaver.records.postgres import PostgresRecords
    from palaver.records.postgres_names import identifier

    options = PostgresOptions(schema=f"machine_{secrets.token_hex(6)}", size=4)

    async def reopen(engine: Any) -> RecordEngine:
        await engine.aclose()
        return PostgresRecords(await Pool.open(url, options), TABLES)

    engine = PostgresRecords(await Pool.open(url, options), TABLES)
    for table in TABLES:
        await engine.apply(CreateTable(table))
    pair = Pair(engine, reopen=reopen, ordered=False)
    try:
        yield pair
    finally:
        last: Any = pair.engine
        await last.pool.execute(f"DROP SCHEMA {identifier(options.schema)} CASCADE")
        await last.aclose()


SERVERS: dict[str, Callable[[str], AbstractAsyncContextManager[Pair]]] = {"dynamodb": dynamodb, "postgres": postgres}
ENGINES: dict[str, Callable[[], AbstractAsyncContextManager[Pair]]] = {"memory": memory, "sqlite": sqlite}
WORLD = 20_000


async def long_run(opening: Opening, seed: int, steps: int) -> int:
    """Run worlds of so many steps, each on a fresh engine, up to the first divergence; print what was seen."""
    random = Random(seed)
    done = refused = raised = divergences = 0
    began = time.perf_counter()
    while done < steps and not divergences:
        size, world = min(WORLD, steps - done), seed if done == 0 else random.getrandbits(32)
        async with opening() as pair:
            try:
                await run(pair, world, size)
                await pair.compare_everything()
            except Divergence as divergence:
                divergences += 1
                print(f"DIVERGENCE, replay with --seed {world} --steps {pair.steps}", file=sys.stderr)  # noqa: T201
                traceback.print_exception(divergence, limit=-4)
        done += pair.steps
        refused += pair.refused
        raised += pair.raised
    rate = done / (time.perf_counter() - began)
    print(f"{done:,} steps, {divergences} divergences, {refused:,} refused, {raised:,} raised, {rate:,.0f} steps/s, seed {seed}")  # noqa: T201
    return divergences


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m palaver.testing.machine", description="Drive an engine beside the memory engine.")
    parser.add_argument("--engine", choices=[*sorted(ENGINES), *sorted(SERVERS)], default="sqlite")
    parser.add_argument("--url", help="where the server is: postgresql://…, or http://… of one that speaks DynamoDB")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the files go; a folder in memory is fastest")
    options = parser.parse_args(arguments)
    opening: Opening = ENGINES.get(options.engine, memory)
    if options.engine == "sqlite":
        folder = options.folder

        def opening() -> AbstractAsyncContextManager[Pair]:
            return sqlite(folder)

    if options.engine in SERVERS:
        if not options.url:
            parser.error(f"--engine {options.engine} needs --url")
        server, url = SERVERS[options.engine], options.url

        def opening() -> AbstractAsyncContextManager[Pair]:
            return server(url)

    return min(1, asyncio.run(long_run(opening, options.seed, options.steps)))


if __name__ == "__main__":
    sys.exit(main())
