"""Sessions with records while Redis is killed, comes back with what it had, is silent, full or flushed: nobody reads what was ended."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from palaver import Store, in_step
from palaver.connections.redis import encode
from palaver.errors import PalaverError, StorageFull
from palaver.identity.sessions import Session, Sessions
from tests.engines.redis_servers import answers, opened, own, until
from tests.engines.test_cache import url as redis_url
from tests.identity.accounts import Login, cached, in_use, process

Process = tuple[Store, Sessions]
KEEPS = {"appendonly": "yes", "appendfsync": "always"}
QUICK = "?timeout=0.3&connect=0.3"


@pytest.fixture
async def processes() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def records(folder: Path) -> str:
    return f"sqlite:///{folder}/store.db?sync=normal"


async def back(*stores: Store) -> None:
    for store in stores:
        await until(lambda cache=store.cache: answers(cache))  # type: ignore[misc]


async def test_with_redis_dead_the_records_answer_and_without_records_nobody_is_let_in(tmp_path: Path) -> None:
    with own() as server:
        async with process(records(tmp_path), server.url) as (store, sessions):
            started, ended = await sessions.start("ann", {"model": "small"}), await sessions.start("ann")
            alone = Sessions(store.cache, kind="fleeting")
            fleeting = await alone.start("ann")
            server.kill_9()
            assert started.session == await sessions.read(started.token)
            changed = await sessions.update(started.session, {"model": "large"})
            assert changed == await sessions.read(started.token)
            await sessions.end(ended.token)
            assert await sessions.read(ended.token) is None
            new = await sessions.start("ben")
            assert new.session == await sessions.read(new.token)
            assert [changed] == await sessions.of("ann")
            for call in (alone.read(fleeting.token), alone.start("ann")):
                with pytest.raises(PalaverError):
                    await call
            server.start()
            await back(store)
            assert changed == await sessions.read(started.token)
            assert await alone.read(fleeting.token) is None


@pytest.mark.parametrize("most", [20_000, 1])
async def test_what_ended_while_redis_was_away_stays_ended_when_it_is_back_with_the_old_value(
    tmp_path: Path, processes: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    # Also where more has to be told to the cache than is told one by one.
    monkeypatch.setattr(in_step, "FURTHEST_BEHIND", most)
    """For the process that ended it, for one that was connected before, and for one that starts afterwards."""
    with own(**KEEPS) as server:
        ending, ends = await processes.enter_async_context(process(records(tmp_path), server.url))
        other, reads = await processes.enter_async_context(process(records(tmp_path), server.url))
        gone, kept, demoted = [await ends.start("ann", {"role": "admin"}) for _ in range(3)]
        for sessions in (ends, reads):
            for one in (gone, kept, demoted):
                assert one.session == await sessions.read(one.token)
        copies = [cached(ends, one.session.id) for one in (gone, demoted)]
        server.kill_9()
        await ends.end(gone.token)
        user = await ends.update(demoted.session, {"role": "user"})
        server.start()
        async with opened(server.url) as cache:
            held = await cache.values("session").get_many(copies)
            assert all(each is not None and b"admin" in each.value for each in held)
        await back(other)
        late, begins = await processes.enter_async_context(process(records(tmp_path), server.url))
        for sessions in (reads, begins, ends, reads):
            assert await sessions.read(gone.token) is None
            assert user == await sessions.read(demoted.token)
            assert kept.session == await sessions.read(kept.token)
        await back(ending, other, late)
        for sessions in (ends, reads, begins):
            await until(lambda sessions=sessions: in_use(sessions, kept.token))  # type: ignore[misc]
            assert kept.session == await sessions.read(kept.token)


async def test_a_server_that_comes_back_is_not_believed_before_it_was_told(tmp_path: Path) -> None:
    """Of one process that ended a session and died nobody hears but through the feed, and this one has not read it yet."""
    with own(**KEEPS) as server:
        async with process(records(tmp_path), server.url) as (_, ends), process(records(tmp_path), server.url) as (store, reads):
            gone, kept = await ends.start("ann"), await ends.start("ann")
            await until(lambda: in_use(reads, gone.token))
            await ends.aclose()
            server.kill_9()
            await ends.end(gone.token)
            await ends.aclose()
            server.start()
            await back(store)
            assert await reads.read(gone.token) is None
            assert kept.session == await reads.read(kept.token)
            await until(lambda: in_use(reads, kept.token))
            assert await reads.read(gone.token) is None


async def test_an_older_memory_is_not_believed_though_no_connection_ended(tmp_path: Path) -> None:
    """As behind a proxy that hides a failover: Redis has again what it had before the ending."""
    with own() as server:
        async with process(records(tmp_path), server.url) as (_, ends), process(records(tmp_path), server.url) as (_, reads):
            gone, kept = await ends.start("ann"), await ends.start("ann")
            async with opened(server.url) as cache:
                await _noted(ends, reads)
                await until(lambda: in_use(reads, gone.token))
                names = await cache.client.read(encode("KEYS", "*"))
                old = {name: await cache.client.read(encode("DUMP", name)) for name in names}
                await ends.end(gone.token)
                await _noted(ends, reads)
                assert await reads.read(gone.token) is None
                await cache.client.read(encode("FLUSHALL"))
                for name, data in old.items():
                    await cache.client.read(encode("RESTORE", name, "60000", data))
            for sessions in (reads, ends, reads):
                assert await sessions.read(gone.token) is None
            await until(lambda: in_use(reads, kept.token))
            assert await reads.read(gone.token) is None


async def _noted(*processes: Sessions) -> None:
    """Wait until these processes have noted in the cache that it was told of everything."""

    async def noted() -> bool:
        kept = [each._recorded for each in processes]
        head = max([(await each._core.records.changes(None, 0)).head for each in kept if each])
        return all(each and each._in_step.believes and each._in_step._floor > head for each in kept)

    await until(noted)


async def test_who_cannot_reach_the_cache_ends_for_those_who_can_within_a_second(tmp_path: Path) -> None:
    async with process(records(tmp_path), redis_url()) as (_, reads), process(records(tmp_path), "none") as (_, ends):
        started = await reads.start("ann")
        assert started.session == await reads.read(started.token)
        await ends.end(started.token)
        assert await ends.read(started.token) is None
        await until(lambda: _is_none(reads, started.token))


async def test_processes_with_memory_of_their_own_hear_of_an_ending_within_a_second(tmp_path: Path) -> None:
    async with process(records(tmp_path)) as (_, one), process(records(tmp_path)) as (_, other):
        started, changed = await one.start("ann"), await one.start("ann", {"role": "admin"})
        for sessions in (one, other):
            assert started.session == await sessions.read(started.token)
            assert changed.session == await sessions.read(changed.token)
        await one.end(started.token)
        demoted = await one.update(changed.session, {"role": "user"})
        assert await one.read(started.token) is None
        await until(lambda: _is_none(other, started.token))

        async def sees_the_change() -> bool:
            return await other.read(changed.token) == demoted

        await until(sees_the_change)


async def _is_none(sessions: Sessions, token: str) -> bool:
    return await sessions.read(token) is None


async def test_a_silent_server_costs_a_timeout_and_no_wrong_answer(tmp_path: Path) -> None:
    with own() as server:
        async with process(records(tmp_path), f"{server.url}{QUICK}") as (store, sessions):
            gone, kept = await sessions.start("ann"), await sessions.start("ann")
            assert await sessions.read(gone.token)
            server.freeze()
            try:
                await sessions.end(gone.token)
                assert (None, kept.session) == (await sessions.read(gone.token), await sessions.read(kept.token))
            finally:
                server.thaw()
            assert await sessions.read(gone.token) is None
            await back(store)
            assert (None, kept.session) == (await sessions.read(gone.token), await sessions.read(kept.token))


async def test_a_full_server_serves_what_it_has_and_forgets_what_ended(tmp_path: Path) -> None:
    with own(maxmemory="3mb", **{"maxmemory-policy": "noeviction"}) as server:
        async with process(records(tmp_path), server.url) as (store, sessions):
            gone, kept, changed = [await sessions.start("ann", {"role": "admin"}) for _ in range(3)]
            values = store.cache.values("bulk")
            for size in (10_000, 1_000, 100, 1):
                with pytest.raises(StorageFull):
                    for number in range(100_000):
                        await values.set(f"{size} {number}", b"x" * size, ttl_s=600)
            hits = sessions.figures.hits
            assert kept.session == await sessions.read(kept.token)
            assert hits + 1 == sessions.figures.hits
            await sessions.end(gone.token)
            user = await sessions.update(changed.session, {"role": "user" * 100})
            new = await sessions.start("ben")
            for _ in range(3):
                assert await sessions.read(gone.token) is None
                assert user == await sessions.read(changed.token)
                assert new.session == await sessions.read(new.token)


async def test_a_server_that_evicts_costs_loads_and_no_session(tmp_path: Path) -> None:
    with own(maxmemory="3mb", **{"maxmemory-policy": "allkeys-random"}) as server:
        async with process(records(tmp_path), server.url) as (store, sessions):
            started = [await sessions.start("ann") for _ in range(40)]
            values = store.cache.values("bulk")
            for number in range(1_000):
                await values.set(f"{number}", b"x" * 5_000, ttl_s=600)
            await sessions.end(started[0].token)
            found = [await sessions.read(one.token) for one in started]
            assert [None, *(one.session for one in started[1:])] == found
            assert sessions.figures.loads > 0


async def test_hundreds_of_readers_of_a_dead_cache_reach_the_records_a_few_at_once(tmp_path: Path) -> None:
    with own() as server:
        async with process(records(tmp_path), server.url, at_most=4) as (_, sessions):
            started = [await sessions.start(f"user {number}") for number in range(20)]
            server.kill_9()
            found = await asyncio.gather(*(sessions.read(one.token) for one in started * 50))
            assert [one.session for one in started * 50] == found
            assert sessions.figures.loads <= 40


@pytest.mark.parametrize("disturbed", ["not", "killed", "flushed"])
async def test_nobody_reads_a_session_after_its_ending_has_returned(tmp_path: Path, disturbed: str) -> None:
    """Readers in two processes note when they began; what ended before that is never among what they read."""
    draws = random.Random(7)
    with own(**KEEPS) as server:
        async with process(records(tmp_path), server.url) as (one, a), process(records(tmp_path), server.url) as (two, b):
            started = [await a.start(f"user {number % 5}") for number in range(60)]
            ended: set[str] = set()
            wrong: list[str] = []
            read = 0
            done = asyncio.Event()

            async def reading(sessions: Sessions, seed: int) -> None:
                nonlocal read
                mine = random.Random(seed)
                while not done.is_set():
                    chosen = mine.choice(started)
                    before = chosen.session.id in ended
                    found = await sessions.read(chosen.token)
                    read += 1
                    if (found is not None and before) or (found is None and chosen.session.id not in ended | ending):
                        wrong.append(chosen.session.id)

            ending: set[str] = set()

            async def ends() -> None:
                for chosen in draws.sample(started, 50):
                    ending.add(chosen.session.id)
                    await draws.choice((a, b)).end(chosen.token)
                    ended.add(chosen.session.id)
                    await asyncio.sleep(0.005)

            readers = [asyncio.ensure_future(reading(sessions, seed)) for seed, sessions in enumerate((a, b) * 8)]
            work = asyncio.ensure_future(ends())
            await asyncio.sleep(0.08)
            if disturbed == "killed":
                server.kill_9()
                await asyncio.sleep(0.05)
                server.start()
            if disturbed == "flushed":
                async with opened(server.url) as cache:
                    await cache.client.read(encode("FLUSHALL"))
            await work
            await back(one, two)
            await asyncio.sleep(0.05)
            done.set()
            await asyncio.gather(*readers)
            assert [] == wrong
            assert read > 500
            left: list[Session | None] = [await a.read(one.token) for one in started]
            assert 10 == sum(session is not None for session in left)


async def test_no_token_is_readable_in_the_cache_and_everything_there_expires(tmp_path: Path) -> None:
    address = redis_url()
    async with process(records(tmp_path), address) as (store, sessions), opened(address) as cache:
        started = [await sessions.start("ann", {"hidden": "payload"}) for _ in range(10)]
        assert "payload" not in repr(started[0])
        keys = await cache.client.read(encode("KEYS", f"*{cache.options.prefix}:*"))
        assert 11 == len(keys)
        dump = b"".join(keys) + b"".join([await cache.client.read(encode("DUMP", key)) for key in keys])
        assert not [one for one in started if one.token.encode() in dump]
        assert min([int(await cache.client.read(encode("PTTL", key))) for key in keys]) > 0
        async for record in store.query(Login.key("ann")):
            assert not [one for one in started if one.token in record.model_dump_json()]


async def test_a_read_is_one_trip(tmp_path: Path) -> None:
    async with process(records(tmp_path), redis_url()) as (store, sessions):
        started = await sessions.start("ann")
        await sessions.read(started.token)
        [wire] = store.cache.client._wires  # type: ignore[attr-defined]
        written, flush = 0, wire._flush

        def counting() -> None:
            nonlocal written
            written += 1
            flush()

        wire._flush = counting
        for _ in range(100):
            assert await sessions.read(started.token)
        assert 100 == written


async def test_reads_of_one_moment_share_a_trip_and_no_ending_is_lost_on_them(tmp_path: Path) -> None:
    address = redis_url()
    async with process(records(tmp_path), address) as (store, sessions), process(records(tmp_path), address) as (_, others):
        started = [await sessions.start("ann", {"number": number}) for number in range(64)]
        for one in started:
            await sessions.read(one.token)
        [wire] = store.cache.client._wires  # type: ignore[attr-defined]
        sent: list[bytes] = []
        send = wire.send

        def noting(command: bytes) -> Any:
            sent.append(command)
            return send(command)

        wire.send = noting
        loads = sessions.figures.loads
        for _ in range(10):
            found = await asyncio.gather(*(sessions.read(one.token) for one in started))
            assert list(range(64)) == [session.payload["number"] for session in found if session]
        assert loads == sessions.figures.loads
        # Of one key alone is what follows the feed, which may be behind: it asks for the mark.
        assert len([command for command in sent if b"MGET" in command and not command.startswith(b"*2")]) <= 20
        # In the middle of what others ask for, by a process that shares the cache.
        for ended, one in enumerate(started):
            reading = [asyncio.ensure_future(sessions.read(each.token)) for each in started]
            reading[ended].cancel()
            await others.end(one.token)
            found = await asyncio.gather(*(sessions.read(each.token) for each in started))
            assert [None] * (ended + 1) == found[: ended + 1]
            assert None not in found[ended + 1 :]
            await asyncio.gather(*reading, return_exceptions=True)


@pytest.mark.parametrize("reads", [True, False])
async def test_who_has_not_noticed_that_the_cache_was_emptied_ends_sessions_for_those_who_have(tmp_path: Path, reads: bool) -> None:
    """The mark goes alone, as an eviction takes it; who ends the session knows nothing of the one that has taken its place."""
    address = redis_url()
    async with process(records(tmp_path), address) as (_, a), process(records(tmp_path), address) as (store, b), opened(address) as cache:
        started = [await a.start("ann") for _ in range(20)]
        for one in started:
            if reads:
                await b.read(one.token)
            [mark] = await cache.client.read(encode("KEYS", f"*{cache.options.prefix}:v:session:@*"))
            await cache.client.read(encode("DEL", mark))
            await until(lambda token=one.token: in_use(a, token))  # type: ignore[misc]
            await b.end(one.token)
            assert await a.read(one.token) is None
        assert not [record async for record in store.query(Login.key("ann"))]


async def test_a_user_with_more_sessions_than_commands_in_flight_is_ended_and_the_cache_believed_on(tmp_path: Path) -> None:
    async with process(records(tmp_path), f"{redis_url()}&inflight=300") as (_, sessions):
        kept = await sessions.start("ben")
        started = [await sessions.start("ann") for _ in range(400)]
        await until(lambda: in_use(sessions, kept.token))
        step: Any = sessions._recorded and sessions._recorded._in_step
        loads, term = sessions.figures.loads, step.term
        assert 400 == await sessions.end_all("ann")
        assert await sessions.read(kept.token)
        assert (loads, term) == (sessions.figures.loads, step.term)
        assert [None] * 400 == await asyncio.gather(*(sessions.read(one.token) for one in started))


async def test_who_asks_for_an_ended_session_does_not_shorten_its_fence(tmp_path: Path) -> None:
    """A read has what it finds live on for the idle timeout, and it may find a fence; what was loaded before the end must not pass it."""
    address = redis_url()
    async with process(records(tmp_path), address, idle_s=5) as (_, a), process(records(tmp_path), address, idle_s=5) as (_, b):
        started = await a.start("ann")
        kept = a._recorded
        assert kept is not None
        async with opened(address) as cache:
            await a.end(started.token)
            name = f"{cache.options.prefix}:v:session:{cached(a, started.session.id)}"
            before = int(await cache.client.read(encode("PTTL", name)))
            assert await b.read(started.token) is None
            assert int(await cache.client.read(encode("PTTL", name))) >= min(before, kept.remember._fence_s * 1_000) - 500
