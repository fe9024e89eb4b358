"""Rate limits as an application declares them: rules per operation, by user, address, endpoint, account or any mix, asked in one step.

What counts is the `Limiter` of the cache. Here is which limits an operation has, whom they count by, and what happens while the
cache is away.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from inspect import isawaitable
from typing import Any, NamedTuple

from palaver.caching import Limit, Take, Taken, Verdict
from palaver.client_address import address_group, is_address
from palaver.clock import Clock
from palaver.errors import ConfigError, OutcomeUnknown, PalaverError, RateLimited, SchemaError, Validation, did_you_mean
from palaver.limit_rules import Rule, Spelling, checked_costs, checked_rules
from palaver.ports import Cache, Limiter, Ready

__all__ = ["AWAY_RETRY_S", "Amounts", "Ask", "Cost", "Decision", "Figures", "Left", "Limits", "Rule"]

AWAY_RETRY_S = 1.0
"""When to ask again while the cache is away: it is looked for at least that often."""
_MOST_REMEMBERED = 20_000

Amounts = Callable[[Mapping[str, str]], Mapping[str, int] | Awaitable[Mapping[str, int]]]
Cost = int | Mapping[str, int]


class Decision(NamedTuple):
    """What the rules of an operation say, together: all were charged, or none was. It is true where the call may pass.

    `remaining` is the least that any rule leaves; `rule` the one that refused, the longest to wait for if several did, else empty;
    `retry_after_s` infinite for a cost that is never allowed. `degraded`: the cache was away, and what the rules declare for that
    was done. `limits` and `verdicts` are those of the single rules, in the order declared.
    """

    allowed: bool
    remaining: int
    retry_after_s: float
    rule: str
    degraded: bool
    limits: tuple[Limit, ...]
    verdicts: tuple[Verdict, ...]

    def __bool__(self) -> bool:
        return self.allowed

    def headers(self) -> dict[str, str]:
        """Return the fields of HTTP that tell a client: RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10),
        and Retry-After where the call was refused and would pass later."""
        policies = [f'"{limit.name}";q={limit.burst or limit.amount};w={_seconds_up(limit.per_s)}' for limit in self.limits]
        left = [f'"{limit.name}";r={verdict.remaining}{_waits(verdict)}' for limit, verdict in zip(self.limits, self.verdicts, strict=True)]
        fields = {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(left)} if left else {}
        if not self.allowed and math.isfinite(self.retry_after_s):
            fields["Retry-After"] = str(_seconds_up(self.retry_after_s))
        return fields


class Left(NamedTuple):
    """What one rule leaves a subject now. `operation` is the first that names it, or the one it counts by."""

    operation: str
    name: str
    by: tuple[str, ...]
    amount: int
    per_s: float
    remaining: int
    retry_after_s: float


class Ask(NamedTuple):
    """One call of `check_each`."""

    operation: str
    subjects: Mapping[str, str]
    cost: Cost = 1
    token: str = ""


@dataclass(slots=True)
class Figures:
    """How often it was asked and refused, and how often while the cache was away.

    `unparsed`: how many texts were given as `ip` that are no address, each counted when it is met first; they count as they are.
    """

    asked: int = 0
    refused: int = 0
    degraded: int = 0
    unparsed: int = 0


class _Asked(NamedTuple):
    rules: tuple[Rule, ...]
    limits: tuple[Limit, ...]
    takes: tuple[Take, ...]
    token: str
    guessed: bool
    """Whether the amounts are the declared ones because those of the subject could not be had."""


class _Common:
    """An operation whose rules all count by the same subjects, and nothing else is asked: what is made all the time is made once."""

    __slots__ = ("_granted", "_names", "keys", "limits", "name", "take")

    def __init__(self, limits: tuple[Limit, ...], names: tuple[str, ...], take: Ready) -> None:
        self.limits, self._names, self.take = limits, names, take
        #: The subject where it is one, else no name of any.
        self.name = names[0] if len(names) == 1 else ""
        self.keys: dict[str | tuple[str | None, ...], str] = {}
        self._granted: dict[int, Decision] = {}

    @staticmethod
    def of(rules: Sequence[Rule], limiter: Limiter, group: str) -> _Common | None:
        by = {rule.by for rule in rules}
        names = tuple([name for name in next(iter(by)) if name != "operation"]) if len(by) == 1 else ()
        if not names:
            return None
        limits = tuple([rule.limit for rule in rules])
        return _Common(limits, names, limiter.ready(limits, group=group))

    def met(self, subjects: Mapping[str, str]) -> str | None:
        """Return the key of several subjects that were here together before."""
        values = tuple([subjects.get(name) for name in self._names])
        return None if self.name or any(type(value) is not str for value in values) else self.keys.get(values)

    def learn(self, subjects: Mapping[str, str], key: str) -> str:
        if len(self.keys) >= _MOST_REMEMBERED:
            self.keys.clear()
        self.keys[subjects[self.name] if self.name else tuple([subjects[name] for name in self._names])] = key
        return key

    def granted(self, taken: Taken) -> Decision:
        """Return the decision of a call that was allowed; with one rule it is one of a few."""
        verdicts = taken.verdicts
        if len(verdicts) > 1:
            remaining = min([left for _, left, _ in verdicts])
            # A third of what the constructor costs, and made for every call.
            return tuple.__new__(Decision, (True, remaining, 0.0, "", False, self.limits, verdicts))
        remaining = verdicts[0].remaining
        found = self._granted.get(remaining)
        if found is None:
            found = _decision(self.limits, taken, False)
            if remaining < _MOST_REMEMBERED:
                self._granted[remaining] = found
        return found


class Limits:
    """The limits of an application.

    Subjects are personal: keys in the cache are hashes of them, keyed with `secret`. Without one, who reads the cache finds out an
    IPv4 address by trying all. `amounts` gives subjects limits of their own: called with those of the call, at once or awaited, it
    returns amounts by the names of limits; where it raises an error of ours the declared amounts hold and the decision is degraded.
    Everything of one `group` lies on one server. `clock` is what "local" counts by.
    """

    def __init__(
        self,
        cache: Cache,
        rules: Mapping[str, Iterable[Rule]],
        *,
        amounts: Amounts | None = None,
        secret: bytes = b"",
        group: str = "",
        clock: Clock | None = None,
    ) -> None:
        """Raises SchemaError for rules that contradict each other. An operation with an empty list is declared, and never refused."""
        self.rules = checked_rules(rules)
        self._spelling = Spelling(self.rules)
        if len(secret) > 64:
            raise ConfigError("A secret for limits has up to 64 bytes.")
        self._limiter, self._amounts, self._secret, self._group, self._clock = cache.limiter, amounts, secret, group, clock
        found = {} if amounts else {operation: _Common.of(rules, self._limiter, group) for operation, rules in self.rules.items()}
        self._common = {operation: common for operation, common in found.items() if common is not None}
        self._keys: dict[tuple[Any, ...], str] = {}
        self._changed: dict[tuple[Limit, int], Limit] = {}
        self._local: Limiter | None = None
        self.figures = Figures()

    # --- asking -----------------------------------------------------------------------------------------------------

    async def check(self, operation: str, /, *, cost: Cost = 1, token: str = "", **subjects: str) -> Decision:
        """Charge all rules of an operation in one step, or none of them when one says no; one round trip.

        `cost` is charged to each rule, or to each what a mapping gives for its name (else 1; 0 leaves the rule out). With a
        `token`, the same call repeated within 60 s of being allowed is counted once and answered as before: it has to name the
        request, such as the identifier the platform gave the message, because whoever may choose it passes again and again
        under it. One that was refused is asked anew. A token is good for the same operation, subjects and cost only.

        A call whose reply was lost is asked again once: with a token it is counted once; without one it may be counted twice,
        and never is more allowed than declared. Never raises because the cache is away. Raises Validation for an operation
        nobody declared, for a subject that is missing, and for one that looks like a misspelling of what rules count by.
        """
        common = self._common.get(operation)
        if common is None or token or cost != 1:
            return await self._each(await self._asked(operation, subjects, cost, token))
        value = subjects.get(common.name)
        key = common.keys.get(value) if type(value) is str else None
        if key is None and (key := common.met(subjects)) is None:
            self._spelling.check(subjects)
            key = common.learn(subjects, self._key(operation, self.rules[operation][0], subjects))
        try:
            answer = common.take(key)
            taken = answer if isinstance(answer, Taken) else await answer
        except PalaverError as error:
            takes = tuple([Take(limit, key) for limit in common.limits])
            return self._counted(await self._after(error, _Asked(self.rules[operation], common.limits, takes, "", False)))
        figures = self.figures
        figures.asked += 1
        if not taken.allowed:
            figures.refused += 1
            return _decision(common.limits, taken, False)
        return common.granted(taken)

    async def enforce(self, operation: str, /, *, cost: Cost = 1, token: str = "", **subjects: str) -> Decision:
        """Do what `check` does; raise RateLimited where the call may not pass."""
        decision = await self.check(operation, cost=cost, token=token, **subjects)
        if not decision.allowed:
            raise refusal(decision)
        return decision

    async def check_each(self, asks: Sequence[Ask]) -> list[Decision]:
        """Make several calls of `check`, each atomic by itself and in their order, in one trip."""
        asked = [await self._asked(ask.operation, ask.subjects, ask.cost, ask.token) for ask in asks]
        if any(each.token or not each.takes for each in asked):
            # Calls of one moment travel together, and each has a token of its own.
            return list(await asyncio.gather(*(self._each(each) for each in asked)))
        try:
            taken = await self._limiter.take_each([each.takes for each in asked], group=self._group) if asked else []
        except PalaverError as error:
            _check_away(error)
            # Some may have been charged; asked again they are charged twice at most, and answered one by one.
            return list(await asyncio.gather(*(self._each(each) for each in asked)))
        return [self._counted(_decision(each.limits, said, each.guessed)) for each, said in zip(asked, taken, strict=True)]

    async def show(self, operation: str = "", /, **subjects: str) -> list[Left]:
        """Return what each rule leaves, and charge nothing: of one operation, or of all those these subjects are enough for.

        Raises what the cache raises: nobody knows while it is away.
        """
        found = await self._shown(operation, subjects)
        if not found:
            return []
        said = await self._limiter.peek(*[take for _, _, take in found], group=self._group)
        return [
            Left(name, rule.name, tuple(rule.by), take.limit.amount, take.limit.per_s, verdict.remaining, verdict.retry_after_s)
            for (name, rule, take), verdict in zip(found, said.verdicts, strict=True)
        ]

    peek = show

    async def reset(self, operation: str = "", /, **subjects: str) -> None:
        """Forget what was charged to these subjects, of one operation or of all; raises what the cache raises."""
        found = [take for _, _, take in await self._shown(operation, subjects)]
        if found:
            await self._limiter.reset(*found, group=self._group)
            if self._local is not None:
                await self._local.reset(*found, group=self._group)

    # --- what is asked ----------------------------------------------------------------------------------------------

    async def _asked(self, operation: str, subjects: Mapping[str, str], cost: Cost, token: str) -> _Asked:
        rules = self.rules.get(operation)
        if rules is None:
            raise _unknown(operation, self.rules)
        self._spelling.check(subjects)
        costs = checked_costs(operation, cost, token, rules)
        amounts, guessed = await self._amounts_of(subjects)
        found = [
            (rule, Take(self._limit(rule.limit, amounts), self._key(operation, rule, subjects), units))
            for rule, units in zip(rules, costs, strict=True)
            if units
        ]
        takes = tuple([take for _, take in found])
        bound = self._bound(operation, takes, token) if token else ""
        return _Asked(tuple([rule for rule, _ in found]), tuple([take.limit for take in takes]), takes, bound, guessed)

    async def _amounts_of(self, subjects: Mapping[str, str]) -> tuple[Mapping[str, int], bool]:
        if self._amounts is None:
            return {}, False
        try:
            found = self._amounts(subjects)
            return (await found if isawaitable(found) else found), False
        except PalaverError as error:
            _check_away(error)
            return {}, True

    def _limit(self, limit: Limit, amounts: Mapping[str, int]) -> Limit:
        amount = amounts.get(limit.name, limit.amount)
        if amount == limit.amount:
            return limit
        found = self._changed.get((limit, amount))
        if found is None:
            burst = None if limit.burst is None else max(1, math.ceil(limit.burst * amount / limit.amount))
            if len(self._changed) >= _MOST_REMEMBERED:
                self._changed.clear()
            found = self._changed[limit, amount] = replace(limit, amount=amount, burst=burst)
        return found

    def _key(self, operation: str, rule: Rule, subjects: Mapping[str, str]) -> str:
        """Return what a rule counts under. The same subjects have the same key in all rules, whatever these are called."""
        by = rule.by
        try:
            if len(by) == 1 and by[0] != "operation":
                named: tuple[Any, ...] = (by, subjects[by[0]])
            else:
                named = (by, *[operation if name == "operation" else subjects[name] for name in by])
            return self._keys.get(named) or self._made(named)
        except KeyError as missing:
            name = str(missing.args[0])
            given = did_you_mean(name, subjects) if subjects else f"Give it: {name}=…"
            raise Validation(f"Limits of {operation} count by {name}, which is missing.", hint=given, rule=rule.name) from None

    def _made(self, named: tuple[Any, ...]) -> str:
        by, *values = named
        digest = blake2b(key=self._secret, digest_size=15)
        for name, value in zip(by, values, strict=True):
            if not isinstance(value, str) or not value:
                raise Validation(f"Limits count by {name}, which is a text that is not empty.")
            text = (self._household(value) if name == "ip" else value).encode(errors="surrogatepass")
            # Lengths keep two subjects from reading as two others.
            digest.update(b"%b\0%d\0%b" % (name.encode(), len(text), text))
        key = digest.hexdigest()
        if len(self._keys) >= _MOST_REMEMBERED:
            self._keys.clear()
        self._keys[named] = key
        return key

    def _household(self, ip: str) -> str:
        """Return what an address counts as; one behind a name and a slash, such as a tenant's, counts apart from all others."""
        name, slash, address = ip.rpartition("/")
        if not is_address(address):
            self.figures.unparsed += 1
        return f"{name}{slash}{address_group(address)}"

    def _bound(self, operation: str, takes: Iterable[Take], token: str) -> str:
        """Return the token of exactly this call: nobody gets another's answer by knowing his token."""
        digest = blake2b(key=self._secret, digest_size=16)
        for part in (token, operation, *(f"{take.limit.family}\0{take.key}\0{take.cost}" for take in takes)):
            text = part.encode(errors="surrogatepass")
            digest.update(b"%d\0%b" % (len(text), text))
        return digest.hexdigest()

    async def _shown(self, operation: str, subjects: Mapping[str, str]) -> list[tuple[str, Rule, Take]]:
        """Return the rules of an operation, or all that can be asked for these subjects, each limit and key once."""
        if operation and operation not in self.rules:
            raise _unknown(operation, self.rules)
        amounts, _ = await self._amounts_of(subjects)
        found: dict[tuple[str, str], tuple[str, Rule, Take]] = {}
        for name, rules in self.rules.items():
            if operation and name != operation:
                continue
            for rule in rules:
                if operation or set(rule.by) <= {*subjects, "operation"}:
                    take = Take(self._limit(rule.limit, amounts), self._key(name, rule, subjects))
                    found.setdefault((take.limit.family, take.key), (name, rule, take))
        return list(found.values())

    # --- while the cache is away ------------------------------------------------------------------------------------

    async def _each(self, asked: _Asked) -> Decision:
        if not asked.takes:
            return self._counted(Decision(True, 0, 0.0, "", asked.guessed, (), ()))
        try:
            taken = await self._limiter.take(*asked.takes, group=self._group, token=asked.token)
        except PalaverError as error:
            return self._counted(await self._after(error, asked))
        return self._counted(_decision(asked.limits, taken, asked.guessed))

    async def _after(self, error: PalaverError, asked: _Asked) -> Decision:
        """Answer a call that failed."""
        _check_away(error)
        if isinstance(error, OutcomeUnknown):
            # It may have been charged, and its answer is lost: what it would have been is found by asking again.
            try:
                taken = await self._limiter.take(*asked.takes, group=self._group, token=asked.token)
            except PalaverError as again:
                _check_away(again)
            else:
                return _decision(asked.limits, taken, asked.guessed)
        return await self._declared(asked)

    async def _declared(self, asked: _Asked) -> Decision:
        """Do what the rules declare for now; nothing is counted here for a call that one of them refuses."""
        local: Taken | None = None
        counted = [take for rule, take in zip(asked.rules, asked.takes, strict=True) if rule.away == "local"]
        if counted:
            closed = any(rule.away == "closed" for rule in asked.rules)
            limiter = self._in_process()
            ask = limiter.peek(*counted, group=self._group) if closed else limiter.take(*counted, group=self._group, token=asked.token)
            local = await ask
        said = iter(local.verdicts if local is not None else ())
        verdicts = [
            next(said)
            if rule.away == "local"
            else Verdict(True, take.limit.amount, 0.0)
            if rule.away == "open"
            else Verdict(False, 0, AWAY_RETRY_S)
            for rule, take in zip(asked.rules, asked.takes, strict=True)
        ]
        return _decision(asked.limits, Taken(all(verdict.allowed for verdict in verdicts), tuple(verdicts)), True)

    def _in_process(self) -> Limiter:
        if self._local is None:
            # Only a process that has lost its cache needs one of its own.
            from palaver.cache.memory import MemoryCache

            self._local = MemoryCache(clock=self._clock).limiter
        return self._local

    def _counted(self, decision: Decision) -> Decision:
        figures = self.figures
        figures.asked += 1
        if not decision.allowed:
            figures.refused += 1
        if decision.degraded:
            figures.degraded += 1
        return decision


def refusal(decision: Decision) -> RateLimited:
    """Return the error of a call that may not pass."""
    finite = math.isfinite(decision.retry_after_s)
    hint = f"It could pass in {_seconds_up(decision.retry_after_s)} s." if finite else "It costs more than the limit ever allows."
    return RateLimited(
        f"Limit {decision.rule} was reached.",
        hint=hint,
        retry_after_s=decision.retry_after_s,
        headers=decision.headers(),
        limit=decision.rule,
        degraded=decision.degraded,
    )


def _decision(limits: tuple[Limit, ...], taken: Taken, degraded: bool) -> Decision:
    allowed, verdicts = taken
    if len(verdicts) == 1:
        [(_, remaining, retry)] = verdicts
        return Decision(allowed, remaining, retry, "" if allowed else limits[0].name, degraded, limits, verdicts)
    remaining = min([verdict.remaining for verdict in verdicts])
    if allowed:
        return Decision(True, remaining, 0.0, "", degraded, limits, verdicts)
    longest = taken.retry_after_s
    [name, *_] = [limit.name for limit, verdict in zip(limits, verdicts, strict=True) if verdict.retry_after_s == longest]
    return Decision(False, remaining, longest, name, degraded, limits, verdicts)


def _check_away(error: PalaverError) -> None:
    """Raise what is a mistake of the caller's; everything else means that the cache does not count now."""
    if isinstance(error, Validation | ConfigError | SchemaError):
        raise error


def _unknown(operation: str, rules: Iterable[str]) -> Validation:
    return Validation(f"No limits are declared for operation {operation}.", hint=did_you_mean(operation, rules))


def _seconds_up(seconds: float) -> int:
    return max(1, math.ceil(seconds))


def _waits(verdict: Verdict) -> str:
    return "" if verdict.allowed or not math.isfinite(verdict.retry_after_s) else f";t={_seconds_up(verdict.retry_after_s)}"
