"""The newest items of many sequences: one sorted set each, in the order of the items' ids."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex

from palaver.cache.checks import check_bounds, check_filling, check_items, checked_ms, checked_text
from palaver.cache.reading import newest
from palaver.cache.redis_scripts import BEGIN, PUSH, REPLACE
from palaver.caching import Item, Rebuild
from palaver.connections.redis import encode, encoded_part
from palaver.connections.redis_cluster import Redis
from palaver.errors import Corruption


class RedisWindows:
    """`ports.Window`."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client = client
        self._head = f"{prefix}:w:".encode()

    async def read(self, key: str, *, limit: int, budget: int | None = None, holding: str | None = None) -> tuple[Item, ...] | None:
        check_bounds(limit, budget)
        name = self._head + checked_text(key)
        members: list[bytes] = await self._client.read(b"*4\r\n$6\r\nZRANGE\r\n$%d\r\n%b\r\n$1\r\n0\r\n$2\r\n-1\r\n" % (len(name), name))
        if not members:
            return None
        try:
            whole, _, complete, _ = members[0].removeprefix(b"\0").split(b":")
            if whole != b"1":
                return None
            items = [_item(member) for member in members[1:]]
        except ValueError:
            raise Corruption("A Redis key holds a value of another program.", engine="redis") from None
        if holding is not None and not any(item.id == holding for item in items):
            return None
        return newest(items, limit, budget, complete == b"1")

    async def push(self, key: str, items: Sequence[Item], *, ttl_s: float) -> bool:
        check_items(items)
        parts = encoded_part(b"%d" % checked_ms(ttl_s)) + _members(items)
        return bool(await self._client.run(PUSH, (self._head + checked_text(key),), parts, 1 + 2 * len(items), again=True))

    async def begin(self, key: str, *, ttl_s: float = 30.0) -> Rebuild:
        own = token_hex(8).encode()
        parts = encoded_part(b"%d" % checked_ms(ttl_s)) + encoded_part(own)
        ticket, first = await self._client.run(BEGIN, (self._head + checked_text(key),), parts, 2, again=True)
        return Rebuild(ticket.decode(), bool(first) or ticket == own)

    async def replace(self, key: str, items: Sequence[Item], *, ticket: str, keep: int, complete: bool, ttl_s: float) -> bool:
        check_items(items)
        check_filling(items, keep, complete)
        if not ticket:
            return False
        head = (ticket.encode(), b"%d" % keep, b"%d" % complete, b"%d" % checked_ms(ttl_s))
        # Of several with one id the first counts, as for pushes.
        filled = list({item.id: item for item in reversed(items)}.values())
        parts = b"".join(map(encoded_part, head)) + _members(filled)
        return bool(await self._client.run(REPLACE, (self._head + checked_text(key),), parts, 4 + 2 * len(filled)))

    async def delete(self, key: str) -> None:
        await self._client.read(encode("DEL", self._head + checked_text(key)))


def _members(items: Sequence[Item]) -> bytes:
    parts: list[bytes] = []
    for item in items:
        id = item.id.encode()
        parts += (encoded_part(id), encoded_part(b"%b\0%d\0%b" % (id, item.tokens, item.data)))
    return b"".join(parts)


def _item(member: bytes) -> Item:
    id, tokens, data = member.split(b"\0", 2)
    return Item(id.decode(), int(tokens), data)
