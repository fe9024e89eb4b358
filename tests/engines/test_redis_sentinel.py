"""A primary that sentinels know: it is found by its name, and the one that takes its place too."""

from __future__ import annotations

import asyncio

import pytest

from palaver.caching import Heard, Missed
from palaver.errors import ConfigError, Unauthenticated, Unavailable
from tests import servers
from tests.engines.redis_servers import answers, opened, until
from tests.servers.redis import Certificate, Watched, speaks_tls


async def test_the_primary_is_found_and_the_one_after_it() -> None:
    watched = Watched()
    try:
        async with opened(f"{watched.url}?timeout=0.5&connect=0.5") as cache:
            values = cache.values("v")
            await values.set("k", b"kept", ttl_s=60, revision=3)
            assert "role:master" in watched.primary.say("INFO", "replication")
            assert f"v{3:016}kept" in watched.primary.say("GET", "palaver:v:v:k")
            made = cache.made
            async with cache.bus.listen("news") as heard:
                await asyncio.sleep(0.2)  # for the replica
                watched.primary.kill_9()
                assert Missed(listening=False) == await asyncio.wait_for(anext(heard), 10)
                await until(lambda: answers(cache), 30)
                assert (b"kept", 3) == await values.get("k")
                assert cache.made > made
                assert "role:master" in watched.replica.say("INFO", "replication")
                assert Missed(listening=True) == await asyncio.wait_for(anext(heard), 20)
                await cache.bus.publish("news", b"again")
                assert Heard("news", b"again") == await asyncio.wait_for(anext(heard), 5)
        async with opened(watched.url.replace("/main", "/other")) as cache:
            with pytest.raises(ConfigError, match="know no primary"):
                await cache.values("v").get("k")
    finally:
        watched.close()


async def test_sentinels_have_a_password_of_their_own_and_speak_tls_with_all() -> None:
    if not speaks_tls():
        pytest.skip("this redis-server was built without TLS")
    certificate = Certificate()
    watched = Watched(certificate=certificate, password="ours:of/all")
    try:
        known = f"{watched.url}?ca={certificate.file}&timeout=0.5&connect=0.5"
        async with opened(f"{known}&sentinel_password=ours%3Aof/all") as cache:
            await cache.values("v").set("k", b"kept", ttl_s=60, revision=3)
            assert f"v{3:016}kept" in watched.primary.say("GET", "palaver:v:v:k")
            assert "ours" not in f"{cache!r} {cache.options!r} {cache.options.shown}"
        for password in ("", "&sentinel_password=wrong", "&sentinel_user=nobody&sentinel_password=ours%3Aof/all"):
            async with opened(f"{known}{password}") as cache:
                with pytest.raises(Unauthenticated, match="sentinels") as told:
                    await cache.values("v").get("k")
                assert "sentinel_password=" in told.value.hint
        for address in (watched.url, known.replace("rediss", "redis").partition("?")[0]):
            async with opened(f"{address}?connect=0.5&sentinel_password=ours%3Aof/all") as cache:
                with pytest.raises(Unavailable):
                    await cache.values("v").get("k")
    finally:
        watched.close()
        certificate.close()


async def test_sentinels_that_do_not_answer_are_unavailable() -> None:
    async with opened(f"redis+sentinel://127.0.0.1:{servers.free_port()},127.0.0.1:{servers.free_port()}/main") as cache:
        with pytest.raises(Unavailable):
            await cache.values("v").get("k")
