"""The design's access patterns, each a named query: a value that a store runs, pages, counts or explains."""

from __future__ import annotations

from datetime import date, datetime
from typing import TypeVar

from palaver.blueprints.baller.names import endpoint_template, normalized
from palaver.blueprints.baller.schema import (
    ApiInteraction,
    AppMode,
    CachedEntity,
    Conversation,
    EntityAlias,
    EntityType,
    Feedback,
    LlmInteraction,
    Message,
    Metric,
    ModelUsage,
    Purpose,
    UserActivity,
    UserPreferences,
)
from palaver.entity import Entity
from palaver.query import Query

E = TypeVar("E", bound=Entity)


def within(query: Query[E], since: datetime | date | str | None, until: datetime | date | str | None) -> Query[E]:
    """Narrow a query to sort values from `since` up to, and without, `until`."""
    query = query if since is None else query.since(since)
    return query if until is None else query.before(until)


# --- conversations ----------------------------------------------------------------------------------------------------


def conversations_of_user(user_id: str) -> Query[Conversation]:
    """A user's conversations, newest first."""
    return Conversation.key(user_id).newest_first()


def conversations_of_server(server_id: str, since: datetime | None = None, until: datetime | None = None) -> Query[Conversation]:
    """A server's conversations, last active first."""
    return within(Conversation.by_server(server_id), since, until).newest_first()


def conversations_started(app_mode: AppMode, since: datetime | None = None, until: datetime | None = None) -> Query[Conversation]:
    """Conversations of one mode by the time they began, newest first: analytics over time."""
    return within(Conversation.by_created(app_mode), since, until).newest_first()


# --- messages ---------------------------------------------------------------------------------------------------------


def messages_of_conversation(conversation_id: str) -> Query[Message]:
    """A conversation's messages, oldest first."""
    return Message.key(conversation_id)


def recent_messages(conversation_id: str, n: int) -> Query[Message]:
    """The last n messages, newest first: what a list of recent messages inside the conversation was for."""
    return Message.key(conversation_id).newest_first().limit(n)


def messages_of_user(user_id: str, since: datetime | None = None, until: datetime | None = None) -> Query[Message]:
    """A user's history across conversations, newest first, answers included."""
    return within(Message.by_user(user_id), since, until).newest_first()


def messages_with_intent(intent: str, since: datetime | None = None, until: datetime | None = None) -> Query[Message]:
    """Messages with one detected intent, newest first."""
    return within(Message.by_intent(intent), since, until).newest_first()


# --- preferences ------------------------------------------------------------------------------------------------------


def preferences_of_user(user_id: str) -> Query[UserPreferences]:
    """A user's preferences on all servers, the global ones among them."""
    return UserPreferences.key(user_id)


def preferences_of_server(server_id: str) -> Query[UserPreferences]:
    """All preferences of one server, last changed first."""
    return UserPreferences.by_server(server_id).newest_first()


# --- calls ------------------------------------------------------------------------------------------------------------


def api_calls_of_message(message_id: str) -> Query[ApiInteraction]:
    """Calls of outside services for one message, in the order they began."""
    return ApiInteraction.key(message_id)


def api_calls_of_user(user_id: str, since: datetime | None = None, until: datetime | None = None) -> Query[ApiInteraction]:
    """Calls of outside services for a user's messages, newest first."""
    return within(ApiInteraction.by_user(user_id), since, until).newest_first()


def api_calls_of_endpoint(endpoint: str, since: datetime | None = None, until: datetime | None = None) -> Query[ApiInteraction]:
    """Calls of one endpoint, whatever their identifiers and query strings, newest first."""
    return within(ApiInteraction.by_endpoint(endpoint_template(endpoint)), since, until).newest_first()


def llm_calls_of_message(message_id: str) -> Query[LlmInteraction]:
    """Calls of language models for one message, in the order they began."""
    return LlmInteraction.key(message_id)


def llm_calls_of_user(user_id: str, since: datetime | None = None, until: datetime | None = None) -> Query[LlmInteraction]:
    """Calls of language models for a user's messages, newest first."""
    return within(LlmInteraction.by_user(user_id), since, until).newest_first()


def llm_calls_of_provider(provider: str) -> Query[LlmInteraction]:
    """Calls of one provider, by model and then by time."""
    return LlmInteraction.by_provider_model(provider)


def llm_calls_of_model(provider: str, model: str, since: datetime | None = None, until: datetime | None = None) -> Query[LlmInteraction]:
    """Calls of one model, newest first; a range of time reads only that range."""
    return within(LlmInteraction.by_provider_model(provider, model), since, until).newest_first()


def llm_calls_for_purpose(purpose: Purpose, since: datetime | None = None, until: datetime | None = None) -> Query[LlmInteraction]:
    """Calls of language models for one purpose, newest first."""
    return within(LlmInteraction.by_purpose(purpose), since, until).newest_first()


# --- feedback ---------------------------------------------------------------------------------------------------------


def feedback_on_message(message_id: str) -> Query[Feedback]:
    """Everybody's ratings of one answer."""
    return Feedback.key(message_id)


def feedback_of_user(user_id: str, since: datetime | None = None, until: datetime | None = None) -> Query[Feedback]:
    """What one person rated, newest first."""
    return within(Feedback.by_user(user_id), since, until).newest_first()


def feedback_in_mode(app_mode: AppMode, since: datetime | None = None, until: datetime | None = None) -> Query[Feedback]:
    """Ratings in one mode, newest first."""
    return within(Feedback.by_app_mode(app_mode), since, until).newest_first()


def feedback_about(owner_id: str) -> Query[Feedback]:
    """Ratings by anybody whose snapshot comes from this person's conversations."""
    return Feedback.by_owner(owner_id)


# --- entity cache -----------------------------------------------------------------------------------------------------


def entities_named(entity_type: EntityType, name: str) -> Query[CachedEntity]:
    """Entities whose own name this is, in any spelling; a team and a player of one name are told apart."""
    return CachedEntity.by_name(entity_type, normalized(name))


def names_of(entity_type: EntityType, name: str) -> Query[EntityAlias]:
    """The rows of one name or alias, in any spelling: one for each entity that is called so."""
    return EntityAlias.key(entity_type, normalized(name))


def aliases_of(entity_id: str, entity_type: EntityType) -> Query[EntityAlias]:
    """Every name one entity is looked up by."""
    return EntityAlias.by_entity(entity_id, entity_type)


def entities_of_type(entity_type: EntityType) -> Query[CachedEntity]:
    """All cached entities of one type, by name."""
    return CachedEntity.by_type(entity_type)


# --- metrics and upkeep -----------------------------------------------------------------------------------------------


def metrics_of_day(day: str) -> Query[Metric]:
    """Every metric of one day, in all modes."""
    return Metric.by_date(day)


def metrics_in_category(category: str, since: str | None = None, until: str | None = None) -> Query[Metric]:
    """The metrics of one category, day by day."""
    return within(Metric.by_category(category), since, until)


def metrics_in_mode(app_mode: AppMode, since: str | None = None, until: str | None = None) -> Query[Metric]:
    """The metrics of one mode, day by day."""
    return within(Metric.by_app_mode(app_mode), since, until)


def usage_by_day(since: str | None = None, until: str | None = None) -> Query[ModelUsage]:
    """What models were used for, day by day."""
    return within(ModelUsage.by_day(), since, until)


def users_inactive_since(moment: datetime) -> Query[UserActivity]:
    """Users not seen since then, the longest away first: whose personal data the quarterly purge removes."""
    return UserActivity.by_last_seen().before(moment)
