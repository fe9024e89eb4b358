"""The design's access patterns, each a named query: a value that a store runs, pages, counts or explains."""

from __future__ import annotations

from datetime import date, datetime
from typing import TypeVar

from palaver.blueprints.simple_agent.schema import (
    ChannelConfig,
    Conversation,
    Exposure,
    FeatureFlag,
    Feedback,
    Identity,
    LoginSession,
    Message,
    Metric,
    ModelCall,
    ModelUsage,
    Rating,
    TurnRecord,
    User,
    UserDay,
)
from palaver.entity import Entity
from palaver.query import Query

E = TypeVar("E", bound=Entity)


def within(query: Query[E], since: datetime | date | str | None, until: datetime | date | str | None) -> Query[E]:
    """Narrow a query to sort values from `since` up to, and without, `until`."""
    query = query if since is None else query.since(since)
    return query if until is None else query.before(until)


# --- people -----------------------------------------------------------------------------------------------------------


def identities_of_user(user_id: str) -> Query[Identity]:
    """Who a user is on each channel, the first linked first."""
    return Identity.by_user(user_id)


def users_by_id(after: str | None = None) -> Query[User]:
    """All users in the order they came, from one on: how a change of all of them goes on where it stopped."""
    return User.by_id() if after is None else User.by_id().after(after)


def users_inactive_since(moment: datetime) -> Query[User]:
    """Users not seen since then, the longest away first."""
    return User.by_last_seen().before(moment)


def users_seen_since(moment: datetime) -> Query[User]:
    """Users seen since then, the latest first."""
    return User.by_last_seen().since(moment).newest_first()


def users_active_on(day: str) -> Query[UserDay]:
    """Who wrote on one UTC day."""
    return UserDay.by_day(day)


def days_of_user(user_id: str, since: str | None = None, until: str | None = None) -> Query[UserDay]:
    """The days on which one user wrote, the latest first."""
    return within(UserDay.key(user_id), since, until).newest_first()


def sessions_of_user(user_id: str) -> Query[LoginSession]:
    """The sessions of one user."""
    return LoginSession.key(user_id)


# --- conversations ----------------------------------------------------------------------------------------------------


def conversations_of_user(user_id: str, since: datetime | None = None, until: datetime | None = None) -> Query[Conversation]:
    """A user's conversations on all channels, the latest begun first."""
    return within(Conversation.by_user(user_id), since, until).newest_first()


def active_conversations(since: datetime | None = None) -> Query[Conversation]:
    """Conversations that have not ended, the latest active first."""
    return within(Conversation.by_active(True), since, None).newest_first()


def stale_conversations(before: datetime) -> Query[Conversation]:
    """Conversations that have not ended and in which nothing was said since, the longest silent first."""
    return Conversation.by_active(True).before(before)


def recent_conversations(since: datetime | None = None, until: datetime | None = None) -> Query[Conversation]:
    """Conversations by their last activity, ended ones among them, the latest first."""
    return within(Conversation.by_activity(), since, until).newest_first()


# --- messages ---------------------------------------------------------------------------------------------------------


def messages_of_conversation(conversation_id: str) -> Query[Message]:
    """A conversation's messages, oldest first."""
    return Message.key(conversation_id)


def recent_messages(conversation_id: str, n: int) -> Query[Message]:
    """The last n messages of a conversation, newest first."""
    return Message.key(conversation_id).newest_first().limit(n)


def message_by_id(message_id: str) -> Query[Message]:
    """The message of one id, when its conversation is not known."""
    return Message.by_id(message_id).limit(1)


def messages_of_user(user_id: str, since: datetime | None = None, until: datetime | None = None) -> Query[Message]:
    """What was said in a user's conversations on all channels, newest first, replies included."""
    return within(Message.by_user(user_id), since, until).newest_first()


def messages_by_time(since: datetime | None = None, until: datetime | None = None) -> Query[Message]:
    """Everybody's messages, newest first."""
    return within(Message.by_timestamp(), since, until).newest_first()


# --- calls and ratings ------------------------------------------------------------------------------------------------


def turns_of_conversation(conversation_id: str) -> Query[TurnRecord]:
    """What became of each question of a conversation, in their order."""
    return TurnRecord.key(conversation_id)


def turns_of_user(user_id: str, since: datetime | None = None, until: datetime | None = None) -> Query[TurnRecord]:
    """What became of a user's questions, newest first."""
    return within(TurnRecord.by_user(user_id), since, until).newest_first()


def model_calls_of_conversation(conversation_id: str) -> Query[ModelCall]:
    """Calls of models in one conversation, question by question."""
    return ModelCall.key(conversation_id)


def model_calls_of_message(conversation_id: str, message_id: str) -> Query[ModelCall]:
    """Calls of models for one question, in the order they began."""
    return ModelCall.key(conversation_id, message_id)


def model_calls_of_user(user_id: str, since: datetime | None = None, until: datetime | None = None) -> Query[ModelCall]:
    """Calls of models for a user's questions, newest first."""
    return within(ModelCall.by_user(user_id), since, until).newest_first()


def model_calls_of_provider(provider: str) -> Query[ModelCall]:
    """Calls of one provider, by model and then by time."""
    return ModelCall.by_model(provider)


def model_calls_of_model(provider: str, model: str, since: datetime | None = None, until: datetime | None = None) -> Query[ModelCall]:
    """Calls of one model, newest first; a range of time reads only that range."""
    return within(ModelCall.by_model(provider, model), since, until).newest_first()


def feedback_on_message(message_id: str) -> Query[Feedback]:
    """Everybody's ratings of one reply."""
    return Feedback.key(message_id)


def feedback_of_user(user_id: str, since: datetime | None = None, until: datetime | None = None) -> Query[Feedback]:
    """What one person rated, newest first."""
    return within(Feedback.by_user(user_id), since, until).newest_first()


def feedback_rated(rating: Rating, since: datetime | None = None, until: datetime | None = None) -> Query[Feedback]:
    """Ratings of one kind, newest first."""
    return within(Feedback.by_rating(rating), since, until).newest_first()


# --- channels and flags -----------------------------------------------------------------------------------------------


def channels_of_tenant(tenant: str) -> Query[ChannelConfig]:
    """What one tenant decided for each of its channels."""
    return ChannelConfig.key(tenant)


def settings_of_flags(namespace: str) -> Query[FeatureFlag]:
    """Everything that was set for the flags of one set."""
    return FeatureFlag.key(namespace)


def flags_of_user(user_id: str) -> Query[FeatureFlag]:
    """What was set for one user."""
    return FeatureFlag.by_user(user_id)


def exposures_of_user(user_id: str) -> Query[Exposure]:
    """The variants one user saw."""
    return Exposure.key(user_id)


def exposures_of_experiment(experiment: str, since: datetime | None = None, until: datetime | None = None) -> Query[Exposure]:
    """Who saw an experiment, the first first."""
    return within(Exposure.by_experiment(experiment), since, until)


# --- reports ----------------------------------------------------------------------------------------------------------


def metrics_of_day(day: str) -> Query[Metric]:
    """Every figure of one day, on all channels."""
    return Metric.by_date(day)


def metrics_in_category(category: str, since: str | None = None, until: str | None = None) -> Query[Metric]:
    """The figures of one category, day by day."""
    return within(Metric.by_category(category), since, until)


def metrics_on_channel(channel_type: str, since: str | None = None, until: str | None = None) -> Query[Metric]:
    """The figures of one channel, day by day."""
    return within(Metric.by_app_mode(channel_type), since, until)


def usage_by_day(since: str | None = None, until: str | None = None) -> Query[ModelUsage]:
    """What models were used for and what it cost, day by day."""
    return within(ModelUsage.by_day(), since, until)
