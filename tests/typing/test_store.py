"""What users write keeps its types, under mypy --strict and pyright, without a plugin. Checked, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Annotated, Any, assert_type

from pydantic import Field

from palaver import (
    At,
    Batch,
    Entity,
    Expires,
    Expiry,
    F,
    Index,
    InstantMs,
    Key,
    LargeObject,
    Page,
    Query,
    Ref,
    Schema,
    Snowflake,
    Store,
    Unique,
    days,
    migrate,
    migration,
    migration_status,
    now,
    open_sync,
    unchanged,
)
from palaver.errors import NotProvisioned
from palaver.evolve import Migration
from palaver.evolve.actions import Effect
from palaver.explain import Explanation
from palaver.expr import And, Compare, Exists, In, Not, Or
from palaver.migrating import MigrationStatus
from palaver.query import UniqueAt
from palaver.searching import Results
from palaver.sync import SyncStore
from palaver.upkeep import Swept


class User(Entity, table="users"):
    id: str
    email: str
    key = Key("id")
    by_email = Unique("email")


class Message(Entity, table="messages"):
    conversation_id: str
    message_id: Snowflake
    user_id: str
    text: str = ""
    timestamp: InstantMs = Field(default_factory=now)
    expires: Annotated[Expiry | None, Expires(after=days(30), of="timestamp")] = None
    key = Key("conversation_id", sort="message_id")
    by_user = Index("user_id", sort="timestamp")
    user = Ref("user_id", to=User, on_delete="cascade")


def queries_keep_their_entity(a: datetime, b: datetime) -> None:
    query = Message.by_user("u")
    assert_type(query, Query[Message])
    assert_type(query.between(a, b), Query[Message])
    assert_type(query.after(a).before(b).since(a), Query[Message])
    assert_type(query.newest_first().limit(3).filter(F("text") == "x"), Query[Message])
    assert_type(Message.key("c"), Query[Message])
    assert_type(Message.key("c").starting_with("1"), Query[Message])


def addresses_keep_their_entity(message: Message) -> None:
    assert_type(Message.at("c", "1"), At[Message])
    assert_type(message.address, At[Message])
    assert_type(User.by_email("a@b.c"), UniqueAt[User])
    assert_type(message.revision, int)
    assert_type(message.expires, datetime | None)


async def migrations_are_values(schema: Schema) -> None:
    plan = await migration("bot.db", schema=schema)
    assert_type(plan, Migration)
    for action in plan.actions:
        assert_type(action.words, str)
        assert_type(action.effect, Effect)
    assert_type((plan.kept, plan.unmet), tuple[tuple[str, ...], tuple[str, ...]])
    told: list[tuple[str, int]] = []
    done = migrate(schema=schema, allow_data_loss=plan.kept, progress=lambda words, records: told.append((words, records)))
    assert_type(await done, Migration)
    assert_type(await migrate("bot.db", schema=schema, plan=plan), Migration)
    status = await migration_status("bot.db", schema=schema)
    assert_type(status, MigrationStatus)
    assert_type(status.refused, NotProvisioned | None)
    assert_type((status.fits, status.turn, status.applied[0].version), tuple[bool, str, int])


def conditions_are_values() -> None:
    assert_type(F("a") == 1, Compare)
    assert_type(F("a") != 1, Compare)
    assert_type(F("a") < 1, Compare)
    assert_type(F("a").is_in(["x"]), In)
    assert_type(F("a").exists(), Exists)
    assert_type(F("a").missing(), Not)
    assert_type(F("a").between(1, 2), And)
    assert_type((F("a") == 1) & (F("b") == 2), And)
    assert_type((F("a") == 1) | (F("b") == 2), Or)
    assert_type(~(F("a") == 1), Not)


async def reading_gives_the_entity(store: Store) -> None:
    assert_type(await store.get(Message.at("c", "1")), Message)
    assert_type(await store.find(Message.at("c", "1")), Message | None)
    assert_type(await store.get(User.by_email("a@b.c")), User)
    page = await store.page(Message.by_user("u"), limit=5)
    assert_type(page, Page[Message])
    assert_type(page.items, list[Message])
    assert_type(page.cursor, str | None)
    for shown in page:
        assert_type(shown, Message)
    assert_type(store.query(Message.by_user("u")), AsyncIterator[Message])
    async for message in store.query(Message.by_user("u").newest_first()):
        assert_type(message, Message)
    assert_type(await store.count(Message.by_user("u")), int)


async def writing_gives_the_entity(store: Store, message: Message) -> None:
    assert_type(await store.create(message), Message)
    assert_type(await store.put(message, when=unchanged(message)), Message)
    assert_type(await store.patch(message, set={"text": "y"}, when=F("text") == "x"), Message)
    assert_type(await store.patch(Message.at("c", "1"), add={"n": 1}), Message)
    await store.delete(message)
    batch = Batch().create(message).patch(message, set={"text": "y"}).delete(Message.at("c", "1"))
    assert_type(batch, Batch)
    assert_type(await store.write(batch + Batch()), tuple[Entity | None, ...])


def entities_are_checked_when_they_are_made() -> None:
    Message(conversation_id="c", message_id="1", user_id="u")
    Message(conversation_id="c", message_id="1")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    Message(conversation_id=1, message_id="1", user_id="u")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def tenants_are_stores(store: Store) -> None:
    assert_type(store.for_tenant("a"), Store)
    assert_type(store.acting_as("me"), Store)


def takes_any(query: Query[Any]) -> None:
    """A query of one entity is a query of any entity."""


takes_any(Message.by_user("u"))


def the_blocking_store_keeps_types_too(store: SyncStore, user: User, message: Message, value: LargeObject) -> None:
    assert_type(store.get(User.at("u")), User)
    assert_type(store.find(User.by_email("e")), User | None)
    assert_type(store.page(Message.key("c")), Page[Message])
    assert_type(store.query(Message.by_user("u")), Iterator[Message])
    assert_type(store.count(Message.by_user("u")), int)
    assert_type(store.create(message), Message)
    assert_type(store.put(message, when=unchanged(message)), Message)
    assert_type(store.patch(user, set={"email": "f"}), User)
    assert_type(store.patch(Message.at("c", "1"), add={"n": 1}), Message)
    store.delete(user, token="t")
    assert_type(store.write(Batch().create(message)), tuple[Entity | None, ...])
    assert_type(store.bulk([message]), int)
    assert_type(store.stream(value, start=1), Iterator[bytes])
    assert_type(store.search("messages", "goal"), Results)
    assert_type(store.explain(Message.by_user("u")), Explanation)
    store.settle(1.0)
    assert_type(store.sweep(limit=5), Swept)
    store.rebuild("usage")
    assert_type(store.health(), dict[str, Any])
    assert_type(store.for_tenant("a"), SyncStore)
    assert_type(store.acting_as("me"), SyncStore)
    assert_type(store.store, Store)
    assert_type(store.run(store.store.count(Message.by_user("u"))), int)
    store.close()


def the_blocking_store_is_opened_like_the_other(schema: Schema) -> None:
    with open_sync("memory:", schema=schema) as store:
        assert_type(store, SyncStore)
    open_sync("memory:", scheme=schema)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


def the_blocking_store_takes_no_other_types(store: SyncStore) -> None:
    store.get("u")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    store.create({"id": "u"})  # type: ignore[type-var] # pyright: ignore[reportArgumentType]
    store.count(User)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
