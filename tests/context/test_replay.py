"""Real dialogues (SGD) through context windows on Redis: each prompt is the end of what was said, and the records are seldom asked."""

from __future__ import annotations

import asyncio
import gzip
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from palaver.cache.redis import RedisCache
from palaver.connections.redis import encode
from palaver.context import ContextWindow, estimated_tokens
from tests.context.app import Message
from tests.context.queries import Queries
from tests.context.test_faults import process, store_of
from tests.engines.redis_servers import opened, own

DIALOGUES, AT_ONCE, BUDGET = 300, 100, 300


@pytest.fixture(scope="module")
def dialogues(shared_data: Path) -> list[dict[str, Any]]:
    lines = gzip.decompress((shared_data / "dialogs" / "sgd.jsonl.gz").read_bytes()).split(b"\n")
    return [orjson.loads(line) for line in lines[:DIALOGUES]]


async def reads_of(cache: RedisCache) -> int:
    """Return how often the server read from a connection: for calls one after another, their round trips."""
    text = bytes(await cache.client.read(encode("INFO", "stats"))).decode()
    return next(int(line.partition(":")[2]) for line in text.splitlines() if line.startswith("total_reads_processed"))


def within(messages: list[Message], limit: int, budget: int) -> list[Message]:
    """Return what a prompt holds, said once more and differently."""
    end = messages[-limit:]
    while len(end) > 1 and sum(map(estimated_tokens, end)) > budget:
        end = end[1:]
    return end


async def test_every_prompt_of_real_dialogues_is_the_end_of_what_was_said(
    dialogues: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own() as server:
        async with process(tmp_path, server.url) as context, opened(server.url) as admin:
            queries = Queries(store_of(context), monkeypatch)
            turns = asyncio.Semaphore(AT_ONCE)
            wrong: list[str] = []
            total, flushed = [0], list[int]()

            async def replay(number: int) -> int:
                chance, said = random.Random(number), list[Message]()
                async with turns:
                    for place, turn in enumerate(dialogues[number]["turns"]):
                        conversation, role = str(number), turn["role"]
                        made = Message(conversation_id=conversation, message_id=f"{place:04}", role=role, content=turn["text"])
                        said.append(await context.create(made))
                        total[0] += 1
                        if total[0] % 1_000 == 0:
                            await admin.client.write(encode("FLUSHALL"))
                            flushed.append(total[0])
                        if role == "user":
                            limit = chance.choice([2, 4, 6])
                            found = await context.read(conversation, limit=limit, budget=BUDGET, holding=said[-1])
                            if found != within(said, limit, BUDGET):
                                wrong.append(f"dialogue {number}, turn {place}")
                return len(said)

            assert sum(len(each["turns"]) for each in dialogues) == sum(await asyncio.gather(*map(replay, range(len(dialogues))))) > 3_000
            assert [] == wrong
            figures = context.figures
            # A conversation asks the records once, and once more for each time that everything, or its rebuild, was forgotten.
            assert len(flushed) >= 3
            lost = figures.rebuilds - figures.kept
            assert queries.count == figures.rebuilds <= len(dialogues) + len(flushed) * AT_ONCE + lost
            assert lost <= len(flushed) * AT_ONCE


async def test_an_append_and_a_read_that_hits_are_one_round_trip_each(tmp_path: Path) -> None:
    with own() as server:
        async with process(tmp_path, server.url) as context, opened(server.url) as admin:
            stored = [await context.create(Message(conversation_id="c", message_id=f"{number:02}")) for number in range(40)]
            fresh: ContextWindow[Message] = context
            await fresh.read("c")
            # The feed has told of everything, and nothing runs beside the calls that are counted.
            await asyncio.sleep(0.5)
            before = await reads_of(admin)
            for _ in range(50):
                await fresh.read("c", budget=100, holding=stored[-1])
            between = await reads_of(admin)
            for message in stored:
                await fresh.append(message)
            after = await reads_of(admin)
            assert (50, 40) == (between - before - 1, after - between - 1)
