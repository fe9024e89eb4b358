"""Blobs in S3 and in what speaks like it: parts for what is large, a put that creates, addresses for others, and every version erased.

Relied on is only what such servers agree on: `If-None-Match: *` on a put in one request, never `If-Match`.
"""

from __future__ import annotations

import asyncio
import os
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar
from urllib.parse import quote
from xml.sax.saxutils import escape

from palaver.blob_ports import BlobInfo, Presigned
from palaver.blobs.objects import HASH, ObjectBlobs
from palaver.blobs.paths import path_of
from palaver.blobs.pieces import PART
from palaver.blobs.remote import Remote, needs_obstore
from palaver.blobs.s3_parts import upload
from palaver.connections.aws_credentials import Credentials
from palaver.connections.s3 import Bucket
from palaver.connections.s3_errors import EXPIRED, Doing, from_obstore, lost, refused, without_namespaces
from palaver.connections.s3_place import place
from palaver.errors import ConfigError, NotFound, NotProvisioned, PalaverError, Unavailable, Validation
from palaver.observing import Finding

if TYPE_CHECKING:
    from obstore import Attributes
    from obstore.store import ObjectStore

    from palaver.blobs.s3_bucket import BucketSettings, Part
    from palaver.schema import Schema

P = ParamSpec("P")
T = TypeVar("T")

LARGEST = 5 * 1024 * 1024 * 1024
"""What one request may store."""

_AT_ONCE = 8
_LONGEST_S = 7 * 86_400
_DELETED_AT_ONCE = 1_000
_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(; ?charset=[\w-]+)?")
_RENEWED = "renewed"


def signed_anew(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Have a request made once more whose credentials had expired, where there are new ones."""

    @wraps(method)
    async def again(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return await method(*arguments, **options)
        except Unavailable as error:
            if error.context.get("reason") != _RENEWED:
                raise
        return await method(*arguments, **options)

    return again


class S3Blobs(ObjectBlobs):
    """Objects in a bucket. Nothing is asked when it is opened: `check_bucket` and `provision_bucket` do that."""

    def __init__(self, url: str, *, credentials: Credentials | None = None, environ: Mapping[str, str] | None = None) -> None:
        """Open `s3://bucket/prefix?…`; see `palaver.connections.s3_place`. Raises ConfigError."""
        needs_obstore()
        self.place = place(url, os.environ if environ is None else environ)
        self.bucket = Bucket(self.place, credentials=credentials, environ=environ)
        self._place = InParts(self)
        self._was_there = False

    def __repr__(self) -> str:
        return f"S3Blobs(s3://{self.place.bucket}/{self.place.prefix})"

    @signed_anew
    async def put(self, key: str, data: bytes) -> None:
        """Store the object, replacing one of that key; what is larger than 8 MiB goes up in parts and appears whole at the end."""
        import obstore

        path = path_of(key)
        await self._check(key, data)
        async with self._errors("write"):
            if len(data) > PART and self.bucket.signs:
                await upload(self.bucket, path, _parts(data), len(data), self.as_stored())
            else:
                await obstore.put_async(self._store, path, data, attributes=self._attributes(), chunk_size=PART, max_concurrency=_AT_ONCE)

    @signed_anew
    async def create(self, key: str, data: bytes) -> bool:
        """Store the object unless one of that key is there, and say whether it was stored; of several at once exactly one succeeds.

        Goes up in one request, so that it holds everywhere. A repeated one whose first answer was lost says False.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        path = path_of(key)
        await self._check(key, data)
        if len(data) > LARGEST:
            raise Validation("What is created conditionally has 5 GiB at most.")
        async with self._errors("write"):
            try:
                await obstore.put_async(self._store, path, data, attributes=self._attributes(), mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    @signed_anew
    async def head(self, key: str) -> BlobInfo | None:
        import obstore

        found = await super().head(key)
        if found is None and not self._was_there:
            # A HEAD has no body to say whether the object is missing or the bucket; a listing has.
            async with self._errors("read"):
                async for _ in obstore.list(self._store, chunk_size=1):
                    break
        return found

    @signed_anew
    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        return await super().get(key, start=start, length=length)

    @signed_anew
    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, a thousand a request; with `versions=purge` every version of them too, and the marks of their deletion."""
        if self.place.versions == "keep":
            await super().delete(keys)
            return
        paths = [self._full(path_of(key)) for key in dict.fromkeys(keys)]
        async with self._errors("write"):
            for start in range(0, len(paths), _DELETED_AT_ONCE):
                await self._purge(paths[start : start + _DELETED_AT_ONCE])

    async def presign(
        self,
        key: str,
        *,
        method: Literal["GET", "PUT"] = "GET",
        expires_s: int = 300,
        filename: str | None = None,
        content_type: str | None = None,
    ) -> Presigned:
        """Return an address that lets whoever holds it read the object, or store it, for a while, without credentials.

        A GET answers as an attachment called `filename`, of type `application/octet-stream` or the one given, so that no browser runs
        it. A PUT takes only the bytes whose hash the key ends in, is encrypted as set here, and needs the returned headers.
        """
        path = path_of(key)
        if not 0 < expires_s <= _LONGEST_S:
            raise Validation("A presigned address works for 1 second to 7 days.")
        if content_type is not None and not _TYPE.fullmatch(content_type):
            raise Validation("This is not a media type.", hint="Write text/plain; charset=utf-8.")
        headers, query = self._for_get(filename, content_type) if method == "GET" else self._for_put(key, content_type)
        await self._open()
        url = await self.bucket.presigned(method, path, expires_s=expires_s, headers=headers, query=query)
        return Presigned(method, url, headers)

    # --- the bucket -------------------------------------------------------------------------------------------------

    @property
    def called(self) -> str:
        return f"bucket {self.place.bucket}"

    async def lacks(self, schema: Schema) -> dict[str, str]:
        """Return what the bucket lacks of the schema's settings. Of one that is there, who may read it is left to its owner."""
        from palaver.blobs.s3_bucket import check_bucket, in_words

        settings = self._settings(schema)
        try:
            found: list[Part] = [each.name for each in await check_bucket(self.bucket, settings)]
        except NotProvisioned:
            found = ["bucket", "public", "encryption", "rules"]
        own = "public" if "bucket" not in found else "versions"
        return {part: f"{self.called} {in_words(self.bucket, settings, part)}".rstrip() for part in found if part not in (own, "versions")}

    async def prepare(self, schema: Schema, part: str) -> None:
        """Make the bucket or set one part of it. What a server of one's own does not know how to set is left as it is."""
        from palaver.blobs.s3_bucket import PARTS, prepare

        try:
            await prepare(self.bucket, self._settings(schema), PARTS[part])
        except ConfigError as error:
            if part == "bucket" or error.context.get("reason") != "NotImplemented":
                raise

    def _settings(self, schema: Schema) -> BucketSettings:
        from palaver.blobs.s3_bucket import BucketSettings
        from palaver.bucket_rules import bucket_rules

        return BucketSettings(bucket_rules(schema, prefix=self.place.prefix))

    def deleted_stays(self) -> str | None:
        if self.place.versions == "purge":
            return None
        return "S3: a bucket with versions keeps deleted objects until its rules end them; with versions=purge in the URL they go at once."

    async def diagnose(self) -> list[Finding]:
        from palaver.blobs.s3_doctor import Doctor

        return await Doctor(self, self.bucket, self.place).diagnose()

    async def aclose(self) -> None:
        await super().aclose()
        await self.bucket.aclose()

    # --- how objects are stored and read ----------------------------------------------------------------------------

    @property
    def _store(self) -> ObjectStore:
        store = self.bucket.opened
        assert store is not None, "_errors opens it"
        return store

    def _attributes(self) -> Attributes | None:
        return {"Storage-Class": self.place.storage_class} if self.place.storage_class else None

    def _full(self, path: str) -> str:
        return f"{self.place.prefix}/{path}" if self.place.prefix else path

    async def _whole(self, path: str) -> bytes:
        import obstore
        from obstore.exceptions import BaseError

        try:
            found = await obstore.get_async(self._store, path, options={"range": (0, PART)})
        except BaseError as error:
            if "status code: 416" in str(error):  # an object without bytes has no first one
                return await super()._whole(path)
            raise
        size = found.meta["size"]
        first = bytes(await found.bytes_async())
        if len(first) != min(size, PART):
            raise lost("read", "cut short", sent=True)
        if size <= PART:
            return first
        # One stream is slower than several, and one that breaks off would have to begin again.
        whole = bytearray(size)
        whole[: len(first)] = first
        turns = asyncio.Semaphore(_AT_ONCE)

        async def fetch(start: int) -> None:
            async with turns:
                end = min(size, start + PART)
                whole[start:end] = memoryview(await obstore.get_range_async(self._store, path, start=start, end=end))

        await asyncio.gather(*(fetch(start) for start in range(PART, size, PART)))
        return bytes(whole)

    # --- addresses --------------------------------------------------------------------------------------------------

    def _for_get(self, filename: str | None, content_type: str | None) -> tuple[dict[str, str], dict[str, str]]:
        told = "attachment"
        if filename is not None:
            # RFC 6266: the encoded form alone, which every browser reads and nothing can break out of.
            told += f"; filename*=UTF-8''{quote(filename, safe='')}"
        return {}, {"response-content-disposition": told, "response-content-type": content_type or "application/octet-stream"}

    def _for_put(self, key: str, content_type: str | None) -> tuple[dict[str, str], dict[str, str]]:
        headers = self.as_stored()
        if expected := HASH.search(key):
            headers["x-amz-checksum-sha256"] = b64encode(bytes.fromhex(expected[1])).decode()
        if content_type is not None:
            headers["content-type"] = content_type
        return headers, {}

    def as_stored(self) -> dict[str, str]:
        """Return the headers that say how an object is encrypted and classed, as the URL has it."""
        at = self.place
        told = {
            "x-amz-server-side-encryption": at.sse,
            "x-amz-server-side-encryption-aws-kms-key-id": at.kms_key,
            "x-amz-server-side-encryption-bucket-key-enabled": "true" if at.bucket_keys else None,
            "x-amz-storage-class": at.storage_class,
        }
        return {name: value for name, value in told.items() if value}

    # --- versions ---------------------------------------------------------------------------------------------------

    async def _purge(self, paths: Sequence[str]) -> None:
        turns = asyncio.Semaphore(_AT_ONCE)

        async def known(path: str) -> list[tuple[str, str]]:
            async with turns:
                return await self._versions(path)

        found = [pair for pairs in await asyncio.gather(*map(known, paths)) for pair in pairs]
        for start in range(0, len(found), _DELETED_AT_ONCE):
            named = "".join(
                f"<Object><Key>{escape(path)}</Key><VersionId>{escape(version)}</VersionId></Object>"
                for path, version in found[start : start + _DELETED_AT_ONCE]
            )
            body = f"<Delete><Quiet>true</Quiet>{named}</Delete>".encode()
            answer = await self._ask("POST", {"delete": ""}, "write", body)
            if b"<Error>" in answer:
                raise refused(403, _code_in(answer), "write")

    async def _versions(self, path: str) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        query = {"versions": "", "prefix": path}
        while True:
            listed = without_namespaces(await self._ask("GET", query, "read"))
            entries = [*listed.iter("Version"), *listed.iter("DeleteMarker")]
            found += [(path, entry.findtext("VersionId") or "null") for entry in entries if entry.findtext("Key") == path]
            if listed.findtext("IsTruncated") != "true":
                return found
            query |= {
                "key-marker": listed.findtext("NextKeyMarker") or "",
                "version-id-marker": listed.findtext("NextVersionIdMarker") or "",
            }

    async def _ask(self, method: str, query: Mapping[str, str], doing: Doing, body: bytes = b"") -> bytes:
        answer = await self.bucket.ask(method, query, body=body, doing=doing)
        if answer.status >= 300:
            raise refused(answer.status, answer.code, doing)
        self._was_there = True
        return answer.body

    # --- errors -----------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        if self._closed:
            raise ConfigError("The blob store is closed.")
        await self.bucket.store()

    @asynccontextmanager
    async def _errors(self, doing: Doing) -> AsyncIterator[None]:
        from obstore.exceptions import BaseError

        await self._open()
        signer = self.bucket.credentials()
        try:
            yield
        except (BaseError, OSError) as error:
            # Without the cause: its text holds the path, and the path names people.
            found = from_obstore(error, doing)
        else:
            self._was_there = True
            return
        if await self._renewed(found, signer):
            found = Unavailable("The credentials for S3 had expired; there are new ones.", hint="Repeat it.", reason=_RENEWED)
        elif isinstance(found, NotFound) and doing == "write":
            found = NotProvisioned("The bucket does not exist.", hint="Make it, or correct its name in the URL.")
        raise found from None

    async def _renewed(self, found: PalaverError, signer: Credentials | None) -> bool:
        """Say whether this was said of credentials that have expired, and there are others now."""
        reason = found.context.get("reason")
        if reason != "400":
            return reason in EXPIRED and await self.bucket.renewed(signer)
        # The answer to a HEAD has no body to say why. A listing has, and asking for one renews what has expired.
        with suppress(PalaverError):
            await self.bucket.ask("GET", {"list-type": "2", "max-keys": "1"})
        return self.bucket.credentials() is not signer and await self.bucket.renewed(signer)


class InParts(Remote):
    """The objects of a bucket, whose uploads in parts leave nothing behind."""

    def __init__(self, blobs: S3Blobs) -> None:
        super().__init__(lambda: blobs._store)
        self._blobs = blobs

    async def put_parts(self, path: str, parts: AsyncIterator[bytes], size: int) -> None:
        import obstore

        if size > PART:
            await upload(self._blobs.bucket, path, parts, size, self._blobs.as_stored())
            return
        data = b"".join([part async for part in parts])
        await obstore.put_async(self._store(), path, data, attributes=self._blobs._attributes())


async def _parts(data: bytes) -> AsyncIterator[bytes]:
    whole = memoryview(data)
    for start in range(0, len(data), PART):
        yield bytes(whole[start : start + PART])


def _code_in(body: bytes) -> str:
    start = body.find(b"<Code>") + 6
    return body[start : body.find(b"</Code>", start)].decode("ascii", "replace") if start > 5 else ""
