"""Palaver as a peer in the comparison harness: one class per workload, given to it with `--adapter`.

W1 chat: append a pair, read the last 20. W6: a traced turn of seven records, each durable. W7: loading.
Feed on, `synchronous=FULL`, validated entities in, entities out: what an application pays.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import Field

import palaver
from palaver import Batch, Entity, Index, InstantMs, Json, Key, Schema, Store, new_id, now


class ChatMessage(Entity, table="chat-messages"):
    conversation_id: str
    message_id: str
    id: str
    role: Literal["user", "assistant"]
    content: str
    created_at: str
    metadata: dict[str, Json]

    key = Key("conversation_id", sort="message_id")


class Step(Entity, table="turn-steps"):
    turn_id: str
    number: int
    conversation_id: str
    kind: str
    timestamp: InstantMs = Field(default_factory=now)
    body: dict[str, Json]

    key = Key("turn_id", sort="number")
    by_conversation = Index("conversation_id", sort="timestamp")


TRACE = Schema("bench-trace", [Step])
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


class ChatSmall(ChatEmbedded):
    name = "palaver-small"
    notes = "as palaver, a store of the first 20,000 messages only"

    async def preload(self, convs: dict[str, list[dict[str, Any]]]) -> None:
        kept = 20_000 * len(convs) // sum(map(len, convs.values()))
        await super().preload(dict(list(convs.items())[:kept]))


class ChatShort(ChatEmbedded):
    name = "palaver-short"
    notes = "as palaver, the same messages in histories of 50"

    async def preload(self, convs: dict[str, list[dict[str, Any]]]) -> None:
        parts: dict[str, list[dict[str, Any]]] = {}
        for conv, messages in convs.items():
            for start in range(0, len(messages), 50):
                parts[f"{conv}-{start}" if start else conv] = messages[start : start + 50]
        await super().preload(parts)


class TraceSteps:
    """Every step of a turn durable before the next begins."""

    name = "palaver-steps"
    notes = "palaver on SQLite: seven creates one after another, each durable when it returns, waiting ones share a commit; feed on"
    sync = False

    def __init__(self, where: str) -> None:
        self.where = where

    async def open(self) -> None:
        self.store: Store = await palaver.open(f"sqlite:///{os.path.join(self.where, 'trace.db')}", schema=TRACE)

    def steps(self, conv: str, turn: dict[str, Any]) -> list[Step]:
        return [
            Step(turn_id=turn["turn_id"], number=number, conversation_id=conv, kind=kind, body=body)
            for number, (kind, body) in enumerate(turn["records"])
        ]

    async def put_turn(self, conv: str, turn: dict[str, Any]) -> None:
        for step in self.steps(conv, turn):
            await self.store.create(step)

    async def get_turn(self, conv: str, turn_id: str) -> list[tuple[str, dict[str, Any]]]:
        page = await self.store.page(Step.key(turn_id))
        return [(step.kind, step.body) for step in page]

    async def close(self) -> None:
        await self.store.aclose()


class TraceTurn(TraceSteps):
    """A whole turn in one durable call."""

    name = "palaver-turn"
    notes = "palaver on SQLite: the seven records of a turn in one batch; feed on"

    async def put_turn(self, conv: str, turn: dict[str, Any]) -> None:
        batch = Batch()
        for step in self.steps(conv, turn):
            batch = batch.create(step)
        await self.store.write(batch)
