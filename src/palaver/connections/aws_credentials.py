"""Who signs: credentials given by hand or in the environment; every other source is botocore's, asked off the event loop.

Keys never appear in a repr, a log or an error.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from palaver.errors import ConfigError, Unauthenticated

_log = logging.getLogger("palaver.dynamodb")
# botocore begins to renew 10 to 15 minutes before the end, so a look every minute is always in time.
_LOOK_S = 60.0


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Credentials:
    """An access key with its secret, and the session token of temporary ones."""

    access_key: str
    secret_key: str
    session_token: str | None = None

    def __post_init__(self) -> None:
        parts = (self.access_key, self.secret_key, self.session_token or "x")
        # They become header lines, which a line break or a space would split.
        if not all(part and part.isascii() and part.isprintable() and " " not in part for part in parts):
            raise ConfigError("The AWS credentials are empty or have characters that no key has.")

    def __repr__(self) -> str:
        return "Credentials(***)"


class CredentialSource(Protocol):
    def current(self) -> Credentials:
        """Return what to sign with; never waits."""
        ...

    async def renew(self, refused: Credentials) -> bool:
        """Find others than those the service says have expired; False when there are none."""
        ...

    async def aclose(self) -> None: ...


class FixedCredentials:
    """The same credentials as long as the client lives."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def current(self) -> Credentials:
        return self._credentials

    async def renew(self, refused: Credentials) -> bool:
        return False

    async def aclose(self) -> None:
        return None


class ResolvedCredentials:
    """botocore's chain: profiles, SSO, processes, web identity, containers, instances. Renewed before they expire, in a thread."""

    def __init__(self, region: str, credentials: Any, frozen: Credentials) -> None:
        self._region = region
        self._source = credentials
        self._frozen = frozen
        self._look_at = time.monotonic() + _LOOK_S
        self._task: asyncio.Task[bool] | None = None

    @staticmethod
    async def find(region: str) -> ResolvedCredentials:
        """Ask botocore. Raises ConfigError when it is not installed or finds nothing."""
        source = await asyncio.to_thread(_chain, region)
        return ResolvedCredentials(region, source, await asyncio.to_thread(_frozen, source))

    def current(self) -> Credentials:
        if time.monotonic() >= self._look_at and (self._task is None or self._task.done()):
            self._look_at = time.monotonic() + _LOOK_S
            self._task = asyncio.get_running_loop().create_task(self._look())
        return self._frozen

    async def renew(self, refused: Credentials) -> bool:
        if self._frozen is not refused:
            return True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._ask_anew())
        # One renewal serves all callers: the one who is cancelled must not take it from the others.
        await asyncio.shield(self._task)
        return self._frozen is not refused

    async def aclose(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> bool:
        try:
            self._keep(await asyncio.to_thread(_frozen, self._source))
        except (ConfigError, Unauthenticated):
            # The present ones go on until the service refuses them; then the caller is told.
            _log.warning("AWS credentials could not be renewed; the present ones are used until they expire.")
            return False
        return True

    async def _ask_anew(self) -> bool:
        self._source = await asyncio.to_thread(_chain, self._region)
        self._keep(await asyncio.to_thread(_frozen, self._source))
        return True

    def _keep(self, found: Credentials) -> None:
        old = self._frozen
        # The signer keeps its key for the same object, so equal ones do not replace it.
        if (found.access_key, found.secret_key, found.session_token) != (old.access_key, old.secret_key, old.session_token):
            self._frozen = found


async def credential_source(given: Credentials | None, environ: Mapping[str, str], region: str) -> CredentialSource:
    """Choose where credentials come from: given by hand, the environment, else botocore's chain. Raises ConfigError."""
    if given is not None:
        return FixedCredentials(given)
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret:
        return FixedCredentials(Credentials(key, secret, environ.get("AWS_SESSION_TOKEN") or None))
    if key or secret:
        raise ConfigError("Of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set.", hint="Set both, or neither.")
    return await ResolvedCredentials.find(region)


def _chain(region: str) -> Any:
    if find_spec("botocore") is None:
        raise ConfigError(
            "There are no AWS credentials in the environment.",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or install palaver[aws] for profiles, SSO and roles.",
        )
    from botocore.exceptions import BotoCoreError, ConfigParseError, PartialCredentialsError, ProfileNotFound  # type: ignore[import-untyped]
    from botocore.session import Session  # type: ignore[import-untyped]

    session = Session()
    session.set_config_variable("region", region)
    try:
        credentials = session.get_credentials()
    except BotoCoreError as error:
        if isinstance(error, (ProfileNotFound, ConfigParseError, PartialCredentialsError)):
            name = type(error).__name__
            raise ConfigError(f"The AWS configuration cannot be used ({name}).", hint="Look at AWS_PROFILE and its files.") from None
        raise _unresolved(error) from None
    if credentials is None:
        raise ConfigError(
            "No AWS credentials were found.",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run where a role is attached.",
        )
    return credentials


def _frozen(credentials: Any) -> Credentials:
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    try:
        frozen = credentials.get_frozen_credentials()
    except (BotoCoreError, ClientError, HTTPClientError) as error:
        raise _unresolved(error) from None
    return Credentials(frozen.access_key, frozen.secret_key, frozen.token)


def _unresolved(error: Exception) -> Unauthenticated:
    # The source's own text may hold what a credential process printed, so only the kind of error is told.
    return Unauthenticated(
        f"AWS credentials could not be obtained ({type(error).__name__}).", hint="Look at the profile, role or SSO session."
    )
