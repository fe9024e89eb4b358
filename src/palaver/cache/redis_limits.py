"""Limits that several processes share: one script for any number of rules, in the server's time."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from palaver.cache.checks import check_takes, check_text
from palaver.cache.redis_scripts import TAKE
from palaver.caching import Take, Taken, Verdict
from palaver.clock import Clock, to_ms
from palaver.connections.redis import RedisClient, encode

_COST = struct.Struct("<d").pack
_START = struct.Struct("<dd").pack
_ONE = _COST(1)
_TAKES = _START(0, 1)


class RedisLimiter:
    """`ports.Limiter`. A group is a hash tag, so it lies on one node whatever is taken together."""

    def __init__(self, client: RedisClient, prefix: str, clock: Clock | None) -> None:
        self._client, self._clock = client, clock
        self._head = f"{{{prefix}:l:"

    async def take(self, *takes: Take, group: str = "", token: str = "") -> Taken:
        if len(takes) == 1 and not token and self._clock is None:
            take = takes[0]
            # The head of one take with a cost of one is the same each time.
            cost = take.cost
            if cost < 1:
                check_takes(takes)
            asked = b"$56\r\n%b%b%b\r\n" % (_TAKES, take.limit.packed, _ONE if cost == 1 else _COST(cost))
            return _taken(await self._client.run(TAKE, (self._key(group, take),), asked, 1))
        keys, asked = self._asked(takes, group, charges=True)
        if token:
            check_text(token)
            keys.append(f"{self._head}{_tagged(group)}}}#{token}".encode())
        return _taken(await self._client.run(TAKE, keys, asked, 1, again=bool(token)))

    async def take_each(self, calls: Sequence[Sequence[Take]], *, group: str = "") -> list[Taken]:
        asked = [(*self._asked(takes, group, charges=True), 1) for takes in calls]
        return [_taken(answer) for answer in await self._client.run_each(TAKE, asked)]

    async def peek(self, *takes: Take, group: str = "") -> Taken:
        keys, asked = self._asked(takes, group, charges=False)
        return _taken(await self._client.run(TAKE, keys, asked, 1, again=True))

    async def reset(self, *takes: Take, group: str = "") -> None:
        check_takes(takes)
        await self._client.read(encode("DEL", *(self._key(group, take) for take in takes)))

    def _asked(self, takes: Sequence[Take], group: str, *, charges: bool) -> tuple[list[bytes], bytes]:
        check_takes(takes)
        start = _START(to_ms(self._clock.now()) if self._clock else 0, charges)
        keys, parts = [], [start]
        for take in takes:
            keys.append(self._key(group, take))
            parts += (take.limit.packed, _COST(take.cost))
        return keys, b"$%d\r\n%b\r\n" % (16 + 40 * len(takes), b"".join(parts))

    def _key(self, group: str, take: Take) -> bytes:
        key = take.key
        check_text(key)
        return f"{self._head}{_tagged(group) if group else ''}}}:{take.limit.family}:{key}".encode()


def _tagged(group: str) -> str:
    """Return a group as part of a hash tag, which ends at the first brace."""
    check_text(group)
    return group.replace("%", "%25").replace("}", "%7D") if "}" in group or "%" in group else group


def _taken(answer: list[Any]) -> Taken:
    if len(answer) == 3:
        allowed = answer[0] == 1
        return Taken(allowed, (Verdict(allowed, answer[1], 0.0 if allowed else _seconds(answer[2])),))
    verdicts = [Verdict(retry == 0, remaining, _seconds(retry)) for remaining, retry in zip(answer[1::2], answer[2::2], strict=True)]
    return Taken(answer[0] == 1, tuple(verdicts))


def _seconds(ms: int) -> float:
    return math.inf if ms < 0 else ms / 1_000
