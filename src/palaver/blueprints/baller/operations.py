"""Baller's operations, in the design's words: record turns, keep preferences, collect feedback, analyse, search.

What only reads one access pattern is in `patterns`; a store runs those values directly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from palaver.batch import unchanged
from palaver.blobpath import segment, subject_prefix
from palaver.blueprints.baller import patterns
from palaver.blueprints.baller.cache import EntityCache
from palaver.blueprints.baller.ids import Snowflakes
from palaver.blueprints.baller.keeping import ERASURE, PURGE, archive_of
from palaver.blueprints.baller.reading import MODES, Reading
from palaver.blueprints.baller.recording import Arrival, Settings, TurnBook
from palaver.blueprints.baller.schema import (
    GLOBAL,
    AppMode,
    Conversation,
    Feedback,
    Message,
    Metric,
    ModelUsage,
    Rating,
    Retention,
    Sentiment,
    UserActivity,
    UserPreferences,
)
from palaver.errors import AlreadyExists, ConditionFailed, Conflict
from palaver.expr import Condition, F
from palaver.insight.metrics import Metrics
from palaver.insight.usage import Usage
from palaver.lifecycle.erase import Erased, erase
from palaver.lifecycle.parts import Manifest
from palaver.lifecycle.purge import Purged, purge_inactive
from palaver.query import Query
from palaver.search.text import tokens
from palaver.searching import Results
from palaver.store import Store
from palaver.turns.recorder import Turn
from palaver.turns.refusing import refusing

ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Ratings:
    """How many verdicts there are of each kind."""

    positive: int
    negative: int

    @property
    def share(self) -> float | None:
        """The share of positive ones, None without any."""
        return self.positive / (self.positive + self.negative) if self.positive or self.negative else None


class Baller(Reading):
    """The operations over one opened store. Also the blueprint's `Transcripts`.

    `entities` is the entity cache, `metrics` reads days and months with percentiles, `usage` reports models and cost;
    the last two count what the store was opened with `projections=baller.PROJECTIONS` for.
    """

    def __init__(self, store: Store, *, retention: Retention | None = None, settings: Settings | None = None) -> None:
        self.store = store
        self.settings = settings or Settings()
        self.entities = EntityCache(store, retention or Retention())
        self.metrics = Metrics(store, Metric)
        self.usage = Usage(store, ModelUsage)
        self._ids = Snowflakes(store.clock)

    # --- the message pipeline -----------------------------------------------------------------------------------------

    def turn(
        self,
        *,
        user_id: str,
        content: str,
        server_id: str | None = None,
        channel_id: str | None = None,
        conversation_id: str | None = None,
        message_id: str | None = None,
        app_mode: AppMode | None = None,
    ) -> Turn:
        """Record a user's message and the pipeline of its answer: `async with baller.turn(...) as turn`.

        `message_id` is the platform's; the same message delivered again gives a turn whose `duplicate` is true. Without
        a `conversation_id` the message continues the user's conversation in this place, or begins one after a pause.
        """
        return Turn(self._book(Arrival(user_id, content, server_id, channel_id, conversation_id, message_id, app_mode)), self.store.clock)

    def _book(self, arrival: Arrival) -> TurnBook:
        return TurnBook(self.store, self.settings, self._ids, arrival)

    async def message(self, message_id: str) -> Message:
        """Return a message by the platform's identifier alone; raise NotFound."""
        return await self.store.get(Message.by_platform_id(message_id))

    async def recent_messages(self, user_id: str, conversation_id: str, n: int = 10) -> list[Message]:
        """Return the last n messages of a user's conversation, oldest first: the context of the next answer."""
        own = patterns.recent_messages(conversation_id, n).filter(F("user_id") == user_id)
        return [message async for message in self.store.query(own)][::-1]

    # --- conversations ------------------------------------------------------------------------------------------------

    async def conversation(self, user_id: str, conversation_id: str) -> Conversation:
        """Return a user's conversation; raise NotFound."""
        return await self.store.get(Conversation.at(user_id, conversation_id))

    async def summarise(self, user_id: str, conversation_id: str, summary: str) -> Conversation:
        """Keep the summary of a longer conversation; it is searched with the messages."""
        return await self.store.patch(Conversation.at(user_id, conversation_id), set={"summary": summary})

    async def delete_conversation(self, user_id: str, conversation_id: str) -> None:
        """Remove a conversation with its messages, their calls and objects; feedback on it is kept."""
        await self.store.delete(Conversation.at(user_id, conversation_id))

    async def conversations_per_mode(self, since: datetime, until: datetime) -> dict[AppMode, int]:
        """Count the conversations begun in a span of time, by mode."""
        return {mode: await self.store.count(patterns.conversations_started(mode, since, until)) for mode in MODES}

    # --- preferences --------------------------------------------------------------------------------------------------

    async def preferences(self, user_id: str, server_id: str | None = None) -> UserPreferences | None:
        """Return what a user set on one server; without a server, what holds everywhere and in direct messages."""
        return await self.store.find(UserPreferences.at(user_id, server_id or GLOBAL))

    async def effective_preferences(self, user_id: str, server_id: str | None = None) -> UserPreferences:
        """Return the server's preferences, else the global ones, else the defaults, which are not stored."""
        found = await self.preferences(user_id, server_id) if server_id else None
        return found or await self.preferences(user_id) or UserPreferences(user_id=user_id, server_id=server_id or GLOBAL)

    async def set_preferences(self, user_id: str, server_id: str | None = None, **changes: Any) -> UserPreferences:
        """Change fields of a user's preferences, which are made if there are none."""
        await self._saw(user_id)
        now = self.store.clock.now()
        at = UserPreferences.at(user_id, server_id or GLOBAL)
        fresh = UserPreferences(user_id=user_id, server_id=server_id or GLOBAL, created_at=now, last_updated=now)
        for _ in range(ATTEMPTS):
            try:
                return await self.store.patch(at, set={**changes, "last_updated": now})
            except ConditionFailed:
                await self._create_if_missing(fresh)
        raise Conflict("The preferences were removed as often as they were made.", hint="Try again after a random pause.")

    async def _create_if_missing(self, fresh: UserPreferences) -> None:
        try:
            await self.store.create(fresh)
        except AlreadyExists:
            # Another message of the same user made them first; the patch that follows finds them.
            return

    async def follow_team(self, user_id: str, team: str, server_id: str | None = None) -> UserPreferences:
        """Add a team at the end of those a user follows; following it twice is following it once."""
        return await self._listed("followed_teams", user_id, server_id, lambda held: [*held, team] if team not in held else held)

    async def unfollow_team(self, user_id: str, team: str, server_id: str | None = None) -> UserPreferences:
        """Take a team off those a user follows; one they do not follow is no error."""
        return await self._listed("followed_teams", user_id, server_id, lambda held: [name for name in held if name != team])

    async def _listed(self, field: str, user_id: str, server_id: str | None, change: Any) -> UserPreferences:
        """Change a list as it is now: when another change came between, read it again."""
        await self._saw(user_id)
        for _ in range(ATTEMPTS):
            held = await self.preferences(user_id, server_id)
            if held is None:
                now = self.store.clock.now()
                await self._create_if_missing(
                    UserPreferences(user_id=user_id, server_id=server_id or GLOBAL, created_at=now, last_updated=now)
                )
                continue
            wanted = change(getattr(held, field))
            if wanted == getattr(held, field):
                return held
            try:
                return await self.store.patch(held, set={field: wanted, "last_updated": self.store.clock.now()}, when=unchanged(held))
            except ConditionFailed:
                continue
        raise Conflict("Other changes of these preferences kept coming first.", hint="Try again after a random pause.")

    async def change_server_preferences(self, server_id: str, **changes: Any) -> int:
        """Change fields of everybody's preferences on one server; return how many. Ones removed meanwhile are left out."""
        # All are found before any is changed, because a change moves its record within the index that is read.
        found = [held async for held in self.store.query(patterns.preferences_of_server(server_id))]
        changed = 0
        for held in found:
            try:
                await self.store.patch(held, set={**changes, "last_updated": self.store.clock.now()})
            except ConditionFailed:
                continue
            changed += 1
        return changed

    # --- feedback -----------------------------------------------------------------------------------------------------

    async def give_feedback(
        self,
        message_id: str,
        *,
        user_id: str,
        rating: Rating,
        follow_up: str | None = None,
        server_id: str | None = None,
        sentiment: Sentiment | None = None,
    ) -> Feedback:
        """Store one person's rating of an answer with the answer as it is now; rating again replaces their own only.

        Raises NotFound where the message is gone.
        """
        message = await self.message(message_id)
        question = message if message.intent else await self._question(message)
        given: dict[str, Any] = {
            "rating": rating,
            "rating_timestamp": self.store.clock.now(),
            "app_mode": message.app_mode,
            "server_id": server_id or message.server_id,
            "response_snapshot": message.content,
            "intent_name": question.intent.name if question and question.intent else None,
            "follow_up_feedback": follow_up,
            "sentiment": sentiment,
        }
        given = {name: value for name, value in given.items() if value is not None}
        with refusing():
            feedback = Feedback(
                message_id=message_id, user_id=user_id, conversation_id=message.conversation_id, owner_id=message.user_id, **given
            )
        await self._saw(user_id)
        try:
            return await self.store.create(feedback)
        except AlreadyExists:
            return await self.store.patch(feedback, set=given)

    async def _question(self, answer: Message) -> Message | None:
        """Return the user's message an answer belongs to: the nearest before it."""
        earlier = Message.key(answer.conversation_id).before(answer.message_id).newest_first()
        async for message in self.store.query(earlier.filter((F("message_type") == "user") & (F("user_id") == answer.user_id)).limit(1)):
            return message
        return None

    async def add_follow_up(self, message_id: str, *, user_id: str, text: str, sentiment: Sentiment | None = None) -> Feedback:
        """Add what a person wrote after rating; raise ConditionFailed where they have not rated."""
        await self._saw(user_id)
        found = {"follow_up_feedback": text} if sentiment is None else {"follow_up_feedback": text, "sentiment": sentiment}
        return await self.store.patch(Feedback.at(message_id, user_id), set=found)

    async def ratings_per_mode(self, since: datetime, until: datetime) -> dict[AppMode, Ratings]:
        """Count the verdicts last given in a span of time, by mode: of who rated again, only the one that stands."""
        return {mode: await self._ratings(patterns.feedback_in_mode(mode, since, until)) for mode in MODES}

    async def _ratings(self, query: Query[Feedback]) -> Ratings:
        given = [feedback.rating async for feedback in self.store.query(query)]
        return Ratings(given.count("positive"), given.count("negative"))

    async def feedback_words(
        self, since: datetime, until: datetime, *, rating: Rating | None = None, most: int = 50
    ) -> list[tuple[str, int]]:
        """Return the words of what people wrote after rating, in a span of time, with how many of them used each; the most used first."""
        used: Counter[str] = Counter()
        for mode in MODES:
            async for feedback in self.store.query(patterns.feedback_in_mode(mode, since, until)):
                if rating in (None, feedback.rating):
                    used.update(set(tokens(feedback.follow_up_feedback or "")))
        return sorted(used.items(), key=lambda word: (-word[1], word[0]))[:most]

    # --- searching ----------------------------------------------------------------------------------------------------

    async def search_conversations(self, text: str = "", *, where: Condition | None = None, **options: Any) -> Results:
        """Find messages and summaries; filters include entities.normalized_name, intent.name and timestamp."""
        return await self.store.search("baller-conversations", text, where=where, **options)

    async def search_feedback(self, text: str = "", *, where: Condition | None = None, **options: Any) -> Results:
        """Find ratings by what people wrote and what was answered; facets count ratings, intents and sentiments."""
        return await self.store.search("baller-feedback-analytics", text, where=where, **options)

    # --- upkeep -------------------------------------------------------------------------------------------------------

    async def _saw(self, user_id: str) -> None:
        """Note that a user was seen, who may do nothing but this: before what they leave, which the purge has to find."""
        now = self.store.clock.now()
        known = await self.store.find(UserActivity.at(user_id))
        if known is None or now - known.last_seen >= self.settings.touch:
            await self.store.put(UserActivity(user_id=user_id, last_seen=now))

    async def inactive_users(self, since: datetime) -> AsyncIterator[str]:
        """Yield who was not seen since then, the longest away first, for the quarterly purge."""
        async for found in self.store.query(patterns.users_inactive_since(since)):
            yield found.user_id

    async def erase_user(self, user_id: str, *, dry_run: bool = False) -> Erased:
        """Remove everything about a user from records, objects, search and archives; return the counts."""
        return await erase(self.store, user_id, policy=ERASURE, archive=archive_of(self.store), dry_run=dry_run)

    async def purge_inactive(self, since: datetime, *, dry_run: bool = False) -> Purged:
        """Take the personal data of everybody not seen since then out of every store; ratings and counters stay."""
        inactive = patterns.users_inactive_since(since)
        return await purge_inactive(self.store, inactive, policy=PURGE, archive=archive_of(self.store), dry_run=dry_run)

    async def archive(self, day: date) -> Manifest:
        """Export everything to `archive/YYYY/MM/DD/`, once a day, and keep the months that ended by then as metrics."""
        manifest = await archive_of(self.store).run(day)
        await self.metrics.close_month(day.replace(day=1) - timedelta(days=1))
        return manifest

    async def stored_objects(self, message: Message) -> list[str]:
        """Return the keys of the objects kept for a message, also of calls whose records are over."""
        return [
            key
            for key in [info.key async for info in self.store.core.blobs.list(subject_prefix(None, message.user_id))]
            if f"/{segment(message.conversation_id)}/{message.message_id}/" in key
        ]
