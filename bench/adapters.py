"""Palaver as a peer in the comparison harness: one class per workload, given to it with `--adapter`.

W1 chat: append a pair, read the last 20. W6: a traced turn of seven records, each durable. W7: loading.
Feed on, `synchronous=FULL`, validated entities in, entities out: what an application pays.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import JsonValue

import palaver
from palaver import Batch, Entity, Key, Schema, Store, new_id


class ChatMessage(Entity, table="chat-messages"):
    conversation_id: str
    message_id: str
    id: str
    role: Literal["user", "assistant"]
    content: str
    created_at: str
    metadata: dict[str, JsonValue]

    key = Key("conversation_id", sort="message_id")


CHAT = Schema("bench-chat", [ChatMessage])


def chat_message(conversation: str, message: dict[str, Any]) -> ChatMessage:
    return ChatMessage(conversation_id=conversation, message_id=new_id(), **message)


class ChatEmbedded:
    name = "palaver"
    notes = "palaver on SQLite: WAL FULL, group commit, feed on; entities validated on the way in, built on the way out"
    sync = False

    def __init__(self, where: str) -> None:
        self.where = where

    async def open(self) -> None:
        self.store: Store = await palaver.open(f"sqlite:///{os.path.join(self.where, 'chat.db')}", schema=CHAT)

    async def preload(self, convs: dict[str, list[dict[str, Any]]]) -> None:
        await self.store.bulk(chat_message(conv, message) for conv, messages in convs.items() for message in messages)

    async def append_pair(self, conv: str, user: dict[str, Any], assistant: dict[str, Any]) -> None:
        await self.store.write(Batch().create(chat_message(conv, user)).create(chat_message(conv, assistant)))

    async def read_last(self, conv: str, n: int) -> list[ChatMessage]:
        page = await self.store.page(ChatMessage.key(conv).newest_first().limit(n))
        return page.items[::-1]

    def norm(self, native: list[ChatMessage]) -> list[tuple[str, str]]:
        return [(message.role, message.content) for message in native]

    async def load(self, convs: list[tuple[str, list[dict[str, Any]]]], deadline: float) -> int:
        return await self.store.bulk(chat_message(conv, message) for conv, messages in convs for message in messages)

    async def prepare(self) -> None:
        await self.open()

    async def finish(self) -> None:
        pass

    async def round_end(self) -> None:
        pass

    async def close(self) -> None:
        await self.store.aclose()
