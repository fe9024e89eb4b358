"""Who a message is from and where it belongs: identity, user, active conversation and the channel's configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from palaver.batch import unchanged
from palaver.blueprints.simple_agent.people import People, over
from palaver.blueprints.simple_agent.schema import ChannelConfig, Conversation, User
from palaver.errors import ConditionFailed, NotFound
from palaver.ids import Ids
from palaver.store import Store

if TYPE_CHECKING:
    from palaver.blueprints.simple_agent.recording import Arrival


@dataclass(frozen=True)
class Known:
    """What is known of a message's sender; `conversation` is None where a new one begins."""

    identity: tuple[str, str, str]
    user: User
    conversation: Conversation | None
    config: ChannelConfig | None

    def within(self, conversation: Conversation) -> Known:
        return replace(self, conversation=conversation)

    def model(self, default: str) -> str:
        """Return the model that answers: the conversation's, else the user's, else the channel's, else the default."""
        override = self.conversation.model_override if self.conversation else None
        return override or self.user.preferred_model or (self.config.default_model if self.config else default)


class Directory:
    """Looks people and their conversations up."""

    def __init__(self, store: Store, people: People, ids: Ids, *, tenant: str, pause: timedelta | None) -> None:
        self.ids = ids
        self._store, self._people, self._tenant, self._pause = store, people, tenant, pause

    async def look(self, arrival: Arrival, *, fresh: bool = False) -> Known:
        """Return who a message is from and which conversation it continues; a user is made for who was never here.

        Raises NotFound for a conversation that is not the sender's.
        """
        identity = (self._tenant, arrival.channel_type, arrival.channel_user_id)
        user = await self._people.resolve(arrival.channel_type, arrival.channel_user_id, username=arrival.username)
        config = await self._store.find(ChannelConfig.at(self._tenant, arrival.channel_type))
        if arrival.conversation_id is None:
            return Known(identity, user, await self.active(user.user_id), config)
        named = await self._store.find(Conversation.at(arrival.conversation_id))
        if named is None or named.user_id != user.user_id:
            raise NotFound("The user has no such conversation.", hint="It may have expired or been deleted.", entity="Conversation")
        return Known(identity, user, named, config)

    async def active(self, user_id: str) -> Conversation | None:
        """Return a user's active conversation, None where there is none; one silent for longer than the pause is ended here."""
        found = await self._store.find(Conversation.one_active(user_id))
        now = self._store.clock.now()
        if found is None or self._pause is None or now - found.last_activity < self._pause:
            return found
        try:
            await self._store.patch(found, set=over(found, now), when=unchanged(found))
        except ConditionFailed:
            # Something was said in it after all, or somebody else ended it.
            return await self._store.find(Conversation.one_active(user_id))
        return None

    def learn(self, known: Known) -> None:
        """Note what is so after a write."""

    def forget(self, known: Known) -> None:
        """Drop what turned out not to be so."""
