"""Two tenants in one store: whatever one asks with the other's identifiers, nothing is there, and nothing is changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

import palaver
from palaver.blueprints import simple_agent
from palaver.blueprints.simple_agent import SCHEMA, Settings, SimpleAgent, patterns
from palaver.blueprints.simple_agent.channels import Channels
from palaver.blueprints.simple_agent.people import Merged, People
from palaver.blueprints.simple_agent.running import Running
from palaver.blueprints.simple_agent.schema import (
    DEFAULT_TENANT,
    ENTITIES,
    Conversation,
    Identity,
    Message,
    ModelCall,
    RateLimits,
    TurnRecord,
    User,
    UserDay,
)
from palaver.errors import ConfigError, NotFound, NotProvisioned, RateLimited, Unauthenticated, Validation
from palaver.expr import F
from palaver.lifecycle.archive import Archive
from palaver.lifecycle.erase import Erased
from palaver.ops import Address, Cause, Delete, WriteSet
from palaver.turns import Transcripts
from tests.blueprints.simple_agent.given import ask, found

LONG = palaver.days(365)


@dataclass
class Two:
    """Tenant "a" with something of every kind, and tenant "b", who knows all its identifiers."""

    a: SimpleAgent
    b: SimpleAgent
    user: str
    second: str
    conversation: str
    question: str
    reply: str
    token: str
    clock: palaver.ManualClock
    mine: str
    """The user of "b" who has the same name on the same channel."""


@pytest.fixture
async def running(url: str, clock: palaver.ManualClock) -> AsyncIterator[Running]:
    async with palaver.open(url, schema=SCHEMA, clock=clock, maintain=False) as store, await simple_agent.capabilities(store) as running:
        yield running


@pytest.fixture
async def two(running: Running, clock: palaver.ManualClock) -> Two:
    store = running.book._store
    a, b = (SimpleAgent(store, running, settings=Settings(tenant=name)) for name in "ab")
    await a.channels.configure("discord", default_model="claude", credentials={"token": "of the bot"})
    started = await a.log_in("discord", "ann")
    turn = await ask(a, "A secret question.", "A secret reply.", who="ann")
    await a.people.link(turn.user_id, "slack", "U1")
    await a.people.prefer(turn.user_id, "claude")
    await a.give_feedback(turn.reply_id, user_id=turn.user_id, rating="positive")
    second = await ask(a, "A second secret.", "Kept.", who="bob")
    mine = (await b.people.resolve("discord", "ann")).user_id
    await store.settle()
    return Two(a, b, turn.user_id, second.user_id, turn.conversation_id, turn.message_id, turn.reply_id, started.token, clock, mine)


async def everything(agent: SimpleAgent) -> dict[str, list[str]]:
    """Return all records as they lie."""
    held: dict[str, list[str]] = {}
    for entity in ENTITIES:
        table = entity.declared().table.name
        page = await agent.store.core.records.scan(table, after=None, limit=1_000)
        # A session that is read lives on, whoever reads it; only its time of use moves.
        held[table] = sorted(repr(sorted(record.items())) for record in page.records) if table != "sessions" else [str(len(page.records))]
    return held


async def _message_in(two: Two) -> None:
    async with two.b.message_in(two.token, "Me?"):
        pass


async def _message(two: Two) -> None:
    async with two.b.message("discord", "ann", "Mine?", conversation_id=two.conversation):
        pass


async def _transcript(two: Two, user: str, last: int | None = None) -> list[Any]:
    return [said async for said in two.b.transcript(user, two.conversation, last=last)]


async def _items(page: Awaitable[Any]) -> list[Any]:
    return list((await page).items)


Tried = Callable[[Two], Awaitable[Any]]

REFUSED: dict[str, Tried] = {
    "People.get": lambda two: two.b.people.get(two.user),
    "People.prefer": lambda two: two.b.people.prefer(two.user, "gpt-4"),
    "People.change": lambda two: two.b.people.change(two.user, metadata={"seen": True}),
    "People.link": lambda two: two.b.people.link(two.user, "slack", "mallory"),
    "People.link, the same name": lambda two: two.b.people.link(two.user, "slack", "U1"),
    "People.merge into theirs": lambda two: two.b.people.merge(two.mine, into=two.user),
    "People.merge of theirs": lambda two: two.b.people.merge(two.user, into=two.second),
    "SimpleAgent.message": _message,
    "SimpleAgent.message_of": lambda two: two.b.message_of(two.reply),
    "SimpleAgent.conversation": lambda two: two.b.conversation(two.conversation),
    "SimpleAgent.end": lambda two: two.b.end(two.conversation),
    "SimpleAgent.override_model": lambda two: two.b.override_model(two.conversation, "gpt-4"),
    "SimpleAgent.give_feedback": lambda two: two.b.give_feedback(two.reply, user_id=two.mine, rating="negative"),
    "Transcripts.rate": lambda two: two.b.rate(two.reply, user_id=two.user, rating="negative"),
    "Transcripts.transcript": lambda two: _transcript(two, two.user),
    "Transcripts.transcript of one's own": lambda two: _transcript(two, two.mine),
    "Transcripts.transcript, the last": lambda two: _transcript(two, two.user, last=5),
    "Transcripts.append": lambda two: two.b.append(two.user, two.conversation, "user", "Me?"),
    "Transcripts.append to one's own": lambda two: two.b.append(two.mine, two.conversation, "user", "Me?"),
    "Transcripts.append to a new one": lambda two: two.b.append(two.user, "another", "user", "Me?"),
    "Channels.credentials": lambda two: two.b.channels.credentials("discord"),
}

EMPTY: dict[str, tuple[Any, Tried]] = {
    "People.find": (None, lambda two: two.b.people.find(two.user)),
    "People.following": (None, lambda two: two.b.people.following(two.user)),
    "People.identities": ([], lambda two: two.b.people.identities(two.user)),
    "People.unlink": (None, lambda two: two.b.people.unlink("slack", "U1")),
    "People.merge into one's own": (Merged(finished=True), lambda two: two.b.people.merge(two.user, into=two.mine)),
    "SimpleAgent.recent_messages": ([], lambda two: two.b.recent_messages(two.conversation)),
    "SimpleAgent.history": ([], lambda two: _items(two.b.history(two.user))),
    "SimpleAgent.messages": ([], lambda two: _items(two.b.messages(two.conversation))),
    "SimpleAgent.active_conversation": (None, lambda two: two.b.active_conversation(two.user)),
    "SimpleAgent.delete_conversation": (None, lambda two: two.b.delete_conversation(two.conversation)),
    "SimpleAgent.end_stale": (0, lambda two: two.b.end_stale(two.clock.now() + LONG)),
    "SimpleAgent.erase_user": (Erased(), lambda two: two.b.erase_user(two.user)),
    "SimpleAgent.erase_user, dry": (Erased(), lambda two: two.b.erase_user(two.user, dry_run=True)),
    "SimpleAgent.log_out": (None, lambda two: two.b.log_out(two.token)),
    "SimpleAgent.model_for": ("gpt-4", lambda two: two.b.model_for("discord", "ann")),
    "Transcripts.chats": ([], lambda two: _items(two.b.chats())),
    "Transcripts.chats of a user": ([], lambda two: _items(two.b.chats(user_id=two.user))),
    "Channels.config": (None, lambda two: two.b.channels.config("discord")),
    "Channels.all": ([], lambda two: two.b.channels.all()),
    "Channels.remove": (None, lambda two: two.b.channels.remove("discord")),
}

SEARCHED: dict[str, Callable[[SimpleAgent, Two], Awaitable[Any]]] = {
    "SimpleAgent.search_messages": lambda agent, two: agent.search_messages("secret"),
    "SimpleAgent.search_messages by user": lambda agent, two: agent.search_messages("secret", where=F("user_id") == two.user),
    "Transcripts.search": lambda agent, two: agent.search("secret"),
    "Transcripts.search by user": lambda agent, two: agent.search("secret", user_id=two.user),
}

OTHERWISE = {
    # Each has a test of its own below.
    "SimpleAgent.for_tenant",
    "SimpleAgent.message_in",
    "SimpleAgent.start",
    "SimpleAgent.log_in",
    "SimpleAgent.purge_inactive",
    "SimpleAgent.migrate_users",
    "People.resolve",
    "People.are_others",
    "Channels.configure",
    # Of the whole installation, as the page says.
    "SimpleAgent.experiment",
}


def test_every_public_operation_is_tried() -> None:
    tried = {name.partition(",")[0].partition(" ")[0] for name in (*REFUSED, *EMPTY, *SEARCHED)} | OTHERWISE
    shown = {name for name in vars(Transcripts) if not name.startswith("_")}
    for kind in (SimpleAgent, People, Channels):
        public = {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}
        assert set() == {name for name in public if not tried & {f"{kind.__name__}.{name}", f"Transcripts.{name}" if name in shown else ""}}


async def test_what_is_anothers_is_not_there_and_stays_as_it_is(two: Two) -> None:
    before = await everything(two.a)
    for name, tried in REFUSED.items():
        with pytest.raises(NotFound):
            pytest.fail(f"{name} gave {await tried(two)!r}")
        assert before == await everything(two.a), name
    for name, (nothing, asked) in EMPTY.items():
        assert nothing == await asked(two), name
        assert before == await everything(two.a), name
    for name, searched in SEARCHED.items():
        assert 0 < len(await searched(two.a, two)), f"{name} finds nothing for its owner either"
        assert [] == list(await searched(two.b, two)), name


async def test_a_stranger_does_not_become_anothers_user(two: Two) -> None:
    with pytest.raises(NotFound):
        await two.b.people.link(two.user, "slack", "mallory")
    assert (await ask(two.b, channel="slack", who="mallory")).user_id not in (two.user, two.second)
    assert two.user == (await two.a.people.resolve("discord", "ann")).user_id
    assert two.mine == (await two.b.people.resolve("discord", "ann")).user_id


async def test_a_user_is_not_given_to_another_tenant(two: Two) -> None:
    for given in ({"tenant": "a"}, {"merged_into": two.user}):
        with pytest.raises(Validation):
            await two.b.people.change(two.mine, **given)
    await two.b.store.patch(await two.b.people.get(two.mine), set={"merged_into": two.user})
    assert two.mine == (await two.b.people.following(two.mine)).user_id  # type: ignore[union-attr]


async def test_a_session_is_of_its_own_tenant(two: Two) -> None:
    before = await everything(two.a)
    with pytest.raises(Unauthenticated):
        await _message_in(two)
    await two.b.log_out(two.token)
    assert before == await everything(two.a)
    async with two.a.message_in(two.token, "Still me?") as turn:
        assert (two.user, two.conversation) == (turn.user_id, turn.conversation_id)
    theirs = await two.b.log_in("discord", "ann")
    async with two.b.message_in(theirs.token, "Me.") as turn:
        assert two.mine == turn.user_id
    with pytest.raises(Unauthenticated):
        async with two.a.message_in(theirs.token, "Me?"):
            pass
    await two.a.log_out(two.token)
    with pytest.raises(Unauthenticated):
        async with two.a.message_in(two.token, "Me?"):
            pass


async def test_nobody_rates_in_anothers_name(two: Two) -> None:
    own = await ask(two.b, who="ann")
    before = await everything(two.a)
    with pytest.raises(NotFound):
        await two.b.give_feedback(own.reply_id, user_id=two.user, rating="negative")
    assert before == await everything(two.a)
    await two.b.give_feedback(own.reply_id, user_id=two.mine, rating="negative")


async def test_upkeep_of_one_tenant_leaves_the_others_alone(two: Two) -> None:
    await ask(two.b, who="ann")
    ended = await two.b.end_stale(two.clock.now() + LONG)
    assert (1, None) == (ended, await two.b.active_conversation(two.mine))
    assert (await two.a.conversation(two.conversation)).is_active
    marks = [await agent.migrate_users("zones", lambda user: {"metadata": {"by": user.tenant}}, batch_size=1) for agent in (two.b, two.a)]
    assert [("b/zones", 1, True), ("a/zones", 2, True)] == [(mark.name, mark.changed, mark.done) for mark in marks]
    assert {"by": "a"} == (await two.a.people.get(two.user)).metadata
    purged = await two.b.purge_inactive(two.clock.now() + LONG)
    assert 1 == purged.persons
    assert {two.user, two.second} == {user.user_id for user in await found(two.a, patterns.users_by_id())}
    assert two.user == (await two.a.people.get(two.user)).user_id


async def test_an_erasure_that_was_cut_off_is_finished_by_its_own_tenant_only(two: Two) -> None:
    await two.a.store.core.records.write(_without(two))
    assert (Erased(), True) == (await two.b.erase_user(two.user), await two.b.people.are_others(two.user))
    assert not await two.a.people.are_others(two.user)
    assert 2 == len((await two.a.history(two.user)).items)
    await two.a.erase_user(two.user)
    assert [] == (await two.a.history(two.user)).items


async def test_what_is_left_of_who_is_gone_is_erased_by_their_own_tenant_only(two: Two) -> None:
    two.clock.advance(LONG)
    await two.a.purge_inactive(two.clock.now())
    await two.a.store.settle()
    assert ["a"] == [rating.tenant for rating in await found(two.a, patterns.feedback_of_user(two.user))]
    assert await two.b.people.are_others(two.user)

    assert Erased() == await two.b.erase_user(two.user)
    assert {"Feedback": 1} == (await two.a.erase_user(two.user)).deleted


@pytest.mark.parametrize("entities", [[User, Message], [Message], [Conversation, TurnRecord], [ModelCall, Identity, UserDay]])
async def test_who_is_only_archived_is_erased_by_their_own_tenant_only(two: Two, entities: list[Any]) -> None:
    archive = await _only_archived(two, entities)
    names = [name async for name, _ in archive.about(two.second)]
    assert names
    assert [False, True] == [await two.b.people.are_others(two.second, archived=archived) for archived in (False, True)]

    assert Erased() == await two.b.erase_user(two.second)
    assert names == [name async for name, _ in archive.about(two.second)]
    assert len(names) == (await two.a.erase_user(two.second)).archived
    assert [] == [name async for name, _ in archive.about(two.second)]
    assert [] != [name async for name, _ in archive.about(two.user)]


async def test_what_does_not_say_whose_it_is_is_erased_without_tenants_only(two: Two) -> None:
    archive = await _only_archived(two, [TurnRecord, UserDay])
    for agent in (two.a, two.b):
        with pytest.raises(NotProvisioned, match="does not say of which tenant"):
            await agent.erase_user(two.second)
    assert Erased() == await two.b.erase_user("nobody")
    names = [name async for name, _ in archive.about(two.second)]

    assert len(names) == (await two.a.for_tenant(DEFAULT_TENANT).erase_user(two.second)).archived
    assert [] == [name async for name, _ in archive.about(two.second)]


async def _only_archived(two: Two, entities: list[Any]) -> Archive:
    """Archive these entities and remove everything of the second person from the records, as their end by age would."""
    archive = Archive(two.a.store)
    await archive.run(two.clock.now().date(), entities)
    await two.a.store.delete(User.at(two.second))
    await two.a.store.sweep()
    return archive


def _without(two: Two) -> Any:
    """Return what removes the user's row alone, as an erasure that stopped there has."""
    return WriteSet([Delete(Address("users", (two.user,)))], two.a.store.core.now_us(), Cause("erase"))


async def test_an_agent_for_another_tenant_is_the_same_but_for_that(two: Two) -> None:
    there = two.b.for_tenant("a")

    assert "a" == there.settings.tenant
    assert two.b.running is there.running
    assert ["A secret question.", "A secret reply."] == [said.content async for said in there.transcript(two.user, two.conversation)]


async def test_channels_are_each_tenants_own(two: Two) -> None:
    theirs = await two.b.channels.configure("discord", default_model="gpt-4o")
    assert ("b", "claude") == (theirs.tenant, (await two.a.channels.config("discord")).default_model)  # type: ignore[union-attr]
    assert {"token": "of the bot"} == await two.a.channels.credentials("discord")
    kept = [await found(two.a, patterns.channels_of_tenant(name)) for name in "ab"]
    assert [["a"], ["b"]] == [[each.tenant for each in configs] for configs in kept]


async def test_presence_is_each_tenants_own(two: Two) -> None:
    assert two.b.running is not None
    await ask(two.b, who="ann")
    presence = two.b.running.presence
    assert {two.mine} == {each.member for each in await presence.active("b/discord")}
    assert {two.user, two.second} == {each.member for each in await presence.active("a/discord")}
    assert [] == await presence.active("discord")
    assert ["discord", "main/b/discord"] == [Settings().qualified(name) for name in ("discord", "b/discord")]


async def test_limits_are_counted_for_each_tenant_by_itself(two: Two) -> None:
    await two.a.channels.configure("web", default_model="gpt-4", rate_limits=RateLimits(per_ip=1))
    await two.b.channels.configure("web", default_model="gpt-4", rate_limits=RateLimits(per_ip=1))
    for agent in (two.a, two.b):
        async with agent.message("web", "ann", "One.", ip="192.0.2.1"):
            pass
        with pytest.raises(RateLimited):
            async with agent.message("web", "ann", "Two.", ip="192.0.2.1"):
                pass


async def test_an_address_is_a_household_for_every_tenant(two: Two) -> None:
    await two.b.channels.configure("web", default_model="gpt-4", rate_limits=RateLimits(per_ip=1))
    async with two.b.message("web", "ann", "One.", ip="2001:db8::1"):
        pass
    with pytest.raises(RateLimited):
        async with two.b.message("web", "bob", "Two.", ip="2001:db8::2"):
            pass
    assert two.b.running is not None
    assert 0 == two.b.running.limits.figures.unparsed


async def test_a_conversation_that_is_typed_in_is_the_agents_tenants(two: Two) -> None:
    await two.b.append("typed", "by hand", "user", "Hello?")
    assert "b" == (await two.b.conversation("by hand")).tenant
    assert ["b"] == [each.tenant for each in await two.b.people.identities("typed")]
    assert ["Hello?"] == [each.content for each in await two.b.recent_messages("by hand")]
    with pytest.raises(NotFound):
        await two.a.conversation("by hand")
    assert ["by hand"] == [each.conversation_id for each in (await two.b.chats()).items]
    started = await two.b.start("discord", "ann")
    assert ("b", two.mine) == (started.tenant, started.user_id)


def test_a_tenants_name_does_not_read_as_another_and_a_channel() -> None:
    for name in ("", "a/b"):
        with pytest.raises(ConfigError):
            Settings(tenant=name)
