"""One bucket: who signs, obstore's store for its objects, and the few requests obstore does not make (buckets, versions, addresses)."""

from __future__ import annotations

import asyncio
import http.client
import os
import ssl
import time
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from palaver.connections.aws_credentials import Credentials, CredentialSource, FixedCredentials, credential_source
from palaver.connections.s3_errors import EXPIRED, Doing, lost, refused
from palaver.connections.s3_place import Place
from palaver.connections.s3_signing import encoded, presigned_query, signed_headers
from palaver.errors import ConfigError

if TYPE_CHECKING:
    from obstore.store import S3Credential, S3Store

_ATTEMPTS = 4
_CONNECT_S = 5
_LOOK_AGAIN = timedelta(seconds=60)


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The error's code, or "" for an answer that has none."""
        start = self.body.find(b"<Code>") + 6
        return self.body[start : self.body.find(b"</Code>", start)].decode("ascii", "replace") if start > 5 else ""


class Bucket:
    """A bucket at its place. Opening asks nothing; credentials are looked for at the first request."""

    def __init__(self, at: Place, *, credentials: Credentials | None = None, environ: Mapping[str, str] | None = None) -> None:
        self.place = at
        self._given = credentials
        self._environ = os.environ if environ is None else environ
        self._source: CredentialSource | None = None
        self._store: S3Store | None = None
        self._told: Credentials | None = None
        self._finding = asyncio.Lock()

    async def aclose(self) -> None:
        if self._source is not None:
            await self._source.aclose()

    async def store(self) -> S3Store:
        """Return obstore's store for the objects below the prefix. Raises ConfigError or Unauthenticated without credentials."""
        async with self._finding:
            if self._store is None:
                self._store = await self._opened()
            return self._store

    @property
    def opened(self) -> S3Store | None:
        return self._store

    @property
    def signs(self) -> bool:
        """Whether Palaver knows the credentials, and not only obstore, which then finds them by itself."""
        return self._source is not None

    def credentials(self) -> Credentials | None:
        """Return what requests are signed with now; None where obstore finds it by itself, or nothing was asked yet."""
        return None if self._source is None else self._source.current()

    async def renewed(self, refused: Credentials | None) -> bool:
        """Say whether there are other credentials than those that were refused; the next request signs with them."""
        if self._source is None or refused is None or not await self._source.renew(refused):
            return False
        if self._told is not self._source.current():
            # obstore keeps what it was told last for a while, also after it was refused.
            async with self._finding:
                self._store = await self._opened()
        return True

    async def presigned(self, method: str, path: str, *, expires_s: int, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        """Return an address that lets whoever has it make one kind of request for one object, with these headers."""
        source = await self._signer()
        at = self.place.key_path(path)
        signed = {"host": urlsplit(self.place.origin).netloc, **headers}
        told = presigned_query(
            method, at, query, signed, credentials=source.current(), region=self.place.region, second=int(time.time()), expires_s=expires_s
        )
        return f"{self.place.origin}{at}?{told}"

    async def ask(
        self,
        method: str,
        query: Mapping[str, str],
        *,
        path: str = "",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        doing: Doing = "read",
    ) -> Answer:
        """Make a request about the bucket, or the object of a path, and return the answer, whatever it says; lost ones are repeated.

        Every request made this way may be repeated; one whose credentials have expired is, with new ones. Raises Unavailable or
        OutcomeUnknown, or Throttled after the last attempt.
        """
        source = await self._signer()
        told = dict(headers or {})
        if body and not path:
            told |= {"x-amz-checksum-sha256": b64encode(sha256(body).digest()).decode(), "content-type": "application/xml"}
        for attempt in range(_ATTEMPTS):
            last = attempt == _ATTEMPTS - 1
            signer = source.current()
            try:
                answer = await asyncio.to_thread(self._sent, method, path, query, told, body, signer)
            except (OSError, http.client.HTTPException) as error:
                if last:
                    raise lost(doing, type(error).__name__, sent=not isinstance(error, ConnectionRefusedError)) from None
            else:
                if not last and answer.code in EXPIRED and await source.renew(signer):
                    continue
                if answer.status < 500 and answer.status != 429:
                    return answer
                if last:
                    raise refused(answer.status, answer.code, doing)
            await asyncio.sleep(0.1 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _signer(self) -> CredentialSource:
        await self.store()
        if self._source is None:
            raise ConfigError(
                "This needs credentials that Palaver can sign with.", hint="Set AWS_ACCESS_KEY_ID and its secret, or install palaver[aws]."
            )
        return self._source

    async def _opened(self) -> S3Store:
        from obstore.store import S3Store

        at = self.place
        given = self._given is not None or bool(self._environ.get("AWS_ACCESS_KEY_ID"))
        if self._source is None and (given or find_spec("botocore") is not None):
            self._source = await credential_source(self._given, self._environ, at.region)
        settings = {
            "server_side_encryption": at.sse,
            "sse_kms_key_id": at.kms_key,
            "sse_bucket_key_enabled": True if at.bucket_keys else None,
            # Without a source of ours obstore looks for web identity, containers and instances by itself.
            "credential_provider": self._credentials if self._source is not None else None,
        }
        return S3Store(
            at.bucket,
            prefix=at.prefix or None,
            region=at.region,
            aws_endpoint_url_s3=at.origin,
            virtual_hosted_style_request=at.virtual_host,
            client_options={
                "allow_http": at.origin.startswith("http:"),
                "timeout": f"{at.timeout_s}s",
                "connect_timeout": f"{min(_CONNECT_S, at.timeout_s)}s",
            },
            retry_config={"max_retries": _ATTEMPTS - 1, "retry_timeout": timedelta(seconds=at.timeout_s)},
            **{name: value for name, value in settings.items() if value is not None},  # type: ignore[arg-type]
        )

    async def _credentials(self) -> S3Credential:
        assert self._source is not None
        now = self._told = self._source.current()
        fixed = isinstance(self._source, FixedCredentials)
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.session_token,
            # Those that change are asked for again each time; the source keeps them.
            "expires_at": None if fixed else datetime.now(UTC) + _LOOK_AGAIN,
        }

    def _sent(
        self, method: str, of: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes, credentials: Credentials
    ) -> Answer:
        origin = urlsplit(self.place.origin)
        assert origin.hostname is not None
        path = self.place.key_path(of) if of else self.place.path.rstrip("/") or "/"
        named = {"host": origin.netloc, **headers}
        told = signed_headers(method, path, query, named, body, credentials=credentials, region=self.place.region, second=int(time.time()))
        timeout = self.place.timeout_s
        if origin.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                origin.hostname, origin.port, timeout=timeout, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(origin.hostname, origin.port, timeout=timeout)
        try:
            connection.request(method, f"{path}?{encoded(query)}" if query else path, body=body or None, headers=told)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()
