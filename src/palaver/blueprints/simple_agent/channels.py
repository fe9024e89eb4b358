"""What each tenant decided for each channel: the default model, settings, limits, and credentials that are sealed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palaver.blueprints.simple_agent import patterns
from palaver.blueprints.simple_agent.schema import DEFAULT_TENANT, ChannelConfig, RateLimits
from palaver.errors import AlreadyExists, ConditionFailed, Conflict
from palaver.store import Store
from palaver.turns.refusing import refusing

ATTEMPTS = 5


class Channels:
    """The configurations of a store's channels."""

    def __init__(self, store: Store, *, tenant: str = DEFAULT_TENANT) -> None:
        self._store, self._tenant = store, tenant

    async def configure(
        self,
        channel_type: str,
        *,
        tenant: str | None = None,
        default_model: str | None = None,
        settings: Mapping[str, Any] | None = None,
        rate_limits: RateLimits | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> ChannelConfig:
        """Decide what is given for a channel and leave the rest as it is; `default_model` is needed the first time.

        Credentials replace the ones before as a whole. What is returned does not hold them.
        """
        now, owner = self._store.clock.now(), tenant or self._tenant
        given: dict[str, Any] = {
            "default_model": default_model,
            "settings": None if settings is None else dict(settings),
            "rate_limits": rate_limits,
            "credentials": None if credentials is None else dict(credentials),
        }
        given = {name: value for name, value in given.items() if value is not None}
        for _ in range(ATTEMPTS):
            try:
                return _shown(await self._store.patch(ChannelConfig.at(owner, channel_type), set={**given, "updated_at": now}))
            except ConditionFailed:
                with refusing():
                    fresh = ChannelConfig(tenant=owner, channel_type=channel_type, created_at=now, updated_at=now, **given)
            try:
                return _shown(await self._store.create(fresh))
            except AlreadyExists:
                # Somebody configured it first; what is given here is patched onto theirs.
                continue
        raise Conflict("The channel's configuration was removed as often as it was made.", hint="Try again after a random pause.")

    async def config(self, channel_type: str, *, tenant: str | None = None) -> ChannelConfig | None:
        """Return what a tenant decided for a channel without its credentials, None where nothing was decided."""
        found = await self._store.find(ChannelConfig.at(tenant or self._tenant, channel_type))
        return None if found is None else _shown(found)

    async def credentials(self, channel_type: str, *, tenant: str | None = None) -> Mapping[str, str]:
        """Return a channel's credentials, for whoever calls the channel; raise NotFound where there is no such channel."""
        found = await self._store.get(ChannelConfig.at(tenant or self._tenant, channel_type))
        return found.credentials or {}

    async def all(self, *, tenant: str | None = None) -> list[ChannelConfig]:
        """Return what a tenant decided for all its channels, without credentials."""
        return [_shown(found) async for found in self._store.query(patterns.channels_of_tenant(tenant or self._tenant))]

    async def remove(self, channel_type: str, *, tenant: str | None = None) -> None:
        """Forget a channel's configuration and credentials; people and conversations of the channel stay."""
        await self._store.delete(ChannelConfig.at(tenant or self._tenant, channel_type))


def _shown(config: ChannelConfig) -> ChannelConfig:
    """Return a configuration that can be handed on."""
    return config if config.credentials is None else config.model_copy(update={"credentials": None})
