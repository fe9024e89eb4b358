"""How one turn is written: the question with its conversation's counters, each call, and the reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson

from palaver.batch import Batch
from palaver.blueprints.simple_agent.directory import Directory, Known
from palaver.blueprints.simple_agent.ids import id_above
from palaver.blueprints.simple_agent.people import OWN
from palaver.blueprints.simple_agent.schema import (
    DEFAULT_TENANT,
    Conversation,
    Identity,
    Message,
    Metadata,
    ModelCall,
    Role,
    Status,
    User,
    UserDay,
)
from palaver.errors import ConditionFailed, Conflict, Duplicate, NotFound, TransactionCancelled, Validation
from palaver.expr import Condition, F
from palaver.store import Store
from palaver.turns.steps import ApiCalled, Beginning, ContextUsed, IntentFound, LlmCalled, Relevance, Reply, Step, step_name

ATTEMPTS = 10


@dataclass(frozen=True)
class Settings:
    """What a running agent decides.

    `touch`, `seen`: the last activity and the day somebody was seen are sort parts of indexes, and moving them with
    each message would rewrite the entry each time. `pause`: silence after which a message begins a new conversation.
    `default_model`: what answers where neither conversation, user nor channel says.
    """

    tenant: str = DEFAULT_TENANT
    default_model: str = "gpt-4"
    pause: timedelta | None = None
    touch: timedelta = timedelta(minutes=1)
    seen: timedelta = timedelta(minutes=10)


@dataclass(frozen=True)
class Arrival:
    """A message as it arrives: from whom on which channel, what, and the channel's identifier of it if it has one."""

    channel_type: str
    channel_user_id: str
    content: str
    username: str | None = None
    delivery_id: str | None = None
    conversation_id: str | None = None
    role: Role = "user"
    token_count: int | None = None
    metadata: Metadata = field(default_factory=dict)


class TurnBook:
    """The book of one turn."""

    def __init__(self, store: Store, settings: Settings, directory: Directory, arrival: Arrival) -> None:
        self._store, self._settings, self._directory, self._arrival = store, settings, directory, arrival
        self._newest_id = ""
        self.message_id = ""
        self._answered_with: LlmCalled | None = None
        self._is_answered = False
        self._known: Known | None = None

    @property
    def known(self) -> Known:
        """Whose turn it is and in which conversation, once it has begun."""
        if self._known is None:
            raise Validation("The turn has not begun.", hint="Use it as `async with ….message(...) as turn`.")
        return self._known

    @property
    def conversation(self) -> Conversation:
        found = self.known.conversation
        assert found is not None
        return found

    # --- the question -------------------------------------------------------------------------------------------------

    async def begin(self) -> Beginning:
        """Store the message in the user's conversation, which is begun if there is none; one delivered before is found."""
        for attempt in range(ATTEMPTS):
            known = await self._directory.look(self._arrival, fresh=attempt > 0)
            begun = await self._begun(known)
            if begun is not None:
                return begun
            self._directory.forget(known)
        raise Conflict("The message could not be stored: its conversation kept changing.", hint="Try again after a random pause.")

    async def begin_as(self, known: Known) -> Beginning:
        """Store the message where it is known to belong."""
        begun = await self._begun(known)
        if begun is None:
            raise Conflict("The conversation was changed or deleted meanwhile.", hint="Try again after a random pause.")
        return begun

    async def _begun(self, known: Known) -> Beginning | None:
        """Return how the turn begins, None where what is known turns out not to be so any more."""
        message_id = self._directory.ids.new()
        conversation, batch = self._opening(known, message_id)
        try:
            written = await self._store.write(batch)
        except (TransactionCancelled, ConditionFailed) as error:
            reasons = error.reasons if isinstance(error, TransactionCancelled) else (error,)
            if self._arrival.delivery_id is not None and isinstance(reasons[-1], Duplicate):
                return await self._earlier(known)
            return None
        stored = next((each for each in written if isinstance(each, Conversation)), conversation)
        self._known = known.within(stored)
        self._directory.learn(self._known)
        self.message_id = self._newest_id = message_id
        return Beginning(stored.conversation_id, message_id)

    async def _earlier(self, known: Known) -> Beginning:
        assert self._arrival.delivery_id is not None
        earlier = await self._store.find(Message.by_delivery(self._delivery_id()))
        conversation = None if earlier is None else await self._store.find(Conversation.at(earlier.conversation_id))
        if earlier is None or conversation is None:
            raise Conflict("The first delivery of this message is being deleted.", hint="Try again in a moment.")
        if earlier.user_id != known.user.user_id:
            raise Duplicate("Another user's message has this identifier.", hint="Pass the channel's own.", entity="Message")
        self._known = known.within(conversation)
        self.message_id, self._newest_id = earlier.message_id, earlier.reply_id or earlier.message_id
        return Beginning(earlier.conversation_id, earlier.message_id, True, earlier.status == "answered")

    def _delivery_id(self) -> str | None:
        given = self._arrival.delivery_id
        return None if given is None else f"{self._settings.tenant}/{self._arrival.channel_type}/{given}"

    def _opening(self, known: Known, message_id: str) -> tuple[Conversation, Batch]:
        """Return the conversation and the batch that stores the message, which comes last, so that its refusal is the last reason."""
        arrival, now = self._arrival, self._store.clock.now()
        if known.conversation is None:
            conversation = begun(known, self._directory.ids.new(), arrival.channel_type, arrival.channel_user_id, now)
            batch = opening(known, conversation.model_copy(update={"message_count": 1}))
        else:
            conversation = known.conversation
            only: Condition = F("user_id") == known.user.user_id
            if arrival.conversation_id is None:
                only &= F("is_active") == True  # noqa: E712 - a condition, not a comparison
            batch = Batch().patch(conversation, add={"message_count": 1}, set=self._activity(conversation), when=only)
            batch += seen(known, arrival.channel_type, now, self._settings.seen)
        status: Status | None = "received" if arrival.role == "user" else None
        return conversation, batch.create(
            self._message(
                known,
                conversation,
                message_id,
                arrival.role,
                arrival.content,
                delivery_id=self._delivery_id(),
                token_count=arrival.token_count,
                status=status,
                metadata=dict(arrival.metadata),
            )
        )

    def _message(self, known: Known, conversation: Conversation, message_id: str, role: Role, content: str, **more: Any) -> Message:
        return Message(
            conversation_id=conversation.conversation_id,
            message_id=message_id,
            user_id=known.user.user_id,
            channel_type=self._arrival.channel_type,
            role=role,
            content=content,
            timestamp=self._store.clock.now(),
            **more,
        )

    def _activity(self, conversation: Conversation) -> dict[str, Any]:
        """Return the last activity, once it moved far enough."""
        now = self._store.clock.now()
        return {"last_activity": now} if now - conversation.last_activity >= self._settings.touch else {}

    # --- the steps ----------------------------------------------------------------------------------------------------

    async def record(self, step: Step) -> None:
        await self._written(lambda: self._recorded(step))
        if isinstance(step, LlmCalled) and step.success:
            self._answered_with = step

    def _recorded(self, step: Step) -> Batch:
        match step:
            case Relevance():
                relevance = {"is_relevant": step.is_relevant, "confidence": step.confidence, "explanation": step.explanation}
                return self._noted(step, {"steps.relevance": {**relevance, "latency": step.latency}})
            case IntentFound():
                intent = {"name": step.name, "confidence": step.confidence, "api_resource": step.api_resource}
                found = {"api_params": dict(step.api_params), "entities": [dict(each) for each in step.entities], "latency": step.latency}
                return self._noted(step, {"steps.intent": {**intent, **found}})
            case ContextUsed(content):
                return self._noted(step, {"steps.context": dict(content)})
            case ApiCalled():
                failed = {} if step.success else {"error_count": 1}
                return self._noted(step) + self._said(self._tool_result(step), **failed)
            case LlmCalled():
                counted = {"token_count": step.usage.total_tokens} | ({} if step.success else {"error_count": 1})
                batch = self._noted(step, add={"model_calls": 1}) + self._counted(counted)
                return batch.create(self._model_call(step))

    async def add(self, role: Role, content: str, **more: Any) -> Message:
        """Store a further message of the turn, such as what a model asks tools to do and what they answer."""
        made = self._message(self.known, self.conversation, id_above(self._directory.ids, self._newest_id), role, content, **more)

        def batch() -> Batch:
            return self._said(made.model_copy(update={"user_id": self.known.user.user_id}))

        written = await self._written(batch)
        self._newest_id = made.message_id
        assert isinstance(written[-1], Message)
        return written[-1]

    async def _written(self, batch: Any) -> tuple[Any, ...]:
        """Write a batch; where its conversation went over to another user meanwhile, write it as theirs."""
        for _ in range(ATTEMPTS):
            try:
                return await self._store.write(batch())
            except (TransactionCancelled, ConditionFailed):
                before = self.known
                if not await self._moved(before):
                    raise
        raise Conflict("The conversation kept changing hands.", hint="Try again after a random pause.")

    async def _moved(self, before: Known) -> bool:
        current = await self._store.find(self.conversation.address)
        if current is None:
            raise NotFound("The conversation of this turn is gone.", hint="It was deleted or has expired.", entity="Conversation")
        if current.user_id == before.user.user_id:
            return False
        user = await self._store.get(User.at(current.user_id))
        self._known = Known(before.identity, user, current, before.config)
        return True

    def _noted(self, step: Step, found: Mapping[str, Any] | None = None, add: Mapping[str, Any] | None = None) -> Batch:
        """Return the patch of the question: what was found, and how far the turn came."""
        progress: dict[str, Any] = {"steps.last_step": step_name(step)}
        # What comes after the reply, such as its evaluation, leaves the question answered.
        if not self._is_answered:
            progress["status"] = "in_progress"
        return Batch().patch(Message.at(self.conversation.conversation_id, self.message_id), set={**(found or {}), **progress}, add=add)

    def _counted(self, add: Mapping[str, Any]) -> Batch:
        """Return the patch of the conversation: its counters, and its last activity once it moved far enough."""
        conversation = self.conversation
        activity = self._activity(conversation)
        if activity:
            self._known = self.known.within(conversation.model_copy(update=activity))
        return Batch().patch(conversation, add=add, set=activity, when=F("user_id") == self.known.user.user_id)

    def _said(self, message: Message, **add: int) -> Batch:
        return self._counted({"message_count": 1, **add}).create(message)

    def _tool_result(self, step: ApiCalled) -> Message:
        content = step.response if isinstance(step.response, str) else orjson.dumps(step.response).decode()
        self._newest_id = id_above(self._directory.ids, self._newest_id)
        return self._message(
            self.known,
            self.conversation,
            self._newest_id,
            "tool",
            content,
            tool_call_id=step.id,
            tool_name=step.endpoint,
            latency=step.latency,
            error=step.error,
            metadata={"parameters": dict(step.parameters), "status_code": step.status_code},
        )

    def _model_call(self, step: LlmCalled) -> ModelCall:
        return ModelCall(
            message_id=self.message_id,
            call_id=step.id,
            conversation_id=self.conversation.conversation_id,
            user_id=self.known.user.user_id,
            channel_type=self._arrival.channel_type,
            provider=step.provider,
            model=step.model,
            purpose=step.purpose,
            prompt_tokens=step.usage.prompt_tokens,
            completion_tokens=step.usage.completion_tokens,
            total_tokens=step.usage.total_tokens,
            latency=step.latency,
            success=step.success,
            error=step.error,
            timestamp=step.at,
        )

    # --- the end ------------------------------------------------------------------------------------------------------

    async def answer(self, reply: Reply) -> str:
        """Store the reply with the model and the tokens it took, and mark its question answered, all in one commit."""
        reply_id = reply.message_id or id_above(self._directory.ids, self._newest_id)
        await self._written(lambda: self._answered(reply, reply_id))
        self._newest_id, self._is_answered = reply_id, True
        return reply_id

    def _answered(self, reply: Reply, reply_id: str) -> Batch:
        call, batch = self._answered_with, Batch()
        if reply.elapsed is not None:
            batch = self._ended({"status": "answered", "reply_id": reply_id, "latency": reply.elapsed, "steps.last_step": "reply"})
        made = self._message(
            self.known,
            self.conversation,
            reply_id,
            "assistant",
            reply.content,
            model_used=call.model if call else None,
            token_count=call.usage.completion_tokens if call else None,
            latency=call.latency if call else None,
        )
        return batch + self._said(made)

    async def stop(self, at: str | None, error: str | None, elapsed: float) -> None:
        ended = {"status": "failed" if error else "unanswered", "steps.stopped_at": at, "error": error, "latency": elapsed}

        def batch() -> Batch:
            # A call that failed was counted when it was recorded.
            counted = error is not None and at not in ("api_call", "llm_call")
            return self._ended(ended) + (self._counted({"error_count": 1}) if counted else Batch())

        await self._written(batch)

    def _ended(self, given: Mapping[str, Any]) -> Batch:
        set_ = {name: value for name, value in given.items() if value is not None}
        return Batch().patch(Message.at(self.conversation.conversation_id, self.message_id), set=set_)


def begun(known: Known, conversation_id: str, channel_type: str, channel_user_id: str, now: datetime) -> Conversation:
    """Return a user's new conversation on a channel."""
    return Conversation(
        conversation_id=conversation_id,
        user_id=known.user.user_id,
        tenant=known.user.tenant,
        channel_type=channel_type,
        channel_user_id=channel_user_id,
        started_at=now,
        last_activity=now,
    )


def opening(known: Known, conversation: Conversation) -> Batch:
    """Return the batch that begins a conversation: only as the identity's own user, and not while that one is merged away."""
    now = conversation.started_at
    identity = Identity.at(conversation.tenant, conversation.channel_type, conversation.channel_user_id)
    return (
        Batch()
        .check(identity, when=F("user_id") == conversation.user_id)
        .patch(known.user, set={"last_seen": now}, when=OWN)
        .put(UserDay(user_id=conversation.user_id, day=now.date().isoformat(), channel_type=conversation.channel_type))
        .create(conversation)
    )


def seen(known: Known, channel_type: str, now: datetime, step: timedelta) -> Batch:
    """Return what notes that a user was there, once in a while and on each new day."""
    last = known.user.last_seen
    if now - last < step and now.date() == last.date():
        return Batch()
    day = UserDay(user_id=known.user.user_id, day=now.date().isoformat(), channel_type=channel_type)
    return Batch().patch(known.user, set={"last_seen": now}).put(day)
