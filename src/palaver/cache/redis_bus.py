"""Messages between processes, at most once, over a connection of their own that says when it may have missed some."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from palaver.cache.checks import checked_text
from palaver.cache.hearing import Ear, Listener
from palaver.caching import Heard, Missed
from palaver.connections.redis import RedisClient, encode
from palaver.connections.redis_cluster import Redis
from palaver.connections.redis_options import RedisOptions
from palaver.errors import Unavailable


class RedisBus:
    """`ports.Bus` on Redis channels, of a cluster on any of its nodes. A server that fell silent is noticed by a ping each `timeout`."""

    def __init__(self, publishing: Redis, options: RedisOptions) -> None:
        self._publishing = publishing
        self._head = f"{options.prefix}:b:".encode()
        self._timeout_s = options.timeout_s
        self._client = RedisClient(replace(options, pool=1), on_push=self._pushed, on_change=self._changed, heartbeat=True)
        self._ears: dict[bytes, list[Ear]] = {}
        self._joining: dict[bytes, asyncio.Future[None]] = {}
        self._missing: set[bytes] = set()

    async def publish(self, topic: str, data: bytes) -> None:
        # Heard twice is worse than not at all: at most once.
        await self._publishing.write(encode("PUBLISH", self._head + checked_text(topic), data))

    def listen(self, *topics: str) -> Listener:
        for topic in topics:
            checked_text(topic)
        return Listener(self, topics)

    async def join(self, ear: Ear, topics: tuple[str, ...]) -> None:
        names = [self._head + topic.encode() for topic in topics]
        fresh = [name for name in names if name not in self._ears]
        for name in names:
            self._ears.setdefault(name, []).append(ear)
        loop = asyncio.get_running_loop()
        for name in fresh:
            self._joining[name] = loop.create_future()
        try:
            if fresh:
                await self._client.tell(encode("SUBSCRIBE", *fresh))
            pending = [self._joining[name] for name in names if name in self._joining]
            async with asyncio.timeout(self._timeout_s):
                await asyncio.gather(*map(asyncio.shield, pending))
        except BaseException as error:
            await self.part(ear, topics)
            if isinstance(error, TimeoutError):
                raise Unavailable("Redis did not confirm a subscription in time.", engine="redis") from None
            raise

    async def part(self, ear: Ear, topics: tuple[str, ...]) -> None:
        gone = []
        for name in (self._head + topic.encode() for topic in topics):
            ears = self._ears.get(name, [])
            if ear in ears:
                ears.remove(ear)
            if not ears and self._ears.pop(name, None) is not None:
                self._joining.pop(name, None)
                self._missing.discard(name)
                gone.append(name)
        if gone:
            self._client.tell_now(encode("UNSUBSCRIBE", *gone))

    async def aclose(self) -> None:
        for ear in {ear for ears in self._ears.values() for ear in ears}:
            ear.close()
        await self._client.aclose()

    def _pushed(self, push: list[Any]) -> None:
        match push:
            case [b"message", name, data]:
                topic = name[len(self._head) :].decode()
                for ear in self._ears.get(name, ()):
                    ear.hear(Heard(topic, data))
            case [b"subscribe", name, _]:
                if (joining := self._joining.pop(name, None)) and not joining.done():
                    joining.set_result(None)
                if name in self._missing:
                    self._missing.discard(name)
                    if not self._missing:
                        self._tell_all(Missed(listening=True))

    def _changed(self, connected: bool) -> None:
        if not connected:
            self._tell_all(Missed(listening=False))
            self._missing = set(self._ears)
        elif self._missing:
            self._client.tell_now(encode("SUBSCRIBE", *self._missing))

    def _tell_all(self, message: Missed) -> None:
        for ear in {ear for ears in self._ears.values() for ear in ears}:
            ear.hear(message)
