"""Presence: who is active in which channel, and who was last seen when. It lives in the cache alone and is a figure, never a right."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any

from palaver.cache.bounded import Newest
from palaver.caching import Present, checked_name
from palaver.clock import Clock, SystemClock
from palaver.errors import ConfigError, PalaverError, Validation
from palaver.ports import Cache

_MOST_RECENT = 50_000
_MOST_CHANNELS = 1_000


@dataclass(slots=True)
class Figures:
    """What became of touches: sent to the cache, spared because a recent one counts for them, or dropped while it was away."""

    sent: int = 0
    spared: int = 0
    dropped: int = 0


class Presence:
    """Who is active in channels. A member is active for `ttl_s` seconds after each touch, in each channel by itself.

    A touch within `every_s` seconds (a tenth of `ttl_s`) of one that was sent is not sent, so that a busy member costs a command
    now and then and not one a message; what is seen is that much behind, and members stay that much longer. With the cache away a
    touch is dropped and counted, since nobody's message fails for it; everything else raises what the cache raises.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        ttl_s: float = 300.0,
        every_s: float | None = None,
        channels: Iterable[str] | None = None,
        hashed_with: bytes | None = None,
        name: str = "presence",
        clock: Clock | None = None,
    ) -> None:
        """Name the `channels` there are, or leave it to the cache to list those somebody is active in.

        Members are kept as they are given. With `hashed_with`, a secret of up to 64 bytes, they are kept and listed as keyed
        hashes of 32 hexadecimal digits, for identifiers that say who somebody is.
        """
        self._every_s = ttl_s / 10 if every_s is None else every_s
        if ttl_s <= 0 or not 0 <= self._every_s <= ttl_s:
            raise ConfigError("A member stays for more than 0 seconds, and is touched again at least as often.")
        if hashed_with is not None and not 16 <= len(hashed_with) <= 64:
            raise ConfigError("Members are hashed with a secret of 16 to 64 bytes.")
        self._cache, self._port, self._ttl_s = cache, cache.presence, ttl_s
        self._declared = None if channels is None else tuple(dict.fromkeys(channels))
        self._secret, self._head, self._clock = hashed_with, checked_name(name), clock or SystemClock()
        self._sent: Newest[tuple[str, str], float] = Newest(_MOST_RECENT)
        self._made = 0
        self.figures = Figures()

    # --- members ----------------------------------------------------------------------------------------------------

    async def touch(self, member: str, *channels: str) -> None:
        """Make a member active in one or more channels from now on; in one round trip, or none."""
        _check_any("touch", channels)
        self._check(channels)
        _check_name("member", member)
        due = [channel for channel in channels if self._is_due(member, channel)]
        if not due:
            self.figures.spared += 1
            return
        now = self._clock.monotonic()
        for channel in due:
            # Before it is sent, so that others who come at the same moment are spared.
            self._sent[member, channel] = now
        stays = self._ttl_s + self._every_s
        try:
            there = self._port.touch(self._named(member), [self._at(channel) for channel in due], ttl_s=stays)
            # At the same moment, so that they travel together.
            await asyncio.gather(there, *self._listings(due, now, stays))
        except BaseException as error:
            for channel in due:
                self._sent.pop((member, channel), None)
                self._sent.pop(("", channel), None)
            if not isinstance(error, PalaverError) or isinstance(error, Validation | ConfigError):
                raise
            self.figures.dropped += 1
        else:
            self.figures.sent += 1

    async def leave(self, member: str, *channels: str) -> None:
        """Make a member inactive in one or more channels at once; when he was last seen stays known."""
        _check_any("leave", channels)
        self._check(channels)
        for channel in channels:
            self._sent.pop((member, channel), None)
        await self._port.leave(self._named(member), [self._at(channel) for channel in channels])

    async def active(self, channel: str, *, limit: int = 1_000) -> list[Present]:
        """Return who is active, the most recent first, and when each was last seen."""
        self._check([channel])
        return await self._port.present(self._at(channel), limit=limit)

    async def last_seen(self, member: str, channel: str) -> datetime | None:
        """Return when a member was last seen in a channel, within the last 30 days."""
        self._check([channel])
        return (await self._port.last_seen(self._at(channel), [self._named(member)]))[0]

    async def is_active(self, member: str, channel: str) -> bool:
        """Say whether a member is active."""
        self._check([channel])
        return (await self._port.among(self._at(channel), [self._named(member)]))[0]

    # --- channels ---------------------------------------------------------------------------------------------------

    async def channels(self) -> list[str]:
        """Return the channels that were declared, or else those somebody is active in: the 1,000 most recent."""
        if self._declared is not None:
            return list(self._declared)
        return sorted(present.member for present in await self._port.present(self._listed, limit=_MOST_CHANNELS))

    async def counts(self, *channels: str) -> dict[str, int]:
        """Return how many are active in each of these channels; in all that `channels` returns where none is named."""
        self._check(channels)
        names = list(channels) or await self.channels()
        return dict(zip(names, await self._port.count([self._at(name) for name in names]), strict=True)) if names else {}

    def _listings(self, channels: Sequence[str], now: float, stays: float) -> list[Coroutine[Any, Any, None]]:
        """Return what lists the channels as such, where they were not declared and it was not done lately."""
        new = [channel for channel in channels if self._declared is None and self._is_due("", channel)]
        for channel in new:
            self._sent["", channel] = now
        return [self._port.touch(channel, [self._listed], ttl_s=stays) for channel in new]

    # --- names and times --------------------------------------------------------------------------------------------

    @property
    def _listed(self) -> str:
        return f"{self._head}:channels"

    def _at(self, channel: str) -> str:
        return f"{self._head}@{channel}"

    def _named(self, member: str) -> str:
        _check_name("member", member)
        if self._secret is None:
            return member
        return blake2b(member.encode("utf-8", "surrogatepass"), digest_size=16, key=self._secret).hexdigest()

    def _check(self, channels: Sequence[str]) -> None:
        for channel in channels:
            _check_name("channel", channel)
        if self._declared is not None and not set(channels) <= set(self._declared):
            raise Validation("This channel was not declared.", hint=f"There are: {', '.join(self._declared)}.")

    def _is_due(self, member: str, channel: str) -> bool:
        made = self._cache.made
        if made != self._made:
            # The server may have forgotten what it was told over earlier connections.
            if self._made:
                self._sent.clear()
            self._made = made
        sent = self._sent.get((member, channel))
        return sent is None or self._clock.monotonic() - sent >= self._every_s


def _check_name(what: str, given: object) -> None:
    if not isinstance(given, str) or not given:
        raise Validation(f"The name of a {what} is a text that is not empty.", hint="An identifier of another type: give str(it).")


def _check_any(verb: str, channels: Sequence[str]) -> None:
    if not channels:
        raise Validation("No channel was named.", hint=f'Write {verb}(member, "discord"), with one channel or several.')
