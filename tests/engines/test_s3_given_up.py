"""An upload that is given up: nothing of it may arrive afterwards, or it would stay, be paid for, and be seen by nobody."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from palaver.blobs.pieces import PART
from palaver.blobs.s3 import S3Blobs
from palaver.connections.aws_credentials import Credentials
from tests.engines.http_bucket import HttpBucket, served

SLOW_S = 0.5


@pytest.fixture
def server() -> Iterator[tuple[str, list[str], threading.Event]]:
    """A server that takes long for a part, with what happened there in order, and whether all parts are on their way."""
    happened: list[str] = []
    under_way = threading.Event()

    class Bucket(HttpBucket):
        def do_POST(self) -> None:
            self.answer(b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            if "partNumber=2" in self.path:
                under_way.set()
            time.sleep(SLOW_S)
            happened.append("part")
            self.answer()

        def do_DELETE(self) -> None:
            happened.append("given up")
            self.answer()

    with served(Bucket) as url:
        yield url, happened, under_way


async def pieces() -> AsyncIterator[bytes]:
    yield bytes(PART + 1)


async def test_a_cancelled_upload_is_given_up_when_no_part_is_on_its_way(server: tuple[str, list[str], threading.Event]) -> None:
    url, happened, under_way = server
    blobs = S3Blobs(f"s3://bucket?region=eu-central-1&endpoint={url}", credentials=Credentials("key", "secret"), environ={})
    putting = asyncio.create_task(blobs.put_stream("k", pieces(), PART + 1))
    assert await asyncio.to_thread(under_way.wait, 10)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await asyncio.sleep(SLOW_S)
    assert ["part", "part", "given up"] == happened
    await blobs.aclose()
