"""An object that goes up in parts as they come: whole at the end, or given up with nothing left of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

from palaver.blobs.pieces import PART
from palaver.connections.s3 import Answer, Bucket
from palaver.connections.s3_errors import refused, without_namespaces
from palaver.errors import NotProvisioned, PalaverError, Validation

LARGEST = 10_000 * PART
"""An upload has 10,000 parts at most."""

_AT_ONCE = 4


async def upload(bucket: Bucket, path: str, parts: AsyncIterator[bytes], size: int, headers: Mapping[str, str]) -> None:
    """Store what comes as one object; a few parts are under way, and in memory, at a time.

    obstore would leave the parts of an upload that broke off in the bucket, where they are paid for and seen by nobody.
    """
    if size > LARGEST:
        raise Validation(f"An object in S3 has {LARGEST:,} bytes at most.", hint="Store it as several objects.")
    answer = _good(await bucket.ask("POST", {"uploads": ""}, path=path, headers=headers, doing="write"))
    upload_id = without_namespaces(answer.body).findtext("UploadId") or ""
    sending: list[asyncio.Task[str]] = []
    turns = asyncio.Semaphore(_AT_ONCE)

    async def send(number: int, part: bytes) -> str:
        try:
            told = {"partNumber": str(number), "uploadId": upload_id}
            return _good(await bucket.ask("PUT", told, path=path, body=part, doing="write")).headers["etag"]
        finally:
            turns.release()

    try:
        async for part in parts:
            await turns.acquire()
            for task in sending:
                if task.done():
                    task.result()
            sending.append(asyncio.create_task(send(len(sending) + 1, part)))
        # Not gather, whose cancellation is theirs too: what a thread is sending arrives all the same.
        await asyncio.wait(sending, return_when=asyncio.FIRST_EXCEPTION)
        await _complete(bucket, path, upload_id, await asyncio.gather(*sending), size)
    except BaseException:
        await asyncio.shield(_give_up(bucket, path, upload_id, sending))
        raise


async def _complete(bucket: Bucket, path: str, upload_id: str, tags: list[str], size: int) -> None:
    named = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>" for number, tag in enumerate(tags, 1))
    body = f"<CompleteMultipartUpload>{named}</CompleteMultipartUpload>".encode()
    answer = await bucket.ask("POST", {"uploadId": upload_id}, path=path, body=body, doing="write")
    if answer.code == "NoSuchUpload":
        # Asked a second time, after an answer that was lost: what there is then has these bytes, as its key says.
        there = await bucket.ask("HEAD", {}, path=path)
        if there.status == 200 and there.headers.get("content-length") == str(size):
            return
        raise refused(answer.status, answer.code, "write")
    if answer.code and answer.status < 300:
        # Assembling may fail after the answer has begun.
        raise refused(500, answer.code, "write")
    _good(answer)


async def _give_up(bucket: Bucket, path: str, upload_id: str, sending: list[asyncio.Task[str]]) -> None:
    # A part that arrives after the upload was given up would stay.
    await asyncio.gather(*sending, return_exceptions=True)
    with suppress(PalaverError):  # an error before this one is the one to report; the bucket's rule ends what is left
        await bucket.ask("DELETE", {"uploadId": upload_id}, path=path, doing="write")


def _good(answer: Answer) -> Answer:
    if answer.status == 404 and answer.code != "NoSuchUpload":
        raise NotProvisioned("The bucket does not exist.", hint="Make it, or correct its name in the URL.")
    if answer.status >= 300:
        raise refused(answer.status, answer.code, "write")
    return answer
