"""The cache a URL names: made when it is asked for, a tenant's own part, and none at all."""

from __future__ import annotations

from urllib.parse import quote

import pytest

import palaver
from palaver.cache.memory import MemoryCache
from palaver.cache.none import NoCache
from palaver.cache.redis import RedisCache
from palaver.caching import Limit, Take
from palaver.errors import ConfigError, TenantMismatch, Unavailable
from palaver.url import parse_url
from tests import servers
from tests.store.world import CHAT, NOTES

FIVE = Limit("five", 5, per_s=60)


def with_cache(url: str, cache: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}cache={quote(cache, safe='')}"


async def test_without_a_word_it_is_this_processs_memory(url: str) -> None:
    async with palaver.open(url, schema=CHAT, maintain=False) as store:
        assert "cache" not in store.core.__dict__, "nobody asked for it yet"
        assert isinstance(store.cache, MemoryCache)
        assert store.cache is store.cache
        await store.cache.values("a").set("k", b"v", ttl_s=60)
    with pytest.raises(ConfigError, match="closed"):
        await store.core.cache.values("a").get("k")


async def test_what_a_kind_may_hold_is_said_in_bytes() -> None:
    async with palaver.open("memory:?cache=memory:10kb", schema=CHAT, maintain=False) as store:
        values = store.cache.values("a")
        for number in range(100):
            await values.set(str(number), bytes(1_000), ttl_s=60)
        assert await values.get("99")
        assert await values.get("0") is None
        assert 0 < store.cache.health().bytes <= 10_000


async def test_redis_is_named_by_its_url(url: str) -> None:
    where = f"{servers.redis().url}?prefix=stack"
    async with palaver.open(with_cache(url, where), schema=CHAT, maintain=False) as store:
        assert isinstance(store.cache, RedisCache)
        await store.cache.values("a").set("k", b"v", ttl_s=60)
        async with palaver.open(with_cache("memory:", where), schema=CHAT, maintain=False) as other:
            found = await other.cache.values("a").get("k")
            assert found is not None
            assert b"v" == found.value


async def test_with_none_every_call_says_so(url: str) -> None:
    async with palaver.open(with_cache(url, "none"), schema=CHAT, maintain=False) as store:
        cache = store.cache
        assert isinstance(cache, NoCache)
        assert "open" == cache.health().breaker
        for call in (
            cache.values("a").get("k"),
            cache.values("a").set("k", b"", ttl_s=1),
            cache.limiter.take(Take(FIVE, "u")),
            cache.presence.count(["c"]),
            cache.windows.read("w", limit=1),
            cache.bus.publish("t", b""),
        ):
            with pytest.raises(Unavailable, match="no cache"):
                await call
        with pytest.raises(Unavailable, match="no cache"):
            async with cache.bus.listen("t"):
                raise AssertionError


@pytest.mark.parametrize("named", ["redis", "memory:lots", "memcached://host", "http://secret:word@host"])
def test_what_names_no_cache_is_refused_without_being_shown(named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_url(with_cache("sqlite:///x.db", named))
    assert "cache" in str(refused.value)
    assert "word" not in str(refused.value)


def test_a_password_of_the_cache_is_not_shown() -> None:
    parsed = parse_url(with_cache("sqlite:///x.db", "redis://bot:word@host:1/0"))
    assert "word" not in repr(parsed)
    with pytest.raises(ConfigError) as refused:
        parse_url(with_cache("sqlite:///x.db", "redis://bot:word@host:1/0?pol=2"))
    assert "word" not in str(refused.value)


async def test_tenants_share_nothing() -> None:
    async with palaver.open("memory:", schema=NOTES, maintain=False) as store:
        a, b = store.for_tenant("a").cache, store.for_tenant("b").cache
        await a.values("user").set("ann", b"a's", ttl_s=60)
        assert await b.values("user").get("ann") is None
        assert await store.for_tenant("a").cache.values("user").get("ann") is not None
        await a.limiter.take(Take(FIVE, "ann", 5))
        assert (await b.limiter.take(Take(FIVE, "ann", 5))).allowed
        await a.presence.touch("ann", ["web"], ttl_s=60)
        assert [0] == await b.presence.count(["web"])


async def test_the_cache_of_tenants_belongs_to_one_of_them() -> None:
    async with palaver.open("memory:", schema=NOTES, maintain=False) as store:
        with pytest.raises(TenantMismatch, match="bound to none"):
            _ = store.cache


@pytest.mark.parametrize("cache", ["redis+cluster://one:6379,two", "redis+sentinel://:a+b@one,two/main?pool=2"])
def test_a_plus_in_a_url_is_one_as_everybody_writes_it(cache: str) -> None:
    assert cache == parse_url(f"sqlite:///x.db?cache={cache}").options["cache"]
