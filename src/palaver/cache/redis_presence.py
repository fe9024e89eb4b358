"""Who is active where: two sorted sets a channel, by when members stop being present and by when they were seen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from palaver.cache.checks import check_listed, check_text, checked_ms, checked_text
from palaver.cache.redis_scripts import AMONG, LAST_SEEN, PRESENT, TOUCH
from palaver.caching import Present
from palaver.clock import Clock, from_ms, to_ms
from palaver.connections.redis import encode, encoded_part
from palaver.connections.redis_cluster import Redis


class RedisPresence:
    """`ports.Presence`; a channel is a hash tag."""

    def __init__(self, client: Redis, prefix: str, clock: Clock | None) -> None:
        self._client, self._clock = client, clock
        self._head = f"{{{prefix}:p:"

    async def touch(self, member: str, channels: Sequence[str], *, ttl_s: float) -> None:
        parts = self._now() + encoded_part(b"%d" % checked_ms(ttl_s)) + encoded_part(checked_text(member))
        await self._client.run_each(TOUCH, [(self._keys(channel), parts, 3) for channel in channels], again=True)

    async def leave(self, member: str, channels: Sequence[str]) -> None:
        name = checked_text(member)
        await self._client.read_each([encode("ZREM", self._keys(channel)[0], name) for channel in channels])

    async def present(self, channel: str, *, limit: int = 1_000) -> list[Present]:
        check_listed(limit)
        found = await self._client.run(PRESENT, self._keys(channel), self._now() + encoded_part(b"%d" % limit), 2, again=True)
        pairs = zip(found[::2], found[1::2], strict=True)
        return [Present(member.decode(), from_ms(int(float(seen)))) for member, seen in pairs if seen is not None]

    async def count(self, channels: Sequence[str]) -> list[int]:
        parts = self._now() + encoded_part(b"0")
        return await self._client.run_each(PRESENT, [(self._keys(channel), parts, 2) for channel in channels], again=True)

    async def among(self, channel: str, members: Sequence[str]) -> list[bool]:
        if not members:
            return []
        parts = self._now() + b"".join(encoded_part(checked_text(member)) for member in members)
        found = await self._client.run(AMONG, self._keys(channel)[:1], parts, 1 + len(members), again=True)
        return [bool(there) for there in found]

    async def last_seen(self, channel: str, members: Sequence[str]) -> list[datetime | None]:
        if not members:
            return []
        parts = self._now() + b"".join(encoded_part(checked_text(member)) for member in members)
        found = await self._client.run(LAST_SEEN, self._keys(channel)[1:], parts, 1 + len(members), again=True)
        return [from_ms(int(float(seen))) if seen else None for seen in found]

    def _keys(self, channel: str) -> tuple[bytes, bytes]:
        check_text(channel)
        tag = f"{self._head}{channel.replace('%', '%25').replace('}', '%7D')}}}"
        return f"{tag}:a".encode(), f"{tag}:s".encode()

    def _now(self) -> bytes:
        return encoded_part(b"%d" % to_ms(self._clock.now()) if self._clock else b"0")
