"""A bot that is killed in the middle of a turn: `python crash.py URL STEP`. It says how far it came, then waits to die."""

from __future__ import annotations

import asyncio
import sys

import palaver
from palaver.blueprints.baller import SCHEMA, Baller


async def main(url: str, last: str) -> None:
    async def here(step: str) -> None:
        if step == last:
            print("ready", flush=True)
            await asyncio.sleep(60)

    async with (
        palaver.open(url, schema=SCHEMA, maintain=False) as store,
        Baller(store).turn(user_id="u", content="?", message_id="1000000000000000001") as turn,
    ):
        await here("message")
        await turn.relevance(is_relevant=True)
        await here("relevance")
        await turn.intent("standings")
        await here("intent")
        async with turn.api_call("/standings") as api:
            await here("inside api_call")
            api.response(200, {"body": "x" * 50_000})
        await here("api_call")
        async with turn.llm_call(provider="p", model="m", purpose="main_response") as llm:
            llm.result("prompt", "text")
        await here("llm_call")
        await turn.reply("Here.")
        await here("reply")


asyncio.run(main(sys.argv[1], sys.argv[2]))
