"""Limits of this process, for all its threads and event loops."""

from __future__ import annotations

import heapq
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import TypeAlias

from palaver.cache.checks import LONGEST_PLAIN, check_takes, check_text
from palaver.cache.limiting import State, charge, look, rests_at
from palaver.caching import Limit, Take, Taken, Verdict, granted
from palaver.errors import ConfigError

TOKEN_MS = 60_000
_States: TypeAlias = dict[str | tuple[str, str], State]


def monotonic_ms() -> int:
    return monotonic_ns() // 1_000_000


class MemoryLimiter:
    """`ports.Limiter` in a dictionary. Over `entries` states, those nearest to saying nothing any more go first."""

    def __init__(self, milliseconds: Callable[[], int], entries: int) -> None:
        self._ms = milliseconds
        self._most = entries
        self._states: dict[str, _States] = {}
        self._limits: dict[str, Limit] = {}
        self._said: OrderedDict[tuple[str, str], tuple[int, Taken]] = OrderedDict()
        self._count = 0
        self._closed = False
        self._lock = threading.Lock()

    def close(self) -> None:
        """Refuse every further call: what was counted is gone, and counting it anew is refused."""
        with self._lock:
            self._closed = True
            self._states.clear()

    async def take(self, *takes: Take, group: str = "", token: str = "") -> Taken:
        return self.take_now(*takes, group=group, token=token)

    def take_now(self, *takes: Take, group: str = "", token: str = "") -> Taken:
        """Do what `take` does, for threads without an event loop: nothing in this process needs to be awaited."""
        if token or len(takes) != 1:
            return self._call(takes, group, token, charges=True)
        limit, key, cost = takes[0]
        return self._take_one(limit, key, cost, group)

    def ready(self, limits: Sequence[Limit], *, group: str = "") -> Callable[[str], Taken]:
        check_takes([Take(limit, "") for limit in limits])
        if len(limits) == 1:
            [limit] = limits
            return lambda key: self._take_one(limit, key, 1, group)
        return lambda key: self._call([Take(limit, key) for limit in limits], group, "", charges=True)

    def _take_one(self, limit: Limit, key: str, cost: int, group: str) -> Taken:
        if cost < 1 or len(key) > LONGEST_PLAIN or not key.isascii():
            check_takes([Take(limit, key, cost)])
            check_text(key)
        at = (group, key) if group else key
        with self._lock:
            now = self._ms() if self._ms is not monotonic_ms else monotonic_ns() // 1_000_000
            states = self._states.get(limit.family)
            if states is None:
                states = self._of(limit)
            state = states.get(at)
            if state is None or limit.kind == "window":
                return self._take_slowly(limit, states, at, state, now, cost)
            # What `look` and `charge` do for a bucket that was used before, in one go: the call that is made all the time.
            debt, since = state
            if now > since:
                debt -= (now - since) * limit.amount
                if debt < 0:
                    debt = 0
                state[1] = now
            after = debt + cost * limit.period
            if after <= limit.room:
                state[0] = after
                return granted((limit.room - after) // limit.period)
            state[0] = debt
            remaining, over = (limit.room - debt) // limit.period, after - limit.room
            retry_after_s = (-(-over // limit.amount) + state[1] - now) / 1_000 if cost * limit.period <= limit.room else math.inf
            return Taken(False, (Verdict(False, remaining if remaining > 0 else 0, retry_after_s),))

    async def take_each(self, calls: Sequence[Sequence[Take]], *, group: str = "") -> list[Taken]:
        for takes in calls:
            check_takes(takes)
        return [self._call(takes, group, "", charges=True) for takes in calls]

    async def peek(self, *takes: Take, group: str = "") -> Taken:
        return self._call(takes, group, "", charges=False)

    async def reset(self, *takes: Take, group: str = "") -> None:
        check_takes(takes)
        with self._lock:
            for limit, key, _ in takes:
                if self._states.get(limit.family, {}).pop((group, key) if group else key, None) is not None:
                    self._count -= 1

    def _take_slowly(self, limit: Limit, states: _States, at: str | tuple[str, str], state: State | None, now: int, cost: int) -> Taken:
        remaining, retry = look(limit, state, now, cost)
        if retry:
            return Taken(False, (_refused(remaining, retry),))
        if state is None:
            self._count += 1
            states[at] = charge(limit, None, now, cost)
            if self._count > self._most:
                self._forget_some(now)
        else:
            charge(limit, state, now, cost)
        return granted(remaining - cost)

    def _call(self, takes: Sequence[Take], group: str, token: str, *, charges: bool) -> Taken:
        check_takes(takes)
        for take in takes:
            check_text(take.key)
        with self._lock:
            now = self._ms()
            if token and (said := self._said.get((group, token))) and said[0] > now:
                return said[1]
            found = [(take, self._of(take.limit), (group, take.key) if group else take.key) for take in takes]
            looks = [look(take.limit, states.get(at), now, take.cost) for take, states, at in found]
            allowed = not any(retry for _, retry in looks)
            if allowed and charges:
                for take, states, at in found:
                    self._count += at not in states
                    states[at] = charge(take.limit, states.get(at), now, take.cost)
            spent = [take.cost if allowed and charges else 0 for take in takes]
            verdicts = (
                _refused(remaining, retry) if retry else Verdict(True, remaining - less, 0.0)
                for (remaining, retry), less in zip(looks, spent, strict=True)
            )
            answer = Taken(allowed, tuple(verdicts))
            # A refusal charged nothing: who waited as long as it was told must pass.
            if token and allowed:
                self._remember((group, token), now, answer)
            if self._count > self._most:
                self._forget_some(now)
        return answer

    def _of(self, limit: Limit) -> _States:
        if self._closed:
            raise ConfigError("The cache is closed.")
        self._limits.setdefault(limit.family, limit)
        return self._states.setdefault(limit.family, {})

    def _remember(self, token: tuple[str, str], now: int, answer: Taken) -> None:
        self._said[token] = (now + TOKEN_MS, answer)
        while self._said and (len(self._said) > self._most or next(iter(self._said.values()))[0] <= now):
            self._said.popitem(last=False)

    def _forget_some(self, now: int) -> None:
        """Make room for a tenth, so that this is rare: first what rests, then what will rest soonest."""
        resting = [
            (rests_at(self._limits[family], state), family, at) for family, states in self._states.items() for at, state in states.items()
        ]
        gone = [found for found in resting if found[0] <= now]
        surplus = len(resting) - len(gone) - self._most * 9 // 10
        if surplus > 0:
            gone += heapq.nsmallest(surplus, (found for found in resting if found[0] > now), key=lambda found: found[0])
        for _, family, at in gone:
            del self._states[family][at]
        self._count = len(resting) - len(gone)


def _refused(remaining: int, retry: int) -> Verdict:
    return Verdict(False, remaining, math.inf if retry < 0 else retry / 1_000)
