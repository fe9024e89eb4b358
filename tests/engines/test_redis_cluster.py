"""A real Redis Cluster of three nodes: the whole suite, keys of one call in one slot, slots that move, and a node that dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.cache.bounded import Bounds
from palaver.cache.redis import RedisCache
from palaver.cache.redis_scripts import ALL
from palaver.caching import Heard, Item, Limit, Missed, Take
from palaver.clock import ManualClock
from palaver.connections.redis import RedisClient, encode
from palaver.connections.redis_cluster import RedisCluster, slot_of
from palaver.connections.redis_options import parse_redis_url
from palaver.connections.redis_wire import Wire
from palaver.context import ContextWindow
from palaver.entity_cache import EntityCache
from palaver.errors import ConfigError, PalaverError, Unavailable
from palaver.ports import Cache
from palaver.testing.cache import CacheTests
from tests import servers
from tests.cache.people import PEOPLE, Plain, with_cache
from tests.context.app import CHAT, Message, message, numbers
from tests.engines.redis_servers import answers, opened, until
from tests.identity.accounts import in_use, process
from tests.servers.redis import Certificate, Cluster, speaks_tls
from tests.stacks import fresh

_PREFIXES = count()
LIMIT, OTHER = Limit("cluster", 50, 3_600), Limit("window", 50, 3_600, kind="window")


def url() -> str:
    """The address of the run's cluster, with a prefix nobody else has."""
    return f"{servers.redis_cluster().url}?prefix=cluster{next(_PREFIXES)}"


class TestRedisClusterCache(CacheTests):
    @pytest.fixture
    async def cache(self, clock: ManualClock) -> AsyncIterator[Cache]:
        cache = RedisCache(url(), clock=clock)
        yield cache
        await cache.aclose()

    async def pass_time(self, clock: ManualClock, seconds: float) -> None:
        clock.advance(timedelta(seconds=seconds))
        await asyncio.sleep(seconds)


# --- slots ----------------------------------------------------------------------------------------------------------


async def test_keys_of_every_script_and_command_lie_in_one_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the cluster itself: which keys each command we ever send has, and where they lie. A script nobody calls here fails it."""
    sent: list[bytes] = []
    send = Wire.send

    def noting(self: Wire, command: bytes) -> Any:
        sent.append(command)
        return send(self, command)

    monkeypatch.setattr(Wire, "send", noting)
    address = url()
    async with opened(address) as cache:
        for name in ("", "}", "{}", "a}b", "tenant", "{a}", "%7D"):
            await _everything(cache, name)
    await _entities(with_cache(fresh("sqlite", tmp_path), address))
    monkeypatch.undo()
    commands = {command for command in sent if not command.startswith((b"*1\r\n", b"*2\r\n"))}
    scripts = {script.sha: script.name for script in ALL}
    called = {name for sha, name in scripts.items() if any(b"EVALSHA" in command and sha in command for command in commands)}
    assert set(scripts.values()) == called
    several = 0
    node = RedisClient(parse_redis_url(f"redis://127.0.0.1:{servers.redis_cluster().nodes[0].port}"))
    for command in commands:
        keys = await _keys(node, command)
        slots = {int(await node.read(encode("CLUSTER", "KEYSLOT", key))) for key in keys}
        assert len(slots) <= 1, command[:60]
        assert slots == {slot_of(key) for key in keys}
        several += len(keys) > 1
    await node.aclose()
    assert several > 10


async def _everything(cache: RedisCache, name: str) -> None:
    takes = [Take(limit, key) for limit in (LIMIT, OTHER) for key in ("", "}", "x{y}", "{")]
    await cache.limiter.take(Take(LIMIT, f"{name}!"))
    await cache.limiter.take(Take(LIMIT, f"{name}!"), Take(Limit("day", 500, 86_400), f"{name}!"))
    await cache.limiter.take(*takes, group=name, token="}{")
    await cache.limiter.take_each([takes, takes[:1]], group=name)
    await cache.limiter.peek(*takes, group=name)
    await cache.limiter.reset(*takes, group=name)
    presence = cache.presence
    await presence.touch("{m}", [name, "other"], ttl_s=9)
    await asyncio.gather(presence.present(name), presence.count([name, "other"]), presence.among(name, ["{m}"]))
    await presence.last_seen(name, ["{m}"])
    await presence.leave("{m}", [name, "other"])
    key = f"{name}:window"
    ticket = (await cache.windows.begin(key)).ticket
    await cache.windows.push(key, [Item("1", 1, b"")], ttl_s=60)
    await cache.windows.replace(key, [], ticket=ticket, keep=2, complete=True, ttl_s=60)
    await cache.windows.read(key, limit=2)
    await cache.windows.delete(key)
    values = cache.values("v")
    await values.set(f"{name}k", b"", ttl_s=60, revision=1)
    await values.set(f"{name}k", b"", ttl_s=60)
    await values.get(f"{name}k", extend_s=60)
    await values.get_many([f"{name}k", f"{name}l", "m"])
    await values.delete(f"{name}k", revision=2)
    await values.delete(f"{name}k")
    await cache.bus.publish("topic", b"")


async def _entities(address: str) -> None:
    async with palaver.open(address, schema=PEOPLE, migrate=True, maintain=False) as store:
        plain = EntityCache(store, Plain)
        await plain.get(Plain.at("a"))
        await plain.ready()
        await store.put(Plain(id="a", number=1))
        for _ in range(2):
            assert [1, None] == [found.number if found else None for found in await plain.get_many([Plain.at("a"), Plain.at("b")])]
        assert plain.figures.hits > 0
        # The mark is read with each value, and says what its node was told.
        names = [name for node in servers.redis_cluster().nodes for name in await _names(node.port, "*entity.Plain*")]
        assert len([name for name in names if b":@" in name]) >= 1
        assert len({slot_of(name) for name in names}) == 1


async def _names(port: int, pattern: str) -> list[bytes]:
    node = RedisClient(parse_redis_url(f"redis://127.0.0.1:{port}"))
    try:
        return list(await node.read(encode("KEYS", pattern)))
    finally:
        await node.aclose()


async def _keys(node: RedisClient, command: bytes) -> list[bytes]:
    """Return the keys of a command, as the server says."""
    count_, rest = command.split(b"\r\n", 1)
    asked = b"*%d\r\n$7\r\nCOMMAND\r\n$7\r\nGETKEYS\r\n%b" % (int(count_[1:]) + 2, rest)
    try:
        return list(await node.read(asked))
    except PalaverError:
        return []  # a command without keys


# --- slots that move ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moving() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.close()


class Move:
    """One slot on its way from its node to the next one."""

    def __init__(self, cluster: Cluster, slot: int) -> None:
        self.slot, place = str(slot), cluster.owner(slot)
        self.source, self.target = cluster.nodes[place], cluster.nodes[(place + 1) % 3]
        self.ids = cluster.ids[place], cluster.ids[(place + 1) % 3]
        assert self.target.say("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.ids[0]).startswith("+OK")
        assert self.source.say("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.ids[1]).startswith("+OK")

    def carry(self, most: int = 1_000) -> None:
        """Take keys over."""
        told = self.source.say("CLUSTER", "GETKEYSINSLOT", self.slot, str(most)).split("\r\n")
        for key in told[2::2]:
            assert self.source.say("MIGRATE", "127.0.0.1", str(self.target.port), key, "0", "1000").startswith("+OK")

    def end(self) -> None:
        for node in (self.target, self.source):
            assert node.say("CLUSTER", "SETSLOT", self.slot, "NODE", self.ids[1]).startswith("+OK")


async def test_a_slot_is_followed_while_it_moves_and_when_it_has(moving: Cluster) -> None:
    async with opened(f"{moving.url}?prefix=moves") as cache:
        values = cache.values("v")
        keys = [f"{{one}}{number}" for number in range(10)]
        for key in keys[:8]:
            assert await values.set(key, key.encode(), ttl_s=60, revision=5)
        made = cache.made
        move = Move(moving, slot_of(b"one"))
        move.carry(5)
        assert [key.encode() for key in keys[:8]] == [held.value if (held := await values.get(key)) else b"" for key in keys[:8]]
        # New keys, and scripts, on the node that is just given the slot.
        for key in keys[8:]:
            assert await values.set(key, key.encode(), ttl_s=60, revision=5)
        assert not await values.set(keys[0], b"older", ttl_s=60, revision=4)
        several = asyncio.ensure_future(values.get_many(keys))
        await asyncio.sleep(0.05)
        move.carry()
        move.end()
        assert [key.encode() for key in keys] == [held.value if held else b"" for held in await several]
        assert [key.encode() for key in keys] == [held.value if held else b"" for held in await values.get_many(keys)]
        await until(lambda: asyncio.sleep(0, cache.made > made))


async def test_several_keys_that_are_nowhere_yet_wait_until_their_slot_has_moved(moving: Cluster) -> None:
    """The old node sends on, the new one says to try again: neither has all of them."""
    async with opened(f"{moving.url}?prefix=nowhere") as cache:
        values = cache.values("v")
        keys = [f"{{four}}{number}" for number in range(3)]
        assert await values.get(keys[0]) is None
        move = Move(moving, slot_of(b"four"))
        several = asyncio.ensure_future(values.get_many(keys))
        await asyncio.sleep(0.3)
        move.end()
        assert [None] * 3 == await several


async def test_a_move_that_is_called_off_is_followed_back(moving: Cluster) -> None:
    async with opened(f"{moving.url}?prefix=back") as cache:
        values = cache.values("v")
        await values.set("{five}a", b"x", ttl_s=60)
        move = Move(moving, slot_of(b"five"))
        assert await values.get("{five}b") is None
        assert move.target.say("CLUSTER", "SETSLOT", move.slot, "STABLE").startswith("+OK")
        asked = asyncio.ensure_future(values.get("{five}b"))
        await asyncio.sleep(0.05)
        assert move.source.say("CLUSTER", "SETSLOT", move.slot, "STABLE").startswith("+OK")
        assert await asked is None


async def test_a_slot_that_has_moved_counts_as_a_connection_made_anew_before_anything_of_it_is_answered(moving: Cluster) -> None:
    async with opened(f"{moving.url}?prefix=old") as cache:
        client: Any = cache.client
        values = cache.values("v")
        await values.set("{two}", b"x", ttl_s=60)
        slot = slot_of(b"two")
        before, made = client._owners[slot], cache.made
        move = Move(moving, slot)
        move.carry()
        move.end()
        assert await values.get("{two}") is not None
        assert cache.made > made

        async def known() -> bool:
            """The map is asked for of any node, and that may not know it yet."""
            await values.get("{two}")
            return bool(client._owners[slot] == ("127.0.0.1", move.target.port) != before)

        await until(known)


async def test_messages_are_heard_from_one_node_to_another(moving: Cluster) -> None:
    from_another = moving.url.replace("//", f"//127.0.0.1:{moving.nodes[2].port},")
    async with opened(moving.url) as one, opened(from_another) as other, one.bus.listen("news") as heard:
        await other.bus.publish("news", b"hello")
        assert Heard("news", b"hello") == await asyncio.wait_for(anext(heard), 5)


async def test_a_node_that_gives_all_its_slots_away_ends_nobodys_call() -> None:
    """It leaves the map while calls are under way; they have their answers, and the next ones go elsewhere."""
    async with opened(url()) as cache:
        client: Any = cache.client
        values = cache.values("v")
        await values.set("k", b"x", ttl_s=60)
        slot = slot_of(f"{cache.options.prefix}:v:v:k".encode())
        place = client._owners[slot]
        node = client._nodes[place]
        asked = [asyncio.ensure_future(values.get("k")) for _ in range(100)]
        await asyncio.sleep(0)
        made = cache.made
        await client._keep_only(set(client._nodes) - {place})
        assert place not in client._nodes
        assert all(held is not None and held.value == b"x" for held in await asyncio.gather(*asked))
        await until(lambda: asyncio.sleep(0, not node._wires))
        assert await values.get("k") is not None
        assert cache.made > made
    with pytest.raises(ConfigError, match="closed"):
        await values.get("k")


async def test_sessions_and_context_windows_are_served_by_a_cluster(tmp_path: Path) -> None:
    address = url()
    async with process(f"sqlite:///{tmp_path}/sessions.db?sync=normal", address) as (_, sessions):
        started = await sessions.start("ann", {"model": "small"})
        await until(lambda: in_use(sessions, started.token))
        await sessions.end(started.token)
        assert await sessions.read(started.token) is None
    async with palaver.open(with_cache(fresh("sqlite", tmp_path), address), schema=CHAT, migrate=True, maintain=False) as store:
        context = ContextWindow(store, Message)
        await context._subscription.ready()
        for number in range(3):
            await context.create(message(number))
            assert list(range(number + 1)) == numbers(await context.read("c"))
        await context.read("c")
        assert context.figures.hits > 0


# --- a node that dies -----------------------------------------------------------------------------------------------


async def test_a_replica_that_takes_over_is_found_and_what_it_may_not_know_is_doubted(tmp_path: Path) -> None:
    cluster = Cluster(replicas=1)
    try:
        address = with_cache(fresh("sqlite", tmp_path), f"{cluster.url}?timeout=0.5&connect=0.5")
        async with palaver.open(address, schema=PEOPLE, migrate=True, maintain=False) as store:
            plain, values = EntityCache(store, Plain), store.cache.values("v")
            await store.put(Plain(id="a", number=1))
            await plain.get(Plain.at("a"))
            await asyncio.wait_for(plain.ready(), 20)
            (mark,) = {slot_of(name) for name in await _marks(cluster)}
            made = store.cache.made
            dead = cluster.primaries[cluster.owner(mark)]
            dead.kill_9()
            for number in range(2, 40):
                await store.put(Plain(id="a", number=number))
                found = await plain.get(Plain.at("a"))
                assert found is not None
                assert number == found.number
                await asyncio.sleep(0.05)

            async def believed() -> bool:
                hits = plain.figures.hits
                await plain.get(Plain.at("a"))
                await plain.get(Plain.at("a"))
                return plain.figures.hits > hits

            await until(believed, 20)
            assert store.cache.made > made
            for number in range(50):
                await values.set(f"{number}", b"x", ttl_s=60)
                assert await values.get(f"{number}") is not None
    finally:
        cluster.close()


async def _marks(cluster: Cluster) -> list[bytes]:
    """Return the names of the marks of entities that lie in the cluster."""
    found: list[bytes] = []
    for node in cluster.primaries:
        found += [line.encode() for line in node.say("KEYS", "*@*").split("\r\n") if "@" in line]
    return found


async def test_a_listener_hears_again_when_its_node_has_died() -> None:
    cluster = Cluster()
    try:
        async with opened(f"{cluster.url}?timeout=0.5&connect=0.5") as cache, cache.bus.listen("news") as heard:
            cluster.nodes[0].kill_9()
            assert Missed(listening=False) == await asyncio.wait_for(anext(heard), 5)
            assert Missed(listening=True) == await asyncio.wait_for(anext(heard), 5)
    finally:
        cluster.close()


# --- wrong addresses ------------------------------------------------------------------------------------------------


async def test_a_cluster_and_a_server_taken_for_each_other_are_told_in_words() -> None:
    cluster = servers.redis_cluster()
    for port in (node.port for node in cluster.nodes):
        async with opened(f"redis://127.0.0.1:{port}") as cache:
            with pytest.raises(ConfigError, match="node of a Redis Cluster") as told:
                for number in range(50):
                    await cache.values("v").get(f"{number}")
            assert "redis+cluster://" in told.value.hint
            found = {finding.check: finding for finding in await cache.diagnose()}
            assert ("fail", "fail") == (found["cache rights"].level, found["cache role"].level)
            assert "redis+cluster://" in found["cache role"].fix
    single = servers.redis().url.removeprefix("redis://").removesuffix("/0")
    async with opened(f"redis+cluster://{single}") as cache:
        with pytest.raises(ConfigError, match="no cluster"):
            await cache.values("v").get("k")
    with pytest.raises(ConfigError, match="Near"):
        RedisCache(cluster.url, near={"flag": Bounds()})


async def test_a_cluster_with_one_address_that_answers_is_found() -> None:
    cluster = servers.redis_cluster()
    address = f"redis+cluster://127.0.0.1:{servers.free_port()},127.0.0.1:{cluster.nodes[1].port}"
    async with opened(f"{address}?prefix=found&connect=0.5") as cache:
        assert await answers(cache)
        assert isinstance(cache.client, RedisCluster)
        assert {("127.0.0.1", node.port) for node in cluster.nodes} == set(cache.client._nodes)
        assert "ok" == {finding.check: finding.level for finding in await cache.diagnose()}["cache rights"]
        assert "cluster" == (await cache.observe()).figures["mode"]


async def test_a_cluster_that_speaks_tls_serves_and_its_moves_are_followed() -> None:
    if not speaks_tls():
        pytest.skip("this redis-server was built without TLS")
    certificate = Certificate()
    cluster = Cluster(certificate=certificate)
    try:
        async with opened(f"{cluster.url}?ca={certificate.file}") as cache:
            values = cache.values("v")
            for number in range(50):
                await values.set(f"{number}", b"x", ttl_s=60, revision=1)
            client: Any = cache.client
            assert {("127.0.0.1", port) for port in cluster.ports} == set(client._nodes)
            assert [(b"x", 1)] * 50 == await values.get_many([f"{number}" for number in range(50)])
            move = Move(cluster, slot_of(b"tls"))
            await values.set("{tls}a", b"asked", ttl_s=60, revision=2)
            move.end()
            assert (b"asked", 2) == await values.get("{tls}a")
        for address in (f"{cluster.url}?connect=1", f"{cluster.url.replace('rediss', 'redis')}?connect=1"):
            async with opened(address) as cache:
                with pytest.raises(Unavailable):
                    await cache.values("v").get("k")
        async with opened(f"rediss://127.0.0.1:{cluster.ports[0]}?ca={certificate.file}") as cache:
            with pytest.raises(ConfigError, match="node of a Redis Cluster") as told:
                for number in range(50):
                    await cache.values("v").get(f"{number}")
            assert "rediss+cluster://" in told.value.hint
    finally:
        cluster.close()
        certificate.close()


@pytest.mark.parametrize("said", ["hostname", "unknown-endpoint"])
async def test_nodes_that_do_not_know_their_name_go_by_that_of_who_was_asked(moving: Cluster, said: str) -> None:
    for node in moving.nodes:
        if not node.say("CONFIG", "SET", "cluster-preferred-endpoint-type", said).startswith("+OK"):
            pytest.skip("this redis-server always tells addresses")
    try:
        async with opened(f"{moving.url}?prefix={said}") as cache:
            values = cache.values("v")
            for number in range(50):
                await values.set(f"{number}", b"x", ttl_s=60)
                assert (b"x", 0) == await values.get(f"{number}")
            client: Any = cache.client
            assert {("127.0.0.1", node.port) for node in moving.nodes} == set(client._nodes)
            move = Move(moving, slot_of(f"name {said}".encode()))
            await values.set(f"{{name {said}}}a", b"asked", ttl_s=60)
            move.end()
            assert (b"asked", 0) == await values.get(f"{{name {said}}}a")
    finally:
        for node in moving.nodes:
            node.say("CONFIG", "SET", "cluster-preferred-endpoint-type", "ip")


async def test_who_waits_for_the_first_answer_when_the_client_is_closed_is_told_so() -> None:
    """And is not taken for cancelled, which would end its task."""
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        client = RedisCluster(parse_redis_url(f"redis+cluster://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        reading = asyncio.create_task(client.read(encode("GET", "k")))
        await asked.wait()
        await client.aclose()
        with pytest.raises(ConfigError, match="closed"):
            await reading
