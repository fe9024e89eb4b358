"""Who a message is from and where it belongs: identity, user, active conversation and the channel's configuration."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from palaver.batch import unchanged
from palaver.blueprints.simple_agent.people import People, over
from palaver.blueprints.simple_agent.running import EXPERIMENT
from palaver.blueprints.simple_agent.schema import ChannelConfig, Conversation, Identity, User
from palaver.entity_cache import EntityCache
from palaver.errors import ConditionFailed, NotFound
from palaver.ids import Ids
from palaver.store import Store

if TYPE_CHECKING:
    from palaver.blueprints.simple_agent.arrival import Arrival
    from palaver.blueprints.simple_agent.running import Running
    from palaver.blueprints.simple_agent.settings import Settings

MOST_REMEMBERED = 50_000


@dataclass(frozen=True)
class Known:
    """What is known of a message's sender; `conversation` is None where a new one begins."""

    identity: tuple[str, str, str]
    user: User
    conversation: Conversation | None
    config: ChannelConfig | None

    def within(self, conversation: Conversation) -> Known:
        return replace(self, conversation=conversation)


class Directory:
    """Looks people and their conversations up.

    A running agent remembers which user an identity was and the conversation as this process last wrote it. Identity and user
    are then read from the cache, in one trip; that the conversation is still theirs and active is a condition of the commit that
    stores the message, which gives back what it is now: a memory that is out of date costs a second look and nothing else.
    """

    def __init__(self, store: Store, people: People, ids: Ids, settings: Settings, running: Running | None) -> None:
        self.ids = ids
        self._store, self._people, self._settings, self._running = store, people, settings, running
        self.sessions: OrderedDict[str, tuple[str, str]] = OrderedDict()
        """The channel and user of a session by its id, as last read; whoever uses it reads the session all the same."""
        self._remembered: OrderedDict[tuple[str, str, str], tuple[str, Conversation]] = OrderedDict()
        if running is not None:
            self._identities, self._users = EntityCache(store, Identity), EntityCache(store, User)

    def named(self, arrival: Arrival) -> tuple[str, str, str]:
        return (self._settings.tenant, arrival.channel_type, arrival.channel_user_id)

    def model(self, known: Known, channel_type: str) -> str:
        """Return the model that answers somebody on a channel.

        The conversation's own, else the one the user prefers, else that of the variant of the experiment, else the channel's.
        """
        own = (known.conversation and known.conversation.model_override) or known.user.preferred_model
        if own:
            return own
        settings, running, variant = self._settings, self._running, None
        if settings.variants and running is not None:
            variant = settings.variants.get(running.flags.variant(EXPERIMENT, user=known.user.user_id, channel=channel_type))
        return variant or (known.config.default_model if known.config else settings.default_model)

    def guess(self, arrival: Arrival) -> str | None:
        """Return which user an identity was last, None where this process does not remember."""
        found = self._remembered.get(self.named(arrival))
        return None if found is None else found[0]

    async def has_met(self, arrival: Arrival) -> bool:
        """Say whether somebody on a channel is a user already."""
        return await self._store.find(Identity.at(*self.named(arrival))) is not None

    async def recall(self, arrival: Arrival) -> Known | None:
        """Return what is remembered of a message's sender, checked in one trip to the cache; None where that is not enough."""
        identity = self.named(arrival)
        found = self._remembered.get(identity)
        if found is None or self._running is None or arrival.conversation_id is not None:
            return None
        user_id, conversation = found
        held, user, config = await asyncio.gather(
            self._identities.get(Identity.at(*identity)), self._users.get(User.at(user_id)), self._config(arrival.channel_type)
        )
        same = held is not None and user is not None and held.user_id == user_id and user.merged_into is None
        if not same or user is None or self._is_over(conversation):
            self._remembered.pop(identity, None)
            return None
        return Known(identity, user, conversation, config)

    async def look(self, arrival: Arrival) -> Known:
        """Return who a message is from and which conversation it continues, as the records say; who was never here is made.

        Raises NotFound for a conversation that is not the sender's.
        """
        user = await self._people.resolve(arrival.channel_type, arrival.channel_user_id, username=arrival.username)
        config = await self._config(arrival.channel_type)
        if arrival.conversation_id is None:
            return Known(self.named(arrival), user, await self.active(user.user_id), config)
        named = await self._store.find(Conversation.at(arrival.conversation_id))
        if named is None or named.user_id != user.user_id:
            raise NotFound("The user has no such conversation.", hint="It may have expired or been deleted.", entity="Conversation")
        return Known(self.named(arrival), user, named, config)

    async def active(self, user_id: str) -> Conversation | None:
        """Return a user's active conversation, None where there is none; one that is over by now is ended here."""
        found = await self._store.find(Conversation.one_active(user_id))
        if found is None or not self._is_over(found):
            return found
        try:
            await self._store.patch(found, set=over(found, self._store.clock.now()), when=unchanged(found))
        except ConditionFailed:
            # Something was said in it after all, or somebody else ended it.
            return await self._store.find(Conversation.one_active(user_id))
        return None

    def _is_over(self, conversation: Conversation) -> bool:
        """Say whether the next message begins another conversation: after a pause, or one that is long enough."""
        pause, touch, running = self._settings.pause, self._settings.touch, self._running
        # What was said last may be up to a step later than the activity that is stored.
        if pause is not None and self._store.clock.now() - conversation.last_activity >= pause + touch:
            return True
        if running is None:
            return False
        most = running.flags.value("max_conversation_length", user=conversation.user_id, channel=conversation.channel_type)
        return bool(conversation.message_count >= most)

    async def _config(self, channel_type: str) -> ChannelConfig | None:
        tenant = self._settings.tenant
        if self._running is not None:
            return await self._running.book.get(tenant, channel_type)
        return await self._store.find(ChannelConfig.at(tenant, channel_type))

    def learn(self, known: Known) -> None:
        """Remember what is so after a write."""
        if self._running is None or known.conversation is None or not known.conversation.is_active:
            return
        self._remembered[known.identity] = (known.user.user_id, known.conversation)
        self._remembered.move_to_end(known.identity)
        if len(self._remembered) > MOST_REMEMBERED:
            self._remembered.popitem(last=False)

    def forget(self, identity: tuple[str, str, str]) -> None:
        """Drop what turned out not to be so."""
        self._remembered.pop(identity, None)
