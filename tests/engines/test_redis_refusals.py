"""What Redis refuses has a name, which shows no value; and what refuses for a while is used again afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from palaver.caching import Take
from palaver.connections.redis_errors import Elsewhere, translate
from palaver.errors import (
    ConfigError,
    Conflict,
    Corruption,
    Forbidden,
    PalaverError,
    ReadOnly,
    StorageFull,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from tests.engines.redis_servers import LIMIT, answers, opened, own, until

_OLD_SCRIPT = "ERR Error running script (call to f_1a): @user_script:12: @user_script: 12: "


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("READONLY You can't write against a read only replica.", ReadOnly),
        (f"{_OLD_SCRIPT}-READONLY You can't write against a read only replica. ", ReadOnly),
        ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", ReadOnly),
        ("LOADING Redis is loading the dataset in memory", Unavailable),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", Unavailable),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Unavailable),
        ("NOREPLICAS Not enough good replicas to write.", Unavailable),
        ("CLUSTERDOWN Hash slot not served", Unavailable),
        ("CLUSTERDOWN The cluster is down", Unavailable),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Conflict),
        ("CROSSSLOT Keys in request don't hash to the same slot", ConfigError),
        ("OOM command not allowed when used memory > 'maxmemory'.", StorageFull),
        (f"{_OLD_SCRIPT}-OOM command not allowed when used memory > 'maxmemory'. ", StorageFull),
        ("NOAUTH Authentication required.", Unauthenticated),
        ("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH form", Unauthenticated),
        ("WRONGPASS invalid username-password pair or user is disabled.", Unauthenticated),
        ("NOPERM User default has no permissions to run the 'get' command", Forbidden),
        ("NOPERM No permissions to access a key", Forbidden),
        ("ERR Error running script (call to f_1a): @user_script:1: The user executing the script can't run this command", Forbidden),
        ("DENIED Redis is running in protected mode because protected mode is enabled", Forbidden),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", Corruption),
        ("ERR max number of clients reached", Throttled),
        ("ERR DB index is out of range", ConfigError),
        ("ERR unknown command 'GETEX', with args beginning with: 'secret'", ConfigError),
        ("NOPROTO unsupported protocol version", ConfigError),
        ("ERR This instance has cluster support disabled", ConfigError),
        ("MOVED 3999 127.0.0.1:6381", Elsewhere),
        ("ASK 3999 ::1:6381", Elsewhere),
        ("MOVED 1 ?:6381", Elsewhere),
        ("MOVED", Unavailable),
        ("MOVED secret secret:secret", Unavailable),
        ("SOMETHING new", Unavailable),
        ("", Unavailable),
    ],
)
def test_every_refusal_has_a_name(text: str, kind: type[PalaverError]) -> None:
    error = translate(text)
    assert kind is type(error)
    assert "secret" not in f"{error} {error!r} {error.context}"


def test_where_a_slot_has_gone_is_read_from_the_refusal() -> None:
    told = [translate(text) for text in ("MOVED 3999 127.0.0.1:6381", "ASK 1 ::1:7000", "MOVED 2 ?:7001", "MOVED 3 :7002")]
    assert [(3999, "127.0.0.1", 6381, False), (1, "::1", 7000, True), (2, "", 7001, False), (3, "", 7002, False)] == [
        (each.slot, each.host, each.port, each.asking) for each in told if isinstance(each, Elsewhere)
    ]


async def test_a_server_that_cannot_save_is_read_only_and_its_connection_stays() -> None:
    with own(save="3600 1") as server:
        (server.folder / "dump.rdb" / "in-the-way").mkdir(parents=True)
        server.say("BGSAVE")
        async with opened(server.url) as cache:

            async def refused() -> bool:
                with contextlib.suppress(ReadOnly):
                    await cache.values("v").set("k", b"x", ttl_s=60)
                    return False
                return True

            await until(refused)
            made = cache.made
            for _ in range(3):
                for call in (cache.values("v").set("k", b"y", ttl_s=60, revision=3), cache.limiter.take(Take(LIMIT, "u"))):
                    with pytest.raises(ReadOnly, match="save"):
                        await call
            await cache.values("v").get("k")
            assert made == cache.made


async def test_a_server_busy_with_a_script_is_unavailable_until_it_is_done() -> None:
    with own(lua_time_limit="20") as server:
        async with opened(server.url) as cache:
            await cache.values("v").set("k", b"x", ttl_s=60)
            with socket.create_connection(("127.0.0.1", server.port), 5) as other:
                other.sendall(b'EVAL "while true do end" 0\r\n')

                async def busy() -> bool:
                    try:
                        await cache.values("v").get("k")
                    except Unavailable as error:
                        return "busy with a script" in error.message
                    return False

                await until(busy)
                with pytest.raises(Unavailable, match="busy"):
                    await cache.values("v").set("k", b"y", ttl_s=60, revision=1)
                await asyncio.to_thread(server.say, "SCRIPT", "KILL")
                await until(lambda: answers(cache))
            assert (b"x", 0) == await cache.values("v").get("k")


async def test_a_server_with_too_few_replicas_is_unavailable_to_writes_and_read() -> None:
    with own() as server:
        async with opened(server.url) as cache:
            await cache.values("v").set("k", b"x", ttl_s=60)
            server.say("CONFIG", "SET", "min-replicas-to-write", "1")
            for call in (cache.values("v").set("k", b"y", ttl_s=60), cache.values("v").delete("k", revision=9), cache.windows.begin("w")):
                with pytest.raises(Unavailable):
                    await call
            assert (b"x", 0) == await cache.values("v").get("k")
            server.say("CONFIG", "SET", "min-replicas-to-write", "0")
            assert await cache.values("v").set("k", b"y", ttl_s=60, revision=9)
