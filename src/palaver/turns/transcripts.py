"""What every blueprint can show of its conversations: the interface of console, command line and adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

from pydantic import JsonValue

T = TypeVar("T")
Role = Literal["user", "assistant", "system", "tool"]
Verdict = Literal["positive", "negative"]


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """One page, and a cursor to go on with, None at the end."""

    items: Sequence[T]
    cursor: str | None = None

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation in a list. `place` is where it happened, such as a server; `labels` are the blueprint's own."""

    user_id: str
    conversation_id: str
    started: datetime
    last_active: datetime
    messages: int | None = None
    errors: int | None = None
    title: str | None = None
    place: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shown:
    """A step as shown: its kind and name, when it began if known, milliseconds, and the rest as plain data."""

    kind: str
    name: str
    at: datetime | None = None
    latency: float | None = None
    success: bool = True
    error: str | None = None
    detail: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Said:
    """A message of a transcript, a user's with the steps that led to its answer, in their order."""

    message_id: str
    role: Role
    content: str
    at: datetime
    status: str | None = None
    latency: float | None = None
    steps: Sequence[Shown] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A message or conversation a search found; `highlights` are its texts with the matches marked."""

    user_id: str
    conversation_id: str
    message_id: str | None
    content: str
    score: float
    highlights: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Transcripts(Protocol):
    """List, read, append, rate and search conversations, whatever the schema."""

    async def chats(self, *, user_id: str | None = None, limit: int = 50, cursor: str | None = None) -> Listing[Chat]:
        """Return conversations, of one user or of all, the newest first."""
        ...

    def transcript(self, user_id: str, conversation_id: str, *, last: int | None = None) -> AsyncIterator[Said]:
        """Yield a conversation's messages oldest first (its last n), with their steps; raise NotFound if there is none."""
        ...

    async def append(self, user_id: str, conversation_id: str, role: Literal["user", "assistant"], content: str) -> Said:
        """Add a message to a conversation, which is begun if there is none."""
        ...

    async def rate(self, message_id: str, *, user_id: str, rating: Verdict, comment: str | None = None) -> None:
        """Record what a person thinks of a message; rating again replaces the verdict."""
        ...

    async def search(self, text: str, *, user_id: str | None = None, limit: int = 20) -> Sequence[Found]:
        """Return messages and conversations that hold the words, the best first."""
        ...
