"""What the tests of the store declare: a small chat with everything a declaration can say."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from typing import Annotated

from pydantic import BaseModel, Field, JsonValue

from palaver import (
    Blob,
    Entity,
    Expires,
    Expiry,
    F,
    History,
    Index,
    InstantMs,
    Key,
    Personal,
    Ref,
    Schema,
    Search,
    Searchable,
    Secret,
    Snowflake,
    Source,
    Subject,
    Tenant,
    Unique,
    days,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


class Intent(BaseModel):
    name: str
    confidence: float = 0.0


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Conversation(Entity, table="conversations"):
    user_id: Annotated[str, Subject()]
    id: str
    title: str = ""
    turns: Annotated[int, Field(ge=0, le=100)] = 0
    last_active: InstantMs = START
    expires: Annotated[Expiry | None, Expires(after=days(30), of="last_active")] = None
    key = Key("user_id", sort="id")
    by_activity = Index("user_id", sort="last_active")


class Message(Entity, table="messages"):
    conversation_id: str
    id: Snowflake
    user_id: Annotated[str, Subject()]
    text: Annotated[str, Searchable(), Personal()] = ""
    number: int = 0
    mood: Mood | None = None
    intent: Intent | None = None
    tags: set[str] = Field(default_factory=set)
    notes: list[str] = Field(default_factory=list)
    sent: InstantMs = START
    context: Annotated[dict[str, JsonValue] | None, Blob("{conversation_id}/{id}/context.json", inline=64)] = None
    expires: Annotated[Expiry | None, Expires()] = None
    key = Key("conversation_id", sort="id")
    by_user = Index("user_id", sort="sent", name="UserMessages")
    by_intent = Index("intent.name", sort="sent", shards=4)
    by_mood = Index("mood", sort="sent", shards=2)
    conversation = Ref("user_id", "conversation_id", to=Conversation, on_delete="cascade")


class Feedback(Entity, table="feedback"):
    conversation_id: str
    id: Snowflake
    rater: str
    stars: int = 0
    key = Key("conversation_id", "id", sort="rater")
    message = Ref("conversation_id", "id", to=Message, on_delete="cascade")


class User(Entity, table="users"):
    id: str
    email: str
    handle: str | None = None
    active: bool = True
    plan: str = "free"
    password: Annotated[str | None, Secret()] = None
    expires: Annotated[Expiry | None, Expires()] = None
    key = Key("id")
    by_email = Unique("email")
    by_handle = Unique("handle", "plan", when=F("active") == True)  # noqa: E712 - a condition, not a comparison
    history = History(days(35))


class Team(Entity, table="teams"):
    id: str
    name: str = ""
    key = Key("id")


class Member(Entity, table="members"):
    team_id: str
    name: str
    role: str = "any"
    key = Key("team_id", sort="name")
    team = Ref("team_id", to=Team)


class Note(Entity, table="notes"):
    owner: Annotated[str, Tenant()]
    person: Annotated[str, Subject()]
    id: str
    slug: str
    body: Annotated[str, Searchable(), Personal()] = "-"
    file: Annotated[bytes | None, Blob("{id}/file", inline=16)] = None
    key = Key("person", sort="id")
    by_slug = Unique("slug")
    by_body = Index("body", sort="id")


CHAT = Schema("chat", [Conversation, Message, Feedback, User, Team, Member], searches=[Search("messages", Source(Message))])
NOTES = Schema("notes", [Note], searches=[Search("notes", Source(Note))])


def conversation(id: str = "c", user: str = "u", **fields: object) -> Conversation:
    return Conversation(user_id=user, id=id, **fields)  # type: ignore[arg-type]


def message(id: int = 1, conversation: str = "c", user: str = "u", **fields: object) -> Message:
    return Message(conversation_id=conversation, id=str(id), user_id=user, **fields)  # type: ignore[arg-type]


def big(letter: str = "x", size: int = 200) -> dict[str, JsonValue]:
    """Return a value that does not stay in the record."""
    return {"big": letter * size}
