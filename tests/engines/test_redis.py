"""The connection to Redis, and what only the cache on Redis does: shared time, messages between processes, near values."""

from __future__ import annotations

import asyncio
import random
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from palaver.cache.bounded import Bounds
from palaver.caching import Heard, Limit, Missed, Take, Taken
from palaver.connections.redis import encode
from palaver.connections.redis_options import parse_redis_url
from palaver.errors import (
    ConfigError,
    PalaverError,
    Throttled,
    Unavailable,
)
from tests import servers
from tests.engines.redis_servers import answers, opened, own, until
from tests.engines.test_cache import url
from tests.servers.redis import speaks_tls

# --- the connection -----------------------------------------------------------------------------------------------------


async def test_callers_that_give_up_do_not_shift_the_answers_of_others() -> None:
    chance = random.Random(4)
    async with opened(url()) as cache:
        values = cache.values("v")
        await asyncio.gather(*(values.set(f"k{number}", b"%d" % number, ttl_s=60) for number in range(50)))

        async def ask(number: int) -> None:
            held = await values.get(f"k{number}")
            assert held is not None
            assert b"%d" % number == held.value

        for _ in range(40):
            tasks = [asyncio.create_task(ask(chance.randrange(50))) for _ in range(60)]
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            for task in chance.sample(tasks, 25):
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert not [one for one in done if isinstance(one, Exception)]
        assert 0 == cache.health().inflight


async def test_commands_of_one_turn_travel_in_one_write() -> None:
    with own() as server:
        async with opened(server.url) as cache:
            values = cache.values("v")
            await values.get("k")

            async def reads() -> int:
                told = bytes(await cache.client.read(encode("INFO", "stats"))).decode()
                return int(told.split("total_reads_processed:")[1].split()[0])

            before = await reads()
            await asyncio.gather(*(values.get(f"k{number}") for number in range(200)))
            assert (await reads()) - before <= 4


async def test_over_the_bound_in_flight_calls_are_refused_and_the_others_answered() -> None:
    async with opened(url(inflight=50)) as cache:
        values = cache.values("v")
        await values.get("k")
        found = await asyncio.gather(*(values.get("k") for _ in range(80)), return_exceptions=True)
        assert [None] * 50 == found[:50]
        assert {Throttled} == set(map(type, found[50:]))
        assert await values.get("k") is None
        limit = Limit("x", 100, 60)
        with pytest.raises(Throttled):
            await cache.limiter.take_each([[Take(limit, "u")]] * 51)
        assert 100 == (await cache.limiter.peek(Take(limit, "u"))).verdicts[0].remaining


async def test_a_server_that_does_not_read_is_not_sent_more_than_memory_holds() -> None:
    with own() as server:
        async with opened(server.url + "?timeout=30") as cache:
            values, large = cache.values("v"), b"x" * 8_000_000
            assert await answers(cache)
            server.freeze()
            tasks = [asyncio.create_task(values.set(f"k{number}", large, ttl_s=60)) for number in range(12)]
            await asyncio.sleep(0.05)
            assert 3 == sum(task.done() for task in tasks)
            tasks += [asyncio.create_task(values.set(f"k{number}", large, ttl_s=60)) for number in range(12)]
            await asyncio.sleep(0.05)
            assert 6 == sum(task.done() for task in tasks)
            server.thaw()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert {True, Throttled} == {type(one) if isinstance(one, Exception) else one for one in found}
            assert (large, 0) == await values.get("k0")


async def test_a_client_belongs_to_one_event_loop() -> None:
    async with opened(url()) as cache:
        await cache.values("v").get("k")

        def elsewhere() -> None:
            asyncio.run(cache.values("v").get("k"))

        with pytest.raises(ConfigError):
            await asyncio.to_thread(elsewhere)
        assert await cache.values("v").get("k") is None


async def test_large_values_and_small_ones_share_a_connection() -> None:
    async with opened(url()) as cache:
        values, large = cache.values("v"), random.Random(1).randbytes(3_000_000)

        async def small(number: int) -> None:
            await values.set(f"small{number}", b"%d" % number, ttl_s=60)
            assert (b"%d" % number, 0) == await values.get(f"small{number}")

        async def big(number: int) -> None:
            await values.set(f"large{number}", large, ttl_s=60)
            assert (large, 0) == await values.get(f"large{number}")

        await asyncio.gather(*(big(number) for number in range(4)), *(small(number) for number in range(100)))


async def test_the_servers_time_counts_and_not_ours() -> None:
    """Two clients whose clocks are years apart share a limit; it is free again when the server says so."""
    address, limit = url(), Limit("real", 5, 2.0)
    async with opened(address) as one, opened(address) as two:
        passed = [(await cache.limiter.take(Take(limit, "u"))).allowed for cache in (one, two) * 5]
        assert 5 <= sum(passed)
        refused: Taken | None = None
        while refused is None or refused.allowed:
            refused = await one.limiter.take(Take(limit, "u"))
        assert 0 < refused.retry_after_s <= 0.4
        await asyncio.sleep(refused.retry_after_s + 0.002)
        assert (await two.limiter.take(Take(limit, "u"))).allowed


async def test_keys_go_away_by_themselves() -> None:
    async with opened(url()) as cache:
        limit, window = Limit("short", 5, 5), Limit("short", 5, 5, "window")
        await cache.limiter.take(Take(limit, "u"), Take(window, "v"), token="t")
        await cache.presence.touch("ann", ["c"], ttl_s=5)
        await cache.values("v").set("k", b"x", ttl_s=5, revision=1)
        await cache.values("v").delete("gone", revision=1, fence_s=5)
        await cache.windows.begin("w", ttl_s=5)
        keys = await cache.client.read(encode("KEYS", f"*{cache.options.prefix}:*"))
        assert 8 == len(keys)
        lives = [int(await cache.client.read(encode("PTTL", key))) for key in keys]
        assert -1 not in lives
        assert 2 == sum(life > 20_000 for life in lives)  # the token, and when ann was seen


# --- listening ----------------------------------------------------------------------------------------------------------


async def test_a_listener_is_told_when_it_may_have_missed_something_and_hears_again() -> None:
    with own() as server:
        address = server.url + "?timeout=0.3&connect=0.3"
        async with opened(address) as cache, opened(server.url) as other, cache.bus.listen("t", "u") as heard:
            await other.bus.publish("t", b"1")
            assert Heard("t", b"1") == await anext(heard)
            for silence, end in ((server.kill_9, server.start), (server.freeze, server.thaw)):
                silence()
                assert Missed(listening=False) == await asyncio.wait_for(anext(heard), 10)
                end()
                assert Missed(listening=True) == await asyncio.wait_for(anext(heard), 10)
                await until(lambda: answers(other))
                await other.bus.publish("u", b"2")
                assert Heard("u", b"2") == await asyncio.wait_for(anext(heard), 10)


async def test_who_cannot_begin_to_listen_is_told_so() -> None:
    async with opened(f"redis://127.0.0.1:{servers.free_port()}") as cache:
        with pytest.raises(Unavailable):
            async with cache.bus.listen("t"):
                pass


# --- near values --------------------------------------------------------------------------------------------------------


async def test_near_values_are_read_once_and_follow_changes_of_others() -> None:
    with own() as server:
        async with opened(server.url, near={"flag": Bounds()}) as cache, opened(server.url) as other:
            near, far = cache.values("flag"), other.values("flag")
            await far.set("k", b"1", ttl_s=60)
            assert await near.get("connects") is None
            await other.client.read(encode("CONFIG", "RESETSTAT"))
            assert [(b"1", 0)] * 50 == [await near.get("k") for _ in range(50)]
            assert [None] * 50 == [await near.get("missing") for _ in range(50)]
            told = bytes(await other.client.read(encode("INFO", "commandstats"))).decode()
            assert 2 == int(told.split("cmdstat_get:calls=")[1].split(",")[0])

            async def follows(key: str, value: bytes | None) -> None:
                async def seen() -> bool:
                    held = await near.get(key)
                    return (held.value if held else None) == value

                await until(seen)

            await far.set("k", b"2", ttl_s=60)
            await follows("k", b"2")
            await far.set("missing", b"3", ttl_s=60, revision=1)
            await follows("missing", b"3")
            await far.delete("k")
            await follows("k", None)
            await far.set("short", b"4", ttl_s=2)
            await follows("short", b"4")
            await follows("short", None)
            await near.set("k", b"5", ttl_s=60)
            assert (b"5", 0) == await near.get("k")


async def test_near_values_are_dropped_when_nobody_would_say_that_they_changed() -> None:
    with own() as server:
        async with opened(server.url + "?timeout=0.3&connect=0.3", near={"flag": Bounds()}) as cache:
            near = cache.values("flag")
            await near.set("k", b"old", ttl_s=60)
            assert (b"old", 0) == await near.get("k")
            server.freeze()

            async def dropped() -> bool:
                try:
                    await near.get("k")
                except PalaverError:
                    return True
                return False

            await until(dropped)
            server.thaw()
            await until(lambda: answers(cache))


async def test_a_near_value_is_never_older_than_a_finished_change() -> None:
    """One process changes and tells, others read near; what is told as changed is never read as it was, for longer than a push takes."""
    async with opened(address := url(), near={"user": Bounds()}) as cache, opened(address) as other:
        near, far, wrong, done = cache.values("user"), other.values("user"), list[int](), False
        changed = 0

        async def reader() -> None:
            last = 0
            while not done:
                held = await near.get("k")
                if held is not None:
                    if held.revision < last:
                        wrong.append(held.revision)
                    last = held.revision
                await asyncio.sleep(0)

        async def writer() -> None:
            nonlocal changed, done
            for revision in range(1, 300):
                await far.set("k", b"x", ttl_s=60, revision=revision)
                changed = revision
            done = True

        await asyncio.gather(writer(), *(reader() for _ in range(4)))
        assert [] == wrong

        async def caught_up() -> bool:
            return (await near.get("k")) == (b"x", changed)

        await until(caught_up)


# --- addresses ----------------------------------------------------------------------------------------------------------


def test_a_url_says_everything() -> None:
    options = parse_redis_url("rediss://ann:p%40ss@cache.example:6380/3?pool=4&timeout=0.5&connect=1&inflight=99&prefix=bot&ca=/ca.pem")
    assert ("cache.example", 6380, 3, True, "ann", "p@ss") == (
        options.host, options.port, options.db, options.tls, options.user, options.password,
    )  # fmt: skip
    assert (4, 0.5, 1.0, 99, "bot", "/ca.pem") == (
        options.pool, options.timeout_s, options.connect_s, options.inflight, options.prefix, options.ca,
    )  # fmt: skip
    assert "rediss://cache.example:6380/3" == options.shown
    assert "p@ss" not in repr(options)
    assert "ann" not in repr(options)
    assert ("127.0.0.1", 6379, 0) == (parse_redis_url("redis://").host, parse_redis_url("redis://").port, parse_redis_url("redis://").db)


def test_a_url_names_nodes_of_a_cluster_or_sentinels() -> None:
    cluster = parse_redis_url("rediss+cluster://ann:p%40ss@one.example,two.example:7000,[::1]:7001?prefix=bot")
    assert ("cluster", True, (("one.example", 6379), ("two.example", 7000), ("::1", 7001))) == (cluster.via, cluster.tls, cluster.hosts)
    assert ("ann", "p@ss", "rediss+cluster://one.example:6379,two.example:7000,[::1]:7001") == (
        cluster.user,
        cluster.password,
        cluster.shown,
    )
    watched = parse_redis_url("redis+sentinel://:secret@s1,s2:26380/main/3")
    assert ("sentinel", (("s1", 26379), ("s2", 26380)), "main", 3, "secret") == (
        watched.via, watched.hosts, watched.name, watched.db, watched.password,
    )  # fmt: skip
    assert "redis+sentinel://s1:26379,s2:26380/main/3" == watched.shown


@pytest.mark.parametrize(
    "wrong",
    [
        "redis://x,y", "redis+cluster://x/1", "redis+cluster://x:port", "redis+sentinel://x", "redis+sentinel://x/name/one",
        "redis+cluster://x:99999", "redis+something://x", "redis+cluster://", "redis+cluster://x,", "redis+cluster://x,,y", "redis+sentinel:///name",
        "rediss+cluster://x,[::1", "redis+cluster://x,::1", "redis://x:0", "redis://x:6379x", "redis:x", "redis+sentinel://x,y/na@me",
        "redis://x?sentinel_password=secret", "redis+sentinel://x/name?sentinel_pass=secret", "redis://x?pool=1&pool=2",
        "http://x", "redis://x/one", "redis://x:port", "redis://x?pool=0", "redis://x?pool=many", "redis://x?timeout=0", "redis://x?timeout=nan",
        "redis://x?prefix=", "redis://x?prefix={a}", "redis://x?poool=3", "redis://x?ca=/ca.pem", "redis+unix://",
    ],
)  # fmt: skip
def test_a_url_that_cannot_work_is_refused_without_its_password(wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_redis_url(wrong.replace("://x", "://ann:secret@x"))
    assert "secret" not in f"{caught.value} {caught.value!r}"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("wrong", "instead"),
    [
        ("redis://x", "rediss:// instead of redis://"),
        ("redis+cluster://x", "rediss+cluster:// instead of redis+cluster://"),
        ("redis+sentinel://x/name", "rediss+sentinel:// instead of redis+sentinel://"),
        ("redis+unix:///run/redis.sock", "Leave it out"),
    ],
)
def test_an_authority_without_tls_names_the_scheme_that_speaks_it(wrong: str, instead: str) -> None:
    with pytest.raises(ConfigError) as told:
        parse_redis_url(f"{wrong}?ca=/ca.pem")
    assert instead in told.value.hint


@pytest.mark.parametrize("scheme", ["redis", "rediss+cluster", "redis+sentinel"])
def test_users_and_passwords_may_hold_any_character(scheme: str) -> None:
    secret = "p:/?#[]@,%+ ü&="
    written = quote(secret, safe="")
    options = parse_redis_url(f"{scheme}://{written}:{written}@[::1]/{'main' if 'sentinel' in scheme else ''}")
    assert (secret, secret, "::1") == (options.user, options.password, options.host)
    assert secret == parse_redis_url(f"redis+sentinel://h/main?sentinel_password={written}").sentinel_password
    # A plus, a number sign and a percent sign that begins nothing stand for themselves.
    assert "a+b#%" == parse_redis_url("redis://:a+b#%@h").password
    assert "a+b" == parse_redis_url("redis+sentinel://h/main?sentinel_password=a+b").sentinel_password
    assert "secret" not in repr(parse_redis_url("redis+sentinel://h/main?sentinel_user=secret&sentinel_password=secret"))


def test_addresses_of_ipv6_and_what_is_around_a_url() -> None:
    options = parse_redis_url(" REDIS://[2001:DB8::1]/2\n")
    assert ("2001:db8::1", 6379, 2, "redis://[2001:db8::1]:6379/2") == (options.host, options.port, options.db, options.shown)
    assert "/run/a@b.sock" == parse_redis_url("redis+unix:///run/a%40b.sock").path == parse_redis_url("redis+unix:///run/a@b.sock").path


async def test_a_socket_in_the_file_system(tmp_path: Path) -> None:
    with own(unixsocket=str(tmp_path / "redis.sock")) as server:
        assert server.version
        async with opened(f"redis+unix://{tmp_path}/redis.sock") as cache:
            await cache.values("v").set("k", b"x", ttl_s=60)
            assert (b"x", 0) == await cache.values("v").get("k")


async def test_databases_are_apart() -> None:
    with own() as server:
        base = server.url.removesuffix("/0")
        async with opened(base + "/1") as one, opened(base + "/2") as two, opened(base + "/99") as none:
            await one.values("v").set("k", b"x", ttl_s=60)
            assert await two.values("v").get("k") is None
            with pytest.raises(ConfigError):
                await none.values("v").get("k")


async def test_tls_checks_the_certificate(tmp_path: Path) -> None:
    if not speaks_tls():
        pytest.skip("this redis-server was built without TLS")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", key]
    made += ["-out", certificate, "-addext", "subjectAltName=DNS:localhost"]
    await asyncio.to_thread(subprocess.run, made, check=True, capture_output=True)
    port = servers.free_port()
    with own(tls_port=str(port), tls_cert_file=certificate, tls_key_file=key, tls_ca_cert_file=certificate, tls_auth_clients="no"):
        async with opened(f"rediss://localhost:{port}?ca={certificate}") as cache:
            assert await cache.values("v").set("k", b"x" * 100_000, ttl_s=60, revision=1)
            found = await asyncio.gather(*(cache.values("v").get("k") for _ in range(20)))
            assert [(b"x" * 100_000, 1)] * 20 == found
        for address in (f"rediss://localhost:{port}", f"rediss://127.0.0.1:{port}?ca={certificate}"):
            async with opened(address) as cache:
                with pytest.raises(Unavailable, match="certificate"):
                    await cache.values("v").get("k")
        async with opened(f"rediss://localhost:{port}?ca={key}") as cache:
            with pytest.raises(ConfigError):
                await cache.values("v").get("k")
