"""Plays the demonstration's traffic through the agent's own recorder: the same football questions, asked on several channels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from palaver import clock as clocks
from palaver.blueprints.baller.facts import Facts
from palaver.blueprints.baller.playing import Played, PlayedClock
from palaver.blueprints.baller.traffic import ApiAsked, Dialogue, Exchange, ModelAsked
from palaver.blueprints.simple_agent.operations import SimpleAgent
from palaver.blueprints.simple_agent.schema import ToolCall
from palaver.blueprints.simple_agent.turn import AgentTurn
from palaver.store import Store
from palaver.turns.steps import Usage

PRIVATE = ("web", "slack", "telegram")
TRIES = ("show {example}", "search dortmund", "stats cost --by model --by channel", "flags list", "limits show")
"""What to look at then."""


async def play(
    store: Store, clock: PlayedClock, begins: datetime, facts: Facts, dialogues: Sequence[Dialogue], done: Callable[[], None]
) -> Played:
    """Play dialogues one after the other; `done` is called after each."""
    with clocks.use(clock):
        player = _Player(SimpleAgent(store), clock, begins)
        for dialogue in dialogues:
            await player.dialogue(dialogue)
            done()
    player.played.users = len(player.met)
    return player.played


class _Player:
    def __init__(self, agent: SimpleAgent, clock: PlayedClock, begins: datetime) -> None:
        self._agent, self._clock, self._begins = agent, clock, begins
        self.met: dict[str, str] = {}
        """Users by name."""
        self._channels: set[tuple[str, str]] = set()
        self.played = Played()

    async def dialogue(self, dialogue: Dialogue) -> None:
        self._clock.to(self._begins + timedelta(seconds=dialogue.starts))
        channel = "discord" if dialogue.place else PRIVATE[dialogue.user % len(PRIVATE)]
        await self._introduce(channel, dialogue.username)
        conversation_id = ""
        for exchange in dialogue.exchanges:
            self._clock.advance(exchange.pause)
            conversation_id = await self._exchange(channel, dialogue.username, exchange)
        await self._agent.end(conversation_id)
        self.played.conversations += 1
        self.played.example = self.played.example or conversation_id

    async def _introduce(self, channel: str, name: str) -> None:
        """Make a user known on a channel: whoever was met on another one is still the same person."""
        if name not in self.met:
            self.met[name] = (await self._agent.people.resolve(channel, name, username=name)).user_id
        elif (channel, name) not in self._channels:
            await self._agent.people.link(self.met[name], channel, name, username=name)
        self._channels.add((channel, name))

    async def _exchange(self, channel: str, name: str, exchange: Exchange) -> str:
        turn = self._agent.message(channel, name, exchange.question, username=name)
        self.played.messages += 1
        try:
            async with turn:
                await self._steps(turn, exchange)
        except ConnectionError:
            # What the demonstration shows as an answer that never came; the turn has stored where it stopped.
            self.played.failures += 1
        if turn.reply_id and exchange.rating:
            self._clock.advance(6)
            await self._agent.give_feedback(turn.reply_id, user_id=turn.user_id, rating=exchange.rating, comment=exchange.comment)
            self.played.ratings += 1
        self._clock.advance(2)
        return turn.conversation_id

    async def _steps(self, turn: AgentTurn, exchange: Exchange) -> None:
        await self._model(turn, exchange.check)
        for number, call in enumerate(exchange.calls):
            await self._tool(turn, call, number)
        if exchange.answer is not None:
            await self._model(turn, exchange.answer)
        await turn.reply(exchange.reply or "")
        self.played.messages += 1

    async def _tool(self, turn: AgentTurn, call: ApiAsked, number: int) -> None:
        asked = ToolCall(id=f"call-{number}", name=call.endpoint.strip("/").partition("/")[0], arguments=dict(call.parameters))
        await turn.call_tools([asked])
        self._clock.advance(call.took)
        failed = call.raises or call.status >= 400
        await turn.tool_result(
            asked,
            "" if failed else json.dumps(call.body, ensure_ascii=False),
            error=("timeout" if call.raises else f"status {call.status}") if failed else None,
        )
        self.played.messages += 2
        self.played.calls += 1
        self.played.failures += failed

    async def _model(self, turn: AgentTurn, call: ModelAsked) -> None:
        self.played.calls += 1
        async with turn.llm_call(provider=call.provider, model=call.model, purpose=call.purpose) as recorded:
            self._clock.advance(call.took)
            if call.raises:
                raise ConnectionError
            recorded.result(list(call.prompt), call.response, Usage(*call.tokens, sum(call.tokens)))
