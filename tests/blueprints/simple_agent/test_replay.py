"""Real dialogues said by hundreds of people at once on four channels, through two processes' worth of stores, on PostgreSQL and Redis.

Redis is killed in the middle and comes back empty. What is shown: transcripts equal the dialogues, every prompt is the end of what
was said, nobody passes more often than declared, sessions are read from the cache, and the database is spared.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import palaver
from palaver.blueprints import simple_agent
from palaver.blueprints.simple_agent import SCHEMA, SimpleAgent
from palaver.blueprints.simple_agent.prompts import LAST
from palaver.blueprints.simple_agent.running import Running
from palaver.blueprints.simple_agent.schema import RateLimits
from palaver.blueprints.simple_agent.turn import AgentTurn
from palaver.errors import RateLimited
from palaver.identity.sessions import SessionFigures
from palaver.ops import Address, Read
from palaver.records.postgres import PostgresRecords
from tests import servers
from tests.stacks import fresh

CHANNELS = ("discord", "telegram", "slack", "web")
PEOPLE, AT_ONCE, WORKERS = 240, 120, 2
FLOODERS, MOST = 4, 15
"""Those who send far more than they may, and what their channel allows in a minute."""


def dialogues(folder: Path, most: int) -> list[dict[str, Any]]:
    """Return as many dialogues as there are people: long ones of many services, and short ones that order coffee."""
    found: list[dict[str, Any]] = []
    for name, wanted in (("sgd", most * 3 // 4), ("taskmaster4-coffee", most - most * 3 // 4)):
        lines = gzip.decompress((folder / "dialogs" / f"{name}.jsonl.gz").read_bytes()).split(b"\n")
        found += [json.loads(line) for line in lines[:wanted]]
    return found


@dataclass
class Worker:
    """One process that answers: a store of its own and what the agent runs on."""

    agent: SimpleAgent
    running: Running


@dataclass
class Replay:
    """What became of it."""

    said: Counter[str] = field(default_factory=Counter)
    passed: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    phase: str = "before"
    began: float = field(default_factory=time.monotonic)


@asynccontextmanager
async def workers(url: str, count: int) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        made: list[Worker] = []
        for _ in range(count):
            store = await stack.enter_async_context(palaver.open(url, schema=SCHEMA, maintain=False))
            running = await stack.enter_async_context(await simple_agent.capabilities(store))
            made.append(Worker(SimpleAgent(store, running), running))
        yield made


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return fresh("postgresql", tmp_path)


@pytest.fixture
def server() -> Iterator[servers.Redis]:
    started = servers.start_redis()
    yield started
    started.close()


def with_cache(url: str, cache: str) -> str:
    return f"{url}&cache={quote(cache, safe='')}"


class Dialogue:
    """One person who says one dialogue, on one channel, to whichever process is next."""

    def __init__(self, number: int, said: list[dict[str, Any]], team: list[Worker], replay: Replay) -> None:
        self.channel, self.who = CHANNELS[number % len(CHANNELS)], f"person {number}"
        self._number, self._said, self._team, self._replay = number, said, team, replay
        self._token = ""
        self.texts: list[str] = []

    async def run(self) -> None:
        at = 0
        while at < len(self._said):
            turn = self._said[at]
            answers = []
            while at + 1 < len(self._said) and self._said[at + 1]["role"] == "assistant":
                at += 1
                answers.append(self._said[at]["text"])
            if turn["role"] == "user":
                await self._ask(self._number + at, turn["text"], answers)
            at += 1

    async def _ask(self, place: int, text: str, answers: list[str]) -> None:
        worker = self._team[place % len(self._team)]
        delivery = f"{self._number}.{place}"
        async with await self._message(worker, text, delivery) as turn:
            self.texts.append(text)
            prompt = [message.content for message in await turn.prompt()]
            if prompt != self.texts[-LAST:]:
                self._replay.wrong.append(f"dialogue {self._number}, message {len(self.texts)}, {self._replay.phase}")
            for answer in answers:
                await turn.reply(answer)
                self.texts.append(answer)
        self._replay.said[self._replay.phase] += 1 + len(answers)

    async def _message(self, worker: Worker, text: str, delivery: str) -> AgentTurn:
        """Web users come with a session's token, all others with who the channel says they are."""
        if self.channel != "web" or worker.agent.running is None:
            return worker.agent.message(self.channel, self.who, text, delivery_id=delivery)
        self._token = self._token or (await worker.agent.log_in("web", self.who)).token
        return worker.agent.message_in(self._token, text, delivery_id=delivery)

    async def check(self, agent: SimpleAgent) -> None:
        user = await agent.people.resolve(self.channel, self.who)
        conversation = await agent.active_conversation(user.user_id)
        assert conversation is not None
        read = [entry.content async for entry in agent.transcript(user.user_id, conversation.conversation_id)]
        assert self.texts == read, f"dialogue {self._number}"


def flooder(n: int) -> str:
    return f"flooder {n}"


async def flood(name: str, place: int, team: list[Worker], replay: Replay, stop: asyncio.Event) -> None:
    """Send without a pause, from one of several places, through every process, and note what passed in which phase."""
    for number in count():
        if stop.is_set():
            return
        phase = replay.phase
        try:
            async with team[number % len(team)].agent.message("flood", name, "Again?", delivery_id=f"{name}.{place}.{number}"):
                replay.passed[name, phase if phase == replay.phase else "between"] += 1
        except RateLimited:
            replay.refused[name, phase] += 1
            await asyncio.sleep(0.05)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds that nobody tells of."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_real_dialogues_through_two_processes_while_redis_dies_and_comes_back(
    shared_data: Path, database: str, server: servers.Redis
) -> None:
    chosen = dialogues(shared_data, PEOPLE)
    replay, stop = Replay(), asyncio.Event()
    async with workers(with_cache(database, server.url), WORKERS) as team:
        await team[0].agent.channels.configure("flood", default_model="gpt-4", rate_limits=RateLimits(per_user=MOST))
        people = [Dialogue(number, each["turns"], team, replay) for number, each in enumerate(chosen)]
        total = sum(len(each["turns"]) for each in chosen)
        places = asyncio.Semaphore(AT_ONCE)

        async def live(person: Dialogue) -> None:
            async with places:
                await person.run()

        async def kill() -> None:
            await until(lambda: sum(replay.said.values()) > 0.35 * total)
            replay.phase = "away"
            server.kill_9()
            await until(lambda: replay.said["away"] > 0.3 * total)
            replay.phase = "after"
            server.start()

        floods = [asyncio.create_task(flood(flooder(n), number, team, replay, stop)) for n in range(FLOODERS) for number in range(4)]
        try:
            await until(lambda: all(replay.refused[flooder(n), "before"] for n in range(FLOODERS)))
            async with asyncio.TaskGroup() as group:
                group.create_task(kill())
                for person in people:
                    group.create_task(live(person))
        finally:
            stop.set()
            await asyncio.gather(*floods)
        assert [] == replay.wrong
        assert all(replay.said[phase] > 0.1 * total for phase in ("before", "away", "after")), replay.said
        for person in people:
            await person.check(team[0].agent)
        check_limits(replay)
        assert all(worker.running.limits.figures.degraded > 0 for worker in team)


def check_limits(replay: Replay) -> None:
    """Nobody passed more often than declared: all processes together while Redis was there, each by itself while it was not.

    When a process notices that Redis went or came is up to it, so what passed around these moments is only part of the sum.
    """
    # On a machine so busy that the replay takes minutes, each minute lets as many pass again.
    most = MOST * (1 + int((time.monotonic() - replay.began) / 60))
    for name in map(flooder, range(FLOODERS)):
        assert MOST <= replay.passed[name, "before"] + replay.passed[name, "between"]
        assert replay.passed[name, "before"] <= most
        assert replay.passed[name, "away"] <= most * WORKERS
        assert sum(passed for (who, _), passed in replay.passed.items() if who == name) <= most * (2 + WORKERS)


# --- what the cache spares ----------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the reads that reach the database; what a write reads for itself is the write's."""
    found = [0]
    get, query = PostgresRecords.get, PostgresRecords.query

    async def counted_get(self: PostgresRecords, at: Any, **options: Any) -> Any:
        found[0] += not all(isinstance(each, Address) and each.table.startswith("palaver") for each in at)
        return await get(self, at, **options)

    async def counted_query(self: PostgresRecords, read: Read) -> Any:
        found[0] += 1
        return await query(self, read)

    monkeypatch.setattr(PostgresRecords, "get", counted_get)
    monkeypatch.setattr(PostgresRecords, "query", counted_query)
    return found


async def replayed(url: str, chosen: list[dict[str, Any]], reads: list[int], *, plain: bool = False) -> tuple[int, SessionFigures]:
    """Return how many reads a replay without faults took, and what became of those of sessions; `plain`: an agent that asks the
    records only, where people of the web come without a session."""
    replay = Replay()
    async with workers(url, 1) as team:
        if plain:
            team[0].agent = SimpleAgent(team[0].agent.store)
        people = [Dialogue(number, each["turns"], team, replay) for number, each in enumerate(chosen)]
        sessions = team[0].running.sessions
        assert sessions is not None
        await sessions.ready()
        before = reads[0]
        await asyncio.gather(*(person.run() for person in people))
        assert [] == replay.wrong
        return reads[0] - before, sessions.figures


async def test_the_cache_spares_the_database_four_reads_in_five(
    shared_data: Path, tmp_path: Path, server: servers.Redis, reads: list[int]
) -> None:
    # People come back: each says four dialogues.
    found = dialogues(shared_data, 160)
    chosen = [{"turns": [turn for each in found[n::40] for turn in each["turns"]]} for n in range(40)]
    without, _ = await replayed(fresh("postgresql", tmp_path), chosen, reads, plain=True)
    with_redis, sessions = await replayed(with_cache(fresh("postgresql", tmp_path), server.url), chosen, reads)
    assert with_redis <= without / 5, (with_redis, without)
    web = sum(turn["role"] == "user" for number, each in enumerate(chosen) if CHANNELS[number % 4] == "web" for turn in each["turns"])
    assert sessions.hits + sessions.loads == web > 100
    assert sessions.hits >= 0.99 * web
