"""Sessions with records, on each stack: the cache serves them, and what is ended is read by nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

import palaver
from palaver import Store
from palaver.clock import ManualClock
from palaver.connections.redis import encode
from palaver.errors import ConfigError, Conflict, NotFound, NotProvisioned, Unavailable, Validation
from palaver.identity.sessions import Session, Sessions
from palaver.lifecycle.erase import erase
from tests.engines.redis_servers import opened, until
from tests.engines.test_cache import url as redis_url
from tests.identity.accounts import ACCOUNTS, ORGS, Login, OrgLogin, User, cached, in_use, process

PAYLOAD: dict[str, Any] = {"model": "small", "conversation": None, "seen": [1, 2.5, "Zoë ☃"], "nested": {"deep": {"x": True}}}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "redis", "none"])
def cache(request: pytest.FixtureRequest) -> str:
    return redis_url() if request.param == "redis" else str(request.param)


@pytest.fixture
async def both(url: str, cache: str, clock: ManualClock) -> AsyncIterator[tuple[Store, Sessions]]:
    async with process(url, cache, clock) as made:
        yield made


@pytest.fixture
def sessions(both: tuple[Store, Sessions]) -> Sessions:
    return both[1]


async def settled() -> None:
    """Return when what sessions do aside is done."""
    while tasks := [task for task in asyncio.all_tasks() if task.get_name() == "palaver-session"]:
        await asyncio.wait(tasks)


async def test_a_session_lives_in_the_records_and_its_token_opens_it(both: tuple[Store, Sessions], clock: ManualClock) -> None:
    store, sessions = both
    started = await sessions.start("ann", PAYLOAD)
    record = await store.get(Login.by_token(started.session.id))
    assert ("ann", PAYLOAD, clock.now() + timedelta(days=1)) == (record.user, record.payload, record.ends)
    assert record.expires == clock.now() + timedelta(seconds=3_960)
    assert started.token not in record.model_dump_json()
    for _ in range(3):
        assert started.session == await sessions.read(started.token)
    for wrong in ("", "x", started.session.id, started.token.swapcase(), "A" * 43):
        assert await sessions.read(wrong) is None


async def test_what_is_changed_is_read_and_of_changes_at_once_one_wins(sessions: Sessions) -> None:
    started = await sessions.start("ann", {"count": 0})
    changes = [sessions.update(started.session, {"count": number}) for number in range(8)]
    found = await asyncio.gather(*changes, return_exceptions=True)
    assert 7 == sum(isinstance(one, Conflict) for one in found)
    [won] = [one for one in found if isinstance(one, Session)]
    assert won == await sessions.read(started.token)
    assert 2 == won.revision
    await sessions.end(started.token)
    with pytest.raises(NotFound):
        await sessions.update(won, {"role": "admin"})
    assert await sessions.read(started.token) is None
    with pytest.raises(Validation):
        await sessions.start("ann", {"x": object()})


async def test_an_ended_session_is_gone_everywhere_when_it_returns(both: tuple[Store, Sessions]) -> None:
    store, sessions = both
    kept, ended = await sessions.start("ann"), await sessions.start("ann")
    assert await sessions.read(ended.token)
    await sessions.end(ended.token)
    await sessions.end(ended.token)
    await sessions.end("no token")
    assert await sessions.read(ended.token) is None
    assert await store.find(Login.by_token(ended.session.id)) is None
    assert [kept.session] == await sessions.of("ann")


async def test_sessions_of_a_user_are_exactly_those_of_the_records(sessions: Sessions, clock: ManualClock) -> None:
    started = []
    for _ in range(30):
        started.append(await sessions.start("ann"))
        clock.advance(timedelta(seconds=1))
    other = await sessions.start("ben")
    assert [one.session for one in started[::-1]] == await sessions.of("ann")
    assert 29 == await sessions.end_all("ann", besides=started[1].token)
    assert [started[1].session] == await sessions.of("ann")
    assert [started[1].session] == [session for one in started if (session := await sessions.read(one.token))]
    assert 1 == await sessions.end_all("ann")
    assert 0 == await sessions.end_all("ann")
    assert other.session == await sessions.read(other.token)


async def test_a_renewed_session_is_the_same_under_another_token_in_one_write(both: tuple[Store, Sessions]) -> None:
    store, sessions = both
    started = await sessions.start("ann", PAYLOAD)
    renewed = await sessions.renew(started.token)
    assert renewed is not None
    assert (PAYLOAD, None) == (renewed.session.payload, await sessions.read(started.token))
    assert renewed.session == await sessions.read(renewed.token)
    assert [renewed.session] == await sessions.of("ann")
    assert await sessions.renew(started.token) is None
    assert await sessions.renew("no token") is None
    assert 1 == await store.count(Login.key("ann"))


async def test_no_session_lives_longer_than_it_may(url: str, clock: ManualClock) -> None:
    async with process(url, "memory", clock, idle_s=600, absolute_s=3_600) as (_, sessions):
        idle, used = await sessions.start("ann"), await sessions.start("ann")
        for _ in range(6):
            clock.advance(timedelta(seconds=599))
            assert await sessions.read(used.token) is not None
            await settled()
        assert await sessions.read(idle.token) is None
        clock.advance(timedelta(seconds=6))
        assert await sessions.read(used.token) is None
        assert [] == await sessions.of("ann")
        with pytest.raises(NotFound):
            await sessions.update(used.session, {})


async def test_the_records_end_idle_sessions_as_well_and_never_later(url: str, clock: ManualClock) -> None:
    async with process(url, "none", clock, idle_s=600, absolute_s=3_600) as (_, sessions):
        idle, used = await sessions.start("ann"), await sessions.start("ann")
        for _ in range(5):
            clock.advance(timedelta(seconds=540))
            assert await sessions.read(used.token) is not None
        assert await sessions.read(idle.token) is None
        clock.advance(timedelta(seconds=600))
        assert await sessions.read(used.token) is None


async def test_a_session_that_is_idle_too_long_is_swept(url: str, clock: ManualClock) -> None:
    async with process(url, "memory", clock, idle_s=600, absolute_s=36_000) as (store, sessions):
        await sessions.start("ann")
        clock.advance(timedelta(seconds=662))
        await store.sweep()
        assert 0 == await store.count(Login.key("ann"))


async def test_in_steady_traffic_the_cache_answers(url: str, clock: ManualClock) -> None:
    """A request each 10 seconds: all are answered by the cache, and in six minutes the record is touched once, aside."""
    async with process(url, "memory", clock, absolute_s=86_400) as (_, sessions):
        started = await sessions.start("ann", PAYLOAD)
        reads = 4_000
        for _ in range(reads):
            clock.advance(timedelta(seconds=10))
            assert await sessions.read(started.token) is not None
            await settled()
        figures = sessions.figures
        assert (0, 0) == (figures.away, figures.untouched)
        assert (reads, reads // 36, reads // 36) == (figures.hits, figures.touches, figures.loads)


async def test_after_a_flush_sessions_go_on_and_the_cache_answers_again(url: str, clock: ManualClock) -> None:
    address = redis_url()
    async with process(url, address, clock) as (_, sessions), opened(address) as server:
        alone = Sessions(server)
        recorded, fleeting = await sessions.start("ann", PAYLOAD), await alone.start("ann")
        for key in await server.client.read(encode("KEYS", f"*{server.options.prefix}:*")):
            await server.client.read(encode("DEL", key))
        assert recorded.session == await sessions.read(recorded.token)
        assert (1, 0) == (sessions.figures.loads, sessions.figures.hits)
        await until(lambda: in_use(sessions, recorded.token))
        loads = sessions.figures.loads
        for _ in range(5):
            assert recorded.session == await sessions.read(recorded.token)
        assert loads == sessions.figures.loads
        assert await alone.read(fleeting.token) is None


async def test_readers_of_a_cold_session_share_a_load_and_few_run_at_once(url: str, clock: ManualClock) -> None:
    async with process(url, "none", clock, at_most=2) as (store, sessions):
        tokens = [(await sessions.start("ann")).token for _ in range(10)]
        running, most = 0, 0
        find = store.find

        async def counted(target: Any, **options: Any) -> Any:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                return await find(target, **options)
            finally:
                running -= 1

        store.find = counted  # type: ignore[method-assign]
        found = await asyncio.gather(*(sessions.read(token) for token in tokens * 50))
        assert None not in found
        assert most <= 2
        assert 10 == sessions.figures.loads


async def test_who_asks_after_an_ending_never_joins_a_load_from_before_it(url: str, clock: ManualClock) -> None:
    async with process(url, "none", clock) as (store, sessions):
        started = await sessions.start("ann")
        read, go_on = asyncio.Event(), asyncio.Event()
        find = store.find

        async def paused(target: Any, **options: Any) -> Any:
            found = await find(target, **options)
            read.set()
            await go_on.wait()
            return found

        store.find = paused  # type: ignore[method-assign]
        before = asyncio.ensure_future(sessions.read(started.token))
        await read.wait()
        store.find = find  # type: ignore[method-assign]
        await sessions.end(started.token)
        after = asyncio.ensure_future(sessions.read(started.token))
        go_on.set()
        assert (True, None) == (await before is not None, await after)


async def test_a_touch_that_finds_no_record_ends_the_session(both: tuple[Store, Sessions], clock: ManualClock) -> None:
    store, sessions = both
    started = await sessions.start("ann")
    assert await sessions.read(started.token)
    await store.core.records.write(_deleting(store, started.session))
    clock.advance(timedelta(seconds=400))
    await sessions.read(started.token)
    await settled()
    assert await sessions.read(started.token) is None


def _deleting(store: Store, session: Session) -> Any:
    """A deletion behind the back of everything that would hear of it."""
    from palaver.ops import Delete, WriteSet

    at = store.core.planner.address(Login.at(session.user, session.id), None)
    return WriteSet((Delete(at, ()),), store.core.now_us())


async def test_while_the_records_are_away_who_is_in_stays_in(url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with process(url, "memory", clock) as (store, sessions):
        inside = await sessions.start("ann")
        cold = await sessions.start("ben")
        await store.cache.values("session").delete(cached(sessions, cold.session.id))

        async def away(*_: Any, **__: Any) -> Any:
            raise Unavailable("The records are away.")

        for verb in ("find", "patch", "delete"):
            monkeypatch.setattr(store, verb, away)
        clock.advance(timedelta(seconds=400))
        for _ in range(5):
            assert inside.session == await sessions.read(inside.token)
            await settled()
        assert (1, 5) == (sessions.figures.untouched, sessions.figures.hits)
        for call in (sessions.read(cold.token), sessions.end(inside.token)):
            with pytest.raises(Unavailable):
                await call
        monkeypatch.undo()
        assert inside.session == await sessions.read(inside.token)


async def test_erasing_a_user_ends_the_sessions(both: tuple[Store, Sessions]) -> None:
    store, sessions = both
    await store.create(User(user="ann"))
    started, other = await sessions.start("ann", PAYLOAD), await sessions.start("ben")
    assert await sessions.read(started.token)
    await sessions.end_all("ann")
    again = await sessions.start("ann")
    found = await erase(store, "ann", scrub=False)
    assert 1 == found.deleted["Login"]
    await _eventually_none(sessions, again.token)
    assert await sessions.read(started.token) is None
    assert other.session == await sessions.read(other.token)


async def _eventually_none(sessions: Sessions, token: str) -> None:
    for _ in range(1_000):
        if await sessions.read(token) is None:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the session was never ended")


async def test_payloads_of_other_programs_are_brought_up_or_refused(url: str, cache: str, clock: ManualClock) -> None:
    def upgrade(version: int, payload: dict[str, Any]) -> dict[str, Any]:
        assert 1 == version
        return {"models": [payload["model"]]}

    async with process(url, cache, clock) as (store, old):
        new = Sessions(store.cache, store=store, entity=Login, version=2, upgrade=upgrade)
        before, after = await old.start("ann", {"model": "small"}), await new.start("ann", {"models": ["large"]})
        for _ in range(2):
            found = await new.read(before.token)
            assert found is not None
            assert {"models": ["small"]} == found.payload
        with pytest.raises(NotProvisioned):
            await old.read(after.token)
        assert 2 == await new.end_all("ann")
        await new.aclose()


async def test_what_is_no_session_of_ours_in_the_cache_is_read_anew(url: str, clock: ManualClock) -> None:
    async with process(url, "memory", clock) as (store, sessions):
        started = await sessions.start("ann", PAYLOAD)
        for garbage in (b"", b"\n", b"{}\n{}", b'[1,"ann",1,99999999999999]\n{}', b"\xff\n\xff", b'[1,"eve",1,99999999999999,1,1,"x"]\n{}'):
            for data in (garbage, b"+" + garbage):
                await store.cache.values("session").set(cached(sessions, started.session.id), data, ttl_s=60)
                assert started.session == await sessions.read(started.token)


async def test_tenants_have_sessions_of_their_own(url: str, cache: str, clock: ManualClock) -> None:
    from tests.identity.accounts import with_cache

    async with palaver.open(with_cache(url, cache), schema=ORGS, clock=clock, migrate=True, maintain=False) as store:
        bound = [store.for_tenant(org) for org in ("a", "b")]
        a, b = (Sessions(one.cache, store=one, entity=OrgLogin) for one in bound)
        started = await a.start("ann", PAYLOAD)
        assert started.session == await a.read(started.token)
        assert await b.read(started.token) is None
        assert (0, []) == (await b.end_all("ann"), await b.of("ann"))
        assert started.session == await a.read(started.token)
        await b.end(started.token)
        assert started.session == await a.read(started.token)
        await a.end(started.token)
        assert await a.read(started.token) is None
        await a.aclose()
        await b.aclose()


async def test_sessions_that_make_no_sense_are_refused() -> None:
    async with palaver.open("memory:", schema=ACCOUNTS) as store:
        wrong: Any = User
        both = {"store": store, "entity": Login}
        for options in ({"store": store}, {"entity": Login}, {**both, "entity": wrong}, {**both, "at_most": 0}):
            chosen: Any = options
            with pytest.raises(ConfigError):
                Sessions(store.cache, **chosen)
