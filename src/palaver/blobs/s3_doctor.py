"""What can be wrong with a bucket and the rights in it, and how to mend it: one function for each check."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from hashlib import sha256

from palaver.blob_ports import BlobStore
from palaver.blobs.s3_bucket import BucketSettings, check_bucket
from palaver.connections.s3 import Bucket
from palaver.connections.s3_place import Place
from palaver.errors import Forbidden, NotFound, NotProvisioned, PalaverError, ReadOnly, Unauthenticated
from palaver.observing import Finding

PROBE = "palaver-doctor"
"""Below this segment the probe is put; it is deleted again."""


class Doctor:
    """Looks at one bucket, and puts, reads and deletes one small object of its own."""

    def __init__(self, blobs: BlobStore, bucket: Bucket, place: Place, settings: BucketSettings | None = None) -> None:
        self._blobs, self._bucket, self._place, self._settings = blobs, bucket, place, settings or BucketSettings()

    async def diagnose(self) -> list[Finding]:
        reached = await self._reached()
        if reached.level == "fail":
            return [reached]
        return [reached, await self._rights(), *await self._configuration()]

    async def _reached(self) -> Finding:
        name = self._place.bucket
        try:
            async for _ in self._blobs.list(f"{PROBE}/"):
                break
            # A listing that is empty may come from a server that answers for any name.
            await self._blobs.head(f"{PROBE}/nobody")
        except (NotProvisioned, NotFound):
            return Finding("bucket", "fail", f"there is no bucket {name}", "Make it, or correct its name in the URL.")
        except Unauthenticated as error:
            return Finding("bucket", "fail", "the credentials are missing or were refused", error.hint or "Set AWS_PROFILE, or the keys.")
        except Forbidden:
            return Finding("bucket", "fail", f"no right to list {name}", "Allow s3:ListBucket on the bucket.")
        except PalaverError as error:
            return Finding("bucket", "fail", error.message, error.hint or "Check bucket, region and endpoint in the URL.")
        return Finding("bucket", "ok", f"{name} is there, below {self._place.prefix or 'its root'}")

    async def _rights(self) -> Finding:
        data = secrets.token_bytes(16)
        key = f"{PROBE}/{sha256(data).hexdigest()}"
        lacking = []
        steps: tuple[tuple[str, Callable[[], Awaitable[object]]], ...] = (
            ("s3:PutObject", lambda: self._blobs.put(key, data)),
            ("s3:GetObject", lambda: self._blobs.get(key)),
            ("s3:DeleteObject", lambda: self._blobs.delete([key])),
        )
        for right, step in steps:
            try:
                await step()
            except (Forbidden, ReadOnly):
                lacking.append(right)
            except NotFound:
                # It could not be put, and was looked for all the same.
                continue
            except PalaverError as error:
                return Finding("bucket: rights", "warn", f"a probe failed: {error.message}", error.hint)
        if lacking:
            return Finding("bucket: rights", "fail", f"these credentials lack {', '.join(lacking)}", "Allow them on the bucket's objects.")
        return Finding("bucket: rights", "ok", "putting, reading, listing and deleting")

    async def _configuration(self) -> list[Finding]:
        try:
            found = await check_bucket(self._bucket, self._settings)
        except PalaverError as error:
            rights = "s3:GetEncryptionConfiguration, s3:GetBucketPublicAccessBlock, s3:GetBucketVersioning, s3:GetLifecycleConfiguration"
            return [Finding("bucket: settings", "warn", f"they cannot be looked at: {error.message}", f"Allow {rights}.")]
        if not found:
            return [Finding("bucket: settings", "ok", "encrypted, closed to the public, and no version is kept for ever")]
        return [Finding(f"bucket: {each.name}", "warn", each.message, each.hint) for each in found]
