"""Limits that several processes share: one script for any number of rules, in the server's time."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TypeAlias

from palaver.cache.checks import check_takes, check_text
from palaver.cache.redis_scripts import TAKE, TAKE_BUCKET
from palaver.caching import Limit, Take, Taken, Verdict, granted, yes
from palaver.clock import Clock, to_ms
from palaver.connections.redis import RedisClient, Script, encode, encoded_part

_COST = struct.Struct("<d").pack
_START = struct.Struct("<dd").pack
_ONE = _COST(1)
_TAKES, _PEEKS = _START(0, 1), _START(0, 0)
_ANSWERS = {8 * count: struct.Struct(f"<{count}q").unpack for count in (3, 5, 7, 9)}
_MOST_FORMS = 1_000
_Form: TypeAlias = tuple[Script, bytes, int]


class RedisLimiter:
    """`ports.Limiter`. A group is a hash tag, so it lies on one node whatever is taken together."""

    def __init__(self, client: RedisClient, prefix: str, clock: Clock | None) -> None:
        self._client, self._clock = client, clock
        self._head = f"{{{prefix}:l:"
        self._fields: dict[str, bytes] = {}
        self._forms: dict[Limit | tuple[Limit, ...], _Form] = {}

    async def take(self, *takes: Take, group: str = "", token: str = "") -> Taken:
        form = None if token else self._form(takes)
        if form is None:
            return _taken(await self._client.run(TAKE, *self._asked(takes, group, _TAKES, token), again=bool(token)))
        script, asked, count = form
        if self._clock is not None:
            size, start, rest = asked.partition(_TAKES)
            asked = size + self._start(start) + rest
        answer = await self._client.run(script, (self._key(group, takes[0].key),), asked, count)
        return granted(answer) if type(answer) is int else _taken(answer)

    def _form(self, takes: Sequence[Take]) -> _Form | None:
        """Return what is sent beside the key: the same each time these limits are charged one each, for one key; None for other calls."""
        name: Limit | tuple[Limit, ...]
        if len(takes) == 1:
            name, _, cost = takes[0]
            if cost != 1:
                return None
        else:
            key = takes[0].key if takes else ""
            for _, other, cost in takes:
                if cost != 1 or other != key:
                    return None
            name = tuple([limit for limit, _, _ in takes])
        return self._forms.get(name) or self._made(name, takes)

    def _made(self, name: Limit | tuple[Limit, ...], takes: Sequence[Take]) -> _Form:
        _, asked, count = self._asked(takes, "", _TAKES, timed=False)
        script = TAKE
        if isinstance(name, Limit) and name.kind == "bucket":
            script, asked, count = TAKE_BUCKET, b"$56\r\n%b%b%b\r\n%b" % (_TAKES, name.packed, _ONE, self._field(name)), 2
        if len(self._forms) >= _MOST_FORMS:
            self._forms.clear()
        self._forms[name] = script, asked, count
        return script, asked, count

    async def take_each(self, calls: Sequence[Sequence[Take]], *, group: str = "") -> list[Taken]:
        asked = [self._asked(takes, group, _TAKES) for takes in calls]
        return [_taken(answer) for answer in await self._client.run_each(TAKE, asked)]

    async def peek(self, *takes: Take, group: str = "") -> Taken:
        return _taken(await self._client.run(TAKE, *self._asked(takes, group, _PEEKS), again=True))

    async def reset(self, *takes: Take, group: str = "") -> None:
        check_takes(takes)
        await self._client.read_each([encode("HDEL", self._key(group, take.key), take.limit.family) for take in takes])

    def _asked(
        self, takes: Sequence[Take], group: str, start: bytes, token: str = "", *, timed: bool = True
    ) -> tuple[list[bytes], bytes, int]:
        """Return the keys and arguments of a call: one key where all takes are for the same."""
        check_takes(takes)
        parts = [b"$%d\r\n%b" % (16 + 40 * len(takes), self._start(start) if timed else start)]
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
    size = len(answer)
    values = _ANSWERS[size](answer) if size in _ANSWERS else struct.unpack(f"<{size // 8}q", answer)
    if values[0]:
        return Taken(True, tuple([yes(remaining) for remaining in values[1::2]]))
    pairs = zip(values[1::2], values[2::2], strict=True)
    return Taken(False, tuple([Verdict(retry == 0, remaining, _seconds(retry)) for remaining, retry in pairs]))


def _seconds(ms: int) -> float:
    return math.inf if ms < 0 else ms / 1_000
