"""A running agent: what it looks up, limits, remembers and forgets, how many trips that takes, and how it goes on without a cache."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import palaver
from palaver.blueprints import simple_agent
from palaver.blueprints.simple_agent import SCHEMA, Settings, SimpleAgent, patterns
from palaver.blueprints.simple_agent.running import PER_USER, ChannelBook
from palaver.blueprints.simple_agent.schema import ChannelConfig, Exposure, RateLimits
from palaver.connections.redis_wire import Wire
from palaver.errors import RateLimited, Validation
from palaver.store import Store
from tests import servers
from tests.blueprints.simple_agent.given import ask, found
from tests.stacks import fresh

Running = Callable[..., AbstractAsyncContextManager[SimpleAgent]]


@pytest.fixture(params=["memory", "redis", "none"])
def cache(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stack(request: pytest.FixtureRequest) -> str:
    return "sqlite"


@pytest.fixture
def running(url: str, cache: str, request: pytest.FixtureRequest) -> Running:
    """Open a running agent: `async with running(settings=…) as agent`."""
    if cache == "redis":
        server: servers.Redis = request.getfixturevalue("redis")
        cache = f"{server.url}?prefix={quote(request.node.name[:40], safe='')}"
    at = f"{url}{'&' if '?' in url else '?'}cache={quote(cache, safe='')}"

    @asynccontextmanager
    async def make(*, settings: Settings | None = None, clock: palaver.Clock | None = None) -> AsyncIterator[SimpleAgent]:
        given = {} if clock is None else {"clock": clock}
        async with palaver.open(at, schema=SCHEMA, maintain=False, **given) as store, await simple_agent.capabilities(store) as found:  # type: ignore[arg-type]
            yield SimpleAgent(store, found, settings=settings)

    return make


async def until(holds: Callable[[], Any], patience: float = 10.0) -> None:
    """Wait until something holds that nobody tells us of."""
    end = time.monotonic() + patience
    while not await holds():
        assert time.monotonic() < end, "it never came to hold"
        await asyncio.sleep(0.01)


# --- the same with every cache, and with none -------------------------------------------------------------------------


async def test_messages_are_stored_and_read_as_prompts_whatever_the_cache(running: Running) -> None:
    async with running() as agent:
        for n in range(15):
            async with agent.message("discord", "ann", f"Question {n}") as turn:
                prompt = await turn.prompt()
                expected = [message.content for message in await agent.recent_messages(turn.conversation_id, 20)]
                assert expected == [message.content for message in prompt]
                assert f"Question {n}" == prompt[-1].content
                await turn.reply(f"Answer {n}")
        assert 20 == len(prompt)
        async with agent.message("discord", "ann", "And now?") as turn:
            assert ["Answer 14", "And now?"] == [message.content for message in await turn.prompt(limit=2)]
            assert ["And now?"] == [message.content for message in await turn.prompt(budget=1)]
            assert await turn.say("developer", "Be brief.") is not None
            assert ["And now?", "Be brief."] == [message.content for message in await turn.prompt(limit=2)]


async def test_a_prompt_within_a_budget_is_the_same_with_and_without_contexts(running: Running) -> None:
    async with running() as agent:
        bare = SimpleAgent(agent.store)
        for each, who in ((agent, "ann"), (bare, "ben")):
            await ask(each, "x" * 400, "y" * 40, who=who)
            async with each.message("discord", who, "z" * 400, token_count=7) as turn:
                # A reply takes the tokens its model said, what says nothing takes a quarter of its bytes and four.
                lengths = {budget: [message.content[0] for message in await turn.prompt(budget=budget)] for budget in (0, 7, 506, 507, 611)}
                assert {0: ["z"], 7: ["z"], 506: ["z"], 507: ["y", "z"], 611: ["x", "y", "z"]} == lengths
                assert ["y", "z"] == [message.content[0] for message in await turn.prompt(limit=2, budget=10_000)]
                for mistake in ({"limit": 0}, {"limit": 21}, {"budget": -1}):
                    with pytest.raises(Validation, match="1 to 20 messages"):
                        await turn.prompt(**mistake)


async def test_who_was_linked_merged_or_unlinked_is_known_at_the_next_message(running: Running) -> None:
    async with running() as agent:
        ann = (await ask(agent)).user_id
        bob = (await ask(agent, channel="slack", who="bob")).user_id
        await ask(agent, channel="slack", who="bob")
        await agent.people.merge(bob, into=ann)
        assert ann == (await ask(agent, channel="slack", who="bob")).user_id
        await agent.people.unlink("slack", "bob")
        again = await ask(agent, channel="slack", who="bob")
        assert again.user_id not in (ann, bob)


async def test_what_decides_about_the_model_is_known_at_the_next_message(running: Running) -> None:
    async with running() as agent:
        turn = await ask(agent)

        async def model() -> str:
            async with agent.message("discord", "ann", "?") as turn:
                return turn.model

        assert "gpt-4" == await model()
        await agent.people.prefer(turn.user_id, "of the user")
        assert "of the user" == await model()
        await agent.override_model(turn.conversation_id, "of the conversation")
        assert "of the conversation" == await model()
        await agent.override_model(turn.conversation_id, None)
        await agent.people.prefer(turn.user_id, None)
        await agent.channels.configure("discord", default_model="of the channel")
        assert "of the channel" == await model()


async def test_an_ended_conversation_is_not_gone_on_with(running: Running) -> None:
    async with running() as agent:
        first = await ask(agent)
        await agent.end(first.conversation_id)
        second = await ask(agent)
        assert first.conversation_id != second.conversation_id
        async with agent.message("discord", "ann", "What did I say?") as turn:
            prompt = await turn.prompt()
        assert {second.conversation_id} == {message.conversation_id for message in prompt}


async def test_a_second_process_hears_of_it_too(running: Running) -> None:
    async with running() as agent, running() as other:
        turn = await ask(agent)
        assert turn.conversation_id == (await ask(other)).conversation_id
        await other.override_model(turn.conversation_id, "of the other")
        async with agent.message("discord", "ann", "?") as heard:
            assert "of the other" == heard.model
            assert ["What is due today?", "Two invoices.", "What is due today?", "Two invoices.", "?"] == [
                message.content for message in await heard.prompt()
            ]


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_sixty_messages_a_minute_and_no_more_also_at_the_edge(running: Running) -> None:
    async with running() as agent:
        for _ in range(60):
            async with agent.message("discord", "ann", "?"):
                pass
        for _ in range(3):
            with pytest.raises(RateLimited) as refused:
                await ask(agent)
            assert 0 < refused.value.retry_after_s <= 64
        assert 60 == len(await found(agent, patterns.messages_by_time()))


async def test_a_delivery_that_is_repeated_counts_once(running: Running) -> None:
    async with running() as agent:
        await agent.channels.configure("discord", default_model="m", rate_limits=RateLimits(per_user=2))
        await ask(agent, delivery_id="1")
        for _ in range(5):
            async with agent.message("discord", "ann", "?", delivery_id="1") as again:
                assert again.duplicate
        await ask(agent, delivery_id="2")
        with pytest.raises(RateLimited):
            await ask(agent, delivery_id="3")


async def test_an_address_is_limited_whoever_writes_from_it(running: Running) -> None:
    async with running() as agent:
        await agent.channels.configure("web", default_model="m", rate_limits=RateLimits(per_ip=3))
        for n in range(3):
            await ask(agent, channel="web", who=f"{n}", ip="203.0.113.7")
        with pytest.raises(RateLimited):
            await ask(agent, channel="web", who="4", ip="203.0.113.7")
        # Nothing is stored of who was not let in.
        assert 3 == len(await found(agent, patterns.users_by_id()))
        await ask(agent, channel="web", who="5", ip="203.0.113.8")


async def test_linked_channels_share_the_limit_of_their_user(running: Running) -> None:
    async with running() as agent:
        for channel in ("discord", "slack"):
            await agent.channels.configure(channel, default_model="m", rate_limits=RateLimits(per_user=2))
        turn = await ask(agent)
        await agent.people.link(turn.user_id, "slack", "U1")
        await ask(agent, channel="slack", who="U1")
        with pytest.raises(RateLimited):
            await ask(agent)


# --- flags, presence, sessions ----------------------------------------------------------------------------------------


async def test_flags_have_safe_defaults_and_are_set_per_channel_and_user(running: Running) -> None:
    async with running() as agent:
        assert agent.running is not None
        flags = agent.running.flags
        async with agent.message("discord", "ann", "?") as turn:
            assert (True, False) == (turn.flag("enable_mcp_security"), turn.flag("enable_slash_commands"))
            await flags.set("enable_slash_commands", True, channel="discord")
            assert turn.flag("enable_slash_commands")
        async with agent.message("slack", "bob", "?") as turn:
            assert not turn.flag("enable_slash_commands")


async def test_the_flags_of_a_message_are_those_of_the_channel_it_came_over(running: Running) -> None:
    async with running() as agent:
        assert agent.running is not None
        begun = await ask(agent)
        await agent.people.link(begun.user_id, "slack", "U1")
        await agent.running.flags.set("enable_slash_commands", True, channel="discord")
        async with agent.message("slack", "U1", "/help") as turn:
            assert begun.conversation_id == turn.conversation_id
            assert not turn.flag("enable_slash_commands")
        async with agent.message("discord", "ann", "/help") as turn:
            assert turn.flag("enable_slash_commands")


async def test_a_conversation_that_is_long_enough_is_ended_by_the_next_message(running: Running) -> None:
    async with running() as agent:
        assert agent.running is not None
        await agent.running.flags.set("max_conversation_length", 4)
        first, second, third = await ask(agent), await ask(agent), await ask(agent)
        assert first.conversation_id == second.conversation_id != third.conversation_id
        assert not (await agent.conversation(first.conversation_id)).is_active


async def test_what_is_set_for_a_channel_decides_there_alone(running: Running) -> None:
    async with running(settings=Settings(variants={"control": "gpt-4", "variant_a": "gpt-4o"})) as agent:
        assert agent.running is not None
        flags = agent.running.flags
        for variant, channel in (("variant_a", "slack"), ("control", "discord")):
            await flags.set("model_selection", variant, channel=channel)
        await flags.set("max_conversation_length", 2, channel="slack")
        for n in range(3):
            there, here = await ask(agent, channel="slack", who=f"{n}"), await ask(agent, who=f"{n}")
            assert ("gpt-4o", "gpt-4") == (there.model, here.model)
            assert there.conversation_id != (await ask(agent, channel="slack", who=f"{n}")).conversation_id
            assert here.conversation_id == (await ask(agent, who=f"{n}")).conversation_id
        # What was set for a channel says nothing of who was split.
        await flags.flush()
        assert [] == await found(agent, patterns.exposures_of_experiment("model_selection"))


async def test_a_variant_decides_about_the_model_and_is_joined_with_ratings(running: Running) -> None:
    variants = {"control": "gpt-4", "variant_a": "gpt-4o"}
    async with running(settings=Settings(variants=variants)) as agent:
        assert agent.running is not None
        seen: dict[str, str] = {}
        for n in range(12):
            turn = await ask(agent, who=f"user {n}")
            seen[turn.user_id] = turn.model
            assert turn.model == (await ask(agent, who=f"user {n}")).model == await agent.model_for("discord", f"user {n}")
            await agent.rate(turn.reply_id, user_id=turn.user_id, rating="positive" if turn.model == "gpt-4o" else "negative")
        assert {"gpt-4", "gpt-4o"} == set(seen.values())
        await agent.running.flags.flush()
        exposed = await found(agent, patterns.exposures_of_experiment("model_selection"))
        assert seen == {each.user: variants[each.variant] for each in exposed}
        report = {each.variant: each for each in (await agent.experiment("model_selection")).variants}
        assert (1.0, 0.0) == (report["variant_a"].positive, report["control"].positive)
        assert 12 == sum(each.rated for each in report.values())
        prefers = await ask(agent, who="user 0")
        await agent.people.prefer(prefers.user_id, "mine")
        assert "mine" == (await ask(agent, who="user 0")).model


@pytest.mark.parametrize("cache", ["memory", "redis"])
async def test_who_writes_is_present_on_that_channel(running: Running) -> None:
    async with running() as agent:
        assert agent.running is not None
        presence = agent.running.presence
        turn = await ask(agent)
        await ask(agent, channel="slack", who="bob")
        assert [turn.user_id] == [present.member for present in await presence.active("discord")]
        assert {"discord": 1, "slack": 1} == await presence.counts()
        assert await presence.is_active(turn.user_id, "discord")
        assert not await presence.is_active(turn.user_id, "slack")


async def test_a_session_is_a_secret_and_ends_when_it_is_told_to(running: Running) -> None:
    async with running() as agent:
        assert agent.running is not None
        user = await agent.people.resolve("web", "visitor")
        started = await agent.log_in("web", "visitor")
        assert (43, user.user_id) == (len(started.token), started.session.user)
        async with agent.message_in(started.token, "Hello") as turn:
            assert user.user_id == turn.user_id
        async with agent.message_in(started.token, "Still me?") as turn:
            assert user.user_id == turn.user_id
        await agent.log_out(started.token)
        await _refused(agent, started.token)
        await _refused(agent, "x" * 43)
        for none in (None, "", 5, b"x" * 43, "x" * 100_000, "\ud800" * 43):
            await _refused(agent, none)  # type: ignore[arg-type]
            await agent.log_out(none)  # type: ignore[arg-type]


async def _refused(agent: SimpleAgent, token: str) -> None:
    with pytest.raises(palaver.errors.Unauthenticated):
        async with agent.message_in(token, "And now?"):
            pass


async def test_a_session_ends_when_its_user_is_merged_or_erased(running: Running) -> None:
    async with running() as agent:
        into = await agent.people.resolve("discord", "ann")
        first = await agent.log_in("web", "visitor")
        async with agent.message_in(first.token, "Hello"):
            pass
        await agent.people.merge(first.session.user, into=into.user_id)
        await _refused(agent, first.token)
        second = await agent.log_in("web", "visitor")
        async with agent.message_in(second.token, "Hello again") as turn:
            assert into.user_id == turn.user_id
        await agent.erase_user(into.user_id)
        await _refused(agent, second.token)


# --- what channels decided --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["memory"])
async def test_a_channel_is_read_once_until_any_process_changes_it(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as agent, running() as other:
        assert agent.running is not None
        await agent.channels.configure("discord", default_model="first")
        book, reads = agent.running.book, []
        find = Store.find

        async def noted(store: Store, target: Any, **options: Any) -> Any:
            if target.entity is ChannelConfig:
                reads.append(target)
            return await find(store, target, **options)

        await until(lambda: _begun(book))
        monkeypatch.setattr(Store, "find", noted)
        for _ in range(5):
            assert "first" == (await book.get("main", "discord")).default_model  # type: ignore[union-attr]
        assert 1 >= len(reads)
        monkeypatch.undo()
        await other.channels.configure("discord", default_model="second")

        async def heard() -> bool:
            config = await book.get("main", "discord")
            return config is not None and config.default_model == "second"

        await until(heard, 3)
        assert await book.get("other", "discord") is None


@pytest.mark.parametrize("cache", ["memory"])
async def test_what_was_read_of_a_channel_while_it_changed_is_not_held(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as agent:
        assert agent.running is not None
        book = agent.running.book
        await agent.channels.configure("discord", default_model="first")
        await until(lambda: _begun(book))
        find = Store.find
        changed: list[bool] = []

        async def meanwhile(store: Store, target: Any, **options: Any) -> Any:
            found = await find(store, target, **options)
            if target.entity is ChannelConfig and not changed:
                changed.append(True)
                await agent.channels.configure("discord", default_model="second")
            return found

        monkeypatch.setattr(Store, "find", meanwhile)
        await book.get("main", "discord")
        assert "second" == (await book.get("main", "discord")).default_model  # type: ignore[union-attr]


async def _begun(book: ChannelBook) -> bool:
    return book._listening


# --- trips ------------------------------------------------------------------------------------------------------------

_counting: ContextVar[list[str] | None] = ContextVar("counting", default=None)


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """Count what the test's own calls send: writes to a connection of Redis, statements to PostgreSQL."""
    from palaver.connections.postgres import Pool

    send, flush, sent = Wire.send, Wire._flush, Pool._sent
    marked: dict[int, list[str]] = {}

    def noted(self: Wire, command: bytes) -> Any:
        counting = _counting.get()
        if counting is not None:
            marked[id(self)] = counting
        return send(self, command)

    def flushed(self: Wire) -> None:
        counting = marked.pop(id(self), None)
        if counting is not None:
            counting.append("redis")
        flush(self)

    async def asked(self: Pool, text: str, arguments: Any) -> Any:
        counting = _counting.get()
        # Waking the listeners of other processes is not waited for.
        if counting is not None and "pg_notify" not in text:
            counting.append("postgres")
        return await sent(self, text, arguments)

    monkeypatch.setattr(Wire, "send", noted)
    monkeypatch.setattr(Wire, "_flush", flushed)
    monkeypatch.setattr(Pool, "_sent", asked)

    def begin() -> list[str]:
        counted: list[str] = []
        _counting.set(counted)
        return counted

    yield begin
    _counting.set(None)


@pytest.mark.parametrize("stack", ["postgresql"])
@pytest.mark.parametrize("cache", ["redis"])
async def test_a_message_takes_two_trips_to_redis_and_at_most_two_to_postgresql(running: Running, trips: Callable[[], list[str]]) -> None:
    """Identity, user, limit and presence are one trip, the message and what it counts one commit, context one trip."""
    async with running() as agent:
        for n in range(4):
            await ask(agent, delivery_id=f"warm {n}")
            await asyncio.sleep(0.3)
        best: list[str] = []
        for n in range(5):
            counted = trips()
            async with agent.message("discord", "ann", "How many trips?", delivery_id=f"{n}") as turn:
                prompt = await turn.prompt()
                spent = counted[:]
                _counting.set(None)
                await turn.reply("Few.")
            assert 9 + 2 * n == len(prompt)
            if not best or len(spent) < len(best):
                best = spent
            await asyncio.sleep(0.3)
        # A touch is sent every thirty seconds, and what is cached is read again when the clock of the feed moves.
        assert 2 >= best.count("redis") > 0
        assert 2 >= best.count("postgres") > 0


# --- a cache that dies ------------------------------------------------------------------------------------------------


async def test_redis_killed_and_started_again_in_the_middle_loses_no_message_and_no_limit(tmp_path: Path) -> None:
    server = servers.start_redis()
    try:
        at = f"{fresh('sqlite', tmp_path)}&cache={quote(server.url, safe='')}"
        async with palaver.open(at, schema=SCHEMA, maintain=False) as store, await simple_agent.capabilities(store) as found_:
            agent = SimpleAgent(store, found_)

            async def talk(who: int, first: int, last: int) -> None:
                for n in range(first, last):
                    async with agent.message("discord", f"{who}", f"{n}") as turn:
                        expected = await agent.recent_messages(turn.conversation_id, 20)
                        assert [message.content for message in expected] == [message.content for message in await turn.prompt()]
                        await turn.reply(f"to {n}")

            everybody = range(4)
            await asyncio.gather(*(talk(who, 0, 4) for who in everybody))
            server.kill_9()
            await asyncio.gather(*(talk(who, 4, 8) for who in everybody))
            server.start()
            await asyncio.gather(*(talk(who, 8, 12) for who in everybody))
            for who in everybody:
                user = await agent.people.resolve("discord", f"{who}")
                said = [message.content for message in (await agent.history(user.user_id)).items][::-1]
                assert [text for n in range(12) for text in (f"{n}", f"to {n}")] == said
            assert found_.limits.figures.degraded >= 16
    finally:
        server.close()


def test_a_rule_says_what_it_does_without_the_cache() -> None:
    assert {"local"} == {rule.away for rules in simple_agent.RULES.values() for rule in rules}
    assert (60, 60.0, "window") == (PER_USER.limit.amount, PER_USER.limit.per_s, PER_USER.limit.kind)
    assert Exposure in [declared.entity for declared in SCHEMA.entities.values()]
