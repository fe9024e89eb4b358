"""Limits that several processes share: one script for any number of rules, in the server's time."""

from __future__ import annotations

import math
import struct
from collections.abc import Awaitable, Sequence

from palaver.cache.checks import LONGEST_PLAIN, check_takes, check_text, checked_text
from palaver.cache.redis_scripts import TAKE, TAKE_BUCKET, TAKE_BUCKETS
from palaver.caching import Limit, Take, Taken, Verdict, all_granted, granted
from palaver.clock import Clock, to_ms
from palaver.connections.redis import Script, encode, encoded_part
from palaver.connections.redis_cluster import Redis
from palaver.ports import Ready

_COST = struct.Struct("<d").pack
_START = struct.Struct("<dd").pack
_BUCKET = struct.Struct("<ddd").pack
_ONE = _COST(1)
_TAKES, _PEEKS = _START(0, 1), _START(0, 0)
_ANSWERS = {8 * count: struct.Struct(f"<{count}q").unpack for count in (3, 5, 7, 9)}
_MOST_FORMS = 1_000


class RedisLimiter:
    """`ports.Limiter`. A group is a hash tag, so it lies on one node whatever is taken together."""

    def __init__(self, client: Redis, prefix: str, clock: Clock | None) -> None:
        self._client, self._clock = client, clock
        self._head = f"{{{prefix}:l:"
        self._fields: dict[str, bytes] = {}
        self._forms: dict[Limit | tuple[Limit, ...], _Form] = {}

    async def take(self, *takes: Take, group: str = "", token: str = "") -> Taken:
        form = None if token else self._form(takes)
        if form is None:
            return _taken(await self._client.run(TAKE, *self._asked(takes, group, _TAKES, token), again=bool(token)))
        return await form.take(self._key(group, takes[0].key))

    def ready(self, limits: Sequence[Limit], *, group: str = "") -> Ready:
        form, head = self._made(limits), self._key(group, "")

        def take(key: str) -> Awaitable[Taken]:
            if len(key) > LONGEST_PLAIN or not key.isascii():
                checked_text(key)
            return form.take(head + key.encode())

        return take

    def _form(self, takes: Sequence[Take]) -> _Form | None:
        """Return what is sent where these limits are charged one each, for one key; None for other calls."""
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
        form = self._forms.get(name)
        if form is None:
            if len(self._forms) >= _MOST_FORMS:
                self._forms.clear()
            form = self._forms[name] = self._made([name] if isinstance(name, Limit) else name)
        return form

    def _made(self, limits: Sequence[Limit]) -> _Form:
        check_takes([Take(limit, "") for limit in limits])
        fields = b"".join(map(self._field, limits))
        if all(limit.kind == "bucket" for limit in limits):
            script = TAKE_BUCKET if len(limits) == 1 else TAKE_BUCKETS
            asked = b"".join([_BUCKET(limit.period, limit.amount, limit.room) for limit in limits])
            count = 1 + len(limits)
        else:
            script, count = TAKE, 2 + len(limits)
            asked = _COST(1) + b"".join([limit.packed + _ONE for limit in limits])
            fields = b"$1\r\n0\r\n" + fields
        return _Form(self._client, self._clock, script, count, asked, fields)

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
        if self._clock is not None:
            start = _COST(to_ms(self._clock.now())) + start[8:]
        parts = [b"$%d\r\n%b" % (16 + 40 * len(takes), start)]
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

    def _field(self, limit: Limit) -> bytes:
        family = limit.family
        if family not in self._fields:
            self._fields[family] = encoded_part(family.encode())
        return self._fields[family]

    def _key(self, group: str, key: str) -> bytes:
        check_text(key)
        return f"{self._head}{_tagged(group) if group else ''}}}:{key}".encode()


class _Form:
    """A call that charges one of each of its limits for a key: what is sent and said is the same each time, but for the key."""

    __slots__ = ("_after", "_before", "_client", "_clock", "_granted", "_length", "_rest", "_script")

    def __init__(self, client: Redis, clock: Clock | None, script: Script, count: int, asked: bytes, fields: bytes) -> None:
        self._client, self._clock, self._script = client, clock, script
        self._before, self._length = script.head(count), b"$%d\r\n" % (8 + len(asked))
        self._rest = b"%b\r\n%b" % (asked, fields)
        self._after = self._length + _COST(0) + self._rest
        # Of several buckets an answer of this length has what each leaves, any other what each refuses.
        self._granted = struct.Struct(f"<{count - 1}q") if script is TAKE_BUCKETS else None

    async def take(self, name: bytes) -> Taken:
        after = self._after if self._clock is None else self._length + _COST(to_ms(self._clock.now())) + self._rest
        answer = await self._client.run_made(self._script, b"%b%d\r\n%b\r\n%b" % (self._before, len(name), name, after))
        if type(answer) is int:
            return granted(answer)
        several = self._granted
        return all_granted(several.unpack(answer)) if several is not None and len(answer) == several.size else _taken(answer)


def _tagged(group: str) -> str:
    """Return a group as part of a hash tag, which ends at the first brace."""
    check_text(group)
    return group.replace("%", "%25").replace("}", "%7D") if "}" in group or "%" in group else group


def _taken(answer: bytes) -> Taken:
    size = len(answer)
    values = _ANSWERS[size](answer) if size in _ANSWERS else struct.unpack(f"<{size // 8}q", answer)
    if values[0]:
        return all_granted(values[1::2])
    pairs = zip(values[1::2], values[2::2], strict=True)
    return Taken(False, tuple([Verdict(retry == 0, remaining, _seconds(retry)) for remaining, retry in pairs]))


def _seconds(ms: int) -> float:
    return math.inf if ms < 0 else ms / 1_000
