"""What a running agent keeps beside the records: limits, flags, presence, sessions, contexts, and what channels decided.

All of it can be lost at any moment. Each part says what it does then: limits count in this process, flags hold their last
values, touches are dropped, and contexts, people and sessions are read from the records.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass

from palaver.blueprints.simple_agent.prompts import LAST, tokens_of
from palaver.blueprints.simple_agent.schema import ChannelConfig, Exposure, FeatureFlag, LoginSession, Message
from palaver.caching import Limit
from palaver.capabilities import Capabilities
from palaver.context import ContextWindow
from palaver.entity import Entity
from palaver.flags import Experiment, Flag, Flags, FlagSet
from palaver.following import Wrote
from palaver.identity.sessions import Sessions
from palaver.limits import Limits, Rule
from palaver.ops import Change
from palaver.presence import Presence
from palaver.store import Store

MINUTE_S, ACTIVE_S, SESSION_S, DAY_S, CONTEXT_S = 60.0, 300.0, 3_600.0, 86_400.0, 7_200.0
MOST_CHANNELS = 10_000

PER_USER = Rule(Limit("user-minute", 60, MINUTE_S, kind="window"), by="user")
PER_IP = Rule(Limit("ip-minute", 60, MINUTE_S, kind="window"), by="ip")
RULES: Mapping[str, Sequence[Rule]] = {"message": (PER_USER,), "webhook": (PER_USER, PER_IP), "newcomer": (PER_IP,)}
"""Of a message, of one that came over a webhook, and of the first one of somebody new, asked before they are stored.

A channel's configuration has amounts of its own.
"""

EXPERIMENT = "model_selection"
FLAGS = FlagSet(
    Flag("enable_mcp_security", default=True, about="Check what tools are asked to do; on while nobody can be asked."),
    Flag("max_conversation_length", default=100, about="A conversation of so many messages is ended by the next one."),
    Flag("enable_slash_commands", default=False, about="Answer commands on channels that have them."),
    Experiment(EXPERIMENT, default="control", variants={"control": 50, "variant_a": 50}, about="Which model answers whom."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running(Capabilities):
    """The capabilities of the agent, which has all of them, and what its channels decided."""

    flags: Flags
    limits: Limits
    presence: Presence
    sessions: Sessions
    contexts: ContextWindow[Message]
    book: ChannelBook


async def capabilities(store: Store) -> Running:
    """Return what the agent runs on, for `SimpleAgent(store, running)`; close it before the store."""
    book = ChannelBook(store)
    flags = await Flags.open(store, FLAGS, FeatureFlag, exposures=Exposure)
    contexts = ContextWindow(store, Message, keep=LAST, ttl_s=CONTEXT_S, tokens=tokens_of)

    async def stop() -> None:
        contexts.close()
        book.close()

    return Running(
        flags=flags,
        limits=Limits(store.cache, RULES, amounts=book.amounts, clock=store.clock),
        presence=Presence(store.cache, ttl_s=ACTIVE_S, clock=store.clock),
        sessions=Sessions(store.cache, store=store, entity=LoginSession, idle_s=SESSION_S, absolute_s=DAY_S),
        contexts=contexts,
        book=book,
        closers=(stop,),
    )


class ChannelBook:
    """The configurations of channels, held in this process until any process changes them: there are few, and each message needs one."""

    def __init__(self, store: Store) -> None:
        self.entities: Sequence[type[Entity]] = (ChannelConfig,)
        self._store = store
        self._held: dict[tuple[str, str], ChannelConfig | None] = {}
        self._told = 0
        self._listening = False
        self._subscription = store.following.add(self)

    async def get(self, tenant: str, channel_type: str) -> ChannelConfig | None:
        """Return what a tenant decided for a channel, None where nothing was decided."""
        at = (tenant, channel_type)
        if at in self._held:
            return self._held[at]
        told = self._told
        found = await self._store.find(ChannelConfig.at(*at))
        # What was read while something changed may be from before the change.
        if self._listening and told == self._told:
            if len(self._held) >= MOST_CHANNELS:
                self._held.clear()
            self._held[at] = found
        return found

    def amounts(self, subjects: Mapping[str, str]) -> Mapping[str, int] | Awaitable[Mapping[str, int]]:
        """Return the limits of the tenant's channel that subjects name as "channel": "main/discord"."""
        tenant, _, channel_type = subjects.get("channel", "").partition("/")
        if not channel_type:
            return {}
        if (tenant, channel_type) in self._held:
            return _amounts(self._held[tenant, channel_type])
        return self._read(tenant, channel_type)

    async def _read(self, tenant: str, channel_type: str) -> Mapping[str, int]:
        return _amounts(await self.get(tenant, channel_type))

    async def wrote(self, writes: Sequence[Wrote]) -> None:
        """Forget what this process changed."""
        self._forget([tuple(str(part) for part in write.at.key) for write in writes])

    async def changed(self, changes: Sequence[Change]) -> None:
        """Forget what any process changed."""
        self._forget([tuple(str(part) for part in change.key) for change in changes])

    async def missed(self) -> None:
        """Forget everything: something may have changed unheard."""
        self._told += 1
        self._held.clear()
        self._listening = True

    def _forget(self, keys: Sequence[tuple[str, ...]]) -> None:
        self._told += 1
        for tenant, channel_type in keys:
            self._held.pop((tenant, channel_type), None)

    def close(self) -> None:
        """Stop listening."""
        self._listening = False
        self._held.clear()
        self._subscription.close()


def _amounts(config: ChannelConfig | None) -> Mapping[str, int]:
    if config is None:
        return {}
    return {PER_USER.name: config.rate_limits.per_user, PER_IP.name: config.rate_limits.per_ip}
