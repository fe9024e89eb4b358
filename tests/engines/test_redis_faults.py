"""The cache on a real Redis that is killed, frozen, filled, flushed and misused: named errors, no wrong answers, no restart of ours."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import Any

import pytest

from palaver.cache.bounded import Bounds
from palaver.caching import Item, Limit, Take
from palaver.connections.redis import encode
from palaver.errors import (
    Corruption,
    Forbidden,
    OutcomeUnknown,
    ReadOnly,
    StorageFull,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from tests import servers
from tests.engines.redis_servers import LIMIT, answers, opened, own, until
from tests.engines.test_cache import url

# --- killed and started again -------------------------------------------------------------------------------------------


async def test_a_server_killed_and_restarted_under_load_gives_named_errors_and_no_wrong_answers() -> None:
    """The server keeps its data, so that over all its lives a limit is passed exactly as often as it allows."""
    with own(appendonly="yes", appendfsync="always") as server:
        async with opened(server.url + "?timeout=0.5&connect=0.5") as cache:
            values, met, ending = cache.values("session"), Counter[str](), asyncio.Event()
            passed, unknown, reads = 0, 0, 0

            async def load(number: int) -> None:
                nonlocal passed, unknown, reads
                revision = 0
                while not ending.is_set():
                    try:
                        revision += 1
                        await values.set(f"k{number}", b"%d:%d" % (number, revision), ttl_s=600, revision=revision)
                        held = await values.get(f"k{number}")
                        assert held == (b"%d:%d" % (number, revision), revision)
                        reads += 1
                        taken = await cache.limiter.take(Take(LIMIT, "everybody"))
                        passed += taken.allowed
                    except (Unavailable, OutcomeUnknown) as error:
                        unknown += isinstance(error, OutcomeUnknown)
                        met[error.code] += 1
                        await asyncio.sleep(0.001)

            tasks = [asyncio.create_task(load(number)) for number in range(24)]
            for _ in range(3):
                await asyncio.sleep(0.15)
                await asyncio.to_thread(server.kill_9)
                await asyncio.sleep(0.1)
                assert cache.health().breaker != "closed"
                await asyncio.to_thread(server.start)
                await until(lambda: answers(cache))
            before = reads
            await until(lambda: asyncio.sleep(0, reads > before + 100))
            ending.set()
            await asyncio.gather(*tasks)
            assert "closed" == cache.health().breaker
            assert met["unavailable"]
            assert 50 - unknown <= passed <= 50
            assert 0 == (await cache.limiter.peek(Take(LIMIT, "everybody"))).verdicts[0].remaining


async def test_while_a_server_is_away_calls_fail_at_once_and_only_one_task_tries() -> None:
    with own() as server:
        async with opened(server.url) as cache:
            assert await answers(cache)
            server.kill_9()
            await until(lambda: asyncio.sleep(0, cache.health().breaker != "closed"))
            calls = [asyncio.create_task(cache.values("x").get("k")) for _ in range(500)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert {Unavailable} == {type(call.exception()) for call in calls}
            assert ("unavailable", 0) == (cache.health().error, cache.health().connections)
            connecting = [task for task in asyncio.all_tasks() if task.get_name() == "palaver-redis-connect"]
            assert 1 == len(connecting)
            server.start()
            await until(lambda: answers(cache))
            assert ("closed", "", 1) == (cache.health().breaker, cache.health().error, cache.health().connections)


async def test_a_take_whose_answer_was_lost_is_an_unknown_outcome_and_with_a_token_it_is_asked_again() -> None:
    with own() as server:
        async with opened(server.url + "?timeout=0.3&connect=0.3") as cache:
            assert await answers(cache)
            server.freeze()
            plain, named, read, value = await asyncio.gather(
                cache.limiter.take(Take(LIMIT, "a")),
                cache.limiter.take(Take(LIMIT, "a"), token="t"),
                cache.limiter.peek(Take(LIMIT, "a")),
                cache.values("v").set("k", b"x", ttl_s=9),
                return_exceptions=True,
            )
            assert [OutcomeUnknown, Unavailable, Unavailable, OutcomeUnknown] == [type(answer) for answer in (plain, named, read, value)]
            server.thaw()
            await until(lambda: answers(cache))
            again = await cache.limiter.take(Take(LIMIT, "a"), token="t")
            assert again.allowed
            # What the frozen server had received it did: the plain one once, the one with a token once.
            assert 48 == (await cache.limiter.peek(Take(LIMIT, "a"))).verdicts[0].remaining


@pytest.mark.parametrize("silent", ["freeze", "CLIENT PAUSE"])
async def test_a_server_that_falls_silent_is_noticed_in_time_and_used_again_afterwards(silent: str) -> None:
    with own() as server:
        async with opened(server.url + "?timeout=0.3&connect=0.3") as cache:
            await cache.values("v").set("k", b"x", ttl_s=60)
            if silent == "freeze":
                server.freeze()
            else:
                await cache.client.read(encode("CLIENT", "PAUSE", "3000"))
            with pytest.raises(Unavailable):
                await cache.values("v").get("k")
            assert cache.health().breaker != "closed"
            call = asyncio.create_task(cache.values("v").get("k"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert isinstance(call.exception(), Unavailable)
            if silent == "freeze":
                server.thaw()
            await until(lambda: answers(cache))
            assert (b"x", 0) == await cache.values("v").get("k")


async def test_a_flush_in_the_middle_makes_misses_and_never_parts() -> None:
    """Windows are whole or a miss, and a limit starts anew, while everything is flushed again and again."""
    chance, keep, truth = random.Random(2), 5, list[int]()
    async with opened(url()) as cache, opened(url()) as other:
        whole = 0

        def item(number: int) -> Item:
            return Item(f"{number:05d}", 1, b"x")

        async def writer() -> None:
            for number in range(300):
                truth.append(number)
                await cache.windows.push("w", [item(number)], ttl_s=60)

        async def reader() -> None:
            nonlocal whole
            for _ in range(150):
                found = await cache.windows.read("w", limit=keep)
                if found is None:
                    leave = await cache.windows.begin("w")
                    stored = [item(number) for number in truth[-keep:]]
                    complete = len(truth) <= keep
                    await cache.windows.replace("w", stored, ticket=leave.ticket, keep=keep, complete=complete, ttl_s=60)
                elif found:
                    numbers = [int(one.id) for one in found]
                    assert numbers == list(range(numbers[0], numbers[-1] + 1))
                    assert len(numbers) == keep or numbers[0] == 0
                    whole += 1

        async def flusher() -> None:
            for _ in range(40):
                await asyncio.sleep(chance.random() * 0.002)
                # Not FLUSHALL on a server that others use: everything of this prefix.
                keys = await other.client.read(encode("KEYS", cache.options.prefix + "*"))
                if keys:
                    await other.client.read(encode("DEL", *keys))

        await asyncio.gather(writer(), *(reader() for _ in range(5)), flusher())
        assert whole > 50


async def test_a_flush_of_everything_leaves_a_working_cache() -> None:
    with own() as server:
        async with opened(server.url, near={"near": Bounds()}) as cache:
            near = cache.values("near")
            await near.set("k", b"x", ttl_s=60)
            assert (b"x", 0) == await near.get("k")
            await cache.limiter.take(Take(LIMIT, "u"))
            for command in (("FLUSHALL",), ("SCRIPT", "FLUSH")):
                await cache.client.read(encode(*command))
            await until(lambda: asyncio.sleep(0.001, near.hits >= 0))
            assert await near.get("k") is None
            assert 49 == (await cache.limiter.take(Take(LIMIT, "u"))).verdicts[0].remaining
            await cache.client.read(encode("SCRIPT", "FLUSH"))
            assert [48, 47] == [taken.verdicts[0].remaining for taken in await cache.limiter.take_each([[Take(LIMIT, "u")]] * 2)]


# --- a server that refuses ----------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_unauthenticated_and_is_never_shown() -> None:
    with own(requirepass="right-one") as server:
        async with opened(server.url) as cache:
            assert await answers(cache)
        for address in (
            f"redis://:wrong-one@127.0.0.1:{server.port}",
            f"redis://127.0.0.1:{server.port}",
            f"redis://ann:wrong-one@127.0.0.1:{server.port}",
        ):
            async with opened(address) as cache:
                for _ in range(2):
                    with pytest.raises(Unauthenticated) as caught:
                        await cache.values("v").get("k")
                shown = f"{caught.value} {caught.value!r} {caught.value.context} {cache!r} {cache.options!r} {cache.health()}"
                assert "wrong-one" not in shown
                assert "ann" not in shown
                assert "unauthenticated" == cache.health().error


async def test_a_user_without_rights_is_forbidden() -> None:
    with own() as server:
        async with opened(server.url) as admin:
            await admin.client.read(encode("ACL", "SETUSER", "ann", "on", ">pw", "~palaver*", "+@connection", "+get", "+script|load"))
            async with opened(f"redis://ann:pw@127.0.0.1:{server.port}") as cache:
                assert await cache.values("v").get("k") is None
                with pytest.raises(Forbidden):
                    await cache.values("v").set("k", b"x", ttl_s=1)


async def test_a_full_server_is_storage_full_reads_go_on_and_nothing_is_half_done() -> None:
    with own(maxmemory="3mb", maxmemory_policy="noeviction") as server:
        async with opened(server.url) as cache:
            values = cache.values("bulk")
            await values.set("first", b"x", ttl_s=60)
            takes = (Take(LIMIT, "u"), Take(Limit("second", 5, 60, "window"), "v"))
            assert (await cache.limiter.take(*takes)).allowed
            with pytest.raises(StorageFull):
                for number in range(1_000):
                    await values.set(f"k{number}", b"x" * 20_000, ttl_s=60)
            await cache.client.read(encode("CONFIG", "SET", "maxmemory", "1mb"))
            with pytest.raises(StorageFull):
                await values.set("revised", b"x", ttl_s=60, revision=4)
            with pytest.raises(StorageFull):
                await cache.limiter.take(*takes)
            with pytest.raises(StorageFull):
                await cache.presence.touch("ann", ["c"], ttl_s=60)
            with pytest.raises(StorageFull):
                await cache.windows.begin("w")
            assert (b"x", 0) == await values.get("first")
            assert [49, 4] == [verdict.remaining for verdict in (await cache.limiter.peek(*takes)).verdicts]
            await values.delete("k0")
            await cache.client.read(encode("CONFIG", "SET", "maxmemory", "100mb"))
            assert [48, 3] == [verdict.remaining for verdict in (await cache.limiter.take(*takes)).verdicts]


async def test_a_replica_is_read_only() -> None:
    with own() as server:
        async with opened(server.url) as cache:
            await cache.values("v").set("k", b"x", ttl_s=60)
            await cache.client.read(encode("CONFIG", "SET", "replica-serve-stale-data", "yes"))
            await cache.client.read(encode("REPLICAOF", "127.0.0.1", str(servers.free_port())))
            assert (b"x", 0) == await cache.values("v").get("k")
            for call in (
                cache.values("v").set("k", b"y", ttl_s=60),
                cache.values("v").set("k", b"y", ttl_s=60, revision=3),
                cache.limiter.take(Take(LIMIT, "u")),
                cache.windows.begin("w"),
            ):
                with pytest.raises(ReadOnly):
                    await call
            await cache.client.read(encode("REPLICAOF", "NO", "ONE"))
            assert await cache.values("v").set("k", b"y", ttl_s=60, revision=3)


@pytest.mark.parametrize("several", [False, True], ids=["one call", "several in one write"])
async def test_after_a_failover_behind_one_address_the_new_primary_is_found(several: bool) -> None:
    """As a managed server's name leads to its new primary while the old one, a replica now, keeps its connections."""
    with own() as one, own() as two:
        target, passing = one.port, list[asyncio.Task[Any] | None]()

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65_536):
                    sink.write(data)
            sink.close()
            with contextlib.suppress(ConnectionError):
                await sink.wait_closed()

        async def passes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            passing.append(asyncio.current_task())
            there, back = await asyncio.open_connection("127.0.0.1", target)
            await asyncio.gather(pump(reader, back), pump(there, writer))

        async with await asyncio.start_server(passes, "127.0.0.1", 0) as proxy, opened(one.url) as admin:
            address = f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
            async with opened(address) as cache:
                await cache.values("v").set("k", b"x", ttl_s=60)
                target = two.port
                await admin.client.read(encode("REPLICAOF", "127.0.0.1", str(two.port)))
                with pytest.raises(ReadOnly):
                    if several:
                        await cache.presence.touch("m", ["one", "other"], ttl_s=60)
                    else:
                        await cache.values("v").set("k", b"y", ttl_s=60)
                if several:
                    await cache.presence.touch("m", ["one", "other"], ttl_s=60)
                assert await cache.values("v").set("k", b"z", ttl_s=60)
                assert (b"z", 0) == await cache.values("v").get("k")
                assert "closed" == cache.health().breaker
            await asyncio.wait([task for task in passing if task])


async def test_a_server_without_connections_left_is_throttled() -> None:
    with own(maxclients="1") as server:
        async with opened(server.url) as cache:
            await until(lambda: answers(cache))
            async with opened(server.url) as other:
                # The refusal may be overtaken by the end of the connection.
                with pytest.raises((Throttled, Unavailable)):
                    await other.values("v").get("k")
            assert await answers(cache)


async def test_nobody_there_is_unavailable() -> None:
    for address in (f"redis://127.0.0.1:{servers.free_port()}", "redis+unix:///nowhere/redis.sock"):
        async with opened(address) as cache:
            with pytest.raises(Unavailable):
                await cache.values("v").get("k")


async def test_something_else_that_answers_is_unavailable() -> None:
    async def speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(speaks, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with opened(f"redis://127.0.0.1:{port}") as cache:
            with pytest.raises(Unavailable):
                await cache.values("v").get("k")


# --- keys of others -----------------------------------------------------------------------------------------------------


async def test_what_another_program_put_under_our_keys_is_a_miss_or_corruption_and_never_an_answer() -> None:
    async with opened(url()) as cache:
        put, prefix = cache.client.read, cache.options.prefix
        values = cache.values("v")
        for number, garbage in enumerate(
            (b"", b"v", b"v123", b"x0000000000000001data", b"v00000000000000-1data", b"{}", b"\x80\x04K\x01.")
        ):
            await put(encode("SET", f"{prefix}:v:v:g{number}", garbage))
            assert await values.get(f"g{number}") is None
            assert await values.set(f"g{number}", b"ours", ttl_s=60, revision=1)
            assert (b"ours", 1) == await values.get(f"g{number}")
        await put(encode("LPUSH", f"{prefix}:v:v:list", "x"))
        await put(encode("SET", f"{{{prefix}:l:}}:u", "x"))
        await put(encode("HSET", f"{{{prefix}:l:}}:short", LIMIT.family, "x"))
        await put(encode("ZADD", f"{prefix}:w:other", "0", "member"))
        await put(encode("SET", f"{prefix}:w:text", "x"))
        for call in (
            values.get("list"),
            values.set("list", b"x", ttl_s=60, revision=1),
            cache.limiter.take(Take(LIMIT, "u")),
            cache.limiter.take(Take(LIMIT, "short")),
            cache.windows.read("other", limit=1),
            cache.windows.push("other", [Item("1", 1, b"")], ttl_s=60),
            cache.windows.read("text", limit=1),
        ):
            with pytest.raises(Corruption):
                await call
