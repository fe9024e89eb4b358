"""A Redis Cluster as capabilities use one server: each command goes to the node that has the slot of its key, wherever that has moved."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from palaver.connections.redis import RedisClient, RedisHealth, Script, encode
from palaver.connections.redis_errors import Elsewhere, named_host
from palaver.connections.redis_options import Place, RedisOptions
from palaver.errors import ConfigError, Conflict, PalaverError, ReadOnly, Unavailable

SLOTS = 16_384
_HOPS = 8
_AT_ONCE = 1
"""So often a call is sent on at once: to who has the slot, and to who is just being given it. Then with pauses that grow."""
_PAUSE_S = 0.02
_LEARN_AGAIN_S = 0.1
_KEYLESS = frozenset({b"PING", b"INFO", b"SLOWLOG", b"CONFIG", b"PUBLISH", b"TIME"})
_BREAKERS = ("closed", "half-open", "open")


def slot_of(key: bytes) -> int:
    """Return the slot of a key: that of what stands in its first braces, where anything does."""
    start = key.find(b"{")
    end = key.find(b"}", start + 1)
    return binascii.crc_hqx(key[start + 1 : end] if 0 <= start < end - 1 else key, 0) % SLOTS


class RedisCluster:
    """The calls of `RedisClient`, over one client for each node that has slots.

    A node that says that a slot is another's is followed, and so is a slot that is just being moved. Who has which slots is asked
    again then, and whenever a node is away: until the cluster has put another in its place, calls for its slots are Unavailable.
    """

    def __init__(self, options: RedisOptions, *, scripts: Iterable[Script] = ()) -> None:
        self.options = options
        self._scripts = tuple(scripts)
        self._nodes: dict[Place, RedisClient] = {}
        self._left: list[RedisClient] = []
        self._closed = False
        self._owners: list[Place | None] = []
        self._learning: asyncio.Task[None] | None = None
        self._learn_at = 0.0
        self._moves = 0

    @property
    def made(self) -> int:
        """Grows with each connection, and with each slot that is another node's than before: that may know less of it."""
        return self._moves + sum(node.made for node in self._nodes.values())

    @property
    def health(self) -> RedisHealth:
        each = [node.health for node in self._nodes.values()]
        return RedisHealth(
            max((one.breaker for one in each), key=_BREAKERS.index, default="closed"),
            sum(one.connections for one in each),
            sum(one.inflight for one in each),
            next((one.error for one in each if one.error), ""),
            self.made,
        )

    # --- the calls --------------------------------------------------------------------------------------------------

    async def read(self, command: bytes) -> Any:
        return await self._routed(command, lambda node: node.read(command))

    async def write(self, command: bytes) -> Any:
        return await self._routed(command, lambda node: node.write(command))

    async def run(self, script: Script, keys: Sequence[bytes], arguments: bytes, count: int, *, again: bool = False) -> Any:
        return await self.run_made(script, script.call(keys, arguments, count), again=again)

    async def run_made(self, script: Script, command: bytes, *, again: bool = False) -> Any:
        return await self._routed(command, lambda node: node.run_made(script, command, again=again), script)

    async def run_each(self, script: Script, calls: Sequence[tuple[Sequence[bytes], bytes, int]], *, again: bool = False) -> list[Any]:
        answers = await asyncio.gather(*(self.run(script, *call, again=again) for call in calls), return_exceptions=True)
        return _all_or_first_error(answers)

    async def read_each(self, commands: Sequence[bytes]) -> list[Any]:
        return _all_or_first_error(await asyncio.gather(*map(self.read, commands), return_exceptions=True))

    async def get_many(self, keys: Sequence[bytes]) -> list[Any]:
        """Return what is stored under several keys: in one step where they share a slot."""
        if len({slot_of(key) for key in keys}) == 1:
            found: list[Any] = await self.read(encode("MGET", *keys))
            return found
        return await self.read_each([encode("GET", key) for key in keys])

    async def aclose(self) -> None:
        self._closed = True
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.wait([self._learning])
        await asyncio.gather(*(node.aclose() for node in (*self._nodes.values(), *self._left)))

    # --- finding the node -------------------------------------------------------------------------------------------

    async def _routed(self, command: bytes, call: Callable[[RedisClient], Awaitable[Any]], script: Script | None = None) -> Any:
        """Make a call of the node that has the slot of a command's key, and follow where it says that the slot has gone."""
        if self._closed:
            raise ConfigError("The Redis client is closed.")
        if not self._owners:
            await self._first_learned()
        place: Place | None = None
        asking = False
        for hop in range(_HOPS):
            if hop > _AT_ONCE:
                await asyncio.sleep(_PAUSE_S * 2 ** (hop - _AT_ONCE - 1))
            place = place or self._owner(_slot(command))
            try:
                if asking:
                    return await self._node(place).ask(command if script is None else script.in_full(command))
                return await call(self._node(place))
            except Elsewhere as elsewhere:
                place, asking = (elsewhere.host or place[0], elsewhere.port), elsewhere.asking
                if not asking:
                    # At once, not only when the others say so too: what the new owner answers may be from before what the old one was told.
                    self._owners[elsewhere.slot] = place
                    self._moves += 1
                    self._learn_soon()
            except Conflict:
                # Keys of one call are on both sides of a move, or on none: whoever has the slot knows when that is over.
                place, asking = None, False
            except (Unavailable, ReadOnly):
                self._learn_soon()
                raise
        raise Unavailable("The Redis cluster keeps moving a key.", engine="redis")

    async def _first_learned(self) -> None:
        learning = self._learn()
        learning.add_done_callback(_looked_at)
        await asyncio.wait([learning])
        if learning.cancelled():
            # By whoever closed the client; nobody cancelled the one who waits here.
            raise ConfigError("The Redis client is closed.")
        learning.result()

    def _owner(self, slot: int | None) -> Place:
        place = next((owner for owner in self._owners if owner), None) if slot is None else self._owners[slot]
        if place is None:
            self._learn_soon()
            raise Unavailable("No node of the Redis cluster has the slot of this key.", hint="Look at it: CLUSTER INFO.", engine="redis")
        return place

    def _node(self, place: Place) -> RedisClient:
        node = self._nodes.get(place)
        if node is None:
            options = replace(self.options, host=place[0], port=place[1], via="", hosts=())
            node = self._nodes[place] = RedisClient(options, scripts=self._scripts)
        return node

    def _learn_soon(self) -> None:
        """Ask who has which slots, aside and not all the time."""
        if asyncio.get_running_loop().time() >= self._learn_at:
            self._learn().add_done_callback(_looked_at)

    def _learn(self) -> asyncio.Task[None]:
        if self._learning is None or self._learning.done():
            loop = asyncio.get_running_loop()
            self._learn_at = loop.time() + _LEARN_AGAIN_S
            self._learning = loop.create_task(self._ask_for_slots(), name="palaver-redis-slots")
        return self._learning

    async def _ask_for_slots(self) -> None:
        """Take over what the first node says that answers; leave nodes that have no slots, and connect to those that do."""
        error: PalaverError | None = None
        for place in dict.fromkeys((*self._nodes, *self.options.hosts)):
            try:
                told = await self._node(place).read(encode("CLUSTER", "SLOTS"))
            except PalaverError as failed:
                error = failed
                continue
            owners: list[Place | None] = [None] * SLOTS
            for first, last, (host, port, *_), *_ in told:
                owners[first : last + 1] = [(named_host((host or b"").decode()) or place[0], port)] * (last + 1 - first)
            self._moves += owners != self._owners
            self._owners = owners
            await self._keep_only({owner for owner in owners if owner})
            return
        raise error or Unavailable("The URL names no node of the Redis cluster.", engine="redis")

    async def _keep_only(self, owners: set[Place]) -> None:
        for place in self._nodes.keys() - owners:
            node = self._nodes.pop(place)
            self._moves += node.made
            node.leave()
            self._left.append(node)
        await asyncio.gather(*(self._node(owner).read(encode("PING")) for owner in owners), return_exceptions=True)


Redis: TypeAlias = RedisClient | RedisCluster


def _slot(command: bytes) -> int | None:
    """Return the slot of a command's first key, None for a command without keys."""
    parts = command.split(b"\r\n", 8)
    if parts[2] in _KEYLESS:
        return None
    # A script comes before its keys, and how many they are.
    at = 8 if parts[2] in (b"EVALSHA", b"EVAL") else 4
    return slot_of(b"\r\n".join(parts[at:])[: int(parts[at - 1][1:])])


def _all_or_first_error(answers: Sequence[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return list(answers)


def _looked_at(task: asyncio.Task[None]) -> None:
    """Look at an error: a call that needs to know who has its slot meets it by itself."""
    if not task.cancelled():
        task.exception()
