"""What the tests of Baller begin with: an answered question, and lists of what a query gives."""

from __future__ import annotations

from typing import Any, TypeVar

from palaver import Entity, Query
from palaver.blueprints.baller import Baller

E = TypeVar("E", bound=Entity)


async def found(baller: Baller, query: Query[E]) -> list[E]:
    return [entity async for entity in baller.store.query(query)]


async def ask(
    baller: Baller, content: str = "Did Arsenal win on Saturday?", reply: str | None = "Yes, 2–0.", **where: Any
) -> tuple[str, str]:
    """Record one whole turn; return the identifiers of the question and the answer."""
    async with baller.turn(**{"user_id": "u1", "server_id": "s1", **where}, content=content) as turn:
        await turn.relevance(is_relevant=True, confidence=0.97, explanation="About football.", raw_response="{}")
        await turn.intent(
            "match_result",
            confidence=0.91,
            api_resource="/fixtures",
            api_params={"team": 42},
            entities=[{"name": "Arsenal", "type": "team", "id": 42, "confidence": 0.99}],
        )
        async with turn.api_call("/fixtures", {"team": 42}) as call:
            call.response(200, {"score": [2, 0]})
        async with turn.llm_call(provider="anthropic", model="m-1", purpose="main_response") as llm:
            llm.result("How did they play?", "Well.", {"input_tokens": 12, "output_tokens": 3})
        answer = await turn.reply(reply) if reply is not None else ""
        return turn.message_id, answer
