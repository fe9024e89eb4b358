"""`palaver doctor` about the cache, and about how many processes a server can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from palaver.cli.exits import Exit
from tests import servers
from tests.cli.conftest import Palaver, Ran
from tests.engines.redis_servers import own


def check(ran: Ran, name: str) -> Any:
    return next(each for each in ran.json["checks"] if each["check"] == name)


def test_the_cache_of_one_process_is_well_and_of_several_it_is_not(palaver: Palaver, demo: Path) -> None:
    assert "ok" == check(palaver("doctor", "--quick"), "cache")["level"]
    ran = palaver("doctor", "--quick", "--processes", 4)
    assert ("warn", True) == (check(ran, "cache")["level"], "4 times" in check(ran, "cache")["seen"])
    assert Exit.FAILURE == ran.code


def test_a_redis_is_examined_beside_the_database(palaver: Palaver, demo: Path) -> None:
    with own(**{"maxmemory": "64mb", "maxmemory-policy": "allkeys-lru"}) as server:
        ran = palaver("doctor", "--quick", "-u", f"sqlite:///{demo}?cache={quote(server.url, safe='')}")
    assert "volatile-ttl" in check(ran, "cache memory")["fix"]
    assert "Redis" in check(ran, "cache server")["seen"]
    assert {"cache rights", "cache persistence", "cache role", "cache connections", "schema"} <= {
        each["check"] for each in ran.json["checks"]
    }
    assert Exit.FAILURE == ran.code


def test_a_redis_that_is_away_is_named_and_the_rest_is_still_examined(palaver: Palaver, demo: Path) -> None:
    away = quote("redis://u:s3cret@127.0.0.1:1/0?connect=0.2", safe="")
    ran = palaver("doctor", "--quick", "-u", f"sqlite:///{demo}?cache={away}")
    assert ("fail", "ok") == (check(ran, "cache")["level"], check(ran, "schema")["level"])
    assert Exit.USAGE == ran.code
    assert "s3cret" not in ran.out + ran.err


def test_no_cache_is_said_to_be_none(palaver: Palaver, demo: Path) -> None:
    assert "none" in check(palaver("doctor", "--quick", "-u", f"sqlite:///{demo}?cache=none"), "cache")["seen"]


def test_more_connections_than_the_server_has_are_told_before_anybody_opens_them(palaver: Palaver) -> None:
    """What `pool_size=20` in four processes of ten more each comes to."""
    server = servers.postgres18()
    url = f"{server.url(server.create_database())}?blobs=memory:&pool=30"
    assert 0 == palaver("migrate", "apply", "--blueprint", "baller", "-u", url, "--yes").code
    ran = palaver("doctor", "--quick", "--blueprint", "baller", "--processes", 4, "-u", url)
    found = check(ran, "connection budget")
    assert ("fail", True) == (found["level"], "120 of 97" in found["seen"])
    assert Exit.USAGE == ran.code
    fitting = found["fix"].partition("pool=")[2].partition(" ")[0]
    again = palaver("doctor", "--quick", "--blueprint", "baller", "--processes", 4, "-u", url.replace("pool=30", f"pool={fitting}"))
    assert "ok" == check(again, "connection budget")["level"]
