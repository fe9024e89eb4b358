"""A schema with everything an erasure has to reach: blobs, history, search, unique fields, cascades, others' records."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from palaver.clock import days, now
from palaver.entity import Entity
from palaver.keys import History, Index, Key, Ref, Unique
from palaver.markers import Blob, Expires, Expiry, InstantMs, Personal, Searchable, Secret, Snowflake, Subject
from palaver.schema import Schema, Search, Source

OBJECT = "contexts/{conversation_id}/{message_id}"


class Address(BaseModel):
    model_config = ConfigDict(frozen=True)
    city: str = ""


class User(Entity, table="users"):
    """History, a unique field and a secret."""

    user_id: Annotated[str, Subject()]
    email: Annotated[str, Personal()]
    name: Annotated[str | None, Personal()] = None
    home: Annotated[Address, Personal()] = Address()
    token: Annotated[str | None, Secret()] = None
    balance: Decimal = Decimal(0)
    avatar: bytes = b""
    tags: frozenset[str] | None = None
    key = Key("user_id")
    by_email = Unique("email")
    history = History(days(35))


class Conversation(Entity, table="conversations"):
    user_id: Annotated[str, Subject()]
    conversation_id: str
    title: Annotated[str | None, Searchable(), Personal()] = None
    last_active: InstantMs = Field(default_factory=now)
    expires: Annotated[Expiry | None, Expires(after=days(30), of="last_active")] = None
    key = Key("user_id", sort="conversation_id")


class Message(Entity, table="messages"):
    """Found through an index; with an object; goes with its conversation, whoever wrote it."""

    conversation_id: str
    message_id: Snowflake
    owner_id: str
    user_id: Annotated[str, Subject()]
    content: Annotated[str, Searchable(), Personal()]
    context: Annotated[dict[str, JsonValue] | None, Personal(), Blob(OBJECT, inline=64, keep=days(30))] = None
    timestamp: InstantMs = Field(default_factory=now)
    expires: Annotated[Expiry | None, Expires(after=days(30), of="timestamp")] = None
    key = Key("conversation_id", sort="message_id")
    by_user = Index("user_id", sort="timestamp")
    conversation = Ref("owner_id", "conversation_id", to=Conversation, on_delete="cascade")


class Feedback(Entity, table="feedback"):
    """Kept for ever; `owner_id` is whose words the snapshot holds."""

    message_id: Snowflake
    user_id: Annotated[str, Subject()]
    owner_id: str | None = None
    rating: Literal["positive", "negative"] = "positive"
    follow_up: Annotated[str | None, Searchable(), Personal()] = None
    snapshot: Annotated[str | None, Searchable(), Personal()] = None
    rated_at: InstantMs = Field(default_factory=now)
    key = Key("message_id", sort="user_id")
    by_user = Index("user_id", sort="rated_at")
    by_owner = Index("owner_id", sort="rated_at")


class Note(Entity, table="notes"):
    """Nothing finds a person's notes but a scan."""

    note_id: str
    user_id: Annotated[str, Subject()]
    text: Annotated[str, Personal()]
    key = Key("note_id")


class Activity(Entity, table="activity"):
    user_id: Annotated[str, Subject()]
    last_seen: InstantMs = Field(default_factory=now)
    key = Key("user_id")
    by_last_seen = Index(sort="last_seen", shards=4)


class Counter(Entity, table="counters"):
    """Nobody's data."""

    name: str
    n: int = 0
    key = Key("name")


ENTITIES = (User, Conversation, Message, Feedback, Note, Activity, Counter)
SCHEMA = Schema(
    "lifecycle",
    ENTITIES,
    searches=[
        Search("talk", Source(Message, filters=("user_id",)), Source(Conversation, filters=("user_id",))),
        Search("ratings", Source(Feedback, filters=("user_id", "rating"))),
    ],
)
