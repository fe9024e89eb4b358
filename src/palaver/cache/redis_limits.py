"""Limits that several processes share: one script for any number of rules, in the server's time."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from palaver.cache.checks import check_takes, check_text
from palaver.cache.redis_scripts import TAKE, TAKE_BUCKET
from palaver.caching import Limit, Take, Taken, Verdict, granted
from palaver.clock import Clock, to_ms
from palaver.connections.redis import RedisClient, encode, encoded_part

_COST = struct.Struct("<d").pack
_START = struct.Struct("<dd").pack
_ONE = _COST(1)
_TAKES, _PEEKS = _START(0, 1), _START(0, 0)
_ANSWERS = {8 * count: struct.Struct(f"<{count}d").unpack for count in (3, 5, 7, 9)}


class RedisLimiter:
    """`ports.Limiter`. A group is a hash tag, so it lies on one node whatever is taken together."""

    def __init__(self, client: RedisClient, prefix: str, clock: Clock | None) -> None:
        self._client, self._clock = client, clock
        self._head = f"{{{prefix}:l:"
        self._fields: dict[str, bytes] = {}

    async def take(self, *takes: Take, group: str = "", token: str = "") -> Taken:
        if len(takes) == 1 and not token:
            limit, key, cost = takes[0]
            if limit.kind == "bucket":
                if cost < 1:
                    check_takes(takes)
                packed = limit.packed, _ONE if cost == 1 else _COST(cost), self._field(limit)
                asked = b"$56\r\n%b%b%b\r\n%b" % (self._start(_TAKES), *packed)
                answer = await self._client.run(TAKE_BUCKET, (self._key(group, key),), asked, 2)
                return granted(answer) if type(answer) is int else _taken(answer)
        return _taken(await self._client.run(TAKE, *self._asked(takes, group, _TAKES, token), again=bool(token)))

    async def take_each(self, calls: Sequence[Sequence[Take]], *, group: str = "") -> list[Taken]:
        asked = [self._asked(takes, group, _TAKES) for takes in calls]
        return [_taken(answer) for answer in await self._client.run_each(TAKE, asked)]

    async def peek(self, *takes: Take, group: str = "") -> Taken:
        return _taken(await self._client.run(TAKE, *self._asked(takes, group, _PEEKS), again=True))

    async def reset(self, *takes: Take, group: str = "") -> None:
        check_takes(takes)
        await self._client.read_each([encode("HDEL", self._key(group, take.key), take.limit.family) for take in takes])

    def _asked(self, takes: Sequence[Take], group: str, start: bytes, token: str = "") -> tuple[list[bytes], bytes, int]:
        """Return the keys and arguments of a call: one key where all takes are for the same."""
        check_takes(takes)
        parts = [b"$%d\r\n%b" % (16 + 40 * len(takes), self._start(start))]
        for take in takes:
            parts += (take.limit.packed, _ONE if take.cost == 1 else _COST(take.cost))
        parts.append(b"\r\n$1\r\n%d\r\n" % bool(token))
        parts += [self._field(take.limit) for take in takes]
        names = [take.key for take in takes]
        same = names.count(names[0]) == len(names)
        keys = [self._key(group, name) for name in (names[:1] if same else names)]
        if token:
            check_text(token)
            keys.append(f"{self._head}{_tagged(group)}}}#{token}".encode())
        return keys, b"".join(parts), 2 + len(takes)

    def _start(self, start: bytes) -> bytes:
        return start if self._clock is None else _COST(to_ms(self._clock.now())) + start[8:]

    def _field(self, limit: Limit) -> bytes:
        family = limit.family
        if family not in self._fields:
            self._fields[family] = encoded_part(family.encode())
        return self._fields[family]

    def _key(self, group: str, key: str) -> bytes:
        check_text(key)
        return f"{self._head}{_tagged(group) if group else ''}}}:{key}".encode()


def _tagged(group: str) -> str:
    """Return a group as part of a hash tag, which ends at the first brace."""
    check_text(group)
    return group.replace("%", "%25").replace("}", "%7D") if "}" in group or "%" in group else group


def _taken(answer: bytes) -> Taken:
    allowed, *rest = _ANSWERS[len(answer)](answer) if len(answer) in _ANSWERS else struct.unpack(f"<{len(answer) // 8}d", answer)
    verdicts = [Verdict(retry == 0, int(remaining), _seconds(retry)) for remaining, retry in zip(rest[::2], rest[1::2], strict=True)]
    return Taken(allowed == 1, tuple(verdicts))


def _seconds(ms: float) -> float:
    return math.inf if ms < 0 else ms / 1_000
