"""Baller's conversations as transcripts: what consoles, command lines and adapters show and change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Literal

from pydantic import JsonValue

from palaver.blueprints.baller import patterns
from palaver.blueprints.baller.recording import Arrival, TurnBook
from palaver.blueprints.baller.schema import ApiInteraction, AppMode, Conversation, LlmInteraction, Message, Rating
from palaver.errors import BadCursor
from palaver.expr import F
from palaver.store import Page, Store
from palaver.turns.refusing import refusing
from palaver.turns.transcripts import Chat, Found, Listing, Said, Shown

MODES: tuple[AppMode, ...] = ("production", "beta", "development")


class Reading:
    """The `Transcripts` of Baller; `Baller` adds the rest."""

    store: Store

    def _book(self, arrival: Arrival) -> TurnBook:
        raise NotImplementedError

    async def give_feedback(self, message_id: str, *, user_id: str, rating: Rating, follow_up: str | None = None) -> Any:
        raise NotImplementedError

    async def chats(self, *, user_id: str | None = None, limit: int = 50, cursor: str | None = None) -> Listing[Chat]:
        """Return conversations, newest first: of one user, or all of them mode by mode, production first."""
        if user_id is not None:
            page = await self.store.page(patterns.conversations_of_user(user_id), limit=limit, cursor=cursor)
            return Listing([_chat(found) for found in page], page.cursor)
        mode, _, inner = (cursor or f"{MODES[0]}:").partition(":")
        if mode not in MODES:
            raise BadCursor("This cursor was not made for a list of conversations.", hint="Start from the first page.")
        return await self._chats_of_modes(MODES[MODES.index(mode) :], limit, inner or None)

    async def _chats_of_modes(self, modes: Sequence[AppMode], limit: int, cursor: str | None) -> Listing[Chat]:
        items: list[Chat] = []
        for mode in modes:
            page: Page[Conversation] = await self.store.page(patterns.conversations_started(mode), limit=limit - len(items), cursor=cursor)
            items.extend(_chat(found) for found in page)
            cursor = page.cursor
            if cursor is not None:
                return Listing(items, f"{mode}:{cursor}")
            if len(items) == limit and mode != MODES[-1]:
                return Listing(items, f"{MODES[MODES.index(mode) + 1]}:")
        return Listing(items)

    async def transcript(self, user_id: str, conversation_id: str, *, last: int | None = None) -> AsyncIterator[Said]:
        """Yield the messages oldest first, each question with its steps in order; raise NotFound for no such conversation."""
        await self.store.get(Conversation.at(user_id, conversation_id))
        # A conversation may be named by the caller, and a name alone must not show what another person said under it.
        own = F("user_id") == user_id
        if last is not None:
            recent = [message async for message in self.store.query(patterns.recent_messages(conversation_id, last).filter(own))]
            for message in reversed(recent):
                yield await self._said(message)
            return
        async for message in self.store.query(patterns.messages_of_conversation(conversation_id).filter(own)):
            yield await self._said(message)

    async def _said(self, message: Message) -> Said:
        metadata = message.processing_metadata
        calls: list[Shown] = []
        if metadata.api_calls or metadata.llm_calls:
            api = [call async for call in self.store.query(patterns.api_calls_of_message(message.message_id))]
            llm = [call async for call in self.store.query(patterns.llm_calls_of_message(message.message_id))]
            both: list[tuple[str, Shown]] = [
                *((call.api_call_id, _api(call)) for call in api if call.conversation_id == message.conversation_id),
                *((call.llm_call_id, _llm(call)) for call in llm if call.conversation_id == message.conversation_id),
            ]
            # Identifiers of calls are given out as the calls begin.
            calls = [shown for _, shown in sorted(both, key=lambda pair: pair[0])]
        return Said(
            message.message_id,
            message.message_type,
            message.content,
            message.timestamp,
            metadata.status,
            metadata.processing_time,
            (*_found_out(message), *calls),
        )

    async def append(self, user_id: str, conversation_id: str, role: Literal["user", "assistant"], content: str) -> Said:
        """Add a message outside a turn, such as one imported or typed by a person; a conversation is begun if needed."""
        with refusing():
            beginning = await self._book(Arrival(user_id, content, conversation_id=conversation_id, message_type=role)).begin()
        return await self._said(await self.store.get(Message.at(conversation_id, beginning.message_id)))

    async def rate(self, message_id: str, *, user_id: str, rating: Literal["positive", "negative"], comment: str | None = None) -> None:
        """Store what a person thinks of a message; rating again replaces their verdict only."""
        await self.give_feedback(message_id, user_id=user_id, rating=rating, follow_up=comment)

    async def search(self, text: str, *, user_id: str | None = None, limit: int = 20) -> Sequence[Found]:
        """Return messages and conversations whose text or entities hold the words, the best first."""
        where = None if user_id is None else F("user_id") == user_id
        results = await self.store.search("baller-conversations", text, where=where, limit=limit)
        return [_found(hit.entity, hit.score, hit.highlights) for hit in results]


def _chat(found: Conversation) -> Chat:
    return Chat(
        found.user_id,
        found.conversation_id,
        found.created_at,
        found.last_active,
        found.metrics.message_count,
        found.metrics.error_count,
        found.summary,
        found.server_id,
        {"app_mode": found.app_mode, "environment": found.environment},
    )


def _found_out(message: Message) -> Iterator[Shown]:
    times = message.processing_metadata
    check, intent = message.relevance_check, message.intent
    if check is not None:
        detail: dict[str, JsonValue] = {
            **check.model_dump(mode="json", exclude_none=True),
            "raw_response": check.raw_response or message.relevance_response,
        }
        yield Shown("relevance", "relevant" if check.is_relevant else "not relevant", latency=times.relevance_check_time, detail=detail)
    if intent is not None:
        entities: JsonValue = [entity.model_dump(mode="json", exclude_none=True) for entity in message.entities]
        detail = {**intent.model_dump(mode="json", exclude_none=True), "entities": entities}
        yield Shown("intent", intent.name, latency=times.intent_detection_time, detail=detail)
    if message.context is not None:
        yield Shown("context", "context", detail=message.context)


def _api(call: ApiInteraction) -> Shown:
    detail: dict[str, JsonValue] = {
        "parameters": call.parameters,
        "status_code": call.status_code,
        "response_size": call.response_size,
        "response": call.response,
    }
    return Shown("api_call", call.endpoint, call.timestamp, call.latency, call.success, call.error_message, detail)


def _llm(call: LlmInteraction) -> Shown:
    detail: dict[str, JsonValue] = {
        "provider": call.provider,
        "purpose": call.purpose,
        "prompt_tokens": call.prompt_tokens,
        "completion_tokens": call.completion_tokens,
        "total_tokens": call.total_tokens,
        "prompt": call.exchange.prompt if call.exchange else None,
        "response": call.exchange.response if call.exchange else None,
    }
    return Shown("llm_call", call.model, call.timestamp, call.latency, call.success, call.error_message, detail)


def _found(entity: Any, score: float, highlights: Any) -> Found:
    if isinstance(entity, Message):
        return Found(entity.user_id, entity.conversation_id, entity.message_id, entity.content, score, highlights)
    return Found(entity.user_id, entity.conversation_id, None, entity.summary or "", score, highlights)
