"""Plays the demonstration's traffic through Baller's own recorder, so that every step of every answer is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from palaver import clock as clocks
from palaver.blueprints.baller.facts import Facts
from palaver.blueprints.baller.ids import PLATFORM_EPOCH_MS
from palaver.blueprints.baller.operations import Baller
from palaver.blueprints.baller.traffic import SERVERS, ApiAsked, Dialogue, Exchange, ModelAsked
from palaver.clock import to_ms
from palaver.store import Store
from palaver.turns.recorder import Turn
from palaver.turns.steps import Usage

TRIES = (
    "show {example}",
    "search dortmund",
    "stats usage",
    "query Message form --by by_intent --newest-first",
    "doctor",
)
"""What to look at then."""

USERS, PLACES, CHANNELS = 201_000_000_000_000_000, 301_000_000_000_000_000, 401_000_000_000_000_000


class PlayedClock:
    """A clock that shows the played moment, and moves by what each step is said to have taken."""

    def __init__(self, at: datetime) -> None:
        self._at, self._monotonic = at, 0.0

    def now(self) -> datetime:
        return self._at

    def monotonic(self) -> float:
        return self._monotonic

    def to(self, at: datetime) -> None:
        self._at = at

    def advance(self, seconds: float) -> None:
        self._at += timedelta(seconds=seconds)
        self._monotonic += seconds


@dataclass
class Played:
    """What was played."""

    conversations: int = 0
    messages: int = 0
    calls: int = 0
    ratings: int = 0
    failures: int = 0
    users: int = 0
    clubs: int = 0
    example: str = ""
    """A conversation to look at."""


async def play(
    store: Store, clock: PlayedClock, begins: datetime, facts: Facts, dialogues: Sequence[Dialogue], done: Callable[[], None]
) -> Played:
    """Play dialogues one after the other; `done` is called after each."""
    player = Player(Baller(store), clock, begins)
    await player.clubs(facts)
    return await player.all(dialogues, done)


class Player:
    """Plays dialogues into a Baller store whose clock is `clock`."""

    def __init__(self, baller: Baller, clock: PlayedClock, begins: datetime) -> None:
        self._baller, self._clock, self._begins = baller, clock, begins
        self._serial = 0
        self.played = Played()

    async def clubs(self, facts: Facts) -> None:
        """Fill the entity cache with every club under all its names, as if fetched when the traffic began."""
        with clocks.use(self._clock):
            for club in facts.clubs:
                about = {"country": club.country, "city": club.city, "ground": club.ground, "founded": club.founded}
                await self._baller.entities.put("team", club.id, club.name, aliases=club.names, metadata=about)
                self.played.clubs += 1

    async def all(self, dialogues: Sequence[Dialogue], done: Callable[[], None] = lambda: None) -> Played:
        """Play dialogues one after the other; `done` is called after each."""
        with clocks.use(self._clock):
            for user, username in sorted({(dialogue.user, dialogue.username) for dialogue in dialogues}):
                self._clock.to(self._begins)
                await self._baller.set_preferences(
                    _id(USERS, user), username=username, notification_settings={"score_updates": user % 2 == 0}
                )
                self.played.users += 1
            for dialogue in dialogues:
                await self._dialogue(dialogue)
                done()
        return self.played

    async def _dialogue(self, dialogue: Dialogue) -> None:
        self._clock.to(self._begins + timedelta(seconds=dialogue.starts))
        self.played.conversations += 1
        self.played.example = "talk-0001"
        for exchange in dialogue.exchanges:
            self._clock.advance(exchange.pause)
            reply = await self._exchange(dialogue, exchange)
            self._clock.advance(2)
            if reply and exchange.rating:
                self._clock.advance(6)
                await self._baller.rate(reply, user_id=_id(USERS, dialogue.user), rating=exchange.rating, comment=exchange.comment)
                self.played.ratings += 1
        clubs = [str(entity["name"]) for each in dialogue.exchanges if each.intent for entity in each.intent.entities]
        if len(dialogue.exchanges) >= 4 and clubs:
            about = ", ".join(dict.fromkeys(clubs))
            await self._baller.summarise(_id(USERS, dialogue.user), conversation_id(dialogue), f"{dialogue.username} asked about {about}.")

    async def _exchange(self, dialogue: Dialogue, exchange: Exchange) -> str | None:
        server = None if dialogue.server is None else dialogue.server % len(SERVERS)
        turn = self._baller.turn(
            user_id=_id(USERS, dialogue.user),
            content=exchange.question,
            server_id=None if server is None else _id(PLACES, server),
            channel_id=_id(CHANNELS, dialogue.user if server is None else server),
            conversation_id=conversation_id(dialogue),
            message_id=self._next_id(),
            app_mode=dialogue.app_mode,
        )
        self.played.messages += 1
        try:
            async with turn:
                return await self._steps(turn, exchange)
        except ConnectionError:
            # What the demonstration shows as an answer that never came; the turn has stored where it stopped.
            self.played.failures += 1
            return None

    async def _steps(self, turn: Turn, exchange: Exchange) -> str | None:
        await self._model(turn, exchange.check)
        explanation = exchange.check.response.partition(": ")[2]
        await turn.relevance(
            is_relevant=exchange.relevant, confidence=exchange.confidence, explanation=explanation, raw_response=exchange.check.response
        )
        if exchange.intent is not None:
            self._clock.advance(0.04 + 0.08 * (1 - exchange.intent.confidence))
            await turn.intent(
                exchange.intent.name,
                confidence=exchange.intent.confidence,
                api_resource=exchange.intent.resource,
                api_params=exchange.intent.parameters,
                entities=exchange.intent.entities,
            )
        if exchange.context is not None:
            await turn.context(exchange.context)
        for call in exchange.calls:
            await self._api(turn, call)
        if exchange.answer is not None:
            await self._model(turn, exchange.answer)
        reply = await turn.reply(exchange.reply or "", message_id=self._next_id())
        self.played.messages += 1
        if exchange.evaluation is not None:
            await self._model(turn, exchange.evaluation)
        return reply

    async def _api(self, turn: Turn, call: ApiAsked) -> None:
        self.played.calls += 1
        self.played.failures += call.raises or call.status >= 400
        try:
            async with turn.api_call(call.endpoint, call.parameters) as recorded:
                self._clock.advance(call.took)
                if call.raises:
                    raise TimeoutError
                recorded.response(call.status, call.body)
        except TimeoutError:
            # The bot goes on and says that it is sorry.
            return

    async def _model(self, turn: Turn, call: ModelAsked) -> None:
        self.played.calls += 1
        prompt: Any = list(call.prompt)
        async with turn.llm_call(provider=call.provider, model=call.model, purpose=call.purpose) as recorded:
            recorded.prompt(prompt)
            self._clock.advance(call.took)
            if call.raises:
                raise ConnectionError
            recorded.result(prompt, call.response, Usage(*call.tokens, sum(call.tokens)))

    def _next_id(self) -> str:
        """Return an identifier as the platform gives them, the same in every run that begins at the same moment."""
        self._serial += 1
        return str(((to_ms(self._clock.now()) - PLATFORM_EPOCH_MS) << 22) + self._serial)


def conversation_id(dialogue: Dialogue) -> str:
    return f"talk-{dialogue.number + 1:04d}"


def _id(base: int, number: int) -> str:
    return str(base + number)
