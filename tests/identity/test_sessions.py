"""Sessions on both caches: secrets that are nowhere, two timeouts, and endings that hold at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from palaver.cache.memory import MemoryCache
from palaver.cache.redis import RedisCache
from palaver.clock import ManualClock
from palaver.connections.redis import encode
from palaver.errors import ConfigError, Conflict, NotFound, NotProvisioned, Unavailable, Validation
from palaver.identity.sessions import Sessions, Started
from palaver.ports import Cache
from tests.engines.redis_servers import opened, own
from tests.engines.test_cache import url


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[Cache]:
    cache: Cache = MemoryCache(clock=clock) if request.param == "memory" else RedisCache(url(), clock=clock)
    yield cache
    await cache.aclose()


@pytest.fixture
def sessions(cache: Cache, clock: ManualClock) -> Sessions:
    return Sessions(cache, clock=clock)


async def test_who_holds_the_token_reads_the_session(sessions: Sessions, clock: ManualClock) -> None:
    started = await sessions.start("ann", {"model": "small", "conversation": None})
    assert started.session == await sessions.read(started.token)
    assert ("ann", {"model": "small", "conversation": None}) == (started.session.user, started.session.payload)
    assert (clock.now(), clock.now() + timedelta(days=1)) == (started.session.started, started.session.ends)
    for wrong in (
        "",
        "x",
        started.token[:-1],
        started.token[:-1] + "~",
        started.session.id,
        started.token.swapcase(),
        "A" * 43,
        "\ud800" * 43,
    ):
        assert await sessions.read(wrong) is None


async def test_tokens_are_long_secrets_that_are_kept_and_shown_nowhere(clock: ManualClock) -> None:
    async with opened(url(), clock=clock) as cache:
        sessions = Sessions(cache, clock=clock)
        tokens = {(await sessions.start("ann", {"hidden": "payload"})).token for _ in range(50)}
        assert 50 == len(tokens)
        assert {43} == set(map(len, tokens))
        keys = await cache.client.read(encode("KEYS", f"*{cache.options.prefix}:*"))
        assert 52 == len(keys)
        dump = b"".join(keys) + b"".join([await cache.client.read(encode("DUMP", key)) for key in keys])
        assert not [token for token in tokens if token.encode() in dump]
        lives = [int(await cache.client.read(encode("PTTL", key))) for key in keys]
        assert min(lives) > 0
        started = await sessions.start("ann", {"hidden": "payload"})
        assert started.token not in repr(started)
        assert "payload" not in repr(started)


async def test_an_idle_session_is_gone_and_reading_keeps_it(clock: ManualClock) -> None:
    cache = MemoryCache(clock=clock)
    sessions = Sessions(cache, idle_s=600, absolute_s=3_600, clock=clock)
    idle, used = await sessions.start("ann"), await sessions.start("ann")
    for _ in range(3):
        clock.advance(timedelta(seconds=599))
        assert await sessions.read(used.token) is not None
    assert await sessions.read(idle.token) is None
    clock.advance(timedelta(seconds=600))
    assert await sessions.read(used.token) is None


async def test_no_session_lives_longer_than_it_may(sessions: Sessions, clock: ManualClock) -> None:
    started = await sessions.start("ann")
    for _ in range(47):
        clock.advance(timedelta(seconds=1_800))
        assert await sessions.read(started.token) is not None
    clock.advance(timedelta(seconds=1_800))
    assert await sessions.read(started.token) is None
    assert [] == await sessions.of("ann")
    with pytest.raises(NotFound):
        await sessions.update(started.session, {})


async def test_an_ended_session_is_gone_at_once_and_cannot_be_brought_back(sessions: Sessions) -> None:
    kept, ended = await sessions.start("ann"), await sessions.start("ann")
    await sessions.end(ended.token)
    await sessions.end(ended.token)
    await sessions.end("no token")
    assert await sessions.read(ended.token) is None
    with pytest.raises(NotFound):
        await sessions.update(ended.session, {"role": "admin"})
    assert await sessions.read(ended.token) is None
    assert [kept.session] == await sessions.of("ann")


async def test_sessions_of_a_user_are_listed_and_ended_but_the_one_in_use(sessions: Sessions, clock: ManualClock) -> None:
    started = []
    for _ in range(4):
        started.append(await sessions.start("ann"))
        clock.advance(timedelta(seconds=1))
    other = await sessions.start("ben")
    assert [one.session for one in started[::-1]] == await sessions.of("ann")
    assert 3 == await sessions.end_all("ann", besides=started[1].token)
    assert [started[1].session] == await sessions.of("ann")
    assert [None, started[1].session, None, None] == [await sessions.read(one.token) for one in started]
    assert 1 == await sessions.end_all("ann")
    assert 0 == await sessions.end_all("ann")
    assert other.session == await sessions.read(other.token)


async def test_of_changes_at_once_one_wins_and_the_others_know(sessions: Sessions) -> None:
    started = await sessions.start("ann", {"count": 0})
    changes = [sessions.update(started.session, {"count": number}) for number in range(10)]
    found = await asyncio.gather(*changes, return_exceptions=True)
    assert 9 == sum(isinstance(one, Conflict) for one in found)

    async def add() -> None:
        while True:
            session = await sessions.read(started.token)
            assert session is not None
            try:
                await sessions.update(session, {"count": session.payload["count"] + 1})
            except Conflict:
                continue
            return

    before: Any = await sessions.read(started.token)
    await asyncio.gather(*(add() for _ in range(20)))
    after: Any = await sessions.read(started.token)
    assert before.payload["count"] + 20 == after.payload["count"]


async def test_ending_all_ends_those_that_are_just_beginning(sessions: Sessions) -> None:
    """Of a login and an ending at the same moment: what is left when both are done is listed, or refused; nothing hides."""
    for _ in range(20):
        found = await asyncio.gather(*(sessions.start("ann") for _ in range(6)), sessions.end_all("ann"), return_exceptions=True)
        assert not [one for one in found if isinstance(one, Exception) and not isinstance(one, Conflict)]
        tokens = [one.token for one in found[:6] if isinstance(one, Started)]
        alive = {session.id for session in [await sessions.read(token) for token in tokens] if session}
        assert alive == {session.id for session in await sessions.of("ann")}
        await sessions.end_all("ann")
        assert [None] * len(tokens) == [await sessions.read(token) for token in tokens]


async def test_a_renewed_session_has_another_token_and_the_old_one_opens_nothing(sessions: Sessions) -> None:
    started = await sessions.start("ann", {"model": "small"})
    renewed = await sessions.renew(started.token)
    assert renewed is not None
    assert renewed.token != started.token
    assert {"model": "small"} == renewed.session.payload
    assert await sessions.read(started.token) is None
    assert renewed.session == await sessions.read(renewed.token)
    assert await sessions.renew(started.token) is None


async def test_older_payloads_are_brought_up_and_newer_ones_are_not_guessed(cache: Cache, clock: ManualClock) -> None:
    def upgrade(version: int, payload: dict[str, Any]) -> dict[str, Any]:
        assert 1 == version
        return {"models": [payload["model"]]}

    old, new = Sessions(cache, clock=clock), Sessions(cache, version=2, upgrade=upgrade, clock=clock)
    before, after = await old.start("ann", {"model": "small"}), await new.start("ann", {"models": ["large"]})
    found = await new.read(before.token)
    assert found is not None
    assert {"models": ["small"]} == found.payload
    with pytest.raises(NotProvisioned):
        await old.read(after.token)
    assert 2 == await old.end_all("ann")
    assert await new.read(after.token) is None


async def test_what_is_no_session_of_ours_is_none(cache: Cache, sessions: Sessions) -> None:
    started = await sessions.start("ann")
    for garbage in (b"", b"\n", b"{}\n{}", b"[1]\n{}", b'[1,"ann",1,2]\n', b"\xff\n\xff"):
        await cache.values("session").set(started.session.id, garbage, ttl_s=60)
        assert await sessions.read(started.token) is None


async def test_kinds_of_sessions_are_apart(cache: Cache, clock: ManualClock) -> None:
    web, bot = (Sessions(cache, kind=kind, clock=clock) for kind in ("web", "bot"))
    started = await web.start("ann")
    assert await bot.read(started.token) is None
    assert [] == await bot.of("ann")
    assert 0 == await bot.end_all("ann")
    assert started.session == await web.read(started.token)


async def test_sessions_that_make_no_sense_are_refused(cache: Cache, sessions: Sessions) -> None:
    for idle_s, absolute_s in ((0, 60), (61, 60), (-1, 60)):
        with pytest.raises(ConfigError):
            Sessions(cache, idle_s=idle_s, absolute_s=absolute_s)
    with pytest.raises(Validation):
        await sessions.start("")
    with pytest.raises(Validation):
        await sessions.start("ann", {"x": object()})
    assert [] == await sessions.of("ann")


async def test_with_the_cache_away_nobody_is_let_in() -> None:
    with own() as server:
        async with opened(server.url) as cache:
            sessions = Sessions(cache)
            started = await sessions.start("ann")
            server.kill_9()
            for call in (sessions.read(started.token), sessions.start("ann"), sessions.of("ann"), sessions.end_all("ann")):
                with pytest.raises(Unavailable):
                    await call
