"""The agent's conversations as transcripts: what consoles, command lines and adapters show and change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Literal, get_args

from pydantic import JsonValue

from palaver.blueprints.simple_agent import patterns
from palaver.blueprints.simple_agent.arrival import Arrival
from palaver.blueprints.simple_agent.directory import Directory, Known
from palaver.blueprints.simple_agent.people import People, over
from palaver.blueprints.simple_agent.recording import TurnBook
from palaver.blueprints.simple_agent.schema import Conversation, Identity, Message, ModelCall, Rating, TurnRecord, User
from palaver.blueprints.simple_agent.settings import Settings
from palaver.errors import ConditionFailed, NotFound
from palaver.expr import F
from palaver.store import Store
from palaver.turns.refusing import refusing
from palaver.turns.transcripts import Chat, Found, Listing, Role, Said, Shown

SHOWN = frozenset(get_args(Role))
CONSOLE = "console"
"""The channel of messages that came from none: typed by a person who looks at transcripts, or imported."""


class Reading:
    """The `Transcripts` of the agent; `SimpleAgent` adds the rest."""

    store: Store
    settings: Settings
    people: People
    directory: Directory

    def _book(self, arrival: Arrival) -> TurnBook:
        raise NotImplementedError

    async def give_feedback(self, message_id: str, *, user_id: str, rating: Rating, comment: str | None = None) -> Any:
        raise NotImplementedError

    async def chats(self, *, user_id: str | None = None, limit: int = 50, cursor: str | None = None) -> Listing[Chat]:
        """Return conversations: of one user the latest begun first, of all of them the latest active first."""
        query = patterns.recent_conversations() if user_id is None else patterns.conversations_of_user(user_id)
        page = await self.store.page(query.filter(F("tenant") == self.settings.tenant), limit=limit, cursor=cursor)
        return Listing([_chat(found) for found in page], page.cursor)

    async def transcript(self, user_id: str, conversation_id: str, *, last: int | None = None) -> AsyncIterator[Said]:
        """Yield the messages oldest first, each question with its steps in order; raise NotFound for no such conversation of theirs."""
        conversation = await self.store.find(Conversation.at(conversation_id))
        if conversation is None or conversation.tenant != self.settings.tenant:
            raise no_conversation()
        if conversation.user_id != user_id:
            raise NotFound("The user has no such conversation.", hint="It may have been merged into another user's.", entity="Conversation")
        if last is not None:
            recent = [message async for message in self.store.query(patterns.recent_messages(conversation_id, last))]
            for message in reversed(recent):
                yield await self._said(message)
            return
        # A whole transcript is three reads of neighbours, and not three for each message.
        turns = {turn.message_id: turn async for turn in self.store.query(patterns.turns_of_conversation(conversation_id))}
        calls: dict[str, list[ModelCall]] = {}
        async for call in self.store.query(patterns.model_calls_of_conversation(conversation_id)):
            calls.setdefault(call.message_id, []).append(call)
        async for message in self.store.query(patterns.messages_of_conversation(conversation_id)):
            yield _said(message, turns.get(message.message_id), calls.get(message.message_id, ()))

    async def _said(self, message: Message) -> Said:
        """Return one message with what became of it."""
        turn = await self.store.find(TurnRecord.at(message.conversation_id, message.message_id)) if message.role == "user" else None
        if turn is None or not turn.model_calls:
            return _said(message, turn, ())
        asked = patterns.model_calls_of_message(message.conversation_id, message.message_id)
        return _said(message, turn, [call async for call in self.store.query(asked)])

    async def append(self, user_id: str, conversation_id: str, role: Literal["user", "assistant"], content: str) -> Said:
        """Add a message outside a turn, such as one imported or typed by a person.

        A conversation, and a user, that is not there yet is made under the name given, on the channel "console"; the
        user's active conversation on another channel ends with it, because a user has one.
        """
        conversation = await self._conversation_of(user_id, conversation_id)
        arrival = Arrival(
            conversation.channel_type, conversation.channel_user_id, content, conversation_id=conversation.conversation_id, role=role
        )
        with refusing():
            book = self._book(arrival)
            user = await self.people.get(user_id)
            await book.begin_as(Known((conversation.tenant, arrival.channel_type, arrival.channel_user_id), user, conversation, None))
        return await self._said(await self.store.get(Message.at(conversation_id, book.message_id)))

    async def _conversation_of(self, user_id: str, conversation_id: str) -> Conversation:
        found = await self.store.find(Conversation.at(conversation_id))
        if found is None:
            found = await self._typed(user_id, conversation_id)
        if found.user_id != user_id or found.tenant != self.settings.tenant:
            raise NotFound("The user has no such conversation.", hint="It may have been merged into another user's.", entity="Conversation")
        return found

    async def _typed(self, user_id: str, conversation_id: str) -> Conversation:
        """Return a new conversation under a name the caller chose."""
        now, tenant = self.store.clock.now(), self.settings.tenant
        with refusing():
            user = User(user_id=user_id, tenant=tenant, created_at=now, updated_at=now, last_seen=now)
            identity = Identity(tenant=tenant, channel_type=CONSOLE, channel_user_id=user_id, user_id=user_id, linked_at=now)
            wanted = Conversation(
                conversation_id=conversation_id,
                user_id=user_id,
                tenant=tenant,
                channel_type=CONSOLE,
                channel_user_id=user_id,
                started_at=now,
                last_activity=now,
            )
        if await self.store.find(user.address) is None:
            await self._made(user)
        # Whose name it is, is asked before anything is made or ended under it.
        await self.people.get(user_id)
        if await self.store.find(identity.address) is None:
            await self._made(identity)
        for _ in range(5):
            active = await self.directory.active(user_id)
            if active is not None and active.conversation_id == conversation_id:
                return active
            try:
                if active is not None:
                    await self.store.patch(active, set=over(active, now), when=F("is_active") == True)  # noqa: E712 - a condition
                return await self.store.create(wanted)
            except ConditionFailed:
                # It was ended, or another one was begun, meanwhile.
                continue
        return await self.store.get(wanted.address)

    async def _made(self, entity: Any) -> None:
        try:
            await self.store.create(entity)
        except ConditionFailed:
            # Somebody else made it first.
            return

    async def rate(self, message_id: str, *, user_id: str, rating: Literal["positive", "negative"], comment: str | None = None) -> None:
        """Store what a person thinks of a message; rating again replaces their verdict only."""
        await self.give_feedback(message_id, user_id=user_id, rating=rating, comment=comment)

    async def search(self, text: str, *, user_id: str | None = None, limit: int = 20) -> Sequence[Found]:
        """Return messages that hold the words, the best first."""
        ours = F("tenant") == self.settings.tenant
        where = ours if user_id is None else ours & (F("user_id") == user_id)
        results = await self.store.search("messages", text, where=where, limit=limit)
        return [_found(hit.entity, hit.score, hit.highlights) for hit in results]


def no_conversation() -> NotFound:
    """Return the error for a conversation that is not there, or is another tenant's."""
    return NotFound("There is no such conversation.", hint="It may have expired or been deleted.", entity="Conversation")


def _chat(found: Conversation) -> Chat:
    labels = {"model": found.model_override} if found.model_override else {}
    return Chat(
        found.user_id,
        found.conversation_id,
        found.started_at,
        found.last_activity,
        found.message_count,
        found.error_count,
        None,
        found.channel_type,
        {"state": "active" if found.is_active else "ended", **labels},
    )


def _said(message: Message, turn: TurnRecord | None, calls: Sequence[ModelCall]) -> Said:
    role: Role = message.role if message.role in SHOWN else "system"  # type: ignore[assignment]
    steps = (*_found_out(message, turn), *map(_llm, calls))
    if turn is None:
        return Said(message.message_id, role, message.content, message.timestamp, None, message.latency, steps)
    return Said(message.message_id, role, message.content, message.timestamp, turn.status, turn.latency, steps)


def _found_out(message: Message, turn: TurnRecord | None) -> Iterator[Shown]:
    """Yield what was found out about a message, asked of tools, or answered by one."""
    for kind in ("relevance", "intent", "context"):
        said = turn.steps.get(kind) if turn else None
        if isinstance(said, dict):
            latency = said.get("latency")
            name = str(said.get("name", kind))
            yield Shown(kind, name, latency=float(latency) if isinstance(latency, int | float) else None, detail=said)
    for call in message.tool_calls:
        yield Shown("tool_call", call.name, message.timestamp, detail={"id": call.id, "arguments": call.arguments})
    if message.role == "tool":
        detail: dict[str, JsonValue] = {"tool_call_id": message.tool_call_id, **message.metadata}
        yield Shown(
            "api_call", message.tool_name or "tool", message.timestamp, message.latency, message.error is None, message.error, detail
        )


def _llm(call: ModelCall) -> Shown:
    detail: dict[str, JsonValue] = {
        "provider": call.provider,
        "purpose": call.purpose,
        "prompt_tokens": call.prompt_tokens,
        "completion_tokens": call.completion_tokens,
        "total_tokens": call.total_tokens,
    }
    return Shown("llm_call", call.model, call.timestamp, call.latency, call.success, call.error, detail)


def _found(entity: Any, score: float, highlights: Any) -> Found:
    return Found(entity.user_id, entity.conversation_id, entity.message_id, entity.content, score, highlights)
