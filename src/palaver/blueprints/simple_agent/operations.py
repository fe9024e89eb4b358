"""Simple AI Agent's operations, in the design's words: users across channels, conversations, messages, models, reports.

What only reads one access pattern is in `patterns`; a store runs those values directly.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from palaver.batch import Batch, unchanged
from palaver.blueprints.simple_agent import patterns
from palaver.blueprints.simple_agent.arrival import Arrival
from palaver.blueprints.simple_agent.channels import Channels
from palaver.blueprints.simple_agent.directory import Directory
from palaver.blueprints.simple_agent.keeping import ERASURE, PURGE
from palaver.blueprints.simple_agent.migrating import Transform, migrate_users
from palaver.blueprints.simple_agent.opening import begun, opening
from palaver.blueprints.simple_agent.people import People, nobody, over
from palaver.blueprints.simple_agent.reading import Reading, no_conversation
from palaver.blueprints.simple_agent.recording import TurnBook, is_of
from palaver.blueprints.simple_agent.reports import Reports
from palaver.blueprints.simple_agent.running import Running
from palaver.blueprints.simple_agent.schema import Conversation, DataMigration, Feedback, Message, Rating
from palaver.blueprints.simple_agent.settings import Settings
from palaver.blueprints.simple_agent.turn import AgentTurn
from palaver.errors import AlreadyExists, ConditionFailed, ConfigError, Conflict, NotFound, TransactionCancelled
from palaver.expr import Condition, F
from palaver.flags.report import Rating as Rated, Report
from palaver.identity.session_values import is_token
from palaver.identity.sessions import Sessions, Started
from palaver.ids import Ids
from palaver.lifecycle.erase import Erased, erase
from palaver.lifecycle.purge import Purged, purge_inactive
from palaver.searching import Results
from palaver.store import Page, Store
from palaver.turns.refusing import refusing

ATTEMPTS = 20


class SimpleAgent(Reading):
    """The operations over one opened store. Also the blueprint's `Transcripts`.

    What belongs to another tenant than `settings.tenant` is not there for any of them: not by its id, in no list, in no search.
    Flags, experiments and `reports` are the whole installation's.

    `people` knows who is who, `channels` what was decided for each channel; `reports` reads what the store was opened with
    `projections=simple_agent.PROJECTIONS` for.
    """

    def __init__(self, store: Store, running: Running | None = None, *, settings: Settings | None = None) -> None:
        """`running` is what `capabilities(store)` returns; without it everything is read from the records, and nothing limited."""
        self.store, self.running = store, running
        self.settings = settings or Settings()
        self._ours = F("tenant") == self.settings.tenant
        ids = Ids(store.clock)
        self.people = People(store, ids, tenant=self.settings.tenant)
        self.channels = Channels(store, tenant=self.settings.tenant)
        self.reports = Reports(store)
        self.directory = Directory(store, self.people, ids, self.settings, running)

    def for_tenant(self, tenant: str) -> SimpleAgent:
        """Return the same agent for the people and conversations of another tenant."""
        return SimpleAgent(self.store, self.running, settings=replace(self.settings, tenant=tenant))

    # --- messages -----------------------------------------------------------------------------------------------------

    def message(
        self,
        channel_type: str,
        channel_user_id: str,
        content: str,
        *,
        username: str | None = None,
        delivery_id: str | None = None,
        conversation_id: str | None = None,
        token_count: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        ip: str | None = None,
    ) -> AgentTurn:
        """Record a message from a channel and everything until its reply: `async with agent.message(...) as turn`.

        Who was never here becomes a user; the message goes into their active conversation, whichever channel that began
        on, or begins one. `delivery_id` is the channel's: the same message delivered again gives a turn whose `duplicate`
        is true. `ip` is the address a webhook was called from, and counts towards its limit. Entering raises RateLimited
        where the agent runs with limits and one was reached.
        """
        arrival = Arrival(
            channel_type,
            channel_user_id,
            content,
            username,
            delivery_id,
            conversation_id,
            token_count=token_count,
            metadata=dict(metadata or {}),
            ip=ip,
        )
        return AgentTurn(self._book(arrival), self.store.clock, self.settings, self.running)

    def message_in(
        self, token: str, content: str, *, delivery_id: str | None = None, metadata: Mapping[str, Any] | None = None, ip: str | None = None
    ) -> AgentTurn:
        """Record a message of whoever holds a session's token, as `message` does; entering raises Unauthenticated for none."""
        # A request without a token is nobody's, and not one that comes without a session.
        shown = token if is_token(token) else ""
        arrival = Arrival("", "", content, delivery_id=delivery_id, metadata=dict(metadata or {}), ip=ip, token=shown)
        return AgentTurn(self._book(arrival), self.store.clock, self.settings, self.running)

    async def log_in(self, channel_type: str, channel_user_id: str) -> Started:
        """Begin a session for somebody on a channel, such as a visitor of a web page; its token is shown this once.

        Where the agent stands for a login, the application has checked who it is.
        """
        user = await self.people.resolve(channel_type, channel_user_id)
        whose = {"tenant": self.settings.tenant, "channel_type": channel_type, "channel_user_id": channel_user_id}
        return await self._sessions().start(user.user_id, whose)

    async def log_out(self, token: str) -> None:
        """End a session; ending one that is none is no error."""
        session = await self._sessions().read(token)
        if session is not None and is_of(session, self.settings.tenant):
            await self._sessions().end(token)

    def _sessions(self) -> Sessions:
        if self.running is None:
            raise ConfigError("The agent runs without sessions.", hint="SimpleAgent(store, await simple_agent.capabilities(store)).")
        return self.running.sessions

    def _book(self, arrival: Arrival) -> TurnBook:
        return TurnBook(self.store, self.settings, self.directory, self.running, arrival)

    async def message_of(self, message_id: str) -> Message:
        """Return a message by its id alone; raise NotFound."""
        async for found in self.store.query(patterns.message_by_id(message_id).filter(self._ours)):
            return found
        raise NotFound("There is no such message.", hint="It may have expired or been deleted.", entity="Message")

    async def recent_messages(self, conversation_id: str, n: int = 20) -> list[Message]:
        """Return the last n messages of a conversation, oldest first: what the next prompt is made of."""
        return [message async for message in self.store.query(patterns.recent_messages(conversation_id, n).filter(self._ours))][::-1]

    async def history(self, user_id: str, *, limit: int = 50, cursor: str | None = None) -> Page[Message]:
        """Return a page of what was said in a user's conversations on all channels, newest first, and a cursor to go on."""
        return await self.store.page(patterns.messages_of_user(user_id).filter(self._ours), limit=limit, cursor=cursor)

    async def messages(self, conversation_id: str, *, limit: int = 50, cursor: str | None = None) -> Page[Message]:
        """Return a page of a conversation, newest first. A page costs the same however far down it is."""
        query = patterns.messages_of_conversation(conversation_id).newest_first().filter(self._ours)
        return await self.store.page(query, limit=limit, cursor=cursor)

    async def search_messages(self, text: str, *, where: Condition | None = None, **options: Any) -> Results:
        """Find messages by their words; narrowed by user_id, conversation_id, channel_type, role, model_used, tool_name, timestamp."""
        return await self.store.search("messages", text, where=self._ours if where is None else self._ours & where, **options)

    # --- conversations ------------------------------------------------------------------------------------------------

    async def start(self, channel_type: str, channel_user_id: str) -> Conversation:
        """Return a user's active conversation, begun where there is none; however many ask at once, there is one.

        Raises nothing for a user never seen: they are made.
        """
        arrival = Arrival(channel_type, channel_user_id, "")
        for _ in range(ATTEMPTS):
            known = await self.directory.look(arrival)
            if known.conversation is not None:
                return known.conversation
            conversation = begun(known, self.directory.ids.new(), channel_type, channel_user_id, self.store.clock.now())
            try:
                return await self._begin(opening(known, conversation))
            except TransactionCancelled:
                # Another one began it; or the identity went over to somebody else.
                continue
        raise Conflict("Conversations of this user kept beginning and ending.", hint="Try again after a random pause.")

    async def _begin(self, batch: Batch) -> Conversation:
        written = await self.store.write(batch)
        return next(each for each in written if isinstance(each, Conversation))

    async def conversation(self, conversation_id: str) -> Conversation:
        """Return a conversation; raise NotFound."""
        found = await self.store.find(Conversation.at(conversation_id))
        if found is None or found.tenant != self.settings.tenant:
            raise no_conversation()
        return found

    async def active_conversation(self, user_id: str) -> Conversation | None:
        """Return a user's active conversation, None where there is none."""
        found = await self.store.find(Conversation.one_active(user_id))
        return found if found is not None and found.tenant == self.settings.tenant else None

    async def override_model(self, conversation_id: str, model: str | None) -> Conversation:
        """Have one model answer in a conversation whatever its user prefers, None for no longer; raise NotFound."""
        change: dict[str, Any] = {"set": {"model_override": model}} if model is not None else {"remove": ["model_override"]}
        try:
            return await self.store.patch(Conversation.at(conversation_id), when=self._ours, **change)
        except ConditionFailed:
            raise no_conversation() from None

    async def model_for(self, channel_type: str, channel_user_id: str) -> str:
        """Return the model that answers somebody next: the conversation's own, theirs, an experiment's, the channel's, or the default."""
        known = await self.directory.look(Arrival(channel_type, channel_user_id, ""))
        return self.directory.model(known, channel_type)

    async def end(self, conversation_id: str) -> Conversation:
        """End a conversation; the user's next message begins another. Ending it twice is ending it once. Raises NotFound."""
        for _ in range(ATTEMPTS):
            found = await self.conversation(conversation_id)
            if not found.is_active:
                return found
            try:
                return await self.store.patch(found, set=over(found, self.store.clock.now()), when=unchanged(found))
            except ConditionFailed:
                continue
        raise Conflict("The conversation kept changing.", hint="Try again after a random pause.")

    async def end_stale(self, before: datetime) -> int:
        """End the conversations in which nothing was said since an instant; return how many."""
        # All are found before any is changed, because a change moves its record within the index that is read.
        query = patterns.stale_conversations(before - self.settings.touch).filter(self._ours)
        stale = [found async for found in self.store.query(query)]
        ended = 0
        for found in stale:
            try:
                await self.store.patch(found, set=over(found, self.store.clock.now()), when=unchanged(found))
            except ConditionFailed:
                # Something was said in it meanwhile.
                continue
            ended += 1
        return ended

    async def delete_conversation(self, conversation_id: str) -> None:
        """Remove a conversation with its messages and their calls; ratings stay. Removing one that is not there is no error."""
        try:
            await self.store.delete(await self.conversation(conversation_id))
        except NotFound:
            return

    # --- feedback -----------------------------------------------------------------------------------------------------

    async def give_feedback(self, message_id: str, *, user_id: str, rating: Rating, comment: str | None = None) -> Feedback:
        """Store one person's rating of a reply with the model that wrote it; rating again replaces their own only.

        Raises NotFound where the message is gone, and for another tenant's person.
        """
        message = await self.message_of(message_id)
        if user_id != message.user_id and await self.people.are_others(user_id):
            raise nobody()
        with refusing():
            feedback = Feedback(
                message_id=message_id,
                user_id=user_id,
                tenant=self.settings.tenant,
                conversation_id=message.conversation_id,
                channel_type=message.channel_type,
                rating=rating,
                comment=comment,
                model_used=message.model_used,
                timestamp=self.store.clock.now(),
            )
        try:
            return await self.store.create(feedback)
        except AlreadyExists:
            said = {"rating": rating, "timestamp": feedback.timestamp} | ({"comment": comment} if comment is not None else {})
            return await self.store.patch(feedback, set=said)

    async def experiment(self, name: str, *, since: datetime | None = None, until: datetime | None = None) -> Report:
        """Return who saw which variant of an experiment, and how they rated the replies they got since."""
        if self.running is None:
            raise ConfigError("The agent runs without flags.", hint="SimpleAgent(store, await simple_agent.capabilities(store)).")
        report: Report = await self.running.flags.report(name, self._ratings, since=since, until=until)
        return report

    async def _ratings(self, since: datetime) -> AsyncIterator[Rated]:
        ratings: tuple[Rating, ...] = ("positive", "negative")
        for rating in ratings:
            async for each in self.store.query(patterns.feedback_rated(rating, since)):
                yield Rated(each.user_id, rating == "positive", each.timestamp)

    # --- upkeep -------------------------------------------------------------------------------------------------------

    async def migrate_users(self, name: str, transform: Transform, *, batch_size: int = 40) -> DataMigration:
        """Change every user of the tenant by a function of the user, in batches: cut off, it goes on where it stopped when run again.

        `transform(user)` returns the fields to set, or None for a user it leaves alone. A batch and the mark of how far it
        came are one commit, and no user changed by somebody else meanwhile is overwritten: they are read again.
        """
        return await migrate_users(self.store, self.settings, name, transform, batch_size=batch_size)

    async def erase_user(self, user_id: str, *, dry_run: bool = False) -> Erased:
        """Remove everything about a user on all channels, sessions included, from records, search and archives; return the counts.

        Of somebody who is gone already, what is left goes as well, in ratings and in archives.
        """
        if await self.people.are_others(user_id, archived=True):
            return Erased()
        return await erase(self.store, user_id, policy=ERASURE, dry_run=dry_run)

    async def purge_inactive(self, since: datetime, *, dry_run: bool = False) -> Purged:
        """Remove everybody of the tenant not seen since then; their ratings stay without them, and so does what was counted of messages."""
        return await purge_inactive(self.store, patterns.users_inactive_since(since).filter(self._ours), policy=PURGE, dry_run=dry_run)
