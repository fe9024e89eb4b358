"""What each tenant decided for each channel: the default model, settings, limits, and credentials that are sealed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palaver.batch import Batch
from palaver.blueprints.simple_agent import patterns
from palaver.blueprints.simple_agent.schema import DEFAULT_TENANT, ChannelConfig, ChannelCredentials, RateLimits
from palaver.errors import ConditionFailed, Conflict, TransactionCancelled, Validation
from palaver.store import Store
from palaver.turns.refusing import refusing

ATTEMPTS = 5


class Channels:
    """The configurations of a tenant's channels."""

    def __init__(self, store: Store, *, tenant: str = DEFAULT_TENANT) -> None:
        self._store, self._tenant = store, tenant

    async def configure(
        self,
        channel_type: str,
        *,
        default_model: str | None = None,
        settings: Mapping[str, Any] | None = None,
        rate_limits: RateLimits | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> ChannelConfig:
        """Decide what is given for a channel and leave the rest as it is; `default_model` is needed the first time.

        Credentials replace the ones before as a whole, in the same commit; they are no part of what is returned.
        """
        decided: dict[str, Any] = {
            "default_model": default_model,
            "settings": None if settings is None else _named("Settings", settings, 'settings={"reply_in_thread": True}'),
            "rate_limits": rate_limits,
            "updated_at": self._store.clock.now(),
        }
        given = {name: value for name, value in decided.items() if value is not None}
        secrets = Batch() if credentials is None else self._sealed(channel_type, credentials)
        for _ in range(ATTEMPTS):
            config = await self._changed_or_made(channel_type, given)
            try:
                written = await self._store.write(config + secrets, returning=True)
            except (ConditionFailed, TransactionCancelled):
                # Somebody configured or removed it first; what is given here is done to theirs.
                continue
            assert isinstance(written[0], ChannelConfig)
            return written[0]
        raise Conflict("The channel's configuration was removed as often as it was made.", hint="Try again after a random pause.")

    async def _changed_or_made(self, channel_type: str, given: Mapping[str, Any]) -> Batch:
        """Return what changes the channel's configuration, or makes it where there is none."""
        at = ChannelConfig.at(self._tenant, channel_type)
        if await self._store.find(at) is not None:
            return Batch().patch(at, set=given)
        if "default_model" not in given:
            raise Validation(
                "A channel that is configured for the first time needs a default_model.",
                hint='Give one, such as default_model="gpt-4o"; later it may be left out.',
                field="default_model",
            )
        with refusing():
            return Batch().create(ChannelConfig(tenant=self._tenant, channel_type=channel_type, created_at=given["updated_at"], **given))

    def _sealed(self, channel_type: str, credentials: Mapping[str, str]) -> Batch:
        """Return what replaces the channel's credentials."""
        named = _named("Credentials", credentials, 'credentials={"token": token}')
        now = self._store.clock.now()
        with refusing():
            return Batch().put(ChannelCredentials(tenant=self._tenant, channel_type=channel_type, credentials=named, updated_at=now))

    async def config(self, channel_type: str) -> ChannelConfig | None:
        """Return what was decided for a channel, None where nothing was decided."""
        return await self._store.find(ChannelConfig.at(self._tenant, channel_type))

    async def credentials(self, channel_type: str) -> Mapping[str, str]:
        """Return a channel's credentials opened, for whoever calls the channel; raise NotFound where there are none."""
        return (await self._store.get(ChannelCredentials.at(self._tenant, channel_type))).credentials

    async def all(self) -> list[ChannelConfig]:
        """Return what was decided for all its channels."""
        return [found async for found in self._store.query(patterns.channels_of_tenant(self._tenant))]

    async def remove(self, channel_type: str) -> None:
        """Forget a channel's configuration and credentials; people and conversations of the channel stay."""
        await self._store.delete(ChannelConfig.at(self._tenant, channel_type))


def _named(what: str, given: object, such_as: str) -> dict[str, Any]:
    """Return values by their names; raises Validation for what is none such, and never repeats it: it may be a secret."""
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise Validation(f"{what} of a channel are values by their names.", hint=f"Write {such_as}.")
    return dict(given)
