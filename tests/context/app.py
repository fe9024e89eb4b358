"""What the tests of the context window store: messages of a chat, as an application declares them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import Field

from palaver import Blob, Entity, Expires, Expiry, Index, InstantMs, Key, Schema, Secret, Subject, Tenant
from palaver.clock import now

START = datetime(2026, 1, 1, tzinfo=UTC)


class Message(Entity, table="messages"):
    conversation_id: str
    message_id: str
    user_id: Annotated[str, Subject()] = "ann"
    role: Literal["user", "assistant", "system", "tool"] = "user"
    content: str = ""
    tokens: int | None = None
    sent: InstantMs = Field(default_factory=now)
    attachment: Annotated[bytes | None, Blob("{conversation_id}/{message_id}", inline=16)] = None
    expires: Annotated[Expiry | None, Expires()] = None
    key = Key("conversation_id", sort="message_id")
    by_user = Index("user_id", sort="sent")


class Post(Entity, table="posts"):
    """Found by two partition parts, and ordered by two sort parts."""

    space: str
    room: int
    day: str
    number: int
    text: str = ""
    key = Key("space", "room", sort=("day", "number"))


class Remark(Entity, table="remarks"):
    team: Annotated[str, Tenant()]
    thread: str
    id: str
    text: str = ""
    key = Key("thread", sort="id")


class Credential(Entity, table="credentials"):
    owner: str
    name: str
    value: Annotated[str, Secret()] = ""
    key = Key("owner", sort="name")


class Setting(Entity, table="settings"):
    name: str
    key = Key("name")


CHAT = Schema("chat", [Message, Post, Setting])
TEAMS = Schema("teams", [Remark])


def message(number: int, conversation: str = "c", **fields: object) -> Message:
    return Message(conversation_id=conversation, message_id=f"{number:06}", **({"content": f"number {number}"} | fields))  # type: ignore[arg-type]


def numbers(messages: list[Message]) -> list[int]:
    return [int(each.message_id) for each in messages]
