"""What a prompt is made of where no context is kept: the same messages, from the records."""

from __future__ import annotations

import json

from palaver.blueprints.simple_agent import patterns
from palaver.blueprints.simple_agent.schema import Message
from palaver.context.items import within
from palaver.errors import Validation
from palaver.store import Store

LAST = 20
_BYTES_A_TOKEN, _TOKENS_A_MESSAGE = 4, 4


def tokens_of(message: Message) -> int:
    """Return the tokens a message takes: as its model counted them, else about a quarter of the bytes of what it says, and four."""
    if message.token_count is not None:
        return message.token_count
    calls = "".join(call.name + json.dumps(call.arguments, ensure_ascii=False) for call in message.tool_calls)
    return -(-len((message.content + calls).encode()) // _BYTES_A_TOKEN) + _TOKENS_A_MESSAGE


async def prompt_from_records(store: Store, conversation_id: str, limit: int, budget: int | None) -> list[Message]:
    """Return the last messages of a conversation, oldest first, as a context window gives them."""
    if not 1 <= limit <= LAST or (budget or 0) < 0:
        raise Validation(f"A prompt is 1 to {LAST} messages, within a budget that is not negative.")
    newest = [message async for message in store.query(patterns.recent_messages(conversation_id, limit))]
    return list(within(newest[::-1], limit, budget, tokens_of)[0])
