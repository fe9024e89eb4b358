"""How one turn is written: the question with its conversation's counters, each call, and the reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

import orjson

from palaver.batch import Batch
from palaver.blueprints.simple_agent.arrival import Arrival
from palaver.blueprints.simple_agent.directory import MOST_REMEMBERED, Directory, Known
from palaver.blueprints.simple_agent.ids import id_above, own_id_above
from palaver.blueprints.simple_agent.opening import begun, opening, seen, unless_changed
from palaver.blueprints.simple_agent.prompts import prompt_from_records
from palaver.blueprints.simple_agent.running import Running
from palaver.blueprints.simple_agent.schema import DEFAULT_TENANT, Conversation, Message, ModelCall, Role, TurnRecord, User
from palaver.blueprints.simple_agent.settings import Settings
from palaver.errors import (
    ConditionFailed,
    ConfigError,
    Conflict,
    Duplicate,
    NotFound,
    TransactionCancelled,
    Unauthenticated,
    Validation,
)
from palaver.expr import F
from palaver.identity.session_values import Session
from palaver.store import Store
from palaver.turns.steps import ApiCalled, Beginning, ContextUsed, IntentFound, LlmCalled, Relevance, Reply, Step, Stop, step_name

ATTEMPTS = 10


class TurnBook:
    """The book of one turn."""

    def __init__(self, store: Store, settings: Settings, directory: Directory, running: Running | None, arrival: Arrival) -> None:
        self._store, self._settings, self._directory, self._running, self._arrival = store, settings, directory, running, arrival
        self._newest_id = self.message_id = ""
        self._answered_with: LlmCalled | None = None
        self._status_stands = False
        self._known: Known | None = None
        self._untold: list[Message] = []

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

    @property
    def channel_type(self) -> str:
        """Over which channel the message came; its conversation may have begun on another."""
        return self._arrival.channel_type

    @property
    def model(self) -> str:
        """The model that answers."""
        return self._directory.model(self.known, self.channel_type)

    # --- the question -------------------------------------------------------------------------------------------------

    async def begin(self) -> Beginning:
        """Store the message in the user's conversation, which is begun if there is none; one delivered before is found.

        Raises RateLimited, and then nothing is stored, and Unauthenticated for a session that is none.
        """
        proof = self._proof()
        if proof is not None and self._arrival.channel_user_id == "":
            await self._proved(proof)
            proof = None
        known = await self._recalled(proof)
        for _ in range(ATTEMPTS):
            if known is None:
                known = await self._directory.look(self._arrival)
            found = await self._begun(known)
            if found is not None:
                return found
            self._directory.forget(known.identity)
            known = None
        raise Conflict("The message could not be stored: its conversation kept changing.", hint="Try again after a random pause.")

    async def begin_as(self, known: Known) -> Beginning:
        """Store the message where it is known to belong, outside any limit."""
        found = await self._begun(known)
        if found is None:
            raise Conflict("The conversation was changed or deleted meanwhile.", hint="Try again after a random pause.")
        return found

    def _proof(self) -> str | None:
        """Return the session's token that has yet to be read; whose session it was last is taken from memory meanwhile."""
        token = self._arrival.token
        if token is not None and (found := self._directory.sessions.get(_hashed(token))):
            self._arrival = replace(self._arrival, channel_type=found[0], channel_user_id=found[1])
        return token

    async def _proved(self, token: str) -> None:
        """Read a session and take over whose it is; raise Unauthenticated for none."""
        if self._running is None:
            raise ConfigError("The agent runs without sessions.", hint="SimpleAgent(store, await simple_agent.capabilities(store)).")
        session = await self._running.sessions.read(token)
        if session is None or not is_of(session, self._settings.tenant):
            raise Unauthenticated("There is no such session.", hint="It was idle too long, grew too old or was ended: log in again.")
        found = (str(session.payload["channel_type"]), str(session.payload["channel_user_id"]))
        self._directory.sessions[session.id] = found
        if len(self._directory.sessions) > MOST_REMEMBERED:
            self._directory.sessions.popitem(last=False)
        self._arrival = replace(self._arrival, channel_type=found[0], channel_user_id=found[1])

    async def _recalled(self, proof: str | None) -> Known | None:
        """Return the sender as remembered and allowed: the session, look-ups, limit and touch are one trip to the cache."""
        guess = self._directory.guess(self._arrival) if self._running is not None else None
        if proof is not None and guess is None:
            await self._proved(proof)
        if self._running is None:
            return None
        if guess is not None:
            asked: list[Coroutine[Any, Any, Any]] = [self._directory.recall(self._arrival), self._allowed(guess), self._touched(guess)]
            if proof is not None:
                asked.insert(0, self._proved(proof))
            # All of them end before any failure is raised, so that nothing runs on by itself.
            said = await asyncio.gather(*asked, return_exceptions=True)
            for each in said:
                if isinstance(each, BaseException):
                    raise each
            known = next((each for each in said if isinstance(each, Known)), None)
            if known is not None:
                return known
        # Whether somebody new may come from an address is asked before anything is stored of them.
        is_new = self._arrival.ip is not None and guess is None and not await self._directory.has_met(self._arrival)
        if is_new:
            await self._allowed(None)
        known = await self._directory.look(self._arrival)
        if known.user.user_id != guess:
            await asyncio.gather(self._allowed(known.user.user_id, has_come=is_new), self._touched(known.user.user_id))
        return known

    async def _allowed(self, user_id: str | None, *, has_come: bool = False) -> None:
        """Raise RateLimited where a limit was reached. `has_come`: the address was asked for already."""
        arrival, running = self._arrival, self._running
        if running is None:
            return
        channel = f"{self._settings.tenant}/{arrival.channel_type}"
        token = f"{channel}/{arrival.delivery_id}" if arrival.delivery_id else ""
        # An address is counted by each tenant by itself.
        ip = self._settings.qualified(arrival.ip) if arrival.ip else ""
        if user_id is None:
            await running.limits.enforce("newcomer", token=token, ip=ip, channel=channel)
        elif arrival.ip is None or has_come:
            await running.limits.enforce("message", token=token, user=user_id, channel=channel)
        else:
            await running.limits.enforce("webhook", token=token, user=user_id, ip=ip, channel=channel)

    async def _touched(self, user_id: str) -> None:
        if self._running is not None:
            await self._running.presence.touch(user_id, self._settings.qualified(self._arrival.channel_type))

    async def _begun(self, known: Known) -> Beginning | None:
        """Return how the turn begins, None where what is known turns out not to be so any more."""
        message_id = self._directory.ids.new()
        conversation, batch = self._opening(known, message_id)
        try:
            written = await self._store.write(batch, returning=True)
        except (TransactionCancelled, ConditionFailed, Conflict) as error:
            reasons = error.reasons if isinstance(error, TransactionCancelled) else (error,)
            if self._arrival.delivery_id is not None and isinstance(reasons[-1], Duplicate):
                return await self._earlier(known)
            return None
        self._took(known.within(conversation), written)
        self.message_id = self._newest_id = message_id
        return Beginning(self.conversation.conversation_id, message_id)

    async def _earlier(self, known: Known) -> Beginning:
        earlier = await self._store.find(Message.by_delivery(self._delivery_id()))
        conversation = None if earlier is None else await self._store.find(Conversation.at(earlier.conversation_id))
        if earlier is None or conversation is None:
            raise Conflict("The first delivery of this message is being deleted.", hint="Try again in a moment.")
        if earlier.user_id != known.user.user_id:
            raise Duplicate("Another user's message has this identifier.", hint="Pass the channel's own.", entity="Message")
        turn = await self._store.find(TurnRecord.at(earlier.conversation_id, earlier.message_id))
        self._known = known.within(conversation)
        self.message_id, self._newest_id = earlier.message_id, (turn and turn.reply_id) or earlier.message_id
        return Beginning(earlier.conversation_id, earlier.message_id, True, turn is not None and turn.status == "answered")

    def _delivery_id(self) -> str | None:
        given = self._arrival.delivery_id
        return None if given is None else f"{self._settings.tenant}/{self._arrival.channel_type}/{given}"

    def _opening(self, known: Known, message_id: str) -> tuple[Conversation, Batch]:
        """Return the conversation and the batch that stores the message, and with a question the record of its turn."""
        arrival, now = self._arrival, self._store.clock.now()
        if known.conversation is None:
            made = begun(known, self._directory.ids.new(), arrival.channel_type, arrival.channel_user_id, now)
            conversation = made.model_copy(update={"message_count": 1})
            batch = opening(known, conversation)
        else:
            conversation = known.conversation
            only = unless_changed(conversation, named=arrival.conversation_id is not None)
            batch = Batch().patch(conversation, add={"message_count": 1}, set=self._activity(conversation), when=only)
            batch += seen(known, arrival.channel_type, now, self._settings.seen)
        whose: dict[str, Any] = {"user_id": known.user.user_id, "channel_type": arrival.channel_type, "timestamp": now}
        if arrival.role == "user":
            # Before the message, whose refusal is the last reason.
            batch = batch.create(TurnRecord(conversation_id=conversation.conversation_id, message_id=message_id, **whose))
        message = Message(
            conversation_id=conversation.conversation_id,
            message_id=message_id,
            tenant=conversation.tenant,
            role=arrival.role,
            content=arrival.content,
            delivery_id=self._delivery_id(),
            token_count=arrival.token_count,
            metadata=dict(arrival.metadata),
            **whose,
        )
        return conversation, batch.create(message)

    def _message(self, message_id: str, role: Role, content: str, **more: Any) -> Message:
        return Message(
            conversation_id=self.conversation.conversation_id,
            message_id=message_id,
            user_id=self.known.user.user_id,
            tenant=self.conversation.tenant,
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

    def _took(self, known: Known, written: tuple[Any, ...]) -> None:
        """Take note of what a write made: the conversation as it is now, and messages the context has not been told of."""
        stored = next((each for each in written if isinstance(each, Conversation)), None)
        self._known = known if stored is None else known.within(stored)
        self._directory.learn(self._known)
        self._untold += [each for each in written if isinstance(each, Message)]

    # --- the context --------------------------------------------------------------------------------------------------

    async def context(self, limit: int, budget: int | None) -> list[Message]:
        """Return the last messages, oldest first; what this turn said is told to the cache in the same trip."""
        conversation_id = self.conversation.conversation_id
        if self._running is None:
            return await prompt_from_records(self._store, conversation_id, limit, budget)
        newest = Message.at(conversation_id, self._newest_id)
        read: list[Message]
        _, read = await asyncio.gather(
            self.tell(), self._running.contexts.read(conversation_id, limit=limit, budget=budget, holding=newest)
        )
        return read

    async def tell(self) -> None:
        """Tell the context what was said; nobody's turn fails for it."""
        untold, self._untold = self._untold, []
        if untold and self._running is not None:
            await self._running.contexts.append(*untold)

    # --- the steps ----------------------------------------------------------------------------------------------------

    async def record(self, step: Step) -> None:
        await self._write(lambda: self._recorded(step))
        self._status_stands = True
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
                return self._noted(step, add={"model_calls": 1}) + self._counted(counted).create(self._model_call(step))

    async def add(self, role: Role, content: str, **more: Any) -> Message:
        """Store a further message of the turn, such as what a model asks tools to do and what they answer."""
        message_id = id_above(self._directory.ids, self._newest_id)
        written = await self._write(lambda: self._said(self._message(message_id, role, content, **more)))
        self._newest_id = message_id
        assert isinstance(written[-1], Message)
        return written[-1]

    async def _write(self, batch: Callable[[], Batch]) -> tuple[Any, ...]:
        """Write a batch; where its conversation went over to another user meanwhile, write it as theirs."""
        for _ in range(ATTEMPTS):
            try:
                written = await self._store.write(batch(), returning=True)
            except (TransactionCancelled, ConditionFailed):
                if not await self._moved():
                    raise
                continue
            self._took(self.known, written)
            return written
        raise Conflict("The conversation kept changing hands.", hint="Try again after a random pause.")

    async def _moved(self) -> bool:
        """Say whether the conversation is somebody else's by now, and go on as theirs."""
        current = await self._store.find(self.conversation.address)
        if current is None:
            raise NotFound("The conversation of this turn is gone.", hint="It was deleted or has expired.", entity="Conversation")
        if current.user_id == self.known.user.user_id:
            return False
        self._directory.forget(self.known.identity)
        self._known = Known(self.known.identity, await self._store.get(User.at(current.user_id)), current, self.known.config)
        return True

    def _turn(self) -> Any:
        return TurnRecord.at(self.conversation.conversation_id, self.message_id)

    def _noted(self, step: Step, found: Mapping[str, Any] | None = None, add: Mapping[str, Any] | None = None) -> Batch:
        """Return the patch of the turn's record: what was found, and how far it came."""
        progress: dict[str, Any] = {"last_step": step_name(step)}
        # What comes after the end, such as an evaluation or a call nobody waited for, leaves the turn ended.
        if not self._status_stands:
            progress["status"] = "in_progress"
        return Batch().patch(self._turn(), set={**(found or {}), **progress}, add=add)

    def _counted(self, add: Mapping[str, Any]) -> Batch:
        """Return the patch of the conversation: its counters, and its last activity once it moved far enough."""
        only = F("user_id") == self.known.user.user_id
        return Batch().patch(self.conversation, add=add, set=self._activity(self.conversation), when=only)

    def _said(self, message: Message, **add: int) -> Batch:
        return self._counted({"message_count": 1, **add}).create(message)

    def _tool_result(self, step: ApiCalled) -> Message:
        content = step.response if isinstance(step.response, str) else orjson.dumps(step.response).decode()
        self._newest_id = id_above(self._directory.ids, self._newest_id)
        return self._message(
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
            conversation_id=self.conversation.conversation_id,
            message_id=self.message_id,
            call_id=step.id,
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
        own, before = reply.message_id, self._newest_id
        reply_id = own_id_above(own, before) if own is not None else id_above(self._directory.ids, before)
        await self._write(lambda: self._answered(reply, reply_id))
        self._newest_id, self._status_stands = reply_id, True
        await self.tell()
        return reply_id

    def _answered(self, reply: Reply, reply_id: str) -> Batch:
        call, batch = self._answered_with, Batch()
        if reply.elapsed is not None:
            done = {"status": "answered", "reply_id": reply_id, "latency": reply.elapsed, "last_step": "reply"}
            batch = Batch().patch(self._turn(), set=done)
        made = self._message(
            reply_id,
            "assistant",
            reply.content,
            model_used=call.model if call else None,
            token_count=call.usage.completion_tokens if call else None,
            latency=call.latency if call else None,
        )
        return batch + self._said(made)

    async def stop(self, stop: Stop) -> None:
        status = "failed" if stop.error else "unanswered"
        ended = {"status": status, "stopped_at": stop.at, "error": stop.error, "latency": stop.elapsed}
        given = {name: value for name, value in ended.items() if value is not None}
        uncounted = stop.error is not None and not stop.counted
        self._status_stands = True
        await self._write(lambda: Batch().patch(self._turn(), set=given) + (self._counted({"error_count": 1}) if uncounted else Batch()))
        await self.tell()


def is_of(session: Session, tenant: str) -> bool:
    """Say whether a session was begun at a tenant."""
    return bool(session.payload.get("tenant", DEFAULT_TENANT) == tenant)


def _hashed(token: str) -> str:
    """Return what a session is called where it must not be opened."""
    return sha256(token.encode()).hexdigest()
