"""How Baller writes one turn: the message, what each step found out, the reply, and the conversation's counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from palaver.batch import Batch
from palaver.blueprints.baller.ids import Snowflakes
from palaver.blueprints.baller.names import normalized
from palaver.blueprints.baller.schema import (
    RAW_INLINE,
    ApiInteraction,
    AppMode,
    Conversation,
    ConversationMetrics,
    Environment,
    ExtractedEntity,
    Intent,
    LlmExchange,
    LlmInteraction,
    Message,
    MessageType,
    ProcessingMetadata,
    RelevanceCheck,
    UserActivity,
)
from palaver.errors import AlreadyExists, ConditionFailed, Conflict, Duplicate, TransactionCancelled
from palaver.ids import new_id
from palaver.store import Store
from palaver.turns.steps import ApiCalled, Beginning, ContextUsed, IntentFound, LlmCalled, Relevance, Reply, Step, Stop, step_name

ATTEMPTS = 5
NEWEST, RECENT = 3, 20


@dataclass(frozen=True)
class Settings:
    """What a running bot decides: its mode, when a pause makes a new conversation, and how often activity is written.

    `touch`: the last activity is an index's sort part, and moving it with each message would rewrite the entry each time.
    """

    app_mode: AppMode = "production"
    environment: Environment = "production"
    pause: timedelta = timedelta(hours=1)
    touch: timedelta = timedelta(minutes=10)


@dataclass(frozen=True)
class Arrival:
    """A message as it arrives: who, where, what, and the platform's identifier if it has one."""

    user_id: str
    content: str
    server_id: str | None = None
    channel_id: str | None = None
    conversation_id: str | None = None
    message_id: str | None = None
    app_mode: AppMode | None = None
    message_type: MessageType = "user"


class TurnBook:
    """The book of one turn."""

    def __init__(self, store: Store, settings: Settings, ids: Snowflakes, arrival: Arrival) -> None:
        self._store, self._settings, self._ids, self._arrival = store, settings, ids, arrival
        self._app_mode: AppMode = arrival.app_mode or settings.app_mode
        self._conversation_id = self._message_id = self._newest_id = ""
        self._last_active: datetime | None = None
        self._status_stands = self._stopped = False

    # --- the question -------------------------------------------------------------------------------------------------

    async def begin(self) -> Beginning:
        """Store the message with its conversation's counters; a message delivered before is found, not stored again."""
        given = self._arrival.message_id
        fresh_id = False
        for _ in range(ATTEMPTS):
            conversation = await self._current()
            message_id = self._ids.new() if given is None else given
            conversation_id = conversation.conversation_id if conversation else self._new_conversation_id(fresh_id)
            batch = self._opening(conversation, conversation_id, message_id)
            try:
                await self._store.write(batch)
            except (TransactionCancelled, ConditionFailed, Conflict) as error:
                reasons = error.reasons if isinstance(error, TransactionCancelled) else (error,)
                if given is not None and isinstance(reasons[-1], AlreadyExists | Duplicate):
                    return await self._earlier(given)
                # A conversation being deleted keeps its name until its messages are gone.
                fresh_id = any(isinstance(reason, Conflict) for reason in reasons)
                continue
            return self._begun(conversation_id, message_id)
        raise Conflict("The message could not be stored: its conversation kept changing.", hint="Try again after a random pause.")

    def _begun(self, conversation_id: str, message_id: str) -> Beginning:
        self._conversation_id, self._message_id, self._newest_id = conversation_id, message_id, message_id
        self._last_active = self._last_active or self._store.clock.now()
        return Beginning(conversation_id, message_id)

    async def _earlier(self, message_id: str) -> Beginning:
        earlier = await self._store.find(Message.by_platform_id(message_id))
        if earlier is None:
            raise Conflict("The first delivery of this message is being deleted.", hint="Try again in a moment.")
        if earlier.user_id != self._arrival.user_id:
            raise Duplicate("Another user's message has this identifier.", hint="Pass the platform's own.", entity="Message")
        self._conversation_id, self._message_id = earlier.conversation_id, message_id
        self._newest_id = earlier.processing_metadata.reply_id or message_id
        self._stopped = earlier.processing_metadata.status in ("failed", "unanswered")
        return Beginning(earlier.conversation_id, message_id, True, earlier.processing_metadata.status == "answered")

    async def _current(self) -> Conversation | None:
        """Return the conversation the message continues, None where it begins one."""
        arrival = self._arrival
        if arrival.conversation_id is not None:
            return await self._store.find(Conversation.at(arrival.user_id, arrival.conversation_id))
        # Nearly always it is among the newest few; all recent ones are read only for who talks in many places.
        for most in (NEWEST, RECENT):
            seen = 0
            async for found in self._store.query(Conversation.key(arrival.user_id).newest_first().limit(most)):
                seen += 1
                if self._continues(found):
                    return found
            if seen < most:
                return None
        return None

    def _continues(self, found: Conversation) -> bool:
        oldest = self._store.clock.now() - self._settings.pause - self._settings.touch
        here = (found.server_id, found.channel_id) == (self._arrival.server_id, self._arrival.channel_id)
        return here and found.last_active >= oldest

    def _new_conversation_id(self, fresh: bool) -> str:
        """Return the hour and a hash of who and where: two first messages at once begin one conversation, not two."""
        arrival = self._arrival
        if arrival.conversation_id is not None:
            return arrival.conversation_id
        place = f"{arrival.user_id}\x1f{arrival.server_id or ''}\x1f{arrival.channel_id or ''}"
        tail = new_id() if fresh else sha256(place.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return f"{self._store.clock.now():%Y%m%dT%H}-{tail}"

    def _opening(self, conversation: Conversation | None, conversation_id: str, message_id: str) -> Batch:
        """Return the batch that stores the message; the message comes last, so that its refusal is the last reason."""
        arrival, now = self._arrival, self._store.clock.now()
        if conversation is None:
            self._last_active = now
            begun = Conversation(
                user_id=arrival.user_id,
                conversation_id=conversation_id,
                server_id=arrival.server_id,
                channel_id=arrival.channel_id,
                created_at=now,
                last_active=now,
                app_mode=self._app_mode,
                environment=self._settings.environment,
                metrics=ConversationMetrics(message_count=1),
            )
            batch = Batch().create(begun).put(UserActivity(user_id=arrival.user_id, last_seen=now))
        else:
            self._last_active = conversation.last_active
            self._conversation_id = conversation.conversation_id
            batch = self._counted({"metrics.message_count": 1}, seen=True)
        return batch.create(self._message(conversation_id, message_id, arrival.message_type, arrival.content, ProcessingMetadata()))

    def _message(self, conversation_id: str, message_id: str, kind: MessageType, content: str, metadata: ProcessingMetadata) -> Message:
        arrival = self._arrival
        return Message(
            conversation_id=conversation_id,
            message_id=message_id,
            user_id=arrival.user_id,
            server_id=arrival.server_id,
            channel_id=arrival.channel_id,
            app_mode=self._app_mode,
            message_type=kind,
            content=content,
            timestamp=self._store.clock.now(),
            processing_metadata=metadata,
        )

    def _counted(self, add: Mapping[str, Any], *, seen: bool = False) -> Batch:
        """Return the patch of the conversation: its counters, and its last activity once it moved far enough."""
        now = self._store.clock.now()
        at = Conversation.at(self._arrival.user_id, self._conversation_id)
        if self._last_active is None or now - self._last_active < self._settings.touch:
            return Batch().patch(at, add=add)
        self._last_active = now
        batch = Batch().patch(at, add=add, set={"last_active": now})
        return batch.put(UserActivity(user_id=self._arrival.user_id, last_seen=now)) if seen else batch

    # --- the steps ----------------------------------------------------------------------------------------------------

    async def record(self, step: Step) -> None:
        match step:
            case Relevance():
                batch = self._noted(step, self._relevance(step))
            case IntentFound():
                batch = self._noted(step, self._intent(step))
            case ContextUsed(content):
                batch = self._noted(step, {"context": content, "context_used": True})
            case ApiCalled():
                batch = self._noted(step, {}, {"api_call_time": step.latency, "api_calls": 1}).create(self._api(step))
            case LlmCalled():
                main = {"llm_generation_time": step.latency} if step.purpose == "main_response" else {}
                batch = self._noted(step, {}, {**main, "llm_calls": 1}).create(self._llm(step))
        if isinstance(step, ApiCalled | LlmCalled) and not step.success:
            batch += self._counted({"metrics.error_count": 1})
        await self._store.write(batch)
        self._status_stands = True

    def _noted(self, step: Step, found: Mapping[str, Any], add: Mapping[str, Any] | None = None) -> Batch:
        """Return the patch of the message: what was found, and how far the turn came."""
        progress = {"processing_metadata.last_step": step_name(step)}
        # What comes after the end, such as an evaluation or a call nobody waited for, leaves the turn ended.
        if not self._status_stands:
            progress["processing_metadata.status"] = "in_progress"
        counts = {f"processing_metadata.{name}": amount for name, amount in (add or {}).items()}
        return Batch().patch(Message.at(self._conversation_id, self._message_id), set={**found, **progress}, add=counts)

    def _relevance(self, step: Relevance) -> dict[str, Any]:
        raw = step.raw_response
        large = raw is not None and len(raw) > RAW_INLINE
        check = RelevanceCheck(
            is_relevant=step.is_relevant,
            confidence=step.confidence,
            explanation=step.explanation,
            raw_response=None if large else raw,
        )
        found: dict[str, Any] = {"relevance_check": check, "processing_metadata.relevance_check_time": step.latency}
        return {**found, "relevance_response": raw} if large else found

    def _intent(self, step: IntentFound) -> dict[str, Any]:
        intent = Intent.model_validate(
            {"name": step.name, "confidence": step.confidence, "api_resource": step.api_resource, "api_params": step.api_params}
        )
        entities = [_extracted(found) for found in step.entities]
        return {"intent": intent, "entities": entities, "processing_metadata.intent_detection_time": step.latency}

    def _api(self, step: ApiCalled) -> ApiInteraction:
        return ApiInteraction(
            message_id=self._message_id,
            api_call_id=step.id,
            conversation_id=self._conversation_id,
            user_id=self._arrival.user_id,
            app_mode=self._app_mode,
            endpoint=step.endpoint,
            parameters=step.parameters,  # type: ignore[arg-type]
            status_code=step.status_code,
            success=step.success,
            error_message=step.error,
            response_size=step.size,
            latency=step.latency,
            timestamp=step.at,
            response=step.response,
        )

    def _llm(self, step: LlmCalled) -> LlmInteraction:
        return LlmInteraction(
            message_id=self._message_id,
            llm_call_id=step.id,
            conversation_id=self._conversation_id,
            user_id=self._arrival.user_id,
            app_mode=self._app_mode,
            provider=step.provider,
            model=step.model,
            purpose=step.purpose,  # type: ignore[arg-type]
            prompt_tokens=step.usage.prompt_tokens,
            completion_tokens=step.usage.completion_tokens,
            total_tokens=step.usage.total_tokens,
            latency=step.latency,
            success=step.success,
            error_message=step.error,
            timestamp=step.at,
            exchange=LlmExchange.model_validate({"prompt": step.prompt, "response": step.response, "metadata": step.metadata}),
        )

    # --- the end ------------------------------------------------------------------------------------------------------

    async def answer(self, reply: Reply) -> str:
        """Store the reply, mark its question answered and count it, all in one commit."""
        for _ in range(ATTEMPTS):
            reply_id = reply.message_id or self._ids.new(above=self._newest_id)
            try:
                await self._store.write(self._answered(reply, reply_id))
            except TransactionCancelled as error:
                if not isinstance(error.reasons[-1], AlreadyExists | Duplicate):
                    raise
                if reply.message_id is not None:
                    raise error.reasons[-1] from None
                continue
            self._newest_id, self._status_stands = reply_id, True
            return reply_id
        raise Conflict("No free identifier was found for the reply.", hint="Try again after a random pause.")

    def _answered(self, reply: Reply, reply_id: str) -> Batch:
        counters: dict[str, Any] = {"metrics.message_count": 1}
        batch = Batch()
        if reply.elapsed is not None:
            counters |= {"metrics.response_time_sum": reply.elapsed, "metrics.response_time_count": 1}
            batch = self._ended({"status": "answered", "last_step": "reply", "reply_id": reply_id, "processing_time": reply.elapsed})
        batch += self._counted(counters)
        metadata = ProcessingMetadata(status="answered", last_step="reply", processing_time=reply.elapsed)
        return batch.create(self._message(self._conversation_id, reply_id, "assistant", reply.content, metadata))

    async def stop(self, stop: Stop) -> None:
        status = "failed" if stop.error else "unanswered"
        batch = self._ended({"status": status, "stopped_at": stop.at, "error": stop.error, "processing_time": stop.elapsed})
        if stop.error is not None and not stop.counted:
            batch += self._counted({"metrics.error_count": 1})
        self._status_stands = self._stopped = True
        await self._store.write(batch)

    def _ended(self, metadata: Mapping[str, Any]) -> Batch:
        set_ = {f"processing_metadata.{name}": value for name, value in metadata.items() if value is not None}
        # Where the turn stopped before is over once it is answered.
        gone = ("processing_metadata.stopped_at", "processing_metadata.error") if self._stopped and "reply_id" in metadata else ()
        return Batch().patch(Message.at(self._conversation_id, self._message_id), set=set_, remove=gone)


def _extracted(found: Mapping[str, Any]) -> ExtractedEntity:
    """Return an entity as it is stored: with the form it is looked up by, and its identifier as text."""
    given: Any = found
    if isinstance(found, Mapping):
        given = dict(found)
        if isinstance(given.get("name"), str):
            given["normalized_name"] = normalized(given["name"])
        if isinstance(given.get("id"), int):
            given["id"] = str(given["id"])
    return ExtractedEntity.model_validate(given)
