"""What the tests of the agent begin with: an answered question, and lists of what a query gives."""

from __future__ import annotations

from typing import Any, TypeVar

from palaver import Entity, Query
from palaver.blueprints.simple_agent import SimpleAgent
from palaver.blueprints.simple_agent.turn import AgentTurn

E = TypeVar("E", bound=Entity)


async def found(agent: SimpleAgent, query: Query[E]) -> list[E]:
    return [entity async for entity in agent.store.query(query)]


async def ask(
    agent: SimpleAgent,
    content: str = "What is due today?",
    reply: str | None = "Two invoices.",
    *,
    channel: str = "discord",
    who: str = "ann",
    model: str | None = None,
    **where: Any,
) -> AgentTurn:
    """Record one whole turn, answered by a call of a model, and return it."""
    async with agent.message(channel, who, content, **where) as turn:
        async with turn.llm_call(provider="openai", model=model or turn.model, purpose="reply") as llm:
            llm.result(content, reply, {"input_tokens": 1_000, "output_tokens": 500})
        if reply is not None:
            await turn.reply(reply)
    return turn
