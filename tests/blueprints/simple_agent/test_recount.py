"""What the reports say, counted again from the records: after anything people do, in any order, and wherever counting stopped meanwhile."""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import suppress
from datetime import date, timedelta
from random import Random
from typing import Any, TypeVar

import pytest

import palaver
from palaver import Entity
from palaver.blueprints.simple_agent import PROJECTIONS, SimpleAgent
from palaver.blueprints.simple_agent.schema import Conversation, Feedback, Message, ModelCall, Rating, TurnRecord
from tests.blueprints.simple_agent.conftest import Opened

E = TypeVar("E", bound=Entity)

FIRST, LAST = date(2026, 1, 1), date(2026, 12, 31)
RATINGS: tuple[Rating, ...] = ("positive", "negative")
TURNS = 40


class People:
    """People who write, rate, fail, are answered late and turn out to be somebody else, as a seed decides."""

    def __init__(self, agent: SimpleAgent, clock: palaver.ManualClock, seed: int) -> None:
        self._agent, self._clock, self._draw = agent, clock, Random(seed)
        self._users: set[str] = set()
        self._replies: list[tuple[str, str]] = []

    async def go_on(self) -> None:
        self._clock.advance(timedelta(minutes=self._draw.randint(1, 400)))
        with suppress(ConnectionError):  # the turn has stored where it stopped
            await self._turn()
        if self._replies and self._draw.random() < 0.5:
            await self._rate(*self._draw.choice(self._replies[-4:]))
        if len(self._users) > 1 and self._draw.random() < 0.1:
            await self._merge(*self._draw.sample(sorted(self._users), 2))
        if self._draw.random() < 0.1:
            await self._agent.store.settle(20)

    async def _turn(self) -> None:
        agent, draw = self._agent, self._draw
        async with agent.message(draw.choice(["discord", "web"]), draw.choice("abc"), "?") as turn:
            self._users.add(turn.user_id)
            for _ in range(draw.randint(0, 2)):
                async with turn.llm_call(provider="openai", model=draw.choice(["gpt-4o", "odd"]), purpose="reply") as call:
                    call.result("?", "!", {"input_tokens": draw.randint(1, 5_000), "output_tokens": draw.randint(0, 500)})
                    if draw.random() < 0.2:
                        raise ConnectionError
            self._clock.advance(timedelta(hours=draw.choice([0, 0, 1, 20])))
            if draw.random() < 0.2:
                await agent.end(turn.conversation_id)
            if draw.random() < 0.8:
                self._replies.append((await turn.reply("!"), turn.user_id))

    async def _rate(self, reply_id: str, user_id: str) -> None:
        if await self._agent.people.find(user_id) is not None:
            await self._agent.give_feedback(reply_id, user_id=user_id, rating=self._draw.choice(RATINGS))

    async def _merge(self, gone: str, into: str) -> None:
        await self._agent.people.merge(gone, into=into)
        self._users.discard(gone)


async def stored(agent: SimpleAgent, entity: type[E]) -> list[E]:
    page = await agent.store.core.records.scan(entity.declared().table.name, after=None, limit=10_000)
    codec = agent.store.core.planner.codec(entity)
    return [codec.decode(record) for record in page.records]


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_report_says_what_the_records_say(opened: Opened, clock: palaver.ManualClock, seed: int) -> None:
    async with opened(projections=PROJECTIONS) as agent:
        people = People(agent, clock, seed)
        for _ in range(TURNS):
            await people.go_on()
        await agent.store.settle(20)
        await agent.store.settle(20)
        await check_usage(agent)
        await check_engagement(agent)
        await check_patterns(agent)


async def check_usage(agent: SimpleAgent) -> None:
    counted: dict[tuple[str, ...], Any] = defaultdict(lambda: [0, 0, 0])
    for call in await stored(agent, ModelCall):
        line = counted[call.timestamp.date().isoformat(), call.channel_type, call.model]
        line[:] = line[0] + 1, line[1] + call.prompt_tokens, line[2] + call.completion_tokens
    lines = await agent.reports.models(FIRST, LAST, by=["day", "channel", "model"])
    assert counted == {line.group: [line.used.calls, line.used.prompt_tokens, line.used.completion_tokens] for line in lines}


async def check_engagement(agent: SimpleAgent) -> None:
    questions = [message for message in await stored(agent, Message) if message.role == "user"]
    ratings = await stored(agent, Feedback)
    report = await agent.reports.engagement(FIRST, LAST)
    assert (len(questions), len(await stored(agent, Conversation))) == (report.messages, report.new_conversations)
    assert Counter(message.channel_type for message in questions) == report.channels
    assert (len(ratings), sum(each.rating == "positive" for each in ratings)) == (report.ratings, report.positive)
    there: dict[str, set[str]] = defaultdict(set)
    for message in questions:
        there[message.timestamp.date().isoformat()].add(message.user_id)
    assert {day: len(users) for day, users in there.items()} == {day: n for day, n in report.active_by_day.items() if n}
    assert len(set().union(*there.values())) == report.active_users


async def check_patterns(agent: SimpleAgent) -> None:
    messages, conversations = await stored(agent, Message), await stored(agent, Conversation)
    report = await agent.reports.patterns(FIRST, LAST)
    asked = [message.timestamp for message in messages if message.role == "user"]
    assert Counter(at.hour for at in asked) == {hour: n for hour, n in report.by_hour.items() if n}
    assert Counter(at.isoweekday() for at in asked) == {day: n for day, n in report.by_weekday.items() if n}
    answered = [turn.latency for turn in await stored(agent, TurnRecord) if turn.status == "answered"]
    assert (len(answered), sum(filter(None, answered))) == (report.reply_latency.count, float(report.reply_latency.total))
    spans = [(each.ended_at - each.started_at).total_seconds() for each in conversations if each.ended_at is not None]
    assert (len(spans), sum(spans)) == (report.seconds.count, float(report.seconds.total))
    said = Counter(message.conversation_id for message in messages)
    assert said == {each.conversation_id: each.message_count for each in conversations if each.message_count}
